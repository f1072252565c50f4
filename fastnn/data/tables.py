"""A user's table: which column is the target, which task that is, and rows for a model that was trained on one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError, nearest, unknown_name
from .columns import MISSING, BadCell, RawTable, fault, numbers
from .csv_file import read_csv
from .dataset import DataSet
from .npz_file import read_npz

__all__ = ["TASKS", "load", "read_columns"]

TASKS = ("classification", "regression")
FEW_CLASSES = 20  # more distinct integers than this, or fewer than ROWS_PER_CLASS rows each, are taken for quantities
ROWS_PER_CLASS = 5
MOST_EXACT = 2**53  # integers beyond it share a float64


def load(path: str | os.PathLike[str], target: str, *, task: str | None = None) -> DataSet:
    """A table for training: every column but the target is a feature.

    Parameters
    ----------
    path : path
        .csv or .npz.
    target : str
        Name of the column; or its position, from 0, or from the end when negative.
    task : str, optional
        "classification" or "regression"; guessed, and said in the notes, if not given: text is
        classified, and so are whole numbers with leading zeros or beyond 2^53, which are kept as they are written;
        integers too when few and frequent; everything else is regression.

    Returns
    -------
    DataSet
        X float64, y int64 codes of `classes` (sorted) or float64.

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
    table = _reader(path)(path, lambda names: _all_but_target(path, names, target))
    assert table.target is not None
    name = next(column for column in table.names if column not in set(table.columns))
    values, text = _target_values(table, name, task)
    notes = list(table.notes)
    if name != target:
        notes.append(f"target: column {name!r}, at position {target}")
    if task is None:
        task, why = _guess(values, text)
        notes.append(f"task: {task}, guessed because {name!r} holds {why}; --task overrides this")
    preprocessing: dict[str, Any] = {
        "version": 1,
        "kind": "table",
        "task": task,
        "target": name,
        "columns": table.columns,
        "classes": None,
    }
    title = f"{path.name}, target {name!r}"
    if task == "regression":
        if text:
            row = next((row for row, cell in enumerate(values) if isinstance(numbers([str(cell)]), BadCell)), 0)
            raise DataFileError(
                f"{path}: {table.where(row)}, column {name!r}: text {str(values[row])!r}, but regression needs numbers"
            )
        return DataSet(
            name=path.stem,
            title=title,
            X=table.X,
            y=np.asarray(values, np.float64),
            preprocessing=preprocessing,
            task=task,
            notes=notes,
        )
    found, codes = np.unique(values, return_inverse=True)
    if len(found) < 2:
        raise DataFileError(
            f"{path}: column {name!r} has the same value in every row ({_plain(found, text)[0]}); classification "
            "needs at least two classes"
        )
    classes = _plain(found, text)
    preprocessing["classes"] = classes
    return DataSet(
        name=path.stem,
        title=title,
        X=table.X,
        y=codes.astype(np.int64).reshape(-1),
        preprocessing=preprocessing,
        task=task,
        classes=classes,
        notes=notes,
    )


def read_columns(path: str | os.PathLike[str], columns: list[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Rows for a trained model: these columns, wherever in the file they are.

    Returns
    -------
    X : (m, len(columns)) float64
        In the order of `columns`.
    extra : list of str
        Columns of the file that were not wanted.

    Raises
    ------
    DataFileError
        A column is missing (the nearest name there is suggested), or the file is not usable.
    """
    path = Path(path)

    def want(names: list[str]) -> tuple[list[str], None]:
        missing = [column for column in columns if column not in set(names)]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DataFileError(
                f"{path}: column {missing[0]!r}{more}, which the model needs, is missing{nearest(missing[0], names)}"
            )
        return columns, None

    table = _reader(path)(path, want)
    return table.X, [name for name in table.names if name not in set(columns)]


def _reader(path: Path) -> Any:
    readers = {".csv": read_csv, ".tsv": read_csv, ".npz": read_npz}
    if path.suffix.lower() not in readers:
        raise DataFileError(f"{path}: expected a file that ends in .csv or .npz")
    if path.is_dir():
        raise DataFileError(f"{path}: is a folder, a file is expected")
    return readers[path.suffix.lower()]


def _all_but_target(path: Path, names: list[str], target: str) -> tuple[list[str], str]:
    name = target
    if target not in names:
        try:
            name = names[int(target)]
        except (ValueError, IndexError):
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise DataFileError(
                f"{path}: has no column {target!r}{nearest(target, names) or '.'} Columns: {shown}"
            ) from None
    features = [column for column in names if column != name]
    if not features:
        raise DataFileError(f"{path}: has no column besides the target {name!r}; at least one feature is needed")
    return features, name


def _target_values(table: RawTable, name: str, task: str | None) -> tuple[NDArray[Any], bool]:
    """The target (m,) as float64 or as text, and whether it is text."""
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
    column = numbers(target)
    if not isinstance(column, BadCell):
        return (np.array(target), True) if task != "regression" and _are_labels(target, column) else (column, False)
    for row, cell in enumerate(target):
        if cell.lower() in MISSING:
            raise DataFileError(
                f"{table.path}: {table.where(row)}, column {name!r}: missing value ({cell or 'empty'}) in the target"
            )
    odd = sum(bool(fault(cell)) for cell in target)
    if 2 * odd < len(target) and task != "classification":
        # a column of numbers with a slip in it, more likely than classes
        hint = "" if "finite" in column.reason else "; if these are classes: --task classification"
        raise DataFileError(f"{table.path}: {table.where(column.row)}, column {name!r}: {column.reason}{hint}")
    return np.array(target), True


def _are_labels(cells: list[str], values: NDArray[np.float64]) -> bool:
    """Whether cells that could be read as numbers are names made of digits: 007 would become 7, and integers beyond
    2^53 one another.
    """
    digits = [cell for cell in cells if cell.isdigit()]
    return any(len(cell) > 1 and cell[0] == "0" for cell in digits) or bool(
        (np.abs(values) > MOST_EXACT).any() and len(digits) == len(cells)
    )


def _guess(values: NDArray[Any], text: bool) -> tuple[str, str]:
    distinct = len(np.unique(values))
    if text:
        return "classification", "text"
    if (values != np.round(values)).any():
        return "regression", "fractional numbers"
    if distinct <= 2 or (distinct <= FEW_CLASSES and distinct * ROWS_PER_CLASS <= len(values)):
        return "classification", f"{distinct} distinct integers"
    return "regression", f"{distinct} distinct integers in {len(values)} rows"


def _plain(found: NDArray[Any], text: bool) -> list[Any]:
    """Class values as text, ints, or floats for JSON."""
    if text:
        return [str(value) for value in found]
    return [int(value) if value == int(value) else float(value) for value in found]
