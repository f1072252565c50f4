"""Products of layers that stay in the cache, where a call of BLAS costs too much or reads them too slowly.

A matrix of weights is stored for this in *panels*: inputs down, outputs across, padded with zeros to whole
vectors and cut into panels of at most four vectors (64 in float32 with AVX-512) outputs, one panel after another; the biases are the last row. So a
row of a panel is a few vector registers, and a panel is read in one sweep. Three products work on panels:

    apply      out_i = bias + sum_k x_ik M_k        rows of x anywhere in memory, so shuffled data is not copied
    gradient   M_k = keep M_k + share sum_i x_ik d_i   Delta, or with share = -alpha/m the whole step
    transpose  T = M^T                              for delta Theta, which is again an `apply`

Sums run over k, and over i, in an order that does not depend on the other rows. The tiles in registers are in
kernels/cpu/panel_code.py; here is which tile is used where. Without JIT, NumPy does the same on the same memory.
"""

from __future__ import annotations

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from . import JIT, compiled, exported, part
from .panel_code import DEPTHS, FETCH, MOST, PANEL, ROWS, VECTOR, apply_tile, gradient_tile, lanes, padded, panels_of, tile_of, transpose_block

__all__ = ["AHEAD", "PANEL", "address", "apply", "gradient", "itemsize", "kernels", "lanes", "padded", "panels_of", "rows_at", "transpose", "vector_at"]

AHEAD = 8  # rows beyond the last that `apply` may read and overwrite
_I64 = ir.IntType(64)

_R1, _R2, _R3 = ROWS[1], ROWS[2], ROWS[MOST]
_D1, _D2, _D3 = DEPTHS[1], DEPTHS[2], DEPTHS[MOST]


def _address(x):
    """Where an array begins."""
    return np.int64(x.ctypes.data)


if JIT:
    _tile_of = compiled(tile_of)

    @intrinsic
    def _itemsize(typingctx, real):
        """Bytes of a number."""
        size = real.bitwidth // 8
        return types.int64(real), lambda context, builder, signature, args: _I64(size)

    @intrinsic
    def _pointer(typingctx, address, real):
        """The address as a pointer to numbers of real's type."""

        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(real)(types.int64, real), codegen

    def _vector_at(place, zero, n):
        return numba.carray(_pointer(place, zero), (n,))

    def _rows_at(place, zero, m, n):
        return numba.carray(_pointer(place, zero), (m, n))

    def _apply(zero, x, places, m, ahead, listed, M, M_rows, width, depth, nothing, out):
        size = itemsize(zero)
        vectors = width * size // VECTOR
        rows = _R1 if vectors == 1 else (_R2 if vectors == 2 else _R3)
        if m == 1:
            rows = 1
        # One panel after another, all rows through each, so that the panel stays in the cache.
        for v in range(0, vectors, MOST):
            q = min(MOST, vectors - v)
            panel, across = M + v * M_rows * VECTOR, q * VECTOR // size
            bias = nothing if nothing != 0 else panel + depth * q * VECTOR
            tile = _tile_of(m == 1, vectors, q)
            for i in range(0, m, rows):
                here = places + 8 * i
                coming = here + 8 * ahead if v == 0 and ahead > 0 and i + ahead < listed else 0
                to = out + i * width * size + v * VECTOR
                apply_tile(tile, zero, x, here, coming, panel, across, depth, bias, to, width)

    def _gradient(zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        size = itemsize(zero)
        vectors = width * size // VECTOR
        step = _D1 if vectors == 1 else (_D2 if vectors == 2 else _D3)
        whole = count - count % step
        for v in range(0, vectors, MOST):
            q = min(MOST, vectors - v)
            across = q * VECTOR // size
            panel, d_v = M + v * M_rows * VECTOR + first * q * VECTOR, d + v * VECTOR
            k = 0
            while k < count:
                x_k, to = x + k * size, panel + k * q * VECTOR
                wanted = asked if v == 0 and k * size % FETCH == 0 else 0
                tile = _tile_of(k >= whole, vectors, q)
                gradient_tile(tile, zero, x_k, places, m, coming, wanted, d_v, width, to, across, share, keep)
                k += step if k < whole else 1

    def _place(size, v, k, M_rows, width):
        """Bytes from a matrix' begin to row k of its vector v, and from that row to the next."""
        count = VECTOR // size
        panel = v - v % MOST
        across = min(MOST, width // count - panel)
        return (panel * M_rows + k * across + v - panel) * VECTOR, across * count

    _place = compiled(_place)

    def _transpose(zero, M, M_rows, width, depth, nothing, T, T_width):
        size = itemsize(zero)
        count = VECTOR // size
        for k in range(0, depth, count):
            for v in range(width // count):
                at, stride = _place(size, v, k, M_rows, width)
                to, T_stride = _place(size, k // count, v * count, width, T_width)
                transpose_block(zero, M + at, stride, depth - k, nothing, T + to, T_stride)

else:

    def _itemsize(zero):
        return zero.itemsize

    def _at(place, dtype, shape):
        class Memory:
            __array_interface__ = {"version": 3, "data": (int(place), False), "typestr": np.dtype(dtype).str, "shape": tuple(int(n) for n in shape)}  # noqa: RUF012

        return np.asarray(Memory())

    def _vector_at(place, zero, n):
        return _at(place, zero.dtype, (n,))

    def _rows_at(place, zero, m, n):
        return _at(place, zero.dtype, (m, n))

    def _gathered(zero, x, places, m, depth):
        return np.stack([_at(x + first * zero.itemsize, zero.dtype, (depth,)) for first in _at(places, np.int64, (m,))]) if m else np.empty((0, depth), zero.dtype)

    def _panels_of(zero, M, M_rows, width):
        """[(columns, view (M_rows, columns))] of a matrix."""
        return [(cut, _rows_at(M + cut.start * M_rows * zero.itemsize, zero, M_rows, cut.stop - cut.start)) for cut in panels_of(width, zero.dtype)]

    def _apply(zero, x, places, m, ahead, listed, M, M_rows, width, depth, nothing, out):
        rows, target = _gathered(zero, x, places, m, depth), _rows_at(out, zero, m, width)
        for columns, panel in _panels_of(zero, M, M_rows, width):
            target[:, columns] = rows @ panel[:depth] + (0 if nothing else panel[depth])

    def _gradient(zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        total = share * (_gathered(zero, x, places, m, count).T @ _rows_at(d, zero, m, width))
        for columns, panel in _panels_of(zero, M, M_rows, width):
            panel[first : first + count] = keep * panel[first : first + count] + total[:, columns] if keep else total[:, columns]

    def _transpose(zero, M, M_rows, width, depth, nothing, T, T_width):
        whole = np.concatenate([panel[:depth] for _, panel in _panels_of(zero, M, M_rows, width)], axis=1)
        for columns, panel in _panels_of(zero, T, width, T_width):
            part_of = whole[columns].T
            panel[:, : part_of.shape[1]], panel[:, part_of.shape[1] :] = part_of, 0


itemsize = _itemsize  # bytes of a number
address = compiled(_address)
vector_at = compiled(_vector_at)  # the n numbers at an address, as an array
rows_at = compiled(_rows_at)  # the (m, n) numbers at an address, as an array

# The products. Everything is given by address, because making views of arrays costs more than a small product. `panels`: from
# `kernels`; zero: a number of the dtype; x: numbers; places: int64, where each row begins in x, in numbers, for m + AHEAD rows;
# M (M_rows, width) in panels, width a multiple of lanes(dtype); out (m + AHEAD, width) and d (m, width) row after row.
#
# apply:     out[i] = bias + sum_k x_ik M[k] for i < m, k < depth, where the bias is M[depth], or `nothing` (zeros) unless that is 0;
#            rows up to m + AHEAD of out may be overwritten. ahead: while a row is used, ask for the lines of the row so many further, 0 for none,
#            as far as there are `listed` in places and AHEAD more
# gradient:  M[first + k] = keep M[first + k] + share sum_i x_ik d[i] for k < count; M is not read where keep is 0.
#            coming, asked: meanwhile ask for the lines of so many other rows
# transpose: T (width, T_width) = M[:depth]^T, zero in the columns from depth on; nothing: a vector of zeros
if JIT:

    @intrinsic
    def _call_apply(typingctx, function, zero, x, places, m, ahead, listed, M, M_rows, width, depth, nothing, out):
        return types.void(types.int64, zero, *[types.int64] * 11), _called

    @intrinsic
    def _call_gradient(typingctx, function, zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        return types.void(types.int64, zero, *[types.int64] * 11, zero, zero), _called

    @intrinsic
    def _call_transpose(typingctx, function, zero, M, M_rows, width, depth, nothing, T, T_width):
        return types.void(types.int64, zero, *[types.int64] * 7), _called

    def _called(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    def _by_address_apply(panels, zero, x, places, m, ahead, listed, M, M_rows, width, depth, nothing, out):
        _call_apply(panels[0], zero, x, places, m, ahead, listed, M, M_rows, width, depth, nothing, out)

    def _by_address_gradient(panels, zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        _call_gradient(panels[1], zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep)

    def _by_address_transpose(panels, zero, M, M_rows, width, depth, nothing, T, T_width):
        _call_transpose(panels[2], zero, M, M_rows, width, depth, nothing, T, T_width)

    apply, gradient, transpose = part(_by_address_apply), part(_by_address_gradient), part(_by_address_transpose)
else:

    def apply(panels, *arguments):
        """The same in NumPy."""
        _apply(*arguments)

    def gradient(panels, *arguments):
        """The same in NumPy."""
        _gradient(*arguments)

    def transpose(panels, *arguments):
        """The same in NumPy."""
        _transpose(*arguments)


_kept: dict[str, list] = {}  # the compiled kernels: their code must not be freed


def kernels(dtype):
    """`panels` of this dtype: the addresses of the three, compiled once and called like C, so that no program that uses them compiles them again."""
    name = np.dtype(dtype).name
    if not JIT:
        return np.zeros(3, np.int64)
    if name not in _kept:
        real, integer = getattr(types, name), types.int64
        _kept[name] = [
            exported(_apply, types.void(real, *[integer] * 11)),
            exported(_gradient, types.void(real, *[integer] * 11, real, real)),
            exported(_transpose, types.void(real, *[integer] * 7)),
        ]
    return np.array([kernel.address for kernel in _kept[name]], np.int64)
