"""One instance of an optimizer, and targets, that others change while a fit goes on: compiled code finds them by address,
so what does not fit must be refused before, and by every thread that comes too late.
"""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest

import fastnn
from fastnn.optimizers import OPTIMIZERS, Adam

rng = np.random.default_rng(0)
X, y = rng.random((500, 8)), np.arange(500) % 3


def network(backend="numba", units=32, **options):
    return fastnn.Network([8, units, 3], backend=backend, seed=1, **options)


@pytest.mark.parametrize("plan", [{}, {"panels": False, "amx": False}], ids=str)
def test_a_rule_of_two_fits_at_once_serves_one(plan):
    """In threads that begin together, with networks of different sizes, again and again."""
    alone = {}
    for units in (200, 2):
        net = network(fastnn.get_backend("numba", **plan), units)
        net.fit(X, y, optimizer=Adam(), epochs=2)
        alone[units] = net.theta.copy()
    for _ in range(40):
        rule, results, errors = Adam(), {}, []
        start = threading.Barrier(2)

        def fit(units, rule=rule, results=results, errors=errors, start=start):
            net = network(fastnn.get_backend("numba", **plan), units)
            start.wait()
            try:
                net.fit(X, y, optimizer=rule, epochs=2)
            except (RuntimeError, ValueError) as error:
                errors.append(str(error))
            else:
                results[units] = net.theta

        threads = [threading.Thread(target=fit, args=(units,)) for units in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) + len(errors) == 2
        assert results
        for units, theta in results.items():
            np.testing.assert_allclose(theta, alone[units], rtol=0, atol=1e-4)  # teams differ, and with them rounding
        assert all("trains another" in text or "state of another" in text for text in errors)


def test_a_rule_that_trains_is_refused_to_another():
    rule, net = Adam(), network("numpy")
    with rule.held(), pytest.raises(RuntimeError, match="trains another network at this moment"):
        net.fit(X, y, optimizer=rule, epochs=1)
    net.fit(X, y, optimizer=rule, epochs=1)


def test_a_fit_in_a_callback_may_not_take_the_rule():
    rule, inner = Adam(), network()

    def callback(epoch, history, net):
        inner.fit(X, y, optimizer=rule, epochs=1)

    with pytest.raises(RuntimeError, match="trains another network at this moment"):
        network().fit(X, y, optimizer=rule, epochs=2, callbacks=[callback])
    assert inner.epochs_trained == 0
    network().fit(X, y, optimizer=Adam(), epochs=1)


def test_a_reset_from_another_thread_is_refused_and_hurts_nothing():
    X, y = rng.random((5000, 8)), np.arange(5000) % 3
    rule, stop = Adam(), threading.Event()

    def reset():
        while not stop.is_set():
            rule.reset()

    thread = threading.Thread(target=reset)
    thread.start()
    try:
        refused = 0
        for _ in range(30):
            try:
                network().fit(X, y, optimizer=rule, epochs=3)
            except (RuntimeError, ValueError):
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert refused


@pytest.mark.parametrize("options", [{}, {"panels": False, "amx": False}, {"panels": True}], ids=str)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.clear(),
        lambda state: state.pop(),
        lambda state: state.__setitem__(0, np.zeros(3, np.float32)),
        lambda state: state.__setitem__(0, state[0].astype(np.float64)),
        lambda state: state.__setitem__(0, np.zeros(2 * len(state[0]), np.float32)[::2]),
        lambda state: state[0].setflags(write=False),
        lambda state: state.append(state[0]),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil, options):
    """Between two fits, and amid one."""
    net, rule = network(fastnn.get_backend("numba", **options)), Adam()
    net.fit(X, y, optimizer=rule, epochs=1)
    spoil(rule.state)
    theta = net.theta.copy()
    with pytest.raises(ValueError, match=r"holds no state for a theta of shape|destination is read-only"):
        net.fit(X, y, optimizer=rule, epochs=1)
    np.testing.assert_array_equal(net.theta, theta)
    rule.reset()
    net.fit(X, y, optimizer=rule, epochs=1)
    with pytest.raises(ValueError, match=r"holds no state for a theta of shape|destination is read-only"):
        net.fit(X, y, optimizer=rule, epochs=3, callbacks=[lambda *_: spoil(rule.state)])


@pytest.mark.parametrize("options", [{}, {"panels": False, "amx": False}, {"panels": True}], ids=str)
def test_classes_that_are_written_meanwhile_stay_within_memory(options):
    """A program checks them once for a slice; what becomes of the fit is not said, but the process lives."""
    net, classes = network(fastnn.get_backend("numba", **options)), np.arange(500) % 3
    program = net.backend.compile(net, Adam(), 100)
    arguments = program._arguments

    def written_after(*given, **more):
        """The kernels' arguments, for which the classes are checked last."""
        made = arguments(*given, **more)
        classes.fill(10**12)
        return made

    program._arguments = written_after
    program.run(X.astype(np.float32), classes, np.arange(500), 0, 5)
    assert np.isfinite(net.theta).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_constants_are_checked_whenever_they_are_set(name):
    rule = OPTIMIZERS[name]()
    before = rule.hyper()
    for constant in rule.constants():
        for wrong in (-1.0, np.nan, "x", True, *([] if constant == "clip_norm" else [None])):
            with pytest.raises((TypeError, ValueError), match=constant):
                setattr(rule, constant, wrong)
    assert rule.hyper() == before
    for constant in rule.constants():
        setattr(rule, constant, 0.25)
    assert set(rule.hyper()[1:]) <= {0.25}
    assert rule.clip_norm == 0.25
    assert copy.deepcopy(rule).hyper() == pickle.loads(pickle.dumps(rule)).hyper() == rule.hyper()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_name_that_a_rule_has_not_is_refused(name):
    rule = OPTIMIZERS[name]()
    with pytest.raises(AttributeError, match="'lr' to be set; it has"):
        rule.lr = 0.1
    assert not hasattr(rule, "lr")


def test_constants_set_between_fits_are_those_of_the_next(backend):
    """The same as with a fresh rule of these constants."""

    def trained(rule):
        net = network(backend, dtype="float64")
        net.fit(X[:40], y[:40], optimizer=rule, epochs=2, batch_size=8, seed=2)
        return net.theta.copy()

    changed = Adam(0.01)
    trained(changed)
    changed.reset()
    changed.beta1, changed.weight_decay, changed.eps = 0.5, 0.1, 1e-4
    assert np.array_equal(trained(changed), trained(Adam(0.01, 0.5, 0.999, 1e-4, 0.1)))
    assert not np.array_equal(trained(Adam(0.01)), trained(Adam(0.01, 0.5, 0.999, 1e-4, 0.1)))
