"""Whether the libraries that fastnn is compared with have a faster product of float32 that is as exact, as fastnn's on
the matrix unit is (kernels/cpu/amx.py).

    python bench/float32.py        # each of PyTorch and JAX that is installed; seconds

A product of 1024 x 1024 numbers, uniform in -0.5..0.5, in each precision that the library lets one ask for: GFLOP/s
(median of 15) and the root mean square error against float64.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable

import numpy as np

SIDE, ROUNDS = 1024, 15


def report(name: str, product: Callable[[], object], exact: np.ndarray) -> None:
    result = np.asarray(product())  # compiles, and warms up
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        np.asarray(product())
        times.append(time.perf_counter() - began)
    error = float(np.sqrt(np.mean((result - exact) ** 2)))
    print(f"{name:32}{2 * SIDE**3 / statistics.median(times) / 1e9:8.0f} GFLOP/s   error {error:.1e}", flush=True)


def of_torch(a: np.ndarray, b: np.ndarray, exact: np.ndarray) -> None:
    import torch

    x, y = torch.from_numpy(a), torch.from_numpy(b)
    for precision in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(precision)
        report(f"PyTorch {precision}", lambda: (x @ y).numpy(), exact)


def of_jax(a: np.ndarray, b: np.ndarray, exact: np.ndarray) -> None:
    import jax

    for preset in (None, "BF16_BF16_F32", "BF16_BF16_F32_X3", "BF16_BF16_F32_X6", "BF16_BF16_F32_X9"):
        precision = None if preset is None else jax.lax.DotAlgorithmPreset[preset]
        product = jax.jit(lambda x, y, precision=precision: jax.lax.dot(x, y, precision=precision))
        try:
            report(f"JAX {preset or 'default'}", lambda product=product: product(a, b), exact)
        except Exception as error:  # what a backend does not offer it refuses in ways of its own
            print(f"{f'JAX {preset}':32}refused: {str(error).splitlines()[0]}")


def main() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((SIDE, SIDE), np.float32) - np.float32(0.5) for _ in range(2))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    for library, run in (("torch", of_torch), ("jax", of_jax)):
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed")
        else:
            run(a, b, exact)


if __name__ == "__main__":
    main()
