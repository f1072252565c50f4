"""Row-major matrix products inside compiled code, through the BLAS that Numba's np.dot uses (SciPy's).

`numba_xxgemm` is private to Numba but is all that np.dot is made of; unlike np.dot it takes beta, so
Delta accumulates in place, and leading dimensions, so no operand is copied. `probe` multiplies once
before it is trusted.

A row-major matrix is its transpose to column-major BLAS, so each product below asks for the
transpose of the result: C = A B^T becomes C' = B A' and so on.
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import JIT, compiled

__all__ = ["gemm_nn", "gemm_nt", "gemm_tn", "gemm_tn_columns", "probe"]

_N, _T = np.uint8(ord("N")), np.uint8(ord("T"))
_KIND = {np.dtype(np.float32): np.uint8(ord("s")), np.dtype(np.float64): np.uint8(ord("d"))}
_S, _D = _KIND.values()

_SIGNATURE = types.intc(
    types.char, types.char, types.char, types.intp, types.intp, types.intp,
    types.voidptr, types.voidptr, types.intp, types.voidptr, types.intp, types.voidptr, types.voidptr, types.intp,
)  # fmt: skip
_xxgemm = types.ExternalFunction("numba_xxgemm", _SIGNATURE)


def _kind(a):
    return _S if a.itemsize == 4 else _D


def _python_product(a, b, out, alpha, beta):
    """Without JIT: out = alpha a b + beta out, with BLAS' rule that beta = 0 ignores what out held."""
    if beta:
        out *= beta
        out += alpha * (a @ b)
    else:
        out[...] = alpha * (a @ b)
    return 0


if JIT:
    _kind = compiled(_kind)

    def _nt(a, b, out, alpha, beta):
        m, k = a.shape
        n = b.shape[0]
        return _xxgemm(_kind(a), _T, _N, n, m, k, alpha.ctypes, b.ctypes, k, a.ctypes, k, beta.ctypes, out.ctypes, n)

    def _nn(a, b, out, alpha, beta):
        m, k = a.shape
        n = b.shape[1]
        return _xxgemm(_kind(a), _N, _N, n, m, k, alpha.ctypes, b.ctypes, n, a.ctypes, k, beta.ctypes, out.ctypes, n)

    def _tn_columns(a, first, last, b, out, alpha, beta):
        k, m = a.shape
        n = b.shape[1]
        left, target = a.ravel()[first:], out.ravel()[first * n :]
        return _xxgemm(_kind(a), _N, _T, n, last - first, k, alpha.ctypes, b.ctypes, n, left.ctypes, m, beta.ctypes, target.ctypes, n)

else:

    def _nt(a, b, out, alpha, beta):
        return _python_product(a, b.T, out, alpha[0], beta[0])

    def _nn(a, b, out, alpha, beta):
        return _python_product(a, b, out, alpha[0], beta[0])

    def _tn_columns(a, first, last, b, out, alpha, beta):
        return _python_product(a.T[first:last], b, out[first:last], alpha[0], beta[0])


# Each: a, b, out C-contiguous of one dtype; alpha, beta: one-element views of that dtype, because
# BLAS reads them through pointers. Returns BLAS' status, 0 if all is well.
gemm_nt = compiled(_nt)  # out (m, n) = a (m, k) b (n, k)^T + beta out
gemm_nn = compiled(_nn)  # out (m, n) = a (m, k) b (k, n) + beta out
gemm_tn_columns = compiled(_tn_columns)  # rows first..last of out (m, n) = a (k, m)^T b (k, n) + beta out


def _tn(a, b, out, alpha, beta):
    return gemm_tn_columns(a, 0, a.shape[1], b, out, alpha, beta)


gemm_tn = compiled(_tn)  # out (m, n) = a (k, m)^T b (k, n) + beta out


def probe() -> str | None:
    """Multiply once in each precision and compare with NumPy; the reason why not, or None."""
    for dtype in _KIND:
        a = np.arange(6, dtype=dtype).reshape(2, 3)
        b = np.arange(12, dtype=dtype).reshape(4, 3)
        out = np.ones((2, 4), dtype)
        one, two = np.ones(1, dtype), np.full(1, 2, dtype)
        status = gemm_nt(a, b, out, one, two)
        if status != 0 or not np.array_equal(out, a @ b.T + 2):
            return f"Numba's product of {dtype} matrices returned status {status} or wrong numbers"
    return None
