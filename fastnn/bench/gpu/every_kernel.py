"""Runs every kernel once or more, with sizes that leave tails: what compute-sanitizer watches.

`python -m fastnn.bench.gpu.every_kernel [PLANTED]`. It prints how many kernels ran and which did not. PLANTED is
"memcheck" or "racecheck": a kernel with that fault runs as well, which the tool must report - or it saw nothing.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np

from ... import activations, optimizers
from ...backends import get_backend
from ...kernels.cuda import sources
from ...network import Network
from ..statistics import Result
from . import engine

__all__ = ["PLANTED", "exercise", "main"]

PLANTED = {
    "memcheck": 'extern "C" __global__ void planted(float* x) { x[blockDim.x * 1024 + threadIdx.x] = 1; }',
    "racecheck": (
        'extern "C" __global__ void planted(float* x) { __shared__ float s[64]; s[threadIdx.x] = x[threadIdx.x]; '
        "x[threadIdx.x] = s[63 - threadIdx.x]; }"
    ),
}
# Rows and layer sizes: one unit, odd sizes, more columns than lanes in a warp, more rows than a chunk or block takes.
# Training takes the first two.
SIZES = ((301, (70, 129, 10)), (33, (31, 40, 70)), (7, (5, 3, 2)), (600, (3, 1, 5)))
PAIRS = (
    ("softmax", "cross_entropy"),
    ("sigmoid", "cross_entropy"),
    ("softmax", "squared_error"),
    ("tanh", "squared_error"),
    ("identity", "huber:0.4"),
)
RULES = tuple(sorted(optimizers.OPTIMIZERS))
FUSED_RULES = ("adam", "momentum", "sgd")
HIDDEN = ("relu", "silu", "tanh", "gelu", "leaky_relu")  # of each pair
FUSED_HIDDEN = ("relu", "leaky_relu", "tanh", "sigmoid")  # which the fused kernel does not decline


def exercise(backend: Any, dtypes: tuple[str, ...] = ("float32", "float64"), sizes_: Any = SIZES) -> set[str]:
    """Names of the kernels that ran. Few runs, for each is slow under the tool: every rule with the first sizes and
    pair, one rule elsewhere.
    """
    ran: set[str] = set()
    device = backend.device
    launch = device._launch

    def noted(kernel: str, *rest: Any) -> None:
        ran.add(kernel)
        launch(kernel, *rest)

    def untimed(work: Any, *, recorded: bool = True) -> float:
        work()  # every candidate once, and the first of them is taken
        return 0.0

    device._launch, device.seconds = noted, untimed
    try:
        with engine.fusing(backend, False):
            for dtype in dtypes:
                precisions = ("fp32", "bf16") if dtype == "float32" and device.no_products is None else ("fp32",)
                for precision in precisions:
                    for place, (rows, sizes) in enumerate(sizes_[:2]):
                        for number, (output, cost) in enumerate(PAIRS):
                            _train(
                                backend, dtype, rows, sizes, output, cost, number,
                                RULES if (place, number) == (0, 0) else ("adam",), precision, HIDDEN[number],
                                dropout=0.3 if number == 1 else 0.0,
                            )  # fmt: skip
                for rows, sizes in sizes_:
                    _operations(backend, dtype, rows, sizes)
        with engine.fusing(backend, True):
            rows, sizes = sizes_[1]
            for dtype in dtypes:
                for number, (output, cost) in enumerate(PAIRS):
                    if ":" not in cost:  # which the fused kernel declines
                        _train(
                            backend, dtype, rows, sizes, output, cost, number, FUSED_RULES, "fp32", FUSED_HIDDEN[number]
                        )
        backend.synchronize()
    finally:
        del device._launch, device.seconds
    return ran


def _data(rng: Any, rows: int, sizes: tuple[int, ...], output: str, cost: str, classes: bool) -> tuple[Any, Any]:
    X = rng.standard_normal((rows, sizes[0]))
    if classes:
        return X, rng.integers(0, sizes[-1], rows)
    values = rng.uniform(0.1, 0.9, (rows, sizes[-1]))
    return X, values / values.sum(axis=1, keepdims=True) if output == "softmax" else values


def _train(
    backend: Any,
    dtype: str,
    rows: int,
    sizes: tuple[int, ...],
    output: str,
    cost: str,
    number: int,
    rules: tuple[str, ...],
    precision: str,
    hidden: str,
    dropout: float = 0.0,
) -> None:
    """A few steps, the last batch short; targets as classes and, where they may be, as values; reduced precision
    reads bytes.
    """
    rng = np.random.default_rng(number)
    values_alone = ":" in cost or (cost == "cross_entropy" and output != "softmax")
    kinds = (False,) if values_alone else (True, False)
    for classes in kinds:
        X, y = _data(rng, rows, sizes, output, cost, classes)
        x, scale = (X.astype(dtype), None) if precision == "fp32" else (np.abs(100 * X).astype(np.uint8), 0.01)
        for rule in rules:
            net = Network(
                sizes,
                hidden=hidden,
                output=output,
                cost=cost,
                l2=0.1,
                dtype=dtype,
                precision=precision,
                backend=backend,
                seed=number,
                dropout=dropout,
            )
            clips = rule == "sgd" and len(rules) == len(RULES)  # once is enough, and longer than that it is in any case
            chosen = optimizers.SGD(0.1, clip_norm=1e-3) if clips else rule
            net.fit(x, y, optimizer=chosen, batch_size=max(2, rows // 3), epochs=1, scale=scale)
            net.score(X.astype(dtype), y)


def _operations(backend: Any, dtype: str, rows: int, sizes: tuple[int, ...]) -> None:
    """The operations that a program does in a fused way, one by one."""
    rng = np.random.default_rng(rows)
    x, W, b, delta = (
        backend.asarray(rng.standard_normal(shape).astype(dtype))
        for shape in ((rows, sizes[0]), (sizes[1], sizes[0]), (sizes[1],), (rows, sizes[1]))
    )
    z = backend.dense_forward(x, W, b)
    for name in activations.ACTIVATIONS:
        backend.activate(name, z)
    a = backend.activate("tanh", x)
    backend.propagate_delta(delta, W, "tanh", x, a)
    backend.propagate_delta(delta, W, "silu", x, a)
    Delta_W, Delta_b = backend.zeros((sizes[1], sizes[0]), np.dtype(dtype)), backend.zeros((sizes[1],), np.dtype(dtype))
    backend.accumulate(Delta_W, Delta_b, delta, x)
    h = backend.activate("softmax", z)
    values = backend.asarray(rng.uniform(0.1, 0.9, (rows, sizes[1])).astype(dtype))
    classes = backend.asarray(rng.integers(0, sizes[1], rows))
    for output, cost, y in (
        ("softmax", "cross_entropy", classes),
        ("softmax", "cross_entropy", values / values.sum(axis=1)[:, None]),
        ("softmax", "squared_error", classes),
        ("softmax", "squared_error", values),
        ("identity", "squared_error", classes),
        ("identity", "squared_error", values),
        ("identity", "huber:0.4", values),
        ("exp", "poisson", values),
        ("sigmoid", "cross_entropy", values),
    ):
        out = h if output == "softmax" else z if output == "identity" else backend.activate(output, z)
        backend.output_delta(output, cost, z, out, y)
        backend.cost_sum(output, cost, z, out, y)
    backend.all_finite(x)


def plant(fault: str) -> None:
    """Run the kernel with this fault on the device."""
    cupy = importlib.import_module("cupy")
    kernel = cupy.RawKernel(PLANTED[fault], "planted")
    x = cupy.ones(64, np.float32)
    kernel((1,), (64,), (x,))
    cupy.cuda.get_current_stream().synchronize()


def report(ran: set[str]) -> Result:
    """How many kernels ran, and the names of those that did not."""
    return {"kernels": len(ran), "missing": sorted(set(sources.kernels()) - ran)}


def main(planted: str = "") -> None:
    """Run on the current device."""
    if planted:
        plant(planted)
        return
    # no pool: every array has bounds of its own, which memcheck can watch; a program's arena is one array
    importlib.import_module("cupy").cuda.set_allocator(None)
    found = report(exercise(get_backend("cupy")))
    print(f"kernels: {found['kernels']}; missing: {' '.join(found['missing'])}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
