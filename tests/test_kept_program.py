"""A fit that goes on with the same instance of an optimizer uses the program and the memory of the fit before
(fastnn/snapshot.py), and nothing else changes.
"""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import fastnn
from fastnn import optimizers, snapshot
from fastnn.backends import cpu_plan
from fastnn.backends.numba_backend import NumbaBackend

SIZES = (5, 20, 3)


def data(rows=24, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], rows)


@pytest.fixture
def made(monkeypatch):
    """Counts the programs made."""
    made, count = NumbaBackend.program_for, []

    def counted(self, job):
        count.append(job)
        return made(self, job)

    monkeypatch.setattr(NumbaBackend, "program_for", counted)
    return count


def network(**options):
    return fastnn.Network(SIZES, seed=3, backend="numba", **options)


def fits(net, rule, forget=False):
    """Eight batches as from a stream, of which some differ from the one before in ways that a program depends on."""
    for number in range(8):
        X, y = data(24 if number != 3 else 17, number)
        if number == 5:
            net.l2 = 0.5
        if number == 6:
            rule.reset()
        net.fit(
            X,
            y,
            optimizer=rule,
            epochs=1 + number % 2,
            batch_size=8 if number != 4 else 6,
            micro_batch=4 if number == 7 else None,
        )
        if forget:
            net._kept_program = None
    return net.theta.copy(), [state.copy() for state in rule.state], rule.t


@pytest.mark.parametrize("rule", [optimizers.SGD, optimizers.Momentum, optimizers.Adam, optimizers.LAMB])
def test_fits_give_the_same_with_and_without_what_was_kept(rule, made):
    kept = fits(network(l2=0.1), rule(0.01))
    with_kept = len(made)
    forgotten = fits(network(l2=0.1), rule(0.01), forget=True)
    # the first, other rows, another batch, both as before, micro_batch; not l2, epochs or reset
    assert (with_kept, len(made) - with_kept) == (5, 8)
    np.testing.assert_array_equal(kept[0], forgotten[0])
    for a, b in zip(kept[1], forgotten[1], strict=True):
        np.testing.assert_array_equal(a, b)
    assert kept[2] == forgotten[2]


@pytest.mark.parametrize("panels", [False, True])
def test_both_programs_serve_again(panels, made):
    net = fastnn.Network(SIZES, seed=3, backend=fastnn.get_backend("numba", panels=panels))
    rule = optimizers.Adam(0.01)
    for number in range(4):
        net.fit(*data(seed=number), optimizer=rule, epochs=1, batch_size=8)
    assert len(made) == 1
    other = fastnn.Network(SIZES, seed=3, backend=fastnn.get_backend("numba", panels=panels))
    again = optimizers.Adam(0.01)
    for number in range(4):
        other.fit(*data(seed=number), optimizer=again, epochs=1, batch_size=8)
        other._kept_program = None
    np.testing.assert_array_equal(net.theta, other.theta)


def test_parameters_written_between_two_fits_count(made):
    net, rule = network(), optimizers.SGD(0.1)
    net.fit(*data(), optimizer=rule, epochs=1)
    net.theta[...] = 0.01
    net.fit(*data(), optimizer=rule, epochs=1)
    other = network()
    other.epochs_trained = 1
    other.theta[...] = 0.01
    other.fit(*data(), optimizer=optimizers.SGD(0.1), epochs=1)
    np.testing.assert_array_equal(net.theta, other.theta)
    assert len(made) == 2


def test_another_plan_makes_another_program(made, monkeypatch):
    """As where other fits have ended, and there are more cores for this one."""
    net, rule = network(), optimizers.SGD(0.1)
    net.fit(*data(), optimizer=rule, epochs=1, batch_size=24)
    plan = NumbaBackend.choose
    monkeypatch.setattr(NumbaBackend, "choose", lambda *arguments: cpu_plan.Plan(2, 12, False, plan(*arguments).panels))
    net.fit(*data(), optimizer=rule, epochs=1, batch_size=24)
    assert len(made) == 2


def test_nothing_is_kept_of_a_name_of_much_memory_or_of_a_fit_that_fails(monkeypatch):
    net = network()
    net.fit(*data(), optimizer="adam", epochs=1)
    assert net._kept_program is None
    rule = optimizers.Adam(0.01)
    net.fit(*data(), optimizer=rule, epochs=1)
    program, copies = net._kept_program
    assert copies.nbytes == 3 * net.theta.nbytes
    assert program.nbytes >= 2 * net.theta.nbytes

    def fail(*_):
        raise OSError("planted")

    with pytest.raises(OSError, match="planted"):
        net.fit(*data(), optimizer=rule, epochs=1, callbacks=[fail])
    assert net._kept_program is None
    monkeypatch.setattr(snapshot, "KEPT_BYTES", program.nbytes + copies.nbytes - 1)
    net.fit(*data(), optimizer=rule, epochs=1)
    assert net._kept_program is None


def test_what_is_kept_goes_with_the_network_and_into_no_copy():
    net = network()
    net.fit(*data(), optimizer=optimizers.Adam(0.01), epochs=1)
    assert net._kept_program is not None
    assert copy.deepcopy(net)._kept_program is None
    assert pickle.loads(pickle.dumps(net))._kept_program is None
    alive, workspace = weakref.ref(net), weakref.ref(net._kept_program[0])
    gc.disable()
    try:
        del net
        assert alive() is None
        assert workspace() is None
    finally:
        gc.enable()


def test_a_rule_of_another_network_is_still_refused():
    net, other, rule = network(), network(), optimizers.Adam(0.01)
    net.fit(*data(), optimizer=rule, epochs=1)
    before = other.theta.copy()
    with pytest.raises(ValueError, match="carries the state of another network"):
        other.fit(*data(), optimizer=rule, epochs=1)
    np.testing.assert_array_equal(other.theta, before)
    rule.reset()
    other.fit(*data(), optimizer=rule, epochs=1)
    with pytest.raises(ValueError, match="carries the state of another network"):
        net.fit(*data(), optimizer=rule, epochs=1)


def test_a_fit_that_diverges_after_a_reset_is_undone():
    """The copy that was kept is of the state before the reset."""
    net, rule = network(), optimizers.Adam(0.01)
    net.fit(*data(), optimizer=rule, epochs=1)
    before = net.theta.copy()
    rule.reset()
    X, y = data()
    with pytest.raises(fastnn.Diverged):
        net.fit(X * np.float32(1e38), y, optimizer=rule, epochs=1)
    np.testing.assert_array_equal(net.theta, before)
    for state in rule.state:
        np.testing.assert_array_equal(state, 0)
    assert rule.t == 0
    assert net._kept_program is None


@pytest.mark.parametrize("options", [{}, {"panels": True, "amx": False}, {"panels": False, "amx": False}])
def test_a_rule_that_is_reset_amid_a_fit_is_refused(options):
    """Compiled code would read and write a state that is not there."""
    X, y = data(64)
    net, rule = fastnn.Network(SIZES, backend=fastnn.get_backend("numba", **options)), optimizers.Adam()
    with pytest.raises(RuntimeError, match=r"a callback has reset Adam\(.*\), by which this fit trains, after epoch 0"):
        net.fit(X, y, optimizer=rule, epochs=3, callbacks=[lambda *_: rule.reset()])
    assert (net.epochs_trained, rule.t, rule.state) == (1, 0, [])
    program, order = net.backend.compile(net, rule, 16), np.arange(64)
    program.run(X, y, order, 0, 2)
    rule.reset()
    with pytest.raises(ValueError, match="has been reset, or serves another network"):
        program.run(X, y, order, 2, 4)
    net.fit(X, y, optimizer=rule, epochs=1)  # and afterwards it serves again
    assert rule.t > 0


def test_a_rule_without_a_state_may_serve_two_networks_at_once():
    X, y = data(64)
    nets, rule = [fastnn.Network(SIZES, backend="numpy") for _ in range(2)], optimizers.SGD(0.1)

    def other(epoch, history, net):
        nets[1].fit(X, y, optimizer=rule, epochs=1)

    nets[0].fit(X, y, optimizer=rule, epochs=3, callbacks=[other])
    assert [net.epochs_trained for net in nets] == [3, 3]


def test_a_rule_may_be_reset_when_the_fit_is_over():
    X, y = data(64)
    net, rule = network(), optimizers.Adam()
    history = net.fit(X, y, optimizer=rule, epochs=2, callbacks=[lambda epoch, *_: epoch == 1 and rule.reset()])
    assert len(history.cost) == 2
    assert rule.t == 0
