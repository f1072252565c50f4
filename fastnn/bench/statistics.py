"""From rounds of times to medians, ratios and verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .cases import Target

__all__ = ["Result", "best", "judge", "paired_ratio", "spread"]

Result = dict[str, Any]
VARIANTS = ("vectors", "unit")  # fastnn without the matrix unit, or with it, which never stand for what is planned


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles (inclusive method) and least."""
    if len(values) == 1:
        return {"median": values[0], "q1": values[0], "q3": values[0], "least": values[0]}
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "least": min(values)}


def paired_ratio(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float] | None:
    """How many times faster `ours` is: theirs / ours within each round that has both, then the median and quartiles.

    Keys are rounds. Within a round both ran under the same conditions, so a slow stretch of the
    machine cancels. None if no round has both.
    """
    ratios = [theirs[round_] / ours[round_] for round_ in ours if round_ in theirs]
    return spread(ratios) if ratios else None


def best(entrants: Mapping[str, Result]) -> str | None:
    """The entrant with the least median among those whose result agrees; None if there is none."""
    usable = {name: entry["median"] for name, entry in entrants.items() if entry["status"] == "ok"}
    return min(usable, key=lambda name: usable[name]) if usable else None


def judge(
    cell: Result, own: Sequence[str], target: Target | None, ceiling: float | None, rivals: Sequence[str] | None = None
) -> None:
    """Write into the cell: our entrant, the best peer, the ratio with its spread, GFLOP/s, share of the ceiling,
    verdict.

    `own` lists fastnn's engines in the order in which they stand for fastnn: the first that has a result does.
    VARIANTS never do; the ratio of each to the best peer is written beside.
    Times of entrants whose status is not "ok" are never used. The verdict is "PASS", "MISS", or
    None where there is no target, no result of ours or no peer to compare with. A share of the ceiling
    that is demanded and cannot be computed is a miss.
    """
    entrants = cell["entrants"]
    ours = next((name for name in own if name not in VARIANTS and entrants.get(name, {}).get("status") == "ok"), None)
    peers = {name: entry for name, entry in entrants.items() if name not in own and (rivals is None or name in rivals)}
    rival = best(peers)
    cell |= {"ours": ours, "best_peer": rival, "ratio": None, "share": None, "target": None, "verdict": None}
    cell |= dict.fromkeys(VARIANTS)
    for entry in entrants.values():
        if entry["status"] == "ok":
            entry["gflops"] = cell["flops"] / entry["median"] / 1e9
    if ours is not None and rival is not None:
        cell["ratio"] = paired_ratio(entrants[ours]["rounds"], entrants[rival]["rounds"])
    for variant in VARIANTS:
        if entrants.get(variant, {}).get("status") == "ok" and rival is not None:
            cell[variant] = paired_ratio(entrants[variant]["rounds"], entrants[rival]["rounds"])
    if ours is not None and ceiling:
        cell["share"] = entrants[ours]["gflops"] / ceiling
    if target is not None:
        cell["target"] = {"row": target.row, "ratio": target.ratio, "ceiling": target.ceiling}
        if cell["ratio"] is not None:
            enough = cell["ratio"]["median"] >= target.ratio
            filled = target.ceiling is None or (cell["share"] is not None and cell["share"] >= target.ceiling)
            cell["verdict"] = "PASS" if enough and filled else "MISS"
        elif ours is None and any(name in entrants for name in own) and rival is not None:
            cell["verdict"] = "MISS"  # our engine failed where a peer did not
