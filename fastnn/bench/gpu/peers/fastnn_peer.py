"""fastnn's CuPy engine through its public program; rows, targets and order are on the device before the clock
starts.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .... import __version__, optimizers
from ....backends import get_backend
from ....network import Network
from ...cases import Net
from ...peers.base import Array, Peer
from ...problem import Problem
from .. import engine

__all__ = ["Captured", "Eager"]


class Captured(Peer):
    """Steps replayed as CUDA graphs, or fused where the engine found that to be faster."""

    mode: ClassVar[str] = "captured"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.backend: Any = self._backend()

    def _backend(self) -> Any:
        return get_backend("cupy")

    def load(self, problem: Problem) -> None:
        self.problem, net = problem, problem.net
        options: dict[str, Any] = {} if problem.precision == "fp32" else {"precision": problem.precision}
        self.net = Network(
            net.sizes,
            hidden=net.hidden,
            output=net.output,
            cost=net.cost,
            init=problem.theta,
            backend=self.backend,
            **options,
        )
        self.X, self.y, self.order = (
            self.backend.asarray(np.ascontiguousarray(part)) for part in (problem.X, problem.y, problem.order)
        )
        self.optimizer = optimizers.get(problem.optimizer, problem.learning_rate)
        self.program = self.backend.compile(self.net, self.optimizer, problem.batch)

    def reset(self, theta: Array) -> None:
        self.backend.copyto(self.net.theta, self.backend.asarray(theta))
        for state in self.optimizer.state:
            self.backend.copyto(state, self.backend.zeros(state.shape, state.dtype))
        self.optimizer.t = 0
        self.backend.synchronize()

    def run(self, start: int, stop: int) -> float:
        with engine.forced(self.backend, self.mode):
            cost_sum, rows = self.program.run(self.X, self.y, self.order, start, stop)
        self.backend.synchronize()
        engine.check(self.program, self.mode)
        return float(cost_sum) / int(rows)

    def theta(self) -> Array:
        return np.array(self.backend.to_numpy(self.net.theta))

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        self.net = Network(
            net.sizes, hidden=net.hidden, output=net.output, cost=net.cost, init=theta, backend=self.backend
        )
        self.x = self.backend.asarray(x)

    def predict(self) -> Any:
        result = (
            self.net.predict_proba(self.x) if self.net._counts_hits(np.zeros(1, np.int64)) else self.net.predict(self.x)
        )
        self.backend.synchronize()
        return result

    def describe(self) -> str:
        plan = getattr(self.net, "plan", None)
        return (
            f"{engine.mode_of(self.program)}; {plan(self.problem.batch)}"
            if plan is not None
            else engine.mode_of(self.program)
        )

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "fastnn": __version__}


class Eager(Captured):
    """The same kernels launched one after another."""

    mode = "eager"

    def _backend(self) -> Any:
        return get_backend("cupy", fused=False)
