"""A user's table: which column is the target, which task that is, and rows for a model that was trained on one."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError, nearest, unknown_name
from .columns import (
    MISSING,
    MOST_EXACT,
    BadCell,
    Column,
    RawTable,
    Reading,
    fault,
    numbers,
    otherwise_written,
    with_point,
)
from .dataset import GUESSED, DataSet
from .features import as_text, categories_of, encoded
from .readers import READERS, ending, is_npz, read
from .targets import are_labels, distinct, guess, plain
from .written import PLAIN, Written

__all__ = [
    "DECIMALS",
    "MISSING_WAYS",
    "READERS",
    "TASKS",
    "Choice",
    "cells_of",
    "ending",
    "features_of",
    "load",
    "load_test",
    "read_columns",
    "reading_of",
]

TASKS = ("classification", "regression")
MISSING_WAYS = ("refuse", "mean")
DECIMALS = ("point", "comma")
# so many different dates, and how they are written: 2026-11-30, perhaps with a time behind, or 30.11.26, 11/30/2026
FEW_DATES, DATE = 10, re.compile(r"\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([ T].*)?|\d{1,2}[-/.]\d{1,2}[-/.](\d{2}|\d{4})")


@dataclass(frozen=True)
class Choice:
    """What the user says of a table's columns.

    Attributes
    ----------
    drop : names of columns, or positions, that are no features
    categorical, numeric : those that hold categories, even where these look like numbers; and those that hold numbers,
        even where some have leading zeros, as names have
    missing : str
        "refuse" cells without a value in features, or take the "mean" of the training rows for them; of a column of
        categories, none of them.
    decimal : str
        How numbers in text are written: 1234.5 with a "point", or with a "comma" 1234,5 or 1.234,5.
    written : Written
        How the file is written: encoding, separator, header line or none.
    """

    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    missing: str = "refuse"
    decimal: str = "point"
    numeric: tuple[str, ...] = ()
    written: Written = PLAIN


def load(
    path: str | os.PathLike[str],
    target: str,
    *,
    task: str | None = None,
    choice: Choice = Choice(),
) -> DataSet:
    """A table for training: every column but the target and those dropped is a feature; text is taken for categories.

    Parameters
    ----------
    path : path
        .csv, .tsv, .csv.gz, .tsv.gz or .npz.
    target : str
        Name of the column; or its position, from 0, or from the end when negative.
    task : str, optional
        "classification" or "regression"; guessed, and said in the notes, if not given: text is
        classified, and so are whole numbers with leading zeros or beyond 2^53, which are kept as they are written;
        integers too when few and frequent; everything else is regression.
    choice : Choice

    Returns
    -------
    DataSet
        X float64, with a column of 0 and 1 for each category, NaN for a number that is missing; y int64 codes of
        `classes` (sorted) or float64.

    Raises
    ------
    DataFileError
        The file, the target column or a value in it is not usable.
    ValueError
        Unknown task.
    """
    if task is not None and task not in TASKS:
        raise unknown_name("task", task, TASKS)
    path = Path(path)
    if choice.missing not in MISSING_WAYS:
        raise unknown_name("missing", choice.missing, MISSING_WAYS)
    if choice.decimal not in DECIMALS:
        raise unknown_name("decimal", choice.decimal, DECIMALS)
    if choice.decimal == "comma" and is_npz(path):
        raise ValueError("--decimal comma is for text, in .csv and .tsv; numbers in an .npz file are numbers")
    if not choice.written.header and is_npz(path):
        raise ValueError("--no-header is for text, in .csv and .tsv; arrays in an .npz file have names")
    chosen: list[str] = []

    def want(names: list[str]) -> tuple[list[str], str]:
        chosen.append(_named(path, names, target))
        return _features(path, names, chosen[0], choice), chosen[0]

    text_columns = frozenset(choice.categorical)
    reading = Reading(
        text_columns, True, choice.missing == "mean", text_columns, choice.decimal == "comma",
        frozenset(choice.numeric), choice.written,
    )  # fmt: skip
    table = read(path, want, reading)
    assert table.target is not None
    name, columns = chosen[0], list(table.features)
    _refuse_otherwise_written(path, table, name, task, choice)
    categories = categories_of(table.features, f"{path}: ")
    values, text = _target_values(table, name, task, choice.decimal == "comma")
    notes = list(table.notes)
    if name != target:
        notes.append(f"target: column {name!r}, at position {target}")
    if task is None:
        task, why = guess(values, text)
        notes.append(f"{GUESSED}{task}, guessed because {name!r} holds {why}; --task overrides this")
    preprocessing: dict[str, Any] = {
        "version": 1,
        "kind": "table",
        "task": task,
        "target": name,
        "columns": columns,
        "classes": None,
    }
    if categories:
        preprocessing["categories"] = categories
        shown = ", ".join(f"{column!r} ({len(names)})" for column, names in list(categories.items())[:5])
        notes.append(f"columns of categories: {shown}{' and more' if len(categories) > 5 else ''}")
        notes.extend(
            f"column {column!r} looks like dates, each of which is a category here, so that one that did not occur in "
            f"training says nothing: --drop {shlex.quote(column)}, or make a number of it first, such as days or months"
            for column, names in categories.items()
            if len(names) >= FEW_DATES and all(map(DATE.fullmatch, names))
        )
    notes.extend(
        f"column {column!r} counts the rows, so the network learns from their order; if that is not meant: --drop "
        f"{shlex.quote(column)}"
        for column, cells in table.features.items()
        if column in table.counting or _counts_rows(cells)
    )
    if not choice.written.header:
        preprocessing["positions"] = len(table.names)
    if choice.decimal == "comma":
        preprocessing["decimal"] = "comma"
    if choice.missing == "mean":
        preprocessing["missing"] = "mean"
        notes.extend(_filled(table.features))
    X = encoded(table.features, columns, categories, notes)
    title = f"{path.name}, target {name!r}"
    if task == "regression":
        if text:
            raise _not_a_number(path, table, name, values)
        return DataSet(
            name=path.name[: -len(ending(path))],
            title=title,
            X=X,
            y=np.asarray(values, np.float64),
            preprocessing=preprocessing,
            task=task,
            notes=notes,
        )
    found, codes = distinct(values)
    if len(found) < 2:
        raise DataFileError(
            f"{path}: column {name!r} has the same value in every row ({plain(found, text)[0]}); classification "
            "needs at least two classes"
        )
    classes = plain(found, text)
    preprocessing["classes"] = classes
    return DataSet(
        name=path.name[: -len(ending(path))],
        title=title,
        X=X,
        y=codes.astype(np.int64).reshape(-1),
        preprocessing=preprocessing,
        task=task,
        classes=classes,
        notes=notes,
    )


def _refuse_otherwise_written(path: Path, table: RawTable, target: str, task: str | None, choice: Choice) -> None:
    """Numbers with a decimal comma would be hundreds of categories, or classes."""
    wanted = "1234,5" if choice.decimal == "comma" else "1234.5"
    columns = {name: cells for name, cells in table.features.items() if isinstance(cells, list)}
    if task != "classification":
        if not isinstance(table.target, np.ndarray):
            columns[target] = table.target or []
        elif table.target.dtype.kind in "US":
            columns[target] = as_text(table.target)
    for name, cells in columns.items():
        if name in choice.categorical or not (cell := otherwise_written(cells, choice.decimal == "comma")):
            continue
        names = "--task classification" if name == target else f"--categorical {shlex.quote(name)}"
        ways = f"{names} takes such texts for names"
        if choice.decimal == "point" and not is_npz(path) and not fault(with_point(cell)):
            ways = f"--decimal comma reads a decimal comma, {ways}"
        raise DataFileError(
            f"{path}: column {name!r} holds numbers that are not written as {wanted} (such as {cell!r}); {ways}"
        )


def _counts_rows(cells: Any) -> bool:
    """Whether a column holds whole numbers that rise, or fall, by one from row to row, in a table of some length."""
    if not isinstance(cells, np.ndarray) or len(cells) < FEW_DATES or abs(cells[0]) > MOST_EXACT:
        return False  # beyond it, numbers that rise by one do not count by one
    with np.errstate(all="ignore"):
        steps = np.diff(cells)
    return bool(abs(steps[0]) == 1 and (steps == steps[0]).all() and cells[0] == round(float(cells[0])))


def _filled(features: dict[str, Column]) -> list[str]:
    """What is said of missing cells."""
    counts = {
        name: int(np.isnan(cells).sum()) if isinstance(cells, np.ndarray) else cells.count("")
        for name, cells in features.items()
    }
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return []
    shown = ", ".join(f"{name!r} ({count:,})" for name, count in list(counts.items())[:5])
    return [
        f"{sum(counts.values()):,} missing cells, taken for the mean of the training rows, or for none of the "
        f"categories: {shown}{' and more' if len(counts) > 5 else ''}"
    ]


def read_columns(
    path: str | os.PathLike[str], known: Mapping[str, Any], notes: list[str], written: Written = PLAIN
) -> tuple[NDArray[np.float64], list[str]]:
    """Rows for a trained model: its columns, wherever in the file they are.

    Parameters
    ----------
    path : path
    known : dict
        The model's preprocessing (fastnn/data/preprocessing.py).
    notes : list of str
        Appended to: categories that did not occur in training.
    written : Written
        How this file is written; whether it has a header line the model knows.

    Returns
    -------
    X : (m, inputs) float64
        In the order of the model's inputs, not scaled.
    extra : list of str
        Columns of the file that were not wanted.

    Raises
    ------
    DataFileError
        A column is missing (the nearest name there is suggested), or the file is not usable.
    """
    features, extra = features_of(path, known, written)
    return encoded(features, known["columns"], known.get("categories", {}), notes), extra


def features_of(
    path: str | os.PathLike[str], known: Mapping[str, Any], written: Written = PLAIN
) -> tuple[dict[str, Column], list[str]]:
    """What `read_columns` encodes, and the columns that were not wanted; the same errors."""
    path = Path(path)
    table = read(path, lambda names: (_needed(path, names, known), None), reading_of(known, written))
    return table.features, [name for name in table.names if name not in table.features]


def cells_of(path: str | os.PathLike[str], columns: Sequence[str], written: Written = PLAIN) -> dict[str, list[str]]:
    """These columns of a table as they are written, without blanks around.

    Raises
    ------
    DataFileError
        One of them is missing, or the file is not usable.
    """
    path, wanted = Path(path), frozenset(columns)

    def want(names: list[str]) -> tuple[list[str], None]:
        for column in columns:
            if column not in names:
                raise _no_column(path, names, column)
        return list(columns), None

    table = read(path, want, Reading(wanted, missing=True, literal=wanted, written=written))
    return {name: list(cells) for name, cells in table.features.items()}


def load_test(
    path: str | os.PathLike[str], known: Mapping[str, Any], notes: list[str], written: Written = PLAIN
) -> tuple[NDArray[Any], Any]:
    """(X, y) of another file with the same columns and target: not scaled, classes as codes.

    Raises
    ------
    DataFileError
        As `read_columns`; no target column, or a class that the training file does not have.
    """
    path, target, classes = Path(path), known["target"], known["classes"]

    def want(names: list[str]) -> tuple[list[str], str]:
        if target not in names:
            hint = nearest(target, names, 0.75) or "; rows without answers test no model: they are for `fastnn predict`"
            raise DataFileError(f"{path}: has no column {target!r}, the target{hint}")
        return _needed(path, names, known), target

    table = read(path, want, reading_of(known, written))
    X = encoded(table.features, known["columns"], known.get("categories", {}), notes)
    named = classes is not None and isinstance(classes[0], str)
    values, text = _target_values(table, target, known["task"], known.get("decimal") == "comma")
    if classes is None and text:
        raise _not_a_number(path, table, target, values)
    if classes is None:
        return X, np.asarray(values, np.float64)
    if named and not text:  # names made of digits, which here look like numbers
        given = table.target if not isinstance(table.target, np.ndarray) else table.target.tolist()
        values = np.array([str(v).strip() for v in given or []])
    place = {value: code for code, value in enumerate(classes)}
    codes = np.array([place.get(value, -1) for value in values.tolist()], np.int64)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise DataFileError(
            f"{path}: {table.where(row)}, column {target!r}: class {values.tolist()[row]!r} does not occur in the "
            "training file"
        )
    return X, codes


def _not_a_number(path: Path, table: RawTable, name: str, values: NDArray[Any]) -> DataFileError:
    row = next((row for row, cell in enumerate(values) if isinstance(numbers([str(cell)]), BadCell)), 0)
    return DataFileError(
        f"{path}: {table.where(row)}, column {name!r}: text {str(values[row])!r}, but regression needs numbers"
    )


def reading_of(known: Mapping[str, Any], written: Written = PLAIN) -> Reading:
    """How the columns of a trained model are read."""
    categories = known.get("categories", {})
    literal = frozenset(column for column, names in categories.items() if MISSING & {name.lower() for name in names})
    return Reading(
        frozenset(categories),
        missing=known.get("missing") == "mean",
        literal=literal,
        comma=known.get("decimal") == "comma",
        written=replace(written, header="positions" not in known),
    )


def _needed(path: Path, names: list[str], known: Mapping[str, Any]) -> list[str]:
    width = known.get("positions")
    if width is not None and len(names) != width and not is_npz(path):
        last = known["target"] == str(width - 1)
        if not (last and len(names) == width - 1):
            raise DataFileError(
                f"{path}: has {len(names)} column{'s' * (len(names) != 1)}, the model was trained on {width} without a "
                "header line, so that a column is told by its position; give all of "
                f"them{', or all but the last' * last}"
            )
    missing = [column for column in known["columns"] if column not in set(names)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise DataFileError(
            f"{path}: column {missing[0]!r}{more}, which the model needs, is missing{nearest(missing[0], names, 0.6)}"
        )
    return list(known["columns"])


def _named(path: Path, names: list[str], column: str) -> str:
    """The column of this name, or at this position."""
    if column in names:
        return column
    try:
        return names[int(column)]
    except (ValueError, IndexError):
        raise _no_column(path, names, column) from None


def _no_column(path: Path, names: list[str], column: str) -> DataFileError:
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return DataFileError(f"{path}: has no column {column!r}{nearest(column, names) or '.'} Columns: {shown}")


def _features(path: Path, names: list[str], target: str, choice: Choice) -> list[str]:
    """The columns that are left for features."""
    dropped = {_named(path, names, column) for column in choice.drop}
    if both := set(choice.categorical) & set(choice.numeric):
        raise DataFileError(f"{path}: column {min(both)!r} is to be categorical and numeric")
    for column in (*choice.categorical, *choice.numeric):
        if column not in names:  # positions are for --target and --drop; here they are easily taken for values
            raise _no_column(path, names, column)
    for column in (*choice.categorical, target):
        if column in dropped:
            raise DataFileError(f"{path}: column {column!r} is to be dropped, and is the target or categorical as well")
    if target in choice.categorical:
        raise DataFileError(f"{path}: column {target!r} is the target; --task classification makes it classes")
    features = [column for column in names if column != target and column not in dropped]
    if not features:
        raise DataFileError(f"{path}: has no column besides the target {target!r}; at least one feature is needed")
    return features


def _target_values(table: RawTable, name: str, task: str | None, comma: bool) -> tuple[NDArray[Any], bool]:
    """The target (m,) as float64 or as text, and whether it is text. comma: its numbers have a decimal comma."""
    target = table.target
    if isinstance(target, np.ndarray):
        if target.dtype.kind not in "biufUS":
            raise DataFileError(f"{table.path}: array {name!r} holds {target.dtype}; a target is numbers or text")
        if (
            target.dtype.kind in "iu"
            and task != "regression"
            and (np.abs(target.astype(np.float64)) > MOST_EXACT).any()
        ):
            return target.astype(str), True
        if target.dtype.kind in "biuf":
            values = target.astype(np.float64)
            if not (finite := np.isfinite(values)).all():
                row = int(np.argmin(finite))
                raise DataFileError(
                    f"{table.path}: {table.where(row)}, column {name!r}: {values[row]} is not a finite number"
                )
            return values, False
        try:
            target = [str(v, "utf-8") if isinstance(v, bytes) else str(v) for v in target]
        except UnicodeDecodeError:
            raise DataFileError(f"{table.path}: array {name!r} holds bytes that are not UTF-8 text") from None
        target = [cell.strip() for cell in target]
    assert target is not None
    column = numbers([*map(with_point, target)] if comma and task != "classification" else target)
    if not isinstance(column, BadCell):
        return (np.array(target), True) if task != "regression" and are_labels(target, column) else (column, False)
    counts = Counter(target)
    if any(cell.lower() in MISSING for cell in counts):
        row = next(row for row, cell in enumerate(target) if cell.lower() in MISSING)
        raise DataFileError(
            f"{table.path}: {table.where(row)}, column {name!r}: missing value ({target[row] or 'empty'}) in the target"
        )
    odd = sum(n for cell, n in counts.items() if fault(cell))
    if 2 * odd < len(target) and task != "classification":
        # a column of numbers with a slip in it, more likely than classes
        hint = "" if "finite" in column.reason else "; if these are classes: --task classification"
        raise DataFileError(f"{table.path}: {table.where(column.row)}, column {name!r}: {column.reason}{hint}")
    return np.array(target), True
