"""The one kernel that trains narrow nets in shared memory (narrow.cu): what fits there, how it is laid out, its launch.

Nothing here allocates memory or waits for the device. dtype and contiguity are checked when the arguments are
bound (`sources.bind`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .launchers import WARP, Launcher, ceil, check_shape, cross_entropy_of, is_softmax, same_shape, targets_kind
from .step import CONSTANTS, Rows

__all__ = [
    "RULES",
    "SHARINGS",
    "STATIC_BYTES",
    "NarrowKernels",
    "NarrowNet",
    "Sharing",
    "layout",
    "part_of_batch",
    "sharing",
]

Array = Any
RULES = ("sgd", "momentum", "adam")  # by their codes in narrow.cu
# likewise
OUTPUTS = (
    "softmax_cross_entropy",
    "sigmoid_cross_entropy",
    "squared_values",
    "squared_classes",
    "softmax_squared_values",
    "softmax_squared_classes",
    "softmax_probabilities",
)
MOST_THREADS = 512
OF_A_LAYER = 15  # numbers in a row of the table
STATIC_BYTES = 1024  # of shared memory that the kernel takes beside what `layout` counts, rounded up

# What `cycles` counts with, of the multiprocessors of sm_75 to sm_90.
SCHEDULERS = 4  # each issues one instruction a cycle, to one of its warps
OF_A_SHUFFLE = 4  # instructions, with the choice of what is given away and the sum
LATENCY = 30  # cycles until a number from shared memory or another lane is there
UNROLLED = 4  # steps of a sum whose numbers are asked for before the first is needed
# Instructions for a sum that is done, by the phase: g and its exponential; g'; the rule, with a root and a quotient.
FORWARD, BACK, GRADIENT = 25, 15, 50


class Sharing(NamedTuple):
    """How a product is shared out, as in narrow.cu: `down` x `across` sums at a time of each thread (lanes 1) or
    warp (lanes 32).
    """

    down: int
    across: int
    lanes: int


SHARINGS = (Sharing(1, 1, 1), Sharing(2, 2, 1), Sharing(4, 4, 1), Sharing(2, 2, WARP), Sharing(4, 8, WARP))


def tiles(by: Sharing, rows: int, columns: int) -> list[tuple[int, Sharing]]:
    """How many warps have which tile of rows x columns sums; what is left beside and below the tiles of threads is
    done sum by sum.
    """
    if by.lanes == WARP:
        return [(ceil(rows, by.down) * ceil(columns, by.across), by)]
    down, across = rows // by.down * by.down, columns // (by.across * WARP) * by.across * WARP
    if not (down and across):
        down, across = 0, 0
    return [
        (down * across // (by.down * by.across * WARP), by),
        (rows * ceil(columns - across, WARP) + (rows - down) * across // WARP, SHARINGS[0]),
    ]


def cycles(by: Sharing, rows: int, columns: int, terms: int, threads: int, ending: int) -> float:
    """An estimate, by counting, of what one multiprocessor takes for rows x columns sums of `terms` terms, with
    `ending` instructions for each.

    The path to shared memory serves one warp a cycle, shuffles included; a scheduler issues one instruction a cycle;
    and where there are few warps, they wait for the numbers that they asked for.
    """
    accesses, instructions, count, steps = 0, 0, 0, ceil(terms, by.lanes)
    for warps, (down, across, lanes) in tiles(by, rows, columns):
        sums = down * across
        shuffles, kept = (0, sums) if lanes == 1 else (sums - 1 + (WARP // sums).bit_length() - 1, 1)
        accesses += warps * (steps * (down + across) + shuffles)
        instructions += warps * (steps * (down + across + sums) + OF_A_SHUFFLE * shuffles + kept * ending)
        count += warps
    busiest = instructions * ceil(count, SCHEDULERS) / count  # the scheduler that has one warp more than others
    waits = ceil(steps, UNROLLED) + (by.lanes == WARP) * (WARP.bit_length() - 1)
    return max(accesses, busiest) + ceil(count, threads // WARP) * LATENCY * waits


def sharing(rows: int, columns: int, terms: int, threads: int, ending: int) -> Sharing:
    """The way to share out a product that `cycles` finds the fastest: large tiles, unless they are too few for the
    threads.
    """
    return min(SHARINGS, key=lambda by: cycles(by, rows, columns, terms, threads, ending))


def layout(
    sizes: Sequence[int], rows: int, spans: np.ndarray[Any, Any], codes: Sequence[int], threads: int
) -> tuple[np.ndarray[Any, Any], int]:
    """The table of narrow.cu, (layers, 15) int64, and the elements of shared memory, for at most `rows` rows at a time
    and so many threads.

    spans (layers, 3): where each layer's weights begin in theta, where its biases begin, where it ends; codes
    (layers,): of the activation that each layer's weights lead to.
    """
    end, table, above = 0, [], [*sizes[2:], 1]
    for (n_in, n_out), (weights, biases, _), code, n_above in zip(
        itertools.pairwise(sizes), spans.tolist(), codes, above, strict=True
    ):
        row = [n_in, n_out, weights, biases]
        for size in (n_out * (n_in | 1), n_out, rows * (n_in + 1 | 1), rows * (n_out | 1)):  # weights, biases, a, delta
            row.append(end)
            end += size
        row.append(code)
        for product in (
            (n_out, rows, n_in, threads, FORWARD),
            (n_out, rows, n_above, threads, BACK),
            (n_out, n_in + 1, rows, threads, GRADIENT),
        ):
            down, across, lanes = sharing(*product)
            row += [down * across, lanes]
        table.append(row)
    return np.array(table, np.int64), end


def part_of_batch(sizes: Sequence[int], batch: int, most: int, itemsize: int, shared_bytes: int) -> int:
    """Rows to take through shared memory at a time, at most `most`, in as few parts as possible; 0 if not a single
    one fits.
    """
    pairs = list(itertools.pairwise(sizes))
    parameters = sum(n_out * (n_in | 1) + n_out for n_in, n_out in pairs)
    for_a_row = sum((n_in + 1 | 1) + (n_out | 1) for n_in, n_out in pairs)
    fit = min(most, ((shared_bytes - STATIC_BYTES) // itemsize - parameters) // for_a_row)
    return ceil(batch, ceil(batch, fit)) if fit > 0 else 0


@dataclass(frozen=True)
class NarrowNet:
    """A net with its rule, as the kernel takes it; arrays of the kernel's dtype where nothing else is said.

    Attributes
    ----------
    rule : str
        One of RULES; `state`: its vectors.
    theta, Delta : (P,)
    table : (layers, 15) int64
        Of `layout` for the threads of the launch, as is `elements`.
    slopes : (layers,)
        The parameter of the activation that each layer's weights lead to.
    g, cross_entropy
        The output's activation, and whether the cost is cross_entropy. outputs: units there.
    """

    rule: str
    theta: Array
    Delta: Array
    state: Sequence[Array]
    table: Array
    elements: int
    slopes: Array
    outputs: int
    g: Any
    cross_entropy: bool


class NarrowKernels:
    """The kernel on one device, in one kind: "float32" or "float64"."""

    def __init__(self, device: Launcher, kind: str) -> None:
        self._device, self._kind = device, kind

    def steps(
        self,
        net: NarrowNet,
        X: Array,
        y: Array,
        scale: float,
        rows: Rows,
        constants: Array,
        totals: Array,
        *,
        steps: int,
        part: int,
        threads: int,
        no_bytes: Array,
        weights: Array | None = None,
    ) -> None:
        """`steps` steps of `rows.count` rows each on theta and the rule's state, in place; Delta is overwritten where a
        batch has parts.

        X (any, n_in) of the dtype or uint8, times scale; y (any,) int64 classes or (any, outputs). rows: from which
        step on, as for `StepKernels`, without an offset; constants (steps, width) and totals (2,) float64, which is
        added to, as there. part: rows at a time, at most those of the layout. no_bytes: any uint8 array; it is not
        read. weights (any,) of the dtype: of the rows.

        Raises
        ------
        ValueError
            Shapes that do not fit together, or threads that the kernel does not know.
        """
        (available, _), (layers, _) = X.shape, net.table.shape
        same_shape(theta=net.theta, Delta=net.Delta, **{f"state[{k}]": x for k, x in enumerate(net.state)})
        check_shape("table", net.table, (layers, OF_A_LAYER))
        check_shape("slopes", net.slopes, (layers,))
        check_shape("constants", constants, (constants.shape[0], CONSTANTS[net.rule]))
        check_shape("totals", totals, (2,))
        if not 0 < threads <= MOST_THREADS or threads % WARP or part < 1 or rows.offset:
            raise ValueError(
                f"threads={threads} must be whole warps and at most {MOST_THREADS}, part={part} positive, "
                f"offset={rows.offset} 0"
            )
        kind = targets_kind(y, available, net.outputs)
        if weights is not None:
            check_shape("weights", weights, (available,))
        if net.cross_entropy:
            output = cross_entropy_of(net.g, kind)
        else:
            output = f"softmax_squared_{kind}" if is_softmax(net.g) else f"squared_{kind}"
        from_bytes, theta = X.dtype == np.uint8, net.theta
        states = [*net.state, theta, theta][:2]  # what a rule has not is not touched
        data = (theta, X, 1) if from_bytes else (X, no_bytes, 0)
        targets = (y, theta) if kind == "classes" else (rows.order, y)
        run = (rows.order, rows.step, constants, constants.shape[1], totals, steps, rows.batch, rows.count, part)
        lanes = min(WARP, 1 << (net.outputs - 1).bit_length())
        self._device.launch(
            "narrow_steps",
            self._kind,
            (1,),
            (threads,),
            (
                theta,
                net.Delta,
                *states,
                *data,
                scale,
                *targets,
                *((theta, 0) if weights is None else (weights, 1)),
                available,
                net.table,
                net.slopes,
                layers,
                *run,
                RULES.index(net.rule),
                OUTPUTS.index(output),
                lanes,
            ),
            shared=net.elements * net.theta.dtype.itemsize,
        )
