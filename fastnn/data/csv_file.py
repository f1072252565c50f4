"""CSV, perhaps within gzip: UTF-8 with a header line, if nothing else is said (fastnn/data/written.py); comma, or what
else the first line shows to separate fields.
"""

from __future__ import annotations

import csv
import gzip
import os
import shlex
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError
from .columns import (
    BadCell,
    Column,
    Large,
    Names,
    Padded,
    RawTable,
    Reading,
    Want,
    beyond,
    fault,
    first_bad,
    numbers,
    texts_among,
    with_points,
)
from .written import SEPARATORS, first_line, opened, separator_of, undecodable

__all__ = ["read_csv"]

BLOCK = 10_000  # rows of which it is seen what columns look like, and at most as many are held as text at a time
PART = 2_000  # rows at a time after those: few enough for a processor's cache


class _HoldsText(Exception):
    """Columns that turn out to hold text, of which earlier rows have been read as numbers."""

    def __init__(self, columns: frozenset[str]) -> None:
        self.columns = columns


def read_csv(path: str | os.PathLike[str], want: Want, reading: Reading = Reading()) -> RawTable:  # noqa: B008
    """The wanted columns of a CSV file.

    Parameters
    ----------
    path : path
        Unpacked on the way if it ends in .gz.
    want : callable
        Gets the column names, returns those of the features and the target's (kept as text), or None.
    reading : Reading

    Raises
    ------
    DataFileError
        Missing or empty file, in another encoding, no header where there should be one, names missing or double, a line
        with more or fewer fields than the first, or a wanted cell that is missing, text, or not finite; with the line
        and the column.
    """
    path, written = Path(path), reading.written
    try:
        with opened(path, written.encoding) as file:
            separator = separator_of(first_line(path, file, written.encoding), written, comma=reading.comma)

            def rows() -> Any:
                file.seek(0)
                return csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)

            while True:
                reader = rows()
                names = [name.strip() for name in next((row for row in reader if not _is_blank(row)), [])]
                if not written.header:
                    names, reader = _positions(path, names), rows()
                try:
                    return _read(path, reader, names, separator, want, reading)
                except _HoldsText as found:  # once more from the start, which knows now
                    reading = replace(reading, text=reading.text | found.columns)
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except UnicodeError as error:
        raise undecodable(path, written.encoding, error) from None
    except csv.Error as error:
        raise DataFileError(f"{path}: not a CSV file ({error})") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataFileError(f"{path}: not a gzip file, or one that is cut off or damaged ({error})") from None
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(path: Path, reader: Any, names: list[str], separator: str, want: Want, reading: Reading) -> RawTable:
    notes = [f"fields are separated by {SEPARATORS[separator]}s"] if separator != "," else []
    if reading.written.header:
        notes += _check_header(path, names, reading.decide)
    else:
        notes.append(f"no header line: the columns are named by their position, 0 to {len(names) - 1}")
    columns, target = want(names)
    found = _Found(path, columns, reading)
    place = [names.index(name) for name in columns]
    answers: list[str] = []
    first = f"the {'header' if reading.written.header else 'first row'} has {len(names)}"
    rows = _rows(path, reader, len(names), found.lines, first)
    while block := list(islice(rows, min(BLOCK, PART) if found.lines else BLOCK)):
        cells = list(zip(*block, strict=True))
        found.add({name: cells[i] for name, i in zip(columns, place, strict=True)}, len(block))
        if target is not None:
            answers += map(str.strip, cells[names.index(target)])
    if not found.lines:
        raise DataFileError(f"{path}: has a header but no rows")
    features = found.columns()
    lines = found.lines
    return RawTable(
        path,
        names,
        features,
        answers if target is not None else None,
        lambda row: _where(lines, row),
        notes,
        found.counting(),
    )


class _Found:
    """The columns of a file, block after block."""

    def __init__(self, path: Path, columns: list[str], reading: Reading) -> None:
        self._path, self._columns, self._reading = path, columns, reading
        self.lines = array("q")  # of each row
        self._names = {name: Names(literal=name in reading.literal) for name in columns}
        self._numbers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in columns if name not in reading.text}
        self._texts: dict[str, list[str]] = {name: [] for name in columns if name in reading.text}
        # Columns that may come out as text though nobody said so: their names from the first row on, and the first cell
        # without one. What only later turns to text is read a second time.
        self._perhaps: dict[str, list[str]] = {}
        self._nameless: dict[str, tuple[int, BadCell]] = {}
        self._padded = Padded({})
        self._unlike: dict[str, _Unlike] = {}
        self._large: dict[str, Large] = {}

    def add(self, cells: dict[str, Sequence[str]], rows: int) -> None:
        """The next rows, of which the lines are known.

        Raises
        ------
        DataFileError
            A cell that cannot be what its column holds.
        """
        reading, start = self._reading, len(self.lines) - rows
        of_numbers = {
            name: with_points(cells[name]) if reading.comma else cells[name]
            for name in self._columns
            if name not in self._texts
        }
        found: dict[str, Column | BadCell] = {
            name: (
                self._names[name].of(cells[name], missing=reading.missing)
                if name in self._texts
                else numbers(of_numbers[name], missing=reading.missing)
            )
            for name in self._columns
            if name not in self._unlike
        }
        if reading.decide:
            for name in self._unlike.keys() | found.keys():
                cell = found.get(name)
                if isinstance(cell, BadCell) and cell.reason.startswith("text") and name not in self._texts:
                    before = sum(int((~np.isnan(part)).sum()) for part in self._numbers[name])
                    self._unlike[name] = _Unlike(start + cell.row, cell, before)
                    del found[name]
                if name in self._unlike:
                    self._unlike[name].add(of_numbers[name])
            self._keep(cells, of_numbers, start)
        if bad := first_bad(found):
            raise self._refusal(start + bad[1].row, *bad)
        for name, values in found.items():
            if isinstance(values, list):
                self._texts[name] += values
            else:
                assert not isinstance(values, BadCell)
                self._numbers[name].append(values)
                if reading.decide:
                    self._look_for_large(name, of_numbers[name], values, start)

    def _look_for_large(self, name: str, cells: Sequence[str], values: NDArray[np.float64], start: int) -> None:
        """Remember a column of integers that are not what their numbers are."""
        if name not in self._large and (row := Large.first_of(cells, values)) is not None:
            self._large[name] = Large(start + row, cells[row].strip(), start)
        if name in self._large:
            self._large[name].add(cells)

    def counting(self) -> frozenset[str]:
        """Columns of integers beyond 2^53 that count the rows."""
        return frozenset(name for name, column in self._large.items() if column.counting)

    def _keep(self, cells: dict[str, Sequence[str]], of_numbers: dict[str, Sequence[str]], start: int) -> None:
        """What may come out as text."""
        digits = {name: column for name, column in of_numbers.items() if name not in self._reading.numeric}
        if not start:
            self._padded = Padded(digits)
        self._padded.add(digits)
        maybe = self._padded.candidates() | self._unlike.keys()
        if not start:
            self._perhaps = {name: [] for name in self._columns if name in maybe}
        for name in list(self._perhaps):
            if name not in maybe:
                del self._perhaps[name]
                continue
            kept = self._names[name].of(cells[name], missing=True)
            assert isinstance(kept, list)
            if name not in self._nameless and "" in kept:
                row = kept.index("")
                self._nameless[name] = (start + row, BadCell(start + row, fault(cells[name][row])))
            self._perhaps[name] += kept

    def columns(self) -> dict[str, Column]:
        """All of them, once all rows were added.

        Raises
        ------
        DataFileError
            A column that holds text among numbers, or names and a cell without one, or integers beyond 2^53.
        _HoldsText
            A column is one of names, and the first of them are lost.
        """
        unlike = self._unlike
        text = {name for name, column in unlike.items() if column.is_text()} | self._padded.columns(len(self.lines))
        if not text <= self._perhaps.keys():
            raise _HoldsText(frozenset(text))
        lacking = {name: cell for name, (_, cell) in self._nameless.items() if name in text}
        if not self._reading.missing and (
            bad := first_bad({name: lacking[name] for name in self._columns if name in lacking})
        ):
            raise self._refusal(bad[1].row, *bad)
        if others := {name: column for name, column in unlike.items() if name not in text}:
            name = min((name for name in self._columns if name in others), key=lambda name: others[name].row)
            raise self._refusal(others[name].row, name, others[name].first)
        found: dict[str, Column] = {}
        for name in self._columns:
            if name in text:
                found[name] = self._perhaps.pop(name)
            else:
                found[name] = self._texts[name] if name in self._texts else np.concatenate(self._numbers.pop(name))
        rounded = [(column.row, name) for name, column in self._large.items() if _is_whole(found[name])]
        for row, name in sorted(rounded):
            if name not in self._reading.numeric:
                raise DataFileError(
                    f"{self._path}: {_where(self.lines, row)}, column {name!r}: {beyond(self._large[name].first, name)}"
                )
        return found

    def _refusal(self, row: int, name: str, cell: BadCell) -> DataFileError:
        """The error of a cell, with what `fastnn train` offers."""
        advice, column, decide = "", shlex.quote(name), self._reading.decide
        if decide and cell.reason.startswith("missing"):
            advice = (
                f"; --missing mean takes the mean for it (none of the categories), --drop {column} leaves the column "
                "out"
            )
            if "empty" not in cell.reason:
                advice += f", --categorical {column} takes such texts for names"
        elif cell.reason.startswith("missing"):
            advice = "; a model that was trained with --missing mean takes the mean for it"
        elif decide and cell.reason.startswith("text"):
            advice = f"; if these are categories: --categorical {column}"
        return DataFileError(f"{self._path}: {_where(self.lines, row)}, column {name!r}: {cell.reason}{advice}")


def _is_whole(values: Column) -> bool:
    return isinstance(values, np.ndarray) and bool(((values == np.floor(values)) | np.isnan(values)).all())


class _Unlike:
    """A column that holds text among numbers: how much of each, over all blocks, and the first such cell with its row
    in the file.
    """

    def __init__(self, row: int, first: BadCell, present: int) -> None:
        self.row, self.first, self._present, self._texts = row, first, present, 0

    def add(self, cells: Sequence[str]) -> None:
        """The next block of the column, beginning with that of the first text."""
        texts, present = texts_among(cells)
        self._texts, self._present = self._texts + texts, self._present + present

    def is_text(self) -> bool:
        """Whether at least half of the cells that hold anything are text: names, and not numbers with a slip."""
        return 2 * self._texts >= self._present


def _rows(path: Path, reader: Any, width: int, lines: array[int], first: str) -> Iterator[list[str]]:
    """Rows that are not blank, all `width` fields wide, as `first` says; their line numbers go to `lines`. In a table
    of one column a blank line amid others is a missing value.
    """
    blank = 0
    for row in reader:
        if len(row) == width > 1:
            lines.append(reader.line_num)
            yield row
            continue
        if _is_blank(row):
            blank = blank or reader.line_num
            continue
        if blank and width == 1 and lines:
            raise DataFileError(
                f"{path}: line {blank} is blank, which in a table of one column is a missing value; give it one, or "
                "take the line out"
            )
        blank = 0
        if len(row) != width:
            raise DataFileError(f"{path}: line {reader.line_num} has {len(row)} field{'s' * (len(row) != 1)}, {first}")
        lines.append(reader.line_num)
        yield row


def _is_blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _where(lines: Sequence[int], row: int) -> str:
    return f"row {row + 1} (line {lines[row]})"


def _positions(path: Path, first: list[str]) -> list[str]:
    if not first:
        raise DataFileError(f"{path}: is empty; rows are expected")
    return [str(i) for i in range(len(first))]


def _check_header(path: Path, names: list[str], training: bool) -> list[str]:
    """What is to be said of a header that may be data."""
    if not names:
        raise DataFileError(f"{path}: is empty; a header line with column names is expected")
    numeric = [name for name in names if not isinstance(numbers([name]), BadCell)]
    counted = [[str(k) for k in range(first, first + len(numeric))] for first in (0, 1)]
    if numeric and numeric not in counted:  # names 0, 1, 2, ... are what pandas writes for unnamed columns
        raise DataFileError(
            f"{path}: the first line holds numbers ({numeric[0]!r}), so it looks like data; a header line with column "
            f"names is expected{'; --no-header names columns by their position' * training}"
        )
    for i, name in enumerate(names):
        if not name:
            raise DataFileError(
                f"{path}: column {i + 1} of the header has no name (an index column? pandas: to_csv(index=False))"
            )
    if len(set(names)) < len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataFileError(
            f"{path}: two columns are called {double!r}; column names must differ"
            f"{' (if the first line is a row already: --no-header)' * training}"
        )
    if numeric != names:
        return []
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return [f"the first line, {shown}, is taken for the names of columns; if it is a row already: --no-header"]
