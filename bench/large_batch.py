"""MNIST at batch 8192 beside batch 128: the recipe for large batches, five seeds of each.

    python bench/large_batch.py --data DIR                       # or FASTNN_MNIST; about ten minutes on two cores
    python bench/large_batch.py --out bench/results/large-batch  # writes .json and .txt after every training

Network 784-300-100-10, ReLU, softmax with cross-entropy, L2 5, all 60,000 rows, pixels / 255. Rates and lengths were
chosen on 5,000 training rows set apart, with two other seeds (100, 101); the test rows were looked at by this script
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastnn
from fastnn.bench import environment
from fastnn.data import mnist
from fastnn.optimizers import LAMB, LARS, Momentum, Optimizer
from fastnn.schedules import Cosine, Polynomial, WarmUp, scaled

SIZES, L2 = (784, 300, 100, 10), 5.0


@dataclass(frozen=True)
class Recipe:
    """One way to train; rule: makes a fresh optimizer."""

    name: str
    batch: int
    epochs: int
    rule: Callable[[], Optimizer]


RECIPES = (
    Recipe("Momentum, the command line's default", 128, 10, lambda: Momentum(0.05)),
    Recipe("Momentum, as many epochs as below", 128, 20, lambda: Momentum(0.05)),
    Recipe("LARS", 8192, 20, lambda: LARS(WarmUp(Polynomial(60, epochs=20), epochs=5))),
    Recipe("LAMB", 8192, 20, lambda: LAMB(WarmUp(Cosine(0.04, epochs=20), epochs=3))),
    Recipe(
        "Momentum, rate and batch times 64, warm-up", 8192, 20, lambda: Momentum(scaled(0.05, 8192, base_batch=128))
    ),
    Recipe(
        "Momentum, the best of four rates tried (0.2 to 1.6)",
        8192,
        20,
        lambda: Momentum(WarmUp(Cosine(0.2, epochs=20), epochs=3, start=0.05)),
    ),
)


def train(recipe: Recipe, seed: int, data: Any, backend: str) -> dict[str, Any]:
    """One training run: test accuracy at its end, seconds of its steps, the rate of each epoch."""
    net = fastnn.Network(SIZES, l2=L2, seed=seed, backend=backend)
    rule = recipe.rule()
    result = {
        "recipe": recipe.name,
        "rule": repr(rule),
        "batch": recipe.batch,
        "epochs": recipe.epochs,
        "seed": seed,
        "backend": net.backend.name,
    }
    try:
        history = net.fit(
            data.X, data.y, optimizer=rule, batch_size=recipe.batch, epochs=recipe.epochs, seed=seed, scale=data.scale
        )
    except fastnn.Diverged as error:
        return {**result, "test_accuracy": net.score(*data.test), "diverged": str(error)}
    return {
        **result,
        "test_accuracy": net.score(*data.test),
        "train_accuracy": history.accuracy[-1],
        "steps": rule.t,
        "seconds": sum(history.seconds),
        "learning_rate": history.learning_rate,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Median and range of the test accuracy of each recipe, in per cent."""
    lines = [
        f"{'batch':>5}  {'epochs':>6}  {'steps':>6}  {'median':>7}  {'range':>15}  {'seeds':>5}  {'seconds':>7}  rule"
    ]
    for recipe in RECIPES:
        mine = [run for run in runs if run["recipe"] == recipe.name]
        if not mine:
            continue
        accuracy = [100 * run["test_accuracy"] for run in mine]
        diverged = sum("diverged" in run for run in mine)
        seconds = np.median([run.get("seconds", np.nan) for run in mine])
        lines.append(
            f"{recipe.batch:5}  {recipe.epochs:6}  {mine[0].get('steps', 0):6}  {np.median(accuracy):7.2f}  "
            f"{min(accuracy):6.2f} .. {max(accuracy):5.2f}  {len(mine):5}  {seconds:7.1f}  "
            f"{recipe.name}{f' ({diverged} diverged)' if diverged else ''}: {mine[0]['rule']}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default=os.environ.get(mnist.VARIABLE), help="folder with the four IDX files of MNIST"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.txt")
    given = parser.parse_args()
    data, runs, start = mnist.load(given.data), [], time.perf_counter()
    for seed in range(given.seeds):  # seeds outside, so that a slow stretch of the machine hits every recipe
        for recipe in RECIPES:
            runs.append(train(recipe, seed, data, given.backend))
            print(
                f"{time.perf_counter() - start:6.0f} s  seed {seed}  {100 * runs[-1]['test_accuracy']:5.2f} %  "
                f"{recipe.batch:5}  {recipe.name}",
                flush=True,
            )
            if given.out is not None:
                found = {"sizes": SIZES, "l2": L2, "environment": environment.describe(), "runs": runs}
                given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
                given.out.with_suffix(".txt").write_text(table(runs) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
