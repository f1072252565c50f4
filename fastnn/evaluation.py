"""Scores of a network on labelled rows: of the test rows in `fastnn train`, of another file in `fastnn evaluate`.

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

from . import d2
from .confusion import confusion_matrix
from .data import preprocessing, tables
from .data.written import written_as
from .errors import ModelFileError
from .network import Network
from .prediction import scaled

__all__ = ["Evaluation", "evaluate_file", "evaluated"]


@dataclass
class Evaluation:
    """Scores of a network on labelled rows.

    Attributes
    ----------
    rows : int
    cost : float
        Mean cost, without L2, of targets as the network has them (quantities of a table: standardised).
    accuracy : float or None
        Fraction of rows that are right; None for quantities.
    balanced_accuracy : float or None
        Mean over the classes that occur of the fraction of their rows that are right.
    f1 : float or None
        Mean over the classes that occur, or were answered, of F1 = 2 TP / (2 TP + FP + FN).
    roc_auc : float or None
        For two classes that both occur: the probability that a random row of the second class is given a larger
        probability of it than a random row of the first, ties counted half (J. A. Hanley and B. J. McNeil, Radiology
        143, 1982, 29-36).
    r2, rmse, mae : float or None
        Of quantities: R^2, and in the unit of the file the root of the mean squared and the mean absolute error.
    quantile : float or None
        That for which the network was trained; 0.5, the median, of absolute errors.
    pinball : float or None
        Of a network that was trained for a quantile q: the mean over the rows of q (y - h) where the target y is above
        the answer h, else (1 - q) (h - y), in the unit of the file.
    d2 : float or None
        The D^2 score of quantiles and of absolute errors: 1 - loss / loss of the quantile of these targets as the only
        answer, as scikit-learn's d2_pinball_score and d2_absolute_error_score; of poisson the same of the deviance,
        with the mean (d2_tweedie_score with power=1). None of a single row.
    below : float or None
        Of a network that was trained for a quantile: the fraction of targets below its answers.
    majority : (class, float) or None
        The most frequent class of these rows, and the accuracy of always answering it.
    gain : (float, float) or None
        By how much the network is better than one answer for all rows, as a mean over the rows, and the standard error
        of that: of classes the accuracy beyond that of the most frequent class, of quantities the squared error less
        than that of their mean, in its unit, or of a quantile or absolute errors the loss less than that of the
        quantile, or of poisson half the deviance less than that of their mean. None of a single row, or where all
        have the same target.
    better : bool or None
        Whether it is better by more than the standard error.
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
    quantile: float | None = None
    pinball: float | None = None
    d2: float | None = None
    gain: tuple[float, float] | None = None
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
    def better(self) -> bool | None:
        return None if self.gain is None else self.gain[0] > self.gain[1]

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


def _gain(loss: NDArray[Any], of_constant: NDArray[Any]) -> tuple[float, float] | None:
    """How much less the loss of the rows is in the mean, and the standard error of that, the rows being paired."""
    if len(loss) < 2 or not of_constant.any():
        return None
    less = of_constant - loss
    return float(less.mean()), float(less.std(ddof=1) / np.sqrt(len(less)))


def _gain_of_classes(matrix: NDArray[np.int64]) -> tuple[float, float] | None:
    """The same of right answers beyond those of the most frequent class."""
    most = int(matrix.sum(axis=1).argmax())
    lost = int(matrix[most].sum() - matrix[most, most])
    won = int(matrix.trace() - matrix[most, most])
    both = int(matrix[most, most])
    neither = int(matrix.sum()) - lost - won - both
    wrong, of_constant = (np.repeat(v, [lost, won, both, neither]) for v in ([1.0, 0, 0, 1], [0.0, 1, 0, 1]))
    return _gain(wrong, of_constant)


def _pinball(error: NDArray[Any], q: float) -> NDArray[Any]:
    """The loss of each row whose answer is too large by `error`."""
    return np.asarray(error * np.where(error > 0, 1 - q, -q))


def evaluated(net: Network, known: Mapping[str, Any], X: Any, y: Any) -> Evaluation:
    """Scores on rows and targets that are scaled already; known: the network's preprocessing."""
    cost, classes, h = net.mean_cost(X, y, l2=False), known["classes"], net._outputs(X)
    if classes is not None:
        matrix = confusion_matrix(np.asarray(y), np.asarray(net._answers(h)), len(classes))
        auc = _roc_auc(np.asarray(h, np.float64)[:, 1], np.asarray(y) == 1) if len(classes) == 2 else None
        accuracy = float(matrix.trace() / matrix.sum())
        gain = _gain_of_classes(matrix)
        return Evaluation(len(y), cost, accuracy, roc_auc=auc, gain=gain, confusion=matrix, classes=list(classes))
    truth = preprocessing.unscale_target(dict(known), y)
    error = preprocessing.unscale_target(dict(known), net._answers(h)) - truth
    rmse, mae = float(np.sqrt(np.mean(error**2))), float(np.abs(error).mean())
    found = Evaluation(len(y), cost, r2=d2.r2(np.reshape(y, h.shape), h), rmse=rmse, mae=mae)
    if (q := d2.quantile_of(net.cost)) is not None:
        found.quantile = q
        # any quantile of the targets has the least loss of all constants; this is scikit-learn's
        constant = np.quantile(truth, q, method="averaged_inverted_cdf")
        loss, of_constant = _pinball(error, q), _pinball(constant - truth, q)
        found.gain = _gain(loss, of_constant)
        found.d2 = d2.d2_pinball(truth, truth + error, q) if len(y) > 1 else None  # as scikit-learn: not of one row
        if net.cost != "absolute_error":
            found.pinball, found.below = float(loss.mean()), float((error > 0).mean())
    elif net.cost == "poisson":
        h = truth + error
        loss, of_constant = (
            d2.half_poisson_deviance(truth, answer) for answer in (h, np.full_like(truth, truth.mean()))
        )
        found.gain = _gain(loss, of_constant)
        found.d2 = d2.d2_poisson(truth, h) if len(y) > 1 else None
    else:
        found.gain = _gain(error**2, (truth - truth.mean()) ** 2)
    return found


def evaluate_file(
    net: Network, path: str | os.PathLike[str], *, encoding: str | None = None, separator: str | None = None
) -> Evaluation:
    """Score a network on a labelled table, with the model's columns in any order and its target; encoding and separator
    as in `fastnn.prediction.predict_file`.

    Raises
    ------
    TypeError, ValueError
        encoding or separator is not what it should be.
    ModelFileError
        The network was not trained on a table by `fastnn train`.
    DataFileError
        The file is not usable, lacks a column, or holds a class that did not occur in training.
    """
    written = written_as(encoding, separator, option="")
    known = preprocessing.of(net)
    if known["kind"] != "table":
        raise ModelFileError(f"this network takes {known['kind']}, not the columns of a table; use net.score")
    notes: list[str] = []
    raw, y = tables.load_test(path, known, notes, written)
    X = scaled(f"{path}: ", known, raw, net.dtype)
    if known["classes"] is None:
        y = preprocessing.scale_target(known, y)
    found = evaluated(net, known, X, y)
    found.notes = notes
    return found
