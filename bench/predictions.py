"""Predictions of many rows with the matrix unit and without it, interleaved; medians, and the largest difference of outputs.

python bench/predictions.py
"""

from __future__ import annotations

import functools
import statistics
import time

import numpy as np

import fastnn
from fastnn.bench.cases import net_named
from fastnn.bench.environment import describe
from fastnn.kernels.cpu.amx import missing

CASES = [f"{net}@{rows}" for net in ("784-100-100-10", "784-300-100-10", "784-1024-1024-10", "28-300-300-300-300-1", "1-64-64-1") for rows in (1024, 10_000)]
ROUNDS, SECONDS = 9, 0.1


def timed(call) -> float:
    """Seconds of one call."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        call()
        count += 1
    return (time.perf_counter() - began) / count


def main() -> None:
    """Prints a line for each case."""
    if reason := missing():
        raise SystemExit(f"there is no matrix unit to compare: {reason}")
    environment = describe()
    print(f"{environment['cpu']}, {environment['cores']} cores, {environment['date']}, fastnn {fastnn.__version__}")
    print(f"{'case':28s} {'without':>12s} {'with':>12s} {'ratio':>6s} {'difference':>11s}")
    for case in CASES:
        name, _, rows = case.partition("@")
        shape = net_named(name)
        x = np.random.default_rng(0).random((int(rows), shape.sizes[0]), np.float32)
        calls, outputs = [], []
        for options in ({"amx": False}, {}):
            net = fastnn.Network(shape.sizes, hidden=shape.hidden, output=shape.output, cost=shape.cost, seed=0, dtype="float32", backend=fastnn.get_backend("numba", **options))
            calls.append(functools.partial(net.predict_proba if shape.classes else net.predict, x))
            outputs.append(calls[-1]())
        times = [[timed(call) for call in calls] for _ in range(ROUNDS)]
        without, unit = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{case:28s} {without * 1e6:9,.0f} us {unit * 1e6:9,.0f} us {without / unit:6.2f} {np.abs(outputs[0] - outputs[1]).max():11.1e}", flush=True)


if __name__ == "__main__":
    main()
