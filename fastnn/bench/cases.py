"""What is measured - nets, batches, optimizers - and what fastnn is asked to reach in each cell."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..errors import nearest

__all__ = [
    "BATCHES",
    "NETS",
    "Case",
    "Net",
    "PredictCase",
    "Target",
    "net_named",
    "predict_cases",
    "predict_target",
    "select",
    "target",
    "training_cases",
]


PIXELS = ":uint8"


@dataclass(frozen=True)
class Net:
    """Layers and functions of one network, and whether its data are pixels; the name is the sizes, with ":uint8"
    behind them if so.
    """

    sizes: tuple[int, ...]
    hidden: str = "relu"
    classes: bool = True  # softmax and cross-entropy, else identity and squared error
    pixels: bool = False  # bytes times 1/255: as they are to who trains on them so, else as float32

    @property
    def name(self) -> str:
        return "-".join(map(str, self.sizes)) + (PIXELS if self.pixels else "")

    @property
    def parameters(self) -> int:
        return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @property
    def output(self) -> str:
        return "softmax" if self.classes else "identity"

    @property
    def cost(self) -> str:
        return "cross_entropy" if self.classes else "squared_error"

    @property
    def width(self) -> int:
        """Units of the widest hidden layer."""
        return max(self.sizes[1:-1], default=self.sizes[-1])

    def products(self) -> tuple[int, int]:
        """Weights of all layers, and of all layers but the first."""
        counts = [n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes)]
        return sum(counts), sum(counts[1:])


NETS = {
    net.name: net
    for net in (
        Net((784, 16, 16, 10)),
        Net((784, 30, 10)),
        Net((784, 100, 100, 10)),
        Net((784, 300, 100, 10)),
        Net((784, 1024, 1024, 10)),
        Net((28, 300, 300, 300, 300, 1), hidden="tanh", classes=False),
        Net((1, 64, 64, 1), classes=False),
    )
}
BATCHES = (1, 8, 32, 128, 512, 2048, 8192)
LEARNING_RATES = {"sgd": 0.02, "adam": 1e-3}
ONE_ROW_RATE = 0.01  # of sgd with one row per step, whose gradient is the noisiest


def net_named(name: str) -> Net:
    """The net of this name; of sizes that no table has, ReLU with softmax, or with one output a number with squared
    error.
    """
    if name in NETS:
        return NETS[name]
    if (of_sizes := name.removesuffix(PIXELS)) != name:
        return replace(net_named(of_sizes), pixels=True)
    sizes = tuple(int(size) for size in name.split("-"))
    return Net(sizes, classes=sizes[-1] > 1)


@dataclass(frozen=True)
class Case:
    """One cell of training: a net, rows per step, an optimizer, a precision of the products ("fp32", "tf32",
    "bf16").
    """

    net: Net
    batch: int
    optimizer: str = "sgd"
    precision: str = "fp32"

    @property
    def key(self) -> str:
        precision = "" if self.precision == "fp32" else f"@{self.precision}"
        return f"train/{self.net.name}@{self.batch}@{self.optimizer}{precision}"

    @property
    def learning_rate(self) -> float:
        if self.net.pixels and self.optimizer == "sgd":
            # whose squares are four times those of the other rows, around 0
            return (ONE_ROW_RATE if self.batch == 1 else LEARNING_RATES["sgd"]) / 4
        if self.optimizer == "adam":  # whose steps do not shrink with the gradient: a wide layer's sums would run away
            return LEARNING_RATES["adam"] * min(1.0, 1024 / self.net.width)
        return ONE_ROW_RATE if self.batch == 1 else LEARNING_RATES["sgd"]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products of one step, the only ones counted.

        Forward and gradient take 2 per weight and row each, the delta 2 for all layers but the first.
        """
        every, inner = self.net.products()
        return self.batch * (4 * every + 2 * inner)

    @property
    def bytes(self) -> int:
        """Least traffic of one step: rows read once, as float32 or as bytes, Theta read and written once."""
        return self.batch * (self.net.sizes[0] * (1 if self.net.pixels else 4) + 4) + 8 * self.net.parameters


@dataclass(frozen=True)
class PredictCase:
    """One cell of inference: a net and rows per call."""

    net: Net
    rows: int

    @property
    def key(self) -> str:
        return f"predict/{self.net.name}@{self.rows}"

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.net.products()[0]


@dataclass(frozen=True)
class Target:
    """A row of the table of targets: least ratio to the best peer, least share of the sgemm ceiling."""

    row: str
    ratio: float
    ceiling: float | None = None


def target(case: Case) -> Target | None:
    """The row of the table that a cell of training belongs to, if any; nothing is asked of nets that it does not
    name.
    """
    width, batch = case.net.width, case.batch
    if case.net.name not in NETS:
        return None
    if case.net.sizes == (1, 64, 64, 1):
        return Target("1-64-64-1, any batch", 2.0)
    if case.net.hidden == "tanh":
        return Target("28-300-300-300-300-1, tanh, batch >= 32", 1.2) if batch >= 32 else None
    if width <= 32:
        return (
            Target("nets up to 32 wide, batch <= 32", 3.0)
            if batch <= 32
            else Target("nets up to 32 wide, batch 128-8192", 1.5)
        )
    if 100 <= width <= 300:
        return (
            Target("100-300 wide, batch <= 128", 1.3)
            if batch <= 128
            else Target("100-300 wide, batch >= 512", 1.15, 0.88)
        )
    if width == 1024 and batch >= 64:
        return Target("1024 wide, any batch >= 64", 1.05, 0.90 if batch >= 1024 else None)
    return None


def predict_target(case: PredictCase) -> Target | None:
    """One row per call has a target, against ONNX Runtime, scikit-learn and torch."""
    return Target("one-row predict latency", 3.0) if case.rows == 1 else None


def training_cases(mode: str) -> list[Case]:
    """The cells of "quick", "default" (every cell that has a target, Adam where it differs, and some of pixels) or
    "all".
    """
    if mode == "all":
        return [
            Case(net, batch, optimizer) for optimizer in LEARNING_RATES for net in NETS.values() for batch in BATCHES
        ]
    if mode == "quick":
        cells = [("784-16-16-10", 32), ("784-30-10", 512), ("1-64-64-1", 32), ("784-300-100-10", 128)]
        return [Case(NETS[name], batch) for name, batch in cells]
    table = [Case(net, batch) for net in NETS.values() for batch in BATCHES]
    adam = [
        Case(NETS[name], batch, "adam")
        for name, batch in (("784-16-16-10", 32), ("784-300-100-10", 128), ("784-1024-1024-10", 512))
    ]
    pixels = [("784-30-10", 512), ("784-100-100-10", 512), ("784-100-100-10", 2048), ("784-300-100-10", 512)]
    return (
        [case for case in table if target(case)]
        + adam
        + [Case(net_named(name + PIXELS), batch) for name, batch in pixels]
    )


def predict_cases(mode: str) -> list[PredictCase]:
    """Latency of one row for every net, throughput of many; a shorter list for "quick"."""
    if mode == "quick":
        return [PredictCase(NETS["784-300-100-10"], 1)]
    many = (1, 10_000) if mode == "default" else (1, 32, 1024, 10_000)
    return [PredictCase(net, rows) for net in NETS.values() for rows in many]


def select(cases: Sequence[Case], wanted: Iterable[str]) -> list[Case]:
    """The cases named by "NET", "NET@BATCH" or "NET@BATCH@OPTIMIZER", where a net may be "SIZES:uint8"; a named net,
    batch or optimizer need not be in the list.

    Raises
    ------
    ValueError
        A name that is no layers' sizes, a batch below 1, or an optimizer that does not exist.
    """
    chosen: dict[str, Case] = {}
    for text in wanted:
        name, _, rest = text.partition("@")
        batch, _, optimizer = rest.partition("@")
        if not re.fullmatch(rf"[1-9][0-9]*(-[1-9][0-9]*)+({PIXELS})?", name, re.ASCII):
            raise ValueError(
                f"--case {text!r}: a net is the sizes of its layers, inputs first, as 784-300-100-10, or "
                f"784-300-100-10{PIXELS} for data of pixels; got {name!r}"
            )
        if batch and (not batch.isdecimal() or int(batch) < 1):
            raise ValueError(f"--case {text!r}: the batch must be an integer >= 1, got {batch!r}")
        if optimizer and optimizer not in LEARNING_RATES:
            raise ValueError(
                f"--case {text!r}: unknown optimizer{nearest(optimizer, LEARNING_RATES) or '.'} Known: "
                f"{', '.join(LEARNING_RATES)}"
            )
        found = [
            case
            for case in cases
            if case.net.name == name and not batch and case.optimizer == (optimizer or case.optimizer)
        ]
        if not found:
            sizes = [int(batch)] if batch else [32, 512]
            found = [Case(net_named(name), size, optimizer or "sgd") for size in sizes]
        chosen |= {case.key: case for case in found}
    return list(chosen.values())
