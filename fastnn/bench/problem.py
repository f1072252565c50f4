"""The same data, order and Theta for every library, made anew in each process from a seed."""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Case, Net, net_named

__all__ = ["PIXEL", "Problem", "initial_theta", "learning_rate", "make", "orders", "split"]

Array = NDArray[Any]
PIXEL = np.float32(1 / 255)


@dataclass(frozen=True)
class Problem:
    """What a library is given before the clock starts.

    Attributes
    ----------
    X : (rows, s_1) float32
    pixels : (rows, s_1) uint8, or None; X is PIXEL times them, as float32, for who has no use for bytes
    y : (rows,) int64 classes, or (rows, 1) float32
    theta : (P,) float32
        Initial parameters: for each layer its weights (n_out, n_in) row by row, then its biases.
    order : (steps * batch,) int64
        Rows of step s: order[s * batch : (s + 1) * batch].
    """

    net: Net
    X: Array
    y: Array
    theta: Array
    order: Array
    batch: int
    optimizer: str
    learning_rate: float
    precision: str = "fp32"
    pixels: Array | None = None

    @property
    def steps(self) -> int:
        return len(self.order) // self.batch

    def beginning(self, steps: int) -> Problem:
        """The first steps of it, at the same learning rate."""
        return replace(self, order=self.order[: steps * self.batch])

    def digest(self) -> str:
        """Equal in two processes exactly if they were given the same problem."""
        parts = (self.X[::61], self.y, self.theta, self.order)
        return f"{zlib.crc32(b''.join(np.ascontiguousarray(part).tobytes() for part in parts)):08x}"


def split(net: Net, theta: Array) -> list[tuple[Array, Array]]:
    """(W, b) of each layer as views of theta; W is (n_out, n_in)."""
    layers, at = [], 0
    for n_in, n_out in itertools.pairwise(net.sizes):
        W = theta[at : at + n_in * n_out].reshape(n_out, n_in)
        at += n_in * n_out
        layers.append((W, theta[at : at + n_out]))
        at += n_out
    return layers


# the cells of a wide net follow each other, and 38 million normal numbers take their time
@functools.lru_cache(maxsize=1)
def initial_theta(net: Net, seed: int = 0) -> Array:
    """He et al. 2015 before relu, Glorot and Bengio 2010 otherwise; zero biases. float32, read-only."""
    rng = np.random.default_rng([seed, 1])
    theta = np.zeros(net.parameters)
    for W, _ in split(net, theta):
        n_out, n_in = W.shape
        deviation = (2 / n_in) ** 0.5 if net.hidden == "relu" else (2 / (n_in + n_out)) ** 0.5
        W[...] = rng.normal(0, deviation, W.shape)
    theta = theta.astype(np.float32)
    theta.setflags(write=False)
    return theta


@functools.lru_cache(maxsize=2)
def _rows(inputs: int, classes: int, rows: int, seed: int, pixels: bool) -> tuple[Array, Array]:
    """Uniform inputs around 0, or those pixels, and targets that can be learned from them: a random linear rule or
    a smooth curve.
    """
    rng = np.random.default_rng([seed, 2])
    centred = (_pixels(inputs, rows, seed) * PIXEL if pixels else rng.random((rows, inputs), np.float32)) - np.float32(
        0.5
    )
    X = _pixels(inputs, rows, seed) * PIXEL if pixels else centred
    rule = rng.normal(size=(inputs, max(classes, 1))).astype(np.float32)
    if classes:
        return X, np.argmax(centred @ rule, axis=1).astype(np.int64)
    rule /= np.linalg.norm(rule)
    # keeps the cost away from zero, where only rounding would be compared
    noise = rng.normal(0, 0.1, (rows, 1)).astype(np.float32)
    return X, np.sin(2 * np.float32(np.pi) * (centred @ rule)) + noise


@functools.lru_cache(maxsize=2)
def _pixels(inputs: int, rows: int, seed: int) -> Array:
    return np.random.default_rng([seed, 4]).integers(0, 256, (rows, inputs)).astype(np.uint8)


def orders(rows: int, count: int, seed: int = 0) -> Array:
    """`count` row numbers: whole random permutations of the rows one after the other, the last cut off."""
    epochs = -(-count // rows)
    return np.concatenate([np.random.default_rng([seed, epoch]).permutation(rows) for epoch in range(epochs)])[:count]


FULL_RATE_STEPS = 200


def learning_rate(case: Case, steps: int) -> float:
    """The case's rate, divided in a long run so that Theta goes about as far as in 200 steps.

    Training is chaotic in the long run: one unit of relu that crosses its kink a step earlier, for
    rounding alone, grows exponentially along the way, and nothing could be told from a comparison.
    The rate does not change what a step costs.
    """
    return case.learning_rate * min(1.0, FULL_RATE_STEPS / steps)


def make(case: Case, rows: int, steps: int, seed: int = 0) -> Problem:
    """The problem of a cell: `steps` steps over shuffled rows."""
    net = case.net
    pixels = _pixels(net.sizes[0], rows, seed) if net.pixels else None
    X, y = _rows(net.sizes[0], net.sizes[-1] if net.classes else 0, rows, seed, net.pixels)
    order = orders(rows, steps * case.batch, seed)
    return Problem(
        net, X, y, initial_theta(net, seed), order, case.batch, case.optimizer, learning_rate(case, steps),
        case.precision, pixels,
    )  # fmt: skip


def case_from(request: dict[str, Any]) -> Case:
    """The case that a request names by net, batch, optimizer and precision."""
    return Case(
        net_named(request["net"]),
        int(request["batch"]),
        request.get("optimizer", "sgd"),
        request.get("precision", "fp32"),
    )
