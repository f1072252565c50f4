"""Time to a given MNIST test accuracy: the same Theta, order, batches and rule for everyone."""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import oracle
from .cases import Case
from .peers.base import Peer
from .problem import Problem, initial_theta

__all__ = ["CASE", "EPOCHS", "GOAL", "train_to"]

Array = NDArray[Any]
CASE = "784-300-100-10@128@adam"
GOAL, EPOCHS = 0.975, 15


@functools.lru_cache(maxsize=1)
def _mnist(folder: str) -> tuple[Array, Array, Array, Array]:
    """Training and test rows as float32 in [0, 1], and their classes."""
    from ..data import mnist

    data = mnist.load(folder)
    assert data.test is not None
    scale = np.float32(mnist.PIXEL_SCALE)
    return data.X * scale, data.y, data.test[0] * scale, data.test[1]


def train_to(
    peer: Peer, case: Case, folder: str, seed: int, epochs: int, goal: float, rows: int | None = None
) -> dict[str, Any]:
    """Train until the test accuracy is reached, at most `epochs`.

    Whole batches only: the rows of each epoch's permutation that do not fill the last batch are
    left out, because JAX compiles for one shape. The clock runs while the library trains, not
    while the test rows are evaluated, which NumPy does for everyone.

    Returns
    -------
    dict
        curve: [[seconds so far, test accuracy], ...]; reached: seconds, or None; first_seconds: of the first, untimed
        epoch.
    """
    X, y, X_test, y_test = _mnist(folder)
    X, y = X[:rows], y[:rows]
    steps = len(y) // case.batch
    order = np.concatenate(
        [np.random.default_rng([seed, epoch]).permutation(len(y))[: steps * case.batch] for epoch in range(epochs)]
    )
    problem = Problem(
        case.net, X, y, initial_theta(case.net, seed), order, case.batch, case.optimizer, case.learning_rate
    )
    start = time.perf_counter()
    peer.load(problem)
    peer.reset(problem.theta)
    peer.run(0, steps)
    first = time.perf_counter() - start
    peer.reset(problem.theta)
    curve: list[list[float]] = []
    seconds = 0.0
    for epoch in range(epochs):
        start = time.perf_counter()
        peer.run(epoch * steps, (epoch + 1) * steps)
        seconds += time.perf_counter() - start
        h = oracle.forward(case.net, peer.theta(), X_test)[-1]
        curve.append([seconds, float((h.argmax(axis=1) == y_test).mean())])
        if curve[-1][1] >= goal:
            break
    return {
        "curve": curve,
        "reached": seconds if curve[-1][1] >= goal else None,
        "first_seconds": first,
        "steps": steps,
    }
