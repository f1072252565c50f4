"""One cell of the table: who takes part with how many threads, then rounds of A, B, C, A, B, C..."""

from __future__ import annotations

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import oracle
from .cases import Case, PredictCase, Target, predict_target, target
from .client import Client, PeerError
from .load import Sample, cores, is_busy, load_average, settle
from .peers import Spec
from .problem import learning_rate
from .statistics import Result, judge, spread

__all__ = ["PREDICT_RIVALS", "Field", "Settings", "predict_cell", "training_cell"]

# An entrant this many times slower than the fastest is timed in so many rounds only, and over this part of the steps,
# if that leaves so many: a step of theirs costs the same, and 100,000 of them half a minute a round.
SLOW, SLOW_ROUNDS = 4.0, 3
BEGINNING, BEGINNING_STEPS = 16, 20
PREDICT_TOLERANCE = 1e-4  # largest difference of an output from float64's
PREDICT_RIVALS = ("onnx", "sklearn", "torch")  # those that the target of one-row latency names


@dataclass
class Settings:
    """How much is measured.

    Attributes
    ----------
    rows : int
        Rows of the data.
    seconds : float
        Least duration of one timing of the fastest entrant.
    rounds : int
        Rounds per cell, at most; at least three are run.
    timeout : float
        Seconds after which an entrant counts as hung.
    both_compiled : bool
        Sweep the threads of torch.compile as well; else it takes PyTorch's better number, for each costs a compilation.
    oracle : str
        The array library of the float64 run.
    oracle_timeout : float
        Seconds that it may take.
    compared : int, optional
        Rounds whose result is compared with it, the first ones; all if not given.
    """

    rows: int = 60_000
    seconds: float = 0.05
    rounds: int = 7
    timeout: float = 240.0
    both_compiled: bool = True
    oracle: str = "numpy"
    oracle_timeout: float = 600.0
    compared: int | None = None


@dataclass
class Field:
    """The entrants: a process per library and number of threads, kept from cell to cell. Who is `resting` takes no part
    for the time being.
    """

    specs: dict[str, Spec]
    timeout: float = 240.0
    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    resting: frozenset[str] = frozenset()
    _clients: dict[tuple[str, int], Client] = field(default_factory=dict)

    def client(self, name: str, threads: int) -> Client:
        """The process of this library at this number of threads."""
        key = (name, threads)
        if key not in self._clients:
            self._clients[key] = Client(self.specs[name].driver, threads)
        return self._clients[key]

    def threads(self, name: str) -> list[int]:
        """The numbers of threads to try."""
        return sorted({1, cores()}) if self.specs[name].sweep else [cores()]

    def roll_call(self) -> None:
        """Ask each library for its versions; those that cannot answer are absent, with the reason."""
        for name in self.specs:
            try:
                self.versions[name] = self.client(name, self.threads(name)[-1]).ask("hello", self.timeout)["versions"]
            except PeerError as error:
                self.absent[name] = error.reason

    def present(self, kind: str) -> list[str]:
        """Names of the libraries that are here and do this kind."""
        here = [name for name in self.specs if name not in self.absent and name not in self.resting]
        return [name for name in here if kind in self.specs[name].does]

    def own(self) -> list[str]:
        """fastnn's engines, in the order in which they stand for it."""
        return [name for name, spec in self.specs.items() if spec.own]

    def close(self, kill: bool = False) -> None:
        """End all processes; at once, whatever they are doing, if something went wrong here."""
        for client in self._clients.values():
            client.close(kill)
        self._clients.clear()

    def __enter__(self) -> Field:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.close(kill=kind is not None)


Say = Callable[[str], None]


def _failed(error: PeerError) -> Result:
    return {"status": error.kind, "note": error.reason}


def _choices(name: str, cell: Result, field_: Field, settings: Settings) -> list[int]:
    """The numbers of threads to try for a library in this cell."""
    eager = cell["entrants"].get("torch", {})
    if name == "compile" and not settings.both_compiled and "threads" in eager:
        return [eager["threads"]]
    return field_.threads(name)


def _sweep(
    field_: Field, name: str, choices: Iterable[int], prepare: Callable[[Client], Result]
) -> tuple[Result, Client | None]:
    """Prepare a library with each number of threads; the entry of the fastest, and its process."""
    entry: Result = {}
    fastest: Client | None = None
    swept: dict[str, float] = {}
    failures: list[PeerError] = []
    for threads in choices:
        try:
            client = field_.client(name, threads)
            reply = prepare(client)
        except PeerError as error:
            failures.append(error)
            continue
        swept[str(threads)] = reply["probe_seconds"]
        if reply["probe_seconds"] <= min(swept.values()):
            entry, fastest = {"status": "ok", "note": "", "threads": threads, **reply}, client
    if fastest is None:
        return _failed(failures[-1]), None
    if failures:
        entry["note"] = f"with another number of threads: {failures[-1].reason}"
    return {**entry, "swept": swept}, fastest


def training_cell(
    case: Case,
    field_: Field,
    settings: Settings,
    ceiling: float | None = None,
    allowance: float = math.inf,
    say: Say = lambda text: None,
    wanted: Callable[[Case], Target | None] = target,
    product: Callable[[], float] | None = None,
) -> Result:
    """Measure one cell.

    Every timing runs the same steps from the same Theta - those who are much slower than the fastest, the first of them
    - so what is compared with the oracle is what was timed. `allowance` seconds limit the number of rounds (never below
    three). ceiling: GFLOP/s of the fastest product, found before; product: makes it again and tells what it reaches
    now. Where a share of the ceiling is asked for, it is made in every round, and the median is the ceiling: the
    machine is not the same at all times.
    """
    began, asked = time.monotonic(), wanted(case)
    description = {"net": case.net.name, "batch": case.batch, "optimizer": case.optimizer, "precision": case.precision}
    names = field_.present("train")
    steps, reason = _pace(names, field_, settings, description)
    cell: Result = {
        "kind": "train",
        **description,
        "flops": case.flops,
        "bytes": case.bytes,
        "learning_rate": learning_rate(case, steps) if steps else None,
        "rows": settings.rows,
        "steps": steps,
        "load_before": load_average(),
        "entrants": {},
        "busy_rounds": [],
        "products": [],
    }
    if steps is None:
        cell["entrants"] = {name: {"status": "error", "note": reason} for name in names}
        judge(cell, field_.own(), asked, ceiling)
        return cell
    problem = {**description, "rows": settings.rows, "steps": steps, "seed": 0}
    beginning = steps // BEGINNING if steps >= BEGINNING * BEGINNING_STEPS else None
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "oracle.npz")
        with Client("none:none", 1) as judge_process:
            truth = judge_process.ask(
                "oracle", settings.oracle_timeout, path=path, library=settings.oracle, beginning=beginning, **problem
            )
        cell["tolerance"] = dict(zip(("theta", "cost"), oracle.tolerance(case.optimizer, case.precision), strict=True))
        cell["oracle"] = {"mean_cost": truth["mean_cost"], "final_cost": truth["final_cost"]}
        clients: dict[str, Client] = {}
        for name in names:
            say(f"{name} prepares")
            entry, client = _sweep(
                field_,
                name,
                _choices(name, cell, field_, settings),
                lambda client: client.ask("prepare", settings.timeout, **problem),
            )
            if client is not None and entry["digest"] != truth["digest"]:
                entry |= {"status": "disagrees", "note": "was given other data, order or parameters than the oracle"}
                client = None
            cell["entrants"][name] = entry
            if client is not None:
                clients[name] = client
                entry["rounds"], entry["samples"] = {}, []
        fastest = min((cell["entrants"][name]["probe_seconds"] for name in clients), default=0.0)
        for name in clients:
            entry = cell["entrants"][name]
            short = beginning is not None and not entry["whole"] and entry["probe_seconds"] > SLOW * fastest
            entry["steps"] = beginning if short else steps
        _rounds(
            cell,
            clients,
            settings,
            began + allowance,
            lambda name, round_: clients[name].ask(
                "time",
                settings.timeout,
                path=path,
                compare=settings.compared is None or round_ < settings.compared,
                steps=cell["entrants"][name]["steps"],
            ),
            say,
            product if asked is not None and asked.ceiling is not None else None,
        )
    if cell["products"]:
        ceiling = statistics.median(cell["products"])
    for entry in cell["entrants"].values():
        if "rounds" in entry:
            entry["rounds"] = {key: seconds / entry["steps"] for key, seconds in entry["rounds"].items()}
            entry["swept"] = {key: seconds / steps for key, seconds in entry["swept"].items()}
            _verify(entry, case)
            _summarise(entry)
    cell["load_after"] = load_average()
    judge(cell, field_.own(), asked, ceiling)
    return cell


def _pace(names: list[str], field_: Field, settings: Settings, description: Result) -> tuple[int | None, str]:
    """Steps that take the first library that works `seconds`; None, and why, if none works."""
    reason = "no library is here that trains"
    for name in names:
        try:
            reply = field_.client(name, field_.threads(name)[-1]).ask(
                "pace", settings.timeout, rows=settings.rows, seed=0, least=min(0.02, settings.seconds), **description
            )
        except PeerError as error:
            reason = error.reason
            continue
        return max(2, math.ceil(settings.seconds / reply["seconds"])), ""
    return None, reason


def _rounds(
    cell: Result,
    clients: dict[str, Client],
    settings: Settings,
    deadline: float,
    measure: Callable[[str, int], Result],
    say: Say,
    product: Callable[[], float] | None = None,
) -> None:
    """Time everyone, and the product, in turn, `rounds` times, or until the deadline once there are three rounds."""
    entrants = cell["entrants"]
    fastest = min((entrants[name]["probe_seconds"] for name in clients), default=0.0)
    for round_ in range(settings.rounds):
        if round_ >= SLOW_ROUNDS and time.monotonic() > deadline:
            break
        samples: list[Sample] = []
        if product is not None:
            say(f"round {round_ + 1}, the fastest product")
            settle()
            with contextlib.suppress(PeerError):  # then the ceiling that was found before stands
                cell["products"].append(product())
        for name in list(clients):
            entry = entrants[name]
            if round_ >= SLOW_ROUNDS and entry["probe_seconds"] > SLOW * fastest:
                continue
            say(f"round {round_ + 1}, {name}")
            settle()
            try:
                reply = measure(name, round_)
            except PeerError as error:
                entry |= _failed(error)
                del entry["rounds"], entry["samples"], clients[name]
                continue
            entry["rounds"][str(round_)] = reply["seconds"]
            entry["samples"].append(reply)
            samples.append(
                Sample(float(reply["wall"] if "wall" in reply else reply["seconds"]), reply["cpu"], reply["others"])
            )
        busy = is_busy(samples)
        cell["busy_known"] = busy is not None
        if busy:
            cell["busy_rounds"].append(round_)


def _verify(entry: Result, case: Case) -> None:
    """Keep the largest difference from the oracle; mark the entry if it is too large in any round that was compared."""
    samples = [sample for sample in entry.pop("samples") if "theta_error" in sample]
    for key in ("theta_error", "cost_error"):  # NaN must not get lost in a maximum
        values = [sample[key] for sample in samples]
        entry[key] = next((value for value in values if value != value), max(values))
    entry["mean_cost"], entry["final_cost"] = samples[-1]["mean_cost"], samples[-1]["final_cost"]
    reason = oracle.disagreement(case.optimizer, entry["theta_error"], entry["cost_error"], case.precision)
    if reason is not None:
        entry |= {"status": "disagrees", "note": reason}


def _summarise(entry: Result) -> None:
    del entry["probe_seconds"], entry["digest"], entry["whole"]
    entry |= spread(list(entry["rounds"].values()))
    # The first run of the steps includes loading and compilation; what is left after the run itself.
    entry["preparation_seconds"] = entry.pop("first_seconds")


def predict_cell(case: PredictCase, field_: Field, settings: Settings, say: Say = lambda text: None) -> Result:
    """Measure one cell of inference: median seconds per call of the public or the fastest way to the outputs."""
    cell: Result = {
        "kind": "predict",
        "net": case.net.name,
        "batch": case.rows,
        "flops": case.flops,
        "load_before": load_average(),
        "entrants": {},
        "busy_rounds": [],
    }
    cell["tolerance"] = {"output": PREDICT_TOLERANCE}
    clients: dict[str, Client] = {}
    block = max(0.05, settings.seconds)
    for name in field_.present("predict"):
        say(f"{name} prepares")
        entry, client = _sweep(
            field_,
            name,
            _choices(name, cell, field_, settings),
            lambda client: client.ask("predict", settings.timeout, net=case.net.name, rows=case.rows, seconds=block),
        )
        cell["entrants"][name] = entry
        if client is None:
            continue
        if not entry["error"] <= PREDICT_TOLERANCE:
            entry |= {
                "status": "disagrees",
                "note": f"outputs are off by {entry['error']:.1e} (allowed {PREDICT_TOLERANCE:.0e})",
            }
            continue
        clients[name] = client
        entry["rounds"], entry["samples"] = {}, []
    _rounds(
        cell,
        clients,
        settings,
        math.inf,
        lambda name, round_: clients[name].ask("calls", settings.timeout, seconds=block),
        say,
    )
    for entry in cell["entrants"].values():
        if "rounds" in entry:
            del entry["samples"], entry["probe_seconds"]
            entry |= spread(list(entry["rounds"].values()))
    cell["load_after"] = load_average()
    wanted = predict_target(case)
    judge(cell, field_.own(), wanted, None, PREDICT_RIVALS if wanted else None)
    return cell
