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


@dataclass(frozen=True)
class Plan:
    """Threads of the team, and rows of the batch taken at a time."""

    threads: int
    chunk: int

    def __str__(self) -> str:
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}, {self.chunk} rows at a time"


def choose_plan(sizes: Sequence[int], batch: int, itemsize: int, threads: int) -> Plan:
    """The plan for layers `sizes`, rows per step, bytes per number, and at most so many threads."""
    products = sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))
    useful = max(1, 6 * products * batch // FLOPS_PER_THREAD)
    per_row = (sizes[0] + 2 * sum(sizes[1:])) * itemsize
    fitting = max(256, CHUNK_BYTES // per_row // 64 * 64)
    return Plan(min(threads, useful), min(batch, fitting))
