"""The products of kernels/cpu/panels.py as tests call them, on matrices that they pack themselves."""

import ctypes

import numpy as np
from hypothesis import strategies as st

from fastnn.backends.host import aligned
from fastnn.kernels.cpu import JIT, panels

EXTRA = panels.AHEAD
UNTOUCHED = 12345.0
EXAMPLES = 60 if JIT else 20
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([63, 64, 65, 100, 127, 128, 129, 200]))


def call(which, dtype, *arguments):
    """One of the four by its address, as C; without JIT the Python function."""
    zero = np.dtype(dtype).type(0)
    numbers = [int(x.ctypes.data) if isinstance(x, np.ndarray) else x for x in arguments]
    if not JIT:
        with np.errstate(all="ignore"):  # as compiled code, which does not warn
            return (panels._apply, panels._gradient, panels._transpose, panels._dots)[which](zero, *numbers)
    real = ctypes.c_float if dtype == "float32" else ctypes.c_double
    kinds = [real, *([ctypes.c_int64] * (14, 11, 8, 7)[which]), *([real, real] if which == 1 else [])]
    return ctypes.CFUNCTYPE(None, *kinds)(int(panels.kernels(dtype)[which]))(0.0, *numbers)


def packed(matrix, dtype):
    """A matrix (depth, n) in panels, flat, padded with zeros; its padded width."""
    depth, n = matrix.shape
    width = panels.padded(n, dtype)
    whole = np.zeros((depth, width), dtype)
    whole[:, :n] = matrix
    flat = aligned((depth * width,), dtype)
    flat[...] = np.concatenate([whole[:, columns].ravel() for columns in panels.panels_of(width, dtype)])
    return flat, width


def unpacked(flat, depth, width, dtype):
    parts, first = [], 0
    for columns in panels.panels_of(width, dtype):
        across = columns.stop - columns.start
        parts.append(flat[first : first + depth * across].reshape(depth, across))
        first += depth * across
    return np.concatenate(parts, axis=1)


def rows_of(rows, width, dtype):
    """(rows, width), which lie as far apart as those of activations do; and all of their memory."""
    memory = aligned((rows, panels.spaced(width, np.dtype(dtype).itemsize)), dtype)
    memory[...] = UNTOUCHED
    return memory[:, :width], memory


def step_of(rows):
    """Numbers from one row to the next."""
    return rows.strides[0] // rows.itemsize


def numbers(rng, shape, dtype):
    x = aligned(shape, dtype)
    x[...] = rng.standard_normal(shape)
    return x


def rows_anywhere(rng, m, depth, dtype):
    """(data, places, rows): m rows of a table in an order of their own, with places for the rows that a tile may
    add.
    """
    table = numbers(rng, (m + 3, depth), dtype)
    chosen = rng.permutation(m + 3)[:m]
    places = np.concatenate([chosen, np.full(3 * EXTRA + m, chosen[-1])]).astype(np.int64) * depth
    return table, places, table[chosen]


def bound(dtype, a, b):
    """Of a product of so many terms: eps for each, times the product of absolute values."""
    terms = a.shape[1] + 2
    return (
        terms * np.finfo(dtype).eps * (np.abs(a).astype(np.longdouble) @ np.abs(b).astype(np.longdouble))
        + np.finfo(dtype).tiny
    )
