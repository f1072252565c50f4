"""The gradient of a cost over rows by one call of compiled code: the training program, of which one step is taken whose
rate is 0, on a copy of theta. Operations one by one, from Python, take up to 1.6 times as long (bench/gradients.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..kernels.cpu.on_demand import parts
from ..optimizers import SGD
from .base import Array, Job
from .cpu_blas import Blas
from .cpu_plan import Plan
from .cpu_program import no_dropout
from .host import aligned
from .numba_program import NumbaProgram

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["GradientProgram", "Gradients"]

KEPT, KEPT_BYTES = 4, 16 << 20  # programs of a network, and bytes of each
BRIEF = 250_000  # multiplications of a product, up to which OpenBLAS does not share it among threads


class GradientProgram(NumbaProgram):
    """Costs and gradients over up to `batch_size` rows, without dropout; net.theta stays as it is."""

    def __init__(self, job: Job, plan: Plan, blas: Blas) -> None:
        super().__init__(job, plan, blas)
        self._largest = max(n_in * n_out for n_in, n_out in itertools.pairwise(job.net.sizes))
        self._moving = aligned(job.net.theta.shape, job.net.dtype)
        self._shape = self._shape._replace(**no_dropout(job.net))
        self._parts = parts(job.net.dtype, set())

    def __call__(self, X: Array, y: Array, order: Array, weights: Array | None, l2: float) -> tuple[float, Array]:
        """J and D (P,), a fresh vector, over the rows `order` (m,) of X and y; `hits` is set.

        weights: (n,) of the rows of X and y, or None; l2: lambda / n, a number that each row of the cost has.
        """
        self.weights, self._l2, m = weights, l2, order.shape[0]
        np.copyto(self._moving, self.net.theta)
        brief = m * self._largest < BRIEF
        cost, _ = self._run_on(self._moving, X, y, order, 0, 1, None, brief)
        return cost / m, self._memory.grads[0].copy()

    def _rule(self, X: Array, rates: Array | None) -> Any:
        rule = super()._rule(X, rates)
        return rule._replace(hypers=np.zeros_like(rule.hypers), l2=self._l2, clip=math.inf)


class Gradients:
    """Programs of one network, kept from call to call: for a small net to make one takes longer than to use it. Calls
    from several threads at once take one each.

    make : callable
        A job -> a program.
    """

    def __init__(self, make: Callable[[Job], GradientProgram]) -> None:
        self._make = make
        self._kept: dict[tuple[int, int | None, Any], GradientProgram] = {}

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
    ) -> tuple[float, Array, int | None]:
        """As `Backend.gradient`."""
        key = order.shape[0], micro_batch, X.dtype
        program = self._kept.pop(key, None)
        if program is None:
            # Only where gradients are clipped does the program through BLAS write them down, with their L2 term and
            # divided by the rows.
            rule = SGD(1.0, clip_norm=1.0)
            program = self._make(Job(net, rule, order.shape[0], micro_batch, order.shape[0], X.dtype))
        program.net, program.scale = net, scale
        try:
            return *program(X, y, order, weights, l2), program.hits
        finally:
            program.net, program.weights = cast("Network", None), None  # or the two would keep each other alive
            if program.nbytes <= KEPT_BYTES:
                self._kept = {**dict([*self._kept.items()][1 - KEPT :]), key: program}
