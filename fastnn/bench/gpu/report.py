"""The results as text: a line for each stage, every failure, the ceilings, whole steps with losses first."""

from __future__ import annotations

import itertools
from typing import Any

from ..statistics import Result
from ..summary import duration

__all__ = ["Cell", "cells", "epilogues", "finding", "outcome", "problems", "show"]

REMEDIES = {
    "cuBLASLt": " - steps are not captured, tf32 and bf16 are refused; libcublasLt comes with CuPy's [ctk] extra"
}
CAPTURED = "captured steps"  # as fastnn/backends/cupy_trials.py names them
WAYS = ("own", "forward", "masks", "epilogues")  # as fastnn/backends/cupy_plan.py names them
BAD = ("failed", "hung", "crashed")


def _short(net: str) -> str:
    """The layers with equal ones together: 784-3×4096-10."""
    parts = [(size, len(list(group))) for size, group in itertools.groupby(net.split("-"))]
    return "-".join(f"{count}×{size}" if count > 2 else "-".join([size] * count) for size, count in parts)


class Cell:
    """One measured cell with what is shown of it."""

    def __init__(self, key: str, cell: Result) -> None:
        self.key, self.cell = key, cell
        self.entrants: dict[str, Result] = cell["entrants"]
        self.verdict: str = cell.get("verdict") or ""
        adam = ", Adam" if cell["optimizer"] == "adam" else ""
        self.title = f"{cell['net']}, batch {cell['batch']:,}{adam}, {cell['precision']}"
        self.short = f"{_short(cell['net'])}, {cell['batch']:,}{adam}, {cell['precision']}"

    @property
    def ratio(self) -> float | None:
        """The best other library's time over fastnn's."""
        ratio = self.cell.get("ratio")
        return float(ratio["median"]) if ratio else None

    def time(self, name: str) -> str:
        """The median, or why there is none."""
        entry = self.entrants.get(name)
        if entry is None:
            return "–"
        return duration(entry["median"]) if entry["status"] == "ok" else str(entry["status"])

    @property
    def wanted(self) -> str:
        """What is asked of the cell."""
        asked = self.cell.get("target")
        if not asked:
            return ""
        parts = [f"{least:g}× {name}" for name, least in asked["ratios"].items()]
        return ", ".join(([f"{asked['share']:.0%} of the ceiling"] if asked["share"] else []) + parts)

    @property
    def reached(self) -> str:
        """What it came to, in the same order."""
        asked = self.cell.get("target")
        if not asked:
            return ""
        parts = [
            f"{ratio['median']:.2f}× {name}" if ratio else f"no {name}"
            for name, ratio in (self.cell.get("target_ratios") or {}).items()
        ]
        share = self.cell.get("share")
        return ", ".join(([f"{share:.0%}" if share is not None else "no ceiling"] if asked["share"] else []) + parts)


def cells(results: Result) -> list[Cell]:
    """Misses first, then losses, then the rest, the slowest against the best other library first."""
    found = [Cell(key, cell) for key, cell in (_result(results, "steps").get("cells") or {}).items()]
    return sorted(
        found,
        key=lambda cell: ({"MISS": 0, "": 1, "PASS": 2}[cell.verdict], cell.ratio if cell.ratio is not None else 0.0),
    )


def _result(results: Result, stage: str) -> Result:
    found: Result = results["stages"].get(stage, {}).get("result") or {}
    return found


def _fastest(layer: Result) -> str:
    """The way that takes least."""
    offered = {way: seconds for way, seconds in layer.items() if seconds is not None}
    return min(offered, key=lambda way: float(offered[way]))


def _fused(ways: Result) -> str:
    """The fastest fused way beside captured steps."""
    best = min((way for way in ways if way != CAPTURED), key=lambda way: float(ways[way]))
    return f"{best} {duration(ways[best])} a step, {CAPTURED} {duration(ways[CAPTURED])}"


def epilogues(results: Result) -> list[list[str]]:
    """A row for each hidden layer: the case, the time of every way, the fastest one."""
    rows = []
    for entry in _result(results, "epilogues").get("problems") or []:
        for number, layer in enumerate(entry["layers"], 2):
            times = [duration(layer[way]) if layer.get(way) is not None else "–" for way in WAYS]
            rows.append(
                [
                    f"{_short(entry['net'])}, {entry['batch']:,}, {entry['precision']}, layer {number}",
                    *times,
                    _fastest(layer),
                ]
            )
    return rows


def finding(name: str, results: Result) -> str:
    """What a stage found, in one line."""
    found = _result(results, name)
    if not found:
        return ""
    if name == "environment":
        device = found.get("device") or {}
        libraries = [
            f"{key} {value}"
            for key, value in (found.get("libraries") or {}).items()
            if not str(value).startswith("not usable")
        ]
        return ", ".join([*([f"{device['name']}, compute {device['compute']}"] if device else []), *libraries])
    if name == "kernels":
        slowest = max(found["seconds"], key=lambda key: float(found["seconds"][key]), default="")
        longest = f", at most {found['seconds'][slowest]:.0f} s ({slowest})" if slowest else ""
        return f"{len(found['seconds'])} modules{longest}, {found.get('processes', 1)} processes"
    if name == "suite":
        return f"{found.get('passed', 0)} passed, {found.get('failed', 0)} failed"
    if name == "sanitizer":
        return ", ".join(
            f"{check}: {entry['errors'] if entry['errors'] is not None else entry['status']}"
            for check, entry in (found.get("checks") or {}).items()
        )
    if name == "determinism":
        entries = found.get("problems") or []
        return f"{sum(entry['status'] == 'ok' for entry in entries)} of {len(entries)} equal bit for bit"
    if name == "epilogues":
        layers = [layer for entry in found.get("problems") or [] for layer in entry["layers"]]
        steps = "".join(
            (f"; {_short(entry['net'])}, {entry['batch']:,}: {_fused(entry['fused'])}")
            for entry in found.get("problems") or []
            if entry.get("fused")
        )
        return (
            f"{sum(_fastest(layer) != 'own' for layer in layers)} of {len(layers)} hidden layers are faster with an "
            f"epilogue{steps}"
        )
    if name == "ceilings":
        kept = {
            precision: f", {entry['sustained'] / 1000:.1f} kept up" if entry.get("sustained") else ""
            for precision, entry in (found.get("gemm") or {}).items()
        }
        rates = [
            (f"{precision} {entry['best'] / 1000:.1f} TFLOP/s{kept[precision]}")
            for precision, entry in (found.get("gemm") or {}).items()
        ]
        return ", ".join(rates + ([f"copy {found['copy']['best']:.0f} GB/s"] if found.get("copy") else []))
    if name == "accuracy":
        median = found.get("median")
        return (
            f"{median:.3f} s of training to {found['goal']:.0%} (asked: under {found['asked']:g} s): {found['verdict']}"
            if median is not None
            else "fastnn did not reach it"
        )
    if name == "steps":
        every = [Cell(key, cell) for key, cell in (found.get("cells") or {}).items()]
        asked = [cell for cell in every if cell.cell.get("target")]
        return (
            f"{sum(cell.verdict == 'PASS' for cell in asked)} of {len(asked)} cells reach what is asked; "
            f"{sum((cell.ratio or 9) < 1 for cell in every)} of {len(every)} slower than the best other library"
        )
    return ""


def problems(results: Result) -> list[str]:
    """Everything that went wrong or is missing, a line each."""
    lines = []
    for name, stage in results["stages"].items():
        if stage["status"] != "ok":
            lines.append(f"{name}: {stage['status']}: {stage['note']}")
    libraries = _result(results, "environment").get("libraries") or {}
    lines += [
        f"{name}: {why}{REMEDIES.get(name, '')}" for name, why in libraries.items() if str(why).startswith("not usable")
    ]
    for name in ("kernels", "epilogues", "steps"):
        lines += [f"{name}: {failure}" for failure in _result(results, name).get("failures") or []]
    for group, entry in (_result(results, "suite").get("groups") or {}).items():
        if entry.get("note"):
            lines.append(f"suite, {group}: {entry['status']}: {entry['note']}")
        lines += [f"suite: {failure['test']}: {failure['text']}" for failure in entry.get("failures", [])]
    refusals = {
        product: why
        for entry in _result(results, "epilogues").get("problems") or []
        for product, why in (entry.get("refusals") or {}).items()
    }
    lines += [f"epilogues: cuBLASLt on {product}: {why}" for product, why in refusals.items()]
    for check, entry in (_result(results, "sanitizer").get("checks") or {}).items():
        if entry["status"] != "ok":
            lines.append(f"sanitizer, {check}: {entry['status']}: {entry['note']}")
        if entry.get("missing"):
            lines.append(f"sanitizer, {check}: these kernels did not run: {', '.join(entry['missing'])}")
    lines += [
        (f"determinism, {entry['title']}: {entry['status']}: {entry['note']}")
        for entry in _result(results, "determinism").get("problems") or []
        if entry["status"] != "ok"
    ]
    steps = _result(results, "steps")
    lines += [
        (f"{peer['label']} is absent: {peer['absent']}")
        for peer in (steps.get("peers") or {}).values()
        if peer["absent"]
    ]
    for cell in cells(results):
        for name, entry in cell.entrants.items():
            if entry["status"] != "ok":
                lines.append(f"{cell.title}: {name} {entry['status']}, its time is not used: {entry['note']}")
    for name, runs in (_result(results, "accuracy").get("runs") or {}).items():
        lines += [f"MNIST: {name} {run['status']}: {run['note']}" for run in runs if "status" in run]
    return lines


def outcome(results: Result) -> tuple[bool, bool]:
    """(nothing is wrong, there is a usable device). What is absent is not wrong; a target that is missed is not
    either: it is shown.
    """
    stages = results["stages"]
    usable = stages.get("environment", {"status": "ok"})["status"] not in ("absent", *BAD)
    wrong = any(stage["status"] in BAD for stage in stages.values())
    own = [name for name, peer in (_result(results, "steps").get("peers") or {}).items() if peer["own"]]
    wrong = wrong or any(
        cell.entrants.get(name, {"status": "ok"})["status"] != "ok" for cell in cells(results) for name in own
    )
    return usable and not wrong, usable


def show(results: Result, console: Any) -> None:
    """Print all of it."""
    from rich import box
    from rich.table import Table

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for number, column in enumerate(columns):
            made.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        return made

    stages = table(
        f"fastnn on a GPU ({results['mode']}, {results['sessions'][-1]['environment']['date']})",
        "stage",
        "",
        "seconds",
        "",
    )
    for name, stage in results["stages"].items():
        stages.add_row(name, stage["status"], f"{stage['seconds']:.0f}", finding(name, results))
    console.print(stages)
    gemm = _result(results, "ceilings").get("gemm") or {}
    if gemm:
        ceiling = table("Ceilings of this card", "product", *gemm)
        for number, entry in enumerate(next(iter(gemm.values()))["all"]):
            ceiling.add_row(
                f"{entry['m']} x {entry['n']} x {entry['k']}",
                *((f"{gemm[precision]['all'][number]['gflops'] / 1000:.1f} TFLOP/s") for precision in gemm),
            )
        console.print(ceiling)
    rows = epilogues(results)
    if rows:
        ways = table(
            "Hidden layers: products with kernels of our own, with epilogues forward, with masks kept, with bias sums "
            "in epilogues too",
            "layer",
            *WAYS,
            "fastest",
        )
        for row in rows:
            ways.add_row(*row)
        console.print(ways)
    found = cells(results)
    if found:
        names = list(_result(results, "steps")["peers"])
        whole = table(
            "Whole steps, losses first (below each time: parameters' distance from float64)",
            "case",
            *names,
            "asked",
            "reached",
            "of ceiling",
            "",
        )
        for cell in found:
            times = [
                f"{cell.time(name)}\n{entry['theta_error']:.0e}"
                if (entry := cell.entrants.get(name, {})).get("theta_error") is not None
                else cell.time(name)
                for name in names
            ]
            share = cell.cell.get("share")
            whole.add_row(
                cell.title, *times, cell.wanted, cell.reached, f"{share:.0%}" if share is not None else "", cell.verdict
            )
        console.print(whole)
    for line in problems(results):
        console.print(f"! {line}", highlight=False, markup=False)
