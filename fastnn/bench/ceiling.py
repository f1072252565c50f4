"""The machine's own ceiling: the fastest float32 product of any library here. Run in a worker each."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .peers.base import blas_threads

__all__ = ["LIBRARIES", "SIZES", "bandwidth", "measure", "typical"]

LIBRARIES = ("numpy", "scipy", "torch")
SIZES = (1024, 2048, 4096)


def _product(library: str, threads: int, n: int) -> Callable[[], Any]:
    """A product of two n x n matrices with its result in place, so that no allocation is timed."""
    rng = np.random.default_rng(n)
    a, b = (rng.random((n, n), np.float32) for _ in range(2))
    if library == "numpy":
        out = np.empty((n, n), np.float32)
        blas_threads(threads)
        return lambda: np.matmul(a, b, out=out)
    if library == "scipy":
        from scipy.linalg.blas import sgemm

        blas_threads(threads)
        columns = [np.asfortranarray(x) for x in (a, b, np.empty((n, n), np.float32))]
        return lambda: sgemm(1.0, columns[0], columns[1], c=columns[2], overwrite_c=1)
    import torch

    torch.set_num_threads(threads)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    z = torch.empty(n, n)
    return lambda: torch.mm(x, y, out=z)


def measure(library: str, threads: int, sizes: list[int], seconds: float) -> dict[str, float]:
    """{size: GFLOP/s}, the best product within the time given to each size; at least three are made."""
    found = {}
    for n in sizes:
        call = _product(library, threads, n)
        call()
        best, count, until = float("inf"), 0, time.perf_counter() + seconds
        while count < 3 or time.perf_counter() < until:
            start = time.perf_counter()
            call()
            best, count = min(best, time.perf_counter() - start), count + 1
        found[str(n)] = 2 * n**3 / best / 1e9
    return found


_kept = functools.lru_cache(maxsize=1)(_product)  # its matrices take longer to fill than to multiply


def typical(library: str, threads: int, n: int, seconds: float) -> float:
    """GFLOP/s of one size, the median product within the time; at least three are made, after one that is not timed."""
    call = _kept(library, threads, n)
    call()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 2 * n**3 / statistics.median(times) / 1e9


def bandwidth(megabytes: int = 256, repeats: int = 5) -> float:
    """GB/s of copying an array larger than the caches, read and written counted: the slope of the roofline."""
    source = np.ones(megabytes << 18, np.float32)
    target = np.empty_like(source)
    np.copyto(target, source)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best / 1e9
