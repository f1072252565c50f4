"""Rows of the data as they come, converted and scaled on their way into the workspace.

X may be of any integer or float dtype and have any strides; nothing of it is ever copied whole. A
*reader* is a C function for one dtype of X and one of the workspace, compiled when that pair is first
met (a fraction of a second, kept on disk) and handed to the program as an address, so that the program
is compiled once for all dtypes. Rows are asked for a few ahead of their use, because a shuffled order
gives the processor nothing to guess from.
"""

from __future__ import annotations

import ctypes
import functools

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from . import JIT, compiled, exported, once, part
from .team import prefetch_at

__all__ = ["READABLE", "convert_rows", "gather", "gather_rows", "reader", "source_of"]

# Not float16, longdouble or foreign byte order: those are rare, and converted by the caller.
READABLE = ("float32", "float64", "bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")

_AHEAD = 4  # rows asked for before they are copied; measured best of 1, 2, 4, 8


def _gather(values, rows, x):
    """Overwrites x (m, n) with values[rows], of one dtype."""
    m, n = x.shape
    for i in range(m):
        source = values[rows[i]]
        for j in range(n):
            x[i, j] = source[j]


gather = compiled(_gather)


def source_of(X):
    """Where X (N, n) lies, as `gather_rows` takes it: address, bytes from row to row, from column to column, and of
    a number. X must outlive its use.
    """
    return np.array([X.__array_interface__["data"][0], *X.strides, X.itemsize], np.int64)


@intrinsic
def _moved(typingctx, pointer, count):
    """The pointer, so many bytes further."""

    def codegen(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        return builder.bitcast(builder.gep(builder.bitcast(args[0], byte), [args[1]]), args[0].type)

    return pointer(pointer, types.intp), codegen


def _read_rows(data, row_step, column_step, itemsize, scale, rows, m, n, x):
    """Overwrites x (m, n) with scale times those rows of the data. Pointers: data to X[0, 0], rows to m row numbers, x
    to m * n numbers.

    Steps are in bytes. Where a row's numbers lie side by side the compiler vectorises; elsewhere each is
    fetched on its own.
    """
    numbers, target = numba.carray(rows, m), numba.carray(x, (m, n))
    kind = target.dtype.type
    if column_step == itemsize:
        for i in range(min(_AHEAD, m)):
            prefetch_at(_moved(data, numbers[i] * row_step), n * itemsize)
        for i in range(m):
            if i + _AHEAD < m:
                prefetch_at(_moved(data, numbers[i + _AHEAD] * row_step), n * itemsize)
            source, row = numba.carray(_moved(data, numbers[i] * row_step), n), target[i]
            for j in range(n):
                row[j] = kind(source[j]) * scale
    else:
        for i in range(m):
            first = _moved(data, numbers[i] * row_step)
            for j in range(n):
                target[i, j] = kind(numba.carray(_moved(first, j * column_step), 1)[0]) * scale


@once
def _compiled(data_dtype, dtype):
    """The reader of X of one dtype into a workspace of another, once per process: its code must not be freed."""
    number = types.uint8 if data_dtype == "bool" else getattr(types, data_dtype)
    real, step = getattr(types, dtype), types.intp
    signature = types.void(
        types.CPointer(number), step, step, step, real, types.CPointer(types.int64), step, step, types.CPointer(real)
    )
    return exported(_read_rows, signature)


def reader(data_dtype, dtype):
    """The reader of X of one dtype into a workspace of another, as `gather_rows` takes it: the address of its code."""
    key = np.dtype(data_dtype).name, np.dtype(dtype).name
    return _compiled(*key).address if JIT else READABLE.index(key[0])


def convert_rows(X, scale, x):
    """Overwrites x (m, n), C-contiguous, with scale times X (m, n), whose dtype is one of READABLE; any strides.
    Other threads run meanwhile.
    """
    if not JIT:
        with np.errstate(over="ignore"):
            x[...] = X
            x *= x.dtype.type(scale)
        return
    rows = np.arange(len(X))
    _from_python(X.dtype.name, x.dtype.name)(
        X.ctypes.data, *X.strides, X.itemsize, scale, rows.ctypes.data, *X.shape, x.ctypes.data
    )


@functools.cache
def _from_python(data_dtype, dtype):
    pointer, step = ctypes.c_void_p, ctypes.c_ssize_t
    kind = ctypes.CFUNCTYPE(
        None, pointer, step, step, step, ctypes.c_float if dtype == "float32" else ctypes.c_double, pointer, step, step,
        pointer,
    )  # fmt: skip
    return kind(reader(data_dtype, dtype))


@intrinsic
def _call(typingctx, function, data, row_step, column_step, itemsize, scale, rows, m, n, x):
    """Calls the reader at an address; data, rows and x are addresses too."""

    def codegen(context, builder, signature, args):
        kinds = [value.type for value in args[1:]]
        address = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())
        builder.call(address, args[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 5, scale, *[types.intp] * 4), codegen


if JIT:

    def _gather_rows(source, read, scale, rows, x):
        """Overwrites x (m, n) with scale times those rows of the data.

        source (4,): from `source_of`; read: from `reader`, of the data's and x's dtype; scale: of x's dtype.
        """
        m, n = x.shape
        _call(read, source[0], source[1], source[2], source[3], scale, rows.ctypes.data, m, n, x.ctypes.data)

    gather_rows = part(_gather_rows)
else:

    class _At:
        """Memory at an address, as NumPy takes it."""

        def __init__(self, address, dtype, shape, strides):
            self.__array_interface__ = {
                "version": 3,
                "data": (address, True),
                "typestr": np.dtype(dtype).str,
                "shape": shape,
                "strides": strides,
            }

    def gather_rows(source, read, scale, rows, x):
        """The same without compiled code."""
        address, row_step, column_step, _ = source.tolist()
        X = np.asarray(_At(address, READABLE[read], (int(rows.max()) + 1, x.shape[1]), (row_step, column_step)))
        x[...] = X[rows].astype(x.dtype) * scale
