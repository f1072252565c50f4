"""The arithmetic everyone is held to: the same steps in float64 NumPy, written apart from fastnn's engines."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cases import Net
from .problem import Problem, split

__all__ = ["ROUNDED", "TOLERANCES", "Run", "cost", "differences", "disagreement", "forward", "tolerance", "train"]

Array = NDArray[Any]
# (share of the way Theta went, relative difference of the mean cost). Rounding in float32 is amplified
# where a unit crosses the kink of relu, and by Adam where a gradient is near zero, whose sign alone it
# takes; plain float32 NumPy was within a third of these in the longest runs of every net.
# A wrong learning rate, order, mean or missing bias is off by 0.1 to 1. Products whose factors are rounded to tf32 (11
# bits) or bf16 (8 bits) were imitated in NumPy, and in bf16 computed by PyTorch and JAX: within a third of theirs.
TOLERANCES = {"sgd": (2e-2, 1e-5), "adam": (5e-2, 1e-4)}
ROUNDED = {"tf32": {"sgd": (6e-2, 1e-4), "adam": (0.25, 2e-3)}, "bf16": {"sgd": (9e-2, 3e-4), "adam": (0.35, 2e-3)}}


class Run:
    """Where the steps lead: theta (P,) and the mean over all rows of the cost before each row's update."""

    def __init__(self, theta: Array, mean_cost: float) -> None:
        self.theta, self.mean_cost = theta, mean_cost


def forward(net: Net, theta: Array, x: Array, xp: Any = np) -> list[Array]:
    """[a^(1), ..., z^(L)] in the dtype of theta; the last is before the output function."""
    layers = split(net, theta)
    a = [x]
    for number, (W, b) in enumerate(layers, 1):
        z = a[-1] @ W.T + b
        if number < len(layers):
            z = xp.maximum(z, 0) if net.hidden == "relu" else xp.tanh(z)
        a.append(z)
    return a


def _outputs(net: Net, z: Array, y: Array, xp: Any = np) -> tuple[float, Array]:
    """Sum of the costs and delta^(L), of softmax with cross-entropy or identity with half the squared error."""
    if not net.classes:
        error = z - y
        return float((error * error).sum() / 2), error
    z = z - z.max(axis=1, keepdims=True)
    h = xp.exp(z)
    total = h.sum(axis=1, keepdims=True)
    rows = xp.arange(len(y))
    cost_sum = float((xp.log(total[:, 0]) - z[rows, y]).sum())
    h /= total
    h[rows, y] -= 1
    return cost_sum, h


def cost(net: Net, theta: Array, x: Array, y: Array) -> float:
    """Mean cost over the rows, in float64."""
    return _outputs(net, forward(net, theta.astype(np.float64), x.astype(np.float64))[-1], y)[0] / len(y)


def train(problem: Problem, dtype: Any = np.float64, xp: Any = np) -> Run:
    """Every step of the problem, from its Theta; `xp` is NumPy or a library like it, such as CuPy."""
    net, batch = problem.net, problem.batch
    X, targets, order = (xp.asarray(part) for part in (problem.X, problem.y, problem.order))
    theta = xp.asarray(problem.theta).astype(dtype)
    grad = xp.zeros_like(theta)
    m, v = xp.zeros_like(theta), xp.zeros_like(theta)
    layers, gradients = split(net, theta), split(net, grad)
    cost_sum = 0.0
    for step in range(problem.steps):
        rows = order[step * batch : (step + 1) * batch]
        y = targets[rows]
        a = forward(net, theta, X[rows].astype(dtype), xp)
        step_cost, delta = _outputs(net, a[-1], y, xp)
        cost_sum += step_cost
        for number in reversed(range(len(layers))):
            gradients[number][0][...] = delta.T @ a[number] / batch
            gradients[number][1][...] = delta.mean(axis=0)
            if number:
                slope = (a[number] > 0).astype(dtype) if net.hidden == "relu" else 1 - a[number] ** 2
                delta = delta @ layers[number][0] * slope
        if problem.optimizer == "sgd":
            theta -= problem.learning_rate * grad
        else:  # Kingma and Ba 2015, algorithm 1
            t = step + 1
            m += 0.1 * (grad - m)
            v += 0.001 * (grad * grad - v)
            theta -= problem.learning_rate * (m / (1 - 0.9**t)) / (xp.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return Run(theta if xp is np else xp.asnumpy(theta), cost_sum / (problem.steps * batch))


def differences(problem: Problem, run: Run, theta: Array, mean_cost: float) -> tuple[float, float]:
    """(|theta - theta*| / |theta* - theta_0|, |cost - cost*| / |cost*|) of a result against the oracle's."""
    way = float(np.linalg.norm(run.theta - problem.theta))
    if theta.shape != run.theta.shape:
        return float("inf"), float("inf")
    return float(np.linalg.norm(theta - run.theta)) / way, abs(mean_cost - run.mean_cost) / abs(run.mean_cost)


def tolerance(optimizer: str, precision: str = "fp32") -> tuple[float, float]:
    """Largest differences of Theta and cost at this precision of the products."""
    return ROUNDED.get(precision, TOLERANCES)[optimizer]


def disagreement(optimizer: str, theta_error: float, cost_error: float, precision: str = "fp32") -> str | None:
    """Why a result is not the oracle's, None if it is; NaN is not."""
    most_theta, most_cost = tolerance(optimizer, precision)
    found = []
    if not theta_error <= most_theta:
        found.append(f"parameters are off by {theta_error:.1e} of the way they went (allowed {most_theta:.0e})")
    if not cost_error <= most_cost:
        found.append(f"the cost is off by {cost_error:.1e} (allowed {most_cost:.0e})")
    return "; ".join(found) or None
