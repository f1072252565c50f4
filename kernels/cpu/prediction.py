"""The outputs of a network for a few rows, or for any number where the parameters are too many for panels: one compiled
call, BLAS on tiles of rows.

Memory, all C-contiguous of the network's dtype, given by the caller:
  X (m, s_1), out (m, s_L), theta (P,), a (capacity * (s_2 + ... + s_L),)
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import compiled, per_dtype
from .gemm import gemm_nt
from .operations import activate, copy
from .program import _biases, _rows_of, _weights

__all__ = ["finite", "first_finite", "prediction"]


def _finite(X):
    """Whether every element is finite: the largest |x| is no infinity, and no comparison met a NaN."""
    flat = X.ravel()
    limit = flat.dtype.type(np.inf)
    fine = True
    for i in range(flat.size):
        fine &= abs(flat[i]) < limit
    return fine


def _first_finite(z):
    """Whether the first number of each row is finite. Of z = W x + b each is NaN or infinite if one of x is,
    whatever W; the reverse may be overflow.
    """
    limit = z.dtype.type(np.inf)
    fine = True
    for i in range(z.shape[0]):
        fine &= abs(z[i, 0]) < limit
    return fine


finite, first_finite = compiled(_finite), compiled(_first_finite)


def _predict(X, sizes, offsets, starts, codes, slopes, theta, a, out):
    """Overwrites out (m, s_L) with a^(L). Returns whether X is finite; if not, out is unfinished."""
    if not finite(X):
        return False
    layers = sizes.size - 1
    capacity = a.size // starts[layers]
    for begin in range(0, X.shape[0], capacity):
        m = min(capacity, X.shape[0] - begin)
        for layer in range(layers):
            W, b = _weights(theta, offsets, sizes, layer), _biases(theta, offsets, sizes, layer)
            z = _rows_of(a, starts[layer], capacity, sizes[layer + 1], 0, m)
            if layer == 0:
                gemm_nt(X[begin : begin + m], W, z, 1.0, 0.0)
            else:
                gemm_nt(_rows_of(a, starts[layer - 1], capacity, sizes[layer], 0, m), W, z, 1.0, 0.0)
            activate(codes[layer], slopes[layer], z, b)
            if layer == layers - 1:
                copy(z, out[begin : begin + m])
    return True


def _signature(name):
    real, indices = getattr(types, name), types.Array(types.int64, 1, "C")
    vector, rows = types.Array(real, 1, "C"), types.Array(real, 2, "C", readonly=True)
    return types.boolean(rows, indices, indices, indices, indices, vector, vector, vector, types.Array(real, 2, "C"))


prediction = per_dtype(_predict, _signature)
