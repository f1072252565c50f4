"""The confusion matrix: which class was taken for which."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["confusion_matrix", "worst_pairs"]


def confusion_matrix(y: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """counts[t, p] = rows of class t that were predicted as p.

    Parameters
    ----------
    y, predicted : (m,) integer
        Codes 0..classes - 1.
    classes : int

    Returns
    -------
    (classes, classes) int64

    Raises
    ------
    ValueError
        The two differ in shape, or hold a code outside the range.
    """
    if y.shape != predicted.shape or y.ndim != 1:
        raise ValueError(f"y and predicted must both have shape (m,), got {y.shape} and {predicted.shape}")
    for name, codes in (("y", y), ("predicted", predicted)):
        if codes.size and not (codes.min() >= 0 and codes.max() < classes):
            raise ValueError(f"{name} must hold codes 0..{classes - 1}, got {codes.min()}..{codes.max()}")
    flat = np.bincount(y.astype(np.int64) * classes + predicted.astype(np.int64), minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def worst_pairs(matrix: NDArray[np.int64], count: int) -> list[tuple[int, int, int]]:
    """The most frequent mistakes: (true, predicted, rows), at most `count`, none with 0 rows."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [(int(i // len(wrong)), int(i % len(wrong)), int(wrong.flat[i])) for i in order]
    return [pair for pair in pairs if pair[2]]
