"""The gradient of a cost over rows by one call of compiled code: the program that would train on them takes one step
(`TeamProgram.gradient`), which writes the gradient where it would write the new parameters. Operations one by one, from
Python, take up to 2.7 times as long (bench/gradients.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..optimizers import Momentum
from .base import Array, Job
from .cpu_program import TeamProgram

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["Gradients"]

KEPT, KEPT_BYTES = 4, 64 << 20  # programs of a network, and bytes of them all


class Gradients:
    """Programs of one network, kept from call to call: for a small net to make one takes longer than to use it. Calls
    from several threads at once take one each.

    make : callable
        A job -> a program.
    """

    def __init__(self, make: Callable[[Job], TeamProgram]) -> None:
        self._make = make
        self._kept: dict[tuple[int, int | None, Any, bool], TeamProgram] = {}

    def __call__(
        self,
        net: Network,
        X: Array,
        y: Array,
        order: Array,
        weights: Array | None,
        l2: float,
        micro_batch: int | None,
        scale: float,
        given: bool = False,
    ) -> tuple[float, Array, int | None]:
        """As `Backend.gradient`; given: y are the deltas of the output layer."""
        m = order.shape[0]
        key = m, micro_batch, X.dtype, given
        program = self._kept.pop(key, None)
        if program is None:
            # As of many steps, and of a rule that has no program of its own for single rows; it takes no part.
            program = self._make(Job(net, Momentum(), m, micro_batch, None, X.dtype))
            program.leave_no_unit_out()
            if given:
                program.take_deltas()
        program.net, program.scale, program.weights = net, scale, weights
        try:
            cost_sum, D = program.gradient(X, y, order, l2)
        finally:
            program.net, program.weights = cast("Network", None), None  # or the two would keep each other alive
        # Or NaN may be left in the workspace. Not by a product of BLAS, whose threads would be awake in the next call.
        if math.isfinite(cost_sum) and math.isfinite(float(D.max()) - float(D.min())):
            self._keep(key, program)
        return cost_sum / m, D, program.hits

    def of_deltas(self, net: Network, X: Array, delta: Array) -> Array:
        """As `Backend.gradient_of_deltas`."""
        m = X.shape[0]
        _, D, _ = self(net, X, delta, np.arange(m), None, 0.0, None, 1.0, given=True)
        D *= m  # a step takes the mean of its rows
        return D

    def _keep(self, key: tuple[int, int | None, Any, bool], program: TeamProgram) -> None:
        """Those used last, as many as there is room for."""
        if not self._kept and program.nbytes <= KEPT_BYTES:  # as in a loop over batches of one size
            self._kept = {key: program}
            return
        kept, room = {}, KEPT_BYTES
        for name, one in [(key, program), *reversed(self._kept.items())][:KEPT]:
            room -= one.nbytes
            if room < 0:
                break
            kept[name] = one
        self._kept = dict(reversed(kept.items()))
