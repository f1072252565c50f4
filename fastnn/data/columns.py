"""The cells of one column as numbers or as text, or the first cell that is neither."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MISSING",
    "BadCell",
    "Column",
    "Padded",
    "RawTable",
    "Reading",
    "Want",
    "commas_in",
    "fault",
    "first_bad",
    "names",
    "numbers",
    "otherwise_written",
    "texts_among",
    "too_many",
    "with_point",
]

# Spellings of "no value" in tables, lower case. They are refused where nothing else is asked for.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "."})
# Column names of the file -> (columns to read as numbers, the target column or None).
Want = Callable[[list[str]], tuple[list[str], str | None]]
# Finite numbers (m,), with NaN for a missing one; or stripped text, "" for a missing one.
Column = NDArray[np.float64] | list[str]


@dataclass(frozen=True)
class Reading:
    """How feature columns are read.

    Attributes
    ----------
    text : set of str
        Columns that hold text, whatever it looks like.
    decide : bool
        A column of other cells than numbers holds text too, unless most of its cells are numbers.
    missing : bool
        A cell may be missing.
    literal : set of str
        Columns of text in which "none", "?" and the like are names, and only an empty cell is missing.
    comma : bool
        Numbers in text have a decimal comma, and points between thousands if anything.
    numeric : set of str
        Columns that hold numbers, also where digits have leading zeros.
    """

    text: frozenset[str] = frozenset()
    decide: bool = False
    missing: bool = False
    literal: frozenset[str] = frozenset()
    comma: bool = False
    numeric: frozenset[str] = frozenset()


@dataclass
class RawTable:
    """What a reader took out of a file.

    Attributes
    ----------
    names : list of str
        All columns of the file, in its order.
    features : dict of str: Column
        The columns that were wanted.
    target : list of str, (m,) ndarray, or None
        Stripped text from CSV, an array from npz.
    where : callable
        Row number from 0 -> how to find that row in the file.
    notes : list of str
    """

    path: Path
    names: list[str]
    features: dict[str, Column]
    target: list[str] | NDArray[Any] | None
    where: Callable[[int], str]
    notes: list[str]


@dataclass(frozen=True)
class BadCell:
    """The first cell of a column that is not a finite number: its row from 0 and what is wrong with it."""

    row: int
    reason: str


MOST_NAMES = 1000  # of a column; each becomes an input of the network
FEW_NAMES = 20  # so many are categories in the shortest table
_WITH_COMMAS = re.compile(r"[-+]?\d+(,\d+)+(\.\d+)?|[-+]?\d+(\.\d{3})*,\d+")
_WITH_A_UNIT = re.compile(
    r"[-+]?[$€£]\s?[-+]?[\d.,]*\d|[-+]?\d[\d.,]*\s?[%$€£]|[-+]?\d{1,3}([ '\u00a0\u202f]\d{3})+([.,]\d+)?"
)
_DECIMAL_COMMA = re.compile(r"[-+]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?([eE][-+]?\d+)?")


def commas_in(cell: str) -> str:
    """What to do about a number with a decimal comma, or with commas between thousands; "" for other text."""
    if _WITH_COMMAS.fullmatch(cell.strip()) is None:
        return ""
    return (
        "; numbers are read with a decimal point and nothing between thousands, as 1234.5, or by --decimal comma with "
        "a comma"
    )


def otherwise_written(cells: Sequence[str], comma: bool) -> str:
    """The first of text cells that are, most of them, numbers written with commas, spaces between thousands, or a
    sign of money or percent, or where a decimal comma is wanted with a point; "" if most are not.
    """
    present = [cell.strip() for cell in cells if cell.strip().lower() not in MISSING]
    plain = [not fault(cell) for cell in present]
    odd = [
        cell
        for cell, number in zip(present, plain, strict=True)
        if not (comma and _DECIMAL_COMMA.fullmatch(cell))
        and ((number and comma) or _WITH_COMMAS.fullmatch(cell) or _WITH_A_UNIT.fullmatch(cell))
    ]
    as_wanted = sum(bool(_DECIMAL_COMMA.fullmatch(cell)) for cell in present) if comma else sum(plain)
    return odd[0] if odd and 2 * (len(odd) + as_wanted) > len(present) else ""


def too_many(names: int, rows: int) -> bool:
    """Whether so many different texts tell rows apart, and not kinds of rows."""
    return names > FEW_NAMES and (names > MOST_NAMES or 2 * names > rows)


class Padded:
    """Columns of digits with leading zeros, such as 01234: names, as long as there are few enough of them.

    cells : the first rows, column by column, of which some have such a cell or none ever will
    """

    def __init__(self, cells: Mapping[str, Sequence[str]]) -> None:
        self._names: dict[str, set[str]] = {
            name: set() for name, column in cells.items() if any(c[:1] == "0" and c[1:].isdigit() for c in column)
        }

    def add(self, cells: Mapping[str, Sequence[str]]) -> None:
        """The next rows."""
        for name, known in list(self._names.items()):
            column = [cell.strip() for cell in cells[name]]
            known.update(cell for cell in column if cell.lower() not in MISSING)
            if len(known) > MOST_NAMES or not all(cell.isdigit() for cell in known):
                del self._names[name]

    def columns(self, rows: int) -> set[str]:
        """Their names, of a table of so many rows."""
        return {name for name, known in self._names.items() if not too_many(len(known), rows)}


def with_point(cell: str) -> str:
    """A number with a decimal comma as Python writes it; other text as it is, and a number with a decimal point as text
    that says why it is none.
    """
    stripped = cell.strip()
    if _DECIMAL_COMMA.fullmatch(stripped):
        return stripped.replace(".", "").replace(",", ".")
    return f"{stripped} (not with a decimal comma)" if not fault(stripped) else cell


def fault(cell: str) -> str:
    """What is wrong with a cell that should hold a number; '' if nothing."""
    cell = cell.strip()
    if cell.lower() in MISSING:
        return f"missing value ({cell!r})" if cell else "missing value (empty)"
    try:
        value = float(cell)
    except ValueError:
        return f"text {cell[:40]!r} where a number is expected{commas_in(cell)}"
    if "_" in cell:  # Python reads 1_000 as 1000; in a table it is an identifier
        return f"text {cell[:40]!r} where a number is expected"
    return "" if math.isfinite(value) else f"{cell} is not a finite number"


def texts_among(cells: Sequence[str]) -> tuple[int, int]:
    """How many of the cells are text, and how many hold anything."""
    present = [cell for cell in cells if cell.strip().lower() not in MISSING]
    return sum(fault(cell).startswith("text") for cell in present), len(present)


def names(cells: Sequence[str], *, missing: bool = False, literal: bool = False) -> list[str] | BadCell:
    """The cells, stripped, "" for those that are missing; or the first of these, if none may be. literal: only empty
    ones are, and "none" or "?" are names.
    """
    stripped = [cell.strip() for cell in cells]
    kept = stripped if literal else ["" if cell.lower() in MISSING else cell for cell in stripped]
    if not missing and "" in kept:
        row = kept.index("")
        return BadCell(row, fault(stripped[row]))
    return kept


def numbers(cells: Sequence[str], *, missing: bool = False) -> NDArray[np.float64] | BadCell:
    """The cells (m,) as float64, NaN for those that are missing if they may be, or the first that is not a finite
    number.
    """
    try:
        values = np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    else:
        if np.isfinite(values).all() and not any("_" in cell for cell in cells):
            return values
    if missing:
        absent = np.array([cell.strip().lower() in MISSING for cell in cells])
        filled = numbers(["0" if gone else cell for cell, gone in zip(cells, absent, strict=True)])
        return filled if isinstance(filled, BadCell) else np.where(absent, np.nan, filled)
    row, reason = next((row, reason) for row, cell in enumerate(cells) if (reason := fault(cell)))
    return BadCell(row, reason)


def first_bad(columns: Mapping[str, Column | BadCell]) -> tuple[str, BadCell] | None:
    """The column and cell that come first in the file, or None if every column is as it should be."""
    bad = [(name, column) for name, column in columns.items() if isinstance(column, BadCell)]
    return min(bad, key=lambda item: item[1].row) if bad else None
