"""One stage in a process of its own: `python -m fastnn.bench.gpu.stage MODULE:FUNCTION REQUEST.json RESULT.json`.

What the stage prints is its log. It may write what it has so far as often as it likes, so that a stage that is
ended from outside leaves the part that was done.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import BackendUnavailable
from ..client import Absent
from ..results_file import dumps, replace
from ..statistics import Result

__all__ = ["Request", "Write", "main"]

Write = Callable[[Result], None]


@dataclass
class Request:
    """What a stage is asked.

    Attributes
    ----------
    mode : str
        "quick", "default" or "all".
    seconds : float
        How long it may take; after that it is ended.
    checkout : str, optional
        Folder with tests/, where there is one.
    data : str, optional
        Folder with MNIST.
    deadline : float, optional
        When that is, by the clock of `time.monotonic`, which processes share; counted from now if not given.
    results : dict
        Of the stages before, by name; of this stage itself where an earlier run left a part.
    """

    mode: str = "default"
    seconds: float = 60.0
    checkout: str | None = None
    data: str | None = None
    results: dict[str, Result] = field(default_factory=dict)
    deadline: float | None = None
    began: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return (self.began + self.seconds if self.deadline is None else self.deadline) - time.monotonic()


def main(target: str, request: str, result: str) -> None:
    """Run the stage and write {"status", "note", "result"}.

    The status is "ok"; "failed" where the result has a "failed" that is not 0; "incomplete" where the result has a
    "left_out" that is not empty; "absent" or "failed" with the reason; "partial" while it runs.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the stage ends its own processes
    # a shell's background job ignores it, pytest with it, whose report would be lost
    signal.signal(signal.SIGINT, signal.default_int_handler)
    path = Path(result)

    def write(found: Result, status: str = "partial", note: str = "") -> None:
        replace(path, dumps({"status": status, "note": note, "result": found}))

    found: Result = {}

    def keep(part: Result) -> None:
        found.update(part)
        write(found)

    try:
        module, _, name = target.partition(":")
        stage = getattr(importlib.import_module(module), name)
        keep(stage(Request(**json.loads(Path(request).read_text(encoding="utf-8"))), keep))
        waiting = found.get("left_out") or []
        if found.get("failed"):
            write(found, "failed", f"{found['failed']} failed")
        else:
            write(
                found,
                "incomplete" if waiting else "ok",
                f"{len(waiting)} left out for lack of time; --resume goes on" if waiting else "",
            )
    except (Absent, BackendUnavailable) as error:
        write(found, "absent", str(error))
    except Exception as error:
        traceback.print_exc()
        write(found, "failed", f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    main(*sys.argv[1:4])
