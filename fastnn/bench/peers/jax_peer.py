"""JAX: a whole run of steps in one jit, `lax.scan` over the batches, rows gathered inside, parameters donated."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np

from ..cases import Net
from ..problem import PIXEL, Problem, split
from .base import Array, Peer

__all__ = ["Jax"]


class Jax(Peer):
    """XLA on the CPU, float32; weights lie as (n_in, n_out)."""

    whole = True
    platform: ClassVar[str] = "cpu"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        # Read once, when XLA starts: the size of its pool, and whether products use it.
        os.environ["NPROC"] = str(threads)
        os.environ["JAX_PLATFORMS"] = self.platform
        if threads == 1 and self.platform == "cpu":
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
        import jax

        self.jax: Any = jax
        jax.devices()

    def _parameters(self, net: Net, theta: Array) -> Any:
        put = self.jax.numpy.array
        return [(put(np.ascontiguousarray(W.T)), put(b)) for W, b in split(net, theta)]

    def _forward(self, net: Net) -> Any:
        jnp, nn = self.jax.numpy, self.jax.nn

        def forward(parameters: Any, x: Any) -> Any:
            for W, b in parameters[:-1]:
                x = x @ W + b
                x = nn.relu(x) if net.hidden == "relu" else jnp.tanh(x)
            W, b = parameters[-1]
            return x @ W + b

        return forward

    def load(self, problem: Problem) -> None:
        jax, jnp, net, batch = self.jax, self.jax.numpy, problem.net, problem.batch
        self.problem = problem
        self.X = jnp.array(problem.X if problem.pixels is None else problem.pixels)
        self.y = jnp.array(problem.y.astype(np.int32) if net.classes else problem.y)
        self.order = jnp.array(problem.order.reshape(-1, batch).astype(np.int32))
        forward, alpha, adam = self._forward(net), problem.learning_rate, problem.optimizer == "adam"
        tree = jax.tree_util.tree_map

        def loss(parameters: Any, x: Any, y: Any) -> Any:
            z = forward(parameters, x)
            if not net.classes:
                return jnp.mean((z - y) ** 2) / 2
            own = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
            return jnp.mean(jax.nn.logsumexp(z, axis=1) - own)

        def take(array: Any, rows: Any) -> Any:
            return array.at[rows].get(mode="promise_in_bounds")

        def inputs(X: Any, rows: Any) -> Any:
            x = take(X, rows)
            return x if x.dtype == jnp.float32 else x.astype(jnp.float32) * PIXEL

        def epoch(parameters: Any, state: Any, X: Any, y: Any, order: Any) -> Any:
            def step(carry: Any, rows: Any) -> Any:
                parameters, state = carry
                cost, grads = jax.value_and_grad(loss)(parameters, inputs(X, rows), take(y, rows))
                if not adam:
                    return (tree(lambda p, g: p - alpha * g, parameters, grads), state), cost
                m, v, t = state
                t = t + 1
                m = tree(lambda m, g: m + 0.1 * (g - m), m, grads)
                v = tree(lambda v, g: v + 0.001 * (g * g - v), v, grads)
                first, second = 1 - 0.9**t, 1 - 0.999**t
                parameters = tree(
                    lambda p, m, v: p - (alpha / first) * m / (jnp.sqrt(v / second) + 1e-8), parameters, m, v
                )
                return (parameters, (m, v, t)), cost

            (parameters, state), costs = jax.lax.scan(step, (parameters, state), order)
            return parameters, state, jnp.mean(costs)

        self.epoch = jax.jit(epoch, donate_argnums=(0, 1))

    def reset(self, theta: Array) -> None:
        jnp, tree = self.jax.numpy, self.jax.tree_util.tree_map
        self.parameters = self._parameters(self.problem.net, theta)
        self.state: Any = ()
        if self.problem.optimizer == "adam":
            self.state = (
                tree(jnp.zeros_like, self.parameters),
                tree(jnp.zeros_like, self.parameters),
                jnp.zeros((), jnp.float32),
            )
        self.jax.block_until_ready((self.parameters, self.state))

    def run(self, start: int, stop: int) -> float:
        order = self.order if (start, stop) == (0, len(self.order)) else self.order[start:stop]
        self.parameters, self.state, cost = self.epoch(self.parameters, self.state, self.X, self.y, order)
        self.jax.block_until_ready((self.parameters, self.state))
        return float(cost)

    def theta(self) -> Array:
        return np.concatenate([part for W, b in self.parameters for part in (np.asarray(W).T.ravel(), np.asarray(b))])

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        forward, nn = self._forward(net), self.jax.nn
        self.weights, self.x = self._parameters(net, theta), self.jax.numpy.array(x)
        self.network = self.jax.jit(
            lambda parameters, x: nn.softmax(forward(parameters, x)) if net.classes else forward(parameters, x)
        )

    def predict(self) -> Any:
        return self.network(self.weights, self.x).block_until_ready()

    def versions(self) -> dict[str, str]:
        import jaxlib

        return {**super().versions(), "jax": self.jax.__version__, "jaxlib": jaxlib.__version__}
