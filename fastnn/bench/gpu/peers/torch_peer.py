"""PyTorch on CUDA: eager, and the whole step compiled (max-autotune) and replayed as a CUDA graph.

Rows, targets and order are on the device before the clock starts; the running cost is read once at the end.
fp32 forbids TF32; tf32 allows it in products; bf16 is autocast, with float32 parameters.
"""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

import numpy as np

from ...peers import torch_peer
from ...peers.base import Array
from ...problem import Problem

__all__ = ["Compiled", "Eager"]


class Eager(torch_peer.Eager):
    """nn.Sequential, autograd and the fused optimizer, step by step."""

    device: ClassVar[str] = "cuda"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if self.device == "cuda" and not self.torch.cuda.is_available():
            raise ImportError("this PyTorch sees no CUDA device")

    def _wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def _lower(self) -> Any:
        """Where forward and cost are computed: autocast for bf16."""
        return (
            self.torch.autocast(self.device, dtype=self.torch.bfloat16)
            if self.problem.precision == "bf16"
            else contextlib.nullcontext()
        )

    def _model(self, net: Any) -> Any:
        return super()._model(net).to(self.device)

    def load(self, problem: Problem) -> None:
        torch = self.torch
        torch.set_float32_matmul_precision("high" if problem.precision == "tf32" else "highest")
        super().load(problem)
        self.X, self.y, self.order = (part.to(self.device) for part in (self.X, self.y, self.order))
        plain = self.cost
        self.cost = lambda h, y: plain(h.float(), y)

    def run(self, start: int, stop: int) -> float:
        torch, batch, X, y, order = self.torch, self.problem.batch, self.X, self.y, self.order
        model, rule, cost_of = self.model, self.rule, self.cost
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for step in range(start, stop):
            rows = order[step * batch : (step + 1) * batch]
            rule.zero_grad(set_to_none=True)
            with self._lower():
                cost = cost_of(model(X.index_select(0, rows)), y.index_select(0, rows))
            cost.backward()
            rule.step()
            total += cost.detach()
        mean = float(total) / (stop - start)
        self._wait()
        return mean

    def theta(self) -> Array:
        return np.concatenate(
            [part.detach().cpu().numpy().ravel() for layer in self._linears() for part in (layer.weight, layer.bias)]
        )


class Compiled(Eager):
    """Gather, forward, backward and update in one compiled graph, captured once and replayed.

    The step's number lies on the device, so that a replay needs nothing from the host. torch.compile's own CUDA
    graphs are off: they leave out steps that change their arguments, which ours would be.
    """

    compile_mode: ClassVar[str] = "max-autotune-no-cudagraphs"

    def load(self, problem: Problem) -> None:
        super().load(problem)
        torch = self.torch
        torch._dynamo.reset()
        model = self.model
        cost_of = self.cost
        alpha = problem.learning_rate
        lower = self._lower
        adam = problem.optimizer == "adam"
        self.live = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.m, self.v = (
            {name: torch.zeros_like(parameter) for name, parameter in self.live.items()} if adam else {}
            for _ in range(2)
        )
        self.number = torch.zeros(1, dtype=torch.int64, device=self.device)  # of the step
        self.total = torch.zeros(1, dtype=torch.float64, device=self.device)
        self.batches = self.order.reshape(-1, problem.batch)

        def loss(parameters: Any, x: Any, y: Any) -> Any:
            with lower():
                return cost_of(torch.func.functional_call(model, parameters, (x,)), y)

        def step(parameters: Any, m: Any, v: Any, number: Any, X: Any, y: Any, batches: Any, total: Any) -> None:
            rows = batches.index_select(0, number)[0]
            grads, cost = torch.func.grad_and_value(loss)(parameters, X.index_select(0, rows), y.index_select(0, rows))
            number.add_(1)
            if adam:
                t = number.double()
                first, second = (1 - torch.pow(0.9, t)).float(), (1 - torch.pow(0.999, t)).float()
            for name, parameter in parameters.items():
                if adam:
                    m[name].lerp_(grads[name], 0.1)
                    v[name].lerp_(grads[name] * grads[name], 0.001)
                    parameter.sub_(alpha / first * m[name] / ((v[name] / second).sqrt() + 1e-8))
                else:
                    parameter.sub_(grads[name], alpha=alpha)
            total.add_(cost)

        compiled = torch.compile(step, dynamic=False, fullgraph=True, mode=self.compile_mode)
        arguments = (self.live, self.m, self.v, self.number, self.X, self.y, self.batches, self.total)

        def once() -> None:
            with torch.no_grad():
                compiled(*arguments)

        self.replay = self._captured(once)

    def _captured(self, once: Any) -> Any:
        """The step as a graph; three steps run before, which compile and warm up (`reset` undoes them)."""
        torch = self.torch
        if self.device != "cuda":
            return once
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.number.zero_()
                once()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.number.zero_()
        with torch.cuda.graph(graph):
            once()
        self.graph = graph
        return graph.replay

    def reset(self, theta: Array) -> None:
        self._set(self.problem.net, theta)
        for state in (*self.m.values(), *self.v.values(), self.number, self.total):
            state.zero_()
        self._wait()

    def run(self, start: int, stop: int) -> float:
        self.number.fill_(start)
        self.total.zero_()
        for _ in range(start, stop):
            self.replay()
        mean = float(self.total) / (stop - start)
        self._wait()
        return mean
