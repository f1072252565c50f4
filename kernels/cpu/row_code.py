"""LLVM instructions for steps of one row (kernels/cpu/row_program.py): a matrix is read and written once per step.

Conventions as in kernels/cpu/vectors.py. Parameters of a step of one row are used for two or three products and
a change, and what these cost is reading them; so each tile does with a vector of parameters all that there is to do.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .panel_code import MOST, one_of
from .vectors import FETCH, VECTOR, Emitter

__all__ = ["back_tile", "onward_tile"]

_I64 = ir.IntType(64)


def _changed(emit, old, kept, x_k, step):
    """kept old + x_k step; kept None: 1."""
    product = emit.builder.fmul(x_k, step, flags=("contract",))
    return emit.builder.fadd(old if kept is None else emit.builder.fmul(kept, old), product, flags=("contract",))


def _with_or_without(builder, keep, real, body):
    """Emits body(plain) twice: for keep = 1, and for any other."""
    with builder.if_else(builder.fcmp_ordered("==", keep, ir.Constant(real, 1.0))) as (plain, other):
        with plain:
            body(True)
        with other:
            body(False)


@intrinsic
def onward_tile(typingctx, q, real, x, d, next_x, coming, matrix, count, out, share, keep, rectified):
    """The rows k < count of the matrix (count + 1, q vectors) become keep of themselves and x_k share d, the last, the
    biases, themselves and share d.

    Overwrites q vectors at out with the new biases and sum_k next_x_k times the new rows, or their ReLU, in the same
    order in every call. coming: 0, or where the numbers begin that are to be asked for meanwhile, a line at a time.
    """

    def codegen(context, builder, signature, args):
        q, _, x, d, next_x, coming, matrix, count, out, share, keep, rectified = args
        emit = Emitter(builder, signature.args[1])

        def body(vectors, plain):
            chains = max(1, 8 // vectors)  # of one sum, added up in the end
            unrolled, per_line = max(4, chains), FETCH // emit.size
            D = [builder.fmul(emit.splat(share), emit.load(builder.add(d, _I64(v * VECTOR)))) for v in range(vectors)]
            kept = None if plain else emit.splat(keep)
            sums = [[emit.sum_at(emit.zero()) for _ in range(vectors)] for _ in range(chains)]

            def row(k, u):
                x_k, next_k = (emit.splat(emit.load(emit.at(numbers, k, u), emit.real)) for numbers in (x, next_x))
                across = builder.add(matrix, builder.mul(k, _I64(vectors * VECTOR)))
                for v in range(vectors):
                    place = builder.add(across, _I64((u * vectors + v) * VECTOR))
                    new = _changed(emit, emit.load(place), kept, x_k, D[v])
                    emit.store(new, place)
                    emit.add_product(next_k, new, sums[u % chains][v])

            groups = builder.sdiv(count, _I64(unrolled))
            asked = builder.icmp_signed("!=", coming, _I64(0))
            with cgutils.for_range(builder, groups) as loop:
                k = builder.mul(loop.index, _I64(unrolled))
                at_line = builder.icmp_signed("==", builder.and_(k, _I64(per_line - 1)), _I64(0))
                with builder.if_then(builder.and_(asked, at_line)):
                    emit.prefetch(emit.at(coming, k))
                for u in range(unrolled):
                    row(k, u)
            done = builder.mul(groups, _I64(unrolled))
            with cgutils.for_range(builder, builder.sub(count, done)) as loop:
                row(builder.add(done, loop.index), 0)
            biases = builder.add(matrix, builder.mul(count, _I64(vectors * VECTOR)))
            for v in range(vectors):
                place = builder.add(biases, _I64(v * VECTOR))
                total = builder.fadd(emit.load(place), D[v])
                emit.store(total, place)
                for chain in sums:
                    total = builder.fadd(total, builder.load(chain[v]))
                # so that NaN stays NaN
                below = builder.and_(
                    builder.fcmp_ordered("<", total, emit.zero()),
                    emit.splat(builder.icmp_signed("!=", rectified, _I64(0))),
                )
                emit.store(builder.select(below, emit.zero(), total), builder.add(out, _I64(v * VECTOR)))

        def either(vectors):
            _with_or_without(builder, keep, emit.real, functools.partial(body, vectors))

        one_of(builder, builder.sub(q, _I64(1)), [functools.partial(either, vectors) for vectors in range(1, MOST + 1)])
        return context.get_dummy_value()

    return types.void(types.int64, real, *[types.int64] * 7, real, real, types.int64), codegen


@intrinsic
def back_tile(typingctx, real, matrix, rows, vectors, first, valid, a, d, out, spare, share, keep, rectified):
    """Overwrites a vector at out with d times the rows first, first + 1, ... of a matrix in panels of so many rows, of
    which `valid` are meant, and zeros.

    Then these rows become keep of themselves and a_k share d. a: where a_first lies, in memory for a whole vector; with
    `rectified`, outputs of a ReLU, whose derivative multiplies out. spare (MOST vectors): overwritten, in place of rows
    that are not there.
    """

    def codegen(context, builder, signature, args):
        _, matrix, rows, vectors, first, valid, a, d, out, spare, share, keep, rectified = args
        emit = Emitter(builder, signature.args[0])
        sums = [emit.sum_at(emit.zero()) for _ in range(emit.count)]

        def body(plain):
            factor, kept = emit.splat(share), None if plain else emit.splat(keep)
            panels = builder.sdiv(builder.add(vectors, _I64(MOST - 1)), _I64(MOST))
            with cgutils.for_range(builder, panels) as panel:
                column = builder.mul(panel.index, _I64(MOST))
                left = builder.sub(vectors, column)
                across = builder.select(builder.icmp_signed("<", left, _I64(MOST)), left, _I64(MOST))
                begin = emit.vector_at(matrix, builder.mul(column, rows))
                places = []
                for j in range(emit.count):
                    line = emit.vector_at(begin, builder.mul(builder.add(first, _I64(j)), across))
                    places.append(builder.select(builder.icmp_signed("<", _I64(j), valid), line, spare))
                with cgutils.for_range(builder, across) as loop:
                    d_v = emit.load(emit.vector_at(d, builder.add(column, loop.index)))
                    step = builder.fmul(factor, d_v)
                    for j, (begin_j, total) in enumerate(zip(places, sums, strict=True)):
                        place = emit.vector_at(begin_j, loop.index)
                        old = emit.load(place)
                        emit.add_product(old, d_v, total)
                        a_k = emit.splat(emit.load(builder.add(a, _I64(j * emit.size)), emit.real))
                        emit.store(_changed(emit, old, kept, a_k, step), place)

        _with_or_without(builder, keep, emit.real, body)
        totals = emit.first_lanes(emit.sums_across([builder.load(total) for total in sums]), valid)
        below = emit.load(a)
        # below: 0, or NaN
        slope = builder.select(
            builder.fcmp_ordered(">", below, emit.zero()), emit.splat(ir.Constant(emit.real, 1.0)), below
        )
        gated = builder.select(builder.icmp_signed("!=", rectified, _I64(0)), builder.fmul(totals, slope), totals)
        emit.store(gated, out)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 9, real, real, types.int64), codegen
