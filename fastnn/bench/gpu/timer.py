"""Times of work on the device, by the device's own clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from ..statistics import spread

__all__ = ["EventTimer", "Timer"]


class Timer(ABC):
    """Median times of pieces of work that are asked for on the current stream."""

    @abstractmethod
    def once(self, work: Callable[[], Any]) -> float:
        """Seconds of the device between the beginning and the end of the work, its second-level cache emptied
        before.
        """

    def sustained(self, work: Callable[[], Any], times: int) -> float:
        """Seconds of one of so many in a row."""
        return self.once(lambda: [work() for _ in range(times)]) / times

    def seconds(self, work: Callable[[], Any], rounds: int = 11, warm_up: int = 3) -> dict[str, float]:
        """Median, quartiles and least of `rounds` times, after a few that do not count."""
        for _ in range(warm_up):
            self.once(work)
        return spread([self.once(work) for _ in range(rounds)])

    def compare(
        self, works: dict[str, Callable[[], Any]], rounds: int = 11, warm_up: int = 3
    ) -> dict[str, dict[str, float]]:
        """The same for several ways of doing one thing, taken in turn within each round."""
        for work in works.values():
            for _ in range(warm_up):
                self.once(work)
        found: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, work in works.items():
                found[name].append(self.once(work))
        return {name: spread(times) for name, times in found.items()}


class EventTimer(Timer):
    """CUDA events through CuPy.

    Before each measurement a buffer of twice the second-level cache is overwritten. That also keeps the device
    busy until both events and the work are in its queue, so that the time between the events is the device's
    and not the host's.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        self.cache_bytes = int(properties.get("l2CacheSize", 1 << 26))
        self._flush = cupy.empty(max(2 * self.cache_bytes, 1 << 27), "uint8")

    def once(self, work: Callable[[], Any]) -> float:
        events = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        self._flush.fill(1)
        events[0].record()
        work()
        events[1].record()
        events[1].synchronize()
        return float(self._cupy.cuda.get_elapsed_time(*events)) / 1000
