"""Whole training steps: fastnn captured and eager, PyTorch eager and compiled, JAX; same data, order, Theta and
precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cases import Case
from ..cell import Field, Settings, training_cell
from ..client import Absent
from ..peers import Spec
from ..statistics import Result
from .cases import judge, training_cases
from .peers import PEERS
from .stage import Request, Write

__all__ = ["SETTINGS", "ceilings", "measure", "run"]

# `compared`: the float64 run of a wide net is 300 MB, which is read and compared once and not in every round.
SETTINGS = {
    "quick": Settings(seconds=0.1, rounds=3, timeout=40, oracle="cupy", compared=1),
    "default": Settings(seconds=0.15, rounds=5, timeout=150, oracle="cupy", compared=1),
    "all": Settings(seconds=0.3, rounds=9, timeout=600, oracle="cupy", compared=1),
}
SMALL_STEP = 5e7  # operations
# Compiling for the best times takes a minute for a wide net: not in two minutes for everything.
LEFT_OUT = {"quick": ("compile",), "default": (), "all": ()}


def ceilings(results: dict[str, Result]) -> dict[str, float]:
    """{precision: GFLOP/s} from the stage that measured them; {} if it did not."""
    found = (results.get("ceilings") or {}).get("gemm") or {}
    return {precision: float(entry["best"]) for precision, entry in found.items()}


def measure(
    cases: Sequence[Case],
    peers: dict[str, Spec],
    settings: Settings,
    limits: dict[str, float],
    left: Any,
    found: Result,
    write: Write,
) -> Result:
    """Measure every cell that `found` does not have; {"peers", "cells", "left_out"}. `left()` is the time that is
    left.
    """
    cells: Result = dict(found.get("cells") or {})
    on_device, enough = settings.oracle, min(60.0, settings.timeout / 2)
    left_out: list[str] = []
    with Field(peers, settings.timeout) as entrants:
        entrants.roll_call()
        if not any(name not in entrants.absent for name in entrants.own()):
            raise Absent(entrants.absent[entrants.own()[0]])
        known = {
            name: {
                "label": spec.label,
                "own": spec.own,
                "absent": entrants.absent.get(name),
                "versions": entrants.versions.get(name, {}),
            }
            for name, spec in peers.items()
        }
        waiting = [case for case in cases if case.key not in cells or _ended_early(cells[case.key])]
        for number, case in enumerate(waiting):
            if left() < enough:  # in less, libraries would count as hung that are only compiling, and the cell as done
                left_out.append(case.key)
                continue
            # Small steps are bound by launches, of which float64 arrays on the device need fifty: NumPy is through with
            # its thousands of steps sooner.
            settings.oracle = "numpy" if case.flops < SMALL_STEP else on_device
            settings.timeout = min(settings.timeout, max(10.0, left() - 10))
            print(f"{number + 1} of {len(waiting)}: {case.key}", flush=True)
            cell = training_cell(
                case,
                entrants,
                settings,
                limits.get(case.precision),
                left() / (len(waiting) - number),
                lambda text: print(f"    {text}", flush=True),
                wanted=lambda case: None,
            )
            judge(cell, case)
            if case.key in cells:
                cell["repeated"] = True
            cells[case.key] = cell
            write({"peers": known, "cells": cells})
    return {"peers": known, "cells": cells, "left_out": left_out, "ceilings": limits}


def _ended_early(cell: Result) -> bool:
    """Whether a library of the cell hung or crashed, and this is the first time: what it has compiled by then, it
    finds again.
    """
    return not cell.get("repeated") and any(
        entry["status"] in ("hung", "crashed") for entry in cell["entrants"].values()
    )


def run(request: Request, write: Write) -> Result:
    """The stage."""
    peers = {name: spec for name, spec in PEERS.items() if name not in LEFT_OUT[request.mode]}
    return measure(
        training_cases(request.mode),
        peers,
        SETTINGS[request.mode],
        ceilings(request.results),
        lambda: request.left,
        request.results.get("steps") or {},
        write,
    )
