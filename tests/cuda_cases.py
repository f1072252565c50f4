"""What the tests of the CUDA kernels share: shapes, inputs, the kernels on the stand-in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice
from together import together
from tolerances import assert_close

from fastnn.activations import GELU, Identity, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from fastnn.kernels.cuda.launchers import Kernels

FLOATS = ["float32", "float64"]
# One element, single rows and columns, odd sizes, exact tiles, more rows than one block or chunk takes.
SHAPES = [(1, 1), (1, 5), (3, 1), (7, 33), (33, 31), (64, 64), (2, 300), (257, 10), (600, 3)]
SEEDS = (1, 22, 333)

ELEMENTWISE = [Identity(), Sigmoid(), Tanh(), ReLU(), LeakyReLU(), LeakyReLU(0.0), LeakyReLU(1.5)]
activations = pytest.mark.parametrize("g", ELEMENTWISE, ids=repr)
OF_Z = [SiLU(), GELU()]
shapes = together("shape", SHAPES)
floats = pytest.mark.parametrize("dtype", FLOATS)


def kernels(seed=1):
    return Kernels(ShimDevice(seed))


def normal(shape, dtype, seed=0, scale=3.0):
    return (np.random.default_rng([seed, *np.atleast_1d(shape)]).standard_normal(shape) * scale).astype(dtype)


def classes(m, n, seed=0):
    return np.random.default_rng([seed, m, n]).integers(0, n, m)


def spans_of(sizes):
    """(layers, 3): where a layer's weights begin in theta, where its biases begin, where it ends."""
    spans, begin = [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        spans.append((begin, begin + n_in * n_out, begin + (n_in + 1) * n_out))
        begin = spans[-1][2]
    return np.array(spans)


def places(spans, columns):
    """spans (layers, 7) of the kernels from those of theta (layers, 3) and each layer's columns; where every element of
    theta lies in a padded vector; and the length of that. Matrices begin anywhere, their rows are 1 to 4 elements
    longer than they need."""
    table, where, end = [], np.zeros(spans[-1][2], np.int64), 3
    for (weights, biases, stop), n in zip(spans, columns, strict=True):
        ld, rows = n - n % 4 + 4, (biases - weights) // n
        where[weights:biases] = (end + ld * np.arange(rows)[:, None] + np.arange(n)).ravel()
        beside = end + rows * ld + 1
        where[biases:stop] = beside + np.arange(stop - biases)
        table.append((weights, biases, stop, end, beside, n, ld))
        end = beside + stop - biases + 2
    return np.array(table), where, end


def wide(*arrays):
    return [np.asarray(x).astype(np.longdouble) for x in arrays]


def softmax_of(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def one_hot(y, n):
    return (np.arange(n) == y[:, None]).astype(np.longdouble) if y.ndim == 1 else y.astype(np.longdouble)


class Guarded:
    """An array between two margins, which must be untouched afterwards."""

    MARGIN, MARK = 512, 0xA5

    def __init__(self, content):
        content = np.ascontiguousarray(content)
        self.memory = np.full(content.nbytes + 2 * self.MARGIN, self.MARK, np.uint8)
        self.array = self.memory[self.MARGIN : self.MARGIN + content.nbytes].view(content.dtype).reshape(content.shape)
        self.array[...] = content

    def intact(self):
        return (self.memory[: self.MARGIN] == self.MARK).all() and (
            self.memory[self.MARGIN + self.array.nbytes :] == self.MARK
        ).all()


class Memory:
    """Guarded copies of arrays; `check` at the end."""

    def __init__(self):
        self.guarded, self.gaps = [], []

    def __call__(self, content):
        self.guarded.append(Guarded(content))
        return self.guarded[-1].array

    def blank(self, shape, dtype):
        return self(np.full(shape, np.nan, dtype))

    def apart(self, content):
        """A matrix with gaps between its rows, which must be untouched as well; rows begin at multiples of 8
        elements, and one in two at the next but one.
        """
        m, n = content.shape
        ld = -(-n // 8) * 8 + 8 * (m % 2)
        whole = self(np.full((m, ld * content.itemsize), Guarded.MARK, np.uint8).view(content.dtype))
        whole[:, :n] = content
        self.gaps.append(whole[:, n:])
        return whole[:, :n]

    def check(self):
        assert all((np.ascontiguousarray(gap).view(np.uint8) == Guarded.MARK).all() for gap in self.gaps), (
            "a kernel wrote between rows"
        )
        assert all(g.intact() for g in self.guarded), "a kernel wrote outside its arrays"


def close(actual, expected, magnitude, ulps):
    dtype = actual.dtype
    assert_close(actual, expected, ulps * np.finfo(dtype).eps * np.abs(magnitude) + np.finfo(dtype).tiny, dtype=dtype)


def g_of(g, z):
    if isinstance(g, Sigmoid):
        e = np.exp(-np.abs(z))
        return np.where(z < 0, e, 1) / (1 + e)
    if isinstance(g, Tanh):
        return np.tanh(z)
    if isinstance(g, (ReLU, LeakyReLU)):
        return np.where(z > 0, z, np.longdouble(np.float32(g.parameter) if z.dtype == np.float32 else g.parameter) * z)
    return z


def slope_of(g, a):
    """g' in extended precision, from the a that the kernel was given, which is g' of silu and gelu."""
    if g.of_z:
        return a
    if isinstance(g, Sigmoid):
        return a * (1 - a)
    if isinstance(g, Tanh):
        return 1 - a * a
    if isinstance(g, (ReLU, LeakyReLU)):
        return np.where(a > 0, 1, np.longdouble(g.parameter))
    return np.ones_like(a)
