"""How the CPU engine's program runs a problem: threads and rows per chunk, chosen from sizes alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Plan", "choose_plan"]

# A barrier costs well under a microsecond when both threads run, but the threads of a shared
# machine do not always; a second thread is taken where a step is worth this many operations.
FLOPS_PER_THREAD = 1_000_000
# Bytes of a chunk's rows, activations and deltas that should stay in the cache of a core.
CHUNK_BYTES = 4 << 20
# The same for a tile of a thread's slice, whose rows are read three times; and up to this many
# parameters, adding up a Delta per thread costs less than moving rows between cores.
TILE_BYTES = 1 << 18
SLICED_PARAMETERS = 60_000


@dataclass(frozen=True)
class Plan:
    """Threads of the team, rows of the batch in the workspace at a time, and how they are shared (kernels/cpu/program.py)."""

    threads: int
    chunk: int
    sliced: bool = False

    def __str__(self) -> str:
        how = f", each with a slice of the batch, {self.chunk // self.threads} rows at a time" if self.sliced else f", {self.chunk} rows at a time"
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}{how}"


def choose_plan(sizes: Sequence[int], batch: int, itemsize: int, threads: int) -> Plan:
    """The plan for layers `sizes`, rows per step, bytes per number, and at most so many threads."""
    products = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
    useful = min(threads, max(1, 6 * products * batch // FLOPS_PER_THREAD))
    per_row = (sizes[0] + 2 * sum(sizes[1:])) * itemsize
    sliced = products <= SLICED_PARAMETERS
    if sliced:
        tile = min(-(-batch // useful), max(32, TILE_BYTES // per_row // 16 * 16))
        return Plan(useful, tile * useful, sliced=True)
    return Plan(useful, min(batch, max(256, CHUNK_BYTES // per_row // 64 * 64)))
