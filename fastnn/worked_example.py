"""The lecture's worked example: one step of backpropagation in a 2-2-2 network, every number with its formula.

Nothing here is a stored result: the correct course comes from fastnn's own network in float64, with
the biases held fixed by writing to `net.weights` alone. `step_in_wrong_order` is the mistake behind
the two numbers at which the lecture's text ends: it moves the output weights first and then sends
the error back through the weights it has just moved.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .network import Network

__all__ = ["ETA", "TARGET", "Ending", "Example", "W", "X", "network", "run", "step", "step_in_wrong_order", "text"]

Floats = NDArray[np.float64]

X = np.array([[0.05, 0.10]])
TARGET = np.array([[0.01, 0.99]])
W = ([[0.15, 0.20], [0.25, 0.30]], [[0.40, 0.45], [0.50, 0.55]])  # w1..w4 and w5..w8, row by row
B = (0.35, 0.60)
ETA = 0.5
MANY = 10_000
PRINTED_ERROR = 0.0000351085  # on the lecture's last page; it does not fit the outputs beside it, see `text`


def network() -> Network:
    """The 2-2-2 network of the lecture: sigmoid, squared error, float64."""
    weights, biases = [np.array(w) for w in W], [np.full(2, b) for b in B]
    return Network(
        [2, 2, 2],
        hidden="sigmoid",
        output="sigmoid",
        cost="squared_error",
        init=(weights, biases),
        backend="numpy",
        dtype="float64",
    )


def step(net: Network) -> float:
    """One step of gradient descent, biases held fixed; returns E_total before it.

    All gradients are known before any weight moves.
    """
    E, gradient = net.cost_and_gradient(X, TARGET)
    for weights, D in zip(net.weights, net.split(gradient)[0], strict=True):
        weights -= ETA * D
    return E


def step_in_wrong_order(w_hidden: Floats, w_output: Floats) -> None:
    """The same step with the mistake, in place on both (2, 2) arrays.

    delta^(2) is computed after Theta^(2) has moved, so it is the error of no network that ever existed.
    """
    h, o = _outputs(w_hidden, w_output)
    delta_o = (o - TARGET) * o * (1 - o)
    w_output -= ETA * delta_o.T @ h  # too early ...
    delta_h = delta_o @ w_output * h * (1 - h)  # ... for this line reads it
    w_hidden -= ETA * delta_h.T @ X


def _outputs(w_hidden: Floats, w_output: Floats) -> tuple[Floats, Floats]:
    h = 1 / (1 + np.exp(-(X @ w_hidden.T + B[0])))
    return h, 1 / (1 + np.exp(-(h @ w_output.T + B[1])))


@dataclass(frozen=True)
class Ending:
    """Where a course of steps leads.

    Attributes
    ----------
    error_after_one, error_after_many : float
        E_total after 1 and after 10,000 steps.
    outputs : tuple of float
        out_o1 and out_o2 after 10,000 steps.
    """

    error_after_one: float
    error_after_many: float
    outputs: tuple[float, float]


@dataclass(frozen=True)
class Example:
    """Every quantity of the first step by its name in the lecture, and both endings.

    `values` holds floats: net_h1, out_h1, ..., E_o1, E_total, delta_o1, dE/dout_h1, delta_h1,
    Delta_w1 .. Delta_w8, and w1+ .. w8+ for the weights after the step.
    """

    values: dict[str, float]
    correct: Ending
    printed: Ending


def run() -> Example:
    """Compute the example; some seconds, once in a process, for the two times 10,000 steps."""
    return Example(first_step(), _correct_ending(), _printed_ending())


def first_step() -> dict[str, float]:
    """Every quantity of the first step, by name, from fastnn's operations in the order of backpropagation."""
    net = network()
    backend, (w_hidden, w_output) = net.backend, net.weights
    z2 = backend.dense_forward(X, w_hidden, net.biases[0])
    a2 = backend.activate("sigmoid", z2)
    z3 = backend.dense_forward(a2, w_output, net.biases[1])
    a3 = backend.activate("sigmoid", z3)
    delta3 = backend.output_delta("sigmoid", "squared_error", z3, a3, TARGET)
    delta2 = backend.propagate_delta(delta3, w_output, "sigmoid", z2, a2)
    error_at_hidden = delta3 @ w_output  # dE/dout_h, the first factor of delta2
    E_total, gradient = net.cost_and_gradient(X, TARGET)
    Delta = net.split(gradient)[0]  # one example, so Delta/m is Delta

    values: dict[str, float] = {}

    def keep(name: str, numbers: Any) -> None:
        values.update({name.format(i): float(v) for i, v in enumerate(np.ravel(numbers), 1)})

    keep("net_h{}", z2)
    keep("out_h{}", a2)
    keep("net_o{}", z3)
    keep("out_o{}", a3)
    keep("E_o{}", (TARGET - a3) ** 2 / 2)
    values["E_total"] = E_total
    keep("delta_o{}", delta3)
    keep("dE/dout_h{}", error_at_hidden)
    keep("delta_h{}", delta2)
    keep("w{}", np.concatenate([w.ravel() for w in net.weights]))
    keep("Delta_w{}", np.concatenate([D.ravel() for D in Delta]))
    step(net)
    keep("w{}+", np.concatenate([w.ravel() for w in net.weights]))
    return values


@functools.cache
def _correct_ending() -> Ending:
    net = network()
    step(net)
    after_one = net.cost_and_gradient(X, TARGET)[0]
    for _ in range(MANY - 1):
        step(net)
    out = net.forward(X)[-1][0]
    return Ending(after_one, net.cost_and_gradient(X, TARGET)[0], (float(out[0]), float(out[1])))


def _printed_ending() -> Ending:
    w_hidden, w_output = np.array(W[0]), np.array(W[1])
    step_in_wrong_order(w_hidden, w_output)
    after_one = _error(w_hidden, w_output)
    for _ in range(MANY - 1):
        step_in_wrong_order(w_hidden, w_output)
    out = _outputs(w_hidden, w_output)[1][0]
    return Ending(after_one, _error(w_hidden, w_output), (float(out[0]), float(out[1])))


def _error(w_hidden: Floats, w_output: Floats) -> float:
    return float(((TARGET - _outputs(w_hidden, w_output)[1]) ** 2).sum() / 2)


def text(example: Example) -> str:
    """The example as a page of text, every a, z, delta, Delta and update with its formula."""
    v = example.values

    def n(x: float) -> str:
        return f"{x:.9f}"

    x, t = X[0], TARGET[0]
    lines = [
        "One step of backpropagation by hand: 2-2-2 units, sigmoid, squared error",
        "",
        (
            f"  input   x = a(1) = ({x[0]:g}, {x[1]:g})     target y = ({t[0]:g}, {t[1]:g})     learning rate eta = "
            f"{ETA:g}"
        ),
        (
            f"  Theta(1)  w1 {v['w1']:.2f}  w2 {v['w2']:.2f}  to h1;  w3 {v['w3']:.2f}  w4 {v['w4']:.2f}  to h2;  "
            f"bias {B[0]:g}, held fixed"
        ),
        (
            f"  Theta(2)  w5 {v['w5']:.2f}  w6 {v['w6']:.2f}  to o1;  w7 {v['w7']:.2f}  w8 {v['w8']:.2f}  to o2;  "
            f"bias {B[1]:g}, held fixed"
        ),
        "",
        "Forward    z(l+1) = a(l) Theta(l)^T + b(l),   a = g(z) = 1 / (1 + e^-z)",
    ]
    for h, (i, j) in ((1, (1, 2)), (2, (3, 4))):
        lines += [
            (
                f"  z(2)_{h} = net_h{h} = w{i} x1 + w{j} x2 + b = {v[f'w{i}']:g} * {x[0]:g} + {v[f'w{j}']:g} * "
                f"{x[1]:g} + {B[0]:g} = {n(v[f'net_h{h}'])}"
            ),
            f"  a(2)_{h} = out_h{h} = g(net_h{h}) = {n(v[f'out_h{h}'])}",
        ]
    for o, (i, j) in ((1, (5, 6)), (2, (7, 8))):
        lines += [
            (
                f"  z(3)_{o} = net_o{o} = w{i} out_h1 + w{j} out_h2 + b = {v[f'w{i}']:g} * {n(v['out_h1'])} + "
                f"{v[f'w{j}']:g} * {n(v['out_h2'])} + {B[1]:g} = {n(v[f'net_o{o}'])}"
            ),
            f"  a(3)_{o} = out_o{o} = g(net_o{o}) = {n(v[f'out_o{o}'])}",
        ]
    lines += ["", "Error      E_o = (y - out_o)^2 / 2"]
    lines += [f"  E_o{o} = ({t[o - 1]:g} - {n(v[f'out_o{o}'])})^2 / 2 = {n(v[f'E_o{o}'])}" for o in (1, 2)]
    lines += [
        f"  E_total = E_o1 + E_o2 = {n(v['E_total'])}",
        "",
        "Backward, output layer    delta(3) = (a(3) - y) * g'(z(3)),   g'(z) = a (1 - a)",
    ]
    lines += [
        (
            f"  delta(3)_{o} = ({n(v[f'out_o{o}'])} - {t[o - 1]:g}) * {n(v[f'out_o{o}'])} * (1 - {n(v[f'out_o{o}'])}) "
            f"= {n(v[f'delta_o{o}'])}"
        )
        for o in (1, 2)
    ]
    lines += ["", "Backward, hidden layer    delta(2) = (delta(3) Theta(2)) * g'(z(2)),   with Theta(2) as it was"]
    for h, (i, j) in ((1, (5, 7)), (2, (6, 8))):
        error = v[f"dE/dout_h{h}"]
        lines += [
            (
                f"  dE/dout_h{h} = delta(3)_1 w{i} + delta(3)_2 w{j} = {n(v['delta_o1'])} * {v[f'w{i}']:g} + "
                f"{n(v['delta_o2'])} * {v[f'w{j}']:g} = {n(error)}"
            ),
            f"  delta(2)_{h} = {n(error)} * {n(v[f'out_h{h}'])} * (1 - {n(v[f'out_h{h}'])}) = {n(v[f'delta_h{h}'])}",
        ]
    lines += [
        "",
        (
            "Gradients  Delta(l) = delta(l+1)^T a(l), one example, so D = Delta; all eight are known before any "
            "weight moves"
        ),
    ]
    for k in range(1, 9):
        left, right = _factors(k)
        lines.append(
            f"  Delta_w{k} = dE/dw{k} = {left[0]} * {right[0]} = {n(v[left[1]])} * "
            f"{n(right[1] if isinstance(right[1], float) else v[right[1]])} = {n(v[f'Delta_w{k}'])}"
        )
    lines += ["", "Update     w := w - eta Delta_w"]
    lines += [f"  w{k} := {v[f'w{k}']:.2f} - {ETA:g} * {n(v[f'Delta_w{k}'])} = {n(v[f'w{k}+'])}" for k in range(1, 9)]
    return "\n".join([*lines, "", *_endings(example)])


def _factors(k: int) -> tuple[tuple[str, str], tuple[str, Any]]:
    """delta and activation that meet in weight k: (shown, key) and (shown, key or number)."""
    unit, source = (k - 1) % 4 // 2 + 1, (k - 1) % 2 + 1
    if k <= 4:
        return (f"delta(2)_{unit}", f"delta_h{unit}"), (f"x{source}", float(X[0, source - 1]))
    return (f"delta(3)_{unit}", f"delta_o{unit}"), (f"out_h{source}", f"out_h{source}")


def _endings(example: Example) -> list[str]:
    right, wrong = example.correct, example.printed
    return [
        "Two endings",
        "                                  correct (fastnn)          as the lecture prints them",
        f"  E_total after one step          {right.error_after_one:<24.17g}  {wrong.error_after_one:.9f}",
        f"  E_total after {MANY:,} steps      {right.error_after_many:<24.16g}  {wrong.error_after_many:.10f}",
        f"  outputs after {MANY:,} steps      {right.outputs[0]:<24.16g}  {wrong.outputs[0]:.9f}",
        f"                                  {right.outputs[1]:<24.16g}  {wrong.outputs[1]:.9f}",
        "",
        "Why they differ: the numbers on the right come out when Theta(2) is moved first and delta(2) is then",
        "computed with the moved w5..w8. That contradicts the derivation, and the eight updated weights above,",
        "which the lecture prints too. Gradients are derivatives at one point: all of them must be known before",
        f"any weight moves. A program that shows {wrong.error_after_one:.9f} after one step has this mistake.",
        "",
        f"The lecture's page has {PRINTED_ERROR:.10f} beside these two outputs. By its own formula they give",
        (
            f"({TARGET[0, 0]:g} - {wrong.outputs[0]:.9f})^2 / 2 + ({TARGET[0, 1]:g} - {wrong.outputs[1]:.9f})^2 / 2 = "
            f"{wrong.error_after_many:.10f}, the number above."
        ),
    ]
