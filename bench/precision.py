"""MNIST's test accuracy after training in fp32, tf32 and bf16: the CuPy engine's own kernels and program, on the CPU
where there is no GPU.

    python bench/precision.py --data DIR                      # or FASTNN_MNIST; minutes for each training on one core
    python bench/precision.py --out bench/results/precision   # writes .json and .txt after every training

Without a usable GPU the engine runs on the tests' stand-in of a device (tests/cuda_on_cpu), which computes its matrix
products in NumPy from factors that are rounded as the tensor cores' are: bf16 to 8 bits, tf32 to 11. That NVIDIA's
tensor cores round to tf32, rather than cut off, is not documented, so both are tried. What is shown then is accuracy
alone; the times are of no GPU.

Network 784-300-100-10, ReLU, softmax with cross-entropy, Adam, all 60,000 rows, pixels / 255; for each seed the same
initial weights and order of rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from fastnn.bench import environment
from fastnn.data import mnist

SIZES, BATCH = (784, 300, 100, 10), 256
ALLOWED = 0.1  # per cent that bf16 may lose
VARIANTS = ("fp32", "tf32", "tf32, cut off", "bf16")


def nearest_bfloat16(x: Any) -> Any:
    """bfloat16 bits of finite float32 numbers, to nearest, ties to even, by integer arithmetic; the tests' own way
    is exact arithmetic, and slow.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def nearest_tf32(x: Any) -> Any:
    """float32 numbers rounded to 10 bits of mantissa, likewise."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(0xFFF) + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def cut_tf32(x: Any) -> Any:
    """float32 numbers without the last 13 bits of their mantissa."""
    return (np.ascontiguousarray(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


class StandIn:
    """The engine over the tests' device, with the faster roundings."""

    def __init__(self) -> None:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
        import cuda_on_cpu
        from cuda_on_cpu import products

        x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
        assert np.array_equal(nearest_bfloat16(x), products.rounded(x))
        assert np.array_equal(nearest_tf32(x), products.tf32(x))
        self.products, self.backend = products, cuda_on_cpu.make_backend()
        products.rounded = nearest_bfloat16

    def engine(self, variant: str) -> Any:
        self.products.tf32 = cut_tf32 if variant == VARIANTS[2] else nearest_tf32
        return self.backend


class Device:
    """The engine on a GPU, which rounds as it does."""

    def __init__(self) -> None:
        self.backend = fastnn.get_backend("cupy")

    def engine(self, variant: str) -> Any:
        return self.backend


def train(variant: str, seed: int, epochs: int, data: Any, where: StandIn | Device) -> dict[str, Any]:
    """One training run: test accuracy in per cent and training cost at its end."""
    precision = variant.partition(",")[0]
    net = fastnn.Network(SIZES, seed=seed, precision=precision, backend=where.engine(variant))
    began = time.perf_counter()
    history = net.fit(data.X, data.y, optimizer="adam", batch_size=BATCH, epochs=epochs, seed=seed, scale=data.scale)
    return {
        "variant": variant,
        "seed": seed,
        "epochs": epochs,
        "cost": history.cost[-1],
        "test_accuracy": 100 * net.score(*data.test),
        "seconds": time.perf_counter() - began,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Accuracy of each precision, and its difference from fp32 seed by seed."""
    lines = [
        (
            f"{'precision':14}  {'seeds':>5}  {'accuracy, mean':>14}  {'range':>15}  {'minus fp32, mean':>16}  "
            f"{'range':>15}  {'cost, mean':>10}"
        )
    ]
    exact = {run["seed"]: run["test_accuracy"] for run in runs if run["variant"] == "fp32"}
    for variant in VARIANTS:
        mine = [run for run in runs if run["variant"] == variant and run["seed"] in exact]
        if mine:
            found, lost = (
                [run["test_accuracy"] for run in mine],
                [run["test_accuracy"] - exact[run["seed"]] for run in mine],
            )
            lines.append(
                f"{variant:14}  {len(mine):5}  {statistics.mean(found):14.3f}  {min(found):6.2f} .. "
                f"{max(found):5.2f}  {statistics.mean(lost):+16.3f}  "
                f"{min(lost):+6.2f} .. {max(lost):+5.2f}  {statistics.mean(run['cost'] for run in mine):10.5f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default=os.environ.get(mnist.VARIABLE), help="folder with the four IDX files of MNIST"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.txt")
    given = parser.parse_args()
    data, runs = mnist.load(given.data), []
    try:
        where: StandIn | Device = Device()
        variants, place = [variant for variant in VARIANTS if "," not in variant], "on a GPU"
    except fastnn.BackendUnavailable:
        where, variants, place = (
            StandIn(),
            list(VARIANTS),
            "on the CPU, through the tests' stand-in of a device: accuracy alone, and nothing of a GPU's speed",
        )
    print(f"784-300-100-10, Adam, batch {BATCH}, {given.epochs} epochs, {place}")
    for seed in range(given.seeds):
        for variant in variants:
            runs.append(train(variant, seed, given.epochs, data, where))
            print(
                f"seed {seed}  {variant:14}  {runs[-1]['test_accuracy']:.2f} %  {runs[-1]['seconds']:.0f} s",
                flush=True,
            )
            if given.out is not None:
                found = {
                    "sizes": SIZES,
                    "batch": BATCH,
                    "epochs": given.epochs,
                    "where": place,
                    "environment": environment.describe(),
                    "runs": runs,
                }
                given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
                given.out.with_suffix(".txt").write_text(
                    f"784-300-100-10, Adam, batch {BATCH}, {given.epochs} epochs, {place}\n\n{table(runs)}\n"
                )
    print(table(runs))


if __name__ == "__main__":
    main()
