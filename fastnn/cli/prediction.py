"""`fastnn predict`, `evaluate` and `export`: what is done with a saved model."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__, files, warming
from ..data.written import written_as
from ..errors import DataFileError, UnknownCategory
from ..evaluation import evaluate_file
from ..model_file import load
from ..network import Network
from ..prediction import Predictions, predict_file
from . import report
from .errors import known, remark, warnings_as_remarks
from .settings import BACKENDS
from .training import OF_QUANTITIES, plain

__all__ = ["evaluate", "export", "predict", "warm_up"]


def warm_up(model: Path, *, backend: str, as_json: bool) -> None:
    """Run the command."""
    with warnings_as_remarks():
        net = load(model, backend=known("--backend", backend, BACKENDS))
    with net.backend.announcing(remark):
        seconds = warming.warm_up(net)
    if as_json:
        found = {"fastnn": __version__, "command": "warm-up", "engine": net.backend.name, "seconds": round(seconds, 3)}
        print(json.dumps(found))
    else:
        print(f"{net.backend.name}: predictions by this model are ready ({seconds:.1f} s)")


def predict(
    model: Path,
    file: Path,
    *,
    output: Path | None,
    all_classes: bool,
    keep: Sequence[str],
    backend: str,
    as_json: bool,
    encoding: str | None = None,
    separator: str | None = None,
) -> None:
    """Run the command: CSV (columns to keep, prediction, probability, with all_classes that of every class), or one
    JSON object, to stdout or to a file, packed if it ends in .gz. `file` may be - for standard input.
    """
    written_as(encoding, separator)
    for column in keep:
        if column in ("prediction", "probability"):
            raise ValueError(f"--keep {column}: the predictions have a column of that name themselves")
    for what, path in (("the model", model), ("the file to predict", file)):
        if output is not None and output.exists() and path.exists() and output.samefile(path):
            raise ValueError(f"--output {output}: is {what} itself")
    with warnings_as_remarks():
        net = load(model, backend=known("--backend", backend, BACKENDS))
    with net.backend.announcing(remark), warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownCategory)  # it is among the notes
        given: dict[str, Any] = {"keep": keep, "encoding": encoding, "separator": separator}
        result = _of_standard_input(net, **given) if str(file) == "-" else predict_file(net, file, **given)
    for note in result.notes:
        remark(note)
    if all_classes and result.all_probabilities is None:
        raise ValueError("--all-classes is for models that tell classes apart, and this one is a regression")
    if not all_classes:
        result.classes = result.all_probabilities = None
    text = _json(model, file, result, net.backend.name) if as_json else _csv(result)
    if output is None:
        print(text, end="")
        return
    existed = output.is_file()
    _replace(output, text)
    remark(
        f"{len(result.answers):,} predictions written to "
        f"{output}{' (an earlier file was overwritten)' if existed else ''}"
    )


def _of_standard_input(net: Network, keep: Sequence[str], **given: Any) -> Predictions:
    """Predictions for a CSV table that is piped in, which lies in a file while it is read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard-input.csv"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            return predict_file(net, path, keep=keep, **given)
        except DataFileError as error:
            raise DataFileError(str(error).replace(str(path), "standard input")) from None


def evaluate(
    model: Path,
    file: Path,
    *,
    backend: str,
    as_json: bool,
    encoding: str | None = None,
    separator: str | None = None,
) -> None:
    """Run the command: what a model is worth on a table with its target, or one JSON object."""
    written_as(encoding, separator)
    with warnings_as_remarks():
        net = load(model, backend=known("--backend", backend, BACKENDS))
    with net.backend.announcing(remark):
        found = evaluate_file(net, file, encoding=encoding, separator=separator)
    for note in found.notes:
        remark(note)
    if not as_json:
        report.evaluation("evaluation", found)
        return
    content = {
        "fastnn": __version__,
        "command": "evaluate",
        "model": str(model),
        "file": str(file),
        "engine": net.backend.name,
        "rows": found.rows,
        "notes": found.notes,
        "cost": found.cost,
        "better_than_baseline": found.better,
    }
    if found.confusion is not None:
        content |= {"accuracy": found.accuracy, "classes": found.classes, "confusion": found.confusion.tolist()}
        content |= {"balanced_accuracy": found.balanced_accuracy, "f1": found.f1, "roc_auc": found.roc_auc}
        if found.majority is not None:
            content["majority_accuracy"] = found.majority[1]
    else:
        content |= {name: getattr(found, name) for name in OF_QUANTITIES}
    print(json.dumps(plain(content), allow_nan=False))


def export(model: Path, file: Path) -> None:
    """Run the command `export`."""
    with warnings_as_remarks():
        net = load(model, backend="numpy")
    existed = file.is_file()
    try:
        net.export_onnx(file)
    except ImportError as error:
        raise ValueError(str(error)) from None
    remark(f"written to {file}{' (an earlier file was overwritten)' if existed else ''}")


def _replace(path: Path, text: str) -> None:
    """Write beside the target and move, so that a full disk leaves the earlier file as it was."""
    if path.is_dir():
        raise ValueError(f"--output {path}: is a folder, a file name is expected")
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe: written, not replaced
            path.write_text(text, encoding="utf-8", newline="")
            return
        content = text.encode()
        files.replace(path, gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)
    except OSError as error:
        raise ValueError(f"--output {path}: cannot be written ({error.strerror or error})") from None


def _csv(result: Predictions) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    header, columns = [*result.kept, "prediction"], [*result.kept.values(), result.answers]
    if result.probabilities is not None:
        header, columns = [*header, "probability"], [*columns, [f"{p:.6f}" for p in result.probabilities]]
    if result.classes is not None and result.all_probabilities is not None:
        header += [f"p({name})" for name in result.classes]
        columns += [[f"{p:.6f}" for p in of_class] for of_class in result.all_probabilities.T.tolist()]
    writer.writerow(header)
    writer.writerows(zip(*columns, strict=True))
    return buffer.getvalue()


def _json(model: Path, file: Path, result: Predictions, engine: str) -> str:
    content = {
        "fastnn": __version__,
        "command": "predict",
        "model": str(model),
        "file": str(file),
        "engine": engine,
        "rows": len(result.answers),
        "notes": result.notes,
    }
    if result.kept:
        content["kept"] = result.kept
    content["predictions"] = result.answers
    if result.probabilities is not None:
        content["probabilities"] = result.probabilities
    if result.classes is not None and result.all_probabilities is not None:
        content |= {"classes": result.classes, "all_probabilities": result.all_probabilities.tolist()}
    return json.dumps(content, allow_nan=False) + "\n"
