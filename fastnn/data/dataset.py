"""A data set as the command line trains on it, and its parts once the rows are dealt out."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from ..errors import DataFileError
from .features import feature_names
from .preprocessing import fit_scaling, scale_features, scale_target
from .splits import last_rows, split_rows

__all__ = ["GUESSED", "TEST_FRACTION", "DataSet", "Parts", "deal"]

Array = NDArray[Any]
GUESSED = "task: "  # how a note begins that says so
TEST_FRACTION = 0.2  # of a set that brings no test rows of its own


@dataclass
class DataSet:
    """Rows with targets, not split and not scaled.

    Attributes
    ----------
    name, title : str
        For file names; for people.
    X : (n, features)
        Integers for pixels, float64 for tables.
    y : (n,)
        int64 codes 0..K-1 for classification, float64 for regression.
    preprocessing : dict
        What is stored with the model (see `fastnn.data.preprocessing`); `deal` adds the scaling of a table.
    task : str
        "classification" or "regression".
    classes : list or None
        What code k stands for.
    test : (X, y) or None
        Test rows of its own.
    scale : float or None
        Factor for integer pixels, for `Network.fit`.
    notes : list of str
        What was guessed or is worth knowing.
    """

    name: str
    title: str
    X: Array
    y: Array
    preprocessing: dict[str, Any]
    task: str = "classification"
    classes: list[Any] | None = None
    test: tuple[Array, Array] | None = None
    scale: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """Disjoint rows, ready for `fit` and `score`: (X, y) each; validation is None where none was asked for, and test
    has no rows then.
    """

    train: tuple[Array, Array]
    validation: tuple[Array, Array] | None
    test: tuple[Array, Array]
    preprocessing: dict[str, Any]


def deal(
    data: DataSet,
    *,
    validation: float,
    seed: int,
    cost: str = "squared_error",
    test: float = TEST_FRACTION,
    chronological: bool = False,
) -> Parts:
    """Split the rows and scale a table by its training rows alone.

    Parameters
    ----------
    data : DataSet
        Appended to: notes about constant columns.
    validation : float
        Fraction of the rows left after the test rows, in [0, 1).
    seed : int
        Of the split.
    cost : str
        With which quantities are learnt; their unit goes with it (fastnn/robust.py).
    test : float
        Fraction of all rows, in [0, 1), of a set that brings no test rows of its own; with 0 there are none.
    chronological : bool
        Test rows are the last ones, and validation rows those before them, instead of random ones.

    Raises
    ------
    DataFileError
        Too few rows, or rows of a class among those of a part, for the split; values too large to standardise; targets
        below 0 with poisson.
    """
    if cost == "poisson" and data.task == "regression":
        for y in (data.y,) if data.test is None else (data.y, data.test[1]):
            if (y < 0).any():
                raise DataFileError(f"the target must be >= 0 for poisson, which is for counts, and one is {y.min():g}")
    codes = data.y if data.classes is not None else None
    held_out = test if data.test is None else 0.0
    split = last_rows if chronological else functools.partial(split_rows, seed=seed)
    try:
        rows = split(len(data.X), test=held_out, validation=validation, classes=codes, names=data.classes)
    except DataFileError as error:  # of counts that were taken for classes, perhaps
        guess = "".join(f" ({note})" for note in data.notes if note.startswith(GUESSED))
        raise DataFileError(f"{error}{guess}") from None
    preprocessing = dict(data.preprocessing)
    if preprocessing["kind"] == "table":
        targets = data.y[rows.train] if data.task == "regression" else None
        names = feature_names(preprocessing["columns"], preprocessing.get("categories", {}))
        preprocessing |= fit_scaling(names, data.X, targets, data.notes, cost=cost, rows=rows.train)

    def part(X: Array, y: Array, of: Array | None = None) -> tuple[Array, Array]:
        y = y if of is None else y[of]
        if preprocessing["kind"] != "table":
            return X if of is None else X[of], y
        y = y if data.task == "classification" else scale_target(preprocessing, y)
        return scale_features(preprocessing, X, of), y

    watched = part(data.X, data.y, rows.validation) if len(rows.validation) else None
    tested = part(*data.test) if data.test is not None else part(data.X, data.y, rows.test)
    return Parts(part(data.X, data.y, rows.train), watched, tested, preprocessing)
