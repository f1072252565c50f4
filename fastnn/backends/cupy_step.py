"""One training step as launches on fixed memory, so that a graph can hold it: symbols and order as on the board.

gather, forward, output delta with the cost, back; then, when all gradients are known, the update. Nothing here
allocates or waits, and no argument changes from step to step: the number of the step is counted on the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..costs import SIGMOID_CROSS_ENTROPY, SOFTMAX_CROSS_ENTROPY
from ..dropout import limit_of, scale_of
from ..kernels.cuda.launchers import ceil
from ..kernels.cuda.step import Rows, output_blocks
from ..optimizers import Optimizer
from .cupy_buffers import Buffers
from .cupy_plan import Choice, way_back
from .cupy_update import Update, padded

__all__ = ["Step", "cut", "is_cross_entropy", "of_errors"]

Array = Any


def cut(count: int, most: int) -> list[tuple[int, int]]:
    """(first row, rows) of the parts of `count` rows: as few as possible of at most `most`, of one size but the
    last.
    """
    size = ceil(count, ceil(count, most))
    return [(first, min(size, count - first)) for first in range(0, count, size)]


class Step:
    """A step on `m` rows of X and y, in parts of at most `buffers.rows`. Calling it asks for one step.

    Parameters
    ----------
    choices : sequence of Choice
        For each layer's weights.
    scale : float
        Factor for the rows of X.
    table : (layers, 4) int64 on the device
        Overwritten; this step's own as long as it is used.
    own_order : (order, step), optional
        How the rows of X are taken where X holds those of this batch alone; y and the weights are always taken in the
        run's order.
    weights : (n,), optional
        Of the rows.
    """

    def __init__(
        self,
        buffers: Buffers,
        optimizer: Optimizer,
        X: Array,
        y: Array,
        batch: int,
        m: int,
        choices: Sequence[Choice],
        scale: float,
        table: Array,
        own_order: tuple[Array, Array] | None = None,
        weights: Array | None = None,
    ) -> None:
        self._b, self._choices = buffers, choices
        arena, net = buffers.arena, buffers.net
        self._update = Update(buffers.device, buffers.kind, optimizer, net.theta, buffers.low, arena["Delta"], arena)
        parts = cut(m, buffers.rows)
        self._calls: list[Callable[[], None]] = []
        for first, rows in parts:
            taken = Rows(arena["order"], arena["step"], batch, first, rows)
            of_X = taken if own_order is None else Rows(*own_order, batch, first, rows)
            self._add_part(X, y, weights, of_X, taken, scale, accumulate=first > 0)
        self._table = self._bias_table(parts[0][1], table)
        self._blocks = output_blocks(parts[0][1], net.sizes[-1])
        self._rows = m

    def __call__(self) -> None:
        b = self._b
        arena, kernels = b.arena, b.kernels
        for call in self._calls:
            call()
        if self._table is not None:
            kernels.sum_chunks(arena["chunks"], arena["Delta"], self._table, max(b.net.sizes[1:]))
        self._update(self._rows)
        kernels.finish_step(
            arena["totals"],
            arena["step"],
            arena["partials"],
            self._blocks,
            arena["squares"],
            arena["constants"],
            self._rows,
        )

    def _add_part(
        self,
        X: Array,
        y: Array,
        weights: Array | None,
        of_X: Rows,
        rows: Rows,
        scale: float,
        *,
        accumulate: bool,
    ) -> None:
        b, m, add = self._b, rows.count, self._calls.append
        net, kernels, last = b.net, b.kernels, len(b.weights) - 1
        add(lambda: kernels.gather(X, of_X, b.a(0, m), scale))
        for layer, choice in enumerate(self._choices):
            add(b.fastest(b.forward(layer, m, choice.forward), measure=False)[0].call)
            if layer < last and choice.forward == "DEFAULT":
                add(functools.partial(b.activate, layer + 1, m))
            if layer < last and net.dropout[layer]:
                add(functools.partial(self._drop, b.a(layer + 1, m), layer, rows.offset))
        z = delta = b.delta(last + 1, m)
        add(
            lambda: kernels.output(
                net.output,
                is_cross_entropy(net.pair),
                z,
                net.biases[last],
                y,
                rows,
                delta,
                b.arena["partials"],
                accumulate=accumulate,
                weights=weights,
                errors=of_errors(net.pair),
            )
        )
        if self._choices[last].biases == "kernel":
            add(lambda: kernels.column_sums(delta, b.chunks(last), b.per_chunk, accumulate=accumulate))
        for layer in reversed(range(last + 1)):
            choice = self._choices[layer]
            gradient = b.fastest(
                b.outer(layer, m, "BGRADB" if choice.biases == "BGRADB" else "DEFAULT", accumulate=accumulate),
                measure=False,
            )[0].call
            if not layer:  # there is no delta^(1)
                add(gradient)
                continue
            drop = functools.partial(self._drop, layer=layer - 1, first=rows.offset) if net.dropout[layer - 1] else None
            sums = self._choices[layer - 1].biases
            back = way_back(b, layer, m, choice.back, sums, accumulate=accumulate, drop=drop)
            if choice.beside:
                add(functools.partial(b.device.side_by_side, gradient, back))
            else:
                add(gradient)
                add(back)

    def _drop(self, x: Array, layer: int, first: int) -> None:
        """Activations or deltas x of a hidden layer, of the rows from `first` on of the batch, times the factors of
        dropout.
        """
        b, rate = self._b, self._b.net.dropout[layer]
        b.kernels.drop(x, b.arena["drawn"], b.arena["step"], first, layer, limit_of(rate), scale_of(rate))

    def _bias_table(self, rows: int, table: Array) -> Array | None:
        """For `sum_chunks`: the layers whose bias gradient lies in chunks; None if there are none."""
        b = self._b
        by_kernel = [choice.biases == "kernel" for choice in self._choices]
        if not any(by_kernel):
            return None
        begins, _ = padded(b.net.sizes)
        content = [
            (b.chunk_begin(w), ceil(rows, b.per_chunk) if by_kernel[w] else 0, begins[w][2], n)
            for w, n in enumerate(b.net.sizes[1:])
        ]
        b.device.upload(table, np.array(content, np.int64))
        return table


def is_cross_entropy(pair: Any) -> bool:
    """Whether the cost of the pair is cross_entropy, so that the output delta is a - y."""
    return pair in (SOFTMAX_CROSS_ENTROPY, SIGMOID_CROSS_ENTROPY)


def of_errors(pair: Any) -> tuple[int, float] | None:
    """Code and parameter of a cost of errors, which has a parameter; None for the others."""
    return None if pair.parameter is None else (pair.code, pair.parameter)
