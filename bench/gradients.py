"""Gradients for loops of one's own: by one compiled call, by operations one by one, and PyTorch's where it is
installed; and L-BFGS beside scikit-learn's.

    python bench/gradients.py [--rounds 7]

Rounds are interleaved, figures medians of a call's microseconds in each round; results are compared. PyTorch has the
better of one thread and all, scikit-learn is shown with both.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings

import numpy as np

import fastnn

THREADS = len(os.sched_getaffinity(0))
CASES = [
    ((4, 8, 3), 16),
    ((20, 64, 32, 3), 32),
    ((20, 64, 32, 3), 100),
    ((784, 300, 100, 10), 128),
    ((784, 1024, 1024, 10), 512),
]


def seconds(call, least=0.05):
    """Of one call, the median of as many as fit into `least` seconds, 5 at least."""
    call()
    taken, end = [], time.perf_counter() + least
    while time.perf_counter() < end or len(taken) < 5:
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def of_torch(net, X, y):
    """The same forward and backward in PyTorch, and its gradient in the order of theta; None without PyTorch."""
    try:
        import torch
    except ImportError:
        return None
    layers = []
    for W, b in zip(net.weights, net.biases, strict=True):
        layer = torch.nn.Linear(W.shape[1], W.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(W.copy()))
            layer.bias.copy_(torch.from_numpy(b.copy()))
        layers += [layer, torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1])
    X, y, loss = torch.from_numpy(X), torch.from_numpy(y), torch.nn.CrossEntropyLoss()

    def call():
        model.zero_grad()
        loss(model(X), y).backward()

    call()
    gradient = np.concatenate([p.grad.numpy().ravel() for p in model.parameters()])
    return call, gradient


def on_threads(call, threads):
    """The same by so many of PyTorch's threads."""
    import torch

    def limited():
        torch.set_num_threads(threads)
        call()

    return limited


def gradients(sizes, m, rounds):
    """A line of the table."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((m, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], m)
    net = fastnn.Network(sizes, backend="numba", seed=0)
    ways = [lambda: net.cost_and_gradient(X, y), lambda: net._cost_and_gradient(X, y, None, m, m)]
    D = ways[0]()[1]
    np.testing.assert_allclose(D, ways[1]()[1], atol=1e-5 * np.abs(D).max())
    if (peer := of_torch(net, X, y)) is not None:
        np.testing.assert_allclose(D, peer[1], atol=1e-5 * np.abs(D).max())
        ways += [on_threads(peer[0], 1), on_threads(peer[0], THREADS)]
    found = np.array([[seconds(way) for way in ways] for _ in range(rounds)])
    if peer is not None:  # the better of its numbers of threads
        best = 2 + int(np.argmin(np.median(found[:, 2:], axis=0)))
        found = found[:, [0, 1, best]]
    ratios = np.median(found / found[:, :1], axis=0)
    figures = [f"{1e6 * s:.0f} us" for s in np.median(found, axis=0)]
    return (
        f"{'-'.join(map(str, sizes)):24}{m:6}" + "".join(f"{figure:>12}" for figure in [*figures, ""][:3])
        + "   " + ", ".join(f"{ratio:.2f}" for ratio in ratios[1:])
    )  # fmt: skip


def lbfgs(rounds):
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    X, y = load_digits(return_X_y=True)
    X = X / 16

    def ours(by_operations):
        net = fastnn.Network([64, 100, 10], backend="numba", dtype="float64", seed=0, l2=1.0)
        if by_operations:
            net.backend.gradient = lambda *arguments: None
        try:
            return net.fit(X, y, optimizer="lbfgs", epochs=60).cost[-1]
        finally:
            vars(net.backend).pop("gradient", None)

    def theirs():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # 60 iterations are not all
            return MLPClassifier((100,), solver="lbfgs", max_iter=60, alpha=1.0, random_state=0).fit(X, y).loss_

    def alone(fit):
        with threadpool_limits(1):
            return fit()

    ways = {"one call": lambda: ours(False), "operations": lambda: ours(True), "scikit-learn": theirs}
    ways["scikit-learn, BLAS on one thread"] = lambda: alone(theirs)
    found = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            cost = way()
            found[name].append((time.perf_counter() - began, cost))
    print("\nL-BFGS, 60 iterations, 64-100-10, float64, digits of scikit-learn")
    for name, pairs in found.items():
        ratio = np.median([a[0] / b[0] for a, b in zip(pairs, found["one call"], strict=True)])
        print(f"{name:34}{np.median([s for s, _ in pairs]):8.2f} s   {ratio:5.2f}   cost {pairs[0][1]:.5f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"{'network':24}{'rows':>6}{'one call':>12}{'operations':>12}{'PyTorch':>12}   the others / one call")
    for sizes, m in CASES:
        print(gradients(sizes, m, rounds))
    lbfgs(rounds)
