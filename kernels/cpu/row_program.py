"""Many steps of plain gradient descent on one row each, in one compiled call.

As kernels/cpu/panel_program.py, and with its memory, for a batch of one row and one thread: the next row's z^(2) is
summed while this row's gradient changes the first layer's panel, and a layer above is changed while its delta is
propagated. So every parameter above the first layer is read twice per step and of the first layer, which is the
largest, once. The first row's z^(2) is summed in the same way, with a change by nothing: where a call begins does not
change a bit of the result.
"""

from __future__ import annotations

import numpy as np

from . import JIT, compiled, per_dtype
from .codes import RELU
from .gather import gather_rows
from .on_demand import activate_at, derivative_at
from .panel_code import MOST
from .panel_output import cost_and_delta
from .panel_parts import decay
from .panel_program import signature
from .panels import PANEL, apply, itemsize, padded, panels_of, rows_at, vector_at
from .row_code import back_tile, onward_tile
from .vectors import VECTOR
from .workspace import hyper_of, own, uncounted

__all__ = ["row_program"]

# onward: M[k] = keep M[k] + share x_k d and b += share d; then out = b + sum_k next_k M[k] for k < depth, or its ReLU
# where `rectified` is not 0. back: out = M[:depth] d, and zeros to the end of the last vector, times a's derivative if
# it is `rectified`; then M[k] = keep M[k] + share a_k d and b += share d. Everything by address: M (depth + 1, width)
# in panels, the last row b; x, next_x, a (depth,), a in memory for whole vectors; d, out (width,) and, of back,
# (depth,) in whole vectors; coming: 0, or numbers (depth,) to be asked for meanwhile; spare: MOST vectors, overwritten.
if JIT:

    def _onward(zero, x, d, next_x, coming, M, width, depth, out, share, keep, rectified):
        vectors = width * itemsize(zero) // VECTOR
        for v in range(0, vectors, MOST):
            q, at = min(MOST, vectors - v), v * VECTOR
            onward_tile(
                q, zero, x, d + at, next_x, coming if v == 0 else 0, M + at * (depth + 1), depth, out + at, share, keep,
                rectified,
            )  # fmt: skip

    def _back(zero, a, d, M, width, depth, out, spare, share, keep, rectified):
        size = itemsize(zero)
        for k in range(0, depth, VECTOR // size):
            back_tile(
                zero, M, depth + 1, width * size // VECTOR, k, depth - k, a + k * size, d, out + k * size, spare, share,
                keep, rectified,
            )  # fmt: skip
        for column in range(0, width, PANEL // size):
            across = min(PANEL // size, width - column)
            biases = vector_at(M + (column * (depth + 1) + depth * across) * size, zero, across)
            delta = vector_at(d + column * size, zero, across)
            for j in range(across):
                biases[j] += share * delta[j]

    _onward, _back = compiled(_onward), compiled(_back)
else:

    def _changed(zero, M, width, depth, x, d, share, keep):
        """Changes the panels. Returns the matrices (depth + 1, width) before and after."""
        before, after = np.empty((depth + 1, width), zero.dtype), np.empty((depth + 1, width), zero.dtype)
        for cut in panels_of(width, zero.dtype):
            panel = rows_at(M + cut.start * (depth + 1) * zero.itemsize, zero, depth + 1, cut.stop - cut.start)
            before[:, cut] = panel
            panel[:depth] = keep * panel[:depth] + np.outer(x, share * d[cut])
            panel[depth] += share * d[cut]
            after[:, cut] = panel
        return before, after

    def _onward(zero, x, d, next_x, coming, M, width, depth, out, share, keep, rectified):
        _, after = _changed(zero, M, width, depth, vector_at(x, zero, depth), vector_at(d, zero, width), share, keep)
        z = after[depth] + vector_at(next_x, zero, depth) @ after[:depth]
        vector_at(out, zero, width)[:] = np.where(z < 0, 0, z) if rectified else z

    def _back(zero, a, d, M, width, depth, out, spare, share, keep, rectified):
        below, delta = vector_at(a, zero, depth), vector_at(d, zero, width)
        before, _ = _changed(zero, M, width, depth, below, delta, share, keep)
        lower = before[:depth] @ delta
        target = vector_at(out, zero, padded(depth, zero.dtype))
        target[:depth], target[depth:] = lower * np.where(below > 0, 1, below) if rectified else lower, 0


def _worker(me, team, split, meeting, panels, data, run, shape, rule, memory):
    """The steps of the run, of one row each. Packed, costs and hits move.

    The arguments of kernels/cpu/panel_program.py's, so that either is called alike, of one thread. Not used: what is
    about teams, larger batches and other rules. Two are different: x (2, at least s_1), and turned, a panel's row to be
    overwritten.
    """
    data, shape, rule = uncounted(data, shape, rule)
    sizes = shape.sizes
    widths = shape.widths
    blocks = shape.blocks
    starts = shape.starts
    codes = shape.codes
    slopes = shape.slopes
    layers, n_in = sizes.size - 1, sizes[0]
    last, start, stop, l2 = layers - 1, run.start, run.stop, rule.l2
    kind = memory.packed.dtype.type
    zero, one, integer = kind(0), kind(1), np.int64(0)
    size = itemsize(zero)
    mine = own(0, True, integer, data, run, memory)
    theta, a_all, d_all, order = mine.theta, mine.a, mine.d, vector_at(mine.order, integer, run.order.size)
    cost, right = memory.costs[0], memory.hits[0]
    z_first, delta_first, rectified_first = a_all, d_all, 1 if last > 0 and codes[0] == RELU else 0
    row, next_row = integer, integer
    for step in range(start - 1, stop):
        # Before the first step a change by nothing: only the first row's z is wanted.
        following = min(step + 1, stop - 1)
        hyper = hyper_of(rule, max(step - start, 0))
        share, keep = (kind(-hyper[0]), kind(1 - hyper[0] * l2)) if step >= start else (zero, one)
        if step >= start:
            if l2 != 0:
                for layer in range(layers):
                    cost += decay(zero, 1, l2, layer, integer, sizes[layer], shape, mine)
            for layer in range(layers):
                P, z = widths[layer], a_all + starts[layer] * size
                rectified = layer < last and codes[layer] == RELU
                if layer > 0:
                    below = a_all + starts[layer - 1] * size
                    apply(
                        panels, zero, below, mine.places, 1, 0, 1, theta + blocks[layer] * size, sizes[layer] + 1, P, 0,
                        sizes[layer], 0, z, P, 1 if rectified else 0,
                    )  # fmt: skip
                if layer < last and not rectified:
                    activate_at(panels, zero, codes[layer], slopes[layer], z, 1, P, mine.nothing, mine.beside)
            P = widths[last]
            z = rows_at(a_all + starts[last] * size, zero, 1, P)
            delta = rows_at(d_all + starts[last] * size, zero, 1, P)
            one_cost, one_right = cost_and_delta(panels, order[step : step + 1], data.by_class, shape, mine, z, delta)
            cost += one_cost
            right += one_right
            for layer in range(last, 0, -1):
                P, Q = widths[layer], widths[layer - 1]
                below = a_all + starts[layer - 1] * size
                upper = d_all + starts[layer] * size
                lower = d_all + starts[layer - 1] * size
                rectified = codes[layer - 1] == RELU
                _back(
                    zero, below, upper, theta + blocks[layer] * size, P, sizes[layer], lower, mine.turned, share, keep,
                    1 if rectified else 0,
                )  # fmt: skip
                if not rectified:
                    derivative_at(panels, zero, codes[layer - 1], slopes[layer - 1], one, lower, below, Q, mine.beside)
        row = next_row
        if data.native:
            next_row = data.source[0] + order[following] * data.source[1]
            coming = data.source[0] + order[min(following + 1, stop - 1)] * data.source[1]
        else:
            next_row, coming = mine.x + (following & 1) * memory.x.shape[1] * size, integer
            if following > step:
                gather_rows(
                    data.source,
                    data.read,
                    data.scale,
                    order[following : following + 1],
                    rows_at(next_row, zero, 1, n_in),
                )
        if step < start:
            row, delta_first = next_row, mine.nothing
        _onward(zero, row, delta_first, next_row, coming, theta, widths[0], n_in, z_first, share, keep, rectified_first)
        delta_first = d_all
    memory.costs[0] = cost
    memory.hits[0] = right


row_program = per_dtype(_worker, signature)
