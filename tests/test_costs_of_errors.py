"""absolute_error, huber and quantile: their names, what networks trained by them answer, and their kernels. That every
engine and program computes them is in the shared tests (cases.PAIRS).
"""

import numpy as np
import pytest
from cuda_cases import Memory, floats, kernels, normal, shapes
from hypothesis import given
from hypothesis import strategies as st
from reference import cost_rows, output_delta
from test_cupy_narrow import backend as cupy_backend

import fastnn
from fastnn import activations, costs
from fastnn.kernels.cuda.launchers import partials_shape

ERRORS = ("absolute_error", "huber", "huber:0.4", "quantile", "quantile:0.75")


def network(cost, backend="numpy", **named):
    return fastnn.Network([1, 1], output="identity", cost=cost, init="zeros", dtype="float64", backend=backend, **named)


@pytest.mark.parametrize(
    ("cost", "parameter"),
    [("huber", 1.0), ("huber:1.35", 1.35), ("quantile", 0.5), ("quantile:9e-1", 0.9), ("absolute_error", 1.0)],
)
def test_names_with_parameters(cost, parameter):
    pair = costs.pair(activations.get("identity"), cost)
    assert pair.parameter == parameter
    assert pair is costs.pair(activations.get("identity"), cost)


@pytest.mark.parametrize(
    ("cost", "output", "error", "words"),
    [
        ("huber:0", "identity", ValueError, "cost='huber:0': the threshold must be"),
        ("huber:x", "identity", ValueError, "a number is expected behind the colon, as in huber:1.0"),
        ("huber:nan", "identity", ValueError, "the threshold must be"),
        ("quantile:1", "identity", ValueError, "the quantile must lie between 0 and 1, got 1"),
        ("quantile:nan", "identity", ValueError, "the quantile must lie between 0 and 1, got nan"),
        ("squared_error:2", "identity", ValueError, "squared_error takes no parameter; huber and quantile do"),
        ("hubert", "identity", ValueError, "did you mean 'huber'"),
        ("mae", "identity", ValueError, "did you mean 'absolute_error'"),
        ("pinball", "identity", ValueError, "did you mean 'quantile'"),
        (0.9, "identity", TypeError, r"cost must be a name, as cross_entropy, .*, got 0.9 \(float\)"),
        ("huber", "softmax", ValueError, "cost='huber' needs output='identity', got output='softmax'"),
        ("quantile:0.9", "relu", ValueError, "cost='quantile:0.9' needs output='identity'"),
    ],
)
def test_what_is_refused(cost, output, error, words):
    with pytest.raises(error, match=words):
        fastnn.Network([2, 2], output=output, cost=cost)


def test_classes_are_no_targets_of_theirs():
    net = fastnn.Network([2, 3], output="identity", cost="huber", backend="numpy")
    with pytest.raises(
        ValueError, match=r"y must have shape \(4, 3\), one column per output unit, got \(4,\) of int64"
    ):
        net.fit(np.ones((4, 2)), np.array([0, 1, 2, 0]), epochs=1)


@given(st.floats(-5, 5), st.sampled_from(ERRORS))
def test_cost_and_slope_of_one_error(e, cost):
    """Against the formulas as they stand in the papers, by another route, and each other: the slope by differences."""
    a, y = np.array([[e]]), np.zeros((1, 1))
    pair, g = costs.pair(activations.get("identity"), cost), activations.get("identity")
    named = {"huber": "huber:1", "quantile": "quantile:0.5"}.get(cost, cost)
    np.testing.assert_allclose(pair.cost(a, a, y), cost_rows("identity", named, a, y).astype(float), atol=1e-12)
    np.testing.assert_allclose(pair.delta(g, a, a, y), output_delta("identity", named, a, y).astype(float), atol=1e-12)
    if abs(e) > 1e-3:
        up, down = (float(pair.cost(a + h, a + h, y)[0]) for h in (1e-4, -1e-4))
        assert float(pair.delta(g, a, a, y)[0, 0]) == pytest.approx((up - down) / 2e-4, abs=2e-4)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(
    ("cost", "answer"), [("absolute_error", 3.0), ("quantile:0.75", 10.0), ("huber:2", 3.5), ("squared_error", 23.8)]
)
def test_what_a_constant_answer_comes_to(backend, cost, answer):
    """One bias, five targets: their median, their upper quartile, their mean; between, Huber's estimate, whose
    bounded errors 2, b - 2, b - 3, -2 and -2 add up to 0.
    """
    y = np.array([1.0, 2.0, 3.0, 10.0, 103.0])
    net = network(cost, backend)
    for rate in (1.0, 0.1, 0.01, 0.001):
        net.fit(np.zeros((5, 1)), y, optimizer=fastnn.optimizers.SGD(rate), epochs=400, batch_size=5)
    b = float(net.biases[0][0])
    assert b == pytest.approx(answer, abs=2e-3 * max(1, answer) if cost == "squared_error" else 0.01)


def test_they_are_kept_in_files_and_copies(tmp_path):
    net = network("quantile:0.9")
    net.save(tmp_path / "q.safetensors")
    again = fastnn.load(tmp_path / "q.safetensors", backend="numpy")
    assert (again.cost, again.pair.parameter) == ("quantile:0.9", 0.9)


def test_the_fused_kernel_declines():
    with pytest.raises(ValueError, match=r"it knows cross_entropy and squared_error, not huber:0\.4"):
        network("huber:0.4", cupy_backend(fused=True)).fit(np.ones((8, 1)), np.ones(8), epochs=1)


@floats
@shapes
@pytest.mark.parametrize("cost", ["absolute_error", "huber:0.4", "quantile:0.75", "poisson"])
def test_kernels_of_the_gpu(cost, shape, dtype):
    memory = Memory()
    check_kernels(cost, shape, dtype, memory)
    memory.check()


def check_kernels(cost, shape, dtype, memory):
    g = activations.get("exp" if cost == "poisson" else "identity")
    pair = costs.pair(g, cost)
    errors = pair.code, pair.parameter
    m = shape[0]
    z, y = normal(shape, dtype), normal(shape, dtype, 5, scale=1)
    z.flat[0] = y.flat[0]
    if cost == "poisson":
        y = np.floor(np.abs(2 * y))  # some of them 0
    a = g.value(z)
    delta, k = memory.blank(shape, dtype), kernels()
    k.output_delta(g, False, memory(a), memory(y), delta, errors)
    eps = np.finfo(dtype).eps
    atol = 8 * eps * (np.abs(a).max() + 1 if cost == "poisson" else 1)  # of the rounded e^z
    np.testing.assert_allclose(delta, output_delta(g.name, cost, z, y).astype(dtype), rtol=8 * eps, atol=atol)
    weights = np.random.default_rng(m).random(m).astype(dtype)
    for w in (None, weights):
        partials, totals = memory(np.full(partials_shape(), np.nan)), memory(np.zeros(2))
        k.cost(False, memory(z), memory(a), memory(y), partials, totals, None if w is None else memory(w), errors)
        expected = (cost_rows(g.name, cost, z, y) * (1 if w is None else w)).sum()
        np.testing.assert_allclose(totals, [float(expected), 0], rtol=64 * eps)
    a.flat[0] = np.nan
    k.output_delta(g, False, a, y, delta, errors)
    assert np.isnan(delta.flat[0])
