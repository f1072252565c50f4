"""The program of the Numba engine that multiplies through BLAS (kernels/cpu/program.py): any rule, any width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..kernels.cpu.on_demand import DROP, parts
from ..kernels.cpu.program import FlatMemory, FlatShape, training_program
from ..kernels.cpu.team import new_barrier
from ..kernels.cpu.workspace import Rule
from .base import Array, Job
from .cpu_blas import Blas
from .cpu_crew import run_team
from .cpu_plan import Plan
from .cpu_program import Steps, TeamProgram, any_of_z, dropout_of, slopes_of, two_states
from .cpu_threads import blas_on_one_thread
from .host import aligned

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["NumbaProgram", "check_dimensions", "shapes_of"]

MOST = 2**31 - 1  # rows or columns of a matrix that BLAS of 32-bit integers can take


class NumbaProgram(TeamProgram):
    """One compiled call per thread for a whole slice of steps; the workspace is allocated here, once."""

    def __init__(self, job: Job, plan: Plan, blas: Blas) -> None:
        super().__init__(job, plan)
        self._blas, net = blas, job.net
        dtype, team, C = net.dtype, self.plan.threads, self.plan.chunk
        K, widest = net.sizes[-1], max(net.sizes[1:])
        shapes = shapes_of(net)
        width = int(shapes[2][-1])

        def scratch(*shape: int) -> Array:
            return aligned(shape, dtype)

        # theta and the optimizer's state, which are not the program's: their place is taken in each run
        others = aligned((0,), dtype)
        self._shape = FlatShape(*shapes, net.pair.code, **dropout_of(net))
        self._parts = parts(dtype, {DROP} if any(net.dropout) else set())
        self._memory = FlatMemory(
            theta=others,
            grads=scratch(team if self.plan.sliced else 1, net.layout.size),
            state1=others,
            state2=others,
            x=scratch(C * net.sizes[0]),
            a=scratch(C * width),
            d=scratch(C * width),
            beside=scratch(C * width if any_of_z(net) else 0),
            h=scratch(C * K),
            classes=np.empty(C, np.int64),
            values=scratch(C * K),
            weights=scratch(C),
            partials=scratch(team * widest),
            costs=self._costs,
            hits=self._hits,
            squares=np.zeros((len(net.sizes) - 1, 2, team, 2)),
        )
        self._worker = training_program(dtype)

    def _capacity(self) -> int:
        return self.plan.chunk

    def _run_on(
        self, theta: Array, states: list[Array], rule: Rule, steps: Steps, D: Array | None = None
    ) -> tuple[float, int]:
        if D is not None:
            np.copyto(D, theta)
            theta = D
        team = self._team()
        self._memory.squares[...] = 0  # members of the plan who stay away add nothing
        data, run = self._arguments(steps)
        meeting = new_barrier(team)
        state1, state2 = two_states(states, self.net.dtype)
        memory = self._memory._replace(theta=theta, state1=state1, state2=state2)

        def work(me: int) -> None:
            with self._blas.one_thread_here():
                self._work(me, team, self.plan.sliced, meeting, self._parts, data, run, self._shape, rule, memory)

        with blas_on_one_thread():
            run_team(work, team)
        return self._finish(steps)


def shapes_of(net: Network) -> tuple[Array, Array, Array, Array, Array]:
    """Sizes, offsets of the layers in theta, starts of layers 2..L in a row of activations, codes and slopes."""
    check_dimensions(*net.sizes)
    sizes = np.array(net.sizes, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes[1:])]).astype(np.int64)
    codes = np.array([g.code for g in net.activations], np.int64)
    return sizes, net.layout.offsets, starts, codes, slopes_of(net)


def check_dimensions(*dimensions: int) -> None:
    """ValueError for what BLAS of 32-bit integers cannot take."""
    if max(dimensions) > MOST:
        raise ValueError(f"a matrix product takes at most {MOST:,} rows or columns, got {max(dimensions):,}")
