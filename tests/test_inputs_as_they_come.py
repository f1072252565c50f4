"""Training on data of any dtype, order and kind of memory gives what its float copy gives, without that copy."""

import tracemalloc

import numpy as np
import pytest

import fastnn

RNG = np.random.default_rng(11)
PIXELS = RNG.integers(0, 256, (150, 20))
y = RNG.integers(0, 3, 150)


def train(X, backend, *, scale=None, dtype="float32", validation=None):
    net = fastnn.Network([20, 9, 3], hidden="tanh", backend=backend, dtype=dtype, seed=1)
    history = net.fit(X, y, epochs=3, batch_size=40, scale=scale, validation=validation)
    return net.backend.to_numpy(net.theta), history


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "int64", "uint32", "uint64", "int8"])
def test_integers_equal_their_scaled_float_copy(backend, dtype, kind):
    pixels = PIXELS // 2 if kind == "int8" else PIXELS
    theta, history = train(pixels.astype(kind), backend, scale=1 / 255, dtype=dtype, validation=0.2)
    scaled = pixels.astype(dtype) * np.dtype(dtype).type(1 / 255)
    expected, other = train(scaled, backend, dtype=dtype, validation=0.2)
    np.testing.assert_array_equal(theta, expected)
    assert history.val_cost == other.val_cost


def test_without_a_scale_numbers_are_taken_as_they_are(backend, dtype):
    theta, _ = train(PIXELS.astype(np.uint8), backend, dtype=dtype)
    expected, _ = train(PIXELS.astype(dtype), backend, dtype=dtype)
    np.testing.assert_array_equal(theta, expected)


@pytest.mark.parametrize("make", [np.asfortranarray, lambda X: np.repeat(X, 2, axis=1)[:, ::2], lambda X: X.astype(">f8"), lambda X: X > 0.5, lambda X: X.tolist()])
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


def test_a_divergence_on_integers_is_explained(backend):
    net = fastnn.Network([20, 9, 3], hidden="relu", output="identity", cost="squared_error", backend=backend)
    with pytest.raises(fastnn.Diverged, match=r"largest \|X\| is 255"):
        net.fit(PIXELS.astype(np.uint8), RNG.random((150, 3)), optimizer="sgd", learning_rate=10.0, epochs=50)


@pytest.mark.slow
def test_numba_needs_less_than_half_a_copy_of_uint8_data_beside_it():
    """The issue's bound is 1.5 times the bytes of the data; a float32 copy alone would be 4 times."""
    X = np.zeros((60_000, 784), np.uint8)
    X[:, 0] = np.arange(60_000) % 2
    labels = X[:, 0].astype(np.int64)
    net = fastnn.Network([784, 16, 16, 2], backend="numba")
    net.fit(X[:256], labels[:256], epochs=1, scale=1 / 255)  # compile before measuring
    tracemalloc.start()
    try:
        net.fit(X, labels, epochs=1, scale=1 / 255)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    workspace = 4 * net.layout.size * 8  # theta's snapshot, gradient, states; and a little
    # besides, a block of checks.BLOCK float32 numbers while they are looked at, and the order of rows
    assert peak < 0.5 * X.nbytes + workspace + 17 * (1 << 20)
