"""Results as rows for people: sorted, losses first, in words and units. Shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .statistics import Result

__all__ = ["Row", "duration", "problems", "rows", "score", "size", "variants", "worst_first"]


def duration(seconds: float) -> str:
    """Three digits and a unit: 12.3 us, 4.56 ms, 7.89 s."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms"), (1.0, "s")):
        if seconds * factor < 1000 or unit == "s":
            return f"{_three(seconds * factor)} {unit}"
    raise AssertionError


def _three(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def size(number: float) -> str:
    """Bytes in decimal megabytes."""
    return f"{number / 1e6:,.0f} MB"


@dataclass(frozen=True)
class Row:
    """A cell of training or inference beside its key, with what is shown of it ready."""

    key: str
    cell: Result

    @property
    def title(self) -> str:
        cell = self.cell
        if cell["kind"] == "predict":
            return f"{cell['net']}, {cell['batch']:,} row{'s' * (cell['batch'] != 1)}"
        return f"{cell['net']}, batch {cell['batch']:,}{', Adam' if cell['optimizer'] == 'adam' else ''}"

    @property
    def ratio(self) -> float | None:
        ratio = self.cell.get("ratio")
        return ratio["median"] if ratio else None

    @property
    def verdict(self) -> str:
        return self.cell.get("verdict") or ""

    @property
    def wanted(self) -> str:
        target = self.cell.get("target")
        if not target:
            return ""
        share = f", {target['ceiling']:.0%} of sgemm" if target["ceiling"] else ""
        return f"{target['ratio']:g}×{share}"

    @property
    def headroom(self) -> float:
        """How far above (> 1) or below what is asked, in the worse of ratio and share; without a target, the ratio
        itself.
        """
        ratio, target = self.ratio, self.cell.get("target")
        if ratio is None:
            return 0.0
        if not target:
            return ratio
        parts = [ratio / target["ratio"]]
        if target["ceiling"] and self.cell["share"] is not None:
            parts.append(self.cell["share"] / target["ceiling"])
        return float(min(parts))

    @property
    def flags(self) -> str:
        busy = self.cell.get("busy_rounds") or []
        return f"machine busy in {len(busy)} round{'s' * (len(busy) != 1)}" if busy else ""

    def entrant(self, name: str) -> Result | None:
        found: Result | None = self.cell["entrants"].get(name)
        return found

    def time(self, name: str) -> str:
        """The median, the threads it took where they were swept, or why there is none."""
        entry = self.entrant(name)
        if entry is None:
            return "–"
        if entry["status"] != "ok":
            return {"disagrees": "disagrees", "crashed": "crashed", "hung": "hung"}.get(entry["status"], "failed")
        return duration(entry["median"])


def rows(results: Result, kind: str) -> list[Row]:
    """The cells of a kind."""
    return [Row(key, cell) for key, cell in results["units"].items() if cell.get("kind") == kind]


def worst_first(found: Iterable[Row]) -> list[Row]:
    """Misses and losses before everything else, the largest first; then what passed, closest calls first."""
    order = {"MISS": 0, "": 1, "PASS": 2}
    return sorted(found, key=lambda row: (order[row.verdict] if row.verdict or row.headroom >= 1 else 0, row.headroom))


def score(results: Result) -> dict[str, Any]:
    """Cells that pass and that have a target; cells slower than the best peer; and the same per row of the table."""
    judged = [row for row in [*rows(results, "train"), *rows(results, "predict")] if row.verdict]
    by_row: dict[str, list[Row]] = {}
    for row in judged:
        by_row.setdefault(row.cell["target"]["row"], []).append(row)
    table = [
        {
            "row": name,
            "passed": sum(row.verdict == "PASS" for row in members),
            "cells": len(members),
            "worst": min(members, key=lambda row: row.headroom),
        }
        for name, members in by_row.items()
    ]
    every = [row for row in [*rows(results, "train"), *rows(results, "predict")] if row.ratio is not None]
    return {
        "passed": sum(row.verdict == "PASS" for row in judged),
        "judged": len(judged),
        "lost": sum((row.ratio or 0) < 1 for row in every),
        "cells": len(every),
        "table": table,
    }


OF_VARIANTS = {
    "vectors": "Without the matrix unit (AMX), as on most processors, fastnn",
    "unit": "On the matrix unit (AMX) throughout, which others may use here, fastnn",
}


def variants(results: Result) -> str:
    """A sentence on fastnn without the matrix unit, or with it where the plan has it seldom, against the best peer;
    empty where neither was timed.
    """
    return "; ".join(filter(None, (_variant(results, name, begin) for name, begin in OF_VARIANTS.items())))


def _variant(results: Result, name: str, begin: str) -> str:
    timed = [row for row in [*rows(results, "train"), *rows(results, "predict")] if row.cell.get(name)]
    if not timed:
        return ""
    ratios = sorted((row.cell[name]["median"], row.title) for row in timed)
    lost = sum(ratio < 1 for ratio, _ in ratios)
    least = ", ".join(f"{title} ({ratio:.2f}×)" for ratio, title in ratios[:3])
    return f"{begin} is slower than the best peer in {lost} of {len(timed)} cells; the least ratios are {least}"


def problems(results: Result) -> list[str]:
    """Absent libraries, results that disagree, crashes, hangs, busy rounds and what was left out, a line each."""
    lines = [f"{peer['label']} is absent: {peer['absent']}" for peer in results["peers"].values() if peer["absent"]]
    labels = {name: peer["label"] for name, peer in results["peers"].items()}
    for key, unit in results["units"].items():
        for name, entry in unit.get("entrants", {}).items():
            if entry["status"] != "ok":
                lines.append(
                    f"{key}: {labels.get(name, name)} {entry['status']}, its time is not used: {entry['note']}"
                )
            elif entry["note"]:
                lines.append(f"{key}: {labels.get(name, name)}: {entry['note']}")
        if "entrants" not in unit and unit.get("status"):
            lines.append(f"{key}: {unit['status']}: {unit['note']}")
    busy = [key for key, unit in results["units"].items() if unit.get("busy_rounds")]
    if busy:
        lines.append(
            f"other processes used more than 10 % of the machine in some rounds of {len(busy)} "
            f"cell{'s' * (len(busy) != 1)}: repeat on a quiet machine"
        )
    reasons: dict[str, list[str]] = {}
    for key, why in results["skipped"].items():
        reasons.setdefault(why, []).append(key)
    lines += [
        (f"not measured ({why}): {', '.join(keys[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}")
        for why, keys in reasons.items()
    ]
    return lines
