"""Products of layers that stay in the cache, where a call of BLAS costs too much or reads them too slowly.

A matrix of weights is stored for this in *panels*: inputs down, outputs across, padded with zeros to whole vectors and
cut into panels of at most four vectors (64 in float32 with AVX-512) outputs, one panel after another; the biases are
the last row. So a row of a panel is a few vector registers, and a panel is read in one sweep. Four products work on
panels:

    apply      out_i = bias + sum_k x_ik M_k        rows of x anywhere in memory, so shuffled data is not copied; then,
               if asked for, the ReLU or its derivative, while the sums are in registers
    gradient   M_k = keep M_k + share sum_i x_ik d_i   Delta, or with share = -alpha/m the whole step
    transpose  T = M^T                              for delta Theta, which is again an `apply`
    dots       out_i = sum_k M_ik x_k               delta Theta of one row, without a transpose; or, M being rows of a,
               the z of a single output

Sums run over k, and over i, in an order that does not depend on the other rows. The tiles in registers are in
kernels/cpu/panel_code.py; here is which tile is used where. Without JIT, NumPy does the same on the same memory.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from . import JIT, exported, inner, once
from . import panel_code as code
from .panel_code import (
    INPUTS,
    LINES,
    MOST,
    PANEL,
    RECTIFY,
    apply_tile,
    dots_tile,
    gradient_tile,
    outer_tile,
    panels_of,
    spaced,
    transpose_block,
)
from .vectors import FETCH, VECTOR, lanes, padded

__all__ = [
    "AHEAD",
    "FAR",
    "PANEL",
    "RECTIFY",
    "address",
    "apply",
    "called",
    "dots",
    "gradient",
    "itemsize",
    "kernels",
    "lanes",
    "padded",
    "panels_of",
    "rows_at",
    "spaced",
    "step_of",
    "transpose",
    "vector_at",
]

FAR = 1 << 19  # bytes of a matrix that does not stay in the second-level cache beside everything else
AHEAD = 8  # rows beyond the last that `apply` may read and overwrite
_I64 = ir.IntType(64)


def _rows_of(m, q, left):
    """Rows of the next tile of q vectors, of the `left` that are left of m. Those beyond the last cost as much as
    others, hence 4 + 3 and not 6 + 1.
    """
    if m == 1:
        return 1
    most = code.ROWS[q - 1]
    return code.FEWER if q >= code.WIDER and (left <= code.FEWER or most < left <= 2 * code.FEWER) else most


def _inputs_of(q, left):
    """Inputs of the next tile of q vectors, at most as many as are `left`."""
    most = code.DEPTHS[q - 1]
    if q >= code.WIDER and (code.FEWER <= left < most or left == 2 * code.FEWER):
        return code.FEWER
    return most if left >= most else 1


if JIT:
    _tile_of, _rows_of, _inputs_of, step_of = inner(code.tile_of), inner(_rows_of), inner(_inputs_of), inner(spaced)

    @intrinsic
    def _address(typingctx, x):
        """Where an array begins."""

        def codegen(context, builder, signature, args):
            return builder.ptrtoint(context.make_array(signature.args[0])(context, builder, args[0]).data, _I64)

        return types.int64(x), codegen

    @intrinsic
    def _itemsize(typingctx, real):
        """Bytes of a number."""
        size = real.bitwidth // 8
        return types.int64(real), lambda context, builder, signature, args: _I64(size)

    def _array_at(kind):
        """An array of this kind at an address, which it does not own; `shape` are its other arguments."""

        def codegen(context, builder, signature, args):
            array = context.make_array(kind)(context, builder)
            size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
            shape, strides = args[2:], [size]
            for n in reversed(shape[1:]):
                strides.insert(0, builder.mul(strides[0], n))
            pointer = builder.inttoptr(args[0], array.data.type)
            populate_array(array, data=pointer, shape=shape, strides=strides, itemsize=size, meminfo=None)
            return array._getvalue()

        return codegen

    @intrinsic
    def _vector_at(typingctx, place, zero, n):
        kind = types.Array(zero, 1, "C")
        return kind(types.int64, zero, types.int64), _array_at(kind)

    @intrinsic
    def _rows_at(typingctx, place, zero, m, n):
        kind = types.Array(zero, 2, "C")
        return kind(types.int64, zero, types.int64, types.int64), _array_at(kind)

    def _apply(zero, x, places, m, ahead, listed, M, M_rows, width, first, depth, nothing, out, out_step, gate):
        size = itemsize(zero)
        vectors, far = width * size // VECTOR, depth * width * size > FAR
        # One panel after another, all rows through each, so that the panel stays in the cache.
        for v in range(0, vectors, MOST):
            q = min(MOST, vectors - v)
            panel = M + (v * M_rows + first * q) * VECTOR
            bias = nothing if nothing != 0 else M + (v * M_rows + (M_rows - 1) * q) * VECTOR
            # Large tiles ask for a share each of as many bytes after the panel: the next panel, and after the last,
            # where all inputs are taken, the next layer's first.
            panel_bytes, groups = depth * q * VECTOR, depth // INPUTS
            later = panel + M_rows * q * VECTOR
            end = later + panel_bytes
            tiles = (m + code.ROWS[q - 1] - 1) // code.ROWS[q - 1]
            share = (
                min(LINES, -(-panel_bytes // (FETCH * max(1, tiles * groups))))
                if far and (first == 0 or v + q < vectors)
                else 0
            )
            i = 0
            while i < m:
                rows = _rows_of(m, q, m - i)
                here = places + 8 * i
                coming = here + 8 * ahead if v == 0 and ahead > 0 and i + ahead < listed else 0
                at = i * out_step * size + v * VECTOR
                lines = share if later < end else 0
                apply_tile(
                    _tile_of(rows, q), zero, x, here, coming, panel, depth, bias, out + at, out_step,
                    gate + at if gate > RECTIFY else gate, later, lines,
                )  # fmt: skip
                later += lines * groups * FETCH
                i += rows

    def _gradient(zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        size = itemsize(zero)
        vectors = width * size // VECTOR
        far = np.int64(count * width * size > FAR)
        if m == 1:
            # Then the time is that of reading the panels: backwards, because `apply` has read forwards. What it read
            # last is still in the first-level cache, and what is written last is what it will read first.
            for back in range((vectors - 1) // MOST, -1, -1):
                v = MOST * back
                q = min(MOST, vectors - v)
                from_x = x + vector_at(places, np.int64(0), 1)[0] * size
                next_x = x + vector_at(coming, np.int64(0), 1)[0] * size if v == 0 and asked > 0 else 0
                outer_tile(
                    q, zero, from_x, d + v * VECTOR, M + (v * M_rows + first * q) * VECTOR, count, next_x, share, keep
                )
            vectors = 0
        for v in range(0, vectors, MOST):
            q = min(MOST, vectors - v)
            panel, d_v = M + v * M_rows * VECTOR + first * q * VECTOR, d + v * m * VECTOR
            k = 0
            while k < count:
                x_k, to = x + k * size, panel + k * q * VECTOR
                inputs = _inputs_of(q, count - k)
                # a line is asked for by the first tile that begins on it
                wanted = asked if v == 0 and k * size % FETCH < inputs * size else 0
                gradient_tile(
                    _tile_of(inputs, q), zero, x_k, places, m, coming, wanted, d_v, q * VECTOR // size, to, far, share,
                    keep,
                )  # fmt: skip
                k += inputs

    def _place(size, v, k, M_rows, width):
        """Bytes from a matrix' begin to row k of its vector v, and from that row to the next."""
        count = VECTOR // size
        panel = v - v % MOST
        across = min(MOST, width // count - panel)
        return (panel * M_rows + k * across + v - panel) * VECTOR, across * count

    _place = inner(_place)

    def _transpose(zero, M, M_rows, width, first, depth, nothing, T, T_width):
        size = itemsize(zero)
        count = VECTOR // size
        for k in range(0, depth, count):
            for v in range(width // count):
                at, stride = _place(size, v, first + k, M_rows, width)
                to, T_stride = _place(size, k // count, v * count, width, T_width)
                transpose_block(zero, M + at, stride, depth - k, nothing, T + to, T_stride)

    def _dots(zero, M, M_rows, stride, m, x, width, out):
        size = itemsize(zero)
        count = VECTOR // size
        for i in range(0, m, count):
            dots_tile(zero, M, M_rows, width // count, stride // count, i, m - i, x, out + i * size)

else:
    step_of = spaced

    def _address(x):
        return np.int64(x.ctypes.data)

    def _itemsize(zero):
        return zero.itemsize

    def _at(place, dtype, shape):
        class Memory:
            __array_interface__ = {  # noqa: RUF012
                "version": 3,
                "data": (int(place), False),
                "typestr": np.dtype(dtype).str,
                "shape": tuple(int(n) for n in shape),
            }

        return np.asarray(Memory())

    def _vector_at(place, zero, n):
        return _at(place, zero.dtype, (n,))

    def _rows_at(place, zero, m, n):
        return _at(place, zero.dtype, (m, n))

    def _columns_at(place, zero, m, step, width):
        """(m, width) of rows that lie `step` numbers apart, the last of which ends with the memory."""
        return np.lib.stride_tricks.as_strided(
            _at(place, zero.dtype, (width,)), (m, width), (step * zero.itemsize, zero.itemsize)
        )

    def _gathered(zero, x, places, m, depth):
        return (
            np.stack([_at(x + first * zero.itemsize, zero.dtype, (depth,)) for first in _at(places, np.int64, (m,))])
            if m
            else np.empty((0, depth), zero.dtype)
        )

    def _panels_of(zero, M, M_rows, width):
        """[(columns, view (M_rows, columns))] of a matrix."""
        return [
            (cut, _rows_at(M + cut.start * M_rows * zero.itemsize, zero, M_rows, cut.stop - cut.start))
            for cut in panels_of(width, zero.dtype)
        ]

    def _apply(zero, x, places, m, ahead, listed, M, M_rows, width, first, depth, nothing, out, out_step, gate):
        rows, target = _gathered(zero, x, places, m, depth), _columns_at(out, zero, m, out_step, width)
        for columns, panel in _panels_of(zero, M, M_rows, width):
            target[:, columns] = rows @ panel[first : first + depth] + (0 if nothing else panel[M_rows - 1])
        if gate == RECTIFY:
            target[target < 0] = 0
        elif gate:
            a = _columns_at(gate, zero, m, out_step, width)
            target *= np.where(a > 0, 1, a)

    def _gradient(zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        deltas = np.concatenate([side_by_side for _, side_by_side in _panels_of(zero, d, m, width)], axis=1)
        total = share * (_gathered(zero, x, places, m, count).T @ deltas)
        for columns, panel in _panels_of(zero, M, M_rows, width):
            panel[first : first + count] = (
                keep * panel[first : first + count] + total[:, columns] if keep else total[:, columns]
            )

    def _transpose(zero, M, M_rows, width, first, depth, nothing, T, T_width):
        whole = np.concatenate(
            [panel[first : first + depth] for _, panel in _panels_of(zero, M, M_rows, width)], axis=1
        )
        for columns, panel in _panels_of(zero, T, width, T_width):
            part_of = whole[columns].T
            panel[:, : part_of.shape[1]], panel[:, part_of.shape[1] :] = part_of, 0

    def _dots(zero, M, M_rows, stride, m, x, width, out):
        numbers, target = _vector_at(x, zero, width), _vector_at(out, zero, padded(m, zero.dtype))
        target[m:] = 0
        if stride:
            target[:m] = _rows_at(M, zero, m, stride)[:, :width] @ numbers
        else:
            target[:m] = sum(panel[:m] @ numbers[columns] for columns, panel in _panels_of(zero, M, M_rows, width))


def called(number):
    """The call of a kernel by its address in `panels`."""

    def codegen(context, builder, signature, args):
        addresses = context.make_array(signature.args[0])(context, builder, args[0]).data
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in args[1:]])
        kernel = builder.load(builder.gep(addresses, [_I64(number)]))
        builder.call(builder.inttoptr(kernel, kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return codegen


itemsize = _itemsize  # bytes of a number
address = _address  # where an array begins
vector_at = _vector_at  # the n numbers at an address, as an array
rows_at = _rows_at  # the (m, n) numbers at an address, as an array

# The products. Everything is given by address, because making views of arrays costs more than a small product.
# `panels`: from `kernels`; zero: a number of the dtype; x: numbers; places: int64, where each row begins in x, in
# numbers, for m + AHEAD rows; M (M_rows, width) in panels, width a multiple of lanes(dtype).
#
# apply:     out[i] = bias + sum_k x_ik M[first + k] for i < m, k < depth, where the bias is M's last row, or `nothing`
#            (zeros) unless that is 0; rows of out lie out_step numbers apart, and those up to m + AHEAD may be
#            overwritten. ahead: while a row is used, ask for the lines of the row so many further, 0 for none, as far
#            as there are `listed` in places and AHEAD more. gate: 0; or RECTIFY, for the ReLU of out; or the address of
#            rows like out's, outputs of a ReLU, whose derivative multiplies out
# gradient:  M[first + k] = keep M[first + k] + share sum_i x_ik d[i] for k < count; M is not read where keep is 0. d
#            (m, width) in panels. coming, asked: meanwhile ask for the lines of so many other rows; up to three places
#            more are read and asked for
# transpose: T (width, T_width) = M[first : first + depth]^T, zero in the columns from depth on; nothing: a vector of
#     zeros
# dots:      out = M[:m] x, and zeros to the end of the last vector; x (width,). M (M_rows > m, width) in panels if
#            stride is 0, else row after row, stride apart
if JIT:

    @intrinsic
    def apply(
        typingctx, panels, zero, x, places, m, ahead, listed, M, M_rows, width, first, depth, nothing, out, out_step,
        gate,
    ):  # fmt: skip
        """See above."""
        return types.void(panels, zero, *[types.int64] * 14), called(0)

    @intrinsic
    def gradient(typingctx, panels, zero, x, places, m, coming, asked, d, M, M_rows, width, first, count, share, keep):
        """See above."""
        return types.void(panels, zero, *[types.int64] * 11, zero, zero), called(1)

    @intrinsic
    def transpose(typingctx, panels, zero, M, M_rows, width, first, depth, nothing, T, T_width):
        """See above."""
        return types.void(panels, zero, *[types.int64] * 8), called(2)

    @intrinsic
    def dots(typingctx, panels, zero, M, M_rows, stride, m, x, width, out):
        """See above."""
        return types.void(panels, zero, *[types.int64] * 7), called(3)

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

    def dots(panels, *arguments):
        """The same in NumPy."""
        _dots(*arguments)


@once
def _compiled(name):
    """The four, once per process: their code must not be freed."""
    real, integer = getattr(types, name), types.int64
    return [
        exported(_apply, types.void(real, *[integer] * 14)),
        exported(_gradient, types.void(real, *[integer] * 11, real, real)),
        exported(_transpose, types.void(real, *[integer] * 8)),
        exported(_dots, types.void(real, *[integer] * 7)),
    ]


def kernels(dtype):
    """`panels` of this dtype: the addresses of the four, compiled once and called like C, so that no program that
    uses them compiles them again.
    """
    name = np.dtype(dtype).name
    return np.array([kernel.address for kernel in _compiled(name)] if JIT else [0] * 4, np.int64)
