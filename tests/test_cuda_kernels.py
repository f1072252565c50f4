"""Each CUDA kernel, compiled for the CPU (cuda_on_cpu), against NumPy in extended precision.

Bounds: `ulps` units in the last place of the magnitudes that enter a result; sums of n terms add n.
"""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import (
    ELEMENTWISE,
    SEEDS,
    Memory,
    activations,
    classes,
    close,
    floats,
    g_of,
    kernels,
    normal,
    one_hot,
    shapes,
    slope_of,
    softmax_of,
    wide,
)
from together import together

from fastnn.activations import Softmax
from fastnn.kernels.cuda.launchers import partials_shape, scratch_size

EDGES = [0.0, -0.0, 1.0, -1.0, 1e4, -1e4, 1e-30, -1e-30, np.inf, -np.inf, np.nan]


@pytest.fixture
def memory():
    made = Memory()
    yield made
    made.check()


# ---- bias and activation ------------------------------------------------------------------------------


@floats
@shapes
def test_add_bias(shape, dtype, memory):
    z, b = normal(shape, dtype), normal(shape[1:], dtype, 1)
    out = memory(z)
    kernels().add_bias(out, memory(b))
    np.testing.assert_array_equal(out, z + b)


@floats
@shapes
@activations
def test_activate(g, shape, dtype, memory):
    z = normal(shape, dtype)
    a = memory.blank(shape, dtype)
    kernels().activate(g, memory(z), a)
    expected = g_of(g, *wide(z))
    close(a, expected, expected, 8)
    in_place = memory(z)
    kernels().activate(g, in_place, in_place)
    np.testing.assert_array_equal(in_place, a)


@floats
@activations
def test_activation_table_at_the_edges(g, dtype):
    """fastnn/activations.py: 0, infinities, NaN, and +-1e4, as the NumPy reference has them."""
    z = np.array([EDGES], dtype)
    a = np.empty_like(z)
    kernels().activate(g, z, a)
    with np.errstate(all="ignore"):
        expected = g.value(z.copy())
        derivative = g.derivative(z, expected)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(z))
    np.testing.assert_allclose(a, expected, rtol=8 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)
    delta = np.ones_like(z)
    kernels().times_derivative(g, delta, a)
    # 1 - a^2 and a(1 - a) cancel near saturation, where only the absolute error is bounded.
    np.testing.assert_allclose(delta, derivative, rtol=0, atol=8 * np.finfo(dtype).eps)


@floats
@shapes
@together("seed", SEEDS)
def test_softmax(shape, dtype, seed, memory):
    z = normal(shape, dtype, scale=10)
    a = memory.blank(shape, dtype)
    kernels(seed).activate(Softmax(), memory(z), a)
    expected = softmax_of(*wide(z))
    spread = np.abs(z - z.max(axis=1, keepdims=True))
    close(a, expected, expected * (8 + shape[1] + spread), 1)


@floats
@pytest.mark.parametrize("n", [1, 3, 32, 40])
def test_softmax_at_the_edges(n, dtype):
    rows = np.zeros((7, n), dtype)
    rows[1, -1] = np.nan
    rows[2, 0] = np.inf
    rows[3, :] = -np.inf
    rows[4, 1:] = -np.inf
    rows[5, :] = 1e4
    rows[6, 0] = -1e4
    a = np.empty_like(rows)
    kernels().activate(Softmax(), rows, a)
    assert np.isnan(a[1:4]).all()
    np.testing.assert_allclose(a[[0, 5]], 1 / n, rtol=1e-6)
    np.testing.assert_array_equal(a[4], np.arange(n) == 0)
    np.testing.assert_allclose(a[6], (np.arange(n) > 0) / (n - 1) if n > 1 else [1], rtol=1e-6)


# ---- deltas ---------------------------------------------------------------------------------------------


@floats
@shapes
@pytest.mark.parametrize("kind", ["values", "classes"])
@pytest.mark.parametrize("cross_entropy", [True, False], ids=["cross_entropy", "squared_error"])
@pytest.mark.parametrize("g", [*ELEMENTWISE, Softmax()], ids=repr)
def test_output_delta(g, cross_entropy, kind, shape, dtype, memory):
    m, n = shape
    softmax = isinstance(g, Softmax)
    z = normal(shape, dtype)
    a = (softmax_of(z) if softmax else g.value(z)).astype(dtype)
    y = normal(shape, dtype, 5, scale=1) if kind == "values" else classes(m, n)
    delta = memory.blank(shape, dtype)
    kernels().output_delta(g, cross_entropy, memory(a), memory(y), delta)
    (h,), t = wide(a), one_hot(y, n)
    e = h - t
    if cross_entropy:
        expected, magnitude = e, np.abs(h) + np.abs(t)
    elif softmax:
        expected = h * (e - (e * h).sum(axis=1, keepdims=True))
        magnitude = h * (np.abs(e) + (np.abs(e) * h).sum(axis=1, keepdims=True)) * (n + 4)
    else:
        expected = e * slope_of(g, h)
        magnitude = (np.abs(h) + np.abs(t)) * (np.abs(slope_of(g, h)) + 1)
    close(delta, expected, magnitude, 4)


@floats
@shapes
@activations
def test_times_derivative(g, shape, dtype, memory):
    z, start = normal(shape, dtype), normal(shape, dtype, 2)
    a, delta = g.value(z), memory(start)
    kernels().times_derivative(g, delta, memory(a))
    (h, d) = wide(a, start)
    close(delta, d * slope_of(g, h), d * (np.abs(slope_of(g, h)) + 1), 4)


@activations
def test_the_derivative_is_a_factor_and_no_choice(g):
    """0 * inf and NaN stay NaN on the way back: a dead unit does not hide a divergence."""
    delta = np.array([[np.inf, np.nan, np.nan, 1.0]], np.float32)
    a = np.array([[0.0, 0.0, 1.0, np.nan]], np.float32)
    with np.errstate(invalid="ignore"):
        expected = delta * g.derivative(a, a)
    kernels().times_derivative(g, delta, a)
    np.testing.assert_array_equal(delta, expected)


# ---- column sums ----------------------------------------------------------------------------------------

TALL = [(1, 1), (8, 33), (255, 3), (256, 2), (257, 70), (1000, 5), (40_000, 3)]


def column_sums(x, start, accumulate, seed, memory):
    sums = memory(start)
    kernels(seed).column_sums(memory(x), sums, memory.blank(scratch_size(x.shape[1]), x.dtype), accumulate=accumulate)
    return sums


@floats
@together("shape", TALL)
@together("accumulate", [False, True])
def test_column_sums(shape, accumulate, dtype, memory):
    x, start = normal(shape, dtype), normal(shape[1:], dtype, 9)
    if not accumulate:
        start[...] = np.nan  # overwritten, not added to
    X, before = wide(x, start if accumulate else np.zeros_like(start))
    for seed in SEEDS if shape[0] < 1000 else SEEDS[:1]:
        sums = column_sums(x, start, accumulate, seed, memory)
        # In lanes and chunks: a thread adds at most 80 in a row, then 8 lanes, 64 chunks in lanes.
        close(sums, X.sum(axis=0) + before, np.abs(X).sum(axis=0) + np.abs(before), 100)


# ---- whole vectors ----------------------------------------------------------------


@floats
@pytest.mark.parametrize("count", [1, 2, 255, 257, 100_003])
def test_squares_and_nonfinite(count, dtype):
    x = normal(count, dtype)
    for bad in ({}, {0: np.nan}, {count - 1: -np.inf, 0: np.inf}):
        for index, value in bad.items():
            x[index] = value
        totals = np.array([5.0, 1.0])
        kernels().squares_and_nonfinite(x, np.full(partials_shape(), np.nan), totals, scale=2.0)
        assert totals[1] == 1 + 2 * len(bad)
        if not bad:
            np.testing.assert_allclose(totals[0], 5 + 2 * (wide(x)[0] ** 2).sum(), rtol=1e-13)
