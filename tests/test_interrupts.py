"""What stops a fit: divergence, Ctrl-C, another thread. Each leaves the network at a state that is said and tested."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading

import cases
import numpy as np
import pytest

import fastnn
import fastnn.training
from fastnn import optimizers, schedules
from fastnn.backends.base import Program
from fastnn.errors import TrainingInterrupted
from fastnn.interrupts import interrupt_after
from fastnn.kernels.collector import uncollected

SIZES, ROWS = (4, 5, 3), 23


def data(rows=ROWS):
    return cases.normal((rows, 4), np.float64), np.arange(rows) % 3


def net_of(backend, sizes=SIZES, **options):
    return fastnn.Network(
        sizes, hidden=options.pop("hidden", "tanh"), init=cases.parameters(sizes), backend=backend, **options
    )


def theta_of(net):
    return np.array(net.backend.to_numpy(net.theta))


# ---- divergence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [optimizers.SGD, optimizers.Momentum, optimizers.Adam])
def test_divergence_is_named_and_undone(backend, dtype, rule):
    """Two good epochs, then inputs so large that a product overflows: back to the state after the two, optimizer
    included.
    """
    X, y = data()
    net = net_of(backend, (4, 5, 4, 3), hidden="identity", output="identity", cost="squared_error", dtype=dtype)
    rule = rule(0.01)
    net.fit(X, y, optimizer=rule, epochs=2, batch_size=5)
    kept = theta_of(net), [np.array(backend.to_numpy(s)) for s in rule.state], rule.t
    huge = np.sqrt(float(np.finfo(dtype).max)) * 1e3
    with pytest.raises(
        fastnn.Diverged,
        match=r"diverged in epoch 2\b.*layer \d.*Likely causes: the learning rate 0.01 is too large.*not scaled",
    ) as caught:
        net.fit(X * huge, y, optimizer=rule, epochs=3, batch_size=ROWS)
    assert caught.value.epoch == 2
    assert 2 <= caught.value.layer <= 4
    assert caught.value.history.cost == []
    assert theta_of(net).tobytes() == kept[0].tobytes()
    assert [np.array(backend.to_numpy(s)).tobytes() for s in rule.state] == [s.tobytes() for s in kept[1]]
    assert rule.t == kept[2]
    assert net.epochs_trained == 2
    net.fit(X, y, optimizer=rule, epochs=1)


def test_a_learning_rate_that_is_too_large_diverges_in_a_named_epoch_and_keeps_what_was_finite(backend):
    X, y = data()
    net = net_of(backend, (4, 3), output="identity", cost="squared_error", dtype="float32")
    with pytest.raises(fastnn.Diverged) as caught:
        net.fit(X, y, optimizer="sgd", learning_rate=1e6, epochs=50, batch_size=5)
    assert np.isfinite(theta_of(net)).all()
    assert caught.value.epoch == len(caught.value.history.cost) == net.epochs_trained
    assert all(np.isfinite(caught.value.history.cost))


def test_a_schedule_is_back_where_it_was_before_the_slice_and_the_error_names_the_rate_that_was_too_large(backend):
    X, y = data()
    net = net_of(backend, (4, 3), output="identity", cost="squared_error", dtype="float64")
    rule = optimizers.SGD(schedules.Piecewise((1, 2), (0.01, 0.002, 1e200)))
    net.fit(X, y, optimizer=rule, epochs=2, batch_size=5)
    with pytest.raises(fastnn.Diverged, match=r"the learning rate 1e\+200 is too large"):
        net.fit(X, y, optimizer=rule, epochs=1, batch_size=5)
    assert rule.rate == 0.002


def test_parameters_that_are_not_finite_before_are_refused_by_their_layer(backend):
    X, y = data()
    net = net_of(backend, (4, 5, 4, 3))
    net.weights[1][0, 0] = float("nan")
    with pytest.raises(ValueError, match="the parameters of layer 3 hold NaN or infinity"):
        net.fit(X, y, epochs=1)
    assert net.epochs_trained == 0


# ---- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_an_interrupt_between_epochs_keeps_them(backend):
    X, y = data()
    net, expected = net_of(backend), net_of(backend)

    def interrupt(epoch, history, net):
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.warns(TrainingInterrupted, match="the last completed step is kept"):
        history = net.fit(X, y, epochs=9, batch_size=5, callbacks=[interrupt])
    whole = expected.fit(X, y, epochs=2, batch_size=5)
    assert history.interrupted
    # slices end by the clock: another grouping of partial sums
    assert history.cost == pytest.approx(whole.cost, rel=1e-6)
    assert theta_of(net).tobytes() == theta_of(expected).tobytes()
    assert net.epochs_trained == 2


@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="no signals here")
def test_a_signal_inside_a_slice_waits_for_its_end(backend, monkeypatch):
    """SIGINT arrives while the program runs: the slice completes, its steps stay, the rest is not taken."""
    X, y = data()
    net, expected, rule = net_of(backend), net_of(backend), optimizers.Adam()
    original, calls = Program.run, []

    def run(self, X, y, order, start, stop, rates=None):
        calls.append((start, stop))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return original(self, X, y, order, start, stop, rates)

    monkeypatch.setattr(Program, "run", run)
    for name in ("SLICE_SECONDS", "FIRST_SLICE_FLOPS"):
        monkeypatch.setattr(f"fastnn.training.{name}", 0)  # one step a slice, so the second does not end the epoch
    with pytest.warns(TrainingInterrupted, match=r"interrupted in epoch 0 after 2 steps"):
        history = net.fit(X, y, optimizer=rule, epochs=3, batch_size=5)
    assert len(calls) == 2
    assert history.interrupted
    assert history.cost == []
    assert rule.t == calls[-1][1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    again = backend.compile(expected, optimizers.Adam(), 5, None, ROWS)
    order = np.random.default_rng([0, 0]).permutation(ROWS)
    again.run(backend.asarray(X, np.float32), backend.asarray(y, np.int64), backend.asarray(order), 0, calls[-1][1])
    assert theta_of(net).tobytes() == theta_of(expected).tobytes(), "exactly the completed steps"


def test_a_signal_in_the_slice_that_ends_an_epoch_counts_the_epoch(backend, monkeypatch):
    X, y = data()
    net = net_of(backend)
    original = Program.run

    def run(self, X, y, order, start, stop, rates=None):
        if stop == self.steps(order.shape[0]):
            signal.raise_signal(signal.SIGINT)
        return original(self, X, y, order, start, stop, rates)

    monkeypatch.setattr(Program, "run", run)
    with pytest.warns(TrainingInterrupted, match="interrupted in epoch 1 after 0 steps"):
        history = net.fit(X, y, epochs=3, batch_size=5, validation=0.2)
    assert history.interrupted
    assert net.epochs_trained == len(history.cost) == len(history.val_cost) == 1


def test_an_exception_inside_a_program_undoes_its_slice(backend, monkeypatch):
    X, y = data()
    net, rule = net_of(backend), optimizers.Momentum(0.1)
    net.fit(X, y, optimizer=rule, epochs=1)
    before = theta_of(net), [np.array(backend.to_numpy(s)) for s in rule.state], rule.t
    original = Program.run

    def run(self, *arguments):
        original(self, *arguments)
        raise MemoryError

    monkeypatch.setattr(Program, "run", run)
    with pytest.raises(MemoryError):
        net.fit(X, y, optimizer=rule, epochs=1)
    assert theta_of(net).tobytes() == before[0].tobytes()
    assert [np.array(backend.to_numpy(s)).tobytes() for s in rule.state] == [s.tobytes() for s in before[1]]
    assert rule.t == before[2]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_real_sigint_keeps_the_last_completed_step(engine):
    """A process in the middle of a long fit gets SIGINT; it must end by itself, with a finite network and a warning."""
    script = f"""
        import warnings, numpy as np, fastnn
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((4000, 20)), rng.integers(0, 3, 4000)
        net = fastnn.Network([20, 30, 3], backend={engine!r})
        rule = fastnn.optimizers.Adam()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            history = net.fit(X, y, optimizer=rule, epochs=10**6, batch_size=10, callbacks=[lambda epoch, h, n: print("epoch", epoch, flush=True)])
        assert history.interrupted and np.isfinite(net.theta).all() and 0 < net.epochs_trained == len(history.cost)
        assert 400 * net.epochs_trained <= rule.t <= 400 * (net.epochs_trained + 1), "whole steps, all of them counted"
        print([w.category.__name__ for w in caught], flush=True)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "epoch 0\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert output.splitlines()[-1] == "['TrainingInterrupted']"


# ---- threads --------------------------------------------------------------------------------------------------------


def in_threads(*functions):
    """Run the functions at the same time; their exceptions come out here."""
    errors, barrier = [], threading.Barrier(len(functions))

    def guarded(function):
        barrier.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_two_networks_in_two_threads_give_what_they_give_alone(backend):
    X, y = data(60)
    expected, nets = [], [net_of(backend, (4, 30, 20, 3), hidden=hidden) for hidden in ("tanh", "relu")]
    for hidden in ("tanh", "relu"):
        net = net_of(backend, (4, 30, 20, 3), hidden=hidden)
        net.fit(X, y, epochs=20, batch_size=7)
        expected.append(theta_of(net).tobytes())
    in_threads(*(lambda net=net: net.fit(X, y, epochs=20, batch_size=7) for net in nets))
    assert [theta_of(net).tobytes() for net in nets] == expected


def test_predictions_in_threads(backend):
    X, _ = data(60)
    net = net_of(backend, (4, 30, 20, 3))
    expected, results = net.predict_proba(X), {}
    in_threads(*(lambda i=i: results.update({i: [net.predict_proba(X) for _ in range(10)]}) for i in range(3)))
    assert all(np.array_equal(h, expected) for several in results.values() for h in several)


def test_one_network_in_two_threads_is_refused_with_one_clear_error(backend):
    """The second fit starts inside a callback of the first, so that they overlap for certain."""
    X, y = data()
    net, expected, refusals = net_of(backend), net_of(backend), []

    def second(epoch, history, net):
        def fit():
            try:
                net.fit(X, y, epochs=1)
            except RuntimeError as error:
                refusals.append(str(error))

        thread = threading.Thread(target=fit)
        thread.start()
        thread.join()

    net.fit(X, y, epochs=2, callbacks=[second])
    assert len(refusals) == 2
    assert all("being trained in another thread" in text for text in refusals)
    expected.fit(X, y, epochs=2)
    assert theta_of(net).tobytes() == theta_of(expected).tobytes()
    net.fit(X, y, epochs=1)  # and afterwards it is free again


def test_an_epoch_that_was_recorded_is_counted(monkeypatch):
    """Ctrl-C between the two: another fit goes on with the next epoch."""
    epoch = fastnn.training._Fit._epoch

    def interrupted(self, number):
        epoch(self, number)
        if number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(fastnn.training._Fit, "_epoch", interrupted)
    net = fastnn.Network([2, 3, 2], backend="numpy", seed=0)
    with pytest.warns(fastnn.TrainingInterrupted, match="interrupted in epoch 2"):
        history = net.fit(np.ones((8, 2)), np.arange(8) % 2, epochs=5)
    assert (net.epochs_trained, len(history.cost)) == (2, 2)


def test_history_has_an_entry_in_each_list_or_in_none(monkeypatch):
    """Ctrl-C while an epoch is written down: the signal waits."""

    class Interrupting(list):
        def append(self, value):
            super().append(value)
            os.kill(os.getpid(), signal.SIGINT)

    made = fastnn.training.History
    monkeypatch.setattr(fastnn.training, "History", lambda **options: made(cost=Interrupting(), **options))
    net = fastnn.Network([2, 3, 2], backend="numpy", seed=0)
    with pytest.warns(fastnn.TrainingInterrupted):
        history = net.fit(np.ones((8, 2)), np.arange(8) % 2, epochs=5, validation=0.25)
    lists = (history.cost, history.seconds, history.learning_rate, history.accuracy, history.val_cost)
    assert [len(entries) for entries in (*lists, history.val_accuracy)] == [1] * 6
    assert net.epochs_trained == 1


def test_a_fit_that_learnt_nothing_leaves_neither_scale_nor_rule_behind():
    """Diverged in its first step, or refused an order: the same call with better arguments is taken."""
    X, y = np.full((8, 2), 255, np.uint8), np.arange(8) % 2
    net = fastnn.Network([2, 3, 2], backend="numpy", seed=0)
    with pytest.raises(fastnn.Diverged):
        net.fit(X, y, learning_rate=1e30, epochs=50, scale=1e30)
    assert net.scale is None
    net.fit(X, y, epochs=1, scale=1 / 255)
    assert net.scale == 1 / 255

    def order(epoch):
        raise LookupError("no such epoch")

    rule = optimizers.Adam()
    with pytest.raises(LookupError):
        net.fit(X, y, optimizer=rule, epochs=1, order=order)
    fastnn.Network([2, 3, 2], backend="numpy").fit(X, y, optimizer=rule, epochs=1, scale=1 / 255)
    assert rule.t == 1


def test_ctrl_c_is_not_lost_where_the_block_raises():
    def fail(signals):
        with interrupt_after():
            for number in signals:
                signal.raise_signal(number)
            raise ValueError("of the block")

    with pytest.raises(KeyboardInterrupt) as caught:
        fail([signal.SIGINT])
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="of the block"):
        fail([])


def test_the_collector_is_on_again_when_nobody_needs_it_off():
    first, second = uncollected(), uncollected()  # of two threads, the first of which ends first
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()  # it was off before
    finally:
        gc.enable()
