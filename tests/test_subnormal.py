"""Numbers too small to be normal, on which every operation takes a core some 150 cycles: training leaves none."""

import numpy as np
import pytest
from amx_tools import needs_unit

import fastnn
from fastnn.kernels.cpu import JIT
from fastnn.kernels.cpu.subnormal import as_zero
from fastnn.optimizers import Adam, Momentum

PLANS = [
    {"threads": 1, "panels": False},
    {"threads": 2, "panels": False},
    {"threads": 1, "panels": True},
    {"threads": 2, "panels": True, "sliced": False},
    {"threads": 2, "panels": True, "sliced": True},
    pytest.param({"threads": 1, "amx": True}, marks=needs_unit),
    pytest.param({"threads": 2, "amx": True}, marks=needs_unit),
]
rng = np.random.default_rng(0)
X, y = rng.standard_normal((64, 6)), np.arange(64) % 3


def count(*vectors):
    return sum(int(((v != 0) & (np.abs(v) < np.finfo(v.dtype).tiny)).sum()) for v in vectors)


def with_dead_units(backend, dtype):
    """Whose first layer's units are off for all rows, so that their weights decay by L2 alone."""
    net = fastnn.Network([6, 40, 33, 3], backend=backend, dtype=dtype, seed=0, l2=60.0)
    net.biases[0][::2] = -100
    return net


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
@pytest.mark.parametrize("rule", [Adam(0.01), Momentum(0.05, 0.5)], ids=["adam", "momentum"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_numba_training_leaves_none(plan, rule):
    net = with_dead_units(fastnn.get_backend("numba", **{"amx": False} | plan), "float32")
    rule.reset()
    net.fit(X, y, optimizer=rule, epochs=2, batch_size=8)
    for vector in (net.theta, *rule.state):  # as they would be some hundred steps later
        vector[np.abs(vector) < 1e-2] = 1e-40
    assert count(net.theta, *rule.state) > 20
    net.fit(X, y, optimizer=rule, epochs=2, batch_size=8)
    assert count(net.theta, *rule.state) == 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numpy_training_leaves_none_after_an_epoch(dtype):
    net, rule = with_dead_units("numpy", dtype), Adam(0.01)
    net.fit(X, y, optimizer=rule, epochs=1)
    net.theta[:5] = rule.state[0][:5] = rule.state[1][:5] = np.finfo(dtype).tiny / 4
    net.fit(X, y, optimizer=Adam(1e-30), epochs=1)
    assert count(net.theta, *rule.state) == 10, "the rule was not this fit's"
    net.fit(X, y, optimizer=rule, epochs=1)
    assert count(net.theta, *rule.state) == 0


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_steps_of_ones_own_leave_none_on_numba():
    net, rule = with_dead_units("numba", "float32"), Adam(0.01)
    net.step(net.cost_and_gradient(X, y)[1], rule)
    rule.state[0][:9] = 1e-39
    gradient = np.zeros_like(net.theta)
    net.step(gradient, rule)
    assert count(net.theta, *rule.state) == 0


@pytest.mark.skipif(not JIT, reason="nothing is compiled")
def test_a_thread_treats_them_as_before_afterwards():
    """Also where what it did failed; NumPy's arithmetic shows it."""
    tiny = np.array([1e-39], np.float32)

    def half():
        return float((tiny * np.float32(0.5))[0])

    assert half() > 0
    with as_zero():
        assert half() == 0
        with as_zero():
            assert half() == 0
        assert half() == 0, "as it was outside of the inner one"
    assert half() > 0
    with pytest.raises(KeyError), as_zero():
        raise KeyError
    assert half() > 0
    with_dead_units("numba", "float32").fit(X, y, epochs=1)
    assert half() > 0
    with pytest.raises(fastnn.Diverged):
        with_dead_units("numba", "float32").fit(X * 1e30, y, optimizer="sgd", learning_rate=1e30, epochs=1)
    assert half() > 0
