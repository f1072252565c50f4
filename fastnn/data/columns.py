"""Numbers out of the cells of one column, or the first cell that is not one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MISSING", "BadCell", "RawTable", "Want", "fault", "first_bad", "numbers"]

# Spellings of "no value" in tables, lower case. They are refused: fastnn does not invent values.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "."})
# Column names of the file -> (columns to read as numbers, the target column or None).
Want = Callable[[list[str]], tuple[list[str], str | None]]


@dataclass
class RawTable:
    """What a reader took out of a file.

    Attributes
    ----------
    names : list of str
        All columns of the file, in its order.
    columns : list of str
        Those in X.
    X : (m, n) float64
        Finite numbers.
    target : list of str, (m,) ndarray, or None
        Stripped text from CSV, an array from npz.
    where : callable
        Row number from 0 -> how to find that row in the file.
    notes : list of str
    """

    path: Path
    names: list[str]
    columns: list[str]
    X: NDArray[np.float64]
    target: list[str] | NDArray[Any] | None
    where: Callable[[int], str]
    notes: list[str]


@dataclass(frozen=True)
class BadCell:
    """The first cell of a column that is not a finite number: its row from 0 and what is wrong with it."""

    row: int
    reason: str


def fault(cell: str) -> str:
    """What is wrong with a cell that should hold a number; '' if nothing."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return f"missing value ({cell!r})" if cell else "missing value (empty)"
    try:
        value = float(cell)
    except ValueError:
        return f"text {cell[:40]!r} where a number is expected"
    if "_" in cell:  # Python reads 1_000 as 1000; in a table it is an identifier
        return f"text {cell[:40]!r} where a number is expected"
    return "" if math.isfinite(value) else f"{cell} is not a finite number"


def numbers(cells: Sequence[str]) -> NDArray[np.float64] | BadCell:
    """The cells (m,) as float64, or the first that is not a finite number."""
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    else:
        if np.isfinite(values).all() and not any("_" in cell for cell in cells):
            return values
    row, reason = next((row, reason) for row, cell in enumerate(cells) if (reason := fault(cell)))
    return BadCell(row, reason)


def first_bad(columns: dict[str, NDArray[np.float64] | BadCell]) -> tuple[str, BadCell] | None:
    """The column and cell that come first in the file, or None if every column holds numbers."""
    bad = [(name, column) for name, column in columns.items() if isinstance(column, BadCell)]
    return min(bad, key=lambda item: item[1].row) if bad else None
