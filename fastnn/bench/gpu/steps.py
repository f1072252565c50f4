"""Whole training steps: fastnn captured and eager, PyTorch eager and compiled, JAX; same data, order, Theta and
precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..cases import Case
from ..cell import Field, Settings, training_cell
from ..client import Absent, PeerError
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
# Who may compile for a minute: every cell is measured without them first, which takes seconds, and then with everyone.
SLOW, QUICKLY = frozenset({"compile"}), 15.0
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
    """Measure every cell that `found` does not have, or has without a library that is here; {"peers", "cells",
    "left_out", "failures"}. `left()` is the time that is left.
    """
    cells: Result = dict(found.get("cells") or {})
    on_device, failures = settings.oracle, list[str]()
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
        slow = SLOW & set(entrants.present("train"))
        for resting in (slow, frozenset()) if slow else (frozenset(),):
            entrants.resting = resting
            # in less, libraries would count as hung that are only compiling, and the cell as done
            enough = min(QUICKLY if resting else 60.0, settings.timeout / 2)
            wanted, left_out = set(entrants.present("train")), list[str]()
            waiting = [
                case for case in cases if case.key not in cells or not (resting or _is_done(cells[case.key], wanted))
            ]
            for number, case in enumerate(waiting):
                if left() < enough:
                    left_out.append(case.key)
                    continue
                # Small steps are bound by launches, of which float64 arrays on the device need fifty: NumPy is through
                # with its thousands of steps sooner.
                settings.oracle = "numpy" if case.flops < SMALL_STEP else on_device
                settings.timeout = settings.oracle_timeout = min(settings.timeout, max(10.0, left() - 10))
                print(f"{number + 1} of {len(waiting)}: {case.key}", flush=True)
                try:
                    cell = training_cell(
                        case,
                        entrants,
                        settings,
                        limits.get(case.precision),
                        left() / (len(waiting) - number),
                        lambda text: print(f"    {text}", flush=True),
                        wanted=lambda case: None,
                    )
                except PeerError as error:  # of the float64 run; the other cells can be measured
                    failures = [line for line in failures if not line.startswith(f"{case.key}: ")]
                    failures.append(f"{case.key}: {error.reason}")
                    continue
                judge(cell, case)
                if _ended_early(cells.get(case.key)):
                    cell["repeated"] = True
                cells[case.key] = cell
                write({"peers": known, "cells": cells, "failures": failures})
    return {
        "peers": known, "cells": cells, "left_out": left_out, "ceilings": limits, "failures": failures,
        "failed": len(failures),
    }  # fmt: skip


def _is_done(cell: Result, entrants: set[str]) -> bool:
    """Whether nothing is to be measured: no library is missing, and none ended early, or it has had its second time."""
    return entrants <= set(cell["entrants"]) and (not _ended_early(cell) or bool(cell.get("repeated")))


def _ended_early(cell: Result | None) -> bool:
    """Whether a library of the cell hung or crashed: what it has compiled by then, it finds again."""
    return cell is not None and any(entry["status"] in ("hung", "crashed") for entry in cell["entrants"].values())


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
