"""Row-major matrix products inside compiled code, through a BLAS of the process's choice.

Compiled code calls the symbols `fastnn_sgemm` and `fastnn_dgemm`; `bind` says at which addresses they
lie, before the first product is compiled or read from disk. Only the names are in the code on disk,
so it serves every BLAS. Unlike np.dot this takes beta, so Delta accumulates in place, and leading
dimensions, so no operand is copied. `probe` multiplies once before the engine is trusted.

A row-major matrix is its transpose to column-major BLAS, so each product below asks for the
transpose of the result: C = A B^T becomes C' = B A' and so on.
"""

from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from scipy.linalg import cython_blas

from . import JIT, compiled

__all__ = ["bind", "gemm_nn", "gemm_nt", "gemm_tn", "gemm_tn_columns", "probe", "scipy_addresses"]

_SYMBOLS = {types.float32: "fastnn_sgemm", types.float64: "fastnn_dgemm"}


def scipy_addresses() -> tuple[int, int]:
    """Where SciPy's sgemm and dgemm lie: the pointers it publishes for Cython, of Fortran's interface."""
    name, pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name.restype, name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    capsules = [cython_blas.__pyx_capi__[product] for product in ("sgemm", "dgemm")]
    sgemm, dgemm = (pointer(capsule, name(capsule)) for capsule in capsules)
    return sgemm, dgemm


def bind(sgemm: int, dgemm: int) -> None:
    """Addresses of the products for all code compiled or read from disk from now on; what already is, keeps its own."""
    for symbol, address in zip(_SYMBOLS.values(), (sgemm, dgemm), strict=True):
        binding.add_symbol(symbol, address)


bind(*scipy_addresses())


@intrinsic
def _gemm(typingctx, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """C = alpha op(A) op(B) + beta C, column by column, as BLAS has it: characters as integers, a, b, c arrays of
    one float dtype.
    """
    real = c.dtype
    whole, pointer = types.int64, ir.IntType(8).as_pointer()

    def codegen(context, builder, signature, args):
        given = dict(
            zip(
                ("transa", "transb", "m", "n", "k", "alpha", "a", "lda", "b", "ldb", "beta", "c", "ldc"),
                zip(args, signature.args, strict=True),
                strict=True,
            )
        )

        def address(name):
            value, kind = given[name]
            if isinstance(kind, types.Array):
                place = context.make_array(kind)(context, builder, value).data
            else:
                # BLAS reads scalars through pointers. A slot of 64 bits, little-endian, is read rightly by one
                # that takes characters, 32-bit integers or 64-bit ones.
                place = cgutils.alloca_once(builder, value.type)
                builder.store(value, place)
            return builder.bitcast(place, pointer)

        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [pointer] * 13), _SYMBOLS[real]
        )
        builder.call(function, [address(name) for name in given])
        return context.get_dummy_value()

    return types.void(whole, whole, whole, whole, whole, real, a, whole, b, whole, real, c, whole), codegen


_N, _T = ord("N"), ord("T")


def _python_product(a, b, out, alpha, beta):
    """Without JIT: out = alpha a b + beta out, with BLAS' rule that beta = 0 ignores what out held."""
    alpha, beta = out.dtype.type(alpha), out.dtype.type(beta)
    if beta:
        out *= beta
        out += alpha * (a @ b)
    else:
        out[...] = alpha * (a @ b)


if JIT:

    def _nt(a, b, out, alpha, beta):
        m, k = a.shape
        n = b.shape[0]
        _gemm(_T, _N, n, m, k, alpha, b, k, a, k, beta, out, n)

    def _nn(a, b, out, alpha, beta):
        m, k = a.shape
        n = b.shape[1]
        _gemm(_N, _N, n, m, k, alpha, b, n, a, k, beta, out, n)

    def _tn_columns(a, first, last, b, out, alpha, beta):
        k, m = a.shape
        n = b.shape[1]
        _gemm(_N, _T, n, last - first, k, alpha, b, n, a.ravel()[first:], m, beta, out.ravel()[first * n :], n)

else:

    def _nt(a, b, out, alpha, beta):
        _python_product(a, b.T, out, alpha, beta)

    def _nn(a, b, out, alpha, beta):
        _python_product(a, b, out, alpha, beta)

    def _tn_columns(a, first, last, b, out, alpha, beta):
        _python_product(a.T[first:last], b, out[first:last], alpha, beta)


# Each: a, b, out C-contiguous of one dtype; alpha, beta: numbers, rounded to that dtype. No dimension
# may exceed 2^31 - 1, which is for the caller to see to.
gemm_nt = compiled(_nt)  # out (m, n) = alpha a (m, k) b (n, k)^T + beta out
gemm_nn = compiled(_nn)  # out (m, n) = alpha a (m, k) b (k, n) + beta out
gemm_tn_columns = compiled(_tn_columns)  # rows first..last of out (m, n) = alpha a (k, m)^T b (k, n) + beta out


def _tn(a, b, out, alpha, beta):
    gemm_tn_columns(a, 0, a.shape[1], b, out, alpha, beta)


gemm_tn = compiled(_tn)  # out (m, n) = alpha a (k, m)^T b (k, n) + beta out


def probe() -> str | None:
    """Multiply once in each precision and compare with NumPy; the reason why not, or None."""
    for dtype in ("float32", "float64"):
        a = np.arange(6, dtype=dtype).reshape(2, 3)
        b = np.arange(12, dtype=dtype).reshape(4, 3)
        out = np.ones((2, 4), dtype)
        gemm_nt(a, b, out, 1.0, 2.0)
        if not np.array_equal(out, a @ b.T + 2):
            return f"the product of {dtype} matrices inside compiled code returned wrong numbers"
    return None
