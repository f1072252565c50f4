"""Parts of the programs on panels (kernels/cpu/panel_program.py, kernels/cpu/split_program.py): rows through layers,
gradients of a layer, parameters moved.

Memory, and what its names mean, is told there and in kernels/cpu/workspace.py.
"""

from __future__ import annotations

import numpy as np

from . import inner, part
from .codes import RELU
from .on_demand import activate_at, derivative_at, drop_at
from .operations import add, sum_of_squares, update
from .panel_output import cost_and_delta
from .panels import AHEAD, PANEL, RECTIFY, apply, dots, gradient, itemsize, rows_at, step_of, transpose, vector_at
from .team import AT_ONCE, call_back

__all__ = [
    "TALL",
    "accumulate",
    "decay",
    "drop_layer",
    "early",
    "layer_gradient",
    "move",
    "move_numbers",
    "rows_at_hand",
    "rows_to_come",
    "through",
    "turn",
]

# rows of a gradient at a time: their deltas of one panel and a line of each row's inputs fill the first-level cache; in
# multiples of these
TALL, EVEN = 96, 4

# rows of data that are asked for before they are used: enough to have arrived, and few enough to be there still
EARLY = 16


def early(rows):
    """How many rows before its use a row of a tile of so many is asked for; so many of the next tile are during
    this one's gradient, the others when it is there.
    """
    return min((rows + 1) // 2, EARLY)


early = inner(early)


def drop_layer(panels, zero, layer, x, m, apart, n, unit, drawn, shape):
    """What a layer's m rows hold at an address x, activations or deltas of the n units from `unit` on, times the
    factors of dropout, if it has any.
    """
    if shape.limits[layer] > 0:
        drop_at(
            panels, zero, x, m, apart, n, unit, drawn.row, drawn.step, layer, drawn.key, shape.limits[layer],
            shape.scales[layer],
        )  # fmt: skip


drop_layer = inner(drop_layer)


def through(mine, bottom, thin, panels, zero, x, ahead, block, shape, by_class, own, drawn):
    """Takes the rows `mine`, which begin at x + first[i], through the network and back to the deltas. Returns (cost
    sum, rows that are right). drawn: of the first of them.

    bottom: the layer to begin with; from 1 on own.a holds the activations below it, x is not used, and the last deltas
    are those of the layer below it. A layer's rows begin block * starts[layer] numbers behind own.a and own.d. x:
    address. ahead: rows to come are asked for.
    """
    sizes, widths, starts, codes, slopes = shape.sizes, shape.widths, shape.starts, shape.codes, shape.slopes
    m, layers, size = mine.size, sizes.size - 1, itemsize(zero)
    last, a, d, places, turned = layers - 1, own.a, own.d, own.places, own.turned
    for layer in range(bottom, layers):
        n_in, P, step = sizes[layer], widths[layer], step_of(widths[layer], size)
        M, z = own.theta + shape.blocks[layer] * size, a + block * starts[layer] * size
        rectified = layer < last and codes[layer] == RELU
        gate = RECTIFY if rectified else 0
        if layer == 0:
            apply(
                panels, zero, x, own.firsts, m, early(m) if ahead else 0, m, M, n_in + 1, P, 0, n_in, 0, z, step, gate
            )
        elif layer == last and thin:
            dots(
                panels, zero, a + block * starts[layer - 1] * size, 0, step_of(widths[layer - 1], size), m,
                turned + shape.turns[layer] * size, widths[layer - 1], z,
            )  # fmt: skip
            bias = vector_at(M + n_in * P * size, zero, 1)[0]
            outputs = vector_at(z, zero, m)
            for i in range(m):
                outputs[i] += bias
        else:
            apply(
                panels, zero, a + block * starts[layer - 1] * size, places + layer * 8 * block, m, 0, m, M, n_in + 1, P,
                0, n_in, 0, z, step, gate,
            )  # fmt: skip
        if layer < last and not rectified:
            activate_at(panels, zero, codes[layer], slopes[layer], z, 1, m * step, own.nothing, own.beside)
        if layer < last:
            drop_layer(panels, zero, layer, z, m, step, P, np.int64(0), drawn, shape)
    P = step_of(widths[last], size)
    z = rows_at(a + block * starts[last] * size, zero, m, 1 if thin else P)
    top = rows_at(d + block * starts[last] * size, zero, m, P)
    cost, right = cost_and_delta(panels, mine, by_class, shape, own, z, top)
    for layer in range(last, max(bottom, 1) - 1, -1):
        P, Q = widths[layer], widths[layer - 1]
        upper, lower = d + block * starts[layer] * size, d + block * starts[layer - 1] * size
        below = a + block * starts[layer - 1] * size
        rectified = turned != 0 and codes[layer - 1] == RELU
        if turned == 0:
            dots(
                panels, zero, own.theta + shape.blocks[layer] * size, sizes[layer] + 1, 0, sizes[layer], upper, P, lower
            )
        else:
            T = turned + shape.turns[layer] * size
            T_rows = 1 if thin and layer == last else P
            gate = below if rectified else 0
            apply(
                panels, zero, upper, places + (layer + 1) * 8 * block, m, 0, m, T, T_rows, Q, 0, sizes[layer + 1],
                own.nothing, lower, step_of(Q, size), gate,
            )  # fmt: skip
        drop_layer(panels, zero, layer - 1, lower, m, step_of(Q, size), Q, np.int64(0), drawn, shape)
        if not rectified:
            derivative_at(
                panels, zero, codes[layer - 1], slopes[layer - 1], shape.kept[layer - 1], lower, below,
                m * step_of(Q, size), own.beside,
            )  # fmt: skip
    return cost, right


through = part(through)


def squares(zero, matrix, width, depth, k, k_end):
    """Sum of the squares of rows k..k_end of a matrix (depth + 1, width) in panels, at an address."""
    total, size = 0.0, itemsize(zero)
    for column in range(0, width, PANEL // size):
        across = min(PANEL // size, width - column)
        total += sum_of_squares(
            vector_at(matrix + (column * (depth + 1) + k * across) * size, zero, (k_end - k) * across)
        )
    return total


squares = inner(squares)


def decay(zero, m, l2, layer, k, k_end, shape, own):
    """The L2 cost of the weights of inputs k..k_end of a layer, once for each of m rows."""
    matrix = own.theta + shape.blocks[layer] * itemsize(zero)
    return m * l2 / 2 * squares(zero, matrix, shape.widths[layer], shape.sizes[layer], k, k_end)


decay = inner(decay)


def rows_at_hand(rows, step, first):
    """Overwrites first with where these rows of the data begin, and AHEAD times more where the last does."""
    for i in range(rows.size + AHEAD if rows.size else 0):
        first[i] = rows[min(i, rows.size - 1)] * step


rows_at_hand = inner(rows_at_hand)


def rows_to_come(order, begin, capacity, step, first):
    """Overwrites first with where the next tile's first rows of the data begin, which are asked for meanwhile. Returns
    how many they are.
    """
    asked = min(early(capacity), order.size - begin)
    for i in range(asked):
        first[i] = order[begin + i] * step
    return asked


rows_to_come = inner(rows_to_come)


def turn(panels, zero, bottom, thin, shape, own):
    """Overwrites the transposed panels of the layers from `bottom` on, at least the second."""
    sizes, widths = shape.sizes, shape.widths
    last, size = widths.size - 1, itemsize(zero)
    for layer in range(max(bottom, 1), last + 1 if own.turned != 0 else 0):
        M, M_rows, T = own.theta + shape.blocks[layer] * size, sizes[layer] + 1, own.turned + shape.turns[layer] * size
        if layer == last and thin:
            weights, P = vector_at(M, zero, M_rows * widths[layer]), widths[layer]
            row = vector_at(T, zero, sizes[layer])
            for k in range(row.size):
                row[k] = weights[k * P]
        else:
            transpose(panels, zero, M, M_rows, widths[layer], 0, sizes[layer], own.nothing, T, widths[layer - 1])


turn = part(turn)


def _side_by_side(zero, d, step, m, width, room):
    """Overwrites room with (m, width) in panels, whose rows lie `step` numbers apart at d. d, room: addresses."""
    size = itemsize(zero)
    for column in range(0, width, PANEL // size):
        across = min(PANEL // size, width - column)
        rows, panel = rows_at(d + column * size, zero, m, step), rows_at(room + column * m * size, zero, m, across)
        for i in range(m):
            for j in range(across):
                panel[i, j] = rows[i, j]


_side_by_side = part(_side_by_side)


def layer_gradient(
    panels, zero, x, where, coming, asked, rows, delta, step, width, room, M, M_rows, first, count, share, keep, ones,
    nowhere, biases_keep,
):  # fmt: skip
    """M[first + k] = keep M[first + k] + share sum_i x_ik delta_i for k < count, over so many rows; with `ones` the
    same of M's last row, its biases, and biases_keep.

    Addresses: x, where, coming, delta, room, M; ones, numbers that are 1, or 0; nowhere, as many offsets that are 0.
    where, coming, asked: as of `gradient`. Rows of delta lie `step` numbers apart. TALL rows at a time, so that a panel
    of their deltas stays in the first-level cache; from several panels on they are laid side by side first, in `room`.
    """
    size = itemsize(zero)
    tall = rows if rows <= TALL else -(-rows // -(-rows // TALL) // EVEN) * EVEN
    i, before, biases_before, one = 0, keep, biases_keep, type(zero)(1)
    while i < rows or i == 0:
        m, d = min(tall, rows - i), delta + i * step * size
        if width * size > PANEL and m > 1:
            _side_by_side(zero, d, step, m, width, room)
            d = room
        if count > 0:
            gradient(
                panels, zero, x, where + 8 * i, m, coming + 8 * i, asked - i, d, M, M_rows, width, first, count, share,
                before,
            )  # fmt: skip
        if ones != 0:  # as weights of an input that is 1
            gradient(
                panels, zero, ones, nowhere, m, nowhere, 0, d, M, M_rows, width, M_rows - 1, 1, share, biases_before
            )
        before = biases_before = one
        i += max(1, m)


layer_gradient = inner(layer_gradient)


def accumulate(panels, zero, bottom, thin, rows, block, shape, x, asked, own, grads, share, keep, biases_keep):
    """Gradients of the layers from `bottom` on over so many rows of x, own.a and own.d, as in `through`: grads become
    keep of themselves, or biases_keep, and share of the new ones.

    x, grads: addresses. own.firsts: where the rows of x begin, and from `block` on those of the `asked` rows to be
    asked for meanwhile.
    """
    sizes, widths, starts = shape.sizes, shape.widths, shape.starts
    size, last, nought, one = itemsize(zero), widths.size - 1, np.int64(0), np.int64(1)
    a, room, places = own.a, own.side, own.places
    for layer in range(last, bottom - 1, -1):
        P, depth, M = widths[layer], sizes[layer], grads + shape.blocks[layer] * size
        step, delta = step_of(P, size), own.d + block * starts[layer] * size
        rows_of_x, where, coming, soon = x, own.firsts, own.firsts + 8 * block, asked
        if layer > 0:
            rows_of_x = a + block * starts[layer - 1] * size
            where = places + layer * 8 * block
            coming = places
            soon = nought
        count = depth
        if layer == last and thin:
            # its gradient as a row, which fills vectors, by rows of a as if they were deltas; then into the column
            # The last panel's place in `turned` has room for this row too: it would hold at least as many rows as a
            # vector has numbers.
            Q = widths[layer - 1]
            count = nought
            where_d = places + (layer + 1) * 8 * block
            spare = own.turned + (shape.turns[layer] + widths[layer - 1]) * size
            layer_gradient(
                panels, zero, delta, where_d, places, nought, rows, rows_of_x, step_of(Q, size), Q, room, spare, one,
                nought, one, share, zero, nought, places, zero,
            )  # fmt: skip
            column, sums = vector_at(M, zero, depth * P), vector_at(spare, zero, depth)
            if keep == zero:
                for j in range(depth):
                    column[j * P] = sums[j]
            else:
                for j in range(depth):
                    column[j * P] = keep * column[j * P] + sums[j]
        layer_gradient(
            panels, zero, rows_of_x, where, coming, soon, rows, delta, step, P, room, M, depth + 1, nought, count,
            share, keep, own.ones, places, biases_keep,
        )  # fmt: skip


accumulate = part(accumulate)


def move_numbers(zero, team, m, rule, hyper, t, begin, count, weights, own, all_grads, grad_step):
    """Moves `count` parameters, weights or biases, which begin so many bytes into theta, by their gradient in all_grads
    (an address). Returns their L2 cost before, for m rows.

    With a team adds up the Deltas of all threads first, which lie grad_step bytes apart.
    """
    size, cost, decay = itemsize(zero), 0.0, rule.l2 if weights else 0.0
    for at in range(begin, begin + count * size, AT_ONCE * size):
        n = min(AT_ONCE, count - (at - begin) // size)
        w, grad = vector_at(own.theta + at, zero, n), vector_at(all_grads + at, zero, n)
        if team > 1:
            call_back(own.theta + at, n * size)
            for other in range(1, team):
                add(vector_at(all_grads + other * grad_step + at, zero, n), grad)
        if decay != 0:
            cost += m * decay / 2 * sum_of_squares(w)
        own1 = vector_at(own.state1 + at, zero, n if own.state1 != 0 else 0)
        own2 = vector_at(own.state2 + at, zero, n if own.state2 != 0 else 0)
        update(rule.code, hyper, t, w, grad, own1, own2, 1 / m, decay, weights)
    return cost


move_numbers = inner(move_numbers)


def move(zero, team, summed, m, rule, hyper, t, shape, layer, k, k_end, biases, own, all_grads, grad_step):
    """Moves rows k..k_end of a layer's panels by their gradient, and its biases if this is said. Returns the L2 cost of
    these weights before, for m rows.

    summed: adds up the Deltas of all threads first, in all_grads (an address), behind which those of the next thread
    lie grad_step bytes further.
    """
    size, width, depth = itemsize(zero), shape.widths[layer], shape.sizes[layer]
    block, cost = shape.blocks[layer] * size, 0.0
    for column in range(0, width, PANEL // size):
        across = min(PANEL // size, width - column)
        panel = column * (depth + 1)
        for which in range(2 if biases else 1):  # weights, which decay; then biases, which do not
            begin, count = block + (panel + k * across) * size, (k_end - k) * across
            if which == 1:
                begin, count = block + (panel + depth * across) * size, across
            cost += move_numbers(
                zero, team if summed else 1, m, rule, hyper, t, begin, count, which == 0, own, all_grads, grad_step
            )
    return cost


move = inner(move)
