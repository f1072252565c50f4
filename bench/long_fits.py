"""Whether epochs stay as fast as they begin: 100,000 rows, 12-64-32-2, batch 32, Adam, L2; the time of every epoch.

python bench/long_fits.py [--epochs 16] [--l2 3]

After some thousand steps parameters of units that have died, and the optimizer's means of their gradients, would be
subnormal numbers, on which arithmetic is slow (kernels/cpu/subnormal.py). PyTorch, if installed, runs the same steps
beside it, and once more with torch.set_flush_denormal.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import fastnn


def data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 12), dtype=np.float32)
    return X, (X[:, 0] + 0.5 * X[:, 1] * X[:, 2] + rng.standard_normal(rows) > 0).astype(np.int64)


def of_fastnn(engine: str, X: np.ndarray, y: np.ndarray, epochs: int, l2: float) -> tuple[list[float], int, float]:
    """Seconds of each epoch, subnormal parameters at the end, and the accuracy of the last epoch."""
    net = fastnn.Network([12, 64, 32, 2], l2=l2, seed=0, init="glorot", backend=engine)
    history = net.fit(X, y, optimizer="adam", epochs=epochs, batch_size=32)
    tiny = (net.theta != 0) & (np.abs(net.theta) < np.finfo(np.float32).tiny)
    return history.seconds, int(tiny.sum()), history.accuracy[-1]


def of_torch(X: np.ndarray, y: np.ndarray, epochs: int, l2: float, flush: bool) -> tuple[list[float], int, float]:
    import torch

    torch.set_flush_denormal(flush)
    torch.set_num_threads(1)  # the best here: the layers are small
    torch.manual_seed(0)
    layer = torch.nn.Linear
    net = torch.nn.Sequential(layer(12, 64), torch.nn.ReLU(), layer(64, 32), torch.nn.ReLU(), layer(32, 2))
    rule = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=l2 / len(X))
    rows, classes, seconds, right = torch.from_numpy(X), torch.from_numpy(y), [], 0
    for _ in range(epochs):
        began, right = time.perf_counter(), 0
        for batch in torch.randperm(len(X)).split(32):
            out = net(rows[batch])
            rule.zero_grad()
            torch.nn.functional.cross_entropy(out, classes[batch]).backward()
            rule.step()
            right += int((out.argmax(1) == classes[batch]).sum())
        seconds.append(time.perf_counter() - began)
    tiny = sum(int(((p != 0) & (p.abs() < torch.finfo(p.dtype).tiny)).sum()) for p in net.parameters())
    return seconds, tiny, right / len(X)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--l2", type=float, default=3.0)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    X, y = data(given.rows)
    entrants = {
        "fastnn (Numba)": lambda: of_fastnn("numba", X, y, given.epochs, given.l2),
        "fastnn (NumPy)": lambda: of_fastnn("numpy", X, y, given.epochs, given.l2),
    }
    try:
        import torch

        entrants[f"PyTorch {torch.__version__}"] = lambda: of_torch(X, y, given.epochs, given.l2, False)
        entrants["PyTorch, flushing"] = lambda: of_torch(X, y, given.epochs, given.l2, True)
    except ImportError:
        print("PyTorch is not installed")
    print(f"fastnn {fastnn.__version__}, l2={given.l2:g}, milliseconds of each epoch")
    for name, run in entrants.items():
        seconds, tiny, accuracy = run()
        shown = " ".join(f"{1000 * second:.0f}" for second in seconds)
        print(f"{name:20} {shown}; {tiny} subnormal parameters, accuracy {accuracy:.4f}")
