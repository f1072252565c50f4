"""LLVM instructions for the products of kernels/cpu/panels.py: a tile of sums in registers, whole vectors at a time.

Numba's loops do not keep a tile of sums in registers, so these few are written as instructions on vectors
(kernels/cpu/vectors.py). Which tile is a number (`tile_of`).

Reference for the tiling: K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", ACM TOMS 34(3), 2008, section 6.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .vectors import FETCH, VECTOR, WIDE, Emitter, lanes

__all__ = [
    "DEPTHS",
    "FEWER",
    "INPUTS",
    "LINES",
    "MOST",
    "PANEL",
    "RECTIFY",
    "ROWS",
    "WIDER",
    "apply_tile",
    "dots_tile",
    "gradient_tile",
    "one_of",
    "outer_tile",
    "panels_of",
    "spaced",
    "tile_of",
    "transpose_block",
]

MOST = 4 if WIDE else 2  # vectors of a row in registers at a time
PANEL = MOST * VECTOR  # bytes of a full panel's row
# Rows (of a gradient: inputs) in registers at a time, by vectors across: at least eight sums, because each waits four
# cycles for its last addition and two are started per cycle; at most as many as there are registers. Where six rows
# leave four over, or two of eight, tiles of FEWER take them: from WIDER vectors on, where six are the most.
ROWS, DEPTHS = ((8, 8, 6, 6), (16, 8, 6, 6)) if WIDE else ((8, 6), (8, 6))
WIDER, FEWER = ROWS.index(6) + 1, 4
RECTIFY = 1  # as the `gate` of `apply_tile`, where an address is larger
# rows so far apart, or a multiple, share a few sets of the first-level cache, which hold eight or twelve lines each
_CROWDED = 8 * FETCH
_TOGETHER = 4  # rows of a gradient between two looks at whether other rows are to be asked for
# inputs taken at a time, at least as many as `chains`; and by large tiles, whose code takes longest to compile
_UNROLLED, INPUTS = 8, 4
LINES = 2  # of what is wanted later, asked for with so many inputs
_I64 = ir.IntType(64)


def panels_of(width: int, dtype) -> list[slice]:
    """The columns of each panel of a padded width."""
    most = MOST * lanes(dtype)
    return [slice(first, min(first + most, width)) for first in range(0, width, most)]


def spaced(width, size):
    """Numbers of so many bytes from one row of activations or deltas to the next: a line more than the width where
    a column of them would not stay in the cache.
    """
    return width + FETCH // size if width * size & (_CROWDED - 1) == 0 else width


def tiles(sizes):
    """[(vectors, size)] of the tiles in registers, in the order of `tile_of`; sizes: ROWS or DEPTHS."""
    widths = range(1, MOST + 1)
    return [
        *((q, 1) for q in widths),
        *((q, sizes[q - 1]) for q in widths),
        *((q, FEWER) for q in widths if q >= WIDER),
    ]


def tile_of(size, q):
    """The number of the tile of q vectors across and this many rows, or inputs: 1, FEWER or the most."""
    return q - 1 if size == 1 else (2 * MOST + q - WIDER if size == FEWER else MOST + q - 1)


def one_of(builder, which, bodies):
    """Emits a branch to the body with this number."""
    end = builder.append_basic_block("end")
    switch = builder.switch(which, end)
    for number, body in enumerate(bodies):
        block = builder.append_basic_block("tile")
        switch.add_case(_I64(number), block)
        builder.position_at_end(block)
        body()
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def apply_tile(typingctx, tile, real, x, offsets, coming, matrix, depth, bias, out, out_stride, gate, later, lines):
    """Rows of out, vectors of each, as the tile says. `offsets`, `coming`: int64 per row; coming 0 for none.

    gate: 0; or RECTIFY, for the ReLU of each number; or an address of rows a like out's, outputs of a ReLU, whose
    derivative multiplies each. later, lines: meanwhile large tiles ask for the memory from there on, so many lines, at
    most LINES, with every INPUTS inputs.
    """

    def codegen(context, builder, signature, args):
        tile, _, x, offsets, coming, matrix, depth, bias, out, out_stride, gate, later, lines = args
        emit = Emitter(builder, signature.args[1])

        def body(vectors, rows):
            chains = max(1, 8 // (vectors * rows))  # of one sum, added up in the end
            per_line = FETCH // emit.size
            row = [emit.at(x, emit.load(builder.add(offsets, _I64(8 * i)), _I64)) for i in range(rows)]
            begin = [emit.load(emit.at(bias, _I64(v * emit.count))) for v in range(vectors)]
            sums = [
                [[emit.sum_at(begin[v] if c == 0 else emit.zero()) for v in range(vectors)] for _ in range(rows)]
                for c in range(chains)
            ]

            def add(k, u):
                across = emit.vector_at(matrix, builder.mul(k, _I64(vectors)))
                M = [emit.load(builder.add(across, _I64((u * vectors + v) * VECTOR))) for v in range(vectors)]
                for i in range(rows):
                    x_k = emit.splat(emit.load(emit.at(row[i], k, u), emit.real))
                    for v in range(vectors):
                        emit.add_product(x_k, M[v], sums[u % chains][i][v])

            large = vectors * rows > 8
            unrolled = INPUTS if large else _UNROLLED
            groups = builder.sdiv(depth, _I64(unrolled))
            asked = builder.icmp_signed("!=", coming, _I64(0))
            with cgutils.for_range(builder, groups) as loop:
                k = builder.mul(loop.index, _I64(unrolled))
                at_line = builder.icmp_signed("==", builder.and_(k, _I64(per_line - 1)), _I64(0))
                with builder.if_then(builder.and_(asked, at_line)):
                    for i in range(rows):
                        emit.prefetch(emit.at(emit.at(x, emit.load(builder.add(coming, _I64(8 * i)), _I64)), k))
                for n in range(LINES if large else 0):
                    with builder.if_then(builder.icmp_signed(">", lines, _I64(n))):
                        line = builder.add(builder.mul(loop.index, lines), _I64(n))
                        emit.prefetch(builder.add(later, builder.mul(line, _I64(FETCH))))
                for u in range(unrolled):
                    add(k, u)
            done = builder.mul(groups, _I64(unrolled))
            with cgutils.for_range(builder, builder.sub(depth, done)) as loop:
                add(builder.add(done, loop.index), 0)
            each = [(i, v) for i in range(rows) for v in range(vectors)]
            for i, v in each:
                for c in range(1, chains):
                    builder.store(builder.fadd(builder.load(sums[0][i][v]), builder.load(sums[c][i][v])), sums[0][i][v])
            with builder.if_then(builder.icmp_signed("==", gate, _I64(RECTIFY))):
                for i, v in each:
                    total = builder.load(sums[0][i][v])
                    below = builder.fcmp_ordered("<", total, emit.zero())  # so that NaN stays NaN
                    builder.store(builder.select(below, emit.zero(), total), sums[0][i][v])
            with builder.if_then(builder.icmp_signed(">", gate, _I64(RECTIFY))):
                for i, v in each:
                    a = emit.load(emit.vector_at(emit.at(gate, builder.mul(out_stride, _I64(i))), _I64(v)))
                    # a: 0, or NaN
                    slope = builder.select(
                        builder.fcmp_ordered(">", a, emit.zero()), emit.splat(ir.Constant(emit.real, 1.0)), a
                    )
                    builder.store(builder.fmul(builder.load(sums[0][i][v]), slope), sums[0][i][v])
            for i, v in each:
                emit.store(
                    builder.load(sums[0][i][v]), emit.vector_at(emit.at(out, builder.mul(out_stride, _I64(i))), _I64(v))
                )

        one_of(builder, tile, [functools.partial(body, *shape) for shape in tiles(ROWS)])
        return context.get_dummy_value()

    return types.void(types.int64, real, *[types.int64] * 11), codegen


@intrinsic
def gradient_tile(typingctx, tile, real, x, offsets, count, coming, asked, d, d_stride, matrix, far, share, keep):
    """Rows of the matrix, vectors of each, as the tile says, over `count` rows of x and d.

    asked: lines of so many rows `coming`, in whole groups of `_TOGETHER`, are asked for. far: not 0 where the tile
    itself is asked for before its sums, because it lies outside the first caches; where it does not, that would cost
    small nets 2 to 3 %.
    """

    def codegen(context, builder, signature, args):
        tile, _, x, offsets, count, coming, asked, d, d_stride, matrix, far, share, keep = args
        emit = Emitter(builder, signature.args[1])

        def body(vectors, depth):
            chains = max(1, 8 // (vectors * depth))
            sums = [[[emit.sum_at(emit.zero()) for _ in range(vectors)] for _ in range(depth)] for _ in range(chains)]

            def add(i, c):
                row = emit.at(x, emit.load(builder.add(offsets, builder.mul(i, _I64(8))), _I64))
                across = emit.at(d, builder.mul(i, d_stride))
                D = [emit.load(builder.add(across, _I64(v * VECTOR))) for v in range(vectors)]
                # for the tile after this, which begins beside this row's
                emit.prefetch(builder.add(row, _I64(FETCH)), near=3)
                for k in range(depth):
                    x_k = emit.splat(emit.load(builder.add(row, _I64(k * emit.size)), emit.real))
                    for v in range(vectors):
                        emit.add_product(x_k, D[v], sums[c][k][v])

            groups = builder.sdiv(count, _I64(_TOGETHER))
            with builder.if_then(builder.icmp_signed("!=", far, _I64(0))):
                for at in range(vectors * depth):
                    emit.prefetch(builder.add(matrix, _I64(at * VECTOR)), near=3)
            with cgutils.for_range(builder, groups) as loop:
                i = builder.mul(loop.index, _I64(_TOGETHER))
                with builder.if_then(builder.icmp_signed("<", i, asked)):
                    for u in range(_TOGETHER):
                        emit.prefetch(
                            emit.at(
                                x, emit.load(builder.add(coming, builder.mul(builder.add(i, _I64(u)), _I64(8))), _I64)
                            )
                        )
                for u in range(_TOGETHER):
                    add(builder.add(i, _I64(u)), u % chains)
            done = builder.mul(groups, _I64(_TOGETHER))
            with cgutils.for_range(builder, builder.sub(count, done)) as loop:
                i = builder.add(done, loop.index)
                with builder.if_then(builder.icmp_signed("<", i, asked)):
                    emit.prefetch(emit.at(x, emit.load(builder.add(coming, builder.mul(i, _I64(8))), _I64)))
                add(i, 0)
            factor, kept = emit.splat(share), emit.splat(keep)
            totals = []
            for k in range(depth):
                for v in range(vectors):
                    total = builder.load(sums[0][k][v])
                    for c in range(1, chains):
                        total = builder.fadd(total, builder.load(sums[c][k][v]))
                    totals.append(builder.fmul(factor, total, flags=("contract",)))
            with builder.if_else(builder.fcmp_ordered("==", keep, ir.Constant(emit.real, 0.0))) as (fresh, more):
                with fresh:
                    for at, total in enumerate(totals):
                        emit.store(total, builder.add(matrix, _I64(at * VECTOR)))
                with more:
                    for at, total in enumerate(totals):
                        place = builder.add(matrix, _I64(at * VECTOR))
                        emit.store(
                            builder.fadd(builder.fmul(kept, emit.load(place)), total, flags=("contract",)), place
                        )

        one_of(builder, tile, [functools.partial(body, *shape) for shape in tiles(DEPTHS)])
        return context.get_dummy_value()

    return types.void(types.int64, real, *[types.int64] * 9, real, real), codegen


@intrinsic
def outer_tile(typingctx, q, real, x, d, matrix, count, coming, share, keep):
    """Rows k < count of the matrix (count, q vectors) become keep of themselves, which are not read where keep is 0,
    and x_k share d; the last first.

    coming: 0, or where the numbers begin that are to be asked for meanwhile, a line at a time: all at once they would
    hold up the matrix.
    """

    def codegen(context, builder, signature, args):
        q, _, x, d, matrix, count, coming, share, keep = args
        emit = Emitter(builder, signature.args[1])

        def body(vectors):
            D = [builder.fmul(emit.splat(share), emit.load(builder.add(d, _I64(v * VECTOR)))) for v in range(vectors)]
            kept = emit.splat(keep)

            def row(k, fresh):
                x_k = emit.splat(emit.load(emit.at(x, k), emit.real))
                for v in range(vectors):
                    place = builder.add(builder.add(matrix, builder.mul(k, _I64(vectors * VECTOR))), _I64(v * VECTOR))
                    total = builder.fmul(x_k, D[v], flags=("contract",))
                    if not fresh:
                        total = builder.fadd(builder.fmul(kept, emit.load(place)), total, flags=("contract",))
                    emit.store(total, place)

            with builder.if_else(builder.fcmp_ordered("==", keep, ir.Constant(emit.real, 0.0))) as (fresh, more):
                with fresh, cgutils.for_range(builder, count) as loop:
                    row(loop.index, True)
                with more:
                    per_line = FETCH // emit.size
                    lines = builder.sdiv(count, _I64(per_line))
                    with cgutils.for_range(builder, builder.sub(count, builder.mul(lines, _I64(per_line)))) as loop:
                        row(builder.sub(builder.sub(count, loop.index), _I64(1)), False)
                    asked = builder.icmp_signed("!=", coming, _I64(0))
                    with cgutils.for_range(builder, lines) as line:
                        begin = builder.mul(builder.sub(builder.sub(lines, line.index), _I64(1)), _I64(per_line))
                        with builder.if_then(asked):
                            emit.prefetch(emit.at(coming, begin))
                        with cgutils.for_range(builder, _I64(per_line)) as loop:
                            row(builder.sub(builder.add(begin, _I64(per_line - 1)), loop.index), False)

        one_of(builder, builder.sub(q, _I64(1)), [functools.partial(body, vectors) for vectors in range(1, MOST + 1)])
        return context.get_dummy_value()

    return types.void(types.int64, real, *[types.int64] * 5, real, real), codegen


@intrinsic
def dots_tile(typingctx, real, matrix, rows, vectors, stride, first, valid, x, out):
    """Overwrites a vector at out with x times the rows first, first + 1, ... of a matrix, of which `valid` are meant,
    and zeros. There is one row more.

    The matrix is in panels of so many rows if stride is 0, else its rows are so many vectors apart.
    """

    def codegen(context, builder, signature, args):
        _, matrix, rows, vectors, stride, first, valid, x, out = args
        emit = Emitter(builder, signature.args[0])
        sums = [emit.sum_at(emit.zero()) for _ in range(emit.count)]
        lines = [
            builder.add(first, builder.select(builder.icmp_signed("<", _I64(j), valid), _I64(j), valid))
            for j in range(emit.count)
        ]
        in_panels = builder.icmp_signed("==", stride, _I64(0))
        panels = builder.sdiv(builder.add(vectors, _I64(MOST - 1)), _I64(MOST))
        with cgutils.for_range(builder, panels) as panel:
            column = builder.mul(panel.index, _I64(MOST))
            left = builder.sub(vectors, column)
            across = builder.select(builder.icmp_signed("<", left, _I64(MOST)), left, _I64(MOST))
            begin = emit.vector_at(matrix, builder.mul(column, builder.select(in_panels, rows, _I64(1))))
            step = builder.select(in_panels, across, stride)
            places = [emit.vector_at(begin, builder.mul(line, step)) for line in lines]
            with cgutils.for_range(builder, across) as loop:
                x_v = emit.load(emit.vector_at(x, builder.add(column, loop.index)))
                for place, total in zip(places, sums, strict=True):
                    emit.add_product(emit.load(emit.vector_at(place, loop.index)), x_v, total)
        totals = emit.sums_across([builder.load(total) for total in sums])
        emit.store(emit.first_lanes(totals, valid), out)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 8), codegen


@intrinsic
def transpose_block(typingctx, real, source, stride, valid, nothing, target, target_stride):
    """A square block of one vector's side; rows from `valid` on count as zero and are read at `nothing`."""

    def codegen(context, builder, signature, args):
        _, source, stride, valid, nothing, target, target_stride = args
        emit = Emitter(builder, signature.args[0])
        n = emit.count
        rows = []
        for i in range(n):
            there = builder.icmp_signed(">", valid, _I64(i))
            rows.append(emit.load(builder.select(there, emit.at(source, builder.mul(stride, _I64(i))), nothing)))
        side = 1
        while side < n:  # swaps the off-diagonal blocks of side 1, 2, 4, ...
            for i in range(n):
                if not i & side:
                    rows[i], rows[i + side] = emit.swap(rows[i], rows[i + side], side)
            side *= 2
        for i in range(n):
            emit.store(rows[i], emit.at(target, builder.mul(target_stride, _I64(i))))
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 6), codegen
