"""Use a model on a file, or on a table in memory, with the columns, classes and scaling it was trained with.

>>> net = fastnn.load("runs/iris.safetensors")                # doctest: +SKIP
>>> predict_file(net, "new.csv").answers                      # doctest: +SKIP
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .data import features, idx, npz_file, preprocessing, tables
from .data.encoding import encoder_of
from .data.written import PLAIN, written_as
from .errors import DataFileError, ModelFileError, UnknownCategory
from .network import Network

__all__ = ["Predictions", "predict_file", "predict_table", "scaled"]

PREFERRED = ("X", "data", "images")  # where an npz has several arrays of the right width


@dataclass
class Predictions:
    """What the model says of each row of a file.

    Attributes
    ----------
    answers : list
        Classes as the training file spelled them, or numbers in its units.
    probabilities : list of float or None
        h of the class answered; None for regression.
    notes : list of str
        What was ignored or converted.
    classes : list or None
        What the columns of `all_probabilities` stand for.
    all_probabilities : (m, K) or None
        h of every class.
    kept : dict of str: list of str
        Columns of the file that were to be kept, as they are written there.
    """

    answers: list[Any]
    probabilities: list[float] | None
    notes: list[str] = field(default_factory=list)
    classes: list[Any] | None = None
    all_probabilities: NDArray[Any] | None = None
    kept: dict[str, list[str]] = field(default_factory=dict)


def predict_file(
    net: Network,
    path: str | os.PathLike[str],
    *,
    keep: Sequence[str] = (),
    encoding: str | None = None,
    separator: str | None = None,
) -> Predictions:
    """Predictions for every row of a file.

    Parameters
    ----------
    net : Network
        Trained by `fastnn train`, so that it knows how its data was prepared.
    path : path
        For a table model .csv, .csv.gz or .npz with its columns in any order; for an image model IDX images
        or .npz with an array (rows, pixels) or (rows, height, width).
    keep : sequence of str
        Columns of a table that tell its rows apart, such as a key, to be given back beside the answers.
    encoding : str, optional
        Of a table in text, as Python calls it; UTF-8 if not given.
    separator : str, optional
        Of its fields: "comma", "semicolon", "tab", "bar" or that character; what its first line shows if not given.

    Raises
    ------
    TypeError, ValueError
        keep, encoding or separator is not what it should be.
    ModelFileError
        The network does not say how its data was prepared, or says it wrongly.
    DataFileError
        The file is not usable, or lacks a column.

    Warns
    -----
    UnknownCategory
        A text that did not occur in training, which counts as none of its column's categories.
    """
    if isinstance(keep, str):
        raise TypeError(f"keep must be a sequence of columns, got {keep!r}; for one give [{keep!r}]")
    written = written_as(encoding, separator, option="")
    encoder = encoder_of(net)
    known = encoder.known
    notes: list[str] = []
    kept: dict[str, list[str]] = {}
    if known["kind"] == "images":
        if keep:
            raise DataFileError(f"{path}: images have no column {keep[0]!r} to keep")
        if written != PLAIN:
            raise DataFileError(f"{path}: encoding and separator are for tables, and this model takes images")
        X = _images(Path(path), known["shape"], net.scale, notes)
    else:
        columns, extra = tables.features_of(path, known, written)
        X = encoder.scaled(columns, notes, net.dtype, f"{path}: ")
        if known["target"] in extra and known["target"] not in keep:
            notes.append(f"column {known['target']!r} is what the model predicts; it is ignored")
        if keep:
            kept = tables.cells_of(path, keep, replace(written, header="positions" not in known))
        if others := [repr(name) for name in extra if name != known["target"] and name not in kept]:
            shown = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
            notes.append(f"ignored, not used by the model: {shown}")
    found = _answers(net, known, X, notes)
    found.kept = kept
    _warn_of_unknown(notes)
    return found


def predict_table(net: Network, table: Any) -> Predictions:
    """Predictions for rows in memory, by a network that `fastnn train FILE.csv` trained: they are scaled, and answers
    given, as for that file. (`net.predict` takes rows that are scaled already.)

    Parameters
    ----------
    net : Network
    table : mapping of column names to values, such as a pandas.DataFrame or a dict of arrays
        The columns of the training in any order, and perhaps more. One row may be a dict of single values, several a
        list of such dicts.

    Raises
    ------
    ModelFileError
        The network was not trained on a table.
    DataFileError
        A column is missing, of another length, or holds what it cannot.

    Warns
    -----
    UnknownCategory
        A text that did not occur in training, which counts as none of its column's categories.
    """
    encoder = encoder_of(net)
    known = encoder.known
    if known["kind"] != "table":
        raise ModelFileError(f"this network takes {known['kind']}, not the columns of a table; use net.predict")
    notes: list[str] = []
    X = encoder.scaled(features.from_arrays(table, encoder.columns, encoder.reading), notes, net.dtype)
    found = _answers(net, known, X, notes)
    _warn_of_unknown(notes)
    return found


def _warn_of_unknown(notes: list[str]) -> None:
    """Those notes that may mean that a table was read or written otherwise than that of the training."""
    for note in notes:
        if features.UNKNOWN in note:
            warnings.warn(note, UnknownCategory, stacklevel=3)


def _answers(net: Network, known: dict[str, Any], X: NDArray[Any], notes: list[str]) -> Predictions:
    if known["kind"] == "table" and known["task"] == "regression":
        return Predictions(preprocessing.unscale_target(known, net._outputs(X)[:, 0]).tolist(), None, notes)
    h = np.asarray(net._told_apart(net._outputs(X)))
    codes = h.argmax(axis=1)
    of_answer = [float(p) for p in h[np.arange(len(h)), codes]]
    return Predictions([known["classes"][k] for k in codes], of_answer, notes, list(known["classes"]), h)


def scaled(where: str, known: dict[str, Any], raw: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[np.float64]:
    """Features as the network takes them, which fit its dtype; `where` begins the message."""
    X = preprocessing.scale_features(known, raw)
    outside = ~(np.abs(X) <= np.finfo(dtype).max)
    if outside.any():
        row, i = (int(v) for v in np.argwhere(outside)[0])
        name = features.feature_names(known["columns"], known.get("categories", {}))[i]
        raise DataFileError(f"{where}row {row + 1}, column {name!r}: the value is too large for {dtype}")
    return X


def _images(path: Path, shape: list[int], scale: float | None, notes: list[str]) -> NDArray[Any]:
    """Rows of pixels (m, height * width), integers where `scale` still has to be applied."""
    if tables.ending(path) in tables.READERS and path.suffix.lower() != ".npz":
        raise DataFileError(
            f"{path}: this model takes images: an IDX file, or .npz with an array (rows, {shape[0] * shape[1]})"
        )
    if path.suffix.lower() != ".npz":
        X: NDArray[Any] = idx.read_images(path)
        if list(X.shape[1:]) != shape:
            raise DataFileError(
                f"{path}: holds images of {X.shape[1]} x {X.shape[2]} pixels, the model takes {shape[0]} x {shape[1]}"
            )
    else:
        X = _pick(path, shape, notes)
    X = X.reshape(len(X), -1)
    return X if scale is None else _pixels(path, X, scale, notes)


def _pick(path: Path, shape: list[int], notes: list[str]) -> NDArray[Any]:
    arrays = npz_file.read_arrays(path)
    pixels = shape[0] * shape[1]
    fitting = [
        name
        for name, x in arrays.items()
        if x.ndim > 1 and len(x) and tuple(x.shape[1:]) in ((pixels,), tuple(shape)) and x.dtype.kind in "iuf"
    ]
    preferred = [name for name in PREFERRED if name in fitting] or fitting
    if not fitting or (len(fitting) > 1 and preferred[0] not in PREFERRED):
        shapes = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in arrays.items())
        problem = "no array" if not fitting else "several arrays"
        raise DataFileError(
            f"{path}: {problem} of numbers with the model's {pixels} pixels per row ({shapes}); call the one that is "
            "meant X"
        )
    if len(arrays) > 1:
        notes.append(
            f"array {preferred[0]!r} is read; ignored: "
            f"{', '.join(repr(name) for name in arrays if name != preferred[0])}"
        )
    return arrays[preferred[0]]


def _pixels(path: Path, X: NDArray[Any], scale: float, notes: list[str]) -> NDArray[Any]:
    """Integers within the range the model was trained on, or floats that are scaled already."""
    top = round(1 / scale)
    finite = np.isfinite(X)
    if not finite.all():
        row, column = (int(v) for v in np.argwhere(~finite)[0])
        raise DataFileError(
            f"{path}: row {row} (counted from 0), pixel {column}: {X[row, column]} is not a finite number"
        )
    if X.dtype.kind == "f" and X.max() <= 1:
        notes.append("pixels are fractions of 1 and taken as they are")
    elif X.dtype.kind == "f":
        if (fractional := X % 1 != 0).any():
            raise DataFileError(
                f"{path}: pixels must be integers 0..{top}, or scaled into 0..1 already; got {X[fractional][0]:g}"
            )
        X = np.clip(X, -1, top + 1).astype(np.int64)
        notes.append(f"pixels are whole numbers and scaled by 1/{top}, as in training")
    if X.min() < 0 or (X.dtype.kind in "iu" and X.max() > top):
        raise DataFileError(f"{path}: pixels outside 0..{top}, the range on which the model was trained")
    return X
