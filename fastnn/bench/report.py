"""The results as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .statistics import Result
from .summary import Row, duration, problems, rows, score, size, variants, worst_first

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show"]

COLOURS = {"PASS": "green", "MISS": "red", "": ""}


def _table(title: str, *columns: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def show(results: Result, console: Console) -> None:
    """Print everything that was measured, losses first."""
    session = results["sessions"][-1]
    environment, ceiling = session["environment"], session.get("ceiling") or {}
    console.print(
        f"[bold]fastnn {environment['fastnn']}[/] on {environment['cpu']}, {environment['cores']} cores; load "
        f"{environment['load']}; {environment['date']}"
    )
    if ceiling.get("best"):
        console.print(
            f"sgemm ceiling {ceiling['best']:.0f} GFLOP/s ({ceiling['by']}), copy {ceiling['bandwidth']:.0f} GB/s"
        )
    for kind, title in (("train", "Training, time per step, rows shuffled"), ("predict", "Inference, time per call")):
        found = worst_first(rows(results, kind))
        if found:
            _verdicts(found, title, results, console)
            _times(found, title, results, console)
    _targets(results, console)
    if sentence := variants(results):
        console.print(sentence, highlight=False)
    _extras(results, console)
    _accuracy(results, console)
    for line in problems(results):
        console.print(f"[yellow]![/] {line}", highlight=False)


def _verdicts(found: list[Row], title: str, results: Result, console: Console) -> None:
    table = _table(
        f"{title}: fastnn against the best peer, losses first", "case", "fastnn", "best peer", "", "ratio", "quartiles",
        "asked", "GFLOP/s", "of sgemm", "verdict",
    )  # fmt: skip
    for row in found:
        cell = row.cell
        ours, rival, ratio = cell["ours"], cell["best_peer"], cell["ratio"]
        entry = cell["entrants"].get(ours) or {}
        share = f"{cell['share']:.0%}" if cell["share"] is not None else ""
        table.add_row(
            f"{row.title}{' *' if row.flags else ''}", row.time(ours) if ours else "none",
            results["peers"][rival]["label"] if rival else "none", row.time(rival) if rival else "",
            f"{ratio['median']:.2f}×" if ratio else "", f"{ratio['q1']:.2f}–{ratio['q3']:.2f}" if ratio else "",
            row.wanted, f"{entry['gflops']:.1f}" if "gflops" in entry else "", share,
            f"[{COLOURS[row.verdict]}]{row.verdict}[/]" if row.verdict else "",
        )  # fmt: skip
    console.print(table)


def _times(found: list[Row], title: str, results: Result, console: Console) -> None:
    """Everyone's median with its threads; in training the largest difference of the parameters from float64's."""
    names = [name for name, peer in results["peers"].items() if any(name in row.cell["entrants"] for row in found)]
    table = _table(
        f"{title}: everyone (threads that were best; in training, parameters' distance from float64)",
        "case",
        *(results["peers"][name]["label"] for name in names),
    )
    for row in found:
        texts = []
        for name in names:
            entry = row.entrant(name) or {}
            more = (
                f" /{entry['threads']}"
                if results["peers"][name]["sweep"] and entry.get("threads") and entry["status"] == "ok"
                else ""
            )
            error = f"\n{entry['theta_error']:.0e}" if entry.get("theta_error") is not None else ""
            texts.append(row.time(name) + more + error)
        table.add_row(row.title, *texts)
    console.print(table)


def _targets(results: Result, console: Console) -> None:
    result = score(results)
    if not result["judged"]:
        return
    table = _table("What is asked for", "row", "cells that pass", "worst cell", "", "")
    for line in result["table"]:
        worst: Row = line["worst"]
        colour = "green" if line["passed"] == line["cells"] else "red"
        share = (
            f", {worst.cell['share']:.0%}"
            if worst.cell["target"]["ceiling"] and worst.cell["share"] is not None
            else ""
        )
        table.add_row(
            line["row"],
            f"[{colour}]{line['passed']} of {line['cells']}[/]",
            worst.title,
            f"{worst.ratio or 0:.2f}×{share}",
            f"asked {worst.wanted}",
        )
    console.print(table)
    console.print(
        f"{result['passed']} of {result['judged']} cells reach what is asked; {result['lost']} of {result['cells']} "
        "are slower than the best peer"
    )


def _extras(results: Result, console: Console) -> None:
    units = results["units"]
    table = _table(
        "Besides steps", "", "import over NumPy", "first step, cold", "first step, warm", "peak memory", "installed"
    )
    for name, peer in results["peers"].items():
        cells = {kind: units.get(f"{kind}/{name}", {}) for kind in ("import", "startup", "memory", "size")}
        if any("status" not in cell and cell for cell in cells.values()):
            imported, start, memory = cells["import"].get("library"), cells["startup"], cells["memory"].get("peak")
            table.add_row(
                peer["label"],
                duration(imported["median"]) if imported else "",
                duration(start["cold"]) if start.get("cold") else "",
                duration(start["warm"]["median"]) if start.get("warm") else "",
                size(memory) if memory else "",
                size(cells["size"]["total"]) if "total" in cells["size"] else "",
            )
    if table.row_count:
        console.print(table)


def _accuracy(results: Result, console: Console) -> None:
    from .accuracy import CASE, GOAL

    runs: dict[str, list[Result]] = {}
    for key, unit in results["units"].items():
        if key.startswith("accuracy/") and "curve" in unit:
            runs.setdefault(key.split("/")[2], []).append(unit)
    if not runs:
        return
    table = _table(
        f"MNIST, {CASE.replace('@', ', ')}: seconds of training to {GOAL:.1%} test accuracy",
        "",
        "median",
        "least–most",
        "reached",
        "epochs",
    )
    for name, found in sorted(runs.items(), key=lambda item: median_time(item[1])):
        reached = [run["reached"] for run in found if run["reached"] is not None]
        spread = f"{min(reached):.2f}–{max(reached):.2f}" if reached else ""
        epochs = ", ".join(str(len(run["curve"])) for run in found)
        table.add_row(
            results["peers"][name]["label"],
            f"{median_time(found):.2f} s" if reached else "",
            spread,
            f"{len(reached)} of {len(found)} seeds",
            epochs,
        )
    console.print(table)


def median_time(runs: list[Result]) -> float:
    """Median seconds of the runs that reached the accuracy; infinite if none did."""
    import statistics

    reached = [run["reached"] for run in runs if run["reached"] is not None]
    return statistics.median(reached) if reached else float("inf")
