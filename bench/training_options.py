"""Times what options of training add to a step on the CPU engine: dropout, rows that count more than others, clipping.

    python bench/training_options.py
    python bench/training_options.py --rounds 5

Rounds alternate between training without the option, with it, and - for dropout and clipping, where PyTorch is there -
PyTorch without and with `nn.Dropout`, and with `clip_grad_norm_`, eager, on as many threads as are faster. Medians of
an epoch's steps, float32, plain gradient descent, rows shuffled. That all compute the same is the tests' matter
(tests/test_dropout.py, tests/test_row_weights.py, tests/test_clipping.py).
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastnn
from fastnn.bench.environment import describe

RATE, LENGTH = 0.5, 0.01  # a length that every gradient here has more than
CASES = [
    ((784, 30, 10), 512),
    ((784, 100, 100, 10), 128),
    ((784, 300, 100, 10), 128),
    ((784, 512, 512, 10), 128),
    ((784, 1024, 1024, 10), 512),
]
ROWS = 8192
PAUSE = 0.3  # seconds, after which the threads of other libraries no longer spin

Epoch = Callable[[], float]  # steps over all rows; the mean cost


def ours(
    sizes: tuple[int, ...], batch: int, X: Any, y: Any, dropout: float, weights: Any, clip: float | None = None
) -> Epoch:
    net = fastnn.Network(sizes, backend="numba", seed=0, dropout=dropout)
    rule = fastnn.optimizers.SGD(0.01, clip_norm=clip)

    def epoch() -> float:
        return net.fit(X, y, optimizer=rule, epochs=1, batch_size=batch, sample_weight=weights).cost[0]

    return epoch


def pytorch(sizes: tuple[int, ...], batch: int, X: Any, y: Any, dropout: float, clip: float | None = None) -> Epoch:
    import torch

    layers: list[Any] = []
    for n_in, n_out in itertools.pairwise(sizes[:-1]):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU(), *([torch.nn.Dropout(dropout)] if dropout else [])]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(*sizes[-2:]))
    rule, cost = torch.optim.SGD(model.parameters(), 0.01), torch.nn.CrossEntropyLoss()
    rows, classes = torch.from_numpy(X), torch.from_numpy(y)

    def epoch() -> float:
        order, total = torch.randperm(len(rows)), 0.0
        for chosen in order.split(batch):
            rule.zero_grad(set_to_none=True)
            loss = cost(model(rows[chosen]), classes[chosen])
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            rule.step()
            total += loss.detach() * len(chosen)
        return float(total) / len(rows)

    return epoch


def timed(epoch: Epoch) -> float:
    began = time.perf_counter()
    epoch()
    return time.perf_counter() - began


def with_threads(threads: int, epoch: Epoch) -> Epoch:
    import torch

    def on_so_many() -> float:
        torch.set_num_threads(threads)
        return epoch()

    return on_so_many


def compared(sides: dict[str, Epoch], rounds: int) -> dict[str, list[float]]:
    """Seconds of an epoch of each side in each round, after one that warms up."""
    for epoch in sides.values():
        epoch()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, epoch in sides.items():
            time.sleep(PAUSE)
            times[name].append(timed(epoch))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    try:
        import torch
    except ImportError:
        torch = None
    print(describe())
    rng = np.random.default_rng(0)
    X, weights = rng.random((ROWS, 784), np.float32), rng.random(ROWS) + 0.5
    print(f"\nmicroseconds a step; rows of {X.shape[1]}, dropout {RATE:g}, weights between 0.5 and 1.5")
    columns = "".join(f"{name:>9}" for name in ("plain", "dropout", "weights", "clipped"))
    print(f"{'network, batch':28}{columns}{'ratios':>21}   PyTorch plain, dropout, clipped, ratios")
    for sizes, batch in CASES:
        y = rng.integers(0, sizes[-1], ROWS)
        sides = {
            "plain": ours(sizes, batch, X, y, 0.0, None),
            "dropout": ours(sizes, batch, X, y, RATE, None),
            "weights": ours(sizes, batch, X, y, 0.0, weights),
            "clipped": ours(sizes, batch, X, y, 0.0, None, LENGTH),
        }
        if torch is not None:
            for name, rate, clip in (("", 0.0, None), (" dropout", RATE, None), (" clipped", 0.0, LENGTH)):
                epoch = pytorch(sizes, batch, X, y, rate, clip)
                tried = {n: timed(with_threads(n, epoch)) for n in (1, torch.get_num_threads()) for _ in range(2)}
                sides[f"torch{name}"] = with_threads(min(tried, key=lambda n: tried[n]), epoch)
        times = compared(sides, rounds)
        step = {name: statistics.median(of) / (ROWS / batch) * 1e6 for name, of in times.items()}

        def ratio(name: str, to: str, times: dict[str, list[float]] = times) -> float:
            return statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))

        options = ("dropout", "weights", "clipped")
        row = f"{'-'.join(map(str, sizes)):22}{batch:5} " + "".join(
            f"{step[name]:9.1f}" for name in ("plain", *options)
        )
        row += "".join(f"{ratio(name, 'plain'):7.2f}" for name in options)
        if torch is not None:
            row += "   " + "".join(f"{step[name]:9.1f}" for name in ("torch", "torch dropout", "torch clipped"))
            row += f"{ratio('torch dropout', 'torch'):7.2f}{ratio('torch clipped', 'torch'):7.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()
