"""How busy the machine was with other things while something was timed (Linux; nothing is claimed elsewhere)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

__all__ = ["BUSY", "Sample", "Stopwatch", "cores", "is_busy", "load_average", "settle"]

# Share of the machine's CPU time taken by other processes above which a measurement is flagged.
BUSY = 0.10


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> list[float] | None:
    """Mean number of runnable processes over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _machine_busy() -> float | None:
    """Seconds of CPU time spent by everyone since the machine started, stolen time included; None where it cannot
    be known.
    """
    try:
        with open("/proc/stat", encoding="ascii") as file:
            ticks = [int(value) for value in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = ticks[3] + ticks[4]
    return (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")


def settle(least: float = 0.03, most: float = 0.4) -> None:
    """Wait until the machine is quiet: between `least` and `most` seconds.

    The threads of OpenBLAS spin for a tenth of a second after a product before they go to sleep, those
    of other libraries for times of their own; whoever is timed meanwhile has half a core less.
    """
    until = time.monotonic() + most
    before = _machine_busy()
    time.sleep(least)
    while before is not None and time.monotonic() < until:
        now = _machine_busy()
        if now is None or now - before < 0.5 * least:
            return
        before = now
        time.sleep(least)


@dataclass(frozen=True)
class Sample:
    """One timed stretch: wall seconds, CPU seconds of this process, and of everyone else if known."""

    seconds: float
    cpu: float
    others: float | None


class Stopwatch:
    """Wall and CPU time of a stretch of this process: `with Stopwatch() as watch: ...; watch.sample`."""

    sample: Sample

    def __enter__(self) -> Stopwatch:
        self._busy, self._cpu, self._start = _machine_busy(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        busy = _machine_busy()
        others = max(0.0, busy - self._busy - cpu) if busy is not None and self._busy is not None else None
        self.sample = Sample(seconds, cpu, others)


def is_busy(samples: list[Sample]) -> bool | None:
    """Whether others took more than BUSY of the machine over these stretches together; None if not known.

    The kernel counts in ticks of some 10 ms, so single short stretches say little and are summed.
    """
    if any(sample.others is None for sample in samples) or not samples:
        return None
    wall = sum(sample.seconds for sample in samples)
    others = sum(sample.others or 0.0 for sample in samples)
    return wall >= 0.1 and others > BUSY * wall * (os.cpu_count() or 1)
