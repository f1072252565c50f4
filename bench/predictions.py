"""Predictions of many rows with the matrix unit and without it, and of rows as they come, interleaved; medians, and the
largest difference of outputs.

python bench/predictions.py
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastnn
from fastnn.bench.cases import net_named
from fastnn.bench.environment import describe
from fastnn.kernels.cpu.amx import missing

CASES = [
    f"{net}@{rows}"
    for net in ("784-100-100-10", "784-300-100-10", "784-1024-1024-10", "28-300-300-300-300-1", "1-64-64-1")
    for rows in (1024, 10_000)
]
ROUNDS, SECONDS = 9, 0.1
Call = Callable[[], Any]


def timed(call) -> float:
    """Seconds of one call."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        call()
        count += 1
    return (time.perf_counter() - began) / count


def compared(case: str, calls: list[Call]) -> None:
    """A line: both calls' medians, their ratio, and how far their outputs lie apart."""
    outputs = [call() for call in calls]
    times = [[timed(call) for call in calls] for _ in range(ROUNDS)]
    first, second = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{case:36s} {first * 1e6:9,.0f} us {second * 1e6:9,.0f} us {first / second:6.2f} "
        f"{np.abs(outputs[0] - outputs[1]).max():11.1e}",
        flush=True,
    )


def network(name: str, **options: bool) -> fastnn.Network:
    """With its first weights, on the Numba engine."""
    shape = net_named(name)
    return fastnn.Network(
        shape.sizes,
        hidden=shape.hidden,
        output=shape.output,
        cost=shape.cost,
        seed=0,
        dtype="float32",
        backend=fastnn.get_backend("numba", **options),
    )


def predicting(net: fastnn.Network, x: np.ndarray) -> Call:
    """The call."""
    return functools.partial(net.predict_proba if net.sizes[-1] > 1 else net.predict, x)


def with_and_without_the_unit() -> None:
    """Of float32."""
    if reason := missing():
        print(f"there is no matrix unit to compare: {reason}")
        return
    print(f"{'case':36s} {'without':>12s} {'with':>12s} {'ratio':>6s} {'difference':>11s}")
    for case in CASES:
        name, _, rows = case.partition("@")
        x = np.random.default_rng(0).random((int(rows), net_named(name).sizes[0]), np.float32)
        compared(case, [predicting(network(name, amx=False), x), predicting(network(name), x)])


def as_they_come() -> None:
    """Rows of other dtypes, converted by NumPy before the call, and given as they are."""
    print(f"{'case':36s} {'converted':>12s} {'as they come':>12s} {'ratio':>6s} {'difference':>11s}")
    pixels = np.random.default_rng(0).integers(0, 256, (10_000, 784)).astype(np.uint8)
    for name in ("784-30-10", "784-100-100-10", "784-300-100-10", "784-1024-1024-10"):
        net = network(name)
        net.scale = 1 / 255
        for x, convert in (
            (pixels, lambda x: x.astype(np.float32) * np.float32(1 / 255)),
            (pixels / 255, lambda x: x.astype(np.float32)),
        ):
            compared(
                f"{name}@10000, {x.dtype}",
                [lambda x=x, convert=convert, net=net: net.predict_proba(convert(x)), predicting(net, x)],
            )


def main() -> None:
    """Prints a line for each case."""
    environment = describe()
    print(f"{environment['cpu']}, {environment['cores']} cores, {environment['date']}, fastnn {fastnn.__version__}")
    with_and_without_the_unit()
    as_they_come()


if __name__ == "__main__":
    main()
