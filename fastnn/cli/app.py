"""The commands and their options. Each imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from . import options
from .errors import OneLineErrors, StrictCommand

__all__ = ["app"]

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train dense neural networks on NumPy, Numba or CuPy. Results go to stdout, progress to stderr.",
)

command = functools.partial(app.command, cls=StrictCommand)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastnn {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, options.flag("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train dense neural networks on NumPy, Numba or CuPy. Results go to stdout, progress to stderr."""


@command()
def train(
    source: options.Source,
    data: options.Data = None,
    target: options.Target = None,
    drop: options.Drop = None,
    categorical: options.Categorical = None,
    numeric: options.Numeric = None,
    missing: options.Missing = None,
    decimal: options.Decimal = None,
    no_header: options.NoHeader = False,
    encoding: options.Encoding = None,
    separator: options.Separator = None,
    test: options.Test = None,
    chronological: options.Chronological = False,
    task: options.Task = None,
    backend: options.Engine = "auto",
    hidden: options.Hidden = None,
    activation: options.Activation = "relu",
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    optimizer: options.Optimizer = None,
    decay: options.Decay = "none",
    warmup_epochs: options.WarmupEpochs = None,
    base_batch: options.BaseBatch = None,
    micro_batch: options.MicroBatch = None,
    l2: options.L2 = None,
    weight_decay: options.WeightDecay = None,
    clip_norm: options.ClipNorm = None,
    dropout: options.Dropout = 0.0,
    validation: options.Validation = None,
    patience: options.Patience = None,
    monitor: options.Monitor = None,
    cost: options.Cost = None,
    balanced: options.Balanced = False,
    dtype: options.Dtype = "float32",
    precision: options.Precision = "fp32",
    seed: options.Seed = 0,
    checkpoint: options.Checkpoint = None,
    resume: options.Resume = False,
    save: options.Save = None,
    plot: options.Plot = None,
    no_plot: options.NoPlot = False,
    explain: options.Explain = False,
    json: options.Json = False,
) -> int:
    """Train a network and test it on rows it has not seen.

    digits: 1,797 handwritten digits that come with scikit-learn. mnist: 70,000 of them from IDX files.
    A table: every column but the target is a feature; text is taken for categories.

    Where no option says otherwise -
    digits: --hidden 1024,256 --epochs 20 --batch-size 32 --optimizer adam --learning-rate 0.0004 --l2 0 --validation
    0.05; mnist: --hidden 300,100 --epochs 10 --batch-size 128 --optimizer momentum --learning-rate 0.05 --l2 5
    --validation 0.0833; a table: --hidden 64,32 --batch-size 32 --optimizer adam --learning-rate 0.001
    --validation 0.1 --epochs 100, of few rows so many more that they are 1,000 steps, --l2 3, below 300 rows a
    hundredth of their number.
    """
    from .settings import TrainOptions
    from .training import train as run

    chosen = TrainOptions(
        source, data=data, target=target, drop=tuple(drop or ()), categorical=tuple(categorical or ()),
        numeric=tuple(numeric or ()), missing=missing, decimal=decimal, test=test, task=task, backend=backend,
        hidden=hidden, activation=activation, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        optimizer=optimizer, decay=decay, warmup_epochs=warmup_epochs, base_batch=base_batch, micro_batch=micro_batch,
        l2=l2, weight_decay=weight_decay, clip_norm=clip_norm, dropout=dropout, validation=validation,
        patience=patience, cost=cost, balanced=balanced, dtype=dtype, precision=precision, seed=seed, resume=resume,
        no_header=no_header, encoding=encoding, separator=separator, chronological=chronological, monitor=monitor,
    )  # fmt: skip
    if checkpoint is not None:
        chosen.checkpoint = checkpoint
    return run(chosen, save=save, plot=plot, no_plot=no_plot, explain=explain, as_json=json)


@command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` saved.")],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="The model's columns in any order (.csv, .tsv, .npz), or images (IDX, .npz)."
        ),
    ],
    output: Annotated[Path | None, typer.Option(metavar="PATH", help="Write there instead of to stdout.")] = None,
    all_classes: Annotated[
        bool, options.flag("--all-classes", help="Give the probability of every class, and not only of the answer.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Repeat this column of the file beside the predictions. Repeatable."),
    ] = None,
    encoding: options.Encoding = None,
    separator: options.Separator = None,
    backend: options.Engine = "auto",
    json: options.Json = False,
) -> None:
    """Predict every row of a file, with the columns, scaling and classes of the training."""
    from .prediction import predict as run

    run(
        model, file, output=output, all_classes=all_classes, keep=keep or (), encoding=encoding, separator=separator,
        backend=backend, as_json=json,
    )  # fmt: skip


@command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` saved, of a table.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A table with the model's columns, in any order, and its target.")
    ],
    encoding: options.Encoding = None,
    separator: options.Separator = None,
    backend: options.Engine = "auto",
    json: options.Json = False,
) -> None:
    """Say how right a model is on a file whose answers are known."""
    from .prediction import evaluate as run

    run(model, file, encoding=encoding, separator=separator, backend=backend, as_json=json)


@command()
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` or net.save wrote.")],
    json: options.Json = False,
) -> None:
    """Say what a model file holds: its network, its training, and the columns it takes with their treatment."""
    from .inspection import inspect as run

    run(model, as_json=json)


@command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` or net.save wrote.")],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="To write.")],
) -> None:
    """Write a model as ONNX, with the scaling of its data, for other runtimes."""
    from .prediction import export as run

    run(model, file)


@command()
def warm_up(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` or net.save wrote.")],
    backend: options.Engine = "auto",
    json: options.Json = False,
) -> None:
    """Compile what predictions by a model need, for example where an image is built: later processes only read it."""
    from .prediction import warm_up as run

    run(model, backend=backend, as_json=json)


@command()
def gradcheck(
    backend: options.Engine = "auto",
    seed: Annotated[int, typer.Option(metavar="INTEGER", help="Of weights and data.")] = 0,
    json: options.Json = False,
) -> int:
    """Compare backpropagation with numerical gradients, for every activation and every output/cost pair."""
    from .diagnosis import gradcheck as run

    return run(backend, seed, as_json=json)


@command()
def doctor(json: options.Json = False) -> int:
    """List engines, versions, BLAS, CPU and GPU, and test every usable engine."""
    from .diagnosis import doctor as run

    return run(as_json=json)


@command()
def example(json: options.Json = False) -> None:
    """Print the lecture's worked example of backpropagation step by step, with both of its endings."""
    from .diagnosis import example as run

    run(as_json=json)


@command()
def bench(
    quick: Annotated[bool, options.flag("--quick", help="A few cells, two minutes.")] = False,
    every: Annotated[bool, options.flag("--all", help="Every net, batch and optimizer; hours, resumable.")] = False,
    json: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Write the results there after each cell; - for stdout at the end."),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write one self-contained page.")] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Compare with this library only: numpy, sklearn, torch, compile, jax, onnx. Repeatable.",
        ),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NET[@BATCH[@RULE]]",
            help="Measure this only, as 784-30-10@128@adam; any sizes of layers. Repeatable.",
        ),
    ] = None,
    rounds: Annotated[int | None, typer.Option(metavar="INTEGER", help="Interleaved rounds per cell, at most.")] = None,
    gpu: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="The JSON of bench/gpu.py, which becomes a section of the page."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Go on with the results of an earlier run.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with MNIST, for time to accuracy; or set FASTNN_MNIST.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="INTEGER", help="Runs to the accuracy per library; 0 for none.")
    ] = None,
) -> int:
    """Compare fastnn with scikit-learn, PyTorch, JAX and ONNX Runtime on this machine: same data, order and
    arithmetic.
    """
    from .bench import bench as run

    if quick and every:
        raise ValueError("--quick and --all exclude each other")
    mode = "quick" if quick else "all" if every else "default"
    return run(
        mode,
        peers=peer or [],
        cases=case or [],
        rounds=rounds,
        data=data,
        seeds=seeds,
        json=json,
        html=html,
        gpu=gpu,
        resume=resume,
    )
