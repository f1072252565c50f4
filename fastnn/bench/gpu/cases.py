"""What is measured on a GPU, and what is asked of it on an H200."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..cases import Case, Net, net_named
from ..statistics import Result, paired_ratio

__all__ = [
    "BATCHES",
    "MNIST_CASE",
    "MNIST_GOAL",
    "MNIST_SECONDS",
    "NETS",
    "PRECISIONS",
    "GpuTarget",
    "judge",
    "layer_shapes",
    "target",
    "training_cases",
]

NETS = ("784-16-16-10", "784-300-100-10", "784-1024-1024-10", "784-4096-4096-4096-10", "841-2500-2000-1500-1000-500-10")
BATCHES = (32, 512, 8192, 65536)
PRECISIONS = ("fp32", "tf32", "bf16")
NARROW, MIDDLE, WIDE, WIDEST = NETS[:4]
MNIST_CASE, MNIST_GOAL, MNIST_SECONDS, MNIST_EPOCHS = Case(net_named(MIDDLE), 128, "adam"), 0.98, 1.0, 20


@dataclass(frozen=True)
class GpuTarget:
    """A row of the table: least share of the measured GEMM ceiling, least ratio to each of these libraries."""

    row: str
    share: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)


def target(case: Case) -> GpuTarget | None:
    """The row that a cell belongs to, if any."""
    if case.net.width >= 4096 and case.batch >= 8192 and case.precision in ("bf16", "tf32"):
        return GpuTarget(
            "4096 wide, batch >= 8192, bf16 and tf32", 0.85 if case.optimizer == "sgd" else 0.80, {"compile": 1.1}
        )
    if case.net.name == WIDE and case.batch >= 8192:
        return GpuTarget("1024 wide, batch >= 8192", None, {"compile": 1.3})
    if case.net.name == MIDDLE and case.batch == 512:
        return GpuTarget("300-100, batch 512", None, {"compile": 2.0, "torch": 5.0})
    if case.net.name == NARROW and case.batch == 32:
        return GpuTarget("16-16, batch 32", None, {"compile": 3.0, "torch": 10.0})
    return None


def training_cases(mode: str) -> list[Case]:
    """The cells of "quick", "default" (the table of targets, one cell of each row first) or "all" (every
    combination).
    """
    if mode == "quick":
        return [_case(MIDDLE, 512), _case(WIDEST, 8192, "sgd", "bf16")]
    if mode == "default":
        bf16, tf32 = (
            [_case(WIDEST, 8192, optimizer, precision) for optimizer in ("sgd", "adam")]
            for precision in ("bf16", "tf32")
        )
        return [
            _case(NARROW, 32),
            bf16[0],
            _case(MIDDLE, 512),
            _case(WIDE, 8192, "sgd", "bf16"),
            bf16[1],
            *tf32,
            _case(NARROW, 32, "adam"),
            _case(MIDDLE, 512, "adam"),
        ]
    return [
        _case(net, batch, optimizer, precision)
        for net in NETS
        for batch in BATCHES
        for optimizer in ("sgd", "adam")
        for precision in PRECISIONS
    ]


def _case(net: str, batch: int, optimizer: str = "sgd", precision: str = "fp32") -> Case:
    return Case(net_named(net), batch, optimizer, precision)


def layer_shapes(net: Net, batch: int) -> list[tuple[int, int, int]]:
    """(m, n, k) of each layer's forward product: rows, units, inputs."""
    return [(batch, n_out, n_in) for n_in, n_out in zip(net.sizes[:-1], net.sizes[1:], strict=True)]


def judge(cell: Result, case: Case) -> None:
    """Write into a measured cell what is asked of it, the ratios to those it names, and the verdict.

    "PASS", "MISS", or None where nothing is asked or fastnn's result is missing because nobody ran. A ratio or
    share that is asked for and is not there is a miss when fastnn failed, and leaves the verdict open when the
    other library did.
    """
    wanted = target(case)
    cell["target"], cell["verdict"], cell["open"] = None, None, []
    if wanted is None:
        return
    entrants, ours = cell["entrants"], cell.get("ours")
    cell["target"] = {"row": wanted.row, "share": wanted.share, "ratios": dict(wanted.ratios)}
    cell["target_ratios"] = ratios = {}
    if ours is None:
        cell["verdict"] = "MISS" if any(entry["status"] == "ok" for entry in entrants.values()) else None
        return
    missed: list[str] = []
    for name, least in wanted.ratios.items():
        other: Any = entrants.get(name, {})
        ratio = paired_ratio(entrants[ours]["rounds"], other["rounds"]) if other.get("status") == "ok" else None
        ratios[name] = ratio
        if ratio is None:
            cell["open"].append(f"{name} has no result")
        elif ratio["median"] < least:
            missed.append(name)
    if wanted.share is not None:
        if cell.get("share") is None:
            cell["open"].append("the ceiling was not measured")
        elif cell["share"] < wanted.share:
            missed.append("share")
    cell["verdict"] = "MISS" if missed else None if cell["open"] else "PASS"
