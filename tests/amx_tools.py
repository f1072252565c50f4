"""What the tests of products on the matrix unit share."""

import numpy as np
import pytest

import fastnn
from fastnn.backends.host import aligned
from fastnn.kernels.cpu import amx

needs_unit = pytest.mark.skipif(amx.missing() is not None, reason=f"no matrix unit: {amx.missing()}")

# (m, n_in, n_out): some with one piece of everything and less, rows for several errands, and weights beyond the cache,
# whose rows are laid out many at a time.
SHAPES = [(1, 1, 1), (16, 32, 16), (17, 33, 15), (70, 100, 50), (129, 784, 100), (33, 5, 130), (250, 1100, 380)]
ERRAND = np.zeros(amx.ERRAND, np.int64)


def room(count):
    return aligned((int(count),), np.float32, np.zeros)


def at(x):
    return np.int64(x.ctypes.data)


def pieces(rows, depth):
    return -(-rows // amx.SIDE) * -(-depth // amx.INPUTS) * amx.PIECE // 4


def trained(backend, sizes, X, y, hidden, optimizer, batch_size, *, scale=None, **options):
    net = fastnn.Network(sizes, hidden=hidden, backend=backend, dtype="float32", seed=1, **options)
    net.fit(X, y, optimizer=optimizer, learning_rate=0.01, batch_size=batch_size, epochs=2, scale=scale)
    return net
