"""What MKL gains: steps of the Numba engine, as planned, with MKL and with SciPy's BLAS, each in a process of its own,
taking turns.

    python bench/blas.py             # what of the comparison a BLAS computes; two minutes
    python bench/blas.py --case 784-1024-1024-10@32 --json blas.json

Needs MKL (pip install ".[mkl]"). Rows are shuffled. Times are the shortest of the rounds, which other
processes disturb least, and `ratio` is SciPy's over MKL's; beside it the median of the ratios within the rounds. Beside
SciPy's BLAS the plan may be fastnn's own products, in panels. Both end within a tolerance of the same steps in float64,
or are marked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from plans import AGREES, Entrant, problem_data, reference

import fastnn
from fastnn.backends.cpu_blas import VARIABLE
from fastnn.bench.cases import BATCHES, NETS, Case, select
from fastnn.bench.environment import describe

CHOICES = ("mkl", "scipy")
CHECKED_STEPS = 5


def serve() -> None:
    """One side: a case in, what it computes; then numbers of steps in, seconds out. One JSON line each."""
    for line in sys.stdin:
        question = json.loads(line)
        if "case" in question:
            case = select([], [question["case"]])[0]
            X, y, order = problem_data(case)
            entrant = Entrant(case, None, X, y, order)
            steps = min(CHECKED_STEPS, entrant.whole_epoch)
            entrant.run(steps)  # compiles or loads
            exact, way = reference(case, X, y, order, steps)
            off = float(np.linalg.norm(entrant.net.theta - exact)) / way
            answer: Any = {
                "products": entrant.net.backend.products,
                "plan": entrant.plan,
                "off": off,
                "seconds": entrant.run(steps) / steps,
            }
        else:
            answer = entrant.run(question["steps"]) / question["steps"]
        print(json.dumps(answer), flush=True)


class Side:
    """A process with one BLAS."""

    def __init__(self, choice: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, VARIABLE: choice},
        )

    def ask(self, **question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def measure(sides: dict[str, Side], case: Case, rounds: int, seconds: float) -> dict[str, Any] | None:
    """None where neither side uses its BLAS."""
    ready = {choice: side.ask(case=f"{case.net.name}@{case.batch}") for choice, side in sides.items()}
    if all("in panels" in answer["plan"] for answer in ready.values()):
        return None
    steps = max(1, round(seconds / min(answer["seconds"] for answer in ready.values())))
    times: dict[str, list[float]] = {choice: [] for choice in sides}
    for _ in range(rounds):
        for choice, side in sides.items():
            times[choice].append(side.ask(steps=steps))
    ratio = statistics.median(scipy / mkl for mkl, scipy in zip(*(times[choice] for choice in CHOICES), strict=True))
    least = {choice: min(times[choice]) for choice in CHOICES}
    sides_of = {
        choice: {**ready[choice], "least_us": 1e6 * least[choice], "times": times[choice]} for choice in CHOICES
    }
    return {
        "case": f"{case.net.name}@{case.batch}",
        "ratio": least["scipy"] / least["mkl"],
        "median_ratio": ratio,
        **sides_of,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], metavar="NET@BATCH")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.2,
        help="of each timing, as long as a slice of a fit: shorter ones would count the packing of panels many times",
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve()
    sides = {choice: Side(choice) for choice in CHOICES}
    cases = (
        select([], arguments.case)
        if arguments.case
        else [Case(net, batch) for net in NETS.values() for batch in BATCHES]
    )
    cells = []
    print(
        f"{'case':34}{'SciPy us':>12}{'MKL us':>12}{'ratio':>8}{'median':>8}{'GFLOP/s':>9}  plans with MKL and with "
        f"SciPy's BLAS; times per step, {arguments.rounds} rounds"
    )
    for case in cases:
        cell = measure(sides, case, arguments.rounds, arguments.seconds)
        if cell is None:
            continue
        cells.append(cell)
        mkl, scipy = (cell[choice]["least_us"] for choice in CHOICES)
        wrong = "".join(f"  {choice} disagrees with float64" for choice in CHOICES if not cell[choice]["off"] <= AGREES)
        print(
            f"{cell['case']:34}{scipy:12.1f}{mkl:12.1f}{cell['ratio']:8.2f}{cell['median_ratio']:8.2f}"
            f"{case.flops / mkl / 1e3:9.0f}  {cell['mkl']['plan']} | {cell['scipy']['plan']}{wrong}",
            flush=True,
        )
        if arguments.json is not None:
            arguments.json.write_text(
                json.dumps({"fastnn": fastnn.__version__, "environment": describe(), "cells": cells}, indent=1)
            )
    if cells:
        print(f"{cells[0]['mkl']['products']} against {cells[0]['scipy']['products']}")
    return None


if __name__ == "__main__":
    main()
