"""The options of `fastnn train` and those that several commands have: each a type with its help."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

flag = functools.partial(typer.Option, metavar="")  # else the help shows "<bool>", as if a value were to follow

# ---- of several commands ----------------------------------------------------------------------------

Json = Annotated[bool, flag("--json", help="Print exactly one JSON object on stdout.")]
Engine = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="numpy, numba, cupy, or auto: the fastest that is usable.")
]

Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="How the text of a table is encoded: utf-16, latin-1, cp1252, ...; else UTF-8."),
]
Separator = Annotated[
    str | None,
    typer.Option(
        metavar="MARK",
        help="Between the fields of a table: comma, semicolon, tab or bar; what its first line shows if not given.",
    ),
]

# ---- the data -----------------------------------------------------------------------------------------

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="digits, mnist, FILE.csv, FILE.tsv or FILE.npz")]
Data = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder with the four IDX files of MNIST; or set FASTNN_MNIST.")
]
Target = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column of a table to predict: its name, or its position from 0."),
]
Drop = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column of a table to leave out. Repeatable.")]
Categorical = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column whose numbers are names of categories, as text is anyway. Repeatable."),
]
Numeric = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column of digits whose leading zeros do not make them names. Repeatable."),
]
Missing = Annotated[
    str | None,
    typer.Option(metavar="WAY", help="Cells of a table without a value: refuse them, or take the mean."),
]
Decimal = Annotated[
    str | None,
    typer.Option(metavar="MARK", help="How numbers in a table are written: 1234.5 with a point, 1.234,5 with a comma."),
]
NoHeader = Annotated[
    bool, flag("--no-header", help="The first line of a table is a row; columns are named by position, from 0.")
]
Chronological = Annotated[
    bool,
    flag("--chronological", help="Test on the last rows of a table, and validate on those before, not on random ones."),
]
Test = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|FRACTION",
        help="Test on this table, or on so many of the rows, set apart; a fifth if not given, 0 for no test.",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(metavar="TASK", help="classification or regression; guessed, and said, if not given."),
]

# ---- the network --------------------------------------------------------------------------------------

Hidden = Annotated[str | None, typer.Option(metavar="SIZES", help="Units of the hidden layers, as 128,64; or none.")]
Activation = Annotated[
    str,
    typer.Option(metavar="NAME", help="Of the hidden layers: relu, leaky_relu, silu, gelu, tanh, sigmoid, identity."),
]

# ---- the training -------------------------------------------------------------------------------------

Epochs = Annotated[int | None, typer.Option(metavar="INTEGER", help="Passes over the training rows.")]
BatchSize = Annotated[int | None, typer.Option(metavar="INTEGER", help="Rows per step.")]
LearningRate = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Step length alpha; by default one that suits data and optimizer."),
]
Optimizer = Annotated[str | None, typer.Option(metavar="NAME", help="adam, momentum, sgd, lars or lamb.")]
Decay = Annotated[
    str,
    typer.Option(metavar="NAME", help="Of the learning rate over the epochs: none, linear, quadratic or cosine; to 0."),
]
WarmupEpochs = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Raise the learning rate over the first epochs, from a tenth or from that of --base-batch.",
    ),
]
BaseBatch = Annotated[
    int | None,
    typer.Option(
        metavar="INTEGER",
        help="Rows for which --learning-rate was found: it is multiplied by batch size / this, after a warm-up.",
    ),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(metavar="INTEGER", help="Rows of a batch taken at a time; the step is that of the whole batch."),
]
L2 = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER", help="Lambda: lambda / (2 rows) times the sum of squared weights is added to the cost."
    ),
]
WeightDecay = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Of adam (then AdamW), lars or lamb: weights shrink by alpha times this."),
]
ClipNorm = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Scale gradients that are longer than this to this length."),
]
Dropout = Annotated[
    float,
    typer.Option(metavar="FRACTION", help="Of the hidden units, left out at random in training."),
]
Validation = Annotated[
    float | None,
    typer.Option(metavar="FRACTION", help="Of the training rows, watched and not trained on; 0 for none."),
]
Patience = Annotated[
    int | None,
    typer.Option(
        metavar="INTEGER",
        help="End after so many epochs without a lower cost of the validation rows, and go back to the best epoch.",
    ),
]
Monitor = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="What --patience waits for: a lower val_cost, or a higher val_accuracy."),
]
Cost = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of quantities: squared_error, absolute_error, huber:1 (times 1.4826 MAD), quantile:0.9 or, of counts, "
        "poisson.",
    ),
]
Balanced = Annotated[bool, flag("--balanced", help="Let every class count the same, however rare it is.")]
Dtype = Annotated[str, typer.Option(metavar="NAME", help="float32 or float64.")]
Precision = Annotated[str, typer.Option(metavar="NAME", help="Products on a GPU: fp32, tf32 or bf16.")]
Seed = Annotated[int, typer.Option(metavar="INTEGER", help="Of the split, the weights and the order of rows.")]

# ---- what is written ----------------------------------------------------------------------------------

Checkpoint = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="Write a checkpoint beside the model after an epoch, at most once every SECONDS; default 60.",
    ),
]
Resume = Annotated[
    bool, flag("--resume", help="Continue an unfinished training from its checkpoint; give the same options.")
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Model file, .safetensors or without an ending; runs/NAME.safetensors if not given."
    ),
]
Plot = Annotated[Path | None, typer.Option(metavar="PATH", help="Learning curve; beside the model if not given.")]
NoPlot = Annotated[bool, flag("--no-plot", help="Draw no learning curve.")]
Explain = Annotated[bool, flag("--explain", help="Say why the engine runs the training as it does.")]
