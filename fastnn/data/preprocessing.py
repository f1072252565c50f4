"""What a model remembers about its data, so that `predict` repeats it: a plain dict, stored as JSON.

    images:  {"version": 1, "kind": "images", "shape": [height, width], "classes": [0, ..., 9]}
    table:   {"version": 1, "kind": "table", "task": "classification" | "regression", "target": name,
              "columns": [names], "classes": [values] | None,
              "categories": {column: [names]}, "missing": "mean",        # if there are any; if it may be
              "decimal": "comma",                                        # if numbers are written so
              "positions": number,                                       # of columns, if these are called "0", ...
              "feature_mean": [numbers], "feature_factor": [numbers],    # of each input, see features.py
              "target_mean": number, "target_std": number}                  # the last two for regression

A feature becomes (x - mean) * factor with factor = 1 / standard deviation, both of the training rows;
a column that is constant there has factor 0, because no weight for it could be learned. A number that is missing
becomes 0, which is the mean. A regression
target becomes (y - mean) / std and a prediction goes the other way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError, ModelFileError
from ..robust import centre_and_spread, is_robust
from ..version import written_by
from .features import feature_names

__all__ = ["check", "fit_scaling", "of", "scale_features", "scale_target", "unscale_target"]

Floats = NDArray[np.float64]
VERSION = 1
BLOCK = 1 << 17  # numbers at a time
TINY = 1e-150  # of smaller numbers the squares vanish


def fit_scaling(
    columns: list[str],
    X: Floats,
    y: Floats | None,
    notes: list[str],
    *,
    cost: str = "squared_error",
    rows: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Means and factors of the training rows.

    Parameters
    ----------
    columns : list of str
        Names of X's columns.
    X : (m, n) float64
        NaN where a number is missing.
    y : (m,) float64 or None
        Regression targets.
    notes : list of str
        Appended to: constant columns.
    cost : str
        With which targets are learnt: those that do not mind a few wild ones have a unit that does not either
        (fastnn/robust.py). With poisson they are taken as they are: the mean here is 0, the deviation 1.
    rows : (k,) integers, optional
        Those of X that count; all if not given.

    Raises
    ------
    DataFileError
        Values so large that their spread overflows, or a constant regression target.
    """
    mean, std, constant = _spread(X, rows)
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        column = columns[int(np.argmin(np.isfinite(mean) & np.isfinite(std)))]
        largest = np.nanmax(np.abs(X if rows is None else X[rows]))
        raise DataFileError(f"column {column!r} holds values too large to standardise (up to {largest:g})")
    if constant.any():
        names = [name for name, flat in zip(columns, constant, strict=True) if flat]
        shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        notes.append(
            f"{len(names)} column{'s' * (len(names) > 1)} constant over the training rows and therefore without "
            f"influence: {shown}"
        )
    with np.errstate(over="ignore"):
        factor = np.where(constant, 0, 1 / np.where(constant, 1, std))
    if not np.isfinite(factor).all():
        raise DataFileError(
            f"column {columns[int(np.argmin(np.isfinite(factor)))]!r} holds values too small to standardise; give "
            "them in another unit"
        )
    scaling: dict[str, Any] = {"feature_mean": mean.tolist(), "feature_factor": factor.tolist()}
    if y is not None:
        target_mean, target_std, flat_target = (float(v[0]) for v in _spread(y[:, None]))
        if flat_target or not math.isfinite(target_std):
            raise DataFileError(
                "the target is constant over the training rows: nothing to learn"
                if flat_target
                else "the target's values are too large to standardise"
            )
        if cost == "poisson":
            target_mean, target_std = 0.0, 1.0
        elif is_robust(cost):
            target_mean, target_std = (float(v[0]) for v in centre_and_spread(cost, y[:, None]))
        scaling |= {"target_mean": target_mean, "target_std": target_std}
    return scaling


def _spread(X: Floats, rows: NDArray[Any] | None = None) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Mean, standard deviation and "is constant" of each column, over these rows; numbers that are missing do not
    count. A few rows at a time, each added to the sum of those before, as NumPy adds them.
    """
    m, n = len(X) if rows is None else len(rows), X.shape[1]
    step = max(1, BLOCK // n) if n > 1 else m  # of one column NumPy adds pairs

    def blocks() -> Iterator[Floats]:
        for at in range(0, m, step):
            yield X[at : at + step].copy() if rows is None else X[rows[at : at + step]]

    count, total, squares, largest = np.full(n, m), np.zeros(n), np.zeros(n), np.zeros(n)
    with np.errstate(all="ignore"):  # what overflows is refused by the caller
        for part in blocks():
            largest = np.maximum(largest, np.fmax.reduce(np.abs(part), axis=0, initial=0.0))
            if (gone := np.isnan(part)).any():
                count -= gone.sum(axis=0)
                part[gone] = 0
            part[0] += total
            total = np.add.reduce(part, axis=0)
        holes = bool((count < m).any())
        count[count == 0] = m  # a column without a single number is constant
        mean = total / count
        tiny = (largest < TINY) & (largest > 0)  # whose squares would be 0
        unit = np.where(tiny, largest, 1)
        for part in blocks():
            part -= mean
            if tiny.any():
                part /= unit
            part *= part
            if holes:
                part[np.isnan(part)] = 0
            part[0] += squares
            squares = np.add.reduce(part, axis=0)
        std = np.sqrt(squares / count) * unit
        # Rounding of the mean leaves a spread of a few eps in a column of equal values.
        return mean, std, std <= 8 * np.finfo(np.float64).eps * largest


def scale_features(preprocessing: dict[str, Any], X: Floats, rows: NDArray[Any] | None = None) -> Floats:
    """(x - mean) * factor of each column, 0 for what is missing, a fresh (m, n) float64; of these rows alone, if any
    are given.
    """
    mean, factor = (np.array(preprocessing[key], np.float64) for key in ("feature_mean", "feature_factor"))
    m = len(X) if rows is None else len(rows)
    scaled, step = np.empty((m, X.shape[1])), max(1, BLOCK // X.shape[1])
    for at in range(0, m, step):  # few enough rows for a processor's cache
        part = np.subtract(X[at : at + step] if rows is None else X[rows[at : at + step]], mean, scaled[at : at + step])
        part *= factor
        if preprocessing.get("missing") == "mean":
            part[np.isnan(X[at : at + step] if rows is None else X[rows[at : at + step]])] = 0
    return scaled


def scale_target(preprocessing: dict[str, Any], y: Floats) -> Floats:
    """(y - mean) / std, a fresh (m,) float64."""
    return np.asarray((y - preprocessing["target_mean"]) / preprocessing["target_std"], np.float64)


def unscale_target(preprocessing: dict[str, Any], h: Floats) -> Floats:
    """Predictions (m,) in the units of the file, fresh float64."""
    return np.asarray(
        np.asarray(h, np.float64) * preprocessing["target_std"] + preprocessing["target_mean"], np.float64
    )


def of(net: Any) -> dict[str, Any]:
    """`check` of a network's preprocessing; errors name the version of fastnn that wrote its file, if it is another."""
    try:
        return check(net.preprocessing, inputs=net.sizes[0], outputs=net.sizes[-1])
    except ModelFileError as error:
        raise ModelFileError(f"{error}{written_by(net._written_by) if net.preprocessing is not None else ''}") from None


def check(preprocessing: Any, *, inputs: int, outputs: int) -> dict[str, Any]:
    """The dict if it is one of the two kinds above and fits a network of so many inputs and outputs.

    Raises
    ------
    ModelFileError
        Missing, of another version, or contradicting itself or the network.
    """
    if preprocessing is None:
        raise ModelFileError(
            "the model does not say how its data was prepared (it was not trained by `fastnn train`); use fastnn.load "
            "and net.predict"
        )
    if not isinstance(preprocessing, dict) or preprocessing.get("kind") not in ("images", "table"):
        raise ModelFileError("the model's preprocessing is of a kind this version does not know")
    if preprocessing.get("version") != VERSION:
        raise ModelFileError(
            f"the model's preprocessing has version {preprocessing.get('version')!r}, this fastnn knows {VERSION}"
        )
    wrong = (
        _image_fault(preprocessing, inputs, outputs)
        if preprocessing["kind"] == "images"
        else _table_fault(preprocessing, inputs, outputs)
    )
    if wrong:
        raise ModelFileError(f"the model's preprocessing is damaged: {wrong}")
    return preprocessing


def _image_fault(p: dict[str, Any], inputs: int, outputs: int) -> str:
    shape = p.get("shape")
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(isinstance(s, int) and s > 0 for s in shape)
        and math.prod(shape) == inputs
    ):
        return f"shape {shape!r} is not that of images of {inputs} pixels"
    return _class_fault(p, outputs)


def _table_fault(p: dict[str, Any], inputs: int, outputs: int) -> str:
    columns, categories = p.get("columns"), p.get("categories", {})
    if not (
        isinstance(columns, list)
        and columns
        and all(isinstance(c, str) for c in columns)
        and len(set(columns)) == len(columns)
    ):
        return "columns are not different names"
    if not (
        isinstance(categories, dict)
        and set(categories) <= set(columns)
        and all(
            isinstance(names, list)
            and names
            and all(isinstance(v, str) for v in names)
            and len(set(names)) == len(names)
            for names in categories.values()
        )
    ):
        return "categories are not different names of columns"
    if p.get("missing") not in (None, "mean"):
        return f"missing={p['missing']!r} is not known"
    if p.get("decimal") not in (None, "comma"):
        return f"decimal={p['decimal']!r} is not known"
    if (width := p.get("positions")) is not None and not all(
        _is_position(c, width) for c in [*columns, p.get("target")]
    ):
        return f"positions={width!r} is not the number of columns of which these are"
    if len(feature_names(columns, categories)) != inputs:
        return f"columns and categories do not make {inputs} inputs"
    if not isinstance(p.get("target"), str) or p.get("task") not in ("classification", "regression"):
        return f"target {p.get('target')!r} or task {p.get('task')!r} is not valid"
    for key in ("feature_mean", "feature_factor"):
        values = p.get(key)
        if not (isinstance(values, list) and len(values) == inputs and all(map(_finite, values))):
            return f"{key} is not {inputs} finite numbers"
    if p["task"] == "classification":
        return _class_fault(p, outputs)
    if not (_finite(p.get("target_mean")) and _finite(p.get("target_std")) and p["target_std"] > 0):
        return "target_mean and target_std are not finite numbers"
    return "" if outputs == 1 else f"a regression model has 1 output, this one has {outputs}"


def _class_fault(p: dict[str, Any], outputs: int) -> str:
    classes = p.get("classes")
    valid = (
        isinstance(classes, list) and len(classes) == outputs and all(isinstance(c, (str, int, float)) for c in classes)
    )
    return "" if valid else f"classes are not {outputs} names or numbers"


def _is_position(column: Any, width: Any) -> bool:
    """Whether a column is named by its place among so many."""
    known = isinstance(column, str) and re.fullmatch("0|[1-9][0-9]{0,8}", column)
    return bool(known) and isinstance(width, int) and int(column) < width


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
