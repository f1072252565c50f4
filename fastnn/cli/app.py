"""The commands and their options. Each imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from .errors import OneLineErrors, StrictCommand, integer, number

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
_flag = functools.partial(typer.Option, metavar="")  # else the help shows "<bool>", as if a value were to follow
Json = Annotated[bool, _flag("--json", help="Print exactly one JSON object on stdout.")]
Engine = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="numpy, numba, cupy, or auto: the fastest that is usable.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastnn {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, _flag("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Train dense neural networks on NumPy, Numba or CuPy. Results go to stdout, progress to stderr."""


@command()
def train(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="digits, mnist, FILE.csv, FILE.tsv or FILE.npz")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder with the four IDX files of MNIST; or set FASTNN_MNIST.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of a table to predict: its name, or its position from 0."),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column of a table to leave out. Repeatable.")
    ] = None,
    categorical: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Column whose numbers are names of categories, as text is anyway. Repeatable."
        ),
    ] = None,
    numeric: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Column of digits whose leading zeros do not make them names. Repeatable."),
    ] = None,
    missing: Annotated[
        str | None,
        typer.Option(metavar="WAY", help="Cells of a table without a value: refuse them, or take the mean."),
    ] = None,
    decimal: Annotated[
        str | None,
        typer.Option(
            metavar="MARK", help="How numbers in a table are written: 1234.5 with a point, 1.234,5 with a comma."
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|FRACTION",
            help="Test on this table, or on so many of the rows, set apart; a fifth if not given, 0 for no test.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="TASK", help="classification or regression; guessed, and said, if not given."),
    ] = None,
    backend: Engine = "auto",
    hidden: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Units of the hidden layers, as 128,64; or none.")
    ] = None,
    activation: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Of the hidden layers: relu, leaky_relu, silu, gelu, tanh, sigmoid, identity."
        ),
    ] = "relu",
    epochs: Annotated[str | None, typer.Option(metavar="INTEGER", help="Passes over the training rows.")] = None,
    batch_size: Annotated[str | None, typer.Option(metavar="INTEGER", help="Rows per step.")] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Step length alpha; by default one that suits data and optimizer."),
    ] = None,
    optimizer: Annotated[str | None, typer.Option(metavar="NAME", help="adam, momentum, sgd, lars or lamb.")] = None,
    decay: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Of the learning rate over the epochs: none, linear, quadratic or cosine; to 0."
        ),
    ] = "none",
    warmup_epochs: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Raise the learning rate over the first epochs, from a tenth or from that of --base-batch.",
        ),
    ] = None,
    base_batch: Annotated[
        str | None,
        typer.Option(
            metavar="INTEGER",
            help="Rows for which --learning-rate was found: it is multiplied by batch size / this, after a warm-up.",
        ),
    ] = None,
    micro_batch: Annotated[
        str | None,
        typer.Option(metavar="INTEGER", help="Rows of a batch taken at a time; the step is that of the whole batch."),
    ] = None,
    l2: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER", help="Lambda: lambda / (2 rows) times the sum of squared weights is added to the cost."
        ),
    ] = None,
    weight_decay: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Of adam (then AdamW), lars or lamb: weights shrink by alpha times this."),
    ] = None,
    clip_norm: Annotated[
        str | None,
        typer.Option(metavar="NUMBER", help="Scale gradients that are longer than this to this length."),
    ] = None,
    dropout: Annotated[
        str | None,
        typer.Option(metavar="FRACTION", help="Of the hidden units, left out at random in training."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="FRACTION", help="Of the training rows, watched and not trained on; 0 for none."),
    ] = None,
    patience: Annotated[
        str | None,
        typer.Option(
            metavar="INTEGER",
            help="End after so many epochs without a lower cost of the validation rows, and go back to the best epoch.",
        ),
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Of quantities: squared_error, absolute_error, huber:1 (times 1.4826 MAD) or quantile:0.9.",
        ),
    ] = None,
    balanced: Annotated[bool, _flag("--balanced", help="Let every class count the same, however rare it is.")] = False,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float32 or float64.")] = "float32",
    precision: Annotated[str, typer.Option(metavar="NAME", help="Products on a GPU: fp32, tf32 or bf16.")] = "fp32",
    seed: Annotated[
        str, typer.Option(metavar="INTEGER", help="Of the split, the weights and the order of rows.")
    ] = "0",
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="SECONDS",
            help="Write a checkpoint beside the model after an epoch, at most once every SECONDS; default 60.",
        ),
    ] = None,
    resume: Annotated[
        bool, _flag("--resume", help="Continue an unfinished training from its checkpoint; give the same options.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Model file, .safetensors or without an ending; runs/NAME.safetensors if not given."
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Learning curve; beside the model if not given.")
    ] = None,
    no_plot: Annotated[bool, _flag("--no-plot", help="Draw no learning curve.")] = False,
    explain: Annotated[bool, _flag("--explain", help="Say why the engine runs the training as it does.")] = False,
    json: Json = False,
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

    # Numbers come as text, so that a bad one is a sentence of ours and not the parser's box.
    chosen = TrainOptions(
        source=source,
        data=data,
        target=target,
        task=task,
        drop=tuple(drop or ()),
        categorical=tuple(categorical or ()),
        missing=missing,
        decimal=decimal,
        numeric=tuple(numeric or ()),
        test=test,
        balanced=balanced,
        cost=cost,
        backend=backend,
        hidden=hidden,
        activation=activation,
        optimizer=optimizer,
        dtype=dtype,
        precision=precision,
        decay=decay,
        epochs=integer("--epochs", epochs),
        batch_size=integer("--batch-size", batch_size),
        base_batch=integer("--base-batch", base_batch),
        micro_batch=integer("--micro-batch", micro_batch),
        learning_rate=number("--learning-rate", learning_rate),
        warmup_epochs=number("--warmup-epochs", warmup_epochs),
        l2=number("--l2", l2),
        weight_decay=number("--weight-decay", weight_decay),
        clip_norm=number("--clip-norm", clip_norm),
        dropout=number("--dropout", dropout) or 0.0,
        validation=number("--validation", validation),
        patience=integer("--patience", patience),
        seed=integer("--seed", seed) or 0,
        resume=resume,
    )
    if checkpoint is not None:
        chosen.checkpoint = number("--checkpoint", checkpoint) or 0.0
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
        bool, _flag("--all-classes", help="Give the probability of every class, and not only of the answer.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Repeat this column of the file beside the predictions. Repeatable."),
    ] = None,
    backend: Engine = "auto",
    json: Json = False,
) -> None:
    """Predict every row of a file, with the columns, scaling and classes of the training."""
    from .prediction import predict as run

    run(model, file, output=output, all_classes=all_classes, keep=keep or (), backend=backend, as_json=json)


@command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` saved, of a table.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A table with the model's columns, in any order, and its target.")
    ],
    backend: Engine = "auto",
    json: Json = False,
) -> None:
    """Say how right a model is on a file whose answers are known."""
    from .prediction import evaluate as run

    run(model, file, backend=backend, as_json=json)


@command()
def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `fastnn train` or net.save wrote.")],
    json: Json = False,
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
    backend: Engine = "auto",
    json: Json = False,
) -> None:
    """Compile what predictions by a model need, for example where an image is built: later processes only read it."""
    from .prediction import warm_up as run

    run(model, backend=backend, as_json=json)


@command()
def gradcheck(
    backend: Engine = "auto",
    seed: Annotated[str, typer.Option(metavar="INTEGER", help="Of weights and data.")] = "0",
    json: Json = False,
) -> int:
    """Compare backpropagation with numerical gradients, for every activation and every output/cost pair."""
    from .diagnosis import gradcheck as run

    return run(backend, integer("--seed", seed) or 0, as_json=json)


@command()
def doctor(json: Json = False) -> int:
    """List engines, versions, BLAS, CPU and GPU, and test every usable engine."""
    from .diagnosis import doctor as run

    return run(as_json=json)


@command()
def example(json: Json = False) -> None:
    """Print the lecture's worked example of backpropagation step by step, with both of its endings."""
    from .diagnosis import example as run

    run(as_json=json)


@command()
def bench(
    quick: Annotated[bool, _flag("--quick", help="A few cells, two minutes.")] = False,
    every: Annotated[bool, _flag("--all", help="Every net, batch and optimizer; hours, resumable.")] = False,
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
    rounds: Annotated[str | None, typer.Option(metavar="INTEGER", help="Interleaved rounds per cell, at most.")] = None,
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
        str | None, typer.Option(metavar="INTEGER", help="Runs to the accuracy per library; 0 for none.")
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
        rounds=integer("--rounds", rounds),
        data=data,
        seeds=integer("--seeds", seeds),
        json=json,
        html=html,
        gpu=gpu,
        resume=resume,
    )
