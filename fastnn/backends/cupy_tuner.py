"""Which way of computing something is the fastest on this device: timed once, remembered in memory and on disk."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from .. import files
from .cupy_contract import Device
from .cupy_products import Candidate, NotOffered

__all__ = ["Tuner", "default_file"]

FORMAT = 2  # of the file: 1 held times that were the host's


def default_file() -> Path | None:
    """Where choices are kept between processes; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastnn" / "cuda-choices.json"
    except RuntimeError:
        return None


class Tuner:
    """Times candidates with the device's own clock and remembers the winners.

    Parameters
    ----------
    device : Device
    file : Path, optional
        Choices of earlier processes; used and written where the device has an identity. A file that cannot be
        read counts as empty, one that cannot be written is said once and done without. What was timed at the host's
        pace (`Device.paced_by_host`) holds for this process alone.
    """

    def __init__(self, device: Device, file: Path | None = None) -> None:
        self._device, self._file = device, file if device.identity is not None else None
        self._known: dict[str, tuple[str, float]] = self._read().get(device.identity or "", {})
        self._news = False
        self._runs: dict[tuple[str, str], bool] = {}  # what was not timed, but tried
        self._passing: set[str] = set()  # what was timed at the host's pace

    def best(
        self, work: str, candidates: Sequence[Candidate], *, measure: bool = True, recorded: bool = True
    ) -> tuple[Candidate, float]:
        """The fastest of one or more candidates for `work`, and its seconds. Without `measure` where none is known the
        first that runs, of 0 s.

        `work` names what is computed, with everything that its time depends on. Synchronises when it times; recorded:
        as in `Device.seconds`.

        Raises
        ------
        NotOffered
            None of them runs.
        """
        name, seconds = self._known.get(work, ("", 0.0))
        known = next((candidate for candidate in candidates if candidate.name == name), None)
        if known is not None:
            return known, seconds
        if not candidates:
            raise NotOffered(f"cuBLASLt proposes no algorithm for {work}")
        if not measure:
            return self._first_that_runs(work, candidates), 0.0
        self._device.paced_by_host = False
        times = [self._time(candidate, recorded) for candidate in candidates]
        seconds = min(times)
        if seconds == math.inf:
            raise NotOffered(f"none of the {len(candidates)} algorithms that cuBLASLt proposes for {work} runs")
        winner = candidates[times.index(seconds)]
        self._known[work] = winner.name, seconds
        if self._device.paced_by_host:
            self._passing.add(work)
        else:
            self._news = True
        return winner, seconds

    def _first_that_runs(self, work: str, candidates: Sequence[Candidate]) -> Candidate:
        """For what is not worth timing; what is proposed need not run."""
        for candidate in candidates if len(candidates) > 1 else ():
            if self._runs.get((work, candidate.name)) is None:
                try:
                    candidate.call()
                except NotOffered:
                    self._runs[work, candidate.name] = False
                else:
                    self._runs[work, candidate.name] = True
            if self._runs[work, candidate.name]:
                return candidate
        return candidates[0]

    def _time(self, candidate: Candidate, recorded: bool) -> float:
        try:
            return self._device.seconds(candidate.call, recorded=recorded)
        except NotOffered:  # what was proposed need not run
            return math.inf

    def save(self) -> None:
        """Write what was learnt since the last time, if anything."""
        if not self._news or self._file is None:
            return
        self._news = False
        lasting = {work: found for work, found in self._known.items() if work not in self._passing}
        everything = {**self._read(), self._device.identity or "": lasting}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            files.replace(self._file, json.dumps({"format": FORMAT, "devices": everything}).encode())
        except OSError as error:
            warnings.warn(
                f"the timed choices of matrix products cannot be kept in {self._file} ({error}); each process times "
                "them anew",
                RuntimeWarning,
                stacklevel=2,
            )
            self._file = None

    def _read(self) -> dict[str, dict[str, tuple[str, float]]]:
        if self._file is None:
            return {}
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                return {}
            return {
                device: {work: (str(name), float(seconds)) for work, (name, seconds) in known.items()}
                for device, known in content["devices"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # a cache: what cannot be read is measured again
