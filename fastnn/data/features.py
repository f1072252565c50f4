"""Columns of a table as numbers: those that hold numbers as they are, those that hold names as one 0 or 1 for each
name that occurs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError
from .columns import MISSING, MOST_EXACT, BadCell, Column, Reading, commas_in, names, numbers, too_many, with_point

__all__ = ["UNKNOWN", "Codes", "as_text", "categories_of", "encoded", "feature_names", "from_arrays"]

Floats = NDArray[np.float64]
MOST_KEPT = 10_000  # spellings of a column's categories
UNKNOWN = "that did not occur in training"  # which every note about such names holds


def categories_of(features: Mapping[str, Column], where: str = "") -> dict[str, list[str]]:
    """{column: its names, sorted} of the columns that hold text; a missing one is none of them. `where` begins what is
    said.

    Raises
    ------
    DataFileError
        So many names that they tell rows apart, and not kinds of rows; a column without any.
    """
    found = {}
    for column, cells in features.items():
        if isinstance(cells, np.ndarray):
            continue
        names = sorted(set(cells) - {""})
        if not names:
            raise DataFileError(f"{where}column {column!r} holds no value at all; leave it out: --drop {column}")
        if too_many(len(names), len(cells)):
            raise DataFileError(
                f"{where}column {column!r} holds {len(names):,} different texts in {len(cells):,} rows (such as "
                f"{names[0]!r}), too many to be categories; leave it out: --drop {column}{commas_in(names[0])}"
            )
        found[column] = names
    return found


def feature_names(columns: Sequence[str], categories: Mapping[str, Sequence[str]]) -> list[str]:
    """What each input of the network is: the column itself, or column=name for each of its names."""
    return [
        feature
        for column in columns
        for feature in ([f"{column}={name}" for name in categories[column]] if column in categories else [column])
    ]


def encoded(
    features: Mapping[str, Column], columns: Sequence[str], categories: Mapping[str, Sequence[str]], notes: list[str]
) -> Floats:
    """(m, inputs) in the order of `feature_names`. A name that is none of the column's, however it is spelled, gives 0
    for all of them.

    notes : appended to where that happened to one that is not missing, with UNKNOWN in what is said.
    """
    rows = len(features[columns[0]])
    X = np.zeros((rows, len(feature_names(columns, categories))))
    at = 0
    for column in columns:
        cells = features[column]
        if column not in categories:
            X[:, at] = cells
            at += 1
            continue
        assert isinstance(cells, list)
        codes = Codes(categories[column])
        X[np.arange(rows)[(found := codes.of(cells)) >= 0], at + found[found >= 0]] = 1
        codes.remark(column, cells, notes)
        at += len(categories[column])
    return X


class Codes(dict[str, int]):
    """Cell -> which of a column's categories it is, however it is spelled: -1 for none, and for a missing one. What was
    looked up is kept, as long as it is not much.
    """

    def __init__(self, categories: Sequence[str]) -> None:
        super().__init__({"": -1})
        self._place = {name: i for i, name in enumerate(categories)}
        self._meant = _Spellings(self._place)

    def __missing__(self, cell: str) -> int:
        found = self._place.get(cell)
        if found is None:
            found = self._meant.of(cell)
        if len(self) < MOST_KEPT:
            self[cell] = -1 if found is None else found
        return -1 if found is None else found

    def of(self, cells: Sequence[str]) -> NDArray[np.intp]:
        """(m,) of as many cells."""
        return np.fromiter(map(self.__getitem__, cells), np.intp, len(cells))

    def remark(self, column: str, cells: Sequence[str], notes: list[str]) -> None:
        """Append what is to be said of cells that are none of the categories."""
        if len(cells) == 1 and (cells[0] == "" or self[cells[0]] >= 0):
            return
        strange = {cell: n for cell, n in Counter(cells).items() if cell != "" and self[cell] < 0}
        if strange:
            rows = sum(strange.values())
            shown = ", ".join(map(repr, sorted(strange)[:3])) + (", ..." if len(strange) > 3 else "")
            notes.append(
                f"{rows} row{'s' * (rows > 1)} with a value of column {column!r} {UNKNOWN} ({shown}): "
                "taken for none of its categories"
            )


class _Spellings:
    """Names of a column as others write them who have read the table in between: 7 for 007 and 1.1 for 1.10 where all
    are numbers, True or TRUE for true. None that two names could be meant by.
    """

    def __init__(self, place: Mapping[str, int]) -> None:
        self.ways: list[tuple[Callable[[str], Any], dict[Any, int]]] = []
        for key in (_digits, _value, _truth):
            keys = [key(name) for name in place]
            if None not in keys and len(set(keys)) == len(keys):
                self.ways.append((key, dict(zip(keys, place.values(), strict=True))))

    def of(self, cell: str) -> int | None:
        """The place of the name that is meant; of a number beyond 2^53, which may be that of several, none."""
        for key, found in self.ways:
            meant = key(cell)
            if key is _value and meant is not None and abs(meant) >= MOST_EXACT:
                continue
            if meant is not None and (place := found.get(meant)) is not None:
                return place
        return None


def _digits(name: str) -> str | None:
    """Without the zeros in front, as digits of any number."""
    return (name.lstrip("0") or "0") if name.isdigit() else None


def _value(name: str) -> float | None:
    try:
        value = float(name.replace("_", "?"))  # which Python takes within numbers
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _truth(name: str) -> str | None:
    return name.casefold() if name.casefold() in ("true", "false") else None


def from_arrays(table: Any, columns: Sequence[str], reading: Reading) -> dict[str, Column]:
    """The columns of a mapping name -> array-like, such as a DataFrame, as a reader of files would give them.

    Raises
    ------
    DataFileError
        A column is missing, of another length, or holds what cannot be used.
    """
    found: dict[str, Column] = {}
    table = _by_column(table, columns)
    for column in columns:
        try:
            cells = table[column]
            single = type(cells) is list and len(cells) == 1 and _rows_of(found) in (None, 1)
            if single and (one := _one(cells[0], column in reading.text)) is not None:
                found[column] = one
                continue
            values = np.asarray(cells)
        except (KeyError, IndexError, TypeError, ValueError):
            raise DataFileError(f"column {column!r}, which the model needs, is missing") from None
        if isinstance(cells, np.ma.MaskedArray):
            raise DataFileError(
                f"column {column!r} is a masked array; fill it first, with .astype(float).filled(numpy.nan)"
            )
        if values.ndim != 1 or (found and len(values) != _rows_of(found)):
            raise DataFileError(f"column {column!r} must be one value per row, got shape {values.shape}")
        if column not in reading.text:
            found[column] = _numbers(column, values, reading)
            continue
        text = names(as_text(values), missing=reading.missing, literal=column in reading.literal)
        if isinstance(text, BadCell):
            raise DataFileError(f"row {text.row + 1}, column {column!r}: missing value")
        found[column] = text
    return found


def _rows_of(found: Mapping[str, Column]) -> int | None:
    return len(next(iter(found.values()))) if found else None


def _one(value: Any, text: bool) -> Column | None:
    """The column of one row that holds what it mostly holds, quickly; None for the rules of `from_arrays`."""
    if text:
        plain = type(value) is str and value.strip() == value and value.lower() not in MISSING and "\0" not in value
        return [value] if plain else None
    finite = (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) <= MOST_EXACT)
    return np.array([value], np.float64) if finite else None


def _by_column(table: Any, columns: Sequence[str]) -> Any:
    """The table, also where it is one row of single values, or a list of such rows, as a web service gets them."""
    if getattr(table, "ndim", 0) == 1 and hasattr(table, "to_dict"):  # a row of a DataFrame
        table = table.to_dict()
    if isinstance(table, Mapping) and table and all(map(_is_single, map(table.get, columns))):
        table = [table]
    if not (isinstance(table, (list, tuple)) and table and all(isinstance(row, Mapping) for row in table)):
        return table
    for number, row in enumerate(table, 1):
        if missing := [column for column in columns if column not in row]:
            raise DataFileError(f"row {number} has no {missing[0]!r}, which the model needs")
    return {column: [row[column] for row in table] for column in columns}


def _is_single(value: Any) -> bool:
    return value is None or type(value) in (str, float, int, bool) or np.ndim(value) == 0


def as_text(values: NDArray[Any]) -> list[str]:
    """Cells as a CSV file would hold them: "" for None, NaN and pandas' NA, and 1 for 1.0, which is how pandas holds
    whole numbers beside a missing one, but 1e+18 for that number, which is also that of 1000000000000000001.
    """
    return [_cell(value) for value in values.tolist()]


def _cell(value: Any) -> str:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        exact = value.is_integer() and abs(value) < MOST_EXACT  # of a larger one the last digits are lost
        return "" if value != value else str(int(value)) if exact else str(value)
    return str(value)


def _numbers(column: str, values: NDArray[Any], reading: Reading) -> Floats:
    missing = reading.missing
    if values.dtype.kind in "mM":
        raise DataFileError(f"column {column!r} holds times ({values.dtype}), where the training had numbers")
    if values.dtype.kind not in "biuf":
        given = values.tolist()
        as_they_are = [with_point(v) if reading.comma and isinstance(v, str) else _cell(v) for v in given]
        cells = numbers(as_they_are, missing=missing)
        if isinstance(cells, BadCell):
            raise DataFileError(f"row {cells.row + 1}, column {column!r}: {cells.reason}")
        return cells
    cells = values.astype(np.float64)
    wrong = np.isinf(cells) if missing else ~np.isfinite(cells)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataFileError(f"row {row + 1}, column {column!r}: {cells[row]} is not a finite number")
    return cells
