"""The options of `train`, checked, with the defaults of each kind of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import activations, costs, optimizers, schedules, small_data
from ..data import digits, mnist, tables
from ..data.dataset import TEST_FRACTION, DataSet
from ..data.written import written_as
from ..early_stopping import MONITORS
from ..errors import finite_number, nearest, positive_integer
from ..options import PRECISIONS
from ..schedules import Schedule
from .errors import known

__all__ = [
    "LEARNING_RATES",
    "Defaults",
    "TrainOptions",
    "check",
    "course",
    "hidden_layers",
    "rule",
    "settle",
    "test_share",
]

BACKENDS = ("auto", "numpy", "numba", "cupy")
DTYPES = ("float32", "float64")
# For an optimizer that is not the data's own default: alpha means something else to each rule.
LEARNING_RATES = {name: optimizers.get(name).rate for name in optimizers.OPTIMIZERS}
# What the learning rate does from its largest value on, over all epochs.
DECAYS: dict[str, Callable[[float, int], Schedule]] = {
    "none": lambda rate, epochs: schedules.Constant(rate),
    "linear": lambda rate, epochs: schedules.Polynomial(rate, epochs, power=1),
    "quadratic": lambda rate, epochs: schedules.Polynomial(rate, epochs, power=2),
    "cosine": schedules.Cosine,
}
CHECKPOINT_SECONDS = 60.0
SCALED_LINEARLY = ("sgd", "momentum")
DECAYING = tuple(name for name, rule in optimizers.OPTIMIZERS.items() if issubclass(rule, optimizers.Decaying))


@dataclass(frozen=True)
class Defaults:
    """What is used where no option says otherwise.

    MNIST: the best of five on validation accuracy. Digits: compared on the test rows of 20 other splits (seeds
    100..119). Tables: compared on four of scikit-learn's small sets.
    """

    hidden: str
    epochs: int | None  # None: of so many rows as there are
    batch_size: int
    optimizer: str
    learning_rate: float  # of that optimizer
    l2: float | None  # None: of so many rows as there are
    validation: float


DIGITS = Defaults("1024,256", 20, 32, "adam", 4e-4, 0.0, 0.05)
MNIST = Defaults("300,100", 10, 128, "momentum", 0.05, 5.0, 1 / 12)  # 5,000 of the 60,000 training rows
TABLE = Defaults(",".join(map(str, small_data.HIDDEN)), None, small_data.BATCH, "adam", 1e-3, None, 0.1)


@dataclass
class TrainOptions:
    """The options of `train` as given; None where the default of the data is meant. `check` fills them in."""

    source: str
    data: Path | None = None
    target: str | None = None
    task: str | None = None
    backend: str = "auto"
    hidden: str | None = None
    activation: str = "relu"
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    optimizer: str | None = None
    l2: float | None = None
    validation: float | None = None
    dtype: str = "float32"
    seed: int = 0
    decay: str = "none"
    warmup_epochs: float | None = None
    base_batch: int | None = None
    micro_batch: int | None = None
    precision: str = "fp32"
    patience: int | None = None
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    missing: str | None = None
    decimal: str | None = None
    numeric: tuple[str, ...] = ()
    test: str | None = None
    balanced: bool = False
    cost: str | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    checkpoint: float = CHECKPOINT_SECONDS
    resume: bool = False
    dropout: float = 0.0
    no_header: bool = False
    encoding: str | None = None
    separator: str | None = None
    chronological: bool = False
    monitor: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for the JSON object."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}


def hidden_layers(text: str) -> list[int]:
    """'128,64' as [128, 64]; 'none' as [].

    Raises
    ------
    ValueError
        Anything else, or a size that is not a positive integer.
    """
    if text.strip().lower() == "none":
        return []
    sizes = []
    for part in text.split(","):
        try:
            sizes.append(positive_integer("--hidden", int(part)))
        except ValueError:
            raise ValueError(f"--hidden must be positive integers such as 128,64, or none, got {text!r}") from None
    return sizes


def check(options: TrainOptions) -> Callable[[], DataSet]:
    """Fill in the defaults and refuse what makes no sense, before any data is read; returns what will read it.

    Raises
    ------
    ValueError, TypeError
        An option that is unknown, out of range, or meant for another kind of data.
    """
    defaults, read = _source(options)
    for name in ("hidden", "epochs", "optimizer", "l2", "validation"):  # `settle` does what depends on the rows
        if getattr(options, name) is None:
            setattr(options, name, getattr(defaults, name))
    known("--backend", options.backend, BACKENDS)
    known("--dtype", options.dtype, DTYPES)
    known("--precision", options.precision, PRECISIONS)
    known(
        "--activation", options.activation, [name for name, g in activations.ACTIVATIONS.items() if not g.output_only]
    )
    if str(options.optimizer).lower() == "adamw":
        raise ValueError("--optimizer adamw is --optimizer adam --weight-decay 0.01")
    if str(options.optimizer).lower() == "lbfgs":
        raise ValueError("--optimizer lbfgs is not for the command line: in Python, net.fit(X, y, optimizer='lbfgs')")
    known("--optimizer", str(options.optimizer), optimizers.OPTIMIZERS)
    layers = hidden_layers(str(options.hidden))
    if finite_number("--dropout", options.dropout, least=0, below=1) > 0 and not layers:
        raise ValueError(f"--dropout {options.dropout:g} leaves hidden units out, and --hidden none makes none")
    if options.epochs is not None:
        positive_integer("--epochs", options.epochs)
    if options.batch_size is not None:
        positive_integer("--batch-size", options.batch_size)
    if options.learning_rate is None:
        own = options.optimizer == defaults.optimizer
        options.learning_rate = defaults.learning_rate if own else LEARNING_RATES[str(options.optimizer)]
    finite_number("--learning-rate", options.learning_rate, above=0)
    if options.l2 is not None:
        finite_number("--l2", options.l2, least=0)
    if options.weight_decay is not None:
        finite_number("--weight-decay", options.weight_decay, least=0)
        if options.optimizer not in DECAYING:
            raise ValueError(
                f"--weight-decay is for {', '.join(DECAYING)}, not for {options.optimizer}; --l2 is for all"
            )
    finite_number("--checkpoint", options.checkpoint, least=0)
    if options.clip_norm is not None:
        finite_number("--clip-norm", options.clip_norm, above=0)
    finite_number("--validation", options.validation, least=0, below=1)
    if options.patience is not None and positive_integer("--patience", options.patience) and not options.validation:
        raise ValueError(
            f"--patience {options.patience} waits for a lower cost of the validation rows, and there are none with "
            "--validation 0"
        )
    if options.monitor is not None:
        known("--monitor", options.monitor, MONITORS)
        if options.patience is None:
            raise ValueError(
                f"--monitor {options.monitor} is what --patience waits for; give that too, as --patience 10"
            )
    if options.chronological and not test_share(options) and not options.validation:
        raise ValueError(
            "--chronological takes the last rows for test and validation, and none are to be set apart for either"
        )
    _check_course(options)
    if options.seed < 0:
        raise ValueError(f"--seed must be an integer >= 0, got {options.seed}")
    return read


def _check_course(options: TrainOptions) -> None:
    """Decay, warm-up, linear scaling and micro-batches, and what of them does not go together."""
    known("--decay", options.decay, DECAYS)
    if options.base_batch is not None:
        positive_integer("--base-batch", options.base_batch)
        if options.optimizer not in SCALED_LINEARLY:
            raise ValueError(
                f"--base-batch scales the learning rate with the batch, which is for {' and '.join(SCALED_LINEARLY)}; "
                f"for {options.optimizer} give --learning-rate for this batch"
            )
    if options.warmup_epochs is not None:
        finite_number("--warmup-epochs", options.warmup_epochs, least=0)
    _check_warmup(options)
    if options.micro_batch is not None:
        positive_integer("--micro-batch", options.micro_batch)
        if options.batch_size is not None and options.micro_batch > options.batch_size:
            raise ValueError(
                f"--micro-batch {options.micro_batch} is larger than --batch-size {options.batch_size}; it is the "
                "part of a batch that is taken at a time"
            )


def _check_warmup(options: TrainOptions) -> None:
    """Where both are known."""
    warmup, epochs = options.warmup_epochs, options.epochs
    if warmup is not None and epochs is not None and warmup >= epochs:
        raise ValueError(f"--warmup-epochs {warmup:g} must be fewer than the {epochs} epochs")


def course(options: TrainOptions) -> float | Schedule:
    """The learning rate of checked options whose batch size is known: a number, or its course over the epochs.
    Fills in the warm-up.
    """
    rate, epochs = float(options.learning_rate or 0), int(options.epochs or 0)
    scale = 1.0 if options.base_batch is None else int(options.batch_size or 0) / options.base_batch
    if options.warmup_epochs is None:
        options.warmup_epochs = min(5.0, epochs / 2) if scale > 1 else 0.0  # five: Goyal et al. 2017
    warmup = options.warmup_epochs
    if options.decay == "none" and not warmup:
        return rate * scale
    after = DECAYS[options.decay](rate * scale, epochs)
    return schedules.WarmUp(after, warmup, start=rate if scale > 1 else None) if warmup else after


def rule(options: TrainOptions) -> optimizers.Optimizer:
    """The optimizer of checked options whose batch size is known."""
    kind: Callable[..., optimizers.Optimizer] = optimizers.OPTIMIZERS[str(options.optimizer)]
    decay = {} if options.weight_decay is None else {"weight_decay": options.weight_decay}
    return kind(course(options), **decay, clip_norm=options.clip_norm)


def settle(options: TrainOptions, rows: int) -> None:
    """Fill in what depends on the number of training rows, now that it is known.

    Raises
    ------
    ValueError
        An option that does not go with so many.
    """
    if options.batch_size is None:
        options.batch_size = min(_source(options)[0].batch_size, rows)
    elif options.batch_size > rows:
        raise ValueError(f"--batch-size {options.batch_size} is larger than the {rows:,} training rows")
    if options.micro_batch is not None and options.micro_batch > options.batch_size:
        raise ValueError(f"--micro-batch {options.micro_batch} is larger than the {options.batch_size} rows of a batch")
    if options.epochs is None:
        options.epochs = small_data.epochs_of(rows, options.batch_size)
        _check_warmup(options)
    if options.l2 is None:
        options.l2 = small_data.l2_of(rows)


def test_share(options: TrainOptions) -> float | None:
    """The fraction of the rows that --test sets apart, a fifth where it is not given; None where it names a file.

    Raises
    ------
    ValueError
        Neither a fraction below 1 nor the name of a table.
    """
    if options.test is None:
        return TEST_FRACTION
    try:
        share = float(options.test)
    except ValueError:
        share = -1.0
        if tables.ending(options.test) in tables.READERS:
            return None
    if not 0 <= share < 1:
        raise ValueError(
            f"--test must be a table ({', '.join(tables.READERS)}), or a fraction of the rows >= 0 and < 1 (0 for no "
            f"test), got {options.test!r}"
        )
    return share


def _source(options: TrainOptions) -> tuple[Defaults, Callable[[], DataSet]]:
    source, share = options.source, test_share(options)
    table_only = {
        "--target": options.target,
        "--task": options.task,
        "--drop": options.drop or None,
        "--categorical": options.categorical or None,
        "--missing": options.missing,
        "--decimal": options.decimal,
        "--numeric": options.numeric or None,
        "--test": options.test if share is None else None,
        "--cost": options.cost,
        "--no-header": options.no_header or None,
        "--encoding": options.encoding,
        "--separator": options.separator,
        "--chronological": options.chronological or None,
    }
    if source in ("digits", "mnist"):
        misplaced = [name for name, value in table_only.items() if value is not None]
        if misplaced:
            raise ValueError(f"{misplaced[0]} is for tables (FILE.csv, FILE.tsv or FILE.npz), not for {source!r}")
    if source == "mnist" and options.test is not None:
        raise ValueError(f"--test {options.test} is not for 'mnist', which has test rows of its own")
    if options.data is not None and source != "mnist":
        raise ValueError(f"--data is for 'mnist' only, not for {source!r}")
    if source == "digits":
        return DIGITS, digits.load
    if source == "mnist":
        return MNIST, lambda: mnist.load(options.data)
    if tables.ending(source) not in tables.READERS:
        raise ValueError(
            f"SOURCE {source!r} is not known{nearest(source, ['digits', 'mnist']) or '.'} Known: digits, mnist, "
            "FILE.csv, FILE.tsv, FILE.npz, FILE.csv.gz, FILE.tsv.gz"
        )
    if options.task is not None:
        known("--task", options.task, tables.TASKS)
    if options.cost is not None:
        costs.named(options.cost)
    if options.cost == "cross_entropy":
        raise ValueError("--cost cross_entropy is that of classes: --task classification takes it")
    if options.cost is not None and options.task == "classification":
        raise ValueError(f"--cost {options.cost} is for quantities, and --task classification for classes")
    if options.missing is None:
        options.missing = "refuse"
    known("--missing", options.missing, tables.MISSING_WAYS)
    if options.decimal is None:
        options.decimal = "point"
    known("--decimal", options.decimal, tables.DECIMALS)
    target = options.target
    if target is None:
        raise ValueError(f"--target COLUMN is missing: the column of {source} to predict")
    written = written_as(options.encoding, options.separator, header=not options.no_header)
    choice = tables.Choice(
        options.drop, options.categorical, options.missing, options.decimal, options.numeric, written
    )
    return TABLE, lambda: _table(source, target, options, choice)


def _table(source: str, target: str, options: TrainOptions, choice: tables.Choice) -> DataSet:
    """The table, with the rows of --test."""
    by_cost = options.task is None and options.cost is not None
    data = tables.load(source, target, task="regression" if by_cost else options.task, choice=choice)
    if by_cost:
        data.notes.append(f"task: regression, as --cost {options.cost} is for quantities")
    if options.drop:  # for `fastnn inspect`; predictions do not need it
        data.preprocessing["dropped"] = list(options.drop)
    if options.test is not None and test_share(options) is None:
        data.test = tables.load_test(options.test, data.preprocessing, data.notes, choice.written)
        data.notes.append(f"test rows: {len(data.test[1]):,} of {options.test}")
    if options.monitor == "val_accuracy" and data.classes is None:
        raise ValueError(
            f"--monitor val_accuracy is for classes, and column {target!r} is taken for quantities; --task "
            "classification changes that"
        )
    if options.balanced and data.classes is None:
        raise ValueError(
            f"--balanced is for classes, and column {target!r} is taken for quantities; --task classification changes "
            "that"
        )
    return data
