"""CSV with a header line, UTF-8; comma, or semicolon or tab where the header has no comma."""

from __future__ import annotations

import csv
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError
from .columns import BadCell, Column, Padded, RawTable, Reading, Want, first_bad, numbers, texts_among, with_point
from .columns import names as names_of

__all__ = ["read_csv"]

BLOCK = 10_000  # rows held as text at a time
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


class _HoldsText(Exception):
    """Columns that turn out to hold text, of which earlier rows have been read as numbers."""

    def __init__(self, columns: frozenset[str]) -> None:
        self.columns = columns


def read_csv(path: str | os.PathLike[str], want: Want, reading: Reading = Reading()) -> RawTable:  # noqa: B008
    """The wanted columns of a CSV file.

    Parameters
    ----------
    path : path
    want : callable
        Gets the column names, returns those of the features and the target's (kept as text), or None.
    reading : Reading

    Raises
    ------
    DataFileError
        Missing or empty file, not UTF-8, no header, names missing or double, a line with more or
        fewer fields than the header, or a wanted cell that is missing, text, or not finite; with the
        line and the column.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next((line for line in file if line.strip()), "")
            unquoted = re.sub(r'"[^"]*"', "", header)
            separator = next((mark for mark in SEPARATORS if mark in unquoted), ",")
            while True:
                file.seek(0)
                rows = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
                try:
                    return _read(path, rows, separator, want, reading)
                except _HoldsText as found:  # once more from the start, which knows now
                    reading = replace(reading, text=reading.text | found.columns)
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise DataFileError(
            f"{path}: not UTF-8 text ({error.reason} at byte 0x{error.object[error.start]:02X}); save the table as "
            "UTF-8"
        ) from None
    except csv.Error as error:
        raise DataFileError(f"{path}: not a CSV file ({error})") from None
    except OSError as error:
        raise DataFileError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(path: Path, reader: Any, separator: str, want: Want, reading: Reading) -> RawTable:
    names = [name.strip() for name in next((row for row in reader if not _is_blank(row)), [])]
    _check_header(path, names)
    columns, target = want(names)
    picked = {name: names.index(name) for name in columns}
    lines: list[int] = []
    parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in columns}
    texts: dict[str, list[str]] = {name: [] for name in columns if name in reading.text}
    unlike: dict[str, _Unlike] = {}
    padded = Padded({})
    answers: list[str] = []
    rows = _rows(path, reader, len(names), lines)
    while block := list(islice(rows, BLOCK)):
        start = len(lines) - len(block)
        cells = list(zip(*block, strict=True))
        if reading.comma:
            cells = [
                tuple(map(with_point, column)) if name in picked and name not in texts else column
                for name, column in zip(names, cells, strict=True)
            ]
        if reading.decide:
            of_numbers = {
                name: cells[i] for name, i in picked.items() if name not in texts and name not in reading.numeric
            }
            padded = padded if start else Padded(of_numbers)
            padded.add(of_numbers)
        found: dict[str, Column | BadCell] = {
            name: (
                names_of(cells[i], missing=reading.missing, literal=name in reading.literal)
                if name in texts
                else numbers(cells[i], missing=reading.missing)
            )
            for name, i in picked.items()
        }
        if reading.decide:
            for name, cell in list(found.items()):
                if name in unlike or (isinstance(cell, BadCell) and cell.reason.startswith("text")):
                    before = sum(int((~np.isnan(part)).sum()) for part in parts[name])
                    unlike.setdefault(name, _Unlike(start, before)).add(cells[picked[name]], found.pop(name))
        if bad := first_bad(found):
            raise _refusal(path, lines, start + bad[1].row, *bad, reading)
        for name, values in found.items():
            if isinstance(values, list):
                texts[name] += values
            else:
                assert not isinstance(values, BadCell)
                parts[name].append(values)
        if target is not None:
            answers += [cell.strip() for cell in cells[names.index(target)]]
    if not lines:
        raise DataFileError(f"{path}: has a header but no rows")
    if text := frozenset(name for name, column in unlike.items() if column.is_text()) | padded.columns(len(lines)):
        raise _HoldsText(text)
    if unlike:
        name, column = min(unlike.items(), key=lambda item: item[1].row)
        assert column.first is not None
        raise _refusal(path, lines, column.row, name, column.first, reading)
    features: dict[str, Column] = {
        name: texts[name] if name in texts else np.concatenate(parts.pop(name)) for name in columns
    }
    notes = [f"fields are separated by {SEPARATORS[separator]}s"] if separator != "," else []
    return RawTable(
        path, names, features, answers if target is not None else None, lambda row: _where(lines, row), notes
    )


class _Unlike:
    """A column that holds text among numbers: how much of each, over all blocks, and the first such cell."""

    def __init__(self, start: int, present: int) -> None:
        self._start, self._present, self._texts = start, present, 0
        self.first: BadCell | None = None
        self.row = 0  # in the file, of that cell

    def add(self, cells: Sequence[str], found: Column | BadCell) -> None:
        """The next block of the column."""
        texts, present = texts_among(cells)
        self._texts, self._present = self._texts + texts, self._present + present
        if self.first is None and isinstance(found, BadCell):
            self.first, self.row = found, self._start + found.row

    def is_text(self) -> bool:
        """Whether at least half of the cells that hold anything are text: names, and not numbers with a slip."""
        return 2 * self._texts >= self._present


def _refusal(path: Path, lines: list[int], row: int, name: str, cell: BadCell, reading: Reading) -> DataFileError:
    """The error of a cell; in training with what `fastnn train` offers."""
    advice, column = "", shlex.quote(name)
    if reading.decide and cell.reason.startswith("missing"):
        advice = (
            f"; --missing mean takes the mean for it (none of the categories), --drop {column} leaves the column out"
        )
        if "empty" not in cell.reason:
            advice += f", --categorical {column} takes such texts for names"
    elif reading.decide and cell.reason.startswith("text"):
        advice = f"; if these are categories: --categorical {column}"
    return DataFileError(f"{path}: {_where(lines, row)}, column {name!r}: {cell.reason}{advice}")


def _rows(path: Path, reader: Any, width: int, lines: list[int]) -> Iterator[list[str]]:
    """Rows that are not blank, all `width` fields wide; their line numbers go to `lines`. In a table of one column
    a blank line amid others is a missing value.
    """
    blank = 0
    for row in reader:
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
            raise DataFileError(
                f"{path}: line {reader.line_num} has {len(row)} field{'s' * (len(row) != 1)}, the header has {width}"
            )
        lines.append(reader.line_num)
        yield row


def _is_blank(row: list[str]) -> bool:
    return not row or (len(row) == 1 and not row[0].strip())


def _where(lines: list[int], row: int) -> str:
    return f"row {row + 1} (line {lines[row]})"


def _check_header(path: Path, names: list[str]) -> None:
    if not names:
        raise DataFileError(f"{path}: is empty; a header line with column names is expected")
    for i, name in enumerate(names):
        if not name:
            raise DataFileError(
                f"{path}: column {i + 1} of the header has no name (an index column? pandas: to_csv(index=False))"
            )
    numeric = [name for name in names if not isinstance(numbers([name]), BadCell)]
    counted = [[str(k) for k in range(first, first + len(numeric))] for first in (0, 1)]
    if numeric and numeric not in counted:  # names 0, 1, 2, ... are what pandas writes for unnamed columns
        raise DataFileError(
            f"{path}: the first line holds numbers ({numeric[0]!r}), so it looks like data; a header line with column "
            "names is expected"
        )
    if len(set(names)) < len(names):
        double = next(name for i, name in enumerate(names) if name in names[:i])
        raise DataFileError(f"{path}: two columns are called {double!r}; column names must differ")
