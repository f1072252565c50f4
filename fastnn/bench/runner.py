"""The whole comparison, unit by unit; the results are written after each, so that a run can be resumed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataFileError
from . import accuracy, ceiling, extras, results_file
from .cases import Case, PredictCase
from .cell import Field, Settings, predict_cell, training_cell
from .client import Client, PeerError
from .environment import describe, now
from .load import cores, load_average
from .peers import PEERS, Spec
from .statistics import Result

__all__ = ["BUDGETS", "SCHEMA", "Comparison", "Plan", "read"]

SCHEMA = 1
# Seconds for everything, and the share of them that may be gone when training is done.
BUDGETS = {"quick": (115.0, 0.62), "default": (1780.0, 0.70), "all": (math.inf, 1.0)}


@dataclass
class Plan:
    """What to measure: cells, extras and how thoroughly."""

    mode: str
    training: Sequence[Case]
    predicting: Sequence[PredictCase] = ()
    settings: Settings = field(default_factory=Settings)
    peers: dict[str, Spec] = field(default_factory=lambda: dict(PEERS))
    data: str | None = None  # folder of MNIST
    seeds: int = 5
    extras: bool = True
    gemm_sizes: Sequence[int] = ceiling.SIZES
    gemm_seconds: float = 0.5
    repeats: int = 3  # of fresh processes


def read(path: Path) -> Result:
    """Results written earlier.

    Raises
    ------
    ValueError
        Not a results file of this version.
    """
    return results_file.read(path, "`fastnn bench`", SCHEMA, part="units")


class Comparison:
    """Runs a plan into `results`.

    Parameters
    ----------
    plan : Plan
    path : Path, optional
        Written after every unit.
    results : dict, optional
        Of an earlier run; its units are kept and not measured again.
    say : callable
        Told in a few words what is going on.
    """

    def __init__(
        self,
        plan: Plan,
        path: Path | None = None,
        results: Result | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.plan, self.path, self.say = plan, path, say
        self.results: Result = results or {
            "schema": SCHEMA,
            "mode": plan.mode,
            "sessions": [],
            "peers": {},
            "units": {},
            "skipped": {},
        }
        self.began = time.monotonic()
        self.budget, self.training_share = BUDGETS[plan.mode]

    @property
    def units(self) -> Result:
        units: Result = self.results["units"]
        return units

    @property
    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.monotonic() - self.began)

    def save(self) -> None:
        """Replace the file at once, so that an interrupted run leaves the last complete one."""
        self.results["updated"] = now()
        if self.path is not None:
            results_file.replace(self.path, results_file.dumps(self.results))

    def run(self) -> Result:
        """Everything that is not in the results yet. Ctrl-C ends all processes; what is done stays written."""
        session: Result = {"environment": describe(), "finished": None}
        self.results["sessions"].append(session)
        self.results["skipped"] = {}
        try:
            with Field(self.plan.peers, self.plan.settings.timeout) as entrants:
                self._roll_call(entrants)
                session["ceiling"] = self._ceiling()
                self.save()
                self._training(entrants, session["ceiling"])
                self._predicting(entrants)
                if self.plan.extras:
                    self._extras(entrants)
                self._accuracy(entrants)
            session["finished"] = now()
            session["load_after"] = load_average()
        finally:
            self.save()
        return self.results

    def _unit(self, key: str, measure: Callable[[], Result]) -> None:
        """Measure a unit that is missing; what goes wrong is its result."""
        if key in self.units:
            return
        self.say(key)
        start = time.monotonic()
        try:
            unit = measure()
        except PeerError as error:
            unit = {"status": error.kind, "note": error.reason}
        self.units[key] = {**unit, "session": len(self.results["sessions"]) - 1, "took": time.monotonic() - start}
        self.save()

    def _skip(self, key: str, why: str) -> None:
        if key not in self.units:
            self.results["skipped"][key] = why

    # ---- the parts --------------------------------------------------------------------------------

    def _roll_call(self, entrants: Field) -> None:
        self.say("which libraries are here")
        entrants.roll_call()
        for name, spec in self.plan.peers.items():
            known = {
                "label": spec.label,
                "own": spec.own,
                "sweep": spec.sweep,
                "does": sorted(spec.does),
                "versions": entrants.versions.get(name, {}),
                "absent": entrants.absent.get(name),
            }
            self.results["peers"][name] = known

    def _ceiling(self) -> Result:
        """The best product of any library, size and number of threads; and the bandwidth of a copy."""
        found: Result = {}
        for library in ceiling.LIBRARIES:
            for threads in sorted({1, cores()}):
                self.say(f"sgemm of {library}, {threads} threads")
                try:
                    with Client("none:none", threads) as client:
                        found[f"{library}, {threads}"] = client.ask(
                            "gemm",
                            120,
                            library=library,
                            sizes=list(self.plan.gemm_sizes),
                            seconds=self.plan.gemm_seconds,
                        )["gflops"]
                except PeerError as error:
                    found[f"{library}, {threads}"] = {"absent": error.reason}
        rates = [
            (rate, where, size) for where, sizes in found.items() for size, rate in sizes.items() if size != "absent"
        ]
        best = max(rates, default=(None, "", ""))
        return {
            "best": best[0],
            "by": f"{best[1]} threads, {best[2]}^3",
            "where": best[1],
            "size": best[2],
            "all": found,
            "bandwidth": ceiling.bandwidth(128 if self.plan.mode != "quick" else 64),
        }

    def _training(self, entrants: Field, top: Result) -> None:
        library, _, threads = top["where"].partition(", ")
        with Client("none:none", int(threads or 1)) as products:
            self._cells(
                entrants,
                top["best"],
                lambda: float(
                    products.ask(
                        "product", 120, library=library, size=int(top["size"]), seconds=self.plan.gemm_seconds
                    )["gflops"]
                ),
            )

    def _cells(self, entrants: Field, ceiling_: float | None, product: Callable[[], float]) -> None:
        waiting = [case for case in self.plan.training if case.key not in self.units]
        for number, case in enumerate(waiting):
            left = self.left - self.budget * (1 - self.training_share) if math.isfinite(self.budget) else math.inf
            if left <= 0:
                self._skip(case.key, "out of time; --resume measures it")
                continue
            allowance = left / (len(waiting) - number)
            title = f"{number + 1} of {len(waiting)}: {case.net.name}, batch {case.batch}, {case.optimizer}"
            self._unit(
                case.key,
                lambda case=case, allowance=allowance, title=title: training_cell(  # type: ignore[misc]
                    case,
                    entrants,
                    self.plan.settings,
                    ceiling_,
                    allowance,
                    lambda text: self.say(f"{title}: {text}"),
                    product=product if ceiling_ is not None else None,
                ),
            )

    def _predicting(self, entrants: Field) -> None:
        for case in self.plan.predicting:
            if self.left <= 0:
                self._skip(case.key, "out of time; --resume measures it")
                continue
            self._unit(
                case.key,
                lambda case=case: predict_cell(  # type: ignore[misc]
                    case, entrants, self.plan.settings, lambda text: self.say(f"{case.key}: {text}")
                ),
            )

    def _extras(self, entrants: Field) -> None:
        plan, quick = self.plan, self.plan.mode == "quick"
        for name in plan.peers:
            spec = plan.peers[name]
            if name in entrants.absent or spec.variant:
                continue
            self._unit(f"size/{name}", lambda spec=spec: extras.size(spec))  # type: ignore[misc]
            parts = {f"import/{name}": lambda spec=spec: extras.import_time(spec, plan.repeats)}
            if "train" in spec.does:
                parts[f"startup/{name}"] = lambda spec=spec: extras.startup(spec, cores(), plan.repeats, cold=not quick)
                if not quick:
                    parts[f"memory/{name}"] = lambda spec=spec: extras.memory(spec, cores(), plan.settings.rows)
            for key, measure in parts.items():
                if self.left <= 0:
                    self._skip(key, "out of time; --resume measures it")
                else:
                    self._unit(key, measure)

    def _accuracy(self, entrants: Field) -> None:
        from ..data import mnist

        if self.plan.mode == "quick" or self.plan.seeds == 0:
            return
        try:
            mnist.find(self.plan.data)
        except DataFileError as error:
            self._skip("accuracy", str(error))
            return
        folder = str(Path(self.plan.data or os.environ[mnist.VARIABLE]).resolve())
        net, batch, optimizer = accuracy.CASE.split("@")
        cell = self.units.get(f"train/{accuracy.CASE}", {"entrants": {}})
        for seed in range(self.plan.seeds):
            for name in entrants.present("train"):
                if self.plan.peers[name].variant:
                    continue
                key = f"accuracy/{seed}/{name}"
                if self.left <= 0:
                    self._skip(key, "out of time; --resume measures it")
                    continue
                threads = cell.get("entrants", {}).get(name, {}).get("threads", entrants.threads(name)[-1])
                client = entrants.client(name, threads)
                self._unit(
                    key,
                    lambda client=client, seed=seed: client.ask(  # type: ignore[misc]
                        "accuracy",
                        self.plan.settings.timeout,
                        folder=folder,
                        seed=seed,
                        epochs=accuracy.EPOCHS,
                        goal=accuracy.GOAL,
                        net=net,
                        batch=int(batch),
                        optimizer=optimizer,
                    ),
                )
