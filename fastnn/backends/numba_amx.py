"""The CPU engine's program on Intel's matrix unit: kernels/cpu/amx_program.py."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.cpu import JIT, amx
from ..kernels.cpu.amx_parts import ROOM_AHEAD
from ..kernels.cpu.amx_prediction import ROWS, amx_packing, amx_prediction
from ..kernels.cpu.amx_program import AmxMemory, amx_program
from ..kernels.cpu.amx_thin import FEW
from ..kernels.cpu.codes import GIVEN
from ..kernels.cpu.on_demand import ACTIVATE, amx_table
from ..kernels.cpu.panels import spaced
from ..kernels.cpu.team import new_barrier
from ..kernels.cpu.workspace import Rule, Shape, read_only
from .base import Array, Job
from .cpu_beside import wait_for_products
from .cpu_crew import run_team
from .cpu_machine import AMX_ROWS_TO_COPY
from .cpu_plan import Plan
from .cpu_program import Steps, TeamProgram, any_of_z, dropout_of, slopes_of, two_states
from .host import aligned
from .numba_panels import cumulative, cuts_for_team, needed_parts, without_last

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["OCTETS", "AmxPredictor", "AmxProgram", "any_few"]

# bytes of all weights as factors up to which each thread lays out its own, if it has enough rows: what another core has
# written is long on its way
COPIED = 5 << 18
OCTETS = (np.dtype(np.uint8), np.dtype(np.bool_))  # of data that the unit takes in one part


def _to(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _rows(team: int, count: int) -> Array:
    """(team, at least count) float32, each row beginning on a cache line."""
    return aligned((team, _to(max(1, count), amx.SIDE)), np.float32, np.zeros)


class AmxProgram(TeamProgram):
    """One compiled call per thread for a whole slice of steps; the workspace is allocated here, once."""

    def __init__(self, job: Job, plan: Plan) -> None:
        super().__init__(job, plan)
        net = job.net
        team, C, sizes = self.plan.threads, self._capacity(), net.sizes
        K, rows, deepest = sizes[-1], C + amx.SIDE, max(_pieces(n) for n in sizes)
        steps = _steps(net)
        starts = cumulative(steps)
        pieces = [
            max(
                _groups(n_out) * _pieces(n_in) + (_groups(n_in) * _pieces(n_out) if layer else 0),
                _few_pieces(n_in, n_out),
            )
            for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        ]
        begin, piece = cumulative(pieces), amx.PIECE // 4  # float32 in a piece's place
        self._shape = _shape(net)
        copied = begin[-1] * amx.PIECE <= COPIED and C >= AMX_ROWS_TO_COPY
        # theta and the optimizer's state, which are not the program's: their place is taken in each run
        others = aligned((0,), np.float32)
        self._memory = AmxMemory(
            packed=others,
            state1=others,
            state2=others,
            grads=_rows(team, net.layout.size),
            weights=_rows(team if copied else 1, int(begin[-1]) * piece),
            layers=begin,
            x=_rows(team, C * sizes[0]),
            a=_rows(team, rows * int(starts[-1])),
            d=_rows(team, rows * int(starts[-1])),
            beside=_rows(team, rows * int(starts[-1]) if any_of_z(net) else 1),
            side=_rows(team, amx.left_pieces(C, deepest) * piece),
            right=_rows(team, amx.right_pieces(C) * piece),
            rooms=_rows(team, amx.ROOM // 4),
            turned=_rows(team, max(_groups(n) for n in sizes[1:]) * _pieces(C) * piece),
            rows=_rows(team, (FEW + 1) * max(steps)),
            h=_rows(team, C * K),
            e=_rows(team, C * K),
            wanted=_rows(team, C * K),
            shares=_rows(team, C),
            labels=aligned((team, C), np.int64, np.zeros),
            errands=aligned((team, _to(amx.ERRAND, 16)), np.int64, np.zeros),
            places=_places(steps, rows),
            firsts=np.zeros((team, C + ROOM_AHEAD), np.int64),
            ones=np.ones(1, np.float32),
            zeros=aligned((rows * max(steps),), np.float32, np.zeros),
            registers=amx.REGISTERS,
            costs=self._costs,
            hits=self._hits,
        )
        self._worker: Any = amx_program(np.float32)

    def clear(self) -> None:
        for memory in (self._memory.a, self._memory.d):
            memory[...] = 0

    def _capacity(self) -> int:
        return -(-self.plan.chunk // self.plan.threads)

    def _run_on(
        self, theta: Array, states: list[Array], rule: Rule, steps: Steps, D: Array | None = None
    ) -> tuple[float, int]:
        if D is not None:
            np.copyto(D, theta)
            theta = D
        team, X = self._team(), steps.X
        side_by_side = (X.strides[1] == X.itemsize or X.shape[1] == 1) and X.strides[0] % X.itemsize == 0
        octets = X.dtype in OCTETS and side_by_side and X.shape[1] > FEW
        native = octets or (JIT and X.dtype == np.float32 and side_by_side)
        data, run = self._arguments(steps, bool(native))
        meeting = new_barrier(team)
        wait_for_products()
        needed = needed_parts(
            self.net, data.by_class, self.batch_size, self.weights is not None, self._shape.pair == GIVEN
        )
        table = amx_table(needed, any_few(self.net), octets)
        state1, state2 = two_states(states, np.float32)
        memory = self._memory._replace(packed=theta, state1=state1, state2=state2)

        def work(me: int) -> None:
            self._work(me, team, 0, meeting, table, data, run, self._shape, rule, memory)

        run_team(work, team)
        return self._finish(steps)


class AmxPredictor:
    """Outputs of a network for many rows; what does not change between calls is made once."""

    def __init__(self, net: Network) -> None:
        steps, sizes = _steps(net), net.sizes
        pieces = [
            max(_groups(n_out) * _pieces(n_in), _few_pieces(n_in, n_out)) for n_in, n_out in itertools.pairwise(sizes)
        ]
        self._shape, self._places = _shape(net), _places(steps, ROWS + amx.SIDE)
        # for outputs that are not activated, and that are
        self._shapes = self._shape._replace(codes=without_last(self._shape.codes)), self._shape
        self._begin = cumulative(
            [count * (amx.PIECE // 4) + _to(n_out, amx.SIDE) for count, n_out in zip(pieces, sizes[1:], strict=True)]
        )
        self._numbers = (ROWS + amx.SIDE) * sum(steps)
        self._side = amx.left_pieces(ROWS, max(_pieces(n) for n in sizes)) * amx.PIECE // 4
        self._zeros = aligned(((ROWS + amx.SIDE) * max(steps),), np.float32, np.zeros)
        self._few, self._registers = any_few(net), amx.REGISTERS
        self._pack: Any = amx_packing(np.float32)
        self._predict: Any = amx_prediction(np.float32)

    def packed(self, net: Network) -> Array:
        """The parameters as they are now."""
        memory = aligned((int(self._begin[-1]),), np.float32, np.zeros)
        self._pack(amx_table({ACTIVATE}, self._few), read_only(net.theta), self._shape, self._begin, memory)
        return memory

    def cuts(self, rows: int, team: int) -> list[int]:
        """Where the parts begin that a team takes one after another, and the end."""
        return cuts_for_team(rows, team, ROWS)

    def predict(self, packed: Array, x: Array, h: Array, activated: bool, scale: float = 1.0) -> bool:
        """Overwrites h (m, s_L) with a^(L) of x (m, s_1), or z^(L), both C-contiguous; False if x holds NaN or
        infinity. Several threads may call it.

        x may be uint8, and then `scale` of it counts, if it has more than FEW columns.
        """
        octets = x.dtype in OCTETS
        table = amx_table({ACTIVATE}, self._few, octets)
        a, side = aligned((self._numbers,), np.float32, np.zeros), aligned((self._side,), np.float32)
        first, errand = np.empty(ROWS + ROOM_AHEAD, np.int64), np.zeros(16, np.int64)
        rows = x.ctypes.data, len(x), octets, packed.dtype.type(scale)
        return bool(
            self._predict(
                *rows,
                table,
                self._registers,
                self._shapes[activated],
                self._begin,
                packed,
                a,
                side,
                self._zeros,
                self._places,
                first,
                errand,
                h,
            )
        )


def _shape(net: Network) -> Shape:
    sizes, steps = net.sizes, _steps(net)
    return Shape(
        sizes=np.array(sizes, np.int64),
        widths=np.array([_to(n, amx.SIDE) for n in sizes[1:]], np.int64),
        blocks=np.asarray(net.layout.offsets, np.int64),
        starts=cumulative(steps),
        turns=np.zeros(len(sizes), np.int64),
        codes=np.array([g.code for g in net.activations], np.int64),
        slopes=slopes_of(net),
        pair=net.pair.code,
        **dropout_of(net),
    )


def _steps(net: Network) -> list[int]:
    """Numbers from one row of what each layer makes to the next."""
    return [spaced(_to(n, amx.SIDE), 4) for n in net.sizes[1:]]


def _places(steps: list[int], rows: int) -> Array:
    """(L + 1, rows): where rows of each layer's width begin; the first all 0."""
    numbers = np.arange(rows)
    return np.stack([0 * numbers, *(numbers * step for step in steps)]).astype(np.int64)


def any_few(net: Network) -> bool:
    """Whether vectors multiply a layer."""
    return bool(min(net.sizes[0], net.sizes[-1]) <= FEW)


def _groups(n: int) -> int:
    return int(-(-n // amx.SIDE))


def _pieces(n: int) -> int:
    return int(-(-n // amx.INPUTS))


def _few_pieces(n_in: int, n_out: int) -> int:
    """Room for a layer of few inputs or outputs as whole rows."""
    return int(-(-(FEW + 1) * _to(max(n_in, n_out), amx.SIDE) * 4 // amx.PIECE))
