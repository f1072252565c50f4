"""Narrow nets on the CuPy engine: whether one kernel can train them in shared memory, and its launches
(kernels/cuda/narrow.cu).

Whether it is faster than a captured graph nobody can say beforehand: programs time both (cupy_program.py).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.cuda.narrow import OF_A_LAYER, RULES, NarrowKernels, NarrowNet, layout, part_of_batch
from ..kernels.cuda.step import Rows
from .cupy_contract import Device
from .cupy_step import is_cross_entropy

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer
    from .cupy_arena import Arena, Pieces

__all__ = ["TRIAL_ROWS", "TRIAL_STEPS", "WAYS", "Fused", "pieces_of_narrow", "why_not"]

Array = Any
WIDEST = 128  # units of a hidden layer
# Multiply-adds of a step. One multiprocessor does at most 128 a cycle, so that many take 36 us at 1.75 GHz however good
# the code: more than the dozen launches of a captured step are thought to take. Below, the device's clock decides.
MOST_PRODUCTS = 8_000_000
# Threads that share the work; how they do, narrow.py chooses for each product. Fewer wait less for each other.
WAYS = (512, 256, 128)
STEPS_PER_LAUNCH = 256  # a launch should take milliseconds, not seconds: what shares the device waits for it
TRIAL_STEPS = 16  # of each way that is timed
# that these are taken from: as many as steps of 32 rows see, for to fetch one row again and again would flatter the
# kernel
TRIAL_ROWS = 512


def why_not(net: Network, device: Device, batch: int, optimizer: Optimizer | None) -> str:
    """Why the kernel cannot train this network with this batch and optimizer (Adam if none is given), or would for
    certain not pay; "" if it may.
    """
    if net.precision != "fp32":
        return f"it computes in float32 or float64, not with precision={net.precision!r}"
    if any(net.dropout):
        return "it leaves no units out, and this network has dropout"
    if any(g.of_z for g in net.hidden):
        return f"it keeps no g'(z) beside activations, which {next(g.name for g in net.hidden if g.of_z)} wants"
    if net.pair.parameter is not None:
        return f"it knows cross_entropy and squared_error, not {net.cost}"
    if optimizer is not None and optimizer.name not in RULES:
        return f"it knows {', '.join(RULES)}, not {optimizer.name}"
    if optimizer is not None and optimizer.clip_norm is not None:
        return "it clips no gradients, and this optimizer has a clip_norm"
    if max(net.sizes[1:-1], default=0) > WIDEST:
        return f"a hidden layer has {max(net.sizes[1:-1])} units, more than {WIDEST}"
    products = _products(net, batch)
    if products > MOST_PRODUCTS:
        return (
            f"a step has {products:,} multiply-adds, more than the {MOST_PRODUCTS:,} that one multiprocessor is given"
        )
    if not part_of_batch(net.sizes, batch, batch, net.dtype.itemsize, device.shared_bytes):
        return (
            f"the parameters and a row's activations do not fit into the {device.shared_bytes:,} bytes of shared "
            "memory that a block can have"
        )
    return ""


def _products(net: Network, batch: int) -> int:
    """Multiply-adds of a step: three products for each layer, but no delta of the input."""
    weights = [n_in * n_out for n_in, n_out in itertools.pairwise(net.sizes)]
    return batch * (3 * sum(weights) - weights[0])


def pieces_of_narrow(net: Network, device: Device, batch: int, optimizer: Optimizer | None) -> Pieces:
    """What a program needs beside the rest where the kernel may be used; with Adam if no optimizer is given."""
    if why_not(net, device, batch, optimizer):
        return {}
    layers, vectors = len(net.sizes) - 1, 1 + (2 if optimizer is None else len(optimizer.slots))
    classes = net.pair.targets == "classes"
    return {
        "narrow_tables": ((len(WAYS), layers, OF_A_LAYER), np.dtype(np.int64)),
        "narrow_slopes": ((layers,), net.dtype),
        "trial_X": ((TRIAL_ROWS, net.sizes[0]), net.dtype),
        "trial_y": ((TRIAL_ROWS,), np.dtype(np.int64)) if classes else ((TRIAL_ROWS, net.sizes[-1]), net.dtype),
        "trial_kept": ((vectors, net.layout.size), net.dtype),  # theta and the rule's state, which trials move
    }


class Fused:
    """The kernel for one network, rule and batch, for which `why_not` is "".

    Attributes
    ----------
    part : int
        Rows in shared memory at a time.
    way : int
        With how many threads it is launched, one of WAYS.
    """

    def __init__(self, net: Network, device: Device, arena: Arena, optimizer: Optimizer, batch: int, most: int) -> None:
        self.way = WAYS[0]
        self.part = part_of_batch(net.sizes, batch, min(batch, most), net.dtype.itemsize, device.shared_bytes)
        self._arena, self._batch = arena, batch
        activations = [*net.hidden, net.output]
        codes, spans = [g.code for g in activations], net.layout.spans()
        tables = [layout(net.sizes, self.part, spans, codes, threads) for threads in WAYS]
        device.upload(arena["narrow_tables"], np.stack([table for table, _ in tables]))
        device.upload(arena["narrow_slopes"], np.array([g.parameter for g in activations], net.dtype))
        self._kernels, cross_entropy = NarrowKernels(device, net.dtype.name), is_cross_entropy(net.pair)
        self._nets = {
            threads: NarrowNet(
                optimizer.name,
                net.theta,
                arena["Delta"][: net.layout.size],
                optimizer.state,
                arena["narrow_tables"][k],
                tables[k][1],
                arena["narrow_slopes"],
                net.sizes[-1],
                net.output,
                cross_entropy,
            )
            for k, threads in enumerate(WAYS)
        }

    def repeat(self, X: Array, y: Array, weights: Array | None, scale: float, m: int, times: int) -> None:
        """`times` steps of m rows each, inside `Device.work`; the row numbers and constants of these steps lie in
        the arena.
        """
        arena = self._arena
        rows = Rows(arena["order"], arena["step"], self._batch, 0, m)
        for first in range(0, times, STEPS_PER_LAUNCH):
            steps = min(STEPS_PER_LAUNCH, times - first)
            self._kernels.steps(
                self._nets[self.way],
                X,
                y,
                scale,
                rows,
                arena["constants"],
                arena["totals"],
                steps=steps,
                part=self.part,
                threads=self.way,
                no_bytes=arena["workspace"],
                weights=weights,
            )

    def describe(self) -> str:
        """How steps are computed, for people."""
        return (
            f"fused: many whole steps in one launch, by one block in shared memory, {self.part} rows at a time, "
            f"{self.way} threads"
        )
