"""LLVM instructions for the products of kernels/cpu/amx.py: blocks of sums in the registers of Intel's matrix unit
(AMX), of factors laid out by kernels/cpu/amx_layout.py.

Of the nine products of parts the three smallest are below the last bit of the whole and are left out; six are added.
Where one factor is uint8, in one part, three are all.

References: G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", ARITH 2019, section IV (BF16x3, six products); Intel, "Intel 64 and IA-32 Architectures
Software Developer's Manual", volume 1, chapter 18 (AMX).
"""

from __future__ import annotations

import functools
import itertools

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .amx_layout import (
    FLOATS,
    I8,
    I32,
    I64,
    LEFT_BYTES,
    NUMBERS,
    PIECE,
    RIGHT_BYTES,
    ROW,
    SIDE,
    TILE,
    WORDS,
    errand_unit,
    first_lanes,
    load,
    load_first,
    pointer,
    spread,
    store,
    store_first,
)
from .panel_code import RECTIFY, one_of

__all__ = ["PACE", "PRODUCTS", "block_of_sums", "block_to_weights", "configure", "finish_row", "release"]

# Parts of both sides, by what the factors are; smallest products first. Each of the six differs from the one before in
# one part, so that five of them ask for one side's tiles alone.
PRODUCTS = {
    NUMBERS: ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0)),
    LEFT_BYTES: ((0, 2), (0, 1), (0, 0)),
    RIGHT_BYTES: ((2, 0), (1, 0), (0, 0)),
}
PACE = 1 << 16  # of an errand: so much is a unit for each product of tiles


def _unit(builder, name, *arguments):
    """An instruction of the matrix unit; registers are numbers (int), addresses int64."""
    values = [I8(argument) if isinstance(argument, int) else argument for argument in arguments]
    function = builder.module.declare_intrinsic(
        f"llvm.x86.{name}", fnty=ir.FunctionType(ir.VoidType(), [value.type for value in values])
    )
    builder.call(function, values)


def _instruction(name):
    """An instruction that takes nothing, or an address."""

    def codegen(context, builder, signature, args):
        _unit(builder, name, *(pointer(builder, address, I8) for address in args))
        return context.get_dummy_value()

    return codegen


@intrinsic
def configure(typingctx, address):
    """Tells this thread's matrix unit the shapes of its registers, 64 bytes at an address."""
    return types.void(types.int64), _instruction("ldtilecfg")


@intrinsic
def release(typingctx):
    """Gives this thread's registers back, so that a change of threads need not save them."""
    return types.void(), _instruction("tilerelease")


# sums of a block, which leave four registers for the factors: with six, two are left, and a tile is loaded for every
# product. A sum waits for its last addition as long as three others take
MOST = 4
# groups of 16 rows, and of columns, of a block
SHAPES = [(rows, columns) for rows, columns in itertools.product(range(1, 4), repeat=2) if rows * columns <= MOST]


def loads_and_products(rows, columns, form):
    """What is done with a piece, in order: (register, (factor, part)) loads a tile, factors counted from the left ones
    on; ((sum, left, right), (-1, -1)) multiplies and adds, registers all three.

    Where none of the registers beside the sums is free, the tile that is wanted again last, or never, makes room.
    """
    # each shares a factor with the one before
    each = [(i, j) for i in range(rows) for j in (range(columns) if i % 2 == 0 else reversed(range(columns)))]
    uses = [
        (tile, (i, of_left), (rows + j, of_right))
        for of_left, of_right in PRODUCTS[form]
        for tile, (i, j) in enumerate(each)
    ]
    there, done = {}, []  # register: content
    for at, (tile, *factors) in enumerate(uses):
        for wanted in factors:
            if wanted not in there.values():
                free = [register for register in range(rows * columns, 8) if register not in there]

                def next_use(register, at=at):
                    return next((later for later, use in enumerate(uses[at:]) if there[register] in use[1:]), len(uses))

                register = free[0] if free else max(there, key=next_use)
                there[register] = wanted
                done.append((register, wanted))
        left, right = (next(register for register, content in there.items() if content == wanted) for wanted in factors)
        done.append(((tile, left, right), (-1, -1)))
    return done


@intrinsic(prefer_literal=True)
def block_of_sums(
    typingctx, form, rows, columns, left, left_group, right, right_group, steps, fresh, out, out_step, out_group,
    errand, pace,
):  # fmt: skip
    """The products of groups of 16 rows, `left_group` bytes apart, and of 16 columns, added up over `steps` pieces, in
    float32: alone if fresh, or to what is there.

    form: a literal; rows, columns: one of SHAPES. A row of out lies `out_step` bytes behind the last, a group of rows
    `out_group`, one of columns a line, or a tile where rows are side by side. With every product, pace / PACE units of
    the errand are done.
    """

    of = form.literal_value
    left_piece, right_piece = TILE if of == LEFT_BYTES else PIECE, TILE if of == RIGHT_BYTES else PIECE

    def codegen(context, builder, signature, args):
        rows, columns, left, left_group, right, right_group, steps, fresh, out, out_step, out_group, errand, pace = (
            args[1:]
        )
        owed = cgutils.alloca_once_value(builder, I64(0))
        out_column = builder.select(builder.icmp_signed("==", out_step, I64(ROW)), I64(TILE), I64(ROW))

        def body(rows, columns):
            # each shares a factor with the one before
            each = [(i, j) for i in range(rows) for j in (range(columns) if i % 2 == 0 else reversed(range(columns)))]
            places = [
                builder.add(out, builder.add(builder.mul(out_group, I64(i)), builder.mul(out_column, I64(j))))
                for i, j in each
            ]
            with builder.if_else(builder.icmp_signed("!=", fresh, I64(0))) as (new, old):
                with new:
                    for tile in range(len(each)):
                        _unit(builder, "tilezero", tile)
                with old:
                    for tile, place in enumerate(places):
                        _unit(builder, "tileloadd64", tile, pointer(builder, place, I8), out_step)
            with cgutils.for_range(builder, steps) as loop:
                shift = builder.mul(loop.index, I64(left_piece))
                begins = [builder.add(left, builder.add(shift, builder.mul(left_group, I64(i)))) for i in range(rows)]
                shift = builder.mul(loop.index, I64(right_piece))
                begins += [
                    builder.add(right, builder.add(shift, builder.mul(right_group, I64(j)))) for j in range(columns)
                ]
                for register, (factor, part) in loads_and_products(rows, columns, of):
                    if factor >= 0:
                        _unit(
                            builder,
                            "tileloadd64",
                            register,
                            pointer(builder, builder.add(begins[factor], I64(part * TILE)), I8),
                            I64(ROW),
                        )
                    else:
                        _unit(builder, "tdpbf16ps", *register)
                        due = builder.add(builder.load(owed), pace)
                        builder.store(builder.and_(due, I64(PACE - 1)), owed)
                        with builder.if_then(builder.icmp_signed(">=", due, I64(PACE))):
                            errand_unit(builder, errand, of)
            for tile, place in enumerate(places):
                _unit(builder, "tilestored64", tile, pointer(builder, place, I8), out_step)

        which = builder.add(builder.mul(rows, I64(MOST)), columns)
        end = builder.append_basic_block("end")
        switch = builder.switch(which, end)
        for pair in SHAPES:
            block = builder.append_basic_block("block")
            switch.add_case(I64(pair[0] * MOST + pair[1]), block)
            builder.position_at_end(block)
            body(*pair)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(form, *[types.int64] * 13), codegen


def _each_vector(builder, room, rows, columns, finish):
    """finish(16 sums, row, column in bytes) of so many rows and groups of 16 columns of a block in `room`: 16 rows
    at a time where there are as many.
    """
    groups = builder.sdiv(rows, I64(SIDE))
    with cgutils.for_range(builder, columns) as across:
        vector = builder.mul(across.index, I64(ROW))

        def tile_of(group):
            return builder.add(room, builder.mul(builder.add(builder.mul(group, columns), across.index), I64(TILE)))

        with cgutils.for_range(builder, groups) as down:
            tile, first = tile_of(down.index), builder.mul(down.index, I64(SIDE))
            for i in range(SIDE):
                finish(load(builder, builder.add(tile, I64(ROW * i))), builder.add(first, I64(i)), vector)
        first = builder.mul(groups, I64(SIDE))
        tile = tile_of(groups)
        with cgutils.for_range(builder, builder.sub(rows, first)) as down:
            finish(
                load(builder, builder.add(tile, builder.mul(down.index, I64(ROW)))),
                builder.add(first, down.index),
                vector,
            )


def _everywhere(builder, number):
    """A vector of this float32 alone."""
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), number, I32(0))
    return builder.shuffle_vector(one, one, spread(WORDS, 0))


@intrinsic
def finish_row(typingctx, out, width, scale, bias, gate):
    """`width` numbers at out, a multiple of 16, become `scale` of themselves with bias. gate: 0; or RECTIFY, for
    the ReLU of each; or the address of as many outputs of a ReLU, whose derivative multiplies each.
    """

    def codegen(context, builder, signature, args):
        out, width, scale, bias, gate = args
        scales = _everywhere(builder, scale)

        def every(last):
            with cgutils.for_range(builder, builder.sdiv(width, I64(SIDE))) as loop:
                vector = builder.mul(loop.index, I64(ROW))
                place = builder.add(out, vector)
                total = builder.fadd(
                    builder.fmul(scales, load(builder, place)), load(builder, builder.add(bias, vector))
                )
                store(builder, last(total, vector), place, align=4)

        def rectified(total, vector):
            # so that NaN stays NaN
            return builder.select(builder.fcmp_ordered("<", total, spread(FLOATS, 0.0)), spread(FLOATS, 0.0), total)

        def gated(total, vector):
            a = load(builder, builder.add(gate, vector))
            # a: 0, or NaN
            slope = builder.select(builder.fcmp_ordered(">", a, spread(FLOATS, 0.0)), spread(FLOATS, 1.0), a)
            return builder.fmul(total, slope)

        which = builder.select(builder.icmp_signed(">", gate, I64(RECTIFY)), I64(2), gate)
        one_of(
            builder, which, [functools.partial(every, last) for last in (lambda total, vector: total, rectified, gated)]
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64, types.int64), codegen


@intrinsic
def block_to_weights(typingctx, room, rows, width, out, out_step, share, keep):
    """out = keep out + share of the block in `room`: `rows` rows of `width` columns, out_step bytes apart; out is
    not read where keep is 0.
    """

    def codegen(context, builder, signature, args):
        room, rows, width, out, out_step, share, keep = args
        columns = builder.sdiv(builder.add(width, I64(SIDE - 1)), I64(SIDE))
        shares, keeps = _everywhere(builder, share), _everywhere(builder, keep)

        def every(kept):
            def finish(total, row, vector):
                left = builder.sub(width, builder.sdiv(vector, I64(4)))
                place = builder.add(out, builder.add(builder.mul(row, out_step), vector))
                total = builder.fmul(shares, total)
                if kept:
                    total = builder.fadd(builder.fmul(keeps, load_first(builder, place, left)), total)
                store_first(builder, total, place, first_lanes(builder, left))

            _each_vector(builder, room, rows, columns, finish)

        nothing = builder.fcmp_ordered("==", keep, ir.Constant(ir.FloatType(), 0.0))
        one_of(
            builder, builder.select(nothing, I64(0), I64(1)), [functools.partial(every, kept) for kept in (False, True)]
        )
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, types.float32, types.float32), codegen
