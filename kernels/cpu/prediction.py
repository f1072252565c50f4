"""The outputs of a network for many rows or for one, in one compiled call.

One row is a matrix times a vector in each layer, read once from memory: a loop of its own does that
without BLAS, which might wake its threads for it. More rows go through BLAS in tiles.

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

__all__ = ["prediction"]


def _matrix_vector(W, x, z):
    """Overwrites z (n,) with W (n, k) x (k,); four rows of W at a time."""
    n, k = W.shape
    zero = W.dtype.type(0)
    whole = n - n % 4
    for j in range(0, whole, 4):
        w0, w1, w2, w3 = W[j], W[j + 1], W[j + 2], W[j + 3]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for p in range(k):
            v = x[p]
            s0 += w0[p] * v
            s1 += w1[p] * v
            s2 += w2[p] * v
            s3 += w3[p] * v
        z[j] = s0
        z[j + 1] = s1
        z[j + 2] = s2
        z[j + 3] = s3
    for j in range(whole, n):
        w = W[j]
        s = zero
        for p in range(k):
            s += w[p] * x[p]
        z[j] = s


_matrix_vector = compiled(_matrix_vector)


def _finite(X):
    """Whether every element is finite: the largest |x| is no infinity, and no comparison met a NaN."""
    flat = X.ravel()
    limit = flat.dtype.type(np.inf)
    fine = True
    for i in range(flat.size):
        fine &= abs(flat[i]) < limit
    return fine


_finite = compiled(_finite)


def _predict(X, sizes, offsets, starts, codes, slopes, theta, a, out):
    """Overwrites out (m, s_L) with a^(L). Returns whether X is finite; if not, out is unfinished."""
    if not _finite(X):
        return False
    layers = sizes.size - 1
    capacity = a.size // starts[layers]
    for begin in range(0, X.shape[0], capacity):
        m = min(capacity, X.shape[0] - begin)
        for layer in range(layers):
            W, b = _weights(theta, offsets, sizes, layer), _biases(theta, offsets, sizes, layer)
            z = _rows_of(a, starts[layer], capacity, sizes[layer + 1], 0, m)
            if layer == 0 and m == 1:
                _matrix_vector(W, X[begin], z[0])
            elif layer == 0:
                gemm_nt(X[begin : begin + m], W, z, 1.0, 0.0)
            else:
                x = _rows_of(a, starts[layer - 1], capacity, sizes[layer], 0, m)
                if m == 1:
                    _matrix_vector(W, x[0], z[0])
                else:
                    gemm_nt(x, W, z, 1.0, 0.0)
            activate(codes[layer], slopes[layer], z, b)
            if layer == layers - 1:
                copy(z, out[begin : begin + m])
    return True


def _signature(name):
    real, indices = getattr(types, name), types.Array(types.int64, 1, "C")
    vector, rows = types.Array(real, 1, "C"), types.Array(real, 2, "C", readonly=True)
    return types.boolean(rows, indices, indices, indices, indices, vector, vector, vector, types.Array(real, 2, "C"))


prediction = per_dtype(_predict, _signature)
