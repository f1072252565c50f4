"""How each layer of a training step is computed: which epilogues, or own kernels, by timing them on the device.

For a hidden layer there are up to four ways, of which the fastest as a whole is taken:

    own          product; bias and g by a kernel         back: product; times g', and bias sums, by a kernel
    forward      product with bias and ReLU, or bias     back: as above
    masks        product with bias, ReLU and its mask    back: product with the mask; bias sums by a kernel
    epilogues    as masks                                back: as masks, but bias sums by an epilogue

Which combinations cuBLASLt offers, and whether they are faster, differs between cards and shapes; one that is
not offered is left out. What is added to Delta in parts knows no epilogue for bias sums.

A layer's Delta and the deltas below it need nothing of each other. Where products are too small to fill the card, both
may be computed side by side, as two branches of the graph; where they are not, each would only slow the other down.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .base import Array
from .cupy_buffers import Buffers, Prepared
from .cupy_products import Candidate, NotOffered

__all__ = ["Choice", "choose", "describe", "offered", "timings", "way_back"]


@dataclass(frozen=True)
class Choice:
    """Around weights l: the epilogues of the product forward and of the one back to delta^(l) (l > 0), and what
    sums the gradient of the biases.
    """

    forward: str = "DEFAULT"  # DEFAULT, BIAS, RELU_BIAS, RELU_AUX_BIAS
    back: str = "DEFAULT"  # DEFAULT, DRELU, DRELU_BGRAD
    biases: str = "kernel"  # kernel, BGRADB, DRELU_BGRAD
    beside: bool = False  # whether Delta of weights l is computed beside the way back (l > 0)


def choose(buffers: Buffers, m: int, *, in_parts: bool) -> list[Choice]:
    """A Choice for each layer's weights, for m rows. Inside `work()`; overwrites the buffers.

    in_parts: Delta is added up over parts of a batch.
    """
    layers = len(buffers.weights)
    forwards, backs, biases = ["DEFAULT"] * layers, ["DEFAULT"] * layers, ["kernel"] * layers
    timed = _Timed(buffers, m)
    if not in_parts:
        biases[-1] = timed.least(
            {
                "BGRADB": [timed.outer(layers - 1, "BGRADB")],
                "kernel": [timed.outer(layers - 1, "DEFAULT"), timed.column_sums(layers - 1)],
            }
        )
    for hidden in range(1, layers):
        ways = timed.ways(hidden, in_parts)
        name = timed.least({key: seconds for key, (_, seconds) in ways.items()})
        forwards[hidden - 1], backs[hidden], biases[hidden - 1] = ways[name][0]
    beside = [
        layer > 0 and timed.faster_beside(layer, backs[layer], biases[layer - 1], biases[layer], in_parts)
        for layer in range(layers)
    ]
    return [Choice(*each) for each in zip(forwards, backs, biases, beside, strict=True)]


def way_back(
    buffers: Buffers,
    hidden: int,
    m: int,
    epilogue: str,
    sums: str,
    *,
    accumulate: bool,
    drop: Callable[[Array], None] | None = None,
) -> Callable[[], None]:
    """delta of a hidden layer from the one above it, and the partial sums of its columns unless an epilogue takes
    them (`sums`). drop: multiplies a delta by the factors of dropout.
    """
    b, kept = buffers, 1 - buffers.net.dropout[hidden - 1]
    product = b.fastest(b.back(hidden, m, epilogue), measure=False)[0].call
    chunks = b.chunks(hidden - 1)

    def back() -> None:
        product()
        if drop is not None:
            drop(b.delta(hidden, m))
        if epilogue == "DEFAULT":
            b.derivative_sums(hidden, m, accumulate=accumulate, kept=kept)
        elif sums == "kernel":
            b.kernels.column_sums(b.delta(hidden, m), chunks, b.per_chunk, accumulate=accumulate)

    return back


def offered(buffers: Buffers, choices: list[Choice], numbers: Sequence[int]) -> list[Choice]:
    """The same choices for other numbers of rows, too seldom to be worth timing; own kernels throughout if one is not
    offered for one of them.
    """
    for m, (layer, choice) in itertools.product(numbers, enumerate(choices)):
        products = [
            buffers.forward(layer, m, choice.forward),
            buffers.outer(layer, m, "BGRADB" if choice.biases == "BGRADB" else "DEFAULT"),
        ]
        if layer:
            products.append(buffers.back(layer, m, choice.back))
        if not all(product.candidates for product in products):
            return [Choice() for _ in choices]
    return choices


def timings(buffers: Buffers, m: int) -> list[dict[str, float | None]]:
    """For each hidden layer the seconds of every way there is, None where it is not offered. Inside `work()`;
    overwrites the buffers.
    """
    timed = _Timed(buffers, m)
    layers = [timed.ways(hidden, in_parts=False) for hidden in range(1, len(buffers.weights))]
    return [
        {
            name: None if None in pieces else sum(s for s in pieces if s is not None)
            for name, (_, pieces) in ways.items()
        }
        for ways in layers
    ]


def describe(choices: list[Choice]) -> str:
    """The choices in words, layer by layer."""
    return "; ".join(
        (
            f"layer {layer + 2}: {c.forward} forward, {c.back} back{' beside Delta' if c.beside else ''}, biases by "
            f"{c.biases}"
        )
        for layer, c in enumerate(choices)
    )


def _in_turn(first: Callable[[], None], second: Callable[[], None]) -> None:
    first()
    second()


class _Timed:
    """Seconds of the pieces; None for what is not offered."""

    def __init__(self, buffers: Buffers, m: int) -> None:
        self._b, self._m = buffers, m

    def least(self, ways: dict[str, list[float | None]]) -> str:
        """The way whose pieces are all offered and take the least together; of equals the first."""
        totals = {name: sum(s for s in pieces if s is not None) for name, pieces in ways.items() if None not in pieces}
        if not totals:
            raise NotOffered(
                f"{self._b.device.library} offers no way to compute a layer in {self._b.compute} on {self._b.kind}: "
                f"{dict(self._b.device.refusals) or 'it names no algorithm'}"
            )
        return min(totals, key=lambda name: totals[name])

    def ways(self, hidden: int, in_parts: bool) -> dict[str, tuple[tuple[str, str, str], list[float | None]]]:
        """Name -> (epilogue forward, back, what sums biases) and the seconds of its pieces, for one hidden layer."""
        g = self._b.net.hidden[hidden - 1].name
        back = [self.back(hidden, "DEFAULT"), self.derivative_sums(hidden)]
        ways: dict[str, tuple[tuple[str, str, str], list[float | None]]] = {}
        outer = self.outer(hidden - 1, "DEFAULT")
        # an epilogue would sum deltas before dropout has multiplied them
        if g == "relu" and not in_parts and not self._b.net.dropout[hidden - 1]:
            if self._b.kind == "bfloat16":  # bias sums of DRELU_BGRAD would be rounded to bfloat16
                ways["epilogues"] = (
                    ("RELU_AUX_BIAS", "DRELU", "BGRADB"),
                    [
                        self.forward(hidden, "RELU_AUX_BIAS"),
                        self.back(hidden, "DRELU"),
                        self.outer(hidden - 1, "BGRADB"),
                    ],
                )
            else:
                pieces = [self.forward(hidden, "RELU_AUX_BIAS"), self.back(hidden, "DRELU_BGRAD"), outer]
                ways["epilogues"] = ("RELU_AUX_BIAS", "DRELU_BGRAD", "DRELU_BGRAD"), pieces
        if g == "relu":
            ways["masks"] = (
                ("RELU_AUX_BIAS", "DRELU", "kernel"),
                [
                    self.forward(hidden, "RELU_AUX_BIAS"),
                    self.back(hidden, "DRELU"),
                    self.column_sums(hidden - 1),
                    outer,
                ],
            )
        rest = [*back, outer]
        if g in ("relu", "identity"):
            epilogue = "RELU_BIAS" if g == "relu" else "BIAS"
            ways["forward"] = (epilogue, "DEFAULT", "kernel"), [self.forward(hidden, epilogue), *rest]
        ways["own"] = (
            ("DEFAULT", "DEFAULT", "kernel"),
            [self.forward(hidden, "DEFAULT"), self.bias_activate(hidden), *rest],
        )
        return ways

    def faster_beside(self, layer: int, back: str, sums_below: str, sums: str, in_parts: bool) -> bool:
        """Whether Delta of weights `layer` and the way back through them take less time side by side."""
        b, m = self._b, self._m
        delta = b.outer(layer, m, "BGRADB" if sums == "BGRADB" else "DEFAULT")
        ways = b.fastest(delta, measure=False)[0].call, way_back(b, layer, m, back, sums_below, accumulate=in_parts)
        work = (
            f"{delta.work} and back by {back}, {sums_below}, {b.net.hidden[layer - 1].name}, to "
            f"{b.back(layer, m, back).work}"
        )
        in_turn, beside = (
            Candidate(name, functools.partial(how, *ways))
            for name, how in (("in turn", _in_turn), ("side by side", b.device.side_by_side))
        )
        return b.fastest(Prepared(work, [in_turn, beside]), measure=True)[0] is beside

    # ---- pieces: `hidden` is the layer that they make or come back to ------------------------------------

    def forward(self, hidden: int, epilogue: str) -> float | None:
        return self._product(self._b.forward(hidden - 1, self._m, epilogue))

    def back(self, hidden: int, epilogue: str) -> float | None:
        return self._product(self._b.back(hidden, self._m, epilogue))

    def outer(self, layer: int, epilogue: str) -> float | None:
        return self._product(self._b.outer(layer, self._m, epilogue))

    def bias_activate(self, hidden: int) -> float:
        b, m = self._b, self._m
        g = b.net.hidden[hidden - 1]
        return self._kernel(
            f"bias_activate {g.name}",
            hidden,
            lambda: b.activate(hidden, m),
        )

    def derivative_sums(self, hidden: int) -> float:
        b, m = self._b, self._m
        g = b.net.hidden[hidden - 1]
        return self._kernel(
            f"derivative_sums {g.name}",
            hidden,
            lambda: b.derivative_sums(hidden, m, accumulate=False),
        )

    def column_sums(self, layer: int) -> float:
        b, m = self._b, self._m
        return self._kernel(
            "column_sums",
            layer + 1,
            lambda: b.kernels.column_sums(b.delta(layer + 1, m), b.chunks(layer), b.per_chunk, accumulate=False),
        )

    def _product(self, product: Prepared) -> float | None:
        try:
            return self._b.fastest(product, measure=True)[1] if product.candidates else None
        except NotOffered:
            return None

    def _kernel(self, what: str, layer: int, call: Callable[[], None]) -> float:
        work = Prepared(f"{what} {self._m}x{self._b.net.sizes[layer]} {self._b.kind}", [Candidate("own kernel", call)])
        return self._b.fastest(work, measure=True)[1]
