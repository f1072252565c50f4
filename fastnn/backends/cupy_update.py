"""The update of a training step on the CuPy engine, for every rule: the memory it needs, its constants, its
launches.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..kernels.cuda import sources
from ..kernels.cuda.clip import ClipKernels, clip_partials_shape
from ..kernels.cuda.launchers import REDUCTION_BLOCKS
from ..kernels.cuda.layerwise import LayerwiseKernels, layer_partials_shape, layer_ratios_shape
from ..kernels.cuda.step import CONSTANTS, OF_A_SPAN, StepKernels, update_blocks
from ..optimizers import Optimizer
from .cupy_contract import Device
from .cupy_products import ROW_BYTES, row_ld

__all__ = ["Update", "has_copy", "padded", "spans", "spans_of_theta", "update_constants", "update_pieces"]

Array = Any
LAYERWISE = ("lars", "lamb")
BEGIN = 128  # elements: 256 bytes of bfloat16, and more of other types


class Update:
    """Moves theta and the rule's state; calling it asks for one step.

    Parameters
    ----------
    memory : mapping
        The arrays of `update_pieces`.
    low : (any,) STORE
        The copy of theta, `padded`, that is kept in step; theta itself where there is none (`has_copy`).
    Delta : (any,)
        As `memory["spans"]` says: `padded`, or laid out as theta. Changed where the optimizer has a `clip_norm`.
    """

    def __init__(
        self,
        device: Device,
        kind: str,
        optimizer: Optimizer,
        theta: Array,
        low: Array,
        Delta: Array,
        memory: Mapping[str, Array] | Any,
    ) -> None:
        self._kernels, self._layers = StepKernels(device, kind), LayerwiseKernels(device, sources.real(kind).name)
        self._clip = ClipKernels(device, sources.real(kind).name)
        self._optimizer, self._theta, self._low, self._Delta, self._memory = optimizer, theta, low, Delta, memory

    def __call__(self, rows: int) -> None:
        """One step from D = Delta / rows, plus decay * Theta on the weights."""
        of, name, state, theta = self._memory, self._optimizer.name, self._optimizer.state, self._theta
        if self._optimizer.clip_norm is not None:
            self._clip(
                theta, self._Delta, of["spans"], of["clip_partials"], of["clip"], of["constants"], of["step"], rows
            )
        if name not in LAYERWISE:
            self._kernels.update(
                name, theta, self._low, self._Delta, state, of["spans"], of["constants"], of["step"], of["squares"],
                rows,
            )  # fmt: skip
            return
        rule = self._layers.lars if name == "lars" else self._layers.lamb
        rule(
            theta, self._Delta, *state, of["spans"], of["layer_partials"], of["layer_ratios"], of["squares"],
            of["constants"], of["step"], rows,
        )  # fmt: skip
        if self._low is not theta:
            self._kernels.round_theta(theta, self._low, of["spans"])


def update_pieces(
    rule: str, sizes: Sequence[int], steps: int, real: np.dtype[Any], clips: bool = False
) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and dtypes of what an update needs beside theta, Delta and the state, with the constants of so many
    steps; clips: of a rule with a `clip_norm`.
    """
    layers, double, integer = len(sizes) - 1, np.dtype(np.float64), np.dtype(np.int64)
    pieces: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
        "spans": ((layers, OF_A_SPAN), integer),
        "constants": ((steps, CONSTANTS[rule]), real),
        "step": ((1,), integer),
        "squares": ((layers * (REDUCTION_BLOCKS if rule in LAYERWISE else update_blocks(sizes)),), double),
    }
    if clips:
        pieces |= {"clip": ((2,), double), "clip_partials": (clip_partials_shape(layers), double)}
    if rule in LAYERWISE:
        pieces |= {
            "layer_partials": (layer_partials_shape(layers), double),
            "layer_ratios": (layer_ratios_shape(layers), double),
        }
    return pieces


def padded(sizes: Sequence[int]) -> tuple[list[tuple[int, int, int]], int]:
    """How Delta and the copy of theta lie, and their length: for each layer, where its weights begin, elements from one
    of their rows to the next, and where its biases begin.

    Products are fast only where bases and rows begin at multiples of 16 bytes. theta cannot have that: it is one vector
    without gaps.
    """
    end, begins = 0, []
    for n_in, n_out in itertools.pairwise(sizes):
        ld = row_ld(n_in, "bfloat16")
        biases = end + -(-n_out * ld // BEGIN) * BEGIN
        begins.append((end, ld, biases))
        end = biases + -(-n_out // BEGIN) * BEGIN
    return begins, end


def has_copy(sizes: Sequence[int], kind: str, compute: str) -> bool:
    """Whether products read a copy of theta: in bf16, and in tf32 where some matrix or row of theta does not begin at a
    multiple of 16 bytes, as tensor cores are to be given them (`row_ld`).

    In fp32 and fp64 they read theta as it lies. What a copy gains in tf32 has not been measured on a device.
    """
    if sources.store(kind) != sources.real(kind):
        return True
    begins = itertools.accumulate(((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes)), initial=0)
    itemsize = sources.store(kind).itemsize
    return compute == "tf32" and any(
        begin * itemsize % ROW_BYTES or n_in * itemsize % ROW_BYTES
        for begin, n_in in zip(begins, sizes[:-1], strict=False)
    )


def spans(layer_spans: np.ndarray[Any, Any], sizes: Sequence[int]) -> np.ndarray[Any, Any]:
    """(layers, 7) int64 as in layers.cuh, from layer_spans (layers, 3): where weights begin, biases begin, the
    layer ends in theta.
    """
    rows = [(weights, biases, n_in, ld) for n_in, (weights, ld, biases) in zip(sizes, padded(sizes)[0], strict=False)]
    return np.ascontiguousarray(np.column_stack([layer_spans, np.array(rows, np.int64)]))


def spans_of_theta(layer_spans: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same where Delta is laid out as theta."""
    weights, biases, _ = layer_spans.T
    return np.ascontiguousarray(
        np.column_stack([layer_spans, weights, biases, biases - weights, biases - weights]), np.int64
    )


def update_constants(
    optimizer: Optimizer,
    t: int,
    steps: int,
    decay: float,
    dtype: np.dtype[Any],
    rates: np.ndarray[Any, Any] | None = None,
) -> np.ndarray[Any, Any]:
    """(steps, width) of the dtype, from float64: for steps number t, t + 1, ... what the rule's kernels read
    (update.cu, layerwise.cu), decay = lambda / n first.

    rates (steps,): alpha of each step; the rule's own if not given.

    Raises
    ------
    TypeError
        The rule has no CUDA kernel.
    """
    numbers = np.arange(t, t + steps, dtype=np.float64)
    rate, *hyper = optimizer.hyper()
    alpha: Any = rate if rates is None else rates
    columns: list[Any]
    if optimizer.name in ("sgd", "momentum", "lars"):
        columns = [alpha, *hyper]
    elif optimizer.name in ("adam", "lamb"):
        beta1, beta2, eps, weight_decay = hyper
        # In float64: a float32 would lose its digits at small t.
        scale, correction = 1 / (1 - beta1**numbers), 1 / (1 - beta2**numbers)
        moments = (1 - beta1, 1 - beta2)
        columns = (
            [alpha * scale, *moments, correction, eps, 1 - alpha * weight_decay]
            if optimizer.name == "adam"
            else [alpha, *moments, scale, correction, eps, weight_decay]
        )
    else:
        raise TypeError(
            f"optimizer={optimizer!r} has no kernel in the cupy engine; use sgd, momentum, adam, lars or lamb, or "
            "another backend"
        )
    table = np.column_stack([np.broadcast_to(np.asarray(column, np.float64), steps) for column in (decay, *columns)])
    with np.errstate(over="ignore"):
        # a rate beyond float32 is infinite there, as it is in the other engines: training diverges and says so
        return table.astype(dtype)
