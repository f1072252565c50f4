"""The cells of one column as numbers or as text, or the first cell that is neither."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .written import PLAIN, Written

__all__ = [
    "MISSING",
    "MOST_EXACT",
    "BadCell",
    "Column",
    "Large",
    "Names",
    "Padded",
    "RawTable",
    "Reading",
    "Want",
    "beyond",
    "commas_in",
    "fault",
    "first_bad",
    "names",
    "numbers",
    "otherwise_written",
    "texts_among",
    "too_many",
    "with_point",
    "with_points",
]

# Spellings of "no value" in tables, lower case. They are refused where nothing else is asked for.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "."})
MOST_EXACT = 2**53  # integers beyond it share a float64
_PLAINLY_MISSING = MISSING | {"NA", "NaN", "NULL", "None"}
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
        Columns that hold numbers, also where digits have leading zeros or integers are beyond 2^53.
    written : Written
        How the file is written, if it is text.
    """

    text: frozenset[str] = frozenset()
    decide: bool = False
    missing: bool = False
    literal: frozenset[str] = frozenset()
    comma: bool = False
    numeric: frozenset[str] = frozenset()
    written: Written = PLAIN


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
    counting : set of str
        Columns of integers beyond 2^53 that rise, or fall, by one from row to row, as numbers cannot show.
    """

    path: Path
    names: list[str]
    features: dict[str, Column]
    target: list[str] | NDArray[Any] | None
    where: Callable[[int], str]
    notes: list[str]
    counting: frozenset[str] = frozenset()


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
_COMMA = r"[-+]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?([eE][-+]?\d+)?"
_DECIMAL_COMMA, _DECIMAL_COMMAS = re.compile(_COMMA), re.compile(rf"(?>{_COMMA}\n)*+")


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
    present = {cell: n for cell, n in Counter(map(str.strip, cells)).items() if cell.lower() not in MISSING}
    plain = {cell: not fault(cell) for cell in present}
    odd = [
        cell
        for cell, number in plain.items()
        if not (comma and _DECIMAL_COMMA.fullmatch(cell))
        and ((number and comma) or _WITH_COMMAS.fullmatch(cell) or _WITH_A_UNIT.fullmatch(cell))
    ]
    as_wanted = [cell for cell in present if (_DECIMAL_COMMA.fullmatch(cell) if comma else plain[cell])]
    rows = sum(present[cell] for cell in [*odd, *as_wanted])
    return odd[0] if odd and 2 * rows > sum(present.values()) else ""


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
            column = {cell.strip() for cell in set(cells[name])}
            known.update(cell for cell in column if cell.lower() not in MISSING)
            if len(known) > MOST_NAMES or not all(cell.isdigit() for cell in known):
                del self._names[name]

    def candidates(self) -> set[str]:
        """Their names, so far."""
        return set(self._names)

    def columns(self, rows: int) -> set[str]:
        """Their names, of a table of so many rows."""
        return {name for name, known in self._names.items() if not too_many(len(known), rows)}


def beyond(integer: object, column: str) -> str:
    """What is said of a column of such integers that nobody said anything of."""
    column = shlex.quote(column)
    return (
        f"the integer {integer} is beyond 2^53, from where on different integers are one number; "
        f"--categorical {column} takes them for names, --drop {column} leaves the column out, "
        f"--numeric {column} takes them rounded"
    )


class Large:
    """A column of integers beyond 2^53, as far as it was read; its numbers are those integers, rounded.

    Attributes
    ----------
    row, first : int, str
        Of the file, and of the first such integer.
    counting : bool
        Every row so far is one more than that before it, or every row one less.
    """

    def __init__(self, row: int, first: str, start: int) -> None:
        self.row, self.first, self.counting = row, first, start == 0
        self._last: list[int] = []  # at most two

    @staticmethod
    def first_of(cells: Sequence[str], values: NDArray[np.float64]) -> int | None:
        """The row of the first integer, written as one, beyond 2^53."""
        for row in np.flatnonzero(np.abs(values) >= MOST_EXACT).tolist():
            digits = cells[row].strip().lstrip("+-")
            if digits.isdigit() and int(digits) > MOST_EXACT:
                return int(row)
        return None

    def add(self, cells: Sequence[str]) -> None:
        """The next rows, beginning with the first of the file."""
        if not self.counting:
            return
        try:
            whole = [*self._last, *map(int, cells)]
        except ValueError:
            self.counting = False
            return
        steps = {after - before for before, after in itertools.pairwise(whole)}
        self.counting, self._last = steps <= {1} or steps <= {-1}, whole[-2:]


def with_point(cell: str) -> str:
    """A number with a decimal comma as Python writes it; other text as it is, and a number with a decimal point as text
    that says why it is none.
    """
    stripped = cell.strip()
    if _DECIMAL_COMMA.fullmatch(stripped):
        return stripped.replace(".", "").replace(",", ".")
    return f"{stripped} (not with a decimal comma)" if not fault(stripped) else cell


def with_points(cells: Sequence[str]) -> Sequence[str]:
    """`with_point` of each cell."""
    text = "\n".join(map(str.strip, cells)) + "\n"
    if _DECIMAL_COMMAS.fullmatch(text) and len(plain := text.replace(".", "").replace(",", ".").split()) == len(cells):
        return plain
    return [with_point(cell) for cell in cells]


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
    present = {cell: n for cell, n in Counter(cells).items() if cell.strip().lower() not in MISSING}
    return sum(n for cell, n in present.items() if fault(cell).startswith("text")), sum(present.values())


class Names(dict[str, str]):
    """Cell -> the name in it: stripped, and "" where it is missing, the same object for equal cells. literal: only an
    empty cell is missing.
    """

    def __init__(self, *, literal: bool = False) -> None:
        super().__init__()
        self._literal = literal

    def __missing__(self, cell: str) -> str:
        stripped = cell.strip()
        name = self[cell] = stripped if self._literal or stripped.lower() not in MISSING else ""
        return name

    def of(self, cells: Sequence[str], *, missing: bool = False) -> list[str] | BadCell:
        """The names; or the first cell without one, if none may be."""
        kept = list(map(self.__getitem__, cells))
        if not missing and "" in kept:
            row = kept.index("")
            return BadCell(row, fault(cells[row]))
        return kept


def names(cells: Sequence[str], *, missing: bool = False, literal: bool = False) -> list[str] | BadCell:
    """The cells, stripped, "" for those that are missing; or the first of these, if none may be. literal: only empty
    ones are, and "none" or "?" are names.
    """
    return Names(literal=literal).of(cells, missing=missing)


def numbers(cells: Sequence[str], *, missing: bool = False) -> NDArray[np.float64] | BadCell:
    """The cells (m,) as float64, NaN for those that are missing if they may be, or the first that is not a finite
    number.
    """
    values = _floats(cells)
    if values is not None and np.isfinite(values).all() and "_" not in "".join(cells):
        return values
    if missing:
        for known in (_PLAINLY_MISSING, None):  # most tables have these; other spellings take a look at every text
            texts = set(cells)
            absent = texts & known if known else {cell for cell in texts if cell.strip().lower() in MISSING}
            filled = numbers(["0" if cell in absent else cell for cell in cells]) if absent else BadCell(0, "")
            if not isinstance(filled, BadCell):
                filled[[row for row, cell in enumerate(cells) if cell in absent]] = np.nan
                return filled
        if absent:
            return filled
    row, reason = next((row, reason) for row, cell in enumerate(cells) if (reason := fault(cell)))
    return BadCell(row, reason)


def _floats(cells: Sequence[str]) -> NDArray[np.float64] | None:
    """As Python reads them, which takes more for numbers than a table does; None if one is none."""
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        return None


def first_bad(columns: Mapping[str, Column | BadCell]) -> tuple[str, BadCell] | None:
    """The column and cell that come first in the file, or None if every column is as it should be."""
    bad = [(name, column) for name, column in columns.items() if isinstance(column, BadCell)]
    return min(bad, key=lambda item: item[1].row) if bad else None
