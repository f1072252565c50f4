"""LLVM instructions that lay float32 out for Intel's matrix unit (AMX): numbers in three parts, in tiles, alone or while the unit multiplies.

A float32 has 24 significant bits. `parts` writes it as the sum of three bfloat16 of 8 each, high, middle and low, without a rest; the unit multiplies pairs of
bfloat16 exactly and adds in float32 (kernels/cpu/amx_code.py).

A *tile* is a kibibyte, 16 rows of 64 bytes, one register of the unit; the three parts of a piece of a matrix, 32 inputs of 16 rows or columns, are three tiles, one after another:
  left   16 rows: row r holds inputs 0 and 16, then 1 and 17, ...
  right  16 columns: row p holds inputs p and p + 16 of column 0, then of column 1, ...
As numbers of 32 bits the one is the other's transpose (`turn_tiles`). Two vectors of inputs so become pairs without a shuffle.

Laying out takes the vector units, which rest while the matrix unit works, and waits for memory. So products do it on the way: an *errand* tells what is to be laid out
for the products to come, and `errand_unit` is emitted between two instructions of the matrix unit.

Reference: G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", ARITH 2019, section III.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .vectors import ask_for

__all__ = [
    "ERRAND",
    "PIECE",
    "SIDE",
    "TILE",
    "errand_unit",
    "finish_errand",
    "first_lanes",
    "left_row",
    "load",
    "load_first",
    "pointer",
    "right_pair",
    "spread",
    "store",
    "store_first",
    "turn_tiles",
]

SIDE, TILE = 16, 1024  # rows of a tile, and columns of float32; bytes of a tile
PIECE = 3 * TILE  # bytes of the three parts
ROW = 64  # bytes of a tile's row
I64, I32, I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)
FLOATS, WORDS = ir.VectorType(ir.FloatType(), SIDE), ir.VectorType(I32, SIDE)
_BITS = ir.VectorType(ir.IntType(1), SIDE)


def spread(kind, number):
    """A constant vector."""
    return ir.Constant(kind, [number] * kind.count)


def pointer(builder, address, kind):
    """To a value of this kind."""
    return builder.inttoptr(address, kind.as_pointer())


def load(builder, address, kind=FLOATS):
    """A vector, wherever it lies."""
    return builder.load(pointer(builder, address, kind), align=4)


def store(builder, value, address, align=64):
    """At an address that is a multiple of so many bytes."""
    builder.store(value, pointer(builder, address, value.type), align=align)


def first_lanes(builder, count):
    """A mask of the first `count` lanes, all or none where that is beyond."""
    count = builder.select(builder.icmp_signed(">", count, I64(SIDE)), I64(SIDE), count)
    count = builder.select(builder.icmp_signed("<", count, I64(0)), I64(0), count)
    bits = builder.sub(builder.shl(I32(1), builder.trunc(count, I32)), I32(1))
    return builder.bitcast(builder.trunc(bits, ir.IntType(SIDE)), _BITS)


def load_first(builder, address, count):
    """The first `count` numbers from an address on, and zeros; memory behind them is not touched."""
    kind = ir.FunctionType(FLOATS, [FLOATS.as_pointer(), I32, _BITS, FLOATS])
    function = builder.module.declare_intrinsic("llvm.masked.load.v16f32.p0", fnty=kind)
    return builder.call(function, [pointer(builder, address, FLOATS), I32(4), first_lanes(builder, count), spread(FLOATS, 0.0)])


def store_first(builder, value, address, mask):
    """The lanes of a mask; memory of the others is not touched."""
    kind = ir.FunctionType(ir.VoidType(), [FLOATS, FLOATS.as_pointer(), I32, _BITS])
    function = builder.module.declare_intrinsic("llvm.masked.store.v16f32.p0", fnty=kind)
    builder.call(function, [value, pointer(builder, address, FLOATS), I32(4), mask])


def parts(builder, x):
    """The three parts of 16 float32, each as the upper half of 32 bits: x = high + middle + low, without a rest unless that is subnormal."""
    half, upper = spread(WORDS, 0x8000), spread(WORDS, 0xFFFF0000)
    pieces = []
    for _ in range(2):  # rounded to the nearest, so that what is left out has no sign of its own
        part = builder.and_(builder.add(builder.bitcast(x, WORDS), half), upper)
        pieces.append(part)
        x = builder.fsub(x, builder.bitcast(part, FLOATS))
    return [*pieces, builder.and_(builder.bitcast(x, WORDS), upper)]


def _store_pairs(builder, first, second, to):
    """A row of each of three tiles: 16 pairs of numbers."""
    for number, (a, b) in enumerate(zip(parts(builder, first), parts(builder, second), strict=True)):
        store(builder, builder.or_(builder.lshr(a, spread(WORDS, 16)), b), builder.add(to, I64(number * TILE)))


def _left_row(builder, x, count, to):
    with builder.if_else(builder.icmp_signed(">=", count, I64(2 * SIDE))) as (whole, cut):
        with whole:
            _store_pairs(builder, load(builder, x), load(builder, builder.add(x, I64(ROW))), to)
        with cut:
            _store_pairs(builder, load_first(builder, x, count), load_first(builder, builder.add(x, I64(ROW)), builder.sub(count, I64(SIDE))), to)


def _right_pair(builder, x, x_count, y, y_count, to):
    whole = builder.and_(*(builder.icmp_signed(">=", count, I64(SIDE)) for count in (x_count, y_count)))
    with builder.if_else(whole) as (both, cut):
        with both:
            _store_pairs(builder, load(builder, x), load(builder, y), to)
        with cut:
            _store_pairs(builder, load_first(builder, x, x_count), load_first(builder, y, y_count), to)


@intrinsic
def left_row(typingctx, x, count, to):
    """The first 32 of `count` float32 side by side, and zeros where there are fewer, as a row of the three left tiles; to: the row in the first of them."""

    def codegen(context, builder, signature, args):
        _left_row(builder, *args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@intrinsic
def right_pair(typingctx, x, x_count, y, y_count, to):
    """The first 16 of so many columns of two inputs, float32 at x and y, and zeros where there are fewer, as a row of the three right tiles."""

    def codegen(context, builder, signature, args):
        _right_pair(builder, *args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@intrinsic
def turn_tiles(typingctx, at, count):
    """`count` tiles, one after another, become their transposes as numbers of 32 bits: left tiles of a matrix right tiles of its transpose, and back."""

    def codegen(context, builder, signature, args):
        at, count = args
        with cgutils.for_range(builder, count) as loop:
            tile = builder.add(at, builder.mul(loop.index, I64(TILE)))
            rows = [load(builder, builder.add(tile, I64(ROW * i)), WORDS) for i in range(SIDE)]
            side = 1
            while side < SIDE:  # swaps the off-diagonal blocks of side 1, 2, 4, ...
                low = ir.Constant(WORDS, [j if not j & side else SIDE + j - side for j in range(SIDE)])
                high = ir.Constant(WORDS, [j + side if not j & side else SIDE + j for j in range(SIDE)])
                for i in range(SIDE):
                    if not i & side:
                        a, b = rows[i], rows[i + side]
                        rows[i], rows[i + side] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
                side *= 2
            for i in range(SIDE):
                store(builder, rows[i], builder.add(tile, I64(ROW * i)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


# Of an errand, int64: units to do, then what the next unit is.
#   left   a unit is 32 inputs of a row: that of row K of ROWS, which begins at X + 4 PLACES[K], COUNT inputs left; goes to TO, groups of 16 rows GROUP bytes apart
#   right  a unit is two inputs, K and K + 16 of their 32, of ROWS, of COUNT columns, the first 32 of which count, in groups GROUP bytes apart; otherwise the same
# Unless AHEAD is 0, what comes after that is asked for meanwhile, as much as is laid out: the same inputs of the row so many further on, for which there is a place; or the next 32 columns.
ERRAND = 10  # numbers
_LEFT, _KIND, _K, _ROWS, _X, _COUNT, _TO, _PLACES, _GROUP, _AHEAD = range(ERRAND)


def _unit_function(module):
    """One unit of the errand at an address, if there is any left; a function of its own, because it is wanted at many places."""
    name = "amx_errand_unit"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    fields = pointer(builder, function.args[0], I64)

    def field(number):
        return builder.gep(fields, [I64(number)])

    def get(number):
        return builder.load(field(number))

    def place_of(k):
        start = builder.load(pointer(builder, builder.add(get(_PLACES), builder.mul(k, I64(8))), I64))
        return builder.add(get(_X), builder.mul(start, I64(4)))

    def ask_for_two(address):
        for line in range(2):
            ask_for(builder, builder.add(address, I64(line * ROW)), 2)

    left = get(_LEFT)
    with builder.if_then(builder.icmp_signed(">", left, I64(0))):
        builder.store(builder.sub(left, I64(1)), field(_LEFT))
        k, rows, count, ahead = get(_K), get(_ROWS), get(_COUNT), get(_AHEAD)
        asking = builder.icmp_signed("!=", ahead, I64(0))
        with builder.if_else(builder.icmp_signed("==", get(_KIND), I64(0))) as (of_left, of_right):
            with of_left:
                group = builder.mul(builder.ashr(k, I64(4)), get(_GROUP))
                _left_row(builder, place_of(k), count, builder.add(get(_TO), builder.add(group, builder.mul(builder.and_(k, I64(SIDE - 1)), I64(ROW)))))
                with builder.if_then(asking):
                    ask_for_two(place_of(builder.add(k, ahead)))
                following = builder.add(k, I64(1))
                done = builder.icmp_signed("==", following, rows)
                builder.store(builder.select(done, I64(0), following), field(_K))
                with builder.if_then(done):
                    for number, change in ((_X, 2 * ROW), (_COUNT, -2 * SIDE), (_TO, PIECE)):
                        builder.store(builder.add(get(number), I64(change)), field(number))
            with of_right:
                to = builder.add(get(_TO), builder.mul(builder.and_(k, I64(SIDE - 1)), I64(ROW)))
                other, end = builder.add(k, I64(SIDE)), builder.sub(rows, I64(1))
                inputs = []
                for at in (k, other):
                    there = builder.icmp_signed("<", at, rows)
                    inputs += [place_of(builder.select(there, at, end)), builder.select(there, count, I64(0))]
                x, x_count, y, y_count = inputs
                with builder.if_then(asking):
                    for row in (x, y):
                        ask_for_two(builder.add(row, I64(2 * ROW)))
                _right_pair(builder, x, x_count, y, y_count, to)
                with builder.if_then(builder.icmp_signed(">", count, I64(SIDE))):
                    x, y = (builder.add(row, I64(ROW)) for row in (x, y))
                    x_count, y_count = (builder.sub(number, I64(SIDE)) for number in (x_count, y_count))
                    _right_pair(builder, x, x_count, y, y_count, builder.add(to, get(_GROUP)))
                done = builder.icmp_signed("==", builder.and_(k, I64(SIDE - 1)), I64(SIDE - 1))
                builder.store(builder.add(k, builder.select(done, I64(SIDE + 1), I64(1))), field(_K))
                with builder.if_then(done):
                    builder.store(builder.add(get(_TO), I64(PIECE)), field(_TO))
    builder.ret_void()
    return function


def errand_unit(builder, errand):
    """Emits one unit, if there is any left."""
    builder.call(_unit_function(builder.module), [errand])


@intrinsic
def finish_errand(typingctx, errand):
    """All units that are left."""

    def codegen(context, builder, signature, args):
        count = builder.load(pointer(builder, args[0], I64))
        with cgutils.for_range(builder, count):
            errand_unit(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
