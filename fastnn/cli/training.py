"""`fastnn train`: read, split, train, test, draw, save."""

from __future__ import annotations

import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, counts, plots
from ..data.dataset import DataSet, Parts, deal
from ..errors import DeviceLost
from ..evaluation import Evaluation, evaluated
from ..model_file import SUFFIX, check_name
from ..network import Network
from ..training import History
from . import report
from .checkpoint import Checkpoint
from .errors import BAD_INPUT, INTERRUPTED, remark, warnings_as_remarks
from .settings import TrainOptions, check, hidden_layers, rule, settle, test_share

__all__ = ["OF_QUANTITIES", "Outcome", "plain", "train"]

OF_QUANTITIES = ("r2", "rmse", "mae", "below", "pinball", "d2")  # of an Evaluation, for JSON


@dataclass
class Outcome:
    """What a training run came to; the test figures are of the network as the last epoch left it, or with
    --patience the best.
    """

    history: History
    seconds: float
    compiling: float  # seconds of these
    test: Evaluation | None  # without test rows
    model: str | None = None
    plot: str | None = None
    overwritten: tuple[str, ...] = ()


def train(
    options: TrainOptions, *, save: Path | None, plot: Path | None, no_plot: bool, explain: bool, as_json: bool
) -> int:
    """Run the command; returns its exit code.

    Parameters
    ----------
    options : TrainOptions
        Filled in on the way.
    save, plot : path, optional
        Where the model and the picture go; runs/NAME.safetensors and .png if not given.
    no_plot : bool
        Draw nothing.
    explain : bool
        Show why the engine runs the training as it does.
    as_json : bool
        One JSON object on stdout instead of the report.
    """
    read = check(options)
    if plot is not None and no_plot:
        raise ValueError("--plot and --no-plot exclude each other")
    if save is not None and not save.is_dir():
        check_name("--save ", save)
    data = read()
    parts = deal(
        data,
        validation=float(options.validation or 0),
        seed=options.seed,
        cost=options.cost or "squared_error",
        test=test_share(options) or 0.0,
        chronological=options.chronological,
    )
    data.X = data.X[:0].copy()  # the rows are in the parts
    settle(options, len(parts.train[1]))
    with warnings_as_remarks():
        net = _network(options, data, parts)  # before a folder is made: it may be refused
    model, picture = _outputs(data, save, plot, no_plot)
    checkpoint, optimizer = Checkpoint(model, options, parts), rule(options)
    if options.resume:
        with warnings_as_remarks():
            net, optimizer = checkpoint.read(options.backend)
    else:
        checkpoint.remark_on_another()
    if not as_json:
        report.before(options, data, parts, net, explain)
    began = time.perf_counter()
    with warnings_as_remarks(), net.backend.announcing(remark) as waiting:
        try:
            history = _fitted(
                net,
                int(options.epochs or 0) - len(checkpoint.earlier.cost),
                *parts.train,
                optimizer=optimizer,
                batch_size=options.batch_size,
                micro_batch=options.micro_batch,
                validation=_watched(parts, options.balanced),
                scale=data.scale,
                seed=options.seed,
                progress=True,
                callbacks=[checkpoint],
                sample_weight="balanced" if options.balanced else None,
            )
        except DeviceLost:  # the network is on the host now, and is gone with this process
            checkpoint.back_to_best(net)
            net.preprocessing = parts.preprocessing
            net.save(model)
            remark(f"the network as it was before is saved to {model}")
            raise
    seconds = time.perf_counter() - began
    history = checkpoint.ended(net, history)
    try:
        test = evaluated(net, parts.preprocessing, *parts.test) if len(parts.test[1]) else None
    except ValueError:  # of a row that overflows: what was learnt is kept
        net.preprocessing = parts.preprocessing
        net.save(model)
        remark(f"the network is trained and saved to {model}; the test rows cannot be evaluated:")
        raise
    outcome = Outcome(history, seconds, waiting.seconds, test)
    net.preprocessing = parts.preprocessing  # of the file to come; the rows above were scaled already
    code = _write(net, data, outcome, model, picture)
    if outcome.model is not None and not history.interrupted:
        checkpoint.remove()
    if as_json:
        print(json.dumps(plain(_object(options, data, parts, net, outcome, explain)), allow_nan=False))
    else:
        report.after(data, parts, net, outcome, options.monitor)
    return INTERRUPTED if history.interrupted else code


def _fitted(net: Network, epochs: int, *data: Any, **options: Any) -> History:
    """`net.fit`; where a checkpoint was written after the last epoch there is nothing to do."""
    return net.fit(*data, epochs=epochs, **options) if epochs else History()


def _watched(parts: Parts, balanced: bool) -> tuple[Any, ...] | None:
    """The validation rows, which count what rows of their class count in training."""
    if parts.validation is None or not balanced:
        return parts.validation
    counts = np.bincount(parts.train[1])
    of_class = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return (*parts.validation, of_class[parts.validation[1]])


def _network(options: TrainOptions, data: DataSet, parts: Parts) -> Network:
    outputs = len(data.classes) if data.classes is not None else 1
    output, cost = (
        ("softmax", "cross_entropy")
        if data.classes is not None
        else ("exp" if options.cost == "poisson" else "identity", options.cost or "squared_error")
    )
    net = Network(
        [data.X.shape[1], *hidden_layers(str(options.hidden)), outputs],
        hidden=options.activation,
        output=output,
        cost=cost,
        # which serves small tables better than He's larger weights, as it does the estimators
        init="auto" if options.source in ("digits", "mnist") else "glorot",
        l2=float(options.l2 or 0),
        dropout=options.dropout,
        backend=options.backend,
        dtype=options.dtype,
        precision=options.precision,
        seed=options.seed,
    )
    if cost == "poisson":
        counts.start_at_mean(net, parts.train[1])
    return net


def _outputs(data: DataSet, save: Path | None, plot: Path | None, no_plot: bool) -> tuple[Path, Path | None]:
    """Where model and picture go, tried out before training, so that no hour of it is lost to a typing slip."""
    model = save or Path("runs") / f"{data.name}.safetensors"
    if model.is_dir():
        raise ValueError(f"--save {model}: is a folder, a file name is expected")
    drawn = model.with_suffix(".png") if model.suffix.lower() == SUFFIX else Path(f"{model}.png")  # not lr0.png
    picture = None if no_plot else plot or drawn
    if picture is not None and not plots.available():
        if plot is not None:
            raise ValueError(f"--plot needs matplotlib, which is not installed: {plots.INSTALL}")
        remark(f"no learning curve is drawn, because matplotlib is not installed: {plots.INSTALL}")
        picture = None
    if picture is not None and picture.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--plot {picture}: the name must end in .png, .pdf or .svg")
    for option, path in (("--save", model), ("--plot", picture)):
        if path is not None:
            _try_to_write(option, path)
    return model, picture


def _try_to_write(option: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{option} {path}: is a folder, a file name is expected")
    if path.exists() and not path.is_file():
        raise ValueError(
            f"{option} {path}: is not a regular file but a device, pipe or socket; a file name is expected"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"{option} {path}: cannot be written ({error.strerror or error})") from None


def _write(net: Network, data: DataSet, outcome: Outcome, model: Path, picture: Path | None) -> int:
    """Save and draw; what cannot be written is said, and the results are still shown."""
    code = 0
    existed = [str(path) for path in (model, picture) if path is not None and path.exists()]
    try:
        net.save(model)
        outcome.model = str(model)
    except OSError as error:
        remark(f"error: the model could not be saved to {model}: {error.strerror or error}")
        code = BAD_INPUT
    if picture is not None and outcome.history.cost:
        try:
            plots.learning_curve(outcome.history, picture, title=data.title)
            outcome.plot = str(picture)
        except OSError as error:
            remark(f"error: the learning curve could not be written to {picture}: {error.strerror or error}")
            code = BAD_INPUT
    elif picture is not None:
        remark("no epoch was completed, so there is no learning curve")
    outcome.overwritten = tuple(path for path in existed if path in (outcome.model, outcome.plot))
    return code


def _object(
    options: TrainOptions, data: DataSet, parts: Parts, net: Network, outcome: Outcome, explain: bool
) -> dict[str, Any]:
    history = {key: value for key, value in asdict(outcome.history).items() if key not in ("interrupted", "monitored")}
    result: dict[str, Any] = {
        "fastnn": __version__,
        "command": "train",
        "configuration": {
            **options.as_json(),
            "task": data.task,
            "hidden": list(net.sizes[1:-1]),
            "sizes": list(net.sizes),
            "output": net.output.name,
            "cost": net.cost,
            "scale": net.scale,
        },
        "engine": {"backend": net.backend.name, "reason": net.backend_reason},
        "data": {
            "name": data.name,
            "features": data.X.shape[1],
            "classes": data.classes,
            "notes": data.notes,
            "train_rows": len(parts.train[1]),
            "validation_rows": len(parts.validation[1]) if parts.validation else 0,
            "test_rows": len(parts.test[1]),
        },
        "parameters": net.layout.size,
        "history": history,
        "epochs_completed": len(outcome.history.cost),
        "interrupted": outcome.history.interrupted,
    }
    if explain:
        result["engine"]["plan"] = net.plan(
            int(options.batch_size or 1),
            explain=True,
            micro_batch=options.micro_batch,
            optimizer=str(options.optimizer),
            training_rows=len(parts.train[1]),
            data_dtype=parts.train[0].dtype,
        ).splitlines()
    result |= _test_figures(outcome.test, data.classes is not None)
    return result | {"model": outcome.model, "plot": outcome.plot, "seconds": outcome.seconds}


def _test_figures(test: Evaluation | None, classes: bool) -> dict[str, Any]:
    """The same names with and without test rows, then with None."""
    names = ("cost", "accuracy", "balanced_accuracy", "f1", "roc_auc") if classes else ("cost", *OF_QUANTITIES)
    result: dict[str, Any] = {f"test_{name}": getattr(test, name, None) for name in names}
    result["better_than_baseline"] = getattr(test, "better", None)
    if classes:
        matrix, majority = getattr(test, "confusion", None), getattr(test, "majority", None)
        result["confusion"] = None if matrix is None else matrix.tolist()
        result["majority_accuracy"] = None if majority is None else majority[1]
    return result


def plain(value: Any) -> Any:
    """JSON has no NaN and no infinity: None instead."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
