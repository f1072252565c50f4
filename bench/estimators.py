"""fastnn's estimators beside scikit-learn's MLP on the small data sets that come with scikit-learn: time of a fit, and
score on rows not seen.

    python bench/estimators.py                    # a minute or two

The same network (100 ReLU units), rule (Adam, 0.001), rows a step (32), epochs (100) and L2 term on both sides, neither
stops early; standardised inputs in float32, five folds, both sides one after the other in each round with its own seed.
scikit-learn's BLAS has the number of threads with which its first fit is faster. Seconds are medians over folds and
rounds of `fit` alone, compilation (before the first round) left out; the ratio is the median of the folds' own. Initial
weights and the order of rows are each side's own, so scores differ by chance too. scikit-learn does not scale the
targets of a regression, fastnn's estimator does; `scaled` gives scikit-learn scaled ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

import fastnn
from fastnn.bench.environment import describe
from fastnn.bench.load import cores
from fastnn.estimators import DenseClassifier, DenseRegressor

UNITS, ROWS, EPOCHS, L2 = 100, 32, 100, 3.0
SETS = {
    "iris": (load_iris, "classes"),
    "wine": (load_wine, "classes"),
    "breast cancer": (load_breast_cancer, "classes"),
    "digits": (load_digits, "classes"),
    "diabetes": (load_diabetes, "values"),
    "diabetes, scaled": (load_diabetes, "scaled"),
}


def ours(kind: str, rows: int, seed: int) -> Any:
    made = DenseClassifier if kind == "classes" else DenseRegressor
    return made(
        hidden_layer_sizes=(UNITS,), learning_rate=1e-3, batch_size=ROWS, epochs=EPOCHS, l2=L2, random_state=seed
    )


def theirs(kind: str, rows: int, seed: int) -> Any:
    """Their L2 term is alpha / (2 rows of the step), ours lambda / (2 rows in all)."""
    made = MLPClassifier if kind == "classes" else MLPRegressor
    model = made(
        hidden_layer_sizes=(UNITS,), batch_size=ROWS, max_iter=EPOCHS, alpha=L2 * ROWS / rows, tol=0,
        n_iter_no_change=EPOCHS, random_state=seed,
    )  # fmt: skip
    return TransformedTargetRegressor(model, transformer=StandardScaler()) if kind == "scaled" else model


def fold(make: Callable[..., Any], kind: str, seed: int, X: Any, y: Any, train: Any, test: Any) -> tuple[float, float]:
    """(seconds of the fit, score)."""
    scaler = StandardScaler().fit(X[train])
    model, inputs = make(kind, len(train), seed), scaler.transform(X[train]).astype(np.float32)
    began = time.perf_counter()
    model.fit(inputs, y[train])
    seconds = time.perf_counter() - began
    return seconds, model.score(scaler.transform(X[test]).astype(np.float32), y[test])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    about, versions = describe(), f"fastnn {fastnn.__version__}, scikit-learn {sklearn.__version__}"
    print(f"{versions}; {about['cpu']}, {about['cores']} cores; load {about['load']}; {about['date']}")
    print(f"{'':18}{'rows':>6}{'fastnn':>11}{'sklearn':>11}{'ratio':>8}{'fastnn score':>17}{'sklearn score':>17}")
    warnings.simplefilter("ignore", ConvergenceWarning)  # a hundred epochs, whether or not that is enough
    for name, (load, kind) in SETS.items():
        X, y = load(return_X_y=True)
        split = (StratifiedKFold if kind == "classes" else KFold)(5, shuffle=True, random_state=0)
        folds = list(split.split(X, y))
        fold(ours, kind, 0, X, y, *folds[0])  # compiles
        tried = {}
        for threads in range(1, cores() + 1):
            with threadpool_limits(threads):
                tried[threads] = min(fold(theirs, kind, 0, X, y, *folds[0])[0] for _ in range(2))
        fastest = min(tried, key=lambda threads: tried[threads])
        found: dict[Any, list[tuple[float, float]]] = {ours: [], theirs: []}
        for seed in range(rounds):
            for train, test in folds:
                found[ours].append(fold(ours, kind, seed, X, y, train, test))
                with threadpool_limits(fastest):
                    found[theirs].append(fold(theirs, kind, seed, X, y, train, test))
        seconds = [[s for s, _ in results] for results in found.values()]
        scores = [[score for _, score in results] for results in found.values()]
        ratio = statistics.median(b / a for a, b in zip(*seconds, strict=True))
        shown = "".join(f"{np.mean(values):10.3f} ± {np.std(values):.2f}" for values in scores)
        print(
            f"{name:18}{len(X):6}{statistics.median(seconds[0]):9.3f} s{statistics.median(seconds[1]):9.3f} s"
            f"{ratio:8.1f}{shown}",
            flush=True,
        )


if __name__ == "__main__":
    main()
