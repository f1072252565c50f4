"""How the CPU engine runs a problem: which program, threads, rows at a time; chosen from the sizes, the dtype, the
rule, the steps and the BLAS by a model of the machine (fastnn/backends/cpu_machine.py), or as the user wishes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import positive_integer
from . import cpu_machine as machine

__all__ = ["Plan", "Problem", "Wishes", "choose_plan", "possible_plans"]


def _to(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Plan:
    """How a step is computed.

    Attributes
    ----------
    threads : of the team
    chunk : rows of the batch in the workspace at a time, of all threads
    sliced : whether each thread takes a slice of the batch through all layers
    panels : by fastnn's own products on parameters packed in panels (kernels/cpu/panel_program.py), or by BLAS
        (kernels/cpu/program.py)
    split : lower layers whose weights a team shares that does not take slices, on panels (kernels/cpu/split_program.py)
    amx : by fastnn's own products on the CPU's matrix unit (kernels/cpu/amx_program.py), always in slices
    """

    threads: int
    chunk: int
    sliced: bool = False
    panels: bool = False
    split: int = 0
    amx: bool = False

    def with_rows_at_most(self, rows: int) -> Plan:
        """The same with no more than so many rows in the workspace at a time."""
        if self.chunk <= rows:
            return self
        threads = min(self.threads, rows)
        return replace(
            self,
            threads=threads,
            chunk=rows // threads * threads if self.sliced else rows,
            split=self.split if threads > 1 else 0,
        )

    def __str__(self) -> str:
        how = (
            f", each with a slice of the batch, {self.chunk // self.threads} rows at a time"
            if self.sliced and self.threads > 1
            else f", {self.chunk} rows at a time"
        )
        if self.split:
            how = f", sharing the weights of the first {f'{self.split} layers' if self.split > 1 else 'layer'}{how}"
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}{how}, products {self.products}"

    @property
    def products(self) -> str:
        return "on the matrix unit" if self.amx else "in panels" if self.panels else "by BLAS"


@dataclass(frozen=True)
class Wishes:
    """What the user fixes of a plan (`fastnn.get_backend("numba", threads=..., chunk=..., sliced=..., panels=...,
    amx=...)`); None leaves it to the model.

    Attributes
    ----------
    threads : int
        Threads of the team, also where more or fewer would pay; a prediction uses at most so many.
    chunk : int
        Rows in the workspace at a time, of all threads together, at most.
    sliced : bool
        Whether each thread takes a slice of the batch through all layers, or all work on the same rows: on panels each
        with its share of the lower layers' weights (networks without a hidden layer, and batches of one row, have no
        such form and take slices), by BLAS each with its share of the units.
    panels : bool
        Whether products are computed by fastnn's own kernels on packed parameters, or by BLAS. Rules with a rate for
        each layer (LARS, LAMB) are computed by BLAS in any case.
    amx : bool
        Whether products of float32 are computed on the CPU's matrix unit, where it has Intel's, in slices; of float64,
        for LARS and LAMB, and for steps of one row there is no such form. False keeps predictions of many rows from it
        too.
    """

    threads: int | None = None
    chunk: int | None = None
    sliced: bool | None = None
    panels: bool | None = None
    amx: bool | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "chunk"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, positive_integer(name, value))
        for name in ("sliced", "panels", "amx"):
            if (value := getattr(self, name)) is not None and not isinstance(value, bool):
                raise TypeError(f"{name} must be True, False or None, got {value!r} ({type(value).__name__})")
        if self.amx and (self.panels is not None or self.sliced is False):
            raise ValueError(
                f"amx=True is one way to compute products, in slices, and leaves no choice of panels={self.panels} or "
                f"sliced={self.sliced}; give None for both"
            )
        if self.sliced and self.chunk is not None and self.chunk < (self.threads or 1):
            raise ValueError(
                f"chunk={self.chunk} leaves some of threads={self.threads} without a row of their slice; give at "
                f"least {self.threads}"
            )


@dataclass(frozen=True)
class Problem:
    """All that a plan depends on but the machine.

    Attributes
    ----------
    sizes : layers
    batch : rows per step
    itemsize : bytes per number
    fits_panels : whether panels can do the rule
    mkl : whether the BLAS is MKL
    vectors : Theta and those of the rule's state
    steps : of an epoch; None for as many as fit in a slice
    amx : whether there is a matrix unit
    amx_shared : whether others may use it too, so that it is for data of uint8 alone
    octets : whether the data are uint8, of which the unit reads fewer bytes and lays out fewer parts
    """

    sizes: Sequence[int]
    batch: int
    itemsize: int
    fits_panels: bool = True
    mkl: bool = False
    vectors: int = 1
    steps: int | None = None
    amx: bool = False
    octets: bool = False
    amx_shared: bool = False

    @property
    def amx_flops(self) -> float:
        """A second, of the matrix unit of one core."""
        return machine.AMX_FLOPS * (machine.AMX_SHARED if self.amx_shared else 1)

    @property
    def fits_amx(self) -> bool:
        """Whether the matrix unit may do this at all."""
        return self.amx and self.no_amx is None and (self.octets or not self.amx_shared)

    @property
    def no_amx(self) -> str | None:
        """Why the matrix unit does not do this where there is one, or None."""
        if self.itemsize != 4:
            return "the matrix unit multiplies float32 alone"
        if not self.fits_panels:
            return "on the matrix unit there is no program for rules with norms of layers, or for clip_norm"
        return "on the matrix unit there is no program for steps of one row" if self.batch == 1 else None

    @property
    def parameters(self) -> int:
        return sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def stays_in_cache(self) -> bool:
        """Whether a core keeps the parameters from step to step."""
        return self.parameters * self.itemsize <= machine.PANELS_BYTES

    def panels_pay(self, shared: bool) -> bool:
        """Whether panels are weighed against BLAS at all, in slices or with shared weights."""
        far = self.batch == 1 or not self.mkl
        limit = machine.SHARED_BYTES if shared else machine.PANELS_BYTES_FAR if far else machine.PANELS_BYTES_MKL
        return self.fits_panels and self.parameters * self.itemsize <= limit

    @property
    def turned(self) -> int:
        """Weights of the layers above the first, whose transposes the panels need for more than one row."""
        return 0 if self.batch == 1 else sum(n_out * n_in for n_in, n_out in itertools.pairwise(self.sizes[1:]))

    @property
    def per_row(self) -> int:
        """Numbers of a row in the workspace: inputs, activations and deltas."""
        return self.sizes[0] + 2 * sum(self.sizes[1:])

    @property
    def slices_pay(self) -> bool:
        """With BLAS slices move every Delta between cores, sharing moves the rows and what became of them."""
        return self.parameters <= machine.BLAS_SLICES_UP_TO * self.batch * self.per_row

    def split_seconds(self, team: int, lower: int) -> float:
        """Of what a team does besides its products when it shares the weights of so many lower layers."""
        sizes, moving = self.sizes, self.itemsize / machine.BYTES_PER_SECOND
        below = sum(sizes[1 : lower + 1])  # sums, and deltas, of a row that cross
        above = sum(n_out * (n_in + 1) for n_in, n_out in itertools.pairwise(sizes[lower:]))
        tiles = -(-self.batch // (team * self.tile(True, shared=True)))
        of_row = machine.SPLIT_NARROW_ROW_SECONDS if self.narrow else machine.SPLIT_ROW_SECONDS
        # own weights, turned for every tile in one place
        of_tile = sum(n_out * n_in for n_in, n_out in itertools.pairwise(sizes[1 : lower + 1])) / team
        turned = tiles * of_tile + sum(n_out * n_in for n_in, n_out in itertools.pairwise(sizes[lower:]))
        crossing = (
            2
            * (team - 1)
            / team
            * (self.batch * below * machine.SPLIT_NUMBER_SECONDS * self.itemsize / 4 + 2 * above * moving)
        )
        return (
            machine.TURN_SECONDS * turned
            + machine.SPLIT_SECONDS * lower * tiles * team / 2
            + of_row * self.batch
            + crossing
        )

    def split(self, team: int) -> int:
        """Lower layers whose weights a team shares best: 0 where there is no layer above any, or one row."""
        possible = range(1, len(self.sizes) - 1 if self.batch > 1 else 1)
        return min(possible, key=lambda lower: self.split_seconds(team, lower), default=0)

    def panel_forms(self, team: int, wished: bool | None, has_rows: bool = True) -> list[bool]:
        """Whether slices and shared weights are weighed, by several threads: True, False, or both. Slices alone
        where nothing can be shared; not they where some threads have no row.
        """
        lower = self.split(team)
        if lower and not has_rows:
            return [False]
        if wished is not None:
            return [wished or not lower]
        return [True, False] if lower and max(self.sizes[:lower]) >= machine.SPLIT_INPUTS * team else [True]

    @property
    def narrow(self) -> bool:
        """Whether no layer's outputs are more than one vector, of long rows."""
        return (
            max(self.sizes[1:]) * self.itemsize <= machine.VECTOR_BYTES
            and self.sizes[0] * self.itemsize >= machine.LONG_ROW_BYTES
        )

    def tile(self, panels: bool, shared: bool = False) -> int:
        """Rows that a thread takes at a time, alone or sharing the weights."""
        if panels:
            if not self.stays_in_cache:
                return machine.PANELS_FAR_ROWS
            if self.narrow and not shared:
                return machine.PANELS_NARROW_ROWS
            return (
                machine.PANELS_SHORT_ROWS
                if self.sizes[0] * self.itemsize <= machine.SHORT_ROW_BYTES
                else machine.PANELS_ROWS
            )
        least, tile_bytes, multiple = (
            (32, machine.NARROW_BYTES, 16)
            if self.parameters <= machine.NARROW_PARAMETERS
            else (256, machine.WIDE_BYTES, 64)
        )
        return max(least, tile_bytes // (self.per_row * self.itemsize) // multiple * multiple)

    @property
    def blas_flops(self) -> float:
        """A second, of the BLAS that there is, on one core."""
        if self.mkl:
            wide = min(self.sizes[1:-1], default=0) >= machine.MKL_WIDTH and self.batch >= machine.MKL_ROWS
            far = machine.MKL_FAR_FLOPS if self.vectors == 1 else machine.MKL_FAR_STATE_FLOPS
            return far if not self.stays_in_cache else machine.MKL_WIDE_FLOPS if wide else machine.BLAS_FLOPS
        return machine.SCIPY_FLOPS if self.batch < machine.SCIPY_ROWS else machine.BLAS_FLOPS

    def seconds(self, team: int, sliced: bool, panels: bool) -> float:
        """Of one step, by the model."""
        # twice as many bytes are half as many numbers in a vector
        flops = 6 * self.parameters * self.batch * self.itemsize / 4
        alone, always = (
            (flops / machine.PANELS_FLOPS, machine.TURN_SECONDS * self.turned)
            if panels
            else (flops / self.blas_flops, 3 * machine.CALL_SECONDS * (len(self.sizes) - 1))
        )
        if self.octets:
            alone += self.batch * self.sizes[0] * machine.OCTET_SECONDS
        one_pass = 0.0 if self.stays_in_cache else self.parameters * self.itemsize / machine.BYTES_PER_SECOND
        passes = one_pass * (
            machine.PANELS_PASSES if panels else machine.BLAS_PASSES if self.vectors == 1 else machine.BLAS_STATE_PASSES
        )
        if panels and team > 1 and not sliced:
            if self.batch > team * self.tile(True):
                passes += one_pass * machine.GRADIENT_PASSES
            return (alone + passes) / team + self.split_seconds(team, self.split(team))
        always += passes
        if team == 1:
            return alone + always
        moved = self.parameters * self.itemsize * (team if sliced else 2 * (team - 1) / team)
        return alone / team + always + machine.MEETING_SECONDS * team / 2 + moved / machine.BYTES_PER_SECOND

    @property
    def amx_tile(self) -> int:
        """Rows that a thread takes at a time on the matrix unit."""
        if self.octets:
            return machine.AMX_ROWS
        if self.parameters <= machine.AMX_NARROW_PARAMETERS or not self.stays_in_cache:
            return machine.AMX_ROWS // 4 if self.parameters <= machine.AMX_TINY_PARAMETERS else machine.AMX_ROWS // 2
        return (
            2 * machine.AMX_ROWS
            if self.sizes[1] <= machine.AMX_LAST_UNITS and self.sizes[0] * self.itemsize >= machine.LONG_ROW_BYTES
            else machine.AMX_ROWS
        )

    def amx_seconds(self, team: int) -> float:
        """Of one step on the matrix unit, by the model."""
        pairs, last = list(itertools.pairwise(self.sizes)), len(self.sizes) - 2
        tiled = [
            (layer, *pair)
            for layer, pair in enumerate(pairs)
            if not ((layer == 0 and pair[0] <= machine.AMX_FEW) or (0 < layer == last and pair[1] <= machine.AMX_FEW))
        ]
        octets = self.octets and self.sizes[0] > machine.AMX_FEW  # half as many products of parts in the first layer
        # forward and the gradient
        products = sum(
            _to(n_out, 16) * (_to(n_in, 32) + _to(n_in, 16)) / (2 if octets and not layer else 1)
            for layer, n_in, n_out in tiled
        )
        products += sum(_to(n_in, 16) * _to(n_out, 32) for layer, n_in, n_out in tiled if layer)
        data = machine.AMX_OCTET_SECONDS if octets else machine.AMX_DATA_SECONDS
        of_row = (
            2 * products / self.amx_flops
            + 4 * sum(self.sizes[1:]) * machine.AMX_NUMBER_SECONDS
            + (2 * self.sizes[0] * data if self.sizes[0] > machine.AMX_FEW else 0.0)
        )
        # A state's numbers are moved, not laid out: a tenth of the work each, by five cells of Adam.
        moved = machine.AMX_PARAMETER_SECONDS * (
            9 + self.vectors
        ) / 10 * self.parameters + machine.AMX_UPPER_SECONDS * sum(
            n_in * n_out for layer, n_in, n_out in tiled if layer
        )
        waits = machine.AMX_STEP_SECONDS + (
            machine.AMX_SHARED_SECONDS if self.batch < machine.AMX_ROWS_TO_COPY * team else 0.0
        )
        return (self.batch * of_row + moved) / team + (waits if team > 1 else 0.0)

    @property
    def done_to_counted(self) -> float:
        """What the other rates, which count products of the first layer thrice and no padding, are to be multiplied
        by beside the matrix unit's; padding to two vectors fits best.
        """
        weights = [n_out * n_in for n_in, n_out in itertools.pairwise(self.sizes)]
        padded = [_to(n_out, machine.PAIR_OF_VECTORS) * n_in for n_in, n_out in itertools.pairwise(self.sizes)]
        return (3 * sum(padded) - padded[0]) / (3 * sum(weights))

    def amx_seconds_with_run(self, team: int) -> float:
        """Of one step and its share of a run."""
        step = self.amx_seconds(team)
        return step + (machine.TEAM_SECONDS if team > 1 else 0.0) / max(
            1.0, min(machine.SLICE_SECONDS / step, self.steps or math.inf)
        )

    def amx_plan(self, team: int, chunk: int | None) -> Plan:
        """Tiles of about one height, in whole pieces of rows, or of `chunk` rows together at most."""
        share = -(-self.batch // team)
        most = (
            max(1, chunk // team)
            if chunk is not None
            else -(-share // -(-share // self.amx_tile) // machine.AMX_MULTIPLE) * machine.AMX_MULTIPLE
        )
        return Plan(team, team * min(share, most), True, amx=True)

    def run_seconds(self, team: int, panels: bool) -> float:
        """Of a run besides its steps, by the model."""
        call = machine.TEAM_SECONDS if team > 1 else 0.0
        if not panels:
            return call
        number = (machine.NUMBER_SECONDS if self.stays_in_cache else machine.FAR_NUMBER_SECONDS) * self.itemsize / 4
        return call + self.vectors * (machine.VECTOR_SECONDS + number * self.parameters)

    def seconds_with_run(self, team: int, sliced: bool, panels: bool) -> float:
        """Of one step and its share of a run."""
        step, run = self.seconds(team, sliced, panels), self.run_seconds(team, panels)
        return step + run / max(1.0, min(machine.SLICE_SECONDS / step, self.steps or math.inf))

    def plan(self, team: int, sliced: bool, panels: bool, chunk: int | None = None) -> Plan:
        """With the rows at a time that suit, or `chunk` of them if that is fewer than there are."""
        if sliced:
            share = -(-self.batch // team)
            most = self.tile(panels) if chunk is None else max(1, chunk // team)
            if panels and chunk is None:
                # tiles of about one height: a short one at the end costs as many passes over the parameters as any
                most = -(-share // max(1, round(share / most)) // machine.TILE_MULTIPLE) * machine.TILE_MULTIPLE
            rows = team * min(share, most)
        else:
            rows = min(self.batch, team * self.tile(panels, shared=True) if chunk is None else chunk)
        return Plan(team, rows, sliced, panels, self.split(team) if panels and team > 1 and not sliced else 0)


def possible_plans(problem: Problem, threads: int, wishes: Wishes = Wishes()) -> list[tuple[float, Plan]]:
    """The plans that the model weighs, with its seconds per step, a run's share included: both programs with teams
    of 1, 2, 4, ... and all of `threads`; panels in both forms, BLAS in the one that the sizes suggest.
    """
    teams = (
        [wishes.threads]
        if wishes.threads is not None
        else sorted({threads, *(1 << k for k in range(threads.bit_length()))})
    )
    plans = []
    for panels, team in itertools.product((False, True), teams):
        if panels and not problem.fits_panels:
            continue
        has_rows = wishes.chunk is None or wishes.chunk >= team  # at least one for every thread
        if team == 1:
            # Alone both forms are the same but for the tile; one thread with a tile of its own is called sliced.
            forms = [wishes.sliced is not False]
        elif panels:
            forms = problem.panel_forms(team, wishes.sliced, has_rows)
        else:
            forms = [wishes.sliced if wishes.sliced is not None else has_rows and problem.slices_pay]
        plans += [
            (problem.seconds_with_run(team, sliced, panels), problem.plan(team, sliced, panels, wishes.chunk))
            for sliced in forms
            if (has_rows or (wishes.threads is not None and not sliced))
            and (not panels or wishes.panels or problem.panels_pay(team > 1 and not sliced))
        ]
    if problem.fits_amx and (
        wishes.amx or (wishes.amx is None and wishes.panels is None and wishes.sliced is not False)
    ):
        plans = [(seconds * problem.done_to_counted, plan) for seconds, plan in plans]
        plans += [
            (problem.amx_seconds_with_run(team), problem.amx_plan(team, wishes.chunk))
            for team in teams
            if wishes.chunk is None or wishes.chunk >= team
        ]
    as_wished = [
        (seconds, plan) for seconds, plan in plans if (plan.amx if wishes.amx else plan.panels == wishes.panels)
    ]
    return as_wished or plans


@functools.lru_cache(maxsize=256)
def choose_plan(problem: Problem, threads: int, wishes: Wishes = Wishes()) -> Plan:
    """The fastest by the model, with at most so many threads, or as wished."""
    return min(possible_plans(problem, threads, wishes), key=lambda pair: pair[0])[1]
