"""A step by a cost of one's own: a policy gradient with Adam on rows that come from outside, as in reinforcement
learning, beside PyTorch (eager, compiled) and JAX (the whole step in one jit).

    python bench/own_costs.py [--rounds 7]

J = -mean(advantage log p[action]). Rows, actions and advantages are arrays of NumPy, other ones in each step; each
library gives the logits first, as for choosing actions, and then takes the step, so both are timed together. fastnn
and PyTorch are asked on one thread and on all, and the better counts; JAX has all, or one with
XLA_FLAGS=--xla_cpu_multi_thread_eigen=false, which it reads when it starts. Compilation is not timed. Rounds are
interleaved, figures medians, and the parameters after the first twenty steps are compared.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np

import fastnn

THREADS = len(os.sched_getaffinity(0))
CASES = [((4, 64, 64, 2), 32), ((8, 64, 64, 4), 256), ((17, 256, 256, 6), 256), ((64, 512, 512, 18), 1024)]
STEPS, RATE, CHECKED = 200, 1e-3, 20


def rows_of(sizes, m):
    rng = np.random.default_rng(0)
    return [
        (
            rng.standard_normal((m, sizes[0])).astype(np.float32),
            rng.integers(0, sizes[-1], m),
            rng.standard_normal(m).astype(np.float32),
        )
        for _ in range(8)
    ]


class Fastnn:
    def __init__(self, sizes, theta, threads):
        engine = fastnn.get_backend("numba", threads=threads)
        self.net = fastnn.Network(sizes, hidden="tanh", init=theta, backend=engine)
        self.rule = fastnn.optimizers.Adam(RATE)

    def step(self, X, action, advantage):
        z = self.net.logits(X)
        e = np.exp(z - z.max(axis=1, keepdims=True))
        d = e / e.sum(axis=1, keepdims=True)
        d[np.arange(len(X)), action] -= 1
        d *= (advantage / len(X))[:, None]
        self.net.step(self.net.backward(X, d, of="logits"), self.rule)

    def theta(self):
        return self.net.theta.copy()


class Torch:
    compiled = False

    def __init__(self, sizes, theta, threads):
        import torch

        self.torch, self.threads = torch, threads
        torch.set_num_threads(threads)
        net, layers = fastnn.Network(sizes, init=theta, backend="numpy"), []
        for W, b in zip(net.weights, net.biases, strict=True):
            layers += [torch.nn.Linear(W.shape[1], W.shape[0]), torch.nn.Tanh()]
            with torch.no_grad():
                layers[-2].weight.copy_(torch.from_numpy(W.copy()))
                layers[-2].bias.copy_(torch.from_numpy(b.copy()))
        self.model = torch.nn.Sequential(*layers[:-1])
        self.rule = torch.optim.Adam(self.model.parameters(), lr=RATE, fused=True)
        self.acting, self.cost = self.model, self._cost
        if self.compiled:
            self.acting = torch.compile(self.model, dynamic=False)
            self.cost = torch.compile(self._cost, dynamic=False, fullgraph=True)

    def _cost(self, X, action, advantage):
        log_p = self.torch.log_softmax(self.model(X), dim=1)
        return -(advantage * log_p.gather(1, action[:, None])[:, 0]).mean()

    def step(self, *rows):
        torch = self.torch
        torch.set_num_threads(self.threads)
        X, action, advantage = map(torch.from_numpy, rows)
        with torch.no_grad():
            self.acting(X)
        self.rule.zero_grad(set_to_none=True)
        self.cost(X, action, advantage).backward()
        self.rule.step()

    def theta(self):
        return np.concatenate([p.detach().numpy().ravel() for p in self.model.parameters()])


class Compiled(Torch):
    compiled = True


class Jax:
    def __init__(self, sizes, theta, threads):
        os.environ["JAX_PLATFORMS"] = "cpu"
        import jax

        jnp, tree = jax.numpy, jax.tree_util.tree_map
        net = fastnn.Network(sizes, init=theta, backend="numpy")
        self.layers = [(jnp.array(W.T), jnp.array(b)) for W, b in zip(net.weights, net.biases, strict=True)]
        zeros = tree(jnp.zeros_like, self.layers)
        self.state, self.jax = (zeros, tree(jnp.zeros_like, self.layers), jnp.zeros((), jnp.float32)), jax

        def logits(layers, x):
            for W, b in layers[:-1]:
                x = jnp.tanh(x @ W + b)
            return x @ layers[-1][0] + layers[-1][1]

        def cost(layers, X, action, advantage):
            log_p = jax.nn.log_softmax(logits(layers, X))
            return -jnp.mean(advantage * jnp.take_along_axis(log_p, action[:, None], axis=1)[:, 0])

        def step(layers, state, *rows):
            D, (m, v, t) = jax.grad(cost)(layers, *rows), state
            t = t + 1
            m = tree(lambda m, g: m + 0.1 * (g - m), m, D)
            v = tree(lambda v, g: v + 0.001 * (g * g - v), v, D)
            first, second = 1 - 0.9**t, 1 - 0.999**t
            moved = tree(lambda p, m, v: p - RATE / first * m / (jnp.sqrt(v / second) + 1e-8), layers, m, v)
            return moved, (m, v, t)

        self.acting, self.move = jax.jit(logits), jax.jit(step, donate_argnums=(0, 1))

    def step(self, X, action, advantage):
        np.asarray(self.acting(self.layers, X))
        self.layers, self.state = self.move(self.layers, self.state, X, action.astype(np.int32), advantage)
        self.jax.block_until_ready(self.layers)

    def theta(self):
        return np.concatenate([v for W, b in self.layers for v in (np.asarray(W).T.ravel(), np.asarray(b))])


def contenders(sizes, m, rows):
    """{name: [a maker's instances, one for each number of threads]} of those that are here."""
    theta, found, first = fastnn.Network(sizes, hidden="tanh", seed=0, backend="numpy").theta.copy(), {}, None
    makers = {"fastnn": Fastnn, "PyTorch": Torch, "torch.compile": Compiled, "JAX": Jax}
    for name, maker in makers.items():
        found[name] = []
        for threads in (1, THREADS) if maker is not Jax else (THREADS,):  # JAX is told when it starts
            try:
                one = maker(sizes, theta, threads)
            except ImportError:
                continue
            for i in range(CHECKED):
                one.step(*rows[i % len(rows)])
            after = one.theta()
            first = after if first is None else first
            off = np.linalg.norm(after - first) / np.linalg.norm(first - theta)
            if off > 0.02:
                print(f"    {name}: parameters are off by {off:.2g} of their way")
                continue
            found[name].append(one)
    return {name: instances for name, instances in found.items() if instances}


def compare(sizes, m, rounds):
    rows = rows_of(sizes, m)
    found = contenders(sizes, m, rows)
    seconds = {name: [[] for _ in instances] for name, instances in found.items()}
    for _ in range(rounds):
        for name, instances in found.items():
            for one, times in zip(instances, seconds[name], strict=True):
                for i in range(5):
                    one.step(*rows[i])
                each = []
                for i in range(STEPS if m < 1024 else STEPS // 4):
                    began = time.perf_counter()
                    one.step(*rows[i % len(rows)])
                    each.append(time.perf_counter() - began)
                times.append(float(np.median(each)))
    best = {name: min(of_threads, key=np.median) for name, of_threads in seconds.items()}
    figures = [
        f"{name} {1e6 * np.median(times):.0f} us ({np.median(np.divide(times, best['fastnn'])):.2f})"
        for name, times in best.items()
    ]
    print(f"{'-'.join(map(str, sizes))}, {m} rows: {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    for sizes, m in CASES:
        compare(sizes, m, given.rounds)
