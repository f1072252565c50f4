"""What a library's driver does for the worker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..cases import Net
from ..problem import Problem

__all__ = ["Array", "Peer", "blas_threads"]

Array = NDArray[Any]


class Peer(ABC):
    """One library at one number of threads, in a process of its own.

    Training: `load` once per problem, then `reset` and `run` as often as wanted; `run` alone is
    timed and returns when everything is done. Inference: `load_network`, then `predict`.
    Importing and limiting threads happens in `__init__`.
    """

    problem: Problem
    whole: ClassVar[bool] = False  # whether a run is compiled for its number of steps

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @abstractmethod
    def load(self, problem: Problem) -> None:
        """Put rows, targets and order into the library's own form, and build what `run` needs."""

    @abstractmethod
    def reset(self, theta: Array) -> None:
        """Parameters from theta (P,), a fresh optimizer."""

    @abstractmethod
    def run(self, start: int, stop: int) -> float:
        """Take steps start..stop of the problem's order; the mean over their rows of the cost before each update."""

    @abstractmethod
    def theta(self) -> Array:
        """The parameters as (P,) float32, laid out as `Problem.theta`."""

    @abstractmethod
    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        """A network for inference and the rows x (m, s_1) float32 that `predict` is called with, in the library's
        own form.
        """

    @abstractmethod
    def predict(self) -> Any:
        """The outputs of the network, softmax included, in the library's own form, complete."""

    def outputs(self) -> Array:
        """The outputs (m, K) as NumPy."""
        return np.asarray(self.predict())

    def describe(self) -> str:
        """What was chosen for the problem loaded last: a plan, an option; may be empty."""
        return ""

    def versions(self) -> dict[str, str]:
        """What runs here."""
        return {"numpy": np.__version__}


def blas_threads(threads: int) -> Any:
    """Limit every BLAS loaded now for the rest of this process, or, used in a `with`, until its end."""
    import threadpoolctl

    return threadpoolctl.threadpool_limits(threads, user_api="blas")
