"""Many networks at once: seeds of one architecture, as deep ensembles and searches train them, on the same rows.

    python bench/ensembles.py [--rounds 7] [--case 20-32-32-3@32x16 ...]

fastnn fits them in a thread pool, and one after another. JAX takes all through one `vmap` of a whole run of steps
(jit and scan), or each through its own in a thread pool. PyTorch multiplies all by `baddbmm`, eager and compiled,
which is what its `vmap` makes of linear layers, or takes each by itself, one after another or in a thread pool. Each
contender is a process of its own and is asked on one thread and on all where that is a choice of the library; the
faster counts. Same data, initial weights, order of rows and learning rate, gradient descent in float32; rows are
gathered within the time, compilation is not in it. Rounds are interleaved, and every contender's parameters after a
hundred steps are compared with those of fastnn's NumPy engine in float64.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

THREADS = len(os.sched_getaffinity(0))
CASES = ["20-32-32-3@32x16", "64-128-10@32x10", "784-30-10@32x8", "784-100-100-10@128x8", "784-300-100-10@128x8"]
ROWS, RATE, SECONDS = 4096, 0.05, 0.4
CHECKED, AGREES = 100, 0.02  # after so many steps, of the way that the parameters went, as in fastnn bench
OURS = ("fastnn, thread pool", 0)


class Problem:
    """`name` is SIZES@BATCHxNETWORKS: data, the order of rows of so many steps, and theta (networks, P) float32."""

    def __init__(self, name: str, steps: int) -> None:
        sizes, rest = name.split("@")
        self.name, self.steps = name, steps
        self.sizes = [int(n) for n in sizes.split("-")]
        self.batch, self.count = (int(n) for n in rest.split("x"))
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((ROWS, self.sizes[0])).astype(np.float32)
        self.y = rng.integers(0, self.sizes[-1], ROWS)
        epochs = -(-steps * self.batch // ROWS)
        self.order = np.concatenate([rng.permutation(ROWS) for _ in range(epochs)])[: steps * self.batch]
        self.theta = np.stack([self.network("numpy", seed).theta for seed in range(self.count)])

    def network(self, backend: str, seed: int, dtype: str = "float32"):
        import fastnn

        return fastnn.Network(self.sizes, seed=seed, backend=backend, dtype=dtype)

    def layers(self, theta):
        """(W (networks, n_out, n_in), b (networks, n_out)) of each layer, views of theta (networks, P)."""
        found, at = [], 0
        for n_in, n_out in itertools.pairwise(self.sizes):
            W = theta[:, at : at + n_out * n_in].reshape(-1, n_out, n_in)
            found.append((W, theta[:, at + n_out * n_in : at + n_out * (n_in + 1)]))
            at += n_out * (n_in + 1)
        return found

    def flat(self, layers):
        """theta (networks, P) of such layers."""
        return np.concatenate([part.reshape(self.count, -1) for layer in layers for part in layer], axis=1)


class Fastnn:
    """Networks of fastnn, fitted by `workers` threads at a time."""

    def __init__(self, problem: Problem, workers: int) -> None:
        self.problem, self.pool = problem, ThreadPoolExecutor(workers)
        self.networks = [problem.network("numba", seed) for seed in range(problem.count)]

    def reset(self) -> None:
        for net, theta in zip(self.networks, self.problem.theta, strict=True):
            net.theta[...] = theta

    def run(self) -> None:
        given = self.problem
        list(
            self.pool.map(
                lambda net: net.fit(
                    given.X, given.y, optimizer="sgd", learning_rate=RATE, batch_size=given.batch, epochs=1,
                    order=lambda epoch: given.order,
                ),
                self.networks,
            )
        )  # fmt: skip

    def theta(self):
        return np.stack([net.theta for net in self.networks])


class Jax:
    """All networks in one vmap, or each by itself, `workers` of them at a time."""

    def __init__(self, problem: Problem, threads: int, workers: int) -> None:
        os.environ["NPROC"], os.environ["JAX_PLATFORMS"] = str(threads), "cpu"
        if threads == 1:
            os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        import jax

        self.jax, self.problem = jax, problem
        jnp, tree = jax.numpy, jax.tree_util.tree_map
        order = problem.order.reshape(-1, problem.batch).astype(np.int32)
        self.X, self.y, self.order = jnp.array(problem.X), jnp.array(problem.y.astype(np.int32)), jnp.array(order)

        def loss(layers, x, y):
            for W, b in layers[:-1]:
                x = jax.nn.relu(x @ W + b)
            z = x @ layers[-1][0] + layers[-1][1]
            return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])

        def one(layers, x, y):
            return tree(lambda p, g: p - RATE * g, layers, jax.grad(loss)(layers, x, y))

        together = workers == 0
        move = jax.vmap(one, in_axes=(0, None, None)) if together else one

        def many(layers, X, y, order):
            def step(layers, rows):
                x, wanted = (part.at[rows].get(mode="promise_in_bounds") for part in (X, y))
                return move(layers, x, wanted), None

            return jax.lax.scan(step, layers, order)[0]

        self.many, self.together = jax.jit(many, donate_argnums=0), together
        self.pool = None if together else ThreadPoolExecutor(workers)

    def reset(self) -> None:
        put = self.jax.numpy.array
        layers = [(W.swapaxes(1, 2), b) for W, b in self.problem.layers(self.problem.theta)]
        if self.together:
            self.state = [(put(W), put(b)) for W, b in layers]
        else:
            self.state = [[(put(W[i]), put(b[i])) for W, b in layers] for i in range(self.problem.count)]
        self.jax.block_until_ready(self.state)

    def run(self) -> None:
        def fitted(layers):
            return self.jax.block_until_ready(self.many(layers, self.X, self.y, self.order))

        self.state = fitted(self.state) if self.together else list(self.pool.map(fitted, self.state))

    def theta(self):
        layers = (
            self.state
            if self.together
            else [
                tuple(np.stack(parts) for parts in zip(*of_nets, strict=True))
                for of_nets in zip(*self.state, strict=True)
            ]
        )
        return self.problem.flat([(np.asarray(W).swapaxes(1, 2), np.asarray(b)) for W, b in layers])


class Torch:
    """All networks in one batched product a layer, (networks, batch, n_in) by (networks, n_in, n_out)."""

    def __init__(self, problem: Problem, threads: int, compiled: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.problem = torch, problem
        self.X, self.y, self.order = (torch.from_numpy(part) for part in (problem.X, problem.y, problem.order))
        self.parameters = [
            torch.empty(shape, requires_grad=True)
            for W, b in problem.layers(problem.theta)
            for shape in ((problem.count, W.shape[2], W.shape[1]), (problem.count, 1, b.shape[1]))
        ]
        self.rule = torch.optim.SGD(self.parameters, lr=RATE, fused=True)
        self.cost = torch.compile(self._cost, dynamic=False, fullgraph=True) if compiled else self._cost

    def _cost(self, X, y, rows):
        torch, count = self.torch, self.problem.count
        a = X.index_select(0, rows).expand(count, -1, -1)
        weights = self.parameters
        for i in range(0, len(weights), 2):
            a = torch.baddbmm(weights[i + 1], a, weights[i])
            if i < len(weights) - 2:
                a = torch.relu(a)
        wanted = y.index_select(0, rows).expand(count, -1).reshape(-1)
        mean = torch.nn.functional.cross_entropy(a.reshape(count * len(rows), -1), wanted)
        return mean * count  # so that each network moves by the mean of its own

    def reset(self) -> None:
        with self.torch.no_grad():
            for i, (W, b) in enumerate(self.problem.layers(self.problem.theta)):
                self.parameters[2 * i].copy_(self.torch.from_numpy(W.swapaxes(1, 2).copy()))
                self.parameters[2 * i + 1].copy_(self.torch.from_numpy(b[:, None].copy()))

    def run(self) -> None:
        batch = self.problem.batch
        for step in range(self.problem.steps):
            self.rule.zero_grad(set_to_none=True)
            self.cost(self.X, self.y, self.order[step * batch : (step + 1) * batch]).backward()
            self.rule.step()

    def theta(self):
        arrays = [part.detach().numpy() for part in self.parameters]
        return self.problem.flat([(W.swapaxes(1, 2), b) for W, b in zip(arrays[::2], arrays[1::2], strict=True)])


class TorchEach:
    """Each network by itself, eager, `workers` of them at a time."""

    def __init__(self, problem: Problem, threads: int, workers: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.problem, self.pool = torch, problem, ThreadPoolExecutor(workers)
        self.threads = threads
        self.X, self.y, self.order = (torch.from_numpy(part) for part in (problem.X, problem.y, problem.order))
        self.models = []
        for _ in range(problem.count):
            layers = []
            for n_in, n_out in itertools.pairwise(problem.sizes):
                layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
            self.models.append(torch.nn.Sequential(*layers[:-1]))
        self.rules = [torch.optim.SGD(model.parameters(), lr=RATE, fused=True) for model in self.models]

    def reset(self) -> None:
        with self.torch.no_grad():
            for i, model in enumerate(self.models):
                for layer, (W, b) in zip(model[::2], self.problem.layers(self.problem.theta), strict=True):
                    layer.weight.copy_(self.torch.from_numpy(W[i].copy()))
                    layer.bias.copy_(self.torch.from_numpy(b[i].copy()))

    def _fit(self, model, rule) -> None:
        self.torch.set_num_threads(self.threads)  # each thread of Python has a number of its own
        batch, cost = self.problem.batch, self.torch.nn.functional.cross_entropy
        for step in range(self.problem.steps):
            rows = self.order[step * batch : (step + 1) * batch]
            rule.zero_grad(set_to_none=True)
            cost(model(self.X.index_select(0, rows)), self.y.index_select(0, rows)).backward()
            rule.step()

    def run(self) -> None:
        list(self.pool.map(self._fit, self.models, self.rules))

    def theta(self):
        return np.stack([np.concatenate([p.detach().numpy().ravel() for p in m.parameters()]) for m in self.models])


CONTENDERS = {
    "fastnn, thread pool": (Fastnn, [{"workers": THREADS}]),
    "fastnn, one by one": (Fastnn, [{"workers": 1}]),
    "JAX, vmap": (Jax, [{"threads": n, "workers": 0} for n in (1, THREADS)]),
    "JAX, thread pool": (Jax, [{"threads": n, "workers": THREADS} for n in (1, THREADS)]),
    "PyTorch, each": (TorchEach, [{"threads": THREADS, "workers": 1}, {"threads": 1, "workers": THREADS}]),
    "PyTorch, batched": (Torch, [{"threads": n, "compiled": False} for n in (1, THREADS)]),
    "torch.compile, batched": (Torch, [{"threads": n, "compiled": True} for n in (1, THREADS)]),
}


def serve(pipe, name: str, made_for, settings: dict) -> None:
    """One contender: (steps, time it) -> seconds and theta, until None; an error's text instead."""
    contender, steps = None, 0
    while (asked := pipe.recv()) is not None:
        try:
            if asked != steps:
                steps = asked
                contender = made_for(Problem(name, steps), **settings)
                contender.reset()
                contender.run()  # compiles
            contender.reset()
            began = time.perf_counter()
            contender.run()
            pipe.send((time.perf_counter() - began, contender.theta()))
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}".splitlines()[0])


def oracle(problem: Problem):
    """theta (networks, P) after the steps, by the reference engine in float64."""
    found = []
    for seed, theta in enumerate(problem.theta):
        net = problem.network("numpy", seed, "float64")
        net.theta[...] = theta
        net.fit(
            problem.X, problem.y, optimizer="sgd", learning_rate=RATE, batch_size=problem.batch, epochs=1,
            order=lambda epoch: problem.order,
        )  # fmt: skip
        found.append(net.theta)
    return np.stack(found)


def compare(name: str, rounds: int) -> None:
    """The lines of one case."""
    spawn, workers = multiprocessing.get_context("spawn"), {}
    for title, (made_for, variants) in CONTENDERS.items():
        for i, settings in enumerate(variants):
            here, there = spawn.Pipe()
            spawn.Process(target=serve, args=(there, name, made_for, settings), daemon=True).start()
            workers[title, i] = here

    def ask(key, steps):
        workers[key].send(steps)
        return workers[key].recv()

    checked, said, able = Problem(name, CHECKED), {}, []
    right = oracle(checked)
    way = np.linalg.norm(right - checked.theta)
    for key in workers:
        answer = ask(key, CHECKED)
        if isinstance(answer, str):
            said[key[0]] = answer
        elif (off := np.linalg.norm(answer[1] - right) / way) > AGREES:
            said[key[0]] = f"parameters are off by {off:.2g} of their way"
        else:
            able.append(key)
    steps = CHECKED
    for _ in range(2):  # of few steps most of the time is the fit's own
        steps = int(min(20_000, max(CHECKED, steps * SECONDS / ask(OURS, steps)[0])))
    first = {key: ask(key, steps)[0] for key in able}  # a look at which setting is the faster
    able = [key for key in able if first[key] == min(first[other] for other in able if other[0] == key[0])]
    seconds: dict = {key: [] for key in able}
    for _ in range(rounds):
        for key in able:
            seconds[key].append(ask(key, steps)[0])
    for pipe in workers.values():
        pipe.send(None)
    print(f"{name}: {checked.count} networks, {steps} steps")
    for title in CONTENDERS:
        times = next((times for key, times in seconds.items() if key[0] == title), None)
        if times is None:
            print(f"    {title:23} {said[title]}")
            continue
        each = statistics.median(1e6 * took / steps / checked.count for took in times)
        ratio = statistics.median(theirs / own for theirs, own in zip(times, seconds[OURS], strict=True))
        print(f"    {title:23}{each:9.1f} us per step of a network{ratio:8.2f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--case", action="append", metavar="SIZES@BATCHxNETWORKS")
    given = parser.parse_args()
    for name in given.case or CASES:
        compare(name, given.rounds)
