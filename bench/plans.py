"""Times every plan of the CPU engine - program, threads, form, rows at a time - on the sweep of the comparison, beside
the automatic one.

    python bench/plans.py                            # every net and batch that has a target; minutes
    python bench/plans.py --case 784-30-10@512 --case 1-64-64-1@32
    python bench/plans.py --json plans.json

Rows are shuffled, rounds interleaved over the plans in changing sequence, medians shown. `of best` is the best plan's
time over the automatic one's; the issue asks for at least 0.95. A plan's time also depends on where its memory happens
to lie, by 2 to 12 %: where another plan seems to be ahead, it, all that are about as fast and the automatic one are
made again, three of each in all, timed anew, and the median of the three counts. The parameters that each plan ends
with are compared with the NumPy engine's in float64, after the same steps from the same start: a plan that is off is
marked and not counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import time
from pathlib import Path

import numpy as np

import fastnn
from fastnn.backends.cpu_plan import Problem, Wishes, choose_plan
from fastnn.backends.cpu_threads import usable_threads
from fastnn.bench.cases import Case, select, training_cases
from fastnn.bench.environment import describe
from fastnn.bench.problem import PIXEL
from fastnn.kernels.cpu.amx import missing

AGREES = 0.02  # of the way that the parameters went, as in fastnn bench for gradient descent
CHECKED_STEPS = 20
CLOSE, COPIES = 1.1, 3  # plans within this of the best are made so many times in all
ROWS = 16_384


def options_of(case: Case, threads: int) -> list[dict[str, int | bool]]:
    """What is worth trying: all programs, each team, both forms, and half and twice the rows that would be taken."""
    problem = Problem(case.net.sizes, case.batch, 4, amx=missing() is None, octets=case.net.pixels)
    found: dict[str, dict[str, int | bool]] = {}
    for team in sorted({1, threads, *(1 << k for k in range(1, threads.bit_length()))}):
        for sliced, panels in itertools.product((False, True), (False, True)):
            usual = choose_plan(problem, threads, Wishes(threads=team, sliced=sliced, panels=panels)).chunk
            for chunk in (usual, usual // 2, 2 * usual):
                if chunk >= (team if sliced else 1):
                    plan = choose_plan(problem, threads, Wishes(team, chunk, sliced, panels))
                    found.setdefault(str(plan), {"threads": team, "chunk": chunk, "sliced": sliced, "panels": panels})
        if problem.fits_amx:
            usual = choose_plan(problem, threads, Wishes(threads=team, amx=True)).chunk
            for chunk in (usual, usual // 2, 2 * usual):
                if chunk >= team:
                    plan = choose_plan(problem, threads, Wishes(team, chunk, amx=True))
                    found.setdefault(str(plan), {"threads": team, "chunk": chunk, "amx": True})
    return list(found.values())


class Entrant:
    """One plan on one case: a program, the start to go back to, and its times."""

    def __init__(
        self, case: Case, options: dict[str, int | bool] | None, X: np.ndarray, y: np.ndarray, order: np.ndarray
    ) -> None:
        self.case, self.options, self.data = case, options, (X, y, order)
        engine = fastnn.get_backend("numba", **(options or {}))
        self.net = network(case, engine, "float32")
        self.plan = self.net.plan(case.batch, optimizer="sgd", data_dtype=X.dtype)
        self.program = engine.compile(
            self.net, fastnn.optimizers.SGD(case.learning_rate), case.batch, data_dtype=X.dtype
        )
        self.program.scale = float(PIXEL)  # of integers
        self.start = self.net.theta.copy()
        self.times: list[float] = []

    def run(self, steps: int) -> float:
        """Seconds of so many steps from the start."""
        self.net.theta[:] = self.start
        began = time.perf_counter()
        for first in range(0, steps, self.whole_epoch):
            self.program.run(*self.data, 0, min(self.whole_epoch, steps - first))
        return time.perf_counter() - began

    @property
    def whole_epoch(self) -> int:
        return self.program.steps(len(self.data[2]))


def network(case: Case, backend: object, dtype: str) -> fastnn.Network:
    return fastnn.Network(
        case.net.sizes,
        hidden=case.net.hidden,
        output=case.net.output,
        cost=case.net.cost,
        backend=backend,
        dtype=dtype,
        seed=0,
    )


def problem_data(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, targets and an order that mean nothing but are the same for all; at least two batches."""
    rng = np.random.default_rng(0)
    rows = max(ROWS, 2 * case.batch)
    shape = rows, case.net.sizes[0]
    X = (
        rng.integers(0, 256, shape).astype(np.uint8)
        if case.net.pixels
        else rng.random(shape, np.float32) - np.float32(0.5)
    )
    y = rng.integers(0, case.net.sizes[-1], rows) if case.net.classes else np.sin(3 * X[:, :1])
    return X, y, rng.permutation(rows)


def reference(case: Case, X: np.ndarray, y: np.ndarray, order: np.ndarray, steps: int) -> tuple[np.ndarray, float]:
    """Theta after those steps in float64, and the length of the way there."""
    net = network(case, "numpy", "float64")
    start = net.theta.copy()
    y = y if y.ndim == 1 else y.astype(np.float64)
    rows = X.astype(np.float64) * (float(PIXEL) if case.net.pixels else 1.0)
    net.backend.compile(net, fastnn.optimizers.SGD(case.learning_rate), case.batch).run(rows, y, order, 0, steps)
    return net.theta, float(np.linalg.norm(net.theta - start))


def measure(case: Case, rounds: int, seconds: float) -> dict[str, object]:
    X, y, order = problem_data(case)
    automatic = Entrant(case, None, X, y, order)
    entrants = {automatic.plan: automatic}
    for options in options_of(case, usable_threads()):
        entrant = Entrant(case, options, X, y, order)
        entrants.setdefault(entrant.plan, entrant)
    steps = min(CHECKED_STEPS, automatic.whole_epoch)
    exact, way = reference(case, X, y, order, steps)
    off = {}
    for name, entrant in entrants.items():
        entrant.run(steps)  # compiles or loads, and warms up
        off[name] = float(np.linalg.norm(entrant.net.theta - exact)) / way
    count = max(1, round(seconds / (min(entrant.run(steps) for entrant in entrants.values()) / steps)))
    # another sequence in each round, so that no plan always follows the one that heats the core or fills the caches
    chance = random.Random(0)

    def compete(those: list[Entrant]) -> None:
        for entrant in those:
            entrant.times.clear()
        for _ in range(rounds):
            for entrant in chance.sample(those, len(those)):
                entrant.times.append(entrant.run(count) / count)

    compete(list(entrants.values()))
    medians = {name: statistics.median(entrant.times) for name, entrant in entrants.items()}
    agreeing = {name: medians[name] for name in entrants if off[name] <= AGREES}
    if agreeing and agreeing.get(automatic.plan, 0.0) > min(agreeing.values()):
        close = {
            name: [entrants[name]]
            for name in agreeing
            if agreeing[name] <= CLOSE * min(agreeing.values()) or name == automatic.plan
        }
        for name, copies in close.items():
            for _ in range(COPIES - 1):
                copies.append(Entrant(case, entrants[name].options, X, y, order))
                copies[-1].run(steps)
        compete([entrant for copies in close.values() for entrant in copies])
        medians |= {
            name: statistics.median(statistics.median(entrant.times) for entrant in copies)
            for name, copies in close.items()
        }
    plans = [
        {"plan": name, "us": medians[name] * 1e6, "off": off[name], "agrees": off[name] <= AGREES} for name in entrants
    ]
    best = min((plan for plan in plans if plan["agrees"]), key=lambda plan: plan["us"], default=plans[0])
    share = best["us"] / plans[0]["us"] if plans[0]["agrees"] else 0.0
    return {
        "case": f"{case.net.name}@{case.batch}",
        "automatic": automatic.plan,
        "best": best["plan"],
        "share_of_best": share,
        "plans": plans,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", default=[], metavar="NET@BATCH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.1,
        help="of each timing; fit runs slices of 0.2, before and after which panels are packed",
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cases = [case for case in training_cases("default") if case.optimizer == "sgd"]
    cells = []
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"other processes are running (load {load:.1f}): plans of several threads will look worse than they are; "
            "repeat on a quiet machine"
        )
    print(
        f"{'case':34}{'automatic':>12}{'best':>12}{'of best':>9}  plans; times in us per step, medians of "
        f"{arguments.rounds}"
    )
    for case in select(cases, arguments.case) if arguments.case else cases:
        cell = measure(case, arguments.rounds, arguments.seconds)
        cells.append(cell)
        times = {plan["plan"]: plan["us"] for plan in cell["plans"]}
        wrong = [plan["plan"] for plan in cell["plans"] if not plan["agrees"]]
        worse = "" if cell["share_of_best"] >= 0.95 else "  <-- below 0.95"
        words = (
            cell["automatic"] if cell["automatic"] == cell["best"] else f"{cell['automatic']} (best: {cell['best']})"
        )
        print(
            f"{cell['case']:34}{times[cell['automatic']]:12.1f}{times[cell['best']]:12.1f}"
            f"{cell['share_of_best']:9.2f}  {words}{worse}",
            flush=True,
        )
        for plan in wrong:
            print(f"{'':34}disagrees with float64: {plan}")
        if arguments.json is not None:
            arguments.json.write_text(json.dumps({"environment": describe(), "cells": cells}, indent=1))
    reached = sum(cell["share_of_best"] >= 0.95 for cell in cells)
    print(f"{reached} of {len(cells)} cells at 0.95 of the best plan or better")


if __name__ == "__main__":
    main()
