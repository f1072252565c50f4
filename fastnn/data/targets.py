"""What a column to predict is: classes or quantities, and how classes are called."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .columns import MOST_EXACT

__all__ = ["are_labels", "distinct", "guess", "plain"]

FEW_CLASSES = 20  # more distinct integers than this, or fewer than ROWS_PER_CLASS rows each, are taken for quantities
ROWS_PER_CLASS = 5


def are_labels(cells: list[str], values: NDArray[np.float64]) -> bool:
    """Whether cells that could be read as numbers are names made of digits: 007 would become 7, and integers beyond
    2^53 one another.
    """
    digits = [cell for cell in cells if cell.isdigit()]
    return any(len(cell) > 1 and cell[0] == "0" for cell in digits) or bool(
        (np.abs(values) > MOST_EXACT).any() and len(digits) == len(cells)
    )


def guess(values: NDArray[Any], text: bool) -> tuple[str, str]:
    """The task, and what the target holds that says so."""
    if text:
        cells = set(values.tolist())
        large = all(map(str.isdecimal, cells)) and any(float(cell) >= MOST_EXACT for cell in cells)
        return "classification", "integers beyond 2^53, which are taken for names" if large else "text"
    kinds = len(np.unique(values))
    if (values != np.round(values)).any():
        return "regression", "fractional numbers"
    if kinds <= 2 or (kinds <= FEW_CLASSES and kinds * ROWS_PER_CLASS <= len(values)):
        return "classification", f"{kinds} distinct integers"
    return "regression", f"{kinds} distinct integers in {len(values)} rows"


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """As numpy.unique with the inverse, which would sort every text."""
    if values.dtype.kind != "U":
        return np.unique(values, return_inverse=True)
    cells = values.tolist()
    place = {cell: i for i, cell in enumerate(dict.fromkeys(cells))}
    found, codes = np.unique(np.array(list(place)), return_inverse=True)
    return found, codes[np.fromiter(map(place.__getitem__, cells), np.intp, len(cells))]


def plain(found: NDArray[Any], text: bool) -> list[Any]:
    """Class values as text, ints, or floats for JSON."""
    if text:
        return [str(value) for value in found]
    return [int(value) if value == int(value) else float(value) for value in found]
