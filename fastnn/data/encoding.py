"""Rows for one model, made quickly: what follows from its preprocessing alone is worked out once and kept."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError
from . import preprocessing
from .columns import Column, Reading
from .features import Codes, feature_names
from .tables import reading_of

__all__ = ["Encoder", "encoder_of"]

FEW = 100  # rows of which all numbers are scaled at once
Floats = NDArray[np.float64]


class Encoder:
    """How the columns of a table become inputs of a network.

    Attributes
    ----------
    known : dict
        The preprocessing, checked.
    columns : list of str
    reading : Reading
    """

    def __init__(self, net: Any) -> None:
        self.known, inputs = preprocessing.of(net), net.sizes[0]
        self._snapshot = {key: _copy(value) for key, value in self.known.items()}
        if self.known["kind"] != "table":
            return
        categories: Mapping[str, list[str]] = self.known.get("categories", {})
        self.columns: list[str] = list(self.known["columns"])
        self.reading: Reading = reading_of(self.known)
        self._codes = {column: Codes(names) for column, names in categories.items()}
        self._names = feature_names(self.columns, categories)
        self._at: dict[str, int] = {}
        at = 0
        for column in self.columns:
            self._at[column] = at
            at += len(categories.get(column, " "))
        self._numbers = [column for column in self.columns if column not in categories]
        self._number_at = np.array([self._at[column] for column in self._numbers], np.intp)
        # of every input: what 0 and 1 are once they are scaled
        self._zeros, self._ones = preprocessing.scale_features(self.known, np.array([[0.0], [1.0]]) + np.zeros(inputs))
        self._mean, self._factor = (np.array(self.known[key], np.float64) for key in ("feature_mean", "feature_factor"))
        self._fills = self.known.get("missing") == "mean"

    def is_of(self, given: Any) -> bool:
        """Whether the preprocessing is what it was, whoever changed it in place."""
        return given is self.known and bool(given == self._snapshot)

    def scaled(self, features: Mapping[str, Column], notes: list[str], dtype: np.dtype[Any], where: str = "") -> Floats:
        """(m, inputs): numbers and categories of a table, scaled; `features.encoded` and `scale_features` in one.

        notes : appended to, as there

        Raises
        ------
        DataFileError
            A number that is too large for `dtype`; `where` begins the message.
        """
        m = len(features[self.columns[0]])
        X = np.empty((m, len(self._names)))
        X[:] = self._zeros
        with np.errstate(over="ignore"):
            step = max(1, len(self._numbers)) if m <= FEW else 1  # columns at a time
            for first in range(0, len(self._numbers), step):
                these = self._number_at[first : first + step]
                values = np.array([features[column] for column in self._numbers[first : first + step]], np.float64)
                values = values.T
                scaled = (values - self._mean[these]) * self._factor[these]
                if self._fills:
                    scaled[np.isnan(values)] = 0
                X[:, these] = scaled
        for column, codes in self._codes.items():
            cells, at = features[column], self._at[column]
            assert isinstance(cells, list)
            found = codes.of(cells)
            rows = np.flatnonzero(found >= 0)
            places = at + found[rows]
            X[rows, places] = self._ones[places]
        for column in self.columns:
            if column in self._codes:
                cells = features[column]
                assert isinstance(cells, list)
                self._codes[column].remark(column, cells, notes)
        self._check(X, dtype, where)
        return X

    def _check(self, X: Floats, dtype: np.dtype[Any], where: str) -> None:
        largest = np.finfo(dtype).max
        if not X.size or (X.max() <= largest and X.min() >= -largest):  # not of NaN
            return
        row, i = (int(v) for v in np.argwhere(~(np.abs(X) <= largest))[0])
        raise DataFileError(f"{where}row {row + 1}, column {self._names[i]!r}: the value is too large for {dtype}")


def _copy(value: Any) -> Any:
    """A snapshot of lists and dicts; what they hold is never changed in place."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, list) else value


_encoders: weakref.WeakKeyDictionary[Any, Encoder] = weakref.WeakKeyDictionary()


def encoder_of(net: Any) -> Encoder:
    """The network's encoder, made anew when its preprocessing is no longer what it was.

    Raises
    ------
    ModelFileError
        As `preprocessing.check`.
    """
    kept = _encoders.get(net)
    if kept is None or not kept.is_of(net.preprocessing):
        kept = _encoders[net] = Encoder(net)
    return kept
