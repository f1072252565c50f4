"""Outputs in one compiled call: one row, tiles, threads, and refusal, against the oracle and the operations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from together import together

import fastnn
from fastnn import checks
from fastnn.backends import numba_backend
from fastnn.kernels.cpu import JIT, amx
from fastnn.kernels.cpu.gather import READABLE

SIZES = [(7, 5), (1, 1), (13, 9, 4), (784, 30, 17, 10), (3, 64, 64, 2)]


def network(sizes, dtype, backend, **options):
    hidden = ["tanh", "relu", "sigmoid"][: len(sizes) - 2]
    return fastnn.Network(
        sizes, hidden=hidden, output="identity", cost="squared_error", dtype=dtype, backend=backend, seed=3, **options
    )


@together("rows", [1, 2, 5, 511, 513])
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
    np.testing.assert_allclose(
        h, expected, rtol=0, atol=4 * sum(sizes) * np.finfo(dtype).eps * max(1, np.abs(expected).max())
    )


@together("rows", [1, 70, 600, 1100] if JIT else [1, 70])
@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_outputs_before_their_activation(backend, dtype, output, rows):
    """What validation takes its cost from: z of the last layer, by whatever predicts so many rows, whose activation
    the outputs are.
    """
    net = fastnn.Network(
        [13, 70, 4],
        hidden="relu",
        output=output,
        cost="cross_entropy" if output == "softmax" else "squared_error",
        dtype=dtype,
        backend=backend,
        seed=3,
    )
    x = backend.asarray(np.random.default_rng(rows).standard_normal((rows, 13)).astype(dtype))
    z, h = backend.outputs(net, x, activated=False), backend.outputs(net, x)
    _, _, expected = net._forward(x)
    before = backend.dense_forward(expected[-2], net.weights[-1], net.biases[-1])
    near = {"rtol": 0, "atol": 400 * np.finfo(dtype).eps}  # sums of 70 products of order one, in another order
    np.testing.assert_allclose(backend.to_numpy(z), backend.to_numpy(before), **near)
    np.testing.assert_allclose(backend.to_numpy(backend.activate(output, z)), backend.to_numpy(h), **near)


@together("rows", [1, 3, 700, 1100] if JIT else [1, 3])
@pytest.mark.parametrize("kind", READABLE)
def test_rows_of_other_dtypes(monkeypatch, backend, dtype, kind, rows):
    """As their converted copy, without that copy where the engine reads them; uint8 to rounding where a matrix unit
    may take them.
    """
    monkeypatch.setattr(numba_backend, "TEAM_FLOPS", 0)
    net = network((13, 70, 4), dtype, backend)
    net.scale = 1 / 64
    X = np.random.default_rng(rows).uniform(0, 100, (rows, 13)).astype(kind)
    copy = X.astype(dtype)
    if X.dtype.kind in "iu":
        copy *= np.dtype(dtype).type(1 / 64)
    expected = net.predict(copy)
    if backend.name == "numba" and kind != "bool":  # whose bytes are looked at first
        monkeypatch.setattr(checks, "inputs", None)
    if kind in ("uint8", "bool") and rows == 1100 and amx.missing() is None:
        np.testing.assert_allclose(net.predict(X), expected, rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(net.predict(X), expected)


@pytest.mark.parametrize("rows", [1, 700, 1100] if JIT else [1])
def test_rows_of_other_dtypes_that_cannot_be_converted_are_named(backend, rows):
    net = network((13, 70, 4), "float32", backend)
    X = np.ones((rows, 13))
    for value, message in (
        (np.nan, "X must be finite, got nan"),
        (
            1e39,
            r"X holds .*1e\+39.* at row \d+, column 7, which overflows float32",
        ),
    ):
        X[-1, 7] = value
        with pytest.raises(ValueError, match=message):
            net.predict(X)
    net.scale = 1e37
    with pytest.raises(ValueError, match=r"which times scale=1e\+37 overflows float32"):
        net.predict(np.full((rows, 13), 200, np.uint8))
    big_endian = np.ones((rows, 13), ">f4")
    np.testing.assert_array_equal(net.predict(big_endian), net.predict(big_endian.astype(np.float32)))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_numba_threads_share_the_rows(monkeypatch, threads):
    monkeypatch.setattr("fastnn.backends.numba_backend.usable_threads", lambda: threads)
    monkeypatch.setattr("fastnn.backends.numba_backend.TEAM_FLOPS", 0)
    monkeypatch.setattr("fastnn.backends.numba_backend.ONE_THREAD_FLOPS", 0)
    net = network((13, 9, 4), "float64", "numba")
    X = np.random.default_rng(0).standard_normal((1001, 13))
    np.testing.assert_allclose(
        net.predict(X), network((13, 9, 4), "float64", "numpy").predict(X), rtol=1e-12, atol=1e-13
    )
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


def test_overflow_of_a_layer_is_no_reason_to_refuse_the_row(backend, dtype):
    """z of the first layer tells whether X is finite, but may be infinite by itself."""
    net = network((13, 9, 4), dtype, backend)
    net.theta[...] = 4
    for rows in (1, 700):
        X = np.full((rows, 13), np.finfo(dtype).max, dtype)
        with np.errstate(all="ignore"):
            assert np.isfinite(net.predict(X)).all(), "tanh of infinity is 1"


SIDES = st.one_of(st.integers(1, 70), st.integers(100, 140) if JIT else st.nothing())


@settings(deadline=None, max_examples=200 if JIT else 20)
@given(
    n_in=SIDES,
    n_out=SIDES,
    dtype=st.sampled_from(["float32", "float64"]),
    rows=st.sampled_from([1, 1, 1, 2]),
    seed=st.integers(0, 99),
)
def test_numba_one_row_against_long_double(n_in, n_out, dtype, rows, seed):
    """Every width and every rest of a vector: a hidden layer's sums, let through to the output three at a time."""
    rng = np.random.default_rng(seed)
    net = fastnn.Network(
        (n_in, n_out, 3),
        hidden="identity",
        output="identity",
        cost="squared_error",
        dtype=dtype,
        backend="numba",
        init="zeros",
    )
    W, b = net.weights[0], net.biases[0]
    W[...], b[...] = rng.standard_normal(W.shape), rng.standard_normal(b.shape)
    for j in range(0, n_out, 3):  # three numbers of the hidden layer at a time
        chosen = range(j, min(j + 3, n_out))
        net.weights[1][...] = 0
        for output, unit in enumerate(chosen):
            net.weights[1][output, unit] = 1
        X = rng.standard_normal((rows, n_in)).astype(dtype)
        h = net.predict(X)
        exact = X.astype(np.longdouble) @ W.astype(np.longdouble).T + b
        size = np.abs(X).astype(np.longdouble) @ np.abs(W).astype(np.longdouble).T + np.abs(b)
        for output, unit in enumerate(chosen):
            assert (np.abs(h[:, output] - exact[:, unit]) <= (n_in + 2) * np.finfo(dtype).eps * size[:, unit]).all()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [640, 641, 1500])
def test_numba_parts_of_many_rows_cover_them_and_refuse_any(monkeypatch, threads, rows):
    monkeypatch.setattr("fastnn.backends.numba_backend.usable_threads", lambda: threads)
    monkeypatch.setattr("fastnn.backends.numba_backend.TEAM_FLOPS", 0)
    net = network((33, 9, 4), "float32", "numba")
    X = np.random.default_rng(0).standard_normal((rows, 33)).astype(np.float32)
    alone = np.concatenate([net.predict(x[None]) for x in X])
    np.testing.assert_allclose(net.predict(X), alone, rtol=1e-4, atol=1e-5)
    for bad in (0, 63, 64, rows // 2, rows - 1):
        spoilt = X.copy()
        spoilt[bad, 32] = np.nan
        with pytest.raises(ValueError, match=f"got nan at row {bad}, column 32"):
            net.predict(spoilt)


@pytest.mark.parametrize(
    ("options", "packed"), [({}, True), ({"panels": True}, True), ({"panels": False}, False)], ids=str
)
def test_numba_predictions_of_many_rows_use_the_products_that_were_asked_for(monkeypatch, options, packed):
    asked = []
    monkeypatch.setattr(
        numba_backend, "PanelPredictor", lambda net, real=numba_backend.PanelPredictor: asked.append(net) or real(net)
    )
    net = fastnn.Network([20, 30, 4], backend=fastnn.get_backend("numba", **options))
    X = np.random.default_rng(1).standard_normal((600, 20)).astype(np.float32)
    reference = fastnn.Network([20, 30, 4], backend="numpy")
    np.testing.assert_allclose(net.forward(X)[-1], reference.forward(X)[-1], rtol=0, atol=1e-5)
    net.predict(X)
    assert bool(asked) is packed
