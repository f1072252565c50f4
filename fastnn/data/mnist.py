"""MNIST: four IDX files in one folder, 60,000 training and 10,000 test images of 28 x 28 grey pixels.

fastnn downloads nothing. The folder is given, or named by the environment variable FASTNN_MNIST.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import DataFileError, nearest
from .dataset import DataSet
from .idx import read_pair

__all__ = ["VARIABLE", "find", "load"]

VARIABLE = "FASTNN_MNIST"
PARTS = ("train-images", "train-labels", "t10k-images", "t10k-labels")
PIXEL_SCALE = 1 / 255  # grey values 0..255 to 0..1


def spellings(part: str) -> list[str]:
    """The file names under which a part is distributed, most usual first."""
    d = 3 if part.endswith("images") else 1
    stems = [f"{part}-idx{d}-ubyte", f"{part}.idx{d}-ubyte", f"{part}-idx{d}", f"{part}.idx{d}"]
    return [name for stem in stems for name in (stem + ".gz", stem)]


def find(directory: str | os.PathLike[str] | None = None) -> dict[str, Path]:
    """Where the four files lie, by part.

    Parameters
    ----------
    directory : path, optional
        The folder; the environment variable FASTNN_MNIST if not given.

    Raises
    ------
    DataFileError
        No folder given, no such folder, or a file missing from it.
    """
    if directory is None:
        directory = os.environ.get(VARIABLE) or None
        if directory is None:
            raise DataFileError(
                f"MNIST needs a folder with its four IDX files: --data DIR, or the environment variable {VARIABLE}"
            )
    folder = Path(directory)
    if not folder.is_dir():
        raise DataFileError(
            f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; MNIST needs one with its four IDX "
            "files"
        )
    found = {}
    for part in PARTS:
        names = spellings(part)
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            hint = nearest(names[1], [entry.name for entry in folder.iterdir()]) if part != PARTS[0] else ""
            raise DataFileError(
                f"{folder}: {names[1]} is missing (also looked for {', '.join([names[0], *names[2:4]])}){hint}"
            )
        found[part] = path
    return found


def load(directory: str | os.PathLike[str] | None = None) -> DataSet:
    """MNIST with its own test set; X uint8 (60000, 784) and (10000, 784), y int64. Errors as `find` and
    `idx.read_pair`.
    """
    files = find(directory)
    X, y = read_pair(files["train-images"], files["train-labels"])
    X_test, y_test = read_pair(files["t10k-images"], files["t10k-labels"])
    if X.shape[1:] != X_test.shape[1:]:
        raise DataFileError(
            f"{files['t10k-images']}: images of {X_test.shape[1:]} pixels, but the training images have {X.shape[1:]}"
        )
    for part, labels in (("train-labels", y), ("t10k-labels", y_test)):
        if labels.max() > 9:
            raise DataFileError(
                f"{files[part]}: label {labels.max()} at row {int(labels.argmax())}, expected the digits 0..9"
            )
    return DataSet(
        name="mnist",
        title=f"MNIST handwritten digits from {Path(files['train-images']).parent}",
        X=X.reshape(len(X), -1),
        y=y,
        classes=list(range(10)),
        test=(X_test.reshape(len(X_test), -1), y_test),
        scale=PIXEL_SCALE,
        preprocessing={"version": 1, "kind": "images", "shape": list(X.shape[1:]), "classes": list(range(10))},
    )
