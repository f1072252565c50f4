"""What the tests of the CUDA kernels share: shapes, inputs, the kernels on the stand-in."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice

from fastnn.kernels.cuda.launchers import Kernels

FLOATS = ["float32", "float64"]
# One element, single rows and columns, odd sizes, exact tiles, more rows than one block or chunk takes.
SHAPES = [(1, 1), (1, 5), (3, 1), (7, 33), (33, 31), (64, 64), (2, 300), (257, 10), (600, 3)]
SEEDS = (1, 22, 333)

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
floats = pytest.mark.parametrize("dtype", FLOATS)


def kernels(seed=1):
    return Kernels(ShimDevice(seed))


def normal(shape, dtype, seed=0, scale=3.0):
    return (np.random.default_rng([seed, *np.atleast_1d(shape)]).standard_normal(shape) * scale).astype(dtype)


def classes(m, n, seed=0):
    return np.random.default_rng([seed, m, n]).integers(0, n, m)


def wide(*arrays):
    return [np.asarray(x).astype(np.longdouble) for x in arrays]


def softmax_of(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def one_hot(y, n):
    return (np.arange(n) == y[:, None]).astype(np.longdouble) if y.ndim == 1 else y.astype(np.longdouble)
