"""The kernels of a training step: one method each, checks shapes, chooses the grid, launches.

A launch may be recorded in a graph and repeated, so what changes from step to step lies in device memory:
`step` (1,) int64, the number of steps since `order` and `constants` were written. Step s of `batch` rows takes
the rows order[s * batch : (s + 1) * batch] and the constants of row s. Nothing here allocates or waits.

Shapes: m rows, n columns. Arrays called STORE have the dtype `sources.store(kind)`, all others `sources.real(kind)`.
The rows of a STORE matrix may lie further apart than they are long.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import sources
from .launchers import (
    IN_ONE_ACCESS,
    MAX_BLOCKS,
    REDUCTION_BLOCKS,
    THREADS,
    WARP,
    Launcher,
    by_columns,
    by_rows,
    ceil,
    check_shape,
    cross_entropy_of,
    is_softmax,
    leading,
    partials_shape,
    same_shape,
    targets_kind,
)

__all__ = ["CONSTANTS", "OF_A_SPAN", "Rows", "StepKernels", "output_blocks", "update_blocks"]

Array = Any
# numbers in a row of constants: decay, and the rule's own (update.cu, layerwise.cu)
CONSTANTS = {"sgd": 2, "momentum": 3, "adam": 7, "lars": 5, "lamb": 8}

OF_A_SPAN = 7  # numbers of a layer in spans (layers.cuh)


def update_blocks(sizes: Sequence[int]) -> int:
    """Blocks for each layer of an update."""
    largest = max(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(sizes))
    return min(ceil(largest, 4 * THREADS), MAX_BLOCKS)  # a thread moves four parameters at a time


@dataclass(frozen=True)
class Rows:
    """Rows of an epoch: `count` of them, in step s those of order[s * batch + offset :]."""

    order: Array
    step: Array
    batch: int
    offset: int
    count: int


class StepKernels:
    """The kernels of one kind (`sources.KINDS`) on one device."""

    def __init__(self, device: Launcher, kind: str) -> None:
        self._device, self.kind = device, kind
        # neighbouring columns that a thread moves at a time
        self._width = IN_ONE_ACCESS // sources.store(kind).itemsize

    def _launch(self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        self._device.launch(kernel, self.kind, grid, block, arguments)

    def gather(self, source: Array, rows: Rows, out: Array, scale: float) -> None:
        """out (m, n) STORE := scale * the rows of source (any, n) of parameters' dtype or uint8; NaN for a row that
        is not there.
        """
        available, n = source.shape
        width = self._width if n % self._width == 0 else 1  # of source, whose rows begin anywhere else
        check_shape("out", out, (rows.count, n))
        kernel = "gather_bytes" if source.dtype == np.uint8 else "gather_rows"
        grid, block = by_rows(rows.count, n // width)
        self._launch(
            kernel, grid, block, source, rows.order, rows.step, out, leading(out), rows.batch, rows.offset, rows.count,
            n, available, scale, width,
        )  # fmt: skip

    def bias_activate(self, g: Any, a: Array, b: Array) -> None:
        """a := g(a + b) in place; a (m, n) STORE, b (n,)."""
        m, n = a.shape
        check_shape("b", b, (n,))
        grid, block = by_rows(m, ceil(n, self._width))
        self._launch("bias_activate", grid, block, a, leading(a), b, m, n, g.code, g.parameter)

    def bias_activate_of_z(self, g: Any, a: Array, beside: Array, b: Array) -> None:
        """The same of an activation with `of_z`, and beside := g'(a + b); a, beside (m, n) STORE, b (n,)."""
        m, n = a.shape
        same_shape(a=a, beside=beside)
        check_shape("b", b, (n,))
        grid, block = by_rows(m, ceil(n, self._width))
        self._launch("bias_activate_of_z", grid, block, a, leading(a), beside, leading(beside), b, m, n, g.code)

    def output(
        self,
        g: Any,
        cross_entropy: bool,
        z: Array,
        b: Array,
        y: Array,
        rows: Rows,
        delta: Array,
        partials: Array,
        *,
        accumulate: bool,
        weights: Array | None = None,
        errors: tuple[int, float] | None = None,
    ) -> None:
        """delta^(L) (m, n) STORE, and the cost and hits of these rows into partials, from z (m, n) STORE before its
        bias b (n,).

        y: all targets, (any,) int64 classes or (any, n); weights (any,): of the rows. delta may be z. partials
        (2, blocks) float64 is overwritten or added to. errors: code and parameter of a cost of the errors of identity
        outputs, as in costs.cuh; then y are values.
        """
        m, n = z.shape
        check_shape("b", b, (n,))
        check_shape("partials", partials, partials_shape())
        same_shape(z=z, delta=delta)
        if m != rows.count:
            raise ValueError(f"z has {m} rows, {rows.count} are taken")
        kind = targets_kind(y, y.shape[0], n)
        if weights is not None:
            check_shape("weights", weights, (y.shape[0],))
        lanes = min(WARP, 1 << (n - 1).bit_length())
        grid, block = (output_blocks(m, n),), (THREADS,)
        extra: tuple[Any, ...] = ()
        if errors is not None:
            check_shape("y", y, (y.shape[0], n))
            kernel, extra = "output_of_errors", errors
        elif cross_entropy:
            kernel = f"output_{cross_entropy_of(g, kind)}"
        elif is_softmax(g):
            kernel = f"output_softmax_squared_{kind}"
        else:
            kernel, extra = f"output_squared_{kind}", (g.code, g.parameter)
        common = (rows.order, rows.step, partials, rows.batch, rows.offset, m, n, y.shape[0], lanes, int(accumulate))
        weighing = (b, 0) if weights is None else (weights, 1)  # what is not read may be any array
        self._launch(kernel, grid, block, z, leading(z), b, delta, leading(delta), y, *weighing, *extra, *common)

    def column_sums(self, delta: Array, chunks: Array, per_chunk: int, *, accumulate: bool) -> None:
        """Sums over every `per_chunk` rows of delta (m, n) STORE into chunks (m / per_chunk rounded up, n), flat."""
        (m, n), parts = delta.shape, ceil(delta.shape[0], per_chunk)
        check_shape("chunks", chunks[: parts * n], (parts * n,))
        grid, block = by_columns(ceil(n, self._width), parts)
        self._launch("column_sums", grid, block, delta, leading(delta), chunks, m, n, per_chunk, int(accumulate))

    def drop(self, x: Array, drawn: Array, step: Array, first: int, layer: int, limit: int, scale: float) -> None:
        """x (m, n) STORE, of a hidden layer, times the factors of dropout in place; its rows are those of the batch
        from `first` on. drawn (2,) int64: as in dropout.cu; layer: from 0, the first hidden one.
        """
        m, n = x.shape
        check_shape("drawn", drawn, (2,))
        grid, block = by_rows(m, ceil(n, self._width))
        self._launch("drop", grid, block, x, leading(x), m, n, drawn, step, first, layer, limit, scale)

    def derivative_sums(
        self, g: Any, delta: Array, a: Array, chunks: Array, per_chunk: int, *, accumulate: bool, kept: float = 1.0
    ) -> None:
        """delta := delta * g'(z) in place, from a = g(z) / kept, both (m, n) STORE; then as `column_sums` of it, in one
        pass. kept: 1 - p of units with dropout. Of an activation with `of_z` a is g'(z) itself, and kept 1.
        """
        (m, n), parts = delta.shape, ceil(delta.shape[0], per_chunk)
        same_shape(delta=delta, a=a)
        check_shape("chunks", chunks[: parts * n], (parts * n,))
        grid, block = by_columns(ceil(n, self._width), parts)
        self._launch(
            "derivative_sums", grid, block, delta, leading(delta), a, leading(a), chunks, m, n, per_chunk, g.code,
            g.parameter, kept, int(accumulate),
        )  # fmt: skip

    def sum_chunks(self, chunks: Array, Delta: Array, table: Array, widest: int) -> None:
        """Delta_b of every layer := the sums of its chunks. table (layers, 4) int64 as in column_sums.cu; widest:
        most columns of a layer.
        """
        check_shape("table", table, (table.shape[0], 4))
        self._launch("sum_chunks", (ceil(widest, THREADS), table.shape[0]), (THREADS,), chunks, Delta, table)

    def update(
        self,
        rule: str,
        theta: Array,
        low: Array,
        Delta: Array,
        state: list[Array],
        spans: Array,
        constants: Array,
        step: Array,
        squares: Array,
        rows: int,
    ) -> None:
        """One step of "sgd", "momentum" or "adam" on theta (P,) and its state, in place, with D = Delta / rows plus
        decay on the weights. Delta is padded.

        low: the STORE copy of theta, padded, that is kept in step; theta itself where there is none.
        spans (layers, 7) int64 (layers.cuh), constants (steps, width), squares (layers * blocks,) float64: as in
        update.cu.
        """
        same_shape(theta=theta, **{f"state[{k}]": x for k, x in enumerate(state)})
        check_shape("spans", spans, (spans.shape[0], OF_A_SPAN))
        check_shape("constants", constants, (constants.shape[0], CONSTANTS[rule]))
        layers = spans.shape[0]
        blocks = squares.shape[0] // layers
        check_shape("squares", squares, (layers * blocks,))
        self._launch(
            f"update_{rule}", (blocks, layers), (THREADS,), theta, low, Delta, *state, spans, constants,
            constants.shape[1], step, squares, rows,
        )  # fmt: skip

    def round_theta(self, theta: Array, low: Array, spans: Array) -> None:
        """low := theta rounded to STORE, each layer at its place (spans, layers.cuh)."""
        self._launch(
            "round_theta", (min(ceil(theta.size, THREADS), MAX_BLOCKS), spans.shape[0]), (THREADS,), theta, low, spans
        )

    def finish_step(
        self, totals: Array, step: Array, partials: Array, blocks: int, squares: Array, constants: Array, rows: int
    ) -> None:
        """Adds the cost and the hits of a step of `rows` rows to totals (2,) float64, and counts it in `step`;
        blocks: those of `output`.
        """
        self._launch(
            "finish_step", (1,), (THREADS,), totals, step, partials, partials.shape[1], blocks, squares, squares.size,
            constants, constants.shape[1], rows,
        )  # fmt: skip


def output_blocks(m: int, n: int) -> int:
    """Blocks of `StepKernels.output` for m rows of n columns: so many partial sums it writes."""
    return min(ceil(m * min(WARP, 1 << (n - 1).bit_length()), THREADS), REDUCTION_BLOCKS)
