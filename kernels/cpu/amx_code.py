"""LLVM instructions for the products of kernels/cpu/amx.py: numbers in three parts, and blocks of sums in the registers of Intel's matrix unit (AMX).

A float32 has 24 significant bits. `parts` writes it as the sum of three bfloat16 of 8 each, high, middle and low, without a rest; the unit multiplies pairs of
bfloat16 exactly and adds in float32. Of the nine products of parts the three smallest are below the last bit of the whole and are left out; six are added.

A *tile* is a kibibyte, 16 rows of 64 bytes, one register of the unit; the three parts of a piece of a matrix are three tiles, one after another:
  left   16 rows x 32 inputs: row r holds 32 bfloat16 side by side
  right  32 inputs x 16 columns: row p holds inputs 2p and 2p + 1 of column 0, then of column 1, ...
As numbers of 32 bits the one is the other's transpose (`turn_tiles`).

References: G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019,
sections III and IV (BF16x3, six products); Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1, chapter 18 (AMX).
"""

from __future__ import annotations

import functools
import itertools

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .panel_code import RECTIFY, one_of
from .vectors import ask_for

__all__ = ["PIECE", "PRODUCTS", "SIDE", "TILE", "block_of_sums", "block_to_weights", "configure", "finish_row", "left_row", "release", "right_pair", "turn_tiles"]

SIDE, TILE = 16, 1024  # rows of a tile, and columns of float32; bytes of a tile
PIECE = 3 * TILE  # bytes of the three parts
_ROW = 64  # bytes of a tile's row
# Of both sides, smallest products first. Each differs from the one before in one part, so that five of the six ask for one side's tiles alone.
PRODUCTS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))
_I64, _I32, _I16, _I8 = ir.IntType(64), ir.IntType(32), ir.IntType(16), ir.IntType(8)
_FLOATS, _WORDS, _HALVES = ir.VectorType(ir.FloatType(), SIDE), ir.VectorType(_I32, SIDE), ir.VectorType(_I16, 2 * SIDE)
_BITS = ir.VectorType(ir.IntType(1), SIDE)


def _all(kind, number):
    return ir.Constant(kind, [number] * kind.count)


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder, address, kind=_FLOATS):
    return builder.load(_pointer(builder, address, kind), align=4)


def _store(builder, value, address, align=64):
    builder.store(value, _pointer(builder, address, value.type), align=align)


def _first(builder, count):
    """A mask of the first `count` lanes, all or none where that is beyond."""
    limit = builder.insert_element(ir.Constant(ir.VectorType(_I64, SIDE), ir.Undefined), count, _I32(0))
    limit = builder.shuffle_vector(limit, limit, _all(_WORDS, 0))
    return builder.icmp_signed("<", ir.Constant(ir.VectorType(_I64, SIDE), list(range(SIDE))), limit)


def _load_first(builder, address, count):
    """The first `count` numbers from an address on, and zeros; memory behind them is not touched."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS.as_pointer(), _I32, _BITS, _FLOATS])
    function = builder.module.declare_intrinsic("llvm.masked.load.v16f32.p0", fnty=kind)
    return builder.call(function, [_pointer(builder, address, _FLOATS), _I32(4), _first(builder, count), _all(_FLOATS, 0.0)])


def _store_first(builder, value, address, mask):
    kind = ir.FunctionType(ir.VoidType(), [_FLOATS, _FLOATS.as_pointer(), _I32, _BITS])
    function = builder.module.declare_intrinsic("llvm.masked.store.v16f32.p0", fnty=kind)
    builder.call(function, [value, _pointer(builder, address, _FLOATS), _I32(4), mask])


def _unit(builder, name, *arguments):
    """An instruction of the matrix unit; registers are numbers (int), addresses int64."""
    values = [_I8(argument) if isinstance(argument, int) else argument for argument in arguments]
    function = builder.module.declare_intrinsic(f"llvm.x86.{name}", fnty=ir.FunctionType(ir.VoidType(), [value.type for value in values]))
    builder.call(function, values)


def _instruction(name):
    """An instruction that takes nothing, or an address."""

    def codegen(context, builder, signature, args):
        _unit(builder, name, *(_pointer(builder, address, _I8) for address in args))
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


def parts(builder, x):
    """The three parts of 16 float32, each as the upper half of 32 bits: x = high + middle + low, without a rest unless that is subnormal."""
    half, upper = _all(_WORDS, 0x8000), _all(_WORDS, 0xFFFF0000)
    pieces = []
    for _ in range(2):  # rounded to the nearest, so that what is left out has no sign of its own
        part = builder.and_(builder.add(builder.bitcast(x, _WORDS), half), upper)
        pieces.append(part)
        x = builder.fsub(x, builder.bitcast(part, _FLOATS))
    return [*pieces, builder.and_(builder.bitcast(x, _WORDS), upper)]


def _store_left(builder, first, second, to):
    """A row of each of three tiles: 32 numbers as two vectors of parts."""
    odd = ir.Constant(ir.VectorType(_I32, 2 * SIDE), [2 * i + 1 for i in range(2 * SIDE)])
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        row = builder.shuffle_vector(builder.bitcast(a, _HALVES), builder.bitcast(b, _HALVES), odd)
        _store(builder, row, builder.add(to, _I64(number * TILE)))


def _store_right(builder, even, odd, to):
    """A row of each of three tiles: the parts of 16 columns of two inputs."""
    for number, (a, b) in enumerate(zip(even, odd, strict=True)):
        _store(builder, builder.or_(builder.lshr(a, _all(_WORDS, 16)), b), builder.add(to, _I64(number * TILE)))


@intrinsic
def left_row(typingctx, x, count, to):
    """The first 32 of `count` float32 side by side, and zeros where there are fewer, as a row of the three left tiles; to: the row in the first of them."""

    def codegen(context, builder, signature, args):
        x, count, to = args

        def row(load):
            _store_left(builder, *(parts(builder, load(builder.add(x, _I64(_ROW * i)), SIDE * i)) for i in range(2)), to)

        with builder.if_else(builder.icmp_signed(">=", count, _I64(2 * SIDE))) as (whole, cut):
            with whole:
                row(lambda address, before: _load(builder, address))
            with cut:
                row(lambda address, before: _load_first(builder, address, builder.sub(count, _I64(before))))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def right_pair(typingctx, x, x_count, y, y_count, to):
    """The first 16 of so many columns of two inputs, float32 at x and y, and zeros where there are fewer, as a row of the three right tiles."""

    def codegen(context, builder, signature, args):
        x, x_count, y, y_count, to = args
        rows = [parts(builder, _load_first(builder, row, count)) for row, count in ((x, x_count), (y, y_count))]
        _store_right(builder, *rows, to)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def turn_tiles(typingctx, at, count):
    """`count` tiles, one after another, become their transposes as numbers of 32 bits: left tiles of a matrix right tiles of its transpose, and back."""

    def codegen(context, builder, signature, args):
        at, count = args
        with cgutils.for_range(builder, count) as loop:
            tile = builder.add(at, builder.mul(loop.index, _I64(TILE)))
            rows = [_load(builder, builder.add(tile, _I64(_ROW * i)), _WORDS) for i in range(SIDE)]
            side = 1
            while side < SIDE:  # swaps the off-diagonal blocks of side 1, 2, 4, ...
                low = ir.Constant(_WORDS, [j if not j & side else SIDE + j - side for j in range(SIDE)])
                high = ir.Constant(_WORDS, [j + side if not j & side else SIDE + j for j in range(SIDE)])
                for i in range(SIDE):
                    if not i & side:
                        a, b = rows[i], rows[i + side]
                        rows[i], rows[i + side] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
                side *= 2
            for i in range(SIDE):
                _store(builder, rows[i], builder.add(tile, _I64(_ROW * i)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


MOST = 6  # sums of a block, which leave two registers for the factors. A sum waits for its last addition as long as three others take
SHAPES = [(rows, columns) for rows, columns in itertools.product(range(1, 4), repeat=2) if rows * columns <= MOST]  # groups of 16 rows, and of columns, of a block


def loads_and_products(rows, columns):
    """What is done with a piece, in order: (register, (factor, part)) loads a tile, factors counted from the left ones on; ((sum, left, right), (-1, -1)) multiplies and adds, registers all three.

    Where none of the registers beside the sums is free, the tile that is wanted again last, or never, makes room.
    """
    each = [(i, j) for i in range(rows) for j in (range(columns) if i % 2 == 0 else reversed(range(columns)))]  # each shares a factor with the one before
    uses = [(tile, (i, of_left), (rows + j, of_right)) for of_left, of_right in PRODUCTS for tile, (i, j) in enumerate(each)]
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


@intrinsic
def block_of_sums(typingctx, rows, columns, left, left_group, right, right_group, steps, fresh, out, out_step, out_group, x, coming, asked):
    """The products of groups of 16 rows, `left_group` bytes apart, and of 16 columns, added up over `steps` pieces, in float32: alone if fresh, or to what is there.

    rows, columns: one of SHAPES. A row of out lies `out_step` bytes behind the last, a group of rows `out_group`, one of columns a line, or a tile where rows are side by side.
    With every piece, the next two lines of so many rows, which begin at x + 4 coming[i], are asked for.
    """

    def codegen(context, builder, signature, args):
        rows, columns, left, left_group, right, right_group, steps, fresh, out, out_step, out_group, x, coming, asked = args
        out_column = builder.select(builder.icmp_signed("==", out_step, _I64(_ROW)), _I64(TILE), _I64(_ROW))

        def body(rows, columns):
            each = [(i, j) for i in range(rows) for j in (range(columns) if i % 2 == 0 else reversed(range(columns)))]  # each shares a factor with the one before
            places = [builder.add(out, builder.add(builder.mul(out_group, _I64(i)), builder.mul(out_column, _I64(j)))) for i, j in each]
            with builder.if_else(builder.icmp_signed("!=", fresh, _I64(0))) as (new, old):
                with new:
                    for tile in range(len(each)):
                        _unit(builder, "tilezero", tile)
                with old:
                    for tile, place in enumerate(places):
                        _unit(builder, "tileloadd64", tile, _pointer(builder, place, _I8), out_step)
            with cgutils.for_range(builder, steps) as loop:
                shift = builder.mul(loop.index, _I64(PIECE))
                begins = [builder.add(left, builder.add(shift, builder.mul(left_group, _I64(i)))) for i in range(rows)]
                begins += [builder.add(right, builder.add(shift, builder.mul(right_group, _I64(j)))) for j in range(columns)]
                for register, (factor, part) in loads_and_products(rows, columns):
                    if factor >= 0:
                        _unit(builder, "tileloadd64", register, _pointer(builder, builder.add(begins[factor], _I64(part * TILE)), _I8), _I64(_ROW))
                    else:
                        _unit(builder, "tdpbf16ps", *register)
                at = builder.add(x, builder.mul(loop.index, _I64(2 * _ROW)))
                with cgutils.for_range(builder, asked) as ask:
                    place = builder.load(_pointer(builder, builder.add(coming, builder.mul(ask.index, _I64(8))), _I64))
                    row = builder.add(at, builder.mul(place, _I64(4)))
                    for line in range(2):
                        ask_for(builder, builder.add(row, _I64(line * _ROW)), 2)
            for tile, place in enumerate(places):
                _unit(builder, "tilestored64", tile, _pointer(builder, place, _I8), out_step)

        which = builder.add(builder.mul(rows, _I64(MOST)), columns)
        end = builder.append_basic_block("end")
        switch = builder.switch(which, end)
        for pair in SHAPES:
            block = builder.append_basic_block("block")
            switch.add_case(_I64(pair[0] * MOST + pair[1]), block)
            builder.position_at_end(block)
            body(*pair)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 14), codegen


def _each_vector(builder, room, rows, columns, finish):
    """finish(16 sums, row, column in bytes) of so many rows and groups of 16 columns of a block in `room`: 16 rows at a time where there are as many."""
    groups = builder.sdiv(rows, _I64(SIDE))
    with cgutils.for_range(builder, columns) as across:
        vector = builder.mul(across.index, _I64(_ROW))

        def tile_of(group):
            return builder.add(room, builder.mul(builder.add(builder.mul(group, columns), across.index), _I64(TILE)))

        with cgutils.for_range(builder, groups) as down:
            tile, first = tile_of(down.index), builder.mul(down.index, _I64(SIDE))
            for i in range(SIDE):
                finish(_load(builder, builder.add(tile, _I64(_ROW * i))), builder.add(first, _I64(i)), vector)
        first = builder.mul(groups, _I64(SIDE))
        tile = tile_of(groups)
        with cgutils.for_range(builder, builder.sub(rows, first)) as down:
            finish(_load(builder, builder.add(tile, builder.mul(down.index, _I64(_ROW)))), builder.add(first, down.index), vector)


@intrinsic
def finish_row(typingctx, out, width, bias, gate):
    """`width` numbers at out, a multiple of 16, become themselves with bias. gate: 0; or RECTIFY, for the ReLU of each; or the address of as many outputs of a ReLU, whose derivative multiplies each."""

    def codegen(context, builder, signature, args):
        out, width, bias, gate = args

        def every(last):
            with cgutils.for_range(builder, builder.sdiv(width, _I64(SIDE))) as loop:
                vector = builder.mul(loop.index, _I64(_ROW))
                place = builder.add(out, vector)
                _store(builder, last(builder.fadd(_load(builder, place), _load(builder, builder.add(bias, vector))), vector), place, align=4)

        def rectified(total, vector):
            return builder.select(builder.fcmp_ordered("<", total, _all(_FLOATS, 0.0)), _all(_FLOATS, 0.0), total)  # so that NaN stays NaN

        def gated(total, vector):
            a = _load(builder, builder.add(gate, vector))
            slope = builder.select(builder.fcmp_ordered(">", a, _all(_FLOATS, 0.0)), _all(_FLOATS, 1.0), a)  # a: 0, or NaN
            return builder.fmul(total, slope)

        which = builder.select(builder.icmp_signed(">", gate, _I64(RECTIFY)), _I64(2), gate)
        one_of(builder, which, [functools.partial(every, last) for last in (lambda total, vector: total, rectified, gated)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@intrinsic
def block_to_weights(typingctx, room, rows, width, out, out_step, share, keep):
    """out = keep out + share of the block in `room`: `rows` rows of `width` columns, out_step bytes apart; out is not read where keep is 0."""

    def codegen(context, builder, signature, args):
        room, rows, width, out, out_step, share, keep = args

        def spread(number):
            one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, _I32(0))
            return builder.shuffle_vector(one, one, _all(_WORDS, 0))

        columns = builder.sdiv(builder.add(width, _I64(SIDE - 1)), _I64(SIDE))
        shares, keeps = spread(share), spread(keep)

        def every(kept):
            def finish(total, row, vector):
                left = builder.sub(width, builder.sdiv(vector, _I64(4)))
                place = builder.add(out, builder.add(builder.mul(row, out_step), vector))
                total = builder.fmul(shares, total)
                if kept:
                    total = builder.fadd(builder.fmul(keeps, _load_first(builder, place, left)), total)
                _store_first(builder, total, place, _first(builder, left))

            _each_vector(builder, room, rows, columns, finish)

        nothing = builder.fcmp_ordered("==", keep, ir.Constant(ir.FloatType(), 0.0))
        one_of(builder, builder.select(nothing, _I64(0), _I64(1)), [functools.partial(every, kept) for kept in (False, True)])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, types.float32, types.float32), codegen
