"""The CPU engine's program on Intel's matrix unit: kernels/cpu/amx_program.py."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.cpu import JIT, amx
from ..kernels.cpu.amx_program import ROOM_AHEAD, AmxMemory, amx_program
from ..kernels.cpu.amx_thin import FEW
from ..kernels.cpu.on_demand import amx_table
from ..kernels.cpu.panels import spaced
from ..kernels.cpu.team import new_barrier
from ..kernels.cpu.workspace import Shape
from .base import Array
from .cpu_crew import run_team
from .cpu_plan import Plan
from .cpu_program import TeamProgram, two_states
from .host import aligned
from .numba_panels import needed_parts

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer

__all__ = ["AmxProgram"]


def _to(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _rows(team: int, count: int) -> Array:
    """(team, at least count) float32, each row beginning on a cache line."""
    return aligned((team, _to(max(1, count), amx.SIDE)), np.float32, np.zeros)


class AmxProgram(TeamProgram):
    """One compiled call per thread for a whole slice of steps; the workspace is allocated here, once."""

    def __init__(self, net: Network, optimizer: Optimizer, batch_size: int, micro_batch: int | None, training_rows: int | None, plan: Plan) -> None:
        super().__init__(net, optimizer, batch_size, micro_batch, training_rows, plan)
        team, C, sizes = self.plan.threads, self._capacity(), net.sizes
        K, rows, deepest = sizes[-1], C + amx.SIDE, max(_pieces(n) for n in sizes)
        widths = [_to(n, amx.SIDE) for n in sizes[1:]]
        steps = [spaced(P, 4) for P in widths]
        starts = _cumulative(steps)
        pieces = [
            max(_groups(n_out) * _pieces(n_in) + (_groups(n_in) * _pieces(n_out) if layer else 0), _few_pieces(n_in, n_out))
            for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        ]
        begin, numbers, piece = _cumulative(pieces), np.arange(rows), amx.PIECE // 4  # float32 in a piece's place
        self._shape = Shape(
            sizes=np.array(sizes, np.int64), widths=np.array(widths, np.int64), blocks=np.asarray(net.layout.offsets, np.int64), starts=starts, turns=np.zeros(len(sizes), np.int64),
            codes=np.array([g.code for g in net.activations], np.int64), slopes=np.array([g.parameter for g in net.activations], np.float32), pair=net.pair.code,
        )  # fmt: skip
        others = aligned((0,), np.float32)  # theta and the optimizer's state, which are not the program's: their place is taken in each run
        self._memory = AmxMemory(
            packed=others, state1=others, state2=others, grads=_rows(team, net.layout.size), weights=_rows(1, int(begin[-1]) * piece)[0], layers=begin,
            x=_rows(team, C * sizes[0]), a=_rows(team, rows * int(starts[-1])), d=_rows(team, rows * int(starts[-1])),
            side=_rows(team, amx.left_pieces(C, deepest) * piece), right=_rows(team, amx.right_pieces(C) * piece), rooms=_rows(team, amx.ROOM // 4),
            turned=_rows(team, max(_groups(n) for n in sizes[1:]) * _pieces(C) * piece), rows=_rows(team, (FEW + 1) * max(steps)),
            h=_rows(team, C * K), e=_rows(team, C * K), wanted=_rows(team, C * K), labels=aligned((team, C), np.int64, np.zeros), errands=aligned((team, _to(amx.ERRAND, 16)), np.int64, np.zeros),
            places=np.stack([0 * numbers, *(numbers * step for step in steps)]).astype(np.int64), firsts=np.zeros((team, C + ROOM_AHEAD), np.int64),
            ones=np.ones(1, np.float32), zeros=aligned((rows * max(steps),), np.float32, np.zeros), registers=amx.REGISTERS, costs=self._costs, hits=self._hits,
        )  # fmt: skip
        self._worker: Any = amx_program(np.float32)

    def clear(self) -> None:
        for memory in (self._memory.a, self._memory.d):
            memory[...] = 0

    def _capacity(self) -> int:
        return -(-self.plan.chunk // self.plan.threads)

    def _run(self, X: Array, y: Array, order: Array, start: int, stop: int, rates: Array | None) -> tuple[float, int]:
        team = self._team()
        native = JIT and X.dtype == np.float32 and (X.strides[1] == X.itemsize or X.shape[1] == 1) and X.strides[0] % X.itemsize == 0
        data, run = self._arguments(X, y, order, start, stop, bool(native))
        rule, meeting = self._rule(X, rates), new_barrier(team)
        few = min(self.net.sizes[0], self.net.sizes[-1]) <= FEW
        table = amx_table(needed_parts(self.net, data.by_class, self.batch_size), few)
        state1, state2 = two_states(self.optimizer.state, np.float32)
        memory = self._memory._replace(packed=self.net.theta, state1=state1, state2=state2)

        def work(me: int) -> None:
            self._worker(me, team, 0, meeting, table, data, run, self._shape, rule, memory)

        run_team(work, team)
        return self._finish(y, order, start, stop)


def _groups(n: int) -> int:
    return int(-(-n // amx.SIDE))


def _pieces(n: int) -> int:
    return int(-(-n // amx.INPUTS))


def _few_pieces(n_in: int, n_out: int) -> int:
    """Room for a layer of few inputs or outputs as whole rows."""
    return int(-(-(FEW + 1) * _to(max(n_in, n_out), amx.SIDE) * 4 // amx.PIECE))


def _cumulative(counts: list[int]) -> Array:
    return np.array([0, *itertools.accumulate(counts)], np.int64)
