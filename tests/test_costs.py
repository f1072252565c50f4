"""Costs and their output deltas: worked values, finiteness far out, the pairs there are, and the oracle itself."""

from __future__ import annotations

import math

import cases
import numpy as np
import pytest
import reference
import tolerances
from cases import PAIRS
from together import together

from fastnn import activations, costs


def cost_of(backend, output, cost, z, y):
    z = backend.asarray(z)
    return backend.cost_sum(output, cost, z, backend.activate(output, z), cases.engine_targets(backend, np.asarray(y)))


def delta_of(backend, output, cost, z, y):
    z = backend.asarray(z)
    return backend.to_numpy(
        backend.output_delta(output, cost, z, backend.activate(output, z), cases.engine_targets(backend, np.asarray(y)))
    )


# ---- the oracle is right ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "cost"), PAIRS)
def test_the_oracles_delta_is_the_derivative_of_its_cost(output, cost):
    """Closed forms in reference.py, checked by central differences: nothing downstream rests on algebra alone."""
    z = cases.away_from_kinks(cases.normal((3, 4), np.float64))
    y = cases.targets_for(output, cost, 3, 4, np.float64)
    N = reference.central_differences(
        lambda v: reference.cost_rows(output, cost, v.reshape(z.shape), y).sum(), z.ravel()
    )
    tolerances.assert_close(reference.output_delta(output, cost, z, y).ravel(), N, tolerances.ORACLE_DIFFERENCES)


@pytest.mark.parametrize("name", cases.HIDDEN)
def test_the_oracles_slope_is_the_derivative_of_its_function(name):
    z = cases.away_from_kinks(cases.normal((3, 4), np.float64)).ravel()
    N = reference.central_differences(lambda v: reference.activation(name, v).sum(), z)
    tolerances.assert_close(reference.derivative(name, z), N, tolerances.ORACLE_DIFFERENCES)


# ---- values worked out by hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "cost", "z", "y", "expected"),
    [
        ("softmax", "cross_entropy", [[0, 0, 0, 0]], [2], math.log(4)),
        ("softmax", "cross_entropy", [[math.log(3), 0]], [1], math.log(4)),  # h = 3/4, 1/4
        ("softmax", "cross_entropy", [[math.log(3), 0], [0, 0]], [0, 0], math.log(4 / 3) + math.log(2)),
        ("sigmoid", "cross_entropy", [[0, 0]], [[0.0, 1.0]], 2 * math.log(2)),
        ("sigmoid", "cross_entropy", [[math.log(3)]], [[1.0]], math.log(4 / 3)),  # h = 3/4
        ("sigmoid", "cross_entropy", [[math.log(3)]], [[0.5]], 0.5 * math.log(4 / 3) + 0.5 * math.log(4)),
        ("identity", "squared_error", [[3, 1], [0, 2]], [[1.0, 1.0], [0.0, -1.0]], (4 + 9) / 2),
        ("softmax", "squared_error", [[0, 0]], [0], (0.25 + 0.25) / 2),
        ("sigmoid", "squared_error", [[0, 0]], [1], (0.25 + 0.25) / 2),
        ("relu", "squared_error", [[-5, 2]], [[1.0, 0.0]], (1 + 4) / 2),
        ("exp", "poisson", [[0, math.log(2)], [0, 0]], [[0.0, 2.0], [1.0, 2.0]], 1 + 0 + 0 + (1 - 2 + 2 * math.log(2))),
        ("exp", "squared_error", [[0, math.log(2)]], [[3.0, 2.0]], 2),
    ],
)
def test_worked_costs(backend, dtype, output, cost, z, y, expected):
    y = np.asarray(y)
    y = y.astype(dtype) if y.dtype.kind == "f" else y
    tolerances.assert_close(cost_of(backend, output, cost, np.array(z, dtype), y), expected, 16 * tolerances.eps(dtype))


def test_cross_entropy_deltas_are_a_minus_y(backend, dtype):
    """Exactly: at z = 0, a is 1/4 or 1/2, and nothing is rounded."""
    zero = np.zeros((2, 4), dtype)
    np.testing.assert_array_equal(
        delta_of(backend, "softmax", "cross_entropy", zero, [1, 3]),
        np.array([[0.25, -0.75, 0.25, 0.25], [0.25, 0.25, 0.25, -0.75]]),
    )
    y = np.array([[0, 1, 0.5, 0.25], [1, 1, 0, 0]], dtype)
    np.testing.assert_array_equal(delta_of(backend, "sigmoid", "cross_entropy", zero, y), 0.5 - y)


# ---- far from zero --------------------------------------------------------------------------------------------


@together("size", [30.0, 100.0, 1e4])
@pytest.mark.parametrize(("output", "cost"), PAIRS)
def test_costs_and_deltas_stay_finite(backend, dtype, output, cost, size):
    """log(h) would be -inf here from |z| = 104 in float32 on; costs come from z. The value is checked as well."""
    z = np.array([[size, -size, size / 2], [-size, size, 0], [size, size, size], [-size, -size, -size]], dtype)
    if output == "exp":
        z = np.minimum(z, dtype.type(30))  # beyond, e^z is infinite in the end, or its square is
    for y in (
        ([0, 0, 1, 2], [1, 1, 2, 0])
        if (output, cost) != ("sigmoid", "cross_entropy") and cost != "poisson" and ":" not in cost
        else (np.eye(4, 3, dtype=dtype), np.ones((4, 3), dtype))
    ):
        y = np.asarray(y)
        J, expected = cost_of(backend, output, cost, z, y), exact_cost(output, cost, z, y)
        t, h = reference.as_rows(y, 3), reference.activation(output, z)
        tolerances.assert_close(J, expected, tolerances.cost_sum(output, cost, z, t, h))
        delta = delta_of(backend, output, cost, z, y)
        tolerances.assert_close(
            delta,
            reference.output_delta(output, cost, z, y),
            tolerances.output_delta(output, cost, z, t, h),
            dtype=dtype,
        )


def exact_cost(output, cost, z, y):
    """cross_entropy at |z| >= 30 through -log h = log(1 + sum e^(others - z)), one element at a time in math."""
    if cost in ("squared_error", "poisson") or ":" in cost:
        return float(reference.cost_rows(output, cost, z, y).sum())
    z = z.astype(np.float64)

    def softplus(x):  # log(1 + e^x)
        return x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))

    if output == "sigmoid":
        return math.fsum(
            t * softplus(-v) + (1 - t) * softplus(v)
            for row, targets in zip(z, y, strict=True)
            for v, t in zip(row, targets.astype(float), strict=True)
        )
    total = 0.0
    for row, k in zip(z, y, strict=True):
        others = sorted(row - row[k])
        total += others[-1] + math.log(math.fsum(math.exp(v - others[-1]) for v in others))
    return total


def test_cost_of_many_rows_is_summed_in_float64(backend):
    """2^13 equal rows in float32: each is log 2 to 1e-7 relative, and so must the sum be; a float32 running sum is
    off by 1e-5.
    """
    m = 1 << 13
    J = cost_of(backend, "softmax", "cross_entropy", np.zeros((m, 2), np.float32), np.zeros(m, np.int64))
    tolerances.assert_close(J, m * math.log(2), 4 * tolerances.eps(np.float32) * m * math.log(2))


# ---- which pairs there are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["softmax", "exp", *cases.HIDDEN])
@pytest.mark.parametrize("cost", ["cross_entropy", "squared_error"])
def test_pairs(output, cost):
    if (output, cost) in PAIRS:
        pair = costs.pair(activations.get(output), cost)
        kinds = {
            "cross_entropy": {"softmax": "classes", "sigmoid": "probabilities"}.get(output),
            "squared_error": "values",
        }
        assert pair.targets == kinds[cost]
    else:
        with pytest.raises(
            ValueError,
            match=rf"output='{output}' is for hidden layers alone"
            if output in ("silu", "gelu")
            else rf"output='{output}' fits cost='squared_error'.*'softmax' or 'sigmoid'",
        ):
            costs.pair(activations.get(output), cost)


@pytest.mark.parametrize(
    ("cost", "hint"),
    [("crossentropy", "cross_entropy"), ("squared", "squared_error"), ("mse", "Known: cross_entropy, squared_error")],
)
def test_unknown_costs(cost, hint):
    with pytest.raises(ValueError, match=hint):
        costs.pair(activations.Softmax(), cost)


def test_codes_differ_between_pairs():
    """Compiled kernels select by code; the elementwise outputs share one, their activation has its own."""
    codes = {costs.pair(activations.get(output), cost).code for output, cost in PAIRS}
    assert codes == {0, 1, 2, 3, 4, 5, 6}
    assert costs.pair(activations.get("identity"), "absolute_error").code == 7
