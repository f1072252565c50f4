"""Whole networks: the gradient of every engine against central differences and the wide oracle."""

from __future__ import annotations

import functools

import cases
import numpy as np
import pytest
import reference
import tolerances
from cases import PAIRS
from together import together

import fastnn
from fastnn import gradient_check

DEPTHS = {"no hidden layer": (4, 3), "one hidden": (4, 5, 3), "three hidden": (4, 6, 3, 5, 3)}
ROWS = 7
L2 = 0.3


@functools.cache
def problem(sizes, names, cost):
    """theta, X, y in float32 numbers (exact in both dtypes), with no kinked z near 0; D and N of the oracle."""
    y = cases.targets_for(names[-1], cost, ROWS, sizes[-1], np.float32)
    for seed in range(100):
        theta, X = cases.parameters(sizes, np.float32, seed), cases.normal((ROWS, sizes[0]), np.float32, seed)
        z, _ = reference.forward(theta, sizes, names, X)
        if all(np.abs(v).min() > 1e-3 for v, name in zip(z, names, strict=True) if name.endswith("relu")):
            break
    else:
        raise AssertionError("no seed keeps clear of the kinks")
    D = reference.gradient(theta, sizes, names, cost, X, y, L2)
    N = reference.central_differences(lambda v: reference.cost(v, sizes, names, cost, X, y, L2), theta)
    return theta, X, y, reference.cost(theta, sizes, names, cost, X, y, L2), D, N


def network(backend, sizes, names, cost, theta, dtype, l2=L2):
    return fastnn.Network(
        sizes,
        hidden=list(names[:-1]),
        output=names[-1],
        cost=cost,
        init=np.asarray(theta, np.float64),
        l2=l2,
        backend=backend,
        dtype=dtype,
    )


def layers(vector, sizes):
    """One flat piece per layer."""
    return [np.concatenate([W.ravel(), b]) for W, b in reference.split(vector, sizes)]


def relative(D, N):
    D, N = np.asarray(D, np.longdouble), np.asarray(N, np.longdouble)
    return float(np.sqrt(((D - N) ** 2).sum()) / (np.sqrt((D**2).sum()) + np.sqrt((N**2).sum())))


@pytest.mark.parametrize(
    ("hidden", "output", "cost", "depth"),
    # Every activation with every pair where they meet in two layers; without a hidden layer there is nothing hidden to
    # vary, and with more hidden layers no pair sees more of them.
    [("relu", *pair, "no hidden layer") for pair in PAIRS]
    + [(hidden, *pair, "one hidden") for hidden in cases.HIDDEN for pair in PAIRS]
    + [
        (cases.HIDDEN[i % len(cases.HIDDEN)], *PAIRS[i % len(PAIRS)], "three hidden")
        for i in range(max(len(cases.HIDDEN), len(PAIRS)))
    ],
)
def test_gradient(backend, dtype, hidden, output, cost, depth):
    sizes = DEPTHS[depth]
    names = (*[hidden] * (len(sizes) - 2), output)
    theta, X, y, J, D, N = problem(sizes, names, cost)
    net = network(backend, sizes, names, cost, theta, dtype)
    kept = np.array(backend.to_numpy(net.theta))
    got_J, grad = net.cost_and_gradient(X, y)
    grad = np.array(backend.to_numpy(grad))
    assert grad.dtype == dtype
    np.testing.assert_array_equal(backend.to_numpy(net.theta), kept)
    bound = tolerances.network_gradient(dtype, sizes, ROWS)
    tolerances.assert_close(got_J, J, bound * max(1, float(J)), what="J")
    for layer, (got, exact, differences) in enumerate(zip(*(layers(v, sizes) for v in (grad, D, N)), strict=True)):
        # the oracle's own two ways agree, so either one is a judge
        tolerances.assert_close(exact, differences, tolerances.ORACLE_DIFFERENCES * max(1, float(abs(exact).max())))
        tolerances.assert_close(got, exact, bound * float(abs(exact).max()), what=f"D of layer {layer + 2}")
        if dtype == np.float64:
            assert relative(got, differences) < tolerances.GRADCHECK_SMOOTH


@pytest.mark.parametrize(
    ("hidden", "output", "cost", "depth"),
    # Which gradients are right, the test above has of every two; here it is the check, of each one.
    [("tanh", *pair, "one hidden") for pair in PAIRS]
    + [(hidden, *PAIRS[0], "one hidden") for hidden in cases.HIDDEN if hidden != "tanh"]
    + [(hidden, *PAIRS[0], "three hidden") for hidden in ("relu", "silu")],
)
def test_gradcheck(backend, hidden, output, cost, depth):
    """fastnn's own check agrees, on the engine, to the bounds of the specification."""
    sizes = DEPTHS[depth]
    names = (*[hidden] * (len(sizes) - 2), output)
    theta, X, y, *_ = problem(sizes, names, cost)
    net = network(backend, sizes, names, cost, theta, "float64")
    kept = backend.to_numpy(net.theta).tobytes()
    report = fastnn.gradcheck(net, X, y, verbose=False)
    assert report.ok
    assert report.max_relative_error < tolerances.GRADCHECK_SMOOTH
    assert report.max_relative_error == max(layer.relative_error for layer in report.layers)
    assert not report.kinks
    assert not report.sampled
    assert [layer.checked for layer in report.layers] == [part.size for part in layers(theta, sizes)]
    if len(sizes) == 3 and hidden in cases.SMOOTH and output not in ("relu", "leaky_relu"):
        assert report.max_relative_error < tolerances.GRADCHECK_THREE_LAYERS
    assert backend.to_numpy(net.theta).tobytes() == kept


def test_gradcheck_of_a_float32_network_runs_in_float64(backend, capsys):
    sizes, names = (4, 5, 3), ("tanh", "softmax")
    theta, X, y, *_ = problem(sizes, names, "cross_entropy")
    report = fastnn.gradcheck(network(backend, sizes, names, "cross_entropy", theta, "float32"), X, y)
    assert report.max_relative_error < tolerances.GRADCHECK_THREE_LAYERS
    assert capsys.readouterr().out.strip() == str(report)
    assert "ok: largest" in str(report)


# ---- a wrong gradient is caught -------------------------------------------------------------------------------


def _no_slope(original, backend):
    def propagate(delta, W, activation, z, a, out):
        return original(delta, W, fastnn.activations.Identity(), z, a, out)

    return propagate


def _bias_too_large(original, backend):
    def accumulate(Delta_W, Delta_b, delta, a):
        original(Delta_W, Delta_b, delta, a)
        Delta_b *= 1 + 1e-5

    return accumulate


def _one_weight_off(original, backend):
    def accumulate(Delta_W, Delta_b, delta, a):
        original(Delta_W, Delta_b, delta, a)
        Delta_W[0, 1] = Delta_W[0, 1] + 1e-4

    return accumulate


def _nan(original, backend):
    def accumulate(Delta_W, Delta_b, delta, a):
        original(Delta_W, Delta_b, delta, a)
        Delta_b[0] = float("nan")

    return accumulate


@pytest.mark.parametrize(
    ("operation", "sabotage"),
    [
        ("_propagate_delta", _no_slope),
        ("_accumulate", _bias_too_large),
        ("_accumulate", _one_weight_off),
        ("_accumulate", _nan),
    ],
)
def test_a_sabotaged_gradient_is_caught(backend, monkeypatch, operation, sabotage):
    sizes, names = (4, 5, 3), ("tanh", "softmax")
    theta, X, y, *_ = problem(sizes, names, "cross_entropy")
    net = network(backend, sizes, names, "cross_entropy", theta, "float64")
    monkeypatch.setattr(backend, operation, sabotage(getattr(backend, operation), backend), raising=True)
    report = fastnn.gradcheck(net, X, y, verbose=False)
    assert not report.ok
    assert "FAILED" in str(report)
    if sabotage is _one_weight_off:
        assert any(layer.worst.startswith(f"weights[{layer.layer - 2}][0, 1]: D = ") for layer in report.layers)
    if sabotage is _no_slope:  # the output layer's own gradient is untouched
        assert [layer.relative_error < 1e-6 for layer in report.layers] == [False, True]


# ---- kinks and large networks -------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", ["relu", "leaky_relu"])
def test_kinks_are_reported_apart(backend, hidden):
    """A row of zeros and zero biases put z of that row at 0: moving any bias crosses the kink, weights do not."""
    sizes = (3, 4, 2)
    theta = cases.parameters(sizes)
    (_, b1), _ = reference.split(theta, sizes)
    b1[:] = 0
    X = np.abs(cases.normal((5, 3), np.float64)) + 0.5
    X[2] = 0
    report = fastnn.gradcheck(
        network(backend, sizes, (hidden, "softmax"), "cross_entropy", theta, "float64"),
        X,
        np.arange(5) % 2,
        verbose=False,
    )
    assert report.kinks == [f"biases[0][{r}]" for r in range(4)]
    assert [(layer.checked, layer.kinks) for layer in report.layers] == [(12, 4), (10, 0)]
    assert report.ok
    assert report.max_relative_error < tolerances.GRADCHECK_SMOOTH


def test_a_check_that_checked_nothing_is_not_ok(backend):
    """All parameters at kinks: nothing was compared, so nothing is proved."""
    net = network(backend, (2, 2), ("relu",), "squared_error", np.zeros(6), "float64", l2=0)
    report = fastnn.gradcheck(net, np.ones((1, 2)), np.ones((1, 2)), verbose=False)
    assert len(report.kinks) == 6
    assert not report.ok


def test_large_networks_are_sampled_and_the_report_says_so(backend, monkeypatch):
    monkeypatch.setattr(gradient_check, "ALL_PARAMETERS", 20)
    sizes, names = (4, 5, 3), ("tanh", "softmax")
    theta, X, y, *_ = problem(sizes, names, "cross_entropy")
    report = fastnn.gradcheck(network(backend, sizes, names, "cross_entropy", theta, "float64"), X, y, verbose=False)
    assert report.sampled
    assert report.ok
    assert sum(layer.checked for layer in report.layers) == 20
    assert "20 of 43 parameters" in str(report)


@pytest.mark.parametrize("argument", ["step", "bound"])
@pytest.mark.parametrize("value", [0, -1e-6, float("nan")])
def test_gradcheck_refuses(argument, value):
    net = fastnn.Network([2, 2], backend="numpy")
    with pytest.raises(ValueError, match=f"{argument} must be a finite number > 0"):
        fastnn.gradcheck(net, np.ones((1, 2)), [0], **{argument: value})


# ---- L2 and micro-batches ---------------------------------------------------------------------------------------


def test_l2_acts_on_weights_and_never_on_biases(backend, dtype):
    sizes, names = (4, 5, 3), ("tanh", "softmax")
    theta, X, y, *_ = problem(sizes, names, "cross_entropy")
    J, D = {}, {}
    for l2 in (0.0, 2.0):
        J[l2], D[l2] = network(backend, sizes, names, "cross_entropy", theta, dtype, l2).cost_and_gradient(X, y)
    weights = [W.astype(np.float64) for W, _ in reference.split(theta, sizes)]
    bound = tolerances.network_gradient(dtype, sizes, ROWS)
    tolerances.assert_close(J[2.0] - J[0.0], 2.0 / (2 * ROWS) * sum((W**2).sum() for W in weights), bound)
    difference = (np.array(backend.to_numpy(D[v])) for v in (2.0, 0.0))
    with_l2, without = (reference.split(v, sizes) for v in difference)
    for (W2, b2), (W0, b0), W in zip(with_l2, without, weights, strict=True):
        np.testing.assert_array_equal(b2, b0)
        tolerances.assert_close(W2 - W0, 2.0 / ROWS * W, bound)


@together("micro_batch", [1, 2, 3, 7, 100])
def test_micro_batches_give_the_gradient_of_the_whole(backend, dtype, micro_batch):
    sizes, names = (4, 6, 3, 5, 3), ("sigmoid",) * 3 + ("softmax",)
    theta, X, y, J, D, _ = problem(sizes, names, "cross_entropy")
    got_J, got = network(backend, sizes, names, "cross_entropy", theta, dtype).cost_and_gradient(
        X, y, micro_batch=micro_batch
    )
    bound = tolerances.network_gradient(dtype, sizes, ROWS)
    tolerances.assert_close(got_J, J, bound * max(1, float(J)))
    tolerances.assert_close(np.array(backend.to_numpy(got)), D, bound * float(abs(D).max()), dtype=dtype)


def test_mean_cost_is_the_cost_of_cost_and_gradient(backend, dtype):
    sizes, names = (4, 5, 3), ("tanh", "softmax")
    theta, X, y, J, *_ = problem(sizes, names, "cross_entropy")
    net = network(backend, sizes, names, "cross_entropy", theta, dtype)
    tolerances.assert_close(net.mean_cost(X, y), J, tolerances.network_gradient(dtype, sizes, ROWS) * max(1, float(J)))
