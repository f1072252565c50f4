"""`fastnn inspect`: what a model file holds, in a table or as JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

from .. import __version__
from ..data import preprocessing
from ..model_file import WRITER, load, resume
from ..network import Network
from . import checkpoint
from .report import line, shown_names
from .training import plain

__all__ = ["describe", "inspect"]

MOST_COLUMNS = 60  # that are shown to people; --json lists them all


def inspect(model: Path, *, as_json: bool) -> None:
    """Run the command."""
    found = describe(model)
    if as_json:
        print(json.dumps(plain({"fastnn": __version__, "command": "inspect", **found}), allow_nan=False))
    else:
        _show(found)


def describe(model: Path) -> dict[str, Any]:
    """What is in a model file, as plain values for JSON.

    Raises
    ------
    FileNotFoundError, ModelFileError
        As `fastnn.load`; ModelFileError also where what is said of the data, or an optimizer, is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a precision that NumPy has not: nothing is computed here
        net, metadata = load(model, backend="numpy"), _metadata(model)
        if "optimizer" in metadata:
            resume(model, backend="numpy")  # which looks whether it is right
    written = json.loads(metadata["network"])
    return {
        "model": str(model),
        "bytes": model.stat().st_size,
        "format": int(metadata["version"]),
        "written_by": metadata.get(WRITER),
        "sizes": list(net.sizes),
        "hidden": [g.config() for g in net.hidden],
        "output": net.output.name,
        "cost": net.cost,
        "dtype": net.dtype.name,
        "precision": written["precision"],  # and not that of the engine that reads it here
        "parameters": net.layout.size,
        "l2": net.l2,
        "dropout": list(net.dropout),
        "scale": net.scale,
        "epochs_trained": net.epochs_trained,
        "optimizer": _optimizer(metadata),
        **_data(net),
    }


def _metadata(model: Path) -> dict[str, str]:
    """Of a file that `load` has found to be right."""
    from safetensors import safe_open

    with safe_open(model, framework="numpy") as file:
        return dict(file.metadata())


def _optimizer(metadata: dict[str, str]) -> dict[str, Any] | None:
    """Its name, constants, learning rate and steps, without the vectors of its state."""
    if "optimizer" not in metadata:
        return None
    content = json.loads(metadata["optimizer"])
    return {
        "name": content["name"],
        "learning_rate": content["learning_rate"],
        "steps": content["t"],
        "constants": content["constants"],
    }


def _data(net: Network) -> dict[str, Any]:
    """How the data were prepared: "data" is table, images, checkpoint, or None where the file does not say."""
    known = net.preprocessing
    nothing = dict.fromkeys(("data", "task", "target", "classes", "columns"))
    if known is None:
        return nothing
    if known.get("kind") == checkpoint.KIND:
        return nothing | {"data": checkpoint.KIND}
    known = preprocessing.of(net)
    if known["kind"] == "images":
        found = {"data": "images", "task": "classification", "classes": known["classes"], "shape": known["shape"]}
        return nothing | found
    quantity = known["task"] == "regression"
    return {
        "data": "table",
        "task": known["task"],
        "target": known["target"],
        "classes": known["classes"],
        "target_centre": known["target_mean"] if quantity else None,
        "target_scale": known["target_std"] if quantity else None,
        "missing": known.get("missing", "refuse"),
        "decimal": known.get("decimal", "point"),
        "positions": known.get("positions"),
        "dropped": known.get("dropped", []),
        "columns": _columns(known),
    }


def _columns(known: dict[str, Any]) -> list[dict[str, Any]]:
    """Each column of the table with its treatment; a number x enters the network as (x - mean) / scale."""
    categories = known.get("categories", {})
    found, at = [], 0
    for column in known["columns"]:
        if column in categories:
            found.append({"name": column, "treatment": "categories", "categories": categories[column]})
            at += len(categories[column])
            continue
        mean, factor = known["feature_mean"][at], known["feature_factor"][at]
        at += 1
        if factor:
            found.append({"name": column, "treatment": "number", "mean": mean, "scale": 1 / factor})
        else:
            found.append({"name": column, "treatment": "constant", "mean": mean})
    return found


def _show(found: dict[str, Any]) -> None:
    """For people."""
    writer = "an unknown version" if found["written_by"] is None else f"fastnn {found['written_by']}"
    line(
        "model",
        f"{found['model']}: {found['bytes']:,} bytes, format {found['format']}, written by {writer}, read by "
        f"fastnn {__version__}",
    )
    hidden = [g["name"] + (f" (slope {g['slope']:g})" if "slope" in g else "") for g in found["hidden"]]
    hidden = hidden[:1] if len(set(hidden)) == 1 else hidden
    line(
        "network",
        f"{'-'.join(map(str, found['sizes']))}, {''.join(f'{name}, ' for name in hidden)}{found['output']} output with "
        f"{found['cost']}, {found['dtype']}, precision {found['precision']}",
    )
    line("", f"{found['parameters']:,} parameters")
    trained = f"{found['epochs_trained']} epoch{'s' * (found['epochs_trained'] != 1)}, L2 {found['l2']:g}"
    dropout = ", ".join(f"{p:g}" for p in (found["dropout"] if len({*found["dropout"]}) > 1 else found["dropout"][:1]))
    line("training", trained + (f", dropout {dropout}" if any(found["dropout"]) else ""))
    _show_optimizer(found["optimizer"])
    if found["scale"] is not None:
        line("scale", f"{found['scale']:.6g}, by which whole numbers are multiplied")
    if found["data"] is None:
        line("data", "the file does not say how its data were prepared: it was not saved by fastnn train")
    elif found["data"] == checkpoint.KIND:
        line("data", "a checkpoint of a training that did not end; fastnn train ... --resume goes on from it")
    elif found["data"] == "images":
        height, width = found["shape"]
        line("data", f"images of {height} x {width} pixels; {_classes(found['classes'])}")
    else:
        _show_table(found)


def _show_optimizer(optimizer: dict[str, Any] | None) -> None:
    if optimizer is None:
        line("", "without an optimizer, so fastnn.resume cannot go on with it")
        return
    rate = optimizer["learning_rate"]
    course = f"learning rate {rate:g}" if isinstance(rate, (int, float)) else "a schedule of learning rates"
    steps = f"{optimizer['steps']:,} step{'s' * (optimizer['steps'] != 1)}"
    line("optimizer", f"{optimizer['name']}, {course}, after {steps}; fastnn.resume goes on with it")


def _show_table(found: dict[str, Any]) -> None:
    if found["classes"] is not None:
        target = _classes(found["classes"])
    elif (found["target_centre"], found["target_scale"]) == (0, 1):  # counts
        target = "learnt as it is"
    else:
        target = f"learnt as (target - {found['target_centre']:.6g}) / {found['target_scale']:.6g}"
    line("data", f"a table, {found['task']}; target {found['target']!r}, {target}")
    if found["missing"] == "mean":
        line("", "missing cells: the mean of the training rows, or none of the categories")
    if found["decimal"] == "comma":
        line("", "numbers are written with a decimal comma")
    if found["positions"] is not None:
        line("", f"without a header line: {found['positions']} columns, named by their position from 0")
    if found["dropped"]:
        line("", f"left out by --drop: {shown_names(found['dropped'])}")
    _show_columns(found["columns"])


def _show_columns(columns: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ways = {
        "number": lambda column: _standardised(column["mean"], column["scale"]),
        "categories": lambda column: f"{len(column['categories'])}: {shown_names(column['categories'])}",
        "constant": lambda column: f"always {column['mean']:.6g} in training, so it is left out",
    }
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("column", "treatment", ""):
        table.add_column(title, overflow="fold")
    for column in columns[:MOST_COLUMNS]:  # Text: a column called "[red]" is not markup
        cells = (column["name"], column["treatment"], ways[column["treatment"]](column))
        table.add_row(*map(Text, cells))
    Console(file=sys.stdout, highlight=False).print(table)
    if len(columns) > MOST_COLUMNS:
        print(f"and {len(columns) - MOST_COLUMNS:,} more columns; --json lists them all")


def _standardised(mean: float, scale: float) -> str:
    return f"mean {mean:.6g}, scale {scale:.6g}"


def _classes(classes: list[Any]) -> str:
    return f"{len(classes)} classes: {shown_names(classes)}"
