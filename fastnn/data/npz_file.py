"""Tables in NumPy's npz: one-dimensional arrays are columns, two-dimensional ones several. Never unpickles."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataFileError
from .columns import MOST_EXACT, BadCell, Column, RawTable, Reading, Want, beyond
from .columns import names as names_of
from .features import as_text

__all__ = ["expand", "read_arrays", "read_npz"]

LIMIT = 1 << 33  # bytes the arrays may unpack to


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an npz file, in its order.

    Raises
    ------
    DataFileError
        Missing, not an npz file, damaged, empty, more than 8 GiB unpacked, or an array that could
        only be read by unpickling (allow_pickle=False: unpickling runs code).
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > LIMIT:
                raise DataFileError(f"{path}: would unpack to {size:,} bytes; the limit is {LIMIT:,}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except DataFileError:
        raise
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except zipfile.BadZipFile as error:
        raise DataFileError(f"{path}: not an npz file ({error})") from None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataFileError(
                f"{path}: holds an array of Python objects, which fastnn does not unpickle; save numbers or "
                "fixed-width text"
            ) from None
        raise DataFileError(f"{path}: damaged npz file ({error})") from None
    except (OSError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataFileError(f"{path}: cannot be read ({error or type(error).__name__})") from None
    if not arrays:
        raise DataFileError(f"{path}: holds no arrays")
    # a zip member that is not .npy comes back as bytes
    odd = next((name for name, x in arrays.items() if not isinstance(x, np.ndarray)), None)
    if odd is not None:
        raise DataFileError(f"{path}: {odd!r} is not an array")
    return arrays


def expand(name: str, x: NDArray[Any]) -> list[str]:
    """Column names of one array: its own for (m,) and (m, 1), else name[0], name[1], ... over the flattened rest."""
    width = int(np.prod(x.shape[1:], dtype=np.int64))
    return [name] if width == 1 else [f"{name}[{i}]" for i in range(width)]


def read_npz(path: str | os.PathLike[str], want: Want, reading: Reading = Reading()) -> RawTable:  # noqa: B008
    """The wanted columns of an npz file.

    An array (m, ...) gives the columns of `expand`. All arrays must have the same number of rows.

    Parameters
    ----------
    path : path
    want : callable
        Gets the column names, returns those of the features and the target's, or None.
    reading : Reading
        Arrays of text are columns of text, if it decides.

    Raises
    ------
    DataFileError
        As `read_arrays`; arrays without rows or of different lengths; wanted columns that do not hold finite real
        numbers.
    """
    path = Path(path)
    arrays = read_arrays(path)
    lengths = {name: x.shape[0] if x.ndim else None for name, x in arrays.items()}
    rows = next(iter(lengths.values()))
    for name, length in lengths.items():
        if length != rows or length is None:
            shapes = ", ".join(f"{key} {tuple(x.shape)}" for key, x in arrays.items())
            raise DataFileError(f"{path}: array {name!r} does not have one entry per row like the others ({shapes})")
    if not rows:
        raise DataFileError(f"{path}: its arrays have no rows")
    place = {column: (name, i) for name, x in arrays.items() for i, column in enumerate(expand(name, x))}
    names = list(place)
    columns, target = want(names)
    flat = {name: x.reshape(rows, -1) for name, x in arrays.items()}
    features: dict[str, Column] = {}
    counting = set()
    for column in columns:
        name, k = place[column]
        cells = flat[name][:, k]
        if column in reading.text or (reading.decide and cells.dtype.kind in "US"):
            text = names_of(as_text(cells), missing=reading.missing, literal=column in reading.literal)
            if isinstance(text, BadCell):
                raise DataFileError(f"{path}: {_where(text.row)}, column {column!r}: {text.reason}")
            features[column] = text
            continue
        if cells.dtype.kind not in "biuf":
            raise DataFileError(f"{path}: array {name!r} holds {cells.dtype}, numbers are expected in feature columns")
        if (
            reading.decide
            and cells.dtype.kind in "iu"
            and (large := (cells > MOST_EXACT) | (cells < -MOST_EXACT)).any()
        ):
            row = int(np.argmax(large))
            if column not in reading.numeric:
                raise DataFileError(f"{path}: {_where(row)}, column {column!r}: {beyond(cells[row], column)}")
            counting |= {column} if _counts(cells) else set()
        features[column] = cells.astype(np.float64)
    bad = [
        (int(np.argmax(at)), column)
        for column, x in features.items()
        if isinstance(x, np.ndarray) and (at := np.isinf(x) if reading.missing else ~np.isfinite(x)).any()
    ]
    if bad:
        row, column = min(bad)
        raise DataFileError(f"{path}: {_where(row)}, column {column!r}: {features[column][row]} is not a finite number")
    answers = None if target is None else flat[place[target][0]][:, place[target][1]]
    return RawTable(path, names, features, answers, _where, [], frozenset(counting))


def _counts(cells: NDArray[Any]) -> bool:
    """Whether integers rise, or fall, by one from row to row; their differences, and those alone, may wrap around."""
    steps = np.diff(cells).view(f"i{cells.dtype.itemsize}")
    return len(steps) > 0 and abs(int(steps[0])) == 1 and bool((steps == steps[0]).all())


def _where(row: int) -> str:
    return f"row {row} (counted from 0)"
