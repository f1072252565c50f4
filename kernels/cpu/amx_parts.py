"""What the programs on the matrix unit have in common: layers through which a thread takes its rows and back, with
the products of kernels/cpu/amx.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import inner, part
from .amx import PIECE, add_up, forward, groups_of, pack_turned, pack_weights, steps_of
from .amx_bytes import add_up_bytes, forward_bytes
from .amx_thin import FEW, few_to_many, lay_out_few, many_to_few, sums_over_rows
from .codes import RELU
from .on_demand import activate_at, derivative_at
from .panel_output import cost_and_delta
from .panel_parts import drop_layer
from .panels import RECTIFY, rows_at, vector_at

__all__ = [
    "AHEAD",
    "ROOM_AHEAD",
    "Factors",
    "few_at",
    "gradient",
    "lay_out",
    "padded_biases",
    "share_of",
    "step_at",
    "take",
    "through",
]

# Rows of data that are asked for before they are laid out, which happens that long before they are used; and most of
# them beyond a tile.
AHEAD, ROOM_AHEAD = 32, 48
# The first layer's gradient takes so many rows of float32 data at a time, those first that the way forth read last:
# they are near still, the others are not. Its Delta is read again for each time, so only if it has at most so many
# units.
LAST_ROWS, LAST_UNITS = 64, 128
ONE = np.float32(1)


class Factors(NamedTuple):
    """Where a thread's factors and sums lie, as addresses, and where in `weights` each layer begins, in pieces."""

    weights: Any
    begin: Any
    right: Any
    room: Any
    rows: Any
    turned: Any
    errand: Any


def share_of(total, multiple, me, team):
    """The part (first, last + 1) of 0..total that belongs to thread `me`, cut at multiples."""
    whole = (total + multiple - 1) // multiple
    return min(total, whole * me // team * multiple), min(total, whole * (me + 1) // team * multiple)


share_of = inner(share_of)


def step_at(shape, layer):
    """Numbers from one row of what a layer makes to the next."""
    return shape.starts[layer + 1] - shape.starts[layer]


step_at = inner(step_at)


def padded_biases(zero, theta, shape, layer, out):
    """Overwrites P numbers with a layer's biases, then zeros. Addresses: theta, out."""
    n_out, P = shape.sizes[layer + 1], shape.widths[layer]
    b = vector_at(theta + (shape.blocks[layer] + n_out * shape.sizes[layer]) * 4, zero, n_out)
    row = vector_at(out, zero, P)
    for j in range(n_out):
        row[j] = b[j]
    for j in range(n_out, P):
        row[j] = zero


padded_biases = inner(padded_biases)


def lay_out(table, zero, layer, first, last, few, shape, own, factors):
    """Lays units first..last of a layer's weights out as factors; or as kernels/cpu/amx_thin.py says, if it has few
    inputs or outputs.
    """
    n_in, n_out, W = shape.sizes[layer], shape.sizes[layer + 1], own.theta + shape.blocks[layer] * 4
    forth = factors.weights + factors.begin[layer] * PIECE
    back = forth + groups_of(n_out) * steps_of(n_in) * PIECE if layer > 0 else np.int64(0)
    if few:
        lay_out_few(
            zero, W, W + n_out * n_in * 4, first, last, n_out, n_in, shape.widths[layer if layer == 0 else layer - 1],
            layer == 0, forth,
        )  # fmt: skip
    elif last > first:
        pack_weights(table, W, n_in * 4, first, last, n_out, n_in, forth, back)


lay_out = inner(lay_out)


def few_at(shape, layer):
    """Whether a layer is the first, of few inputs, or the last, of few outputs."""
    last = shape.codes.size - 1
    return (layer == 0 and shape.sizes[0] <= FEW) or (layer == last > 0 and shape.sizes[last + 1] <= FEW)


few_at = inner(few_at)


def take(zero, out, step, count, sums, share, keep):
    """out_i = keep out_i + share sums_i for `count` numbers; those of out lie `step` numbers apart. Addresses: out,
    sums.
    """
    totals, to = vector_at(sums, zero, count), vector_at(out, zero, (count - 1) * step + 1)
    for i in range(count):
        to[i * step] = keep * to[i * step] + share * totals[i] if keep != 0 else share * totals[i]


take = inner(take)


def gradient(
    table, zero, layer, few, inputs, where, octets, scale, m, delta, deltas, shape, factors, grads, share, keep,
    biases_keep, ahead,
):  # fmt: skip
    """A layer's Delta, as `through` says, of m rows of inputs and of deltas; deltas: where the rows of the latter
    begin. Those of the first layer are multiplied by `scale` if its inputs are bytes.
    """
    n_in, n_out, step, nothing = shape.sizes[layer], shape.sizes[layer + 1], step_at(shape, layer), np.int64(0)
    Delta, width, sums = grads + shape.blocks[layer] * 4, shape.widths[layer], factors.rows
    biases = Delta + n_out * n_in * 4
    if few and layer == 0:  # the sums of the deltas are the last row
        sums_over_rows(table, inputs, where, m, n_in, delta, step * 4, width, sums)
        for k in range(n_in):
            take(zero, Delta + 4 * k, n_in, n_out, sums + 4 * width * k, share, keep)
        take(zero, biases, 1, n_out, sums + 4 * width * n_in, share, biases_keep)
        return
    if few:
        below = shape.widths[layer - 1]
        sums_over_rows(table, delta, deltas, m, n_out, inputs, step_at(shape, layer - 1) * 4, below, sums)
        for j in range(n_out):
            take(zero, Delta + 4 * n_in * j, 1, n_in, sums + 4 * below * j, share, keep)
    sums_over_rows(table, nothing, nothing, m, nothing, delta, step * 4, width, sums)
    take(zero, biases, 1, n_out, sums, share, biases_keep)
    if few:
        return
    if octets and scale != 1:
        rows = vector_at(delta, zero, m * step)
        for i in range(m * step):
            rows[i] *= scale
    at_once, end = np.int64(LAST_ROWS if layer == 0 and not octets and n_out <= LAST_UNITS else m), m
    while end > 0:
        begin = (end - 1) // at_once * at_once
        rows, begins = end - begin, where + 8 * begin
        pack_turned(table, delta + begin * step * 4, step * 4, rows, n_out, factors.turned, nothing, steps_of(rows))
        if octets:
            add_up_bytes(
                table, factors.turned, n_out, inputs, begins, rows, n_in, factors.right, factors.room, Delta, n_in * 4,
                share, keep, ahead, factors.errand,
            )  # fmt: skip
        else:
            add_up(
                table, factors.turned, n_out, inputs, begins, rows, n_in, factors.right, factors.room, Delta, n_in * 4,
                share, keep, ahead, factors.errand,
            )  # fmt: skip
        end, keep = begin, type(zero)(1)


gradient = inner(gradient)


def through(
    mine, bottom, table, zero, x, octets, scale, ahead, block, shape, by_class, own, factors, grads, share, keep,
    biases_keep, drawn,
):  # fmt: skip
    """Takes the rows `mine` through the layers from `bottom` on, and back. Returns (cost sum, rows that are right).

    Inputs begin at x + 4 first[i], or are `scale` of the uint8 at x + first[i] if they are `octets`, unless `bottom` is
    more than 0: the activations of the layer below are there then. Its deltas are made too. grads (an address, where
    theta's begins) become keep of themselves, or biases_keep, and share of the rows' Delta. ahead: as in
    kernels/cpu/amx.py, of x. drawn: of the first row.
    """
    sizes, widths, starts, codes, slopes = shape.sizes, shape.widths, shape.starts, shape.codes, shape.slopes
    m, last, a, d, nothing = mine.size, sizes.size - 2, own.a, own.d, np.int64(0)
    for layer in range(bottom, last + 1):
        z, step, rectified = a + block * starts[layer] * 4, step_at(shape, layer), layer < last and codes[layer] == RELU
        inputs, where, soon = (
            (x, own.firsts, ahead)
            if layer == 0
            else (a + block * starts[layer - 1] * 4, own.places + layer * 8 * block, nothing)
        )
        forth, gate = factors.weights + factors.begin[layer] * PIECE, np.int64(RECTIFY if rectified else 0)
        if not few_at(shape, layer):
            padded_biases(zero, own.theta, shape, layer, factors.rows)
            if layer == 0 and octets:
                forward_bytes(
                    table, inputs, where, m, sizes[layer], own.side, forth, widths[layer], factors.rows, scale, z,
                    step * 4, gate, soon, factors.errand,
                )  # fmt: skip
            else:
                forward(
                    table, inputs, where, m, sizes[layer], own.side, forth, widths[layer], factors.rows, ONE, z,
                    step * 4, gate, soon, factors.errand,
                )  # fmt: skip
        elif layer == 0:
            few_to_many(table, inputs, where, m, sizes[0], forth, widths[0], z, step * 4, gate, np.int64(1))
        else:
            b = own.theta + (shape.blocks[layer] + sizes[layer] * sizes[layer + 1]) * 4
            many_to_few(
                table, inputs, step_at(shape, layer - 1) * 4, m, forth, widths[layer - 1], sizes[layer + 1], b, z,
                step * 4, factors.rows,
            )  # fmt: skip
        if layer < last and not rectified:
            activate_at(table, zero, codes[layer], slopes[layer], z, 1, m * step, own.nothing, own.beside)
        if layer < last:
            drop_layer(table, zero, layer, z, m, step, widths[layer], nothing, drawn, shape)
    step = step_at(shape, last)
    cost, right = cost_and_delta(
        table,
        mine,
        by_class,
        shape,
        own,
        rows_at(a + block * starts[last] * 4, zero, m, step),
        rows_at(d + block * starts[last] * 4, zero, m, step),
    )
    for layer in range(last, bottom - 1, -1):
        n_out, few, step = sizes[layer + 1], few_at(shape, layer), step_at(shape, layer)
        delta, deltas = d + block * starts[layer] * 4, own.places + (layer + 1) * 8 * block
        inputs, where, soon = (
            (x, own.firsts, ahead)
            if layer == 0
            else (a + block * starts[layer - 1] * 4, own.places + layer * 8 * block, nothing)
        )
        if layer > 0:
            lower = d + block * starts[layer - 1] * 4
            lower_step = step_at(shape, layer - 1)
            rectified = codes[layer - 1] == RELU
            forth, gate = factors.weights + factors.begin[layer] * PIECE, inputs if rectified else nothing
            if few:
                few_to_many(
                    table, delta, deltas, m, n_out, forth, widths[layer - 1], lower, lower_step * 4, gate, nothing
                )
            else:
                back = forth + groups_of(n_out) * steps_of(sizes[layer]) * PIECE
                forward(
                    table, delta, deltas, m, n_out, own.side, back, widths[layer - 1], own.nothing, ONE, lower,
                    lower_step * 4, gate, nothing, factors.errand,
                )  # fmt: skip
            drop_layer(table, zero, layer - 1, lower, m, lower_step, widths[layer - 1], nothing, drawn, shape)
            if not rectified:
                derivative_at(
                    table, zero, codes[layer - 1], slopes[layer - 1], shape.kept[layer - 1], lower, inputs,
                    m * lower_step, own.beside,
                )  # fmt: skip
        gradient(
            table, zero, layer, few, inputs, where, layer == 0 and octets, scale, m, delta, deltas, shape, factors,
            grads, share, keep, biases_keep, soon,
        )  # fmt: skip
    return cost, right


through = part(through)
