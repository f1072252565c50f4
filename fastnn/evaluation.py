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
    r2, rmse : float or None
        Of quantities: R^2, and the root of the mean squared error in the unit of the file.
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


def evaluated(net: Network, known: Mapping[str, Any], X: Any, y: Any) -> Evaluation:
    """Of rows and targets as the network takes them, scaled already; known: its preprocessing."""
    cost, classes, h = net.mean_cost(X, y, l2=False), known["classes"], net._outputs(X)
    if classes is not None:
        matrix = confusion_matrix(np.asarray(y), np.asarray(net._answers(h)), len(classes))
        return Evaluation(len(y), cost, float(matrix.trace() / matrix.sum()), confusion=matrix, classes=list(classes))
    error = preprocessing.unscale_target(dict(known), net._answers(h)) - preprocessing.unscale_target(dict(known), y)
    return Evaluation(len(y), cost, r2=net._score(h, y), rmse=float(np.sqrt(np.mean(error**2))))


def evaluate_file(net: Network, path: str | os.PathLike[str]) -> Evaluation:
    """Of a table with the model's columns, in any order, and its target.

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
