"""Runs the stages one after another and writes the results after each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import results_file
from ..environment import describe, now
from ..statistics import Result

__all__ = ["BUDGETS", "SCHEMA", "STAGES", "Run", "Stage", "read"]

SCHEMA = 1
BUDGETS = {"quick": 115.0, "default": 465.0, "all": 6 * 3600.0}  # seconds for everything
GRACE = 8.0  # between asking a stage to end and ending it
LOOK = 5.0  # between two looks at what a stage has so far
TAIL = 3000  # characters of a failed stage's log that are kept with the results


@dataclass(frozen=True)
class Stage:
    """One stage: `target` is "module:function"; most seconds in each mode, 0 leaves it out. Without a stage that is
    `needed`, the rest is not tried.
    """

    name: str
    title: str
    target: str
    quick: float
    default: float
    every: float
    needed: bool = False

    def seconds(self, mode: str) -> float:
        """Most seconds in this mode; 0 leaves the stage out."""
        return {"quick": self.quick, "default": self.default, "all": self.every}[mode]


def _at(module: str) -> str:
    return f"fastnn.bench.gpu.{module}:run"


# In order; seconds are limits, not what a stage needs. The first one loads the libraries from a cold disk, and without
# it there is nothing. Whole steps come last and get all that is left.
STAGES = (
    Stage("environment", "the card, the driver, the libraries", _at("environment"), 60, 60, 120, needed=True),
    Stage("kernels", "every kernel compiled", _at("compiling"), 40, 40, 300),
    Stage("suite", "the tests on the device", _at("suite"), 40, 75, 3600),
    Stage("sanitizer", "compute-sanitizer over every kernel", _at("sanitizer"), 0, 55, 900),
    Stage("determinism", "replayed steps equal eager ones, bit for bit", _at("determinism"), 15, 30, 300),
    Stage("ceilings", "matrix products and copies at their fastest", _at("ceilings"), 15, 30, 120),
    Stage("epilogues", "epilogues against separate kernels", _at("epilogues"), 0, 25, 300),
    Stage("accuracy", "MNIST to 98 %", _at("accuracy"), 20, 30, 300),
    Stage("steps", "whole steps against PyTorch and JAX", _at("steps"), 60, 400, 6 * 3600),
)


def read(path: Path) -> Result:
    """Results written earlier.

    Raises
    ------
    ValueError
        Not a results file of this version.
    """
    return results_file.read(path, "the GPU run", SCHEMA, part="stages", kind="gpu")


class Run:
    """All stages into `results`.

    Parameters
    ----------
    mode : str
        "quick", "default" or "all".
    path : Path
        Of the JSON; the log lies beside it with the suffix .log.
    results : dict, optional
        Of an earlier run; what is "ok" there is not done again.
    stages : sequence of Stage
        What to do, and in which order.
    only : sequence of str
        Names of stages; all if empty.
    checkout, data : str, optional
        Given to the stages.
    budget : float, optional
        Seconds for everything; those of the mode if not given. What is more than the stages' own limits add up to
        stretches all of them.
    say : callable
        Told in a few words what is going on.
    after : callable
        Given the results after each stage.
    """

    def __init__(
        self,
        mode: str,
        path: Path,
        results: Result | None = None,
        *,
        stages: Sequence[Stage] = STAGES,
        only: Sequence[str] = (),
        checkout: str | None = None,
        data: str | None = None,
        budget: float | None = None,
        say: Callable[[str], None] = lambda text: None,
        after: Callable[[Result], None] = lambda results: None,
    ) -> None:
        self.mode, self.path, self.say, self.checkout, self.data = mode, path, say, checkout, data
        self.after = after
        self.stages = [stage for stage in stages if stage.seconds(mode) and (not only or stage.name in only)]
        self.results: Result = results or {"kind": "gpu", "schema": SCHEMA, "mode": mode, "sessions": [], "stages": {}}
        self.budget = BUDGETS[mode] if budget is None else budget
        self.stretch = (
            1.0 if budget is None else max(1.0, budget / max(1.0, sum(stage.seconds(mode) for stage in self.stages)))
        )
        self.began = time.monotonic()

    def run(self) -> Result:
        """Every stage that is not "ok" yet. Ctrl-C ends the present stage; what is done stays written."""
        self.results["sessions"].append({"mode": self.mode, "environment": describe()})
        missing = ""
        for stage in self.stages:
            if missing:
                self._keep(stage, {"status": "left out", "note": missing, "result": self._earlier(stage.name)}, 0.0)
                continue
            if self.results["stages"].get(stage.name, {}).get("status") == "ok":
                continue
            seconds = min(self.stretch * stage.seconds(self.mode), self.budget - (time.monotonic() - self.began))
            if seconds < 2:
                self._keep(
                    stage,
                    {
                        "status": "left out",
                        "note": "out of time; --resume does it",
                        "result": self._earlier(stage.name),
                    },
                    0.0,
                )
                continue
            self.say(f"{stage.name}: {stage.title}")
            began = time.monotonic()
            self._keep(stage, self._stage(stage, seconds), time.monotonic() - began)
            if stage.needed and self.results["stages"][stage.name]["status"] != "ok":
                missing = f"nothing can be done without {stage.title}"
        self.results["finished"] = now()
        self._save()
        return self.results

    def _earlier(self, name: str) -> Result:
        found: Result = self.results["stages"].get(name, {}).get("result") or {}
        return found

    def _keep(self, stage: Stage, outcome: Result, seconds: float) -> None:
        self.results["stages"][stage.name] = {"title": stage.title, **outcome, "seconds": round(seconds, 2)}
        self._save()
        self.after(self.results)
        self.say(
            f"{stage.name}: {outcome['status']}{': ' + outcome['note'] if outcome['note'] else ''} ({seconds:.0f} s)"
        )

    def _save(self) -> None:
        self.results["updated"] = now()
        text = results_file.dumps(self.results)
        for place, name in (
            (self.checkout, "CHECKOUT"),
            (sys.prefix, "PYTHON"),
            (tempfile.gettempdir(), "TEMP"),
            (str(Path.home()), "HOME"),
        ):
            if place and len(place) > 1:  # results are shown to others, who need not know where things lie here
                text = text.replace(place, name)
        results_file.replace(self.path, text)

    def _stage(self, stage: Stage, seconds: float) -> Result:
        """The outcome of one stage's process."""
        deadline = time.monotonic() + seconds
        request: dict[str, Any] = {
            "mode": self.mode, "seconds": seconds, "deadline": deadline, "checkout": self.checkout, "data": self.data,
            "results": {name: entry.get("result") or {} for name, entry in self.results["stages"].items()},
        }  # fmt: skip
        with (
            tempfile.TemporaryDirectory() as folder,
            self.path.with_suffix(".log").open("a+", encoding="utf-8", errors="replace") as log,
        ):
            log.write(f"\n==== {stage.name}, {now()}\n")
            log.flush()
            start = log.tell()
            asked, answer = Path(folder) / "request.json", Path(folder) / "result.json"
            asked.write_text(results_file.dumps(request), encoding="utf-8")
            # -P: the folder we are in stays off the path, or a checkout would shadow what is installed.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fastnn.bench.gpu.stage", stage.target, str(asked), str(answer)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                hung = self._wait(stage, process, answer, deadline)
            except BaseException:  # the run is to end: with what the stage has by then
                _end(process)
                if answer.exists():
                    self._part(stage, answer)
                raise
            _end(process)
            outcome: Result = (
                json.loads(answer.read_text(encoding="utf-8"))
                if answer.exists()
                else {"status": "partial", "note": "", "result": self._earlier(stage.name)}
            )
            if hung:
                outcome |= {"status": "hung", "note": f"was not done within {seconds:.0f} s, and was ended"}
            elif outcome["status"] == "partial":
                how = (
                    f"signal {signal.Signals(-process.returncode).name}"
                    if process.returncode < 0
                    else f"exit code {process.returncode}"
                )
                outcome |= {"status": "crashed", "note": f"its process ended with {how}"}
            if outcome["status"] in ("hung", "crashed", "failed"):
                log.seek(start)
                outcome["log"] = log.read()[-TAIL:]
        return outcome

    def _wait(self, stage: Stage, process: subprocess.Popen[bytes], answer: Path, deadline: float) -> bool:
        """Until the process ends or its time is up, which is returned; what it has so far goes into the file, since
        this process may be killed.
        """
        written = 0
        while True:
            try:
                process.wait(timeout=max(0.0, min(LOOK, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    return True
            else:
                return False
            if answer.exists() and (now_written := answer.stat().st_mtime_ns) != written:
                written = now_written
                self._part(stage, answer)

    def _part(self, stage: Stage, answer: Path) -> None:
        """Keep what a stage has so far."""
        found = json.loads(answer.read_text(encoding="utf-8"))
        self.results["stages"][stage.name] = {"title": stage.title, "seconds": 0.0, **found}
        self._save()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the stage's process, and after a moment of grace everything in its group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # what it left behind, compilers for instance
    process.wait()
