"""The card's own ceilings: its fastest matrix product at each precision, and its fastest copy. Everything else is a
share of them.
"""

from __future__ import annotations

from typing import Any

from ..cases import net_named
from ..statistics import Result
from . import lab as labs
from .cases import NETS, PRECISIONS, WIDE, WIDEST, layer_shapes
from .environment import card
from .stage import Request, Write

__all__ = ["measure", "run", "shapes"]

SQUARES = {"quick": (4096, 8192), "default": (2048, 4096, 8192), "all": (1024, 2048, 4096, 8192, 16384)}
COPY_BYTES = (1 << 28, 1 << 30)
SUSTAINED_SECONDS = 0.2  # as long as a timing of steps: a card may not keep the clocks of a short burst


def shapes(mode: str) -> list[tuple[int, int, int]]:
    """(m, n, k) of squares, and of the layers of the wide nets at batch 8192 (of all nets with "all")."""
    nets = NETS if mode == "all" else (WIDE, WIDEST) if mode == "default" else (WIDEST,)
    layers = [shape for name in nets for shape in layer_shapes(net_named(name), 8192)]
    return [*((n, n, n) for n in SQUARES[mode]), *dict.fromkeys(layers)]


def measure(
    lab: Any,
    wanted: list[tuple[int, int, int]],
    copies: tuple[int, ...],
    write: Write = lambda part: None,
    rounds: int = 9,
) -> Result:
    """{"gemm": {precision: {"all": [...], "best": GFLOP/s, "at": "m x n x k", "sustained": GFLOP/s}}, "copy": {"best":
    GB/s, ...}}.

    "best" is of single products, each with the cache emptied before, and is what shares are of; "sustained" of the same
    product again and again.
    """
    found: Result = {"gemm": {}, "copy": {}}
    for precision in PRECISIONS:
        every: list[Result] = []
        for m, n, k in wanted:
            times = lab.timer.seconds(lab.product(precision, m, n, k), rounds)
            every.append({"m": m, "n": n, "k": k, **times, "gflops": 2 * m * n * k / times["median"] / 1e9})
        best = max(every, key=lambda entry: float(entry["gflops"]))
        m, n, k = (best[size] for size in "mnk")
        seconds = lab.timer.sustained(
            lab.product(precision, m, n, k), max(1, round(SUSTAINED_SECONDS / best["median"]))
        )
        found["gemm"][precision] = {
            "best": best["gflops"],
            "at": f"{m} x {n} x {k}",
            "sustained": 2 * m * n * k / seconds / 1e9,
            "all": every,
        }
        write(found)
    rates = []
    for count in copies:
        times = lab.timer.seconds(lab.copy(count), rounds)
        rates.append({"bytes": count, **times, "gbytes": 2 * count / times["median"] / 1e9})  # read and written
    found["copy"] = {"best": max(float(rate["gbytes"]) for rate in rates), "all": rates}
    return found


def run(request: Request, write: Write) -> Result:
    """The stage."""
    # the clocks under load
    return {**measure(labs.open_lab(), shapes(request.mode), COPY_BYTES, write), "card_after": card()}
