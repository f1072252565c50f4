"""LLVM instructions that lay float32 out for Intel's matrix unit (AMX): numbers in three parts, in tiles, alone or
while the unit multiplies.

A float32 has 24 significant bits. `parts` writes it as the sum of three bfloat16 of 8 each, high, middle and low,
without a rest; the unit multiplies pairs of bfloat16 exactly and adds in float32 (kernels/cpu/amx_code.py).

A *tile* is a kibibyte, 16 rows of 64 bytes, one register of the unit; the three parts of a piece of a matrix, 32 inputs
of 16 rows or columns, are three tiles, one after another:
  left   16 rows: row r holds inputs 0 and 16, then 1 and 17, ...
  right  16 columns: row p holds inputs p and p + 16 of column 0, then of column 1, ...
As numbers of 32 bits the one is the other's transpose. Two vectors of inputs so become pairs without a shuffle.

Data of uint8 need one part alone, because a bfloat16 holds 8 significant bits: a piece of them is one tile.

Laying out takes the vector units, which rest while the matrix unit works, and waits for memory. So products do it on
the way: an *errand* tells what is to be laid out for the products to come, and `errand_unit` is emitted between two
instructions of the matrix unit.

Reference: G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", ARITH 2019, section III.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .vectors import ask_for

__all__ = [
    "ERRAND",
    "LEFT_BYTES",
    "NUMBERS",
    "PIECE",
    "RIGHT_BYTES",
    "SIDE",
    "TILE",
    "errand_unit",
    "finish_errand",
    "first_lanes",
    "load",
    "load_first",
    "pointer",
    "right_pair",
    "spread",
    "store",
    "store_first",
    "turn_pairs",
]

SIDE, TILE = 16, 1024  # rows of a tile, and columns of float32; bytes of a tile
PIECE = 3 * TILE  # bytes of the three parts
ROW = 64  # bytes of a tile's row
# What the factors of a product are: both float32 in three parts, or the left one, or the right one, uint8 in one.
NUMBERS, LEFT_BYTES, RIGHT_BYTES = 0, 1, 2
I64, I32, I8 = ir.IntType(64), ir.IntType(32), ir.IntType(8)
FLOATS, WORDS, OCTETS = ir.VectorType(ir.FloatType(), SIDE), ir.VectorType(I32, SIDE), ir.VectorType(I8, SIDE)
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


def load_first(builder, address, count, kind=FLOATS):
    """The first `count` of 16 numbers from an address on, and zeros; memory behind them is not touched."""
    of, align, zeros = ("f32", 4, spread(FLOATS, 0.0)) if kind is FLOATS else ("i8", 1, spread(OCTETS, 0))
    function = builder.module.declare_intrinsic(
        f"llvm.masked.load.v16{of}.p0", fnty=ir.FunctionType(kind, [kind.as_pointer(), I32, _BITS, kind])
    )
    return builder.call(function, [pointer(builder, address, kind), I32(align), first_lanes(builder, count), zeros])


def store_first(builder, value, address, mask):
    """The lanes of a mask; memory of the others is not touched."""
    kind = ir.FunctionType(ir.VoidType(), [FLOATS, FLOATS.as_pointer(), I32, _BITS])
    function = builder.module.declare_intrinsic("llvm.masked.store.v16f32.p0", fnty=kind)
    builder.call(function, [value, pointer(builder, address, FLOATS), I32(4), mask])


def parts(builder, x):
    """The three parts of 16 float32, each as the upper half of 32 bits: x = high + middle + low, without a rest
    unless that is subnormal.
    """
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
            _store_pairs(
                builder,
                load_first(builder, x, count),
                load_first(builder, builder.add(x, I64(ROW)), builder.sub(count, I64(SIDE))),
                to,
            )


def _right_pair(builder, x, x_count, y, y_count, to):
    whole = builder.and_(*(builder.icmp_signed(">=", count, I64(SIDE)) for count in (x_count, y_count)))
    with builder.if_else(whole) as (both, cut):
        with both:
            _store_pairs(builder, load(builder, x), load(builder, y), to)
        with cut:
            _store_pairs(builder, load_first(builder, x, x_count), load_first(builder, y, y_count), to)


def _bytes_as_parts(builder, octets):
    """16 uint8, each as a bfloat16 in the upper half of 32 bits, exactly."""
    return builder.bitcast(builder.sitofp(builder.zext(octets, WORDS), FLOATS), WORDS)


def _pairs_of_bytes(builder, x, x_count, y, y_count, to):
    """A row of a tile: the first 16 of so many uint8 at x and at y, in pairs, and zeros where there are fewer."""

    def store_pairs(first, second):
        a, b = (_bytes_as_parts(builder, octets) for octets in (first, second))
        store(builder, builder.or_(builder.lshr(a, spread(WORDS, 16)), b), to)

    whole = builder.and_(*(builder.icmp_signed(">=", count, I64(SIDE)) for count in (x_count, y_count)))
    with builder.if_else(whole) as (both, cut):
        with both:
            store_pairs(*(builder.load(pointer(builder, place, OCTETS), align=1) for place in (x, y)))
        with cut:
            store_pairs(load_first(builder, x, x_count, OCTETS), load_first(builder, y, y_count, OCTETS))


@intrinsic
def right_pair(typingctx, x, x_count, y, y_count, to):
    """The first 16 of so many columns of two inputs, float32 at x and y, and zeros where there are fewer, as a row
    of the three right tiles.
    """

    def codegen(context, builder, signature, args):
        _right_pair(builder, *args)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


def _turned(builder, x, rows, count, step, room):
    """The 16 columns of a square of float32, whose rows lie `step` bytes apart from x on, as vectors; where there
    are fewer rows or numbers, zeros. room: 16 vectors.
    """
    whole = builder.and_(*(builder.icmp_signed(">=", number, I64(SIDE)) for number in (rows, count)))
    here = builder.block
    with builder.if_then(builder.not_(whole)):
        with cgutils.for_range(builder, I64(SIDE)) as loop:
            there = builder.select(builder.icmp_signed("<", loop.index, rows), count, I64(0))
            store(
                builder,
                load_first(builder, builder.add(x, builder.mul(loop.index, step)), there),
                builder.add(room, builder.mul(loop.index, I64(ROW))),
            )
        cut = builder.block
    place, apart = builder.phi(I64), builder.phi(I64)
    for phi, of_whole, of_cut in ((place, x, room), (apart, step, I64(ROW))):
        phi.add_incoming(of_whole, here)
        phi.add_incoming(of_cut, cut)
    lines = [load(builder, builder.add(place, builder.mul(apart, I64(i)))) for i in range(SIDE)]
    side = 1
    while side < SIDE:  # swaps the off-diagonal blocks of side 1, 2, 4, ...
        low = ir.Constant(WORDS, [j if not j & side else SIDE + j - side for j in range(SIDE)])
        high = ir.Constant(WORDS, [j + side if not j & side else SIDE + j for j in range(SIDE)])
        for i in range(SIDE):
            if not i & side:
                a, b = lines[i], lines[i + side]
                lines[i], lines[i + side] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        side *= 2
    return lines


@intrinsic
def turn_pairs(typingctx, x, x_rows, x_count, y, y_rows, y_count, step, to):
    """Of two squares of float32, x and y, which have so many rows of 16 there and so many numbers in each, `step` bytes
    apart, the transposes, as three tiles of pairs: right tiles of a matrix whose rows go across two squares, left tiles
    of the transpose of one whose columns do."""

    def codegen(context, builder, signature, args):
        x, x_rows, x_count, y, y_rows, y_count, step, to = args
        room = builder.ptrtoint(cgutils.alloca_once(builder, ir.ArrayType(FLOATS, SIDE)), I64)
        first = _turned(builder, x, x_rows, x_count, step, room)
        for p, pair in enumerate(zip(first, _turned(builder, y, y_rows, y_count, step, room), strict=True)):
            _store_pairs(builder, *pair, builder.add(to, I64(p * ROW)))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), codegen


# Of an errand, int64: units to do, then what the next unit is. A tile's row of 32 float32 are two lines, of 32 uint8
# half a line.
#   left   a unit is 32 inputs of a row, 64 if they are bytes: those of row K of ROWS, which begins at number PLACES[K]
#          of X, COUNT inputs left; goes to TO, groups of 16 rows GROUP bytes apart
#   right  a unit is two inputs, K and K + 16 of their 32, of ROWS, of COUNT columns, the first 32 of which count, in
#          groups GROUP bytes apart; otherwise the same
# Unless AHEAD is 0, what comes after that is asked for meanwhile, as much as is laid out: the same inputs of the row so
# many further on, for which there is a place; or the next 32 columns.
ERRAND = 10  # numbers
_LEFT, _KIND, _K, _ROWS, _X, _COUNT, _TO, _PLACES, _GROUP, _AHEAD = range(ERRAND)


class _Errand:
    """The numbers of an errand at an address, and what its units are made of, for one kind of factors."""

    def __init__(self, builder, address, form):
        self._builder, self._fields = builder, pointer(builder, address, I64)
        self.bytes, self.piece = (False, PIECE) if form == NUMBERS else (True, TILE)
        self.size = 1 if self.bytes else 4  # bytes of a number

    def get(self, number):
        return self._builder.load(self._field(number))

    def put(self, value, number):
        self._builder.store(value, self._field(number))

    def _field(self, number):
        return self._builder.gep(self._fields, [I64(number)])

    def place_of(self, k):
        builder = self._builder
        start = builder.load(pointer(builder, builder.add(self.get(_PLACES), builder.mul(k, I64(8))), I64))
        return builder.add(self.get(_X), builder.mul(start, I64(self.size)))

    def ask_for_inputs(self, address):
        """The lines of 32 float32, or of 64 uint8."""
        for line in range(1 if self.bytes else 2):
            ask_for(self._builder, self._builder.add(address, I64(line * ROW)), 2)

    def row_to_left(self, x, count, to):
        """Lays out a unit of a left factor. Returns (inputs, pieces) of it."""
        builder, far = self._builder, I64(SIDE)
        if not self.bytes:
            _left_row(builder, x, count, to)
            return 2 * SIDE, 1
        for half in range(2):
            left = builder.sub(count, I64(half * 2 * SIDE))
            with builder.if_then(builder.icmp_signed(">", left, I64(0))):
                at = builder.add(x, I64(half * 2 * SIDE))
                _pairs_of_bytes(
                    builder, at, left, builder.add(at, far), builder.sub(left, far), builder.add(to, I64(half * TILE))
                )
        return 4 * SIDE, 2

    def pair_to_right(self, *arguments):
        (_pairs_of_bytes if self.bytes else _right_pair)(self._builder, *arguments)


def _left_unit(builder, errand):
    k, rows, count, ahead = (errand.get(number) for number in (_K, _ROWS, _COUNT, _AHEAD))
    group = builder.mul(builder.ashr(k, I64(4)), errand.get(_GROUP))
    inputs, pieces = errand.row_to_left(
        errand.place_of(k),
        count,
        builder.add(errand.get(_TO), builder.add(group, builder.mul(builder.and_(k, I64(SIDE - 1)), I64(ROW)))),
    )
    with builder.if_then(builder.icmp_signed("!=", ahead, I64(0))):
        errand.ask_for_inputs(errand.place_of(builder.add(k, ahead)))
    following = builder.add(k, I64(1))
    done = builder.icmp_signed("==", following, rows)
    errand.put(builder.select(done, I64(0), following), _K)
    with builder.if_then(done):
        for number, change in ((_X, inputs * errand.size), (_COUNT, -inputs), (_TO, pieces * errand.piece)):
            errand.put(builder.add(errand.get(number), I64(change)), number)


def _right_unit(builder, errand):
    k, rows, count, half = (*(errand.get(number) for number in (_K, _ROWS, _COUNT)), I64(SIDE * errand.size))
    to = builder.add(errand.get(_TO), builder.mul(builder.and_(k, I64(SIDE - 1)), I64(ROW)))
    other, end = builder.add(k, I64(SIDE)), builder.sub(rows, I64(1))
    inputs = []
    for at in (k, other):
        there = builder.icmp_signed("<", at, rows)
        inputs += [errand.place_of(builder.select(there, at, end)), builder.select(there, count, I64(0))]
    x, x_count, y, y_count = inputs
    with builder.if_then(builder.icmp_signed("!=", errand.get(_AHEAD), I64(0))):
        for row in (x, y):
            errand.ask_for_inputs(builder.add(row, builder.mul(half, I64(2))))
    errand.pair_to_right(x, x_count, y, y_count, to)
    with builder.if_then(builder.icmp_signed(">", count, I64(SIDE))):
        x, y = (builder.add(row, half) for row in (x, y))
        x_count, y_count = (builder.sub(number, I64(SIDE)) for number in (x_count, y_count))
        errand.pair_to_right(x, x_count, y, y_count, builder.add(to, errand.get(_GROUP)))
    done = builder.icmp_signed("==", builder.and_(k, I64(SIDE - 1)), I64(SIDE - 1))
    errand.put(builder.add(k, builder.select(done, I64(SIDE + 1), I64(1))), _K)
    with builder.if_then(done):
        errand.put(builder.add(errand.get(_TO), I64(errand.piece)), _TO)


def _unit_function(module, form):
    """One unit of the errand at an address, if there is any left; a function of its own, because it is wanted at
    many places.
    """
    name = f"amx_errand_unit_{form}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    errand = _Errand(builder, function.args[0], form)
    left = errand.get(_LEFT)
    with builder.if_then(builder.icmp_signed(">", left, I64(0))):
        errand.put(builder.sub(left, I64(1)), _LEFT)
        if form == NUMBERS:
            with builder.if_else(builder.icmp_signed("==", errand.get(_KIND), I64(0))) as (of_left, of_right):
                with of_left:
                    _left_unit(builder, errand)
                with of_right:
                    _right_unit(builder, errand)
        else:
            (_left_unit if form == LEFT_BYTES else _right_unit)(builder, errand)
    builder.ret_void()
    return function


def errand_unit(builder, errand, form):
    """Emits one unit, if there is any left."""
    builder.call(_unit_function(builder.module, form), [errand])


@intrinsic(prefer_literal=True)
def finish_errand(typingctx, form, errand):
    """All units that are left."""
    of = form.literal_value

    def codegen(context, builder, signature, args):
        count = builder.load(pointer(builder, args[1], I64))
        with cgutils.for_range(builder, count):
            errand_unit(builder, args[1], of)
        return context.get_dummy_value()

    return types.void(form, types.int64), codegen
