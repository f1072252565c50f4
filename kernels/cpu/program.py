"""Many training steps in one compiled call, with no Python between them.

Layer sizes, activation codes, the pair, the rule and the plan are data, not types: one compilation
per dtype serves every architecture, optimizer, batch size and number of threads, and is cached on disk.

A team of threads shares each batch in one of two ways; products are single-threaded BLAS.

Shared (wide nets): the batch is taken in chunks of rows that stay in the cache. Each thread takes its
share of the chunk's rows forward and back to the deltas; a barrier; each accumulates Delta for its
share of every layer's units over all rows of the chunk, and after the last chunk updates exactly
those parameters; a barrier. Nothing is summed over threads.

Sliced (narrow nets, where moving rows between cores would cost more than adding a few parameters):
each thread takes its slice of the batch, tile by tile, forward, back and into a Delta of its own; a
barrier; each adds up and updates its share of the units; a barrier.

For one number of threads results are the same bit for bit; another number, or another chunk, only
changes where sums are cut.

The data, the run and the rule are those of kernels/cpu/workspace.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types

from . import inner, part, per_dtype
from .codes import GIVEN, GRADIENT, OF_Z, SGD
from .gather import gather, gather_rows
from .gemm import gemm_nn, gemm_nt, gemm_tn_columns
from .layerwise import LAYERWISE, factor_of, finish, move, prepare
from .operations import (
    activate,
    activate_and_differentiate,
    add,
    add_bias,
    copy,
    cost_of_rows,
    hits_of_rows,
    output_delta,
    sum_columns,
    sum_of_squares,
    times_derivative,
    update,
    within,
)
from .panel_parts import drop_layer
from .panels import address
from .team import AT_ONCE, barrier, call_back
from .workspace import Data, Drawn, Rule, Run, kinds, record

__all__ = ["FlatMemory", "FlatShape", "part_of", "training_program"]


class FlatShape(NamedTuple):
    """The network: sizes (L,); offsets (L,), where each layer begins in theta, then its end; starts (L,), where
    layers 2.. begin in a row of activations; codes, slopes (L - 1,) of activations; the pair's code; limits, kept,
    scales (L - 1,) of dropout, as in `Shape`.
    """

    sizes: Any
    offsets: Any
    starts: Any
    codes: Any
    slopes: Any
    pair: Any
    limits: Any
    kept: Any
    scales: Any


class FlatMemory(NamedTuple):
    """Given by the caller, of the network's dtype unless said, C rows of a chunk.

    theta, state1, state2 (P,), grads (team if sliced else 1, P) : layer by layer, weights (s_{l+1}, s_l), then biases
    x (C * s_1,), a, d (C * (s_2 + ... + s_L),) : the gathered rows; activations and deltas of layers 2..L
    beside (as a, or none where no layer wants it) : g'(z) where it is not known from a = g(z) (OF_Z)
    h (C * s_L,) : the outputs; classes (C,) int64, values (C * s_L,), weights (C,) : the gathered targets and weights
    partials (team * widest,); costs (team * 16,) float64, hits (team * 16,) int64
    squares (L - 1, 2, team, 2) float64 : zeros at first, the sums of kernels/cpu/layerwise.py, of weights and of biases
    """

    theta: Any
    grads: Any
    state1: Any
    state2: Any
    x: Any
    a: Any
    d: Any
    beside: Any
    h: Any
    classes: Any
    values: Any
    weights: Any
    partials: Any
    costs: Any
    hits: Any
    squares: Any


def part_of(total, me, team):
    """The part (first, last + 1) of 0..total that belongs to thread `me`; cut at multiples of 8 where there is
    enough.
    """
    step = -(-total // team)
    if step >= 16:
        step = -(-step // 8) * 8
    return min(total, me * step), min(total, (me + 1) * step)


part_of = inner(part_of)


def _weights(vector, offsets, sizes, layer):
    """The view (s_{l+1}, s_l) of a flat vector."""
    start = offsets[layer]
    return vector[start : start + sizes[layer + 1] * sizes[layer]].reshape((sizes[layer + 1], sizes[layer]))


_weights = inner(_weights)


def _biases(vector, offsets, sizes, layer):
    """The view (s_{l+1},) of a flat vector."""
    return vector[offsets[layer] + sizes[layer + 1] * sizes[layer] : offsets[layer + 1]]


_biases = inner(_biases)


def _rows_of(buffer, begin, capacity, width, lo, hi):
    """Rows lo..hi of the (capacity, width) block that begins at `begin * capacity` of a buffer."""
    first = begin * capacity
    return buffer[first + lo * width : first + hi * width].reshape((hi - lo, width))


_rows_of = inner(_rows_of)


def _drop(parts, layer, x, drawn, shape):
    """A hidden layer's rows x (m, n) times the factors of dropout, if it has any."""
    m, n = x.shape
    drop_layer(parts, x.dtype.type(0), layer, address(x), m, n, n, np.int64(0), drawn, shape)


_drop = inner(_drop)


def _forward(xs, lo, hi, capacity, shape, theta, a, beside, parts, drawn):
    """Overwrites rows lo..hi of a with the hidden layers' activations and the output layer's z."""
    sizes, offsets, starts = shape.sizes, shape.offsets, shape.starts
    layers = sizes.size - 1
    for layer in range(layers):
        W = _weights(theta, offsets, sizes, layer)
        z = _rows_of(a, starts[layer], capacity, sizes[layer + 1], lo, hi)
        if layer == 0:
            gemm_nt(xs, W, z, 1.0, 0.0)
        else:
            gemm_nt(_rows_of(a, starts[layer - 1], capacity, sizes[layer], lo, hi), W, z, 1.0, 0.0)
        b = _biases(theta, offsets, sizes, layer)
        if layer < layers - 1:
            if shape.codes[layer] >= OF_Z:
                slopes = _rows_of(beside, starts[layer], capacity, sizes[layer + 1], lo, hi)
                activate_and_differentiate(shape.codes[layer], z, b, slopes)
            else:
                activate(shape.codes[layer], shape.slopes[layer], z, b)
            _drop(parts, layer, z, drawn, shape)
        else:
            add_bias(z, b)


_forward = part(_forward)


def _deltas(lo, hi, capacity, shape, theta, a, d, beside, parts, drawn):
    """Overwrites rows lo..hi of the hidden layers' deltas from the output layer's."""
    sizes, starts = shape.sizes, shape.starts
    for layer in range(sizes.size - 2, 0, -1):
        upper = _rows_of(d, starts[layer], capacity, sizes[layer + 1], lo, hi)
        lower = _rows_of(d, starts[layer - 1], capacity, sizes[layer], lo, hi)
        gemm_nn(upper, _weights(theta, shape.offsets, sizes, layer), lower, 1.0, 0.0)
        _drop(parts, layer - 1, lower, drawn, shape)
        times_derivative(
            shape.codes[layer - 1],
            shape.slopes[layer - 1],
            shape.kept[layer - 1],
            lower,
            _rows_of(
                beside if shape.codes[layer - 1] >= OF_Z else a, starts[layer - 1], capacity, sizes[layer], lo, hi
            ),
        )


_deltas = part(_deltas)


def _through(mine, lo, hi, capacity, data, shape, memory, partial, parts, drawn):
    """Takes the rows `mine` of the data through the network and back to the deltas, in rows lo..hi of x, a, d, h.

    Returns (cost sum, rows that are right). drawn: of the first row.
    """
    sizes, by_class = shape.sizes, data.by_class
    last, K = sizes.size - 2, sizes[sizes.size - 1]
    code, slope = shape.codes[last], shape.slopes[last]
    xs = _rows_of(memory.x, 0, capacity, sizes[0], lo, hi)
    wanted = _rows_of(memory.values, 0, capacity, K, lo, hi)
    labels = memory.classes[lo:hi]
    gather_rows(data.source, data.read, data.scale, mine, xs)
    if by_class:
        for i in range(hi - lo):
            labels[i] = within(data.classes[mine[i]], K)
    else:
        gather(data.values, mine, wanted)
    weights = memory.weights[lo : hi if data.weights.size > 0 else lo]
    for i in range(weights.size):
        weights[i] = data.weights[mine[i]]
    _forward(xs, lo, hi, capacity, shape, memory.theta, memory.a, memory.beside, parts, drawn)
    z = _rows_of(memory.a, shape.starts[last], capacity, K, lo, hi)
    top = _rows_of(memory.d, shape.starts[last], capacity, K, lo, hi)
    cost, right = 0.0, 0
    if shape.pair == GIVEN:
        copy(wanted, top)
    else:
        outputs = _rows_of(memory.h, 0, capacity, K, lo, hi)
        partial[:K] = 0
        copy(z, outputs)
        activate(code, slope, outputs, partial[:K])
        cost = cost_of_rows(shape.pair, slope, z, outputs, labels, wanted, by_class, weights)
        right = hits_of_rows(shape.pair, outputs, labels, wanted, by_class)
        output_delta(shape.pair, code, slope, outputs, labels, wanted, by_class, weights, top)
    _deltas(lo, hi, capacity, shape, memory.theta, memory.a, memory.d, memory.beside, parts, drawn)
    return cost, right


_through = part(_through)


def _accumulate(layer, first, last, lo, hi, capacity, shape, memory, Delta, alpha, beta):
    """Units first..last of a layer's weights in Delta become beta Delta + alpha delta^T a over rows lo..hi."""
    sizes, starts = shape.sizes, shape.starts
    n_in, n_out = sizes[layer], sizes[layer + 1]
    delta = _rows_of(memory.d, starts[layer], capacity, n_out, lo, hi)
    inputs = (
        _rows_of(memory.x, 0, capacity, n_in, lo, hi)
        if layer == 0
        else _rows_of(memory.a, starts[layer - 1], capacity, n_in, lo, hi)
    )
    gemm_tn_columns(delta, first, last, inputs, _weights(Delta, shape.offsets, sizes, layer), alpha, beta)


_accumulate = part(_accumulate)


def _accumulate_biases(layer, first, last, lo, hi, capacity, fresh, shape, d, grad, partial):
    """grad of the biases of units first..last: column sums of delta over rows lo..hi, overwritten if fresh, else
    accumulated.
    """
    db = _biases(grad, shape.offsets, shape.sizes, layer)
    if fresh:
        db[first:last] = 0
    sum_columns(_rows_of(d, shape.starts[layer], capacity, shape.sizes[layer + 1], lo, hi), first, last, db, partial)


_accumulate_biases = part(_accumulate_biases)


def _units(shape, layer, first, last, biases):
    """The part (begin, end) of a flat vector where the weights of a layer's units first..last lie, or their biases."""
    n_in, n_out = shape.sizes[layer], shape.sizes[layer + 1]
    begin = shape.offsets[layer] + (n_out * n_in + first if biases else first * n_in)
    return begin, begin + (last - first) * (1 if biases else n_in)


_units = part(_units)


def _move(rule, hyper, t, layer, biases, me, begin, end, share, decay, grad, memory):
    """Moves theta[begin:end], weights or biases of a layer, by D = share * grad + decay * theta; of the rules with
    norms of layers only what comes before they are known.
    """
    w, D = memory.theta[begin:end], grad[begin:end]
    first_state, second_state = memory.state1[begin:end], memory.state2[begin:end]
    if rule.code >= LAYERWISE:
        prepare(
            rule.code, hyper, t, w, D, first_state, second_state, share, decay, not biases,
            memory.squares[layer, biases, me],
        )  # fmt: skip
    else:
        update(rule.code, hyper, t, w, D, first_state, second_state, share, decay, not biases)


_move = inner(_move)


def _worker(me, team, sliced, meeting, parts, data, run, shape, rule, memory):
    """Thread `me` of `team` through the steps of the run. Theta, state, costs and hits move. parts: from
    kernels/cpu/on_demand.py.

    costs[16 me] grows by the cost sum of this thread's rows, with its part of the L2 cost; hits likewise.
    """
    sizes, batch, capacity, l2, theta, grads = shape.sizes, run.batch, run.capacity, rule.l2, memory.theta, memory.grads
    layers = sizes.size - 1
    widest = memory.partials.size // team
    partial = memory.partials[me * widest : (me + 1) * widest]
    tile = capacity // team if sliced else capacity
    grad = grads[me] if sliced else grads[0]
    cost, right, t = memory.costs[16 * me], memory.hits[16 * me], rule.t
    for step in range(run.start, run.stop):
        rows = run.order[step * batch : min((step + 1) * batch, run.order.size)]
        m = rows.size
        t += 1
        hyper = rule.hypers[min(step - run.start, rule.hypers.shape[0] - 1)]
        # Where one chunk holds the batch and nothing is summed over threads, plain gradient descent
        # needs no gradient vector: the product itself moves theta, in one pass,
        # (1 - alpha lambda/n) theta - (alpha/m) delta^T a, or makes the gradient of it.
        direct = (rule.code == SGD or rule.code == GRADIENT) and rule.clip == 0
        direct = direct and m <= capacity and (team == 1 or not sliced)
        from_row, to_row = part_of(m, me, team) if sliced else (0, m)
        if sliced and from_row == to_row:
            grad[:] = 0
        for begin in range(from_row, to_row, tile):
            C = min(tile, to_row - begin)
            lo, hi = (me * tile, me * tile + C) if sliced else part_of(C, me, team)
            shift = begin - lo if sliced else begin
            if hi > lo:
                chunk_cost, chunk_right = _through(
                    rows[shift + lo : shift + hi], lo, hi, capacity, data, shape, memory, partial, parts,
                    Drawn(run.key, step, shift + lo),
                )  # fmt: skip
                cost += chunk_cost
                right += chunk_right
            if not sliced:
                barrier(meeting, me, team)
            fresh = begin == from_row
            alpha, beta = 1.0, 0.0 if fresh else 1.0
            if direct:
                alpha, beta = -hyper[0] / m, 1 - hyper[0] * l2
                if rule.code == GRADIENT:
                    alpha, beta = 1 / m, l2
            for layer in range(layers):
                first, last = (0, sizes[layer + 1]) if sliced else part_of(sizes[layer + 1], me, team)
                if last == first:
                    continue
                if direct and l2 != 0:
                    begin_w, end_w = _units(shape, layer, first, last, False)
                    cost += m * l2 / 2 * sum_of_squares(theta[begin_w:end_w])
                low, high = (lo, hi) if sliced else (0, C)
                target = theta if direct else grad
                _accumulate(layer, first, last, low, high, capacity, shape, memory, target, alpha, beta)
                _accumulate_biases(layer, first, last, low, high, capacity, fresh, shape, memory.d, grad, partial)
            if not sliced and begin + C < m:
                barrier(meeting, me, team)
        if sliced:
            barrier(meeting, me, team)
        for layer in range(layers):
            first, last = part_of(sizes[layer + 1], me, team)
            if last == first:
                continue
            for biases in range(2):
                # the weights of its units, then their biases; one call for both compiles faster than two
                if direct and not biases:  # theta has moved already, and nothing is to be added up
                    continue
                begin, end = _units(shape, layer, first, last, biases)
                decay = 0.0 if biases else l2
                whole = rule.code >= LAYERWISE or rule.clip > 0  # norms are of all of them
                at_once = end - begin if whole else AT_ONCE
                for i in range(begin, end, at_once):
                    k = min(i + at_once, end)
                    w = theta[i:k]
                    grad_of_w = grads[0][i:k]
                    if sliced:
                        if not whole:  # of those all are too many to be there still when they are used
                            call_back(w.ctypes.data, w.nbytes)
                        for other in range(1, team):
                            add(grads[other][i:k], grad_of_w)
                    if decay != 0:
                        cost += m * decay / 2 * sum_of_squares(w)
                    if rule.clip > 0:
                        memory.squares[layer, biases, me, 0] = finish(w, grad_of_w, 1 / m, decay)
                    else:
                        _move(rule, hyper, t, layer, biases, me, i, k, 1 / m, decay, grads[0], memory)
        if rule.clip > 0:
            barrier(meeting, me, team)  # the norm is a sum over all threads
            factor = factor_of(rule.clip, memory.squares)
            barrier(meeting, me, team)  # all have read the sums
            for layer in range(layers):
                first, last = part_of(sizes[layer + 1], me, team)
                for biases in range(2 if last > first else 0):
                    begin, end = _units(shape, layer, first, last, biases)
                    _move(rule, hyper, t, layer, biases, me, begin, end, factor, 0.0, grads[0], memory)
        if rule.code >= LAYERWISE:
            barrier(meeting, me, team)  # the norms of a layer are sums over all threads
            for layer in range(layers):
                first, last = part_of(sizes[layer + 1], me, team)
                for biases in range(2):
                    begin, end = _units(shape, layer, first, last, biases)
                    move(
                        rule.code,
                        hyper,
                        theta[begin:end],
                        grads[0][begin:end],
                        memory.state1[begin:end],
                        not biases,
                        memory.squares[layer, biases],
                    )
        barrier(meeting, me, team)
    memory.costs[16 * me] = cost
    memory.hits[16 * me] = right


def _signature(name):
    integer, of = types.int64, kinds(name)
    real = getattr(types, name)
    vector, indices = types.Array(real, 1, "C"), types.Array(integer, 1, "C")
    shape = record(
        FlatShape, sizes=indices, offsets=indices, starts=indices, codes=indices, slopes=vector, pair=integer,
        limits=indices, kept=vector, scales=vector,
    )  # fmt: skip
    memory = record(
        FlatMemory, theta=vector, grads=types.Array(real, 2, "C"), state1=vector, state2=vector, x=vector, a=vector,
        d=vector, beside=vector, h=vector, classes=indices, values=vector, weights=vector, partials=vector,
        costs=types.Array(types.float64, 1, "C"), hits=indices, squares=types.Array(types.float64, 4, "C"),
    )  # fmt: skip
    return types.void(integer, integer, types.boolean, indices, indices, of[Data], of[Run], shape, of[Rule], memory)


training_program = per_dtype(_worker, _signature)
