"""The NumPy engine: the reference. It reads like the lecture, and the fast engines are tested against it.

Symbols as on the board: a^(l) (m, s_l), z^(l), delta^(l), Delta^(l), Theta^(l).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..activations import Activation
from ..costs import Pair
from ..dropout import Drawn
from .base import Array, Job, Program
from .host import HostBackend

if TYPE_CHECKING:
    from ..optimizers import Optimizer

__all__ = ["NumpyBackend"]


# Arithmetic of networks overflows, and underflows, as a matter of course, and what it comes to is looked at where it
# matters, so the caller's np.errstate plays no part. (OpenBLAS also raises the flag of an invalid operation now and
# then where all numbers are right, on what it reads beside them and throws away: numpy issues 13173 and 24067.)
quietly = np.errstate(all="ignore")


class NumpyBackend(HostBackend):
    """Plain NumPy on the CPU; BLAS does the matrix products."""

    name = "numpy"

    # ---- the four operations, and the delta they start from ---------------------------------------

    @quietly
    def _dense_forward(self, a: Array, W: Array, b: Array, out: Array) -> Array:
        np.matmul(a, W.T, out=out)  # z = a Theta^T
        out += b  # + b
        return out

    @quietly
    def _activate(self, activation: Activation, z: Array, out: Array) -> Array:
        return activation.value(z, out=out)  # a = g(z)

    @quietly
    def _output_delta(self, activation: Activation, pair: Pair, z: Array, a: Array, y: Array, out: Array) -> Array:
        out[...] = pair.delta(activation, z, a, y)
        return out

    @quietly
    def _propagate_delta(self, delta: Array, W: Array, activation: Activation, z: Array, a: Array, out: Array) -> Array:
        np.matmul(delta, W, out=out)  # delta^(l+1) Theta^(l)
        out *= activation.derivative(z, a)  # * g'(z^(l))
        return out

    @quietly
    def _times_derivative(self, delta: Array, activation: Activation, z: Array, a: Array) -> Array:
        return np.asarray(delta * activation.derivative(z, a))

    @quietly
    def _accumulate(self, Delta_W: Array, Delta_b: Array, delta: Array, a: Array) -> None:
        Delta_W += delta.T @ a  # Delta := Delta + delta^T a
        Delta_b += delta.sum(axis=0, dtype=np.float64)  # a float32 sum over millions of rows drifts by percents

    @quietly
    def _cost_sum(self, pair: Pair, z: Array, a: Array, y: Array, weights: Array | None) -> float:
        costs = pair.cost(z, a, y)
        return float(np.sum(costs if weights is None else costs * weights, dtype=np.float64))

    def flush_subnormals(self, *vectors: Array) -> None:
        for vector in vectors:
            vector[np.abs(vector) < np.finfo(vector.dtype).tiny] = 0

    @quietly
    def _update(self, optimizer: Optimizer, theta: Array, grad: Array, t: int) -> None:
        optimizer.step(theta, optimizer.clipped(grad), optimizer.state, t)

    def program_for(self, job: Job) -> Program:
        return NumpyProgram(job)

    def plan(self, job: Job, explain: bool = False) -> str:
        parts = "" if job.rows >= job.batch_size else f", {job.rows} rows at a time"
        return f"the operations one after another{parts}; BLAS decides on its threads"


class NumpyProgram(Program):
    """The composition of the operations, step by step."""

    _sums: tuple[float, int] = (0.0, 0)  # cost and hits

    def _run(self, X: Array, y: Array, order: Array, start: int, stop: int, rates: Array | None) -> tuple[float, int]:
        net, batch = self.net, self.batch_size
        cost_sum, hits = self._sums if self.continues else (0.0, 0)
        rows = 0
        with np.errstate(all="ignore"):  # a divergence is found by `fit`, which names its epoch and layer
            for step in range(start, stop):
                chosen = order[step * batch : (step + 1) * batch]
                if rates is not None:
                    self.optimizer.took(float(rates[step - start]))
                step_cost, step_hits = self._step(X, y, chosen, step)
                cost_sum += step_cost
                rows += chosen.shape[0]
                hits += step_hits
        self._sums, self.hits = (cost_sum, hits), hits if net._counts_hits(y) else None
        return cost_sum, rows

    def _step(self, X: Array, y: Array, chosen: Array, step: int) -> tuple[float, int]:
        """Step number `step` of the epoch, on those rows of X and y, micro-batch after micro-batch."""
        net, l2_per_row = self.net, self.l2_per_row(X)
        m = chosen.shape[0]
        cost_sum, Delta, hits = m * l2_per_row / 2 * net._sum_of_squared_weights(), None, 0
        for first in range(0, m, self.micro_batch):
            rows = chosen[first : first + self.micro_batch]
            weights = None if self.weights is None else self.weights[rows]
            factors = net._dropped(Drawn(self.key, step, first), len(rows))
            # all gradients before any parameter moves
            data_cost, Delta, h = net._backpropagate(X[rows], y[rows], Delta, weights, factors)
            cost_sum += data_cost
            hits += net._count_hits(h, y[rows]) or 0
        D = Delta
        D /= m
        net._add_l2_gradient(D, l2_per_row)
        net.backend.update(self.optimizer, net.theta, D)
        return cost_sum, hits
