"""fastnn's own engines, driven through their public programs."""

from __future__ import annotations

import os

import numpy as np

from ... import __version__, optimizers
from ...backends import Backend, get_backend
from ...network import Network
from ..cases import Net
from ..problem import PIXEL, Problem
from .base import Array, Peer, blas_threads

__all__ = ["Numba", "Numpy", "Unit", "Vectors"]


class Numpy(Peer):
    """The reference engine."""

    engine = "numpy"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        get_backend(self.engine)
        self._limit()

    def _limit(self) -> None:
        blas_threads(self.threads)

    def _network(self, net: Net, theta: Array) -> Network:
        return Network(
            net.sizes, hidden=net.hidden, output=net.output, cost=net.cost, init=theta, backend=self._backend()
        )

    def _backend(self) -> Backend | str:
        return self.engine

    def load(self, problem: Problem) -> None:
        self.problem = problem
        self.net = self._network(problem.net, problem.theta)
        self.y = np.ascontiguousarray(problem.y)
        self.optimizer = optimizers.get(problem.optimizer, problem.learning_rate)
        self.X = problem.pixels if problem.pixels is not None and "uint8" in self.net.backend.reads else problem.X
        self.program = self.net.backend.compile(self.net, self.optimizer, problem.batch, data_dtype=self.X.dtype)
        self.program.scale = float(PIXEL)  # of integers

    def reset(self, theta: Array) -> None:
        self.net.theta[...] = theta
        for state in self.optimizer.state:
            state[...] = 0
        self.optimizer.t = 0

    def run(self, start: int, stop: int) -> float:
        cost_sum, rows = self.program.run(self.X, self.y, self.problem.order, start, stop)
        return cost_sum / rows

    def theta(self) -> Array:
        return np.array(self.net.theta)

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        self.net, self.x = self._network(net, theta), x
        self._predict = self.net.predict_proba if net.classes else self.net.predict

    def predict(self) -> Array:
        h: Array = self._predict(self.x)
        return h

    def outputs(self) -> Array:
        return self.predict().reshape(len(self.x), -1)

    def describe(self) -> str:
        return str(getattr(self.program, "plan", "")) if hasattr(self, "program") else ""

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "fastnn": __version__}


class Numba(Numpy):
    """The fast engine; its plan chooses threads by itself."""

    engine = "numba"

    def _limit(self) -> None:
        """Nothing is limited: that the plan chooses is part of what is measured."""

    def versions(self) -> dict[str, str]:
        import numba
        import scipy

        return {
            **super().versions(),
            "numba": numba.__version__,
            "scipy": scipy.__version__,
            "products": get_backend(self.engine).products,
        }


class Vectors(Numba):
    """The same without the matrix unit, as on most processors. Absent where there is none to do without, and where the
    plan does without it but for uint8 data.
    """

    def __init__(self, threads: int) -> None:
        from ...backends.cpu_unit import unit_may_be_shared
        from ...kernels.cpu import amx

        super().__init__(threads)
        if (reason := amx.missing()) is not None:
            raise ImportError(f"the same as fastnn (Numba) here: {reason}")
        if unit_may_be_shared(None):
            raise ImportError("the same as fastnn (Numba) here, but for uint8 data")

    def _backend(self) -> Backend:
        return get_backend(self.engine, amx=False)


class Unit(Numba):
    """The same with the matrix unit wherever it would be the fastest if nobody else used it. Absent where the plan has
    it so in any case.
    """

    def __init__(self, threads: int) -> None:
        from ...backends.cpu_unit import VARIABLE, unit_may_be_shared, why_no_unit

        if (reason := why_no_unit(None)) is not None or not unit_may_be_shared(None):
            raise ImportError(f"the same as fastnn (Numba) here{f': {reason}' if reason else ''}")
        os.environ[VARIABLE] = "on"  # of this peer's own process, before there is an engine
        super().__init__(threads)
