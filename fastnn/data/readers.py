"""Which reader a table is for, by the ending of its name."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import DataFileError
from .columns import RawTable, Reading, Want
from .csv_file import read_csv
from .npz_file import read_npz
from .written import UTF8

__all__ = ["READERS", "ending", "is_npz", "read"]

READERS = {".csv": read_csv, ".tsv": read_csv, ".csv.gz": read_csv, ".tsv.gz": read_csv, ".npz": read_npz}


def ending(path: str | os.PathLike[str]) -> str:
    """How a file's name ends, in lower case: .csv, .npz, and of packed ones .csv.gz."""
    path = Path(path)
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


def is_npz(path: Path) -> bool:
    """Arrays, and not text."""
    return path.suffix.lower() == ".npz"


def read(path: Path, want: Want, reading: Reading) -> RawTable:
    """The wanted columns of a table.

    Raises
    ------
    DataFileError
        Its name is that of no table, or as `read_csv` and `read_npz`.
    ValueError
        It is said how the text of arrays is written.
    """
    if ending(path) not in READERS:
        raise DataFileError(f"{path}: expected a file that ends in .csv, .tsv or .npz, the first two perhaps with .gz")
    if path.is_dir():
        raise DataFileError(f"{path}: is a folder, a file is expected")
    if is_npz(path) and (reading.written.encoding, reading.written.separator) != (UTF8, None):
        raise ValueError(
            f"{path}: --encoding and --separator are for text, in .csv and .tsv; an .npz file holds arrays"
        )
    return READERS[ending(path)](path, want, reading)
