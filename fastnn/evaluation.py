"""How right a network is on rows whose answers are known: what `fastnn train` says of its test rows, and
`fastnn evaluate` of another file.

>>> net = fastnn.load("runs/iris.safetensors")                # doctest: +SKIP
>>> evaluate_file(net, "more.csv").accuracy                   # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .confusion import confusion_matrix
from .d2 import r2
from .data import preprocessing, tables
from .errors import ModelFileError
from .network import Network
from .prediction import scaled

__all__ = ["Evaluation", "evaluate_file", "evaluated"]


@dataclass
class Evaluation:
    """What a network is worth on some rows.

    Attributes
    ----------
    rows : int
    cost : float
        Mean cost, without L2, of targets as the network has them (quantities of a table: standardised).
    accuracy : float or None
        Fraction of rows that are right, and None of quantities.
    balanced_accuracy : float or None
        Mean over the classes that occur of the fraction of their rows that are right.
    f1 : float or None
        Mean over the classes that occur, or were answered, of F1 = 2 TP / (2 TP + FP + FN).
    roc_auc : float or None
        Of two classes that both occur: the probability that of a row of each the second class's has the larger
        probability of that class, ties counted half (J. A. Hanley and B. J. McNeil, Radiology 143, 1982, 29-36).
    r2, rmse, mae : float or None
        Of quantities: R^2, and in the unit of the file the root of the mean squared and the mean absolute error.
    below : float or None
        Of a network that was trained for a quantile: the fraction of targets below its answers.
    majority : (class, float) or None
        The most frequent class of these rows, and the accuracy of who always answers that.
    confusion : (K, K) int64 or None
        Rows of class t that were answered p.
    classes : list or None
        Names of the classes.
    notes : list of str
        What was ignored or converted.
    """

    rows: int
    cost: float
    accuracy: float | None = None
    r2: float | None = None
    rmse: float | None = None
    mae: float | None = None
    below: float | None = None
    roc_auc: float | None = None
    confusion: NDArray[np.int64] | None = None
    classes: list[Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def majority(self) -> tuple[Any, float] | None:
        if self.confusion is None or self.classes is None:
            return None
        of_class = self.confusion.sum(axis=1)
        most = int(of_class.argmax())
        return self.classes[most], float(of_class[most] / of_class.sum())

    @property
    def balanced_accuracy(self) -> float | None:
        if self.confusion is None:
            return None
        rows = self.confusion.sum(axis=1)
        return float((self.confusion.diagonal()[rows > 0] / rows[rows > 0]).mean())

    @property
    def f1(self) -> float | None:
        if self.confusion is None:
            return None
        both = self.confusion.sum(axis=1) + self.confusion.sum(axis=0)  # 2 TP + FN + FP
        return float((2 * self.confusion.diagonal()[both > 0] / both[both > 0]).mean())


def _roc_auc(p: NDArray[Any], second: NDArray[np.bool_]) -> float | None:
    """By the ranks of p, those of ties averaged; None where one of the two does not occur."""
    m, n = int(second.sum()), int((~second).sum())
    if not m or not n:
        return None
    _, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    return float((ranks[place][second].sum() - m * (m + 1) / 2) / (m * n))


def evaluated(net: Network, known: Mapping[str, Any], X: Any, y: Any) -> Evaluation:
    """Of rows and targets as the network takes them, scaled already; known: its preprocessing."""
    cost, classes, h = net.mean_cost(X, y, l2=False), known["classes"], net._outputs(X)
    if classes is not None:
        matrix = confusion_matrix(np.asarray(y), np.asarray(net._answers(h)), len(classes))
        auc = _roc_auc(np.asarray(h, np.float64)[:, 1], np.asarray(y) == 1) if len(classes) == 2 else None
        accuracy = float(matrix.trace() / matrix.sum())
        return Evaluation(len(y), cost, accuracy, roc_auc=auc, confusion=matrix, classes=list(classes))
    error = preprocessing.unscale_target(dict(known), net._answers(h)) - preprocessing.unscale_target(dict(known), y)
    rmse, mae = float(np.sqrt(np.mean(error**2))), float(np.abs(error).mean())
    below = float((error > 0).mean()) if net.cost.startswith("quantile") else None
    return Evaluation(len(y), cost, r2=r2(np.reshape(y, h.shape), h), rmse=rmse, mae=mae, below=below)


def evaluate_file(net: Network, path: str | os.PathLike[str]) -> Evaluation:
    """Score a network on a labelled table, with the model's columns in any order and its target.

    Raises
    ------
    ModelFileError
        The network was not trained on a table by `fastnn train`.
    DataFileError
        The file is not usable, lacks a column, or holds a class that did not occur in training.
    """
    known = preprocessing.check(net.preprocessing, inputs=net.sizes[0], outputs=net.sizes[-1])
    if known["kind"] != "table":
        raise ModelFileError(f"this network takes {known['kind']}, not the columns of a table; use net.score")
    notes: list[str] = []
    raw, y = tables.load_test(path, known, notes)
    X = scaled(f"{path}: ", known, raw, net.dtype)
    if known["classes"] is None:
        y = preprocessing.scale_target(known, y)
    found = evaluated(net, known, X, y)
    found.notes = notes
    return found
