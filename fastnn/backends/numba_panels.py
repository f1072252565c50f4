"""The CPU engine's programs on panels: kernels/cpu/panel_program.py, row_program.py and split_program.py."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.cpu import JIT
from ..kernels.cpu.codes import GIVEN, IDENTITY, RELU, SGD, SOFTMAX_CROSS_ENTROPY, SQUARED_ERROR
from ..kernels.cpu.on_demand import ACTIVATE, DERIVATIVE, DROP, OUTPUTS, table
from ..kernels.cpu.packing import Packing, packing
from ..kernels.cpu.panel_parts import TALL
from ..kernels.cpu.panel_prediction import ROWS, panel_prediction
from ..kernels.cpu.panel_program import panel_program
from ..kernels.cpu.panels import AHEAD, PANEL, padded, spaced
from ..kernels.cpu.row_program import row_program
from ..kernels.cpu.split_program import split_program
from ..kernels.cpu.team import new_barrier
from ..kernels.cpu.workspace import Memory, Rule, Shape
from .base import Array, Job
from .cpu_beside import wait_for_products
from .cpu_crew import run_team
from .cpu_plan import Plan
from .cpu_program import Steps, TeamProgram, any_of_z, dropout_of, slopes_of, two_states
from .host import aligned

if TYPE_CHECKING:
    from ..network import Network

__all__ = [
    "PACKING_ROWS",
    "PanelPredictor",
    "PanelProgram",
    "addresses",
    "cumulative",
    "cuts_for_team",
    "likely_parts",
    "needed_parts",
    "packing_rows",
    "without_last",
]

# A prediction pays for packing the parameters from so many rows on, and a row for each so many parameters.
PACKING_ROWS, PACKED_PER_ROW = 512, 128


class PanelProgram(TeamProgram):
    """One compiled call per thread for a whole slice of steps, on parameters packed for it; the workspace is
    allocated here, once.
    """

    def __init__(self, job: Job, plan: Plan) -> None:
        super().__init__(job, plan)
        net = job.net
        self._layout = _Panels(net)
        dtype, team = net.dtype, self.plan.threads
        split, C = self.plan.split, self._capacity()
        K, layout = net.sizes[-1], self._layout
        N, rows = int(layout.blocks[-1]), C + AHEAD
        codes = np.array([g.code for g in net.activations], np.int64)
        slopes = slopes_of(net)
        self._shape = Shape(
            layout.sizes, layout.widths, layout.blocks, layout.starts, layout.turns, codes, slopes, net.pair.code,
            **dropout_of(net),
        )  # fmt: skip
        # plain gradient descent: kernels/cpu/row_program.py, which needs no Delta
        self._by_row = team == job.batch_size == 1 and self.optimizer.code == SGD and not any(net.dropout)
        lower_N = int(layout.blocks[split])  # whose gradients are in no two threads' hands
        widest = max((int(P) for P in layout.widths if P * dtype.itemsize > PANEL), default=0)
        # numbers of a row that a thread has to itself
        upper = int(layout.starts[-1] - (layout.starts[split - 1] if split else 0))
        lower, sums = (int(layout.starts[split - 1]), max(layout.steps[:split])) if split else (0, 0)
        state1, state2 = two_states([aligned((N,), dtype, np.zeros) for _ in self.optimizer.slots], dtype)
        self._memory = Memory(
            packed=aligned((N,), dtype, np.zeros),
            state1=state1,
            state2=state2,
            grads=_rows(1, lower_N + team * padded(N - lower_N, dtype), dtype)
            if split
            else _rows(team, 0 if self._by_row else N, dtype),
            turned=_rows(team, PANEL // dtype.itemsize if self._by_row else int(layout.turns[-1]), dtype),
            x=_rows(2 if self._by_row else team, C * net.sizes[0], dtype),
            a=_rows(team, rows * upper, dtype),
            d=_rows(team, rows * upper, dtype),
            beside=_rows(team, rows * upper if any_of_z(net) else 1, dtype),
            side=_rows(team, min(C, TALL) * widest, dtype),
            h=_rows(team, C * K, dtype),
            e=_rows(team, C * K, dtype),
            wanted=_rows(team, C * K, dtype),
            shares=_rows(team, C, dtype),
            labels=aligned((team, C), np.int64, np.zeros),
            low=_rows(3 if any_of_z(net) else 2, rows * lower, dtype),
            parts=_rows(team, (2 * rows + 1) * sums, dtype),
            places=layout.places(rows),
            firsts=np.zeros((team, rows + C), np.int64),
            ones=np.ones(AHEAD, dtype),
            zeros=aligned((rows * max(layout.steps),), dtype, np.zeros),
            costs=self._costs,
            hits=self._hits,
        )
        self._tables: dict[tuple[bool, bool], Array] = {}
        self._packed_at = [vector.ctypes.data for vector in (self._memory.packed, state1, state2)]
        self._worker: Any = (row_program if self._by_row else split_program if split else panel_program)(dtype)

    def clear(self) -> None:
        for name, memory in zip(Memory._fields, self._memory, strict=True):
            if name not in ("places", "ones"):
                memory[...] = 0

    def _capacity(self) -> int:
        return self.plan.chunk if self.plan.split else -(-self.plan.chunk // self.plan.threads)

    def _run_on(
        self, theta: Array, states: list[Array], rule: Rule, steps: Steps, D: Array | None = None
    ) -> tuple[float, int]:
        net, team, memory, X = self.net, self._team(), self._memory, steps.X
        native = (
            JIT
            and X.dtype == net.dtype
            and (X.strides[1] == X.itemsize or X.shape[1] == 1)
            and X.strides[0] % X.itemsize == 0
        )
        data, run = self._arguments(steps, bool(native))
        wait_for_products()
        meeting = new_barrier(team)
        kind = data.by_class, self.weights is not None
        if (panels := self._tables.get(kind)) is None:
            panels = self._tables[kind] = table(
                net.dtype,
                needed_parts(net, data.by_class, self.batch_size, self.weights is not None, self._shape.pair == GIVEN),
            )
        given = [*zip(addresses(theta, *states), self._packed_at, strict=False)]
        taken = given if D is None else [*zip(addresses(D), self._packed_at, strict=False)]

        def work(me: int) -> None:
            try:
                self._layout.pack(given, me, team)
            finally:  # the others wait there; a signal's handler may raise
                self._work(me, team, self.plan.split, meeting, panels, data, run, self._shape, rule, memory)
            self._layout.unpack(taken, me, team)

        run_team(work, team)
        return self._finish(steps)


def needed_parts(
    net: Network, by_class: bool, batch_size: int, weighted: bool = False, given: bool = False
) -> set[int]:
    """The parts of kernels/cpu/on_demand.py that training this network needs; weighted: rows have weights; given: the
    deltas of the output layer are.
    """
    needed = set()
    if any(g.code != RELU for g in net.activations[:-1]):
        needed |= {ACTIVATE, DERIVATIVE}
    if batch_size == 1:  # of one row the derivative comes after the product, but in the program of its own
        needed.add(DERIVATIVE)
    if any(net.dropout):
        needed.add(DROP)
    pair, linear = net.pair.code, net.activations[-1].code == IDENTITY
    # the program does these two itself
    within = by_class if pair == SOFTMAX_CROSS_ENTROPY else linear and pair == SQUARED_ERROR and not by_class
    if not given and (weighted or not within):
        needed.add(OUTPUTS)
    return needed


def likely_parts(net: Network, batch_size: int) -> set[int]:
    """The same before the targets are known: classes with cross-entropy, values with squared error."""
    return needed_parts(net, net.pair.code == SOFTMAX_CROSS_ENTROPY, batch_size)


def cuts_for_team(rows: int, team: int, tile: int) -> list[int]:
    """Where parts of whole tiles begin, and the end: two for each thread, because they begin at different times,
    and no more, because nobody fetches a part's first rows.
    """
    part = tile * -(-rows // (tile * 2 * team)) if team > 1 else rows
    return [*range(0, rows, part), rows]


def without_last(codes: Array) -> Array:
    """The codes of activations with that of the identity for the output, so that a prediction gives z^(L)."""
    return np.append(codes[:-1], IDENTITY)


class PanelPredictor:
    """Outputs of a network for many rows; what does not change between calls is made once."""

    def __init__(self, net: Network) -> None:
        layout = self._layout = _Panels(net)
        rows = ROWS + AHEAD
        codes = np.array([g.code for g in net.activations], np.int64)
        slopes = np.array([g.parameter for g in net.activations], net.dtype)
        shapes = table(net.dtype, {ACTIVATE}), layout.sizes, layout.widths, layout.blocks, layout.starts
        # for outputs that are not activated, and that are
        self._shapes = (*shapes, without_last(codes), slopes), (*shapes, codes, slopes)
        self._zeros = aligned((rows * max(layout.steps),), net.dtype, np.zeros)
        self._places = layout.places(rows)
        self._predict: Any = panel_prediction(net.dtype)

    def packed(self, net: Network) -> Array:
        """The parameters as they are now."""
        memory = aligned((int(self._layout.blocks[-1]),), net.dtype, np.zeros)
        self._layout.pack([*zip(addresses(net.theta), addresses(memory), strict=True)])
        return memory

    def cuts(self, rows: int, team: int) -> list[int]:
        """Where the parts begin that a team takes one after another, and the end."""
        return cuts_for_team(rows, team, ROWS)

    def predict(self, packed: Array, x: Array, h: Array, activated: bool) -> bool:
        """Overwrites h (m, s_L) with a^(L) of x (m, s_1), or z^(L), both C-contiguous; False if x holds NaN or
        infinity. Several threads may call it.
        """
        scratch = aligned(((ROWS + AHEAD) * int(self._layout.starts[-1]),), packed.dtype, np.zeros)
        return bool(
            self._predict(
                x,
                *self._shapes[activated],
                packed,
                scratch,
                np.empty(2 * ROWS + AHEAD, np.int64),
                self._places,
                self._zeros,
                h,
            )
        )


class _Panels:
    """Where each layer's panel lies in a packed vector, and its activations in a row's; see
    kernels/cpu/panel_program.py.
    """

    def __init__(self, net: Network) -> None:
        sizes = net.sizes
        widths = [padded(n, net.dtype) for n in sizes[1:]]
        self.sizes, self.widths = np.array(sizes, np.int64), np.array(widths, np.int64)
        self.blocks = cumulative((n_in + 1) * P for n_in, P in zip(sizes, widths, strict=False))
        self.steps = [spaced(width, net.dtype.itemsize) for width in widths]
        self.starts = cumulative(self.steps)
        self.turns = cumulative([0, *(P * Q for Q, P in itertools.pairwise(widths))])
        self._dtype = net.dtype
        spans = net.layout.spans()
        self._shape = np.ascontiguousarray(
            np.stack([sizes[:-1], sizes[1:], widths, spans[:, 0], spans[:, 1], self.blocks[:-1]], axis=1), np.int64
        )
        self._shape_at, self._zero = self._shape.ctypes.data, net.dtype.type(0)

    def places(self, rows: int) -> Array:
        """(L + 1, rows): where rows of each layer's width begin; the first all 0."""
        numbers = np.arange(rows, dtype=np.int64)
        return np.stack([0 * numbers, *(numbers * step for step in self.steps)])

    @functools.cached_property
    def _kernels(self) -> Packing:
        return packing(self._dtype)

    def pack(self, places: list[tuple[int, int]], me: int = 0, team: int = 1) -> None:
        """For each pair of addresses, of a vector that lies as theta and of a packed one, overwrites the packed one, or
        this thread's share of it; its padding stays as it is, zero.
        """
        self._transpose(self._kernels.pack, places, me, team)

    def unpack(self, places: list[tuple[int, int]], me: int = 0, team: int = 1) -> None:
        """The way back, which overwrites the vectors."""
        self._transpose(self._kernels.unpack, places, me, team)

    def _transpose(self, kernel: Callable[..., None], places: list[tuple[int, int]], me: int, team: int) -> None:
        for vector, packed in places:
            kernel(self._zero, me, team, len(self._shape), self._shape_at, vector, packed)


def addresses(*vectors: Array) -> list[int]:
    """Of vectors of one dtype, which must live as long as these are used."""
    for vector in vectors:
        assert vector.flags.c_contiguous
        assert vector.dtype == vectors[0].dtype
    return [vector.ctypes.data for vector in vectors]


def packing_rows(net: Network) -> int:
    """From so many rows on a prediction pays for packing the parameters."""
    return max(PACKING_ROWS, net.layout.size // PACKED_PER_ROW)


def cumulative(counts: Iterable[int]) -> Array:
    """Where parts of these sizes begin, and the end, int64."""
    return np.array([0, *itertools.accumulate(counts)], np.int64)


def _rows(team: int, width: int, dtype: Any) -> Array:
    """(team, at least width) zeros, each row beginning at a whole vector."""
    return aligned((team, padded(max(1, width), dtype)), dtype, np.zeros)
