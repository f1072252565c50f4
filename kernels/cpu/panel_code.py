"""LLVM instructions for the products of kernels/cpu/panels.py: a tile of sums in registers, whole vectors at a time.

Numba's loops do not keep a tile of sums in registers, so these few are written as instructions on vectors,
which the compiler splits where a machine's are shorter. Everything is given by address (int64); strides and
places are in numbers. Which tile is a number (`tile_of`).

Reference for the tiling: K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix
Multiplication", ACM TOMS 34(3), 2008, section 6.
"""

from __future__ import annotations

import functools

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["DEPTHS", "FETCH", "MOST", "PANEL", "ROWS", "VECTOR", "Emitter", "apply_tile", "gradient_tile", "lanes", "padded", "panels_of", "tile_of", "transpose_block"]

_FEATURES = llvmlite.binding.get_host_cpu_features()
VECTOR = 64 if _FEATURES.get("avx512f") else 32  # bytes of a vector
_WIDE = VECTOR == 64 or not _FEATURES.get("avx2", False)  # 32 registers: AVX-512, and ARM
MOST = 4 if _WIDE else 2  # vectors of a row in registers at a time
PANEL = MOST * VECTOR  # bytes of a full panel's row
# Rows (of a gradient: inputs) in registers at a time, by vectors of a row: at least eight sums, because each waits
# four cycles for its last addition and two are started per cycle; at most as many as there are registers.
ROWS = {1: 8, 2: 8, 3: 4, 4: 4} if _WIDE else {1: 8, 2: 4}
DEPTHS = {1: 16, 2: 8, 3: 4, 4: 4} if _WIDE else {1: 8, 2: 4}
FETCH = 64  # bytes of a cache line, asked for one at a time
_UNROLLED = 8  # inputs taken at a time, at least as many as `chains`
_I64, _I32, _I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)


def lanes(dtype) -> int:
    """Numbers of a vector."""
    return VECTOR // np.dtype(dtype).itemsize


def panels_of(width: int, dtype) -> list[slice]:
    """The columns of each panel of a padded width."""
    most = MOST * lanes(dtype)
    return [slice(first, min(first + most, width)) for first in range(0, width, most)]


def padded(width: int, dtype) -> int:
    """The next multiple of a vector."""
    return -(-width // lanes(dtype)) * lanes(dtype)


class Emitter:
    """LLVM instructions on addresses (int64) and vectors of one type."""

    def __init__(self, builder, real):
        self.builder, self.size = builder, real.bitwidth // 8
        self.real = ir.FloatType() if real.bitwidth == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.real, VECTOR // self.size)
        self.count = VECTOR // self.size

    def at(self, address, elements, constant=0):
        """address + (elements + constant) numbers."""
        scaled = self.builder.mul(elements, _I64(self.size))
        return self.builder.add(address, self.builder.add(scaled, _I64(constant * self.size)))

    def load(self, address, kind=None):
        kind = kind or self.vector
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=8 if kind is _I64 else self.size)

    def store(self, value, address):
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=self.size)

    def splat(self, scalar):
        unset = ir.Constant(ir.VectorType(scalar.type, self.count), ir.Undefined)
        one = self.builder.insert_element(unset, scalar, _I32(0))
        return self.builder.shuffle_vector(one, unset, ir.Constant(ir.VectorType(_I32, self.count), [0] * self.count))

    def add_product(self, a, b, total):
        """total += a b, in one rounding where the machine can."""
        product = self.builder.fmul(a, b, flags=("contract",))
        self.builder.store(self.builder.fadd(product, self.builder.load(total), flags=("contract",)), total)

    def zero(self):
        return ir.Constant(self.vector, [ir.Constant(self.real, 0.0)] * self.count)

    def sum_at(self, start):
        """A sum that the compiler keeps in a register."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(start, place)
        return place

    def last_lanes(self, vector, wanted):
        """The vector with zeros in all lanes but the last `wanted`."""
        lane = ir.Constant(ir.VectorType(_I64, self.count), list(range(self.count)))
        first = self.builder.sub(_I64(self.count), wanted)
        return self.builder.select(self.builder.icmp_signed(">=", lane, self.splat(first)), vector, self.zero())

    def first_lane(self, scalar):
        """A vector of zeros with this number in its first lane."""
        return self.builder.insert_element(self.zero(), scalar, _I32(0))

    def sums_across(self, vectors):
        """A vector of the sums of the numbers of each of `count` vectors."""
        side = 1
        while len(vectors) > 1:
            vectors = [self.builder.fadd(*self.swap(a, b, side)) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
            side *= 2
        return vectors[0]

    def swap(self, a, b, side):
        """The two vectors after their off-diagonal blocks of this side have changed places."""
        n, kind = self.count, ir.VectorType(_I32, self.count)
        low = ir.Constant(kind, [j if not j & side else n + j - side for j in range(n)])
        high = ir.Constant(kind, [j + side if not j & side else n + j for j in range(n)])
        return self.builder.shuffle_vector(a, b, low), self.builder.shuffle_vector(a, b, high)

    def prefetch(self, address):
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
        function = self.builder.module.declare_intrinsic("llvm.prefetch", [_I8.as_pointer()], kind)
        self.builder.call(function, [self.builder.inttoptr(address, _I8.as_pointer()), _I32(0), _I32(2), _I32(1)])


def tiles(sizes):
    """[(vectors, size)] of the tiles in registers, in the order of `tile_of`; sizes: ROWS or DEPTHS."""
    widths = range(1, MOST + 1)
    return [*((v, 1) for v in widths), (1, sizes[1]), (2, sizes[2]), *((v, sizes[MOST]) for v in widths)]


def tile_of(single, vectors, q):
    """The number of a tile: for a single row, for a width of one or two vectors in all, or for q vectors of more."""
    return q - 1 if single else (MOST + vectors - 1 if vectors <= 2 else MOST + 1 + q)


def _one_of(builder, which, bodies):
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
def apply_tile(typingctx, tile, real, x, offsets, coming, matrix, stride, depth, bias, out, out_stride):
    """Rows of out, vectors of each, as the tile says. `offsets`, `coming`: int64 per row; coming 0 for none."""

    def codegen(context, builder, signature, args):
        tile, _, x, offsets, coming, matrix, stride, depth, bias, out, out_stride = args
        emit = Emitter(builder, signature.args[1])

        def body(vectors, rows):
            chains = max(1, 8 // (vectors * rows))  # of one sum, added up in the end
            per_line = FETCH // emit.size
            row = [emit.at(x, emit.load(builder.add(offsets, _I64(8 * i)), _I64)) for i in range(rows)]
            begin = [emit.load(emit.at(bias, _I64(v * emit.count))) for v in range(vectors)]
            sums = [[[emit.sum_at(begin[v] if c == 0 else emit.zero()) for v in range(vectors)] for _ in range(rows)] for c in range(chains)]

            def add(k, u):
                across = emit.at(matrix, builder.mul(builder.add(k, _I64(u)), stride))
                M = [emit.load(builder.add(across, _I64(v * VECTOR))) for v in range(vectors)]
                for i in range(rows):
                    x_k = emit.splat(emit.load(emit.at(row[i], k, u), emit.real))
                    for v in range(vectors):
                        emit.add_product(x_k, M[v], sums[u % chains][i][v])

            groups = builder.sdiv(depth, _I64(_UNROLLED))
            asked = builder.icmp_signed("!=", coming, _I64(0))
            with cgutils.for_range(builder, groups) as loop:
                k = builder.mul(loop.index, _I64(_UNROLLED))
                at_line = builder.icmp_signed("==", builder.and_(k, _I64(per_line - 1)), _I64(0))
                with builder.if_then(builder.and_(asked, at_line)):
                    for i in range(rows):
                        emit.prefetch(emit.at(emit.at(x, emit.load(builder.add(coming, _I64(8 * i)), _I64)), k))
                for u in range(_UNROLLED):
                    add(k, u)
            done = builder.mul(groups, _I64(_UNROLLED))
            with cgutils.for_range(builder, builder.sub(depth, done)) as loop:
                add(builder.add(done, loop.index), 0)
            for i in range(rows):
                target = emit.at(out, builder.mul(out_stride, _I64(i)))
                for v in range(vectors):
                    total = builder.load(sums[0][i][v])
                    for c in range(1, chains):
                        total = builder.fadd(total, builder.load(sums[c][i][v]))
                    emit.store(total, builder.add(target, _I64(v * VECTOR)))

        _one_of(builder, tile, [functools.partial(body, *shape) for shape in tiles(ROWS)])
        return context.get_dummy_value()

    return types.void(types.int64, real, *[types.int64] * 9), codegen


@intrinsic
def gradient_tile(typingctx, tile, real, x, offsets, count, coming, asked, d, d_stride, matrix, stride, share, keep):
    """Rows of the matrix, vectors of each, as the tile says, over `count` rows of x and d; asked: lines of so many rows `coming` are asked for."""

    def codegen(context, builder, signature, args):
        tile, _, x, offsets, count, coming, asked, d, d_stride, matrix, stride, share, keep = args
        emit = Emitter(builder, signature.args[1])

        def body(vectors, depth):
            chains = max(1, 8 // (vectors * depth))
            sums = [[[emit.sum_at(emit.zero()) for _ in range(vectors)] for _ in range(depth)] for _ in range(chains)]

            def add(i, c):
                row = emit.at(x, emit.load(builder.add(offsets, builder.mul(i, _I64(8))), _I64))
                across = emit.at(d, builder.mul(i, d_stride))
                D = [emit.load(builder.add(across, _I64(v * VECTOR))) for v in range(vectors)]
                for k in range(depth):
                    x_k = emit.splat(emit.load(builder.add(row, _I64(k * emit.size)), emit.real))
                    for v in range(vectors):
                        emit.add_product(x_k, D[v], sums[c][k][v])

            whole = builder.sdiv(count, _I64(chains))
            with cgutils.for_range(builder, whole) as loop:
                with builder.if_then(builder.icmp_signed("<", loop.index, asked)):
                    emit.prefetch(emit.at(x, emit.load(builder.add(coming, builder.mul(loop.index, _I64(8))), _I64)))
                for c in range(chains):
                    add(builder.add(builder.mul(loop.index, _I64(chains)), _I64(c)), c)
            done = builder.mul(whole, _I64(chains))
            with cgutils.for_range(builder, builder.sub(count, done)) as loop:
                add(builder.add(done, loop.index), 0)
            factor, kept = emit.splat(share), emit.splat(keep)
            fresh = builder.fcmp_ordered("==", keep, ir.Constant(emit.real, 0.0))
            for k in range(depth):
                target = emit.at(matrix, builder.mul(stride, _I64(k)))
                for v in range(vectors):
                    place = builder.add(target, _I64(v * VECTOR))
                    total = builder.load(sums[0][k][v])
                    for c in range(1, chains):
                        total = builder.fadd(total, builder.load(sums[c][k][v]))
                    total = builder.fmul(factor, total)
                    held = builder.fmul(kept, emit.load(place), flags=("contract",))
                    emit.store(builder.select(fresh, total, builder.fadd(held, total, flags=("contract",))), place)

        _one_of(builder, tile, [functools.partial(body, *shape) for shape in tiles(DEPTHS)])
        return context.get_dummy_value()

    return types.void(types.int64, real, *[types.int64] * 9, real, real), codegen


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
