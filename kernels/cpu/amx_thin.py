"""Layers with few inputs or few outputs, in a program on the matrix unit: products by vectors, because a tile of the
unit would be mostly empty.

A tile has 32 inputs and 16 outputs, and a step lays out whole tiles. For the first layer of a network of one to four
inputs, and the last of one to four outputs (a function of time and place, a regression), that costs as much as a layer
of 32, and more than all that there is to multiply. Their weights are kept as rows of whole vectors (`lay_out_few`):

    first layer   row k, what input k adds to each output; then a row of biases
    last layer    row j, what each input adds to output j

The first layer's product, the last one's way back and either's gradient then run along these rows; only the last
layer's product is a sum along a row.
"""

from __future__ import annotations

import functools

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import JIT, exported, inner, once
from .panel_code import RECTIFY, one_of
from .panels import called, rows_at, vector_at
from .plain import finished, rows_apart, rows_at_places
from .vectors import VECTOR, Emitter

__all__ = ["FEW", "SUMS_OVER_ROWS", "few_addresses", "few_to_many", "lay_out_few", "many_to_few", "sums_over_rows"]

FEW = 4  # inputs or outputs at most
_I64 = ir.IntType(64)
_LANES = VECTOR // 4


def _lay_out_few(zero, W, b, first, last, n_out, n_in, width, by_input, out):
    """Writes units first..last of a layer as rows of `width` numbers: by input, with a row of biases behind, or as
    they lie. Addresses: W (n_out, n_in), b, out; padding of out is not written.
    """
    weights, biases = rows_at(W, zero, n_out, n_in), vector_at(b, zero, n_out)
    if by_input:
        rows = rows_at(out, zero, n_in + 1, width)
        for j in range(first, last):
            for k in range(n_in):
                rows[k, j] = weights[j, k]
            rows[n_in, j] = biases[j]
    else:
        rows = rows_at(out, zero, n_out, width)
        for j in range(first, last):
            for k in range(n_in):
                rows[j, k] = weights[j, k]


lay_out_few = inner(_lay_out_few)


if JIT:

    @intrinsic
    def _rows_plus(typingctx, s, places, m, count, M, width, z, step, gate, with_biases):
        """As `few_to_many` below."""

        def codegen(context, builder, signature, args):
            s, places, m, count, M, width, z, step, gate, with_biases = args
            emit = Emitter(builder, types.float32)

            def body(few, kind):
                """kind: 0 alone, 1 with biases and perhaps a ReLU, 2 times the derivative of a ReLU."""
                rectified = emit.splat(builder.icmp_signed("==", gate, _I64(RECTIFY)))
                with cgutils.for_range(builder, m) as loop:
                    row = emit.at(s, emit.load(builder.add(places, builder.mul(loop.index, _I64(8))), _I64))
                    factors = [emit.splat(emit.load(emit.at(row, _I64(k)), emit.real)) for k in range(few)]
                    shift = builder.mul(loop.index, step)
                    with cgutils.for_range(builder, builder.sdiv(width, _I64(_LANES))) as across:
                        column = builder.mul(across.index, _I64(VECTOR))

                        def part(number, column=column):
                            return emit.load(builder.add(emit.at(M, builder.mul(width, _I64(number))), column))

                        total = part(few) if kind == 1 else None
                        for k, factor in enumerate(factors):
                            product = builder.fmul(factor, part(k), flags=("contract",))
                            total = product if total is None else builder.fadd(product, total, flags=("contract",))
                        if kind == 1:
                            # so that NaN stays NaN
                            below = builder.and_(builder.fcmp_ordered("<", total, emit.zero()), rectified)
                            total = builder.select(below, emit.zero(), total)
                        if kind == 2:
                            a = emit.load(builder.add(builder.add(gate, shift), column))
                            # a: 0, or NaN
                            slope = builder.select(
                                builder.fcmp_ordered(">", a, emit.zero()), emit.splat(ir.Constant(emit.real, 1.0)), a
                            )
                            total = builder.fmul(total, slope)
                        emit.store(total, builder.add(builder.add(z, shift), column))

            gated = builder.select(builder.icmp_signed(">", gate, _I64(RECTIFY)), _I64(2), _I64(0))
            kind = builder.select(builder.icmp_signed("!=", with_biases, _I64(0)), _I64(1), gated)
            which = builder.add(builder.mul(builder.sub(count, _I64(1)), _I64(3)), kind)
            one_of(
                builder, which, [functools.partial(body, few, kind) for few in range(1, FEW + 1) for kind in range(3)]
            )
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), codegen

    @intrinsic
    def _sums_over_rows(typingctx, s, places, m, count, d, step, width, out):
        """As `sums_over_rows` below."""

        def codegen(context, builder, signature, args):
            s, places, m, count, d, step, width, out = args
            emit = Emitter(builder, types.float32)

            def body(few):
                chains = max(1, 4 // (few + 1))  # of one sum: an addition waits for the one before
                with cgutils.for_range(builder, builder.sdiv(width, _I64(_LANES))) as across:
                    column = builder.mul(across.index, _I64(VECTOR))
                    sums = [[emit.sum_at(emit.zero()) for _ in range(few + 1)] for _ in range(chains)]
                    for chain in sums:
                        for place in chain:
                            builder.store(emit.zero(), place)

                    def add(i, chain, column=column):
                        row = emit.load(builder.add(builder.add(d, builder.mul(i, step)), column))
                        if few:
                            place = emit.at(s, emit.load(builder.add(places, builder.mul(i, _I64(8))), _I64))
                            for k in range(few):
                                emit.add_product(
                                    emit.splat(emit.load(emit.at(place, _I64(k)), emit.real)), row, chain[k]
                                )
                        builder.store(builder.fadd(builder.load(chain[few]), row), chain[few])

                    whole = builder.sdiv(m, _I64(chains))
                    with cgutils.for_range(builder, whole) as loop:
                        for c, chain in enumerate(sums):
                            add(builder.add(builder.mul(loop.index, _I64(chains)), _I64(c)), chain)
                    done = builder.mul(whole, _I64(chains))
                    with cgutils.for_range(builder, builder.sub(m, done)) as loop:
                        add(builder.add(done, loop.index), sums[0])
                    for k in range(few + 1):
                        total = builder.load(sums[0][k])
                        for chain in sums[1:]:
                            total = builder.fadd(total, builder.load(chain[k]))
                        emit.store(total, builder.add(emit.at(out, builder.mul(width, _I64(k))), column))

            one_of(builder, count, [functools.partial(body, few) for few in range(FEW + 1)])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), codegen

    @intrinsic
    def _sums_along(typingctx, a, step, last, row, width, out):
        """Overwrites a vector at out with the products of as many rows, `step` bytes apart, and one; rows beyond
        `last` are the last once more.
        """

        def codegen(context, builder, signature, args):
            a, step, last, row, width, out = args
            emit = Emitter(builder, types.float32)
            begins = [
                builder.add(
                    a, builder.mul(step, builder.select(builder.icmp_signed("<", last, _I64(i)), last, _I64(i)))
                )
                for i in range(emit.count)
            ]
            sums = [emit.sum_at(emit.zero()) for _ in begins]
            for place in sums:
                builder.store(emit.zero(), place)
            with cgutils.for_range(builder, builder.sdiv(width, _I64(_LANES))) as across:
                column = builder.mul(across.index, _I64(VECTOR))
                factor = emit.load(builder.add(row, column))
                for begin, place in zip(begins, sums, strict=True):
                    emit.add_product(emit.load(builder.add(begin, column)), factor, place)
            emit.store(emit.sums_across([builder.load(place) for place in sums]), out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    def _many_to_few(a, step, m, M, width, count, b, z, z_step, room):
        zero = np.float32(0)
        biases, sums = vector_at(b, zero, count), vector_at(room, zero, _LANES)
        for i in range(0, m, _LANES):
            for j in range(count):
                _sums_along(a + i * step, step, m - 1 - i, M + 4 * width * j, width, room)
                for r in range(min(_LANES, m - i)):
                    vector_at(z + (i + r) * z_step + 4 * j, zero, 1)[0] = biases[j] + sums[r]

    def _few_to_many(s, places, m, count, M, width, z, step, gate, with_biases):
        _rows_plus(s, places, m, count, M, width, z, step, gate, with_biases)

    def _sums(s, places, m, count, d, step, width, out):
        _sums_over_rows(s, places, m, count, d, step, width, out)

else:

    def few_to_many(table, s, places, m, count, M, width, z, step, gate, with_biases):
        """The same in NumPy."""
        rows = rows_at(M, np.float32(0), count + with_biases, width)
        rows_apart(z, m, step, width)[...] = finished(
            rows_at_places(s, places, m, count) @ rows[:count] + (rows[count] if with_biases else 0), gate, step
        )

    def sums_over_rows(table, s, places, m, count, d, step, width, out):
        """The same in NumPy."""
        rows, sums = rows_apart(d, m, step, width), rows_at(out, np.float32(0), count + 1, width)
        if count:
            sums[:count] = rows_at_places(s, places, m, count).T @ rows
        sums[count] = rows.sum(axis=0)

    def many_to_few(table, a, step, m, M, width, count, b, z, z_step, room):
        """The same in NumPy."""
        rows_apart(z, m, z_step, count)[...] = rows_apart(a, m, step, width) @ rows_at(
            M, np.float32(0), count, width
        ).T + vector_at(b, np.float32(0), count)


# By address; numbers are float32, strides in bytes, width a multiple of a vector, count from 1 to FEW.
#
# few_to_many:  z (m, width) = sum_k s_ik M_k, plus row `count` of M if with_biases; row i of s lies at s + 4 places[i]
#               gate: 0; or, with biases, RECTIFY for the ReLU; or, without, the address of rows like z's, outputs of a
#               ReLU, whose derivative multiplies z
# many_to_few:  z (m, count) = sum_k a_ik M_jk + b_j; a (m, width). room: a vector
# sums_over_rows: out (count + 1, width): sum_i s_ik d_i, then sum_i d_i; s as above, count from 0 on; d (m, width)
SUMS_OVER_ROWS = 8  # places in the table, behind those of on_demand.py
if JIT:
    _FEW_TO_MANY, _MANY_TO_FEW = 9, 10
    _integer = types.int64

    @intrinsic
    def sums_over_rows(typingctx, table, s, places, m, count, d, step, width, out):
        """See above."""
        return types.void(table, *[_integer] * 8), called(SUMS_OVER_ROWS)

    @intrinsic
    def few_to_many(typingctx, table, s, places, m, count, M, width, z, step, gate, with_biases):
        """See above."""
        return types.void(table, *[_integer] * 10), called(_FEW_TO_MANY)

    @intrinsic
    def many_to_few(typingctx, table, a, step, m, M, width, count, b, z, z_step, room):
        """See above."""
        return types.void(table, *[_integer] * 10), called(_MANY_TO_FEW)


@once
def _compiled(which):
    """One of them, once per process: its code must not be freed."""
    function, arguments = ((_sums, 8), (_few_to_many, 10), (_many_to_few, 10))[which]
    return exported(function, types.void(*[types.int64] * arguments))


def few_addresses(few):
    """(3,) int64: sums_over_rows, then few_to_many and many_to_few if a layer is so narrow, or zeros."""
    return np.array([_compiled(which).address if JIT and (few or which == 0) else 0 for which in range(3)], np.int64)
