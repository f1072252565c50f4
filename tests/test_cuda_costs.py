"""The cost kernels, and the hits they count, against NumPy in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import SEEDS, classes, floats, kernels, normal, one_hot, shapes, softmax_of, wide
from together import together
from tolerances import assert_close

from fastnn.activations import Sigmoid, Softmax
from fastnn.kernels.cuda.launchers import partials_shape


def cost(cross_entropy, z, a, y, seed=1, weights=None, softmax=False):
    totals = np.array([100.0, 7.0])
    kernels(seed).cost(cross_entropy, z, a, y, np.full(partials_shape(), np.nan), totals, weights, softmax=softmax)
    return totals - [100.0, 7.0]


def argmax_hits(a, y):
    return int((a.argmax(axis=1) == y).sum())


@floats
@shapes
@together("seed", SEEDS)
def test_cost_and_hits(shape, seed, dtype):
    m, n = shape
    z, y, values = normal(shape, dtype), classes(m, n), normal(shape, dtype, 4, scale=1)
    e = np.finfo(dtype).eps
    Z, V = wide(z, values)

    weights = np.random.default_rng(m).random(m).astype(dtype)

    def check(cross_entropy, a, y, rows, hits, bound, softmax=False):
        """All rows alike, and each times its weight."""
        for w in (None, weights):
            got, right = cost(cross_entropy, z, a, y, seed, w, softmax)
            assert_close(got, (rows if w is None else rows * w).sum(), float(bound) + 1e-13)
            assert right == hits

    a = softmax_of(z)
    top = Z.max(axis=1)
    rows = np.log(np.exp(Z - top[:, None]).sum(axis=1)) + top - Z[np.arange(m), y]
    check(True, a, y, rows, argmax_hits(a, y), e * (8 + n) * (np.abs(Z).max(axis=1) + np.log(n) + 1).sum())

    p = np.random.default_rng(m).random(shape).astype(dtype)
    rows = (p * (np.log(np.exp(Z - top[:, None]).sum(axis=1)) + top - Z.T).T).sum(axis=1)
    bound = e * (8 + n) * (p.sum(axis=1) * (np.abs(Z).max(axis=1) + np.log(n) + 1)).sum()
    check(True, a, p, rows, argmax_hits(a, p.argmax(axis=1)), bound, softmax=True)

    a, p = Sigmoid().value(z), np.random.default_rng(m).random(shape).astype(dtype)
    terms = np.maximum(Z, 0) - p * Z + np.log1p(np.exp(-np.abs(Z)))
    hits = ((a >= 0.5) == (p >= 0.5)).all(axis=1).sum()
    check(True, a, p, terms.sum(axis=1), hits, 8 * e * (2 * np.abs(Z) + 1).sum())

    check(False, z, values, ((Z - V) ** 2).sum(axis=1) / 2, 0, 8 * e * (Z**2 + V**2).sum())
    rows = ((Z - one_hot(y, n)) ** 2).sum(axis=1) / 2
    check(False, z, y, rows, argmax_hits(z, y), 8 * e * (Z**2 + 1).sum())


@floats
def test_argmax_takes_the_first_of_equals_and_nan_first_of_all(dtype):
    a = np.zeros((6, 70), dtype)
    a[1, [40, 8]] = 1
    a[2, [69, 3]] = [np.inf, np.nan]
    a[3, [5, 33]] = np.nan
    a[4, :] = -np.inf
    a[5, 1:] = -1
    firsts = a.argmax(axis=1)
    for column in (*firsts, 69):
        y = np.full(6, column)
        for seed in SEEDS:
            assert cost(False, a, a, y, seed)[1] == (firsts == y).sum()


def test_one_half_counts_as_yes():
    a = np.array([[0.5, 0.2], [0.5, 0.2], [0.4, 0.5], [np.nan, 0.1]], np.float32)
    y = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.5], [0.0, 0.0]], np.float32)
    expected = ((a >= 0.5) == (y >= 0.5)).all(axis=1)
    np.testing.assert_array_equal(expected, [True, False, True, True])
    for row in range(4):
        assert cost(True, np.zeros((1, 2), np.float32), a[row : row + 1], y[row : row + 1])[1] == expected[row]


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_a_class_out_of_range_makes_the_cost_nan(wrong):
    a = np.full((3, 5), 0.2, np.float32)
    y = np.array([0, wrong, 1])
    assert np.isnan(cost(True, a, a, y)[0])
    assert np.isnan(cost(False, a, a, y)[0])


@floats
def test_costs_are_finite_at_the_edges(dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, 1e4]], dtype)
    np.testing.assert_allclose(cost(True, z, Softmax().value(z), np.array([1, 2])), [2e4, 1], rtol=1e-6)
    np.testing.assert_allclose(cost(True, z, Sigmoid().value(z), np.zeros_like(z))[0], 2e4 + np.log(2), rtol=1e-6)
    z[0, 0] = np.nan
    assert np.isnan(cost(True, z, z, np.array([1, 2]))[0])
    assert np.isnan(cost(True, z, z, np.zeros_like(z))[0])
    assert np.isnan(cost(False, z, z, np.zeros_like(z))[0])
