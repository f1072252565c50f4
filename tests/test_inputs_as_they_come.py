"""Training on data of any dtype, order and kind of memory gives what its float copy gives, without that copy."""

import tracemalloc

import numpy as np
import pytest

import fastnn
from fastnn import checks
from fastnn.kernels.cpu import JIT, amx
from fastnn.kernels.cpu.gather import READABLE
from fastnn.training_data import prepare

RNG = np.random.default_rng(11)
PIXELS = RNG.integers(0, 256, (150, 20))
y = RNG.integers(0, 3, 150)


def train(X, backend, *, scale=None, dtype="float32", validation=None):
    net = fastnn.Network([20, 9, 3], hidden="tanh", backend=backend, dtype=dtype, seed=1)
    history = net.fit(X, y, epochs=3, batch_size=40, scale=scale, validation=validation)
    return net.backend.to_numpy(net.theta), history


def assert_same(ours, theirs, kind):
    """Bit for bit, unless bytes may go to a matrix unit that the plan does not choose for floats: to rounding, of
    nine steps.
    """
    if kind == "uint8" and amx.missing() is None:
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64", "int8"])
def test_integers_equal_their_scaled_float_copy(backend, dtype, kind):
    pixels = PIXELS // 2 if kind == "int8" else PIXELS
    theta, history = train(pixels.astype(kind), backend, scale=1 / 255, dtype=dtype, validation=0.2)
    scaled = pixels.astype(dtype) * np.dtype(dtype).type(1 / 255)
    expected, other = train(scaled, backend, dtype=dtype, validation=0.2)
    assert_same(theta, expected, kind)
    assert_same(history.val_cost, other.val_cost, kind)


def test_without_a_scale_numbers_are_taken_as_they_are(backend, dtype):
    theta, _ = train(PIXELS.astype(np.uint8), backend, dtype=dtype)
    expected, _ = train(PIXELS.astype(dtype), backend, dtype=dtype)
    assert_same(theta, expected, "uint8")


@pytest.mark.parametrize(
    "make",
    [
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=1)[:, ::2],
        lambda X: X.astype(">f8"),
        lambda X: X > 0.5,
        lambda X: X.tolist(),
    ],
)
def test_order_strides_byte_order_bool_and_lists(backend, make):
    X = RNG.random((150, 20))
    theta, _ = train(make(X), backend)
    expected, _ = train(np.array(make(X), np.float32), backend)
    np.testing.assert_array_equal(theta, expected)


def test_a_read_only_memory_map_is_read_in_place(backend, tmp_path):
    np.save(tmp_path / "x.npy", PIXELS.astype(np.uint8))
    theta, _ = train(np.load(tmp_path / "x.npy", mmap_mode="r"), backend, scale=1 / 255)
    expected, _ = train(PIXELS.astype(np.uint8), backend, scale=1 / 255)
    np.testing.assert_array_equal(theta, expected)


def test_float64_that_overflows_is_named_though_it_is_not_copied(backend):
    X = RNG.random((150, 20))
    X[7, 3] = 1e39
    with pytest.raises(ValueError, match=r"X holds .*1e\+39.* at row 7, column 3, which overflows float32"):
        train(X, backend)
    X[7, 3] = np.nan
    with pytest.raises(ValueError, match="X must be finite, got nan at row 7, column 3"):
        train(X, backend)


@pytest.mark.parametrize("kind", ["uint8", "int64"])
def test_integers_that_a_scale_makes_overflow_are_named(backend, kind):
    X = np.ones((150, 20), kind)
    X[7, 3] = 100
    train(X, backend, scale=1e36)
    with pytest.raises(
        ValueError,
        match=r"X holds .*100.* at row 7, column 3, which times scale=1e\+37 overflows float32",
    ):
        train(X, backend, scale=1e37)


def test_a_divergence_on_integers_is_explained(backend):
    net = fastnn.Network([20, 9, 3], hidden="relu", output="identity", cost="squared_error", backend=backend)
    with pytest.raises(fastnn.Diverged, match=r"largest \|X\| is 255"):
        net.fit(PIXELS.astype(np.uint8), RNG.random((150, 3)), optimizer="sgd", learning_rate=10.0, epochs=50)


VIEWS = {
    "F order": np.asfortranarray,
    "every other row": lambda X: np.repeat(X, 2, axis=0)[::2],
    "every other column": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "some columns": lambda X: np.hstack([X, X])[:, : X.shape[1]],
    "rows backwards": lambda X: X[::-1].copy()[::-1],
    "both backwards": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "one row repeated": lambda X: np.broadcast_to(X[0], X.shape),
    "read-only F order": lambda X: _read_only(np.asfortranarray(X)),
}


def _read_only(X):
    X.flags.writeable = False
    return X


@pytest.mark.parametrize("kind", READABLE if JIT else ("float32", "uint8"))  # plain Python takes half a second for each
@pytest.mark.parametrize("view", VIEWS)
def test_numba_reads_views_of_every_dtype_where_they_lie(monkeypatch, view, kind):
    monkeypatch.setattr(checks, "BLOCK", 100)  # otherwise data this small is converted
    data = (
        PIXELS.astype(kind)
        if kind == "bool" or np.iinfo(np.uint8).max <= _largest(kind)
        else (PIXELS // 2).astype(kind)
    )
    X = VIEWS[view](data)
    scale = None if data.dtype.kind in "bf" else 1 / 64
    net = fastnn.Network([20, 9, 3], hidden="tanh", backend="numba", seed=1)
    assert np.shares_memory(prepare(net, X, y, None, 0, scale).x, X)
    theta, _ = train(X, "numba", scale=scale)
    expected, _ = train(np.array(X, np.float32) * np.float32(scale or 1), "numba")
    np.testing.assert_array_equal(theta, expected)


def _largest(kind):
    return np.inf if np.dtype(kind).kind == "f" else np.iinfo(kind).max


@pytest.mark.parametrize(
    "make",
    [
        lambda X: X.astype(np.float16),
        lambda X: X.astype(np.longdouble),
        lambda X: X.astype(">i4"),
        lambda X: np.frombuffer(b"." + X.astype(np.int64).tobytes(), np.int64, offset=1).reshape(X.shape),
    ],
    ids=["float16", "longdouble", "big endian", "unaligned"],
)
def test_rare_layouts_are_converted(backend, make):
    theta, _ = train(make(PIXELS), backend)
    expected, _ = train(PIXELS.astype(np.float32), backend)
    np.testing.assert_array_equal(theta, expected)


def test_numba_keeps_validation_rows_as_they_come():
    net, V = fastnn.Network([20, 9, 3], backend="numba"), PIXELS.astype(np.uint8)
    data = prepare(net, PIXELS.astype(np.uint8), y, (V, y), 0, 1 / 255)
    assert np.shares_memory(data.validation[0], V)
    assert prepare(net, V, y, 0.2, 0, 1 / 255).validation[0].dtype == np.uint8
    for bad, message in (
        (np.nan, "validation X must be finite, got nan at row 7, column 3"),
        (1e39, r"validation X holds .* at row 7, column 3, which overflows float32"),
    ):
        W = np.ones((150, 20))
        W[7, 3] = bad
        with pytest.raises(ValueError, match=message):
            prepare(net, PIXELS, y, (W, y), 0, None)


def test_small_data_in_f_order_is_converted_once():
    """Where the copy is no larger than a block, reading columns apart in every epoch would only cost time."""
    net = fastnn.Network([20, 9, 3], backend="numba")
    X = np.asfortranarray(PIXELS)
    assert not np.shares_memory(prepare(net, X, y, None, 0, None).x, X)


def _peak_of_a_fit(X):
    """Most bytes allocated at once during an epoch on X of MNIST's size, and those of parameters, gradient and
    workspace.
    """
    labels = np.arange(60_000) % 2
    net = fastnn.Network([784, 16, 16, 2], backend="numba")
    net.fit(X, labels, epochs=1, scale=1 / 255)  # compile before measuring, what this many rows need
    tracemalloc.start()
    try:
        net.fit(X, labels, epochs=1, scale=1 / 255)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return peak, 8 * 4 * net.layout.size  # theta's snapshot, gradient, two states and a copy of each; and a little


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("uint8", np.ascontiguousarray),
        ("uint8", np.asfortranarray),
        ("int16", np.ascontiguousarray),
        ("uint8", lambda X: np.repeat(X, 2, axis=0)[::2]),
    ],
    ids=["uint8", "uint8 in F order", "int16", "every other row of uint8"],
)
def test_numba_needs_less_than_half_a_copy_of_the_data_beside_it(kind, make):
    """The issue's bound is 1.5 times the bytes of uint8 data; a float32 copy alone would be 4 times."""
    X = make(np.zeros((60_000, 784), kind))
    peak, allowed = _peak_of_a_fit(X)
    assert peak < 0.5 * X.nbytes + allowed


@pytest.mark.slow
def test_numba_trains_on_a_memory_map_without_a_copy(tmp_path):
    """The pages of the map are the system's to drop; what the process allocates beside them is bounded."""
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (60_000, 784)).flush()
    X = np.load(tmp_path / "x.npy", mmap_mode="r")
    peak, allowed = _peak_of_a_fit(X)
    assert peak < 0.5 * X.nbytes + allowed
