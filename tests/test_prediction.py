"""Outputs in one compiled call: one row, tiles, threads, and refusal, against the oracle and the operations."""

import numpy as np
import pytest

import fastnn

SIZES = [(7, 5), (1, 1), (13, 9, 4), (784, 30, 17, 10), (3, 64, 64, 2)]


def network(sizes, dtype, backend, **options):
    hidden = ["tanh", "relu", "sigmoid"][: len(sizes) - 2]
    return fastnn.Network(sizes, hidden=hidden, output="identity", cost="squared_error", dtype=dtype, backend=backend, seed=3, **options)


@pytest.mark.parametrize("rows", [1, 2, 5, 511, 513])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_outputs_equal_the_composition_of_operations(backend, dtype, sizes, rows):
    net = network(sizes, dtype, backend)
    x = np.random.default_rng(rows).standard_normal((rows, sizes[0])).astype(dtype)
    h = net.predict(x).reshape(rows, -1)
    a = backend.asarray(x)
    for W, b, g in zip(net.weights, net.biases, net.activations, strict=True):
        a = backend.activate(g, backend.dense_forward(a, W, b))
    expected = backend.to_numpy(a)
    assert h.dtype == dtype
    # both are rounded in another order: each product of length n_in loses at most n_in eps of its terms,
    # and no activation here magnifies; the weights are of order one over the root of n_in
    np.testing.assert_allclose(h, expected, rtol=0, atol=4 * sum(sizes) * np.finfo(dtype).eps * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numba_threads_share_the_rows(monkeypatch, threads):
    monkeypatch.setattr("fastnn.backends.numba_backend.usable_threads", lambda: threads)
    monkeypatch.setattr("fastnn.backends.numba_backend.TEAM_FLOPS", 0)
    monkeypatch.setattr("fastnn.backends.numba_backend.ONE_THREAD_FLOPS", 0)
    net = network((13, 9, 4), "float64", "numba")
    X = np.random.default_rng(0).standard_normal((1001, 13))
    np.testing.assert_allclose(net.predict(X), network((13, 9, 4), "float64", "numpy").predict(X), rtol=1e-12, atol=1e-13)
    assert net.predict(X[:2]).shape == (2, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_still_named(backend, dtype, bad):
    net = network((13, 9, 4), dtype, backend)
    for rows in (1, 700):
        X = np.ones((rows, 13), dtype)
        X[-1, 7] = bad
        with pytest.raises(ValueError, match=rf"X must be finite, got .* at row {rows - 1}, column 7"):
            net.predict(X)
    largest = np.full((1, 13), np.finfo(dtype).max, dtype)
    with np.errstate(all="ignore"):
        assert net.predict(largest).shape == (1, 4), "the largest finite number is finite"


def test_predictions_do_not_share_memory_and_follow_theta(backend):
    net = network((13, 9, 4), "float32", backend)
    x = np.ones((1, 13), np.float32)
    first = net.predict(x)
    kept = first.copy()
    net.theta[...] = 0
    assert not net.predict(x).any()
    np.testing.assert_array_equal(first, kept)
