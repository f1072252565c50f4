"""PyTorch: eager, and with the whole training step in one compiled graph.

Rows, targets and order are tensors before the clock starts, batches come by `index_select`, the
optimizer is the fused one, and the running cost is read once at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cases import Net
from ..problem import PIXEL, Problem, split
from .base import Array, Peer

__all__ = ["Compiled", "Eager"]


class Eager(Peer):
    """nn.Sequential, autograd and torch.optim, step by step."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        self.torch: Any = torch
        torch.set_num_threads(threads)

    def _model(self, net: Net) -> Any:
        nn, layers = self.torch.nn, []
        for n_in, n_out in zip(net.sizes[:-1], net.sizes[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.ReLU() if net.hidden == "relu" else nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def _linears(self) -> list[Any]:
        return [layer for layer in self.model if hasattr(layer, "weight")]

    def _set(self, net: Net, theta: Array) -> None:
        with self.torch.no_grad():
            for layer, (W, b) in zip(self._linears(), split(net, theta), strict=True):
                layer.weight.copy_(self.torch.from_numpy(W.copy()))
                layer.bias.copy_(self.torch.from_numpy(b.copy()))

    def load(self, problem: Problem) -> None:
        torch = self.torch
        self.problem = problem
        self.X, self.y, self.order = (
            torch.from_numpy(np.ascontiguousarray(part))
            for part in (problem.X if problem.pixels is None else problem.pixels, problem.y, problem.order)
        )
        self.model = self._model(problem.net)
        entropy, squared = torch.nn.functional.cross_entropy, torch.nn.functional.mse_loss
        self.cost = entropy if problem.net.classes else lambda h, y: squared(h, y) / 2
        self._set(problem.net, problem.theta)

    @staticmethod
    def _inputs(X: Any, rows: Any) -> Any:
        """Those rows; bytes are converted batch by batch, which is faster than to read four times as many
        (bench/pixels.py).
        """
        x = X.index_select(0, rows)
        return x if x.is_floating_point() else x.float().mul_(float(PIXEL))

    def reset(self, theta: Array) -> None:
        self._set(self.problem.net, theta)
        rule = self.torch.optim.SGD if self.problem.optimizer == "sgd" else self.torch.optim.Adam
        self.rule = rule(self.model.parameters(), lr=self.problem.learning_rate, fused=True)

    def run(self, start: int, stop: int) -> float:
        torch, batch, X, y, order = self.torch, self.problem.batch, self.X, self.y, self.order
        model, rule, cost_of = self.model, self.rule, self.cost
        total = torch.zeros((), dtype=torch.float64)
        for step in range(start, stop):
            rows = order[step * batch : (step + 1) * batch]
            rule.zero_grad(set_to_none=True)
            cost = cost_of(model(self._inputs(X, rows)), y.index_select(0, rows))
            cost.backward()
            rule.step()
            total += cost.detach()
        return float(total) / (stop - start)

    def theta(self) -> Array:
        parts = [part.detach().numpy().ravel() for layer in self._linears() for part in (layer.weight, layer.bias)]
        return np.concatenate(parts)

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        torch = self.torch
        model = self._model(net).eval()
        self.model = model
        self._set(net, theta)
        self.x = torch.from_numpy(x.copy())
        self.network = torch.nn.Sequential(*model, torch.nn.Softmax(dim=1)) if net.classes else model

    def predict(self) -> Any:
        with self.torch.inference_mode():
            return self.network(self.x)

    def versions(self) -> dict[str, str]:
        return {**super().versions(), "torch": self.torch.__version__}


class Compiled(Eager):
    """Gather, forward, backward and update traced into one graph by torch.compile (mode default), shapes static."""

    def load(self, problem: Problem) -> None:
        super().load(problem)
        torch = self.torch
        torch._dynamo.reset()
        model, cost_of, alpha, inputs = self.model, self.cost, problem.learning_rate, self._inputs
        self.parameters = dict(model.named_parameters())

        def loss(parameters: Any, x: Any, y: Any) -> Any:
            return cost_of(torch.func.functional_call(model, parameters, (x,)), y)

        def sgd(parameters: Any, m: Any, v: Any, t: Any, X: Any, y: Any, rows: Any, total: Any) -> None:
            grads, cost = torch.func.grad_and_value(loss)(parameters, inputs(X, rows), y.index_select(0, rows))
            for name, parameter in parameters.items():
                parameter.sub_(grads[name], alpha=alpha)
            total.add_(cost)

        def adam(parameters: Any, m: Any, v: Any, t: Any, X: Any, y: Any, rows: Any, total: Any) -> None:
            grads, cost = torch.func.grad_and_value(loss)(parameters, inputs(X, rows), y.index_select(0, rows))
            t.add_(1)
            first, second = 1 - torch.pow(0.9, t), 1 - torch.pow(0.999, t)
            for name, parameter in parameters.items():
                m[name].lerp_(grads[name], 0.1)
                v[name].lerp_(grads[name] * grads[name], 0.001)
                parameter.sub_(alpha / first * m[name] / ((v[name] / second).sqrt() + 1e-8))
            total.add_(cost)

        self.step = torch.compile(sgd if problem.optimizer == "sgd" else adam, dynamic=False, fullgraph=True)

    def reset(self, theta: Array) -> None:
        torch = self.torch
        self._set(self.problem.net, theta)
        self.live = {name: parameter.detach() for name, parameter in self.parameters.items()}
        state = self.live if self.problem.optimizer == "adam" else {}
        self.m, self.v = ({name: torch.zeros_like(parameter) for name, parameter in state.items()} for _ in range(2))
        self.t = torch.zeros(1, dtype=torch.float64)  # not (): a compiled graph does not write a scalar back

    def run(self, start: int, stop: int) -> float:
        torch, batch, order, step = self.torch, self.problem.batch, self.order, self.step
        total = torch.zeros(1, dtype=torch.float64)
        with torch.no_grad():
            for number in range(start, stop):
                step(
                    self.live, self.m, self.v, self.t, self.X, self.y, order[number * batch : (number + 1) * batch],
                    total,
                )  # fmt: skip
        return float(total) / (stop - start)

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        super().load_network(net, theta, x)
        self.torch._dynamo.reset()
        self.network = self.torch.compile(self.network, dynamic=False, fullgraph=True)
