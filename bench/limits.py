"""What two cores of this machine allow, and what a training step makes of it: the profile behind targets of the
comparison that are missed.

    python bench/limits.py               # a minute; nothing else should run
    python bench/limits.py --rounds 3

reading    one core reads float32 numbers of so many bytes again and again: what a row that is predicted may cost at
           least, its parameters being read once
meeting    what two threads spend on one step besides products: each writes a gradient of its own; a barrier; each adds
           up and moves half of the parameters; a barrier; each reads all of them. Done by fastnn's own barrier, sums
           and update
steps      whole steps of plain gradient descent on one thread and on two, beside the products of the same rows alone on
           one core: by fastnn's own kernels, each with its matrices at hand, and by another library's BLAS. What two
           threads take beyond half of one is roughly `meeting`, half of the transposes, which each makes for itself,
           and waiting for each other. (1-64-64-2 stands for 1-64-64-1, whose single output has kernels apart.)
Times are medians of rounds; the rate is that of the arithmetic the network needs, padding not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from threadpoolctl import threadpool_limits

import fastnn
from fastnn.backends.cpu_crew import run_team
from fastnn.backends.cpu_plan import Problem
from fastnn.backends.host import aligned
from fastnn.bench.environment import describe
from fastnn.kernels.cpu import compiled
from fastnn.kernels.cpu.elementary import wide_vectors
from fastnn.kernels.cpu.operations import add, update
from fastnn.kernels.cpu.panel_parts import TALL
from fastnn.kernels.cpu.panels import (
    AHEAD,
    address,
    apply,
    gradient,
    itemsize,
    kernels,
    padded,
    spaced,
    step_of,
    transpose,
    vector_at,
)
from fastnn.kernels.cpu.team import AT_ONCE, barrier, call_back, new_barrier

SIZES_KB = (16, 128, 512, 1024, 2048, 4096, 16384)
NETS = {"1-64-64-2": (32, 128), "784-16-16-10": (128,), "784-100-100-10": (512, 8192), "784-300-100-10": (512, 8192)}
SECONDS = 0.02  # of each timing


def median(once: Callable[[int], Any], rounds: int) -> float:
    """Seconds of one of the many repetitions that once(repetitions) does."""
    once(1)
    began = time.perf_counter()
    once(3)
    repetitions = max(1, int(SECONDS / ((time.perf_counter() - began) / 3)))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        once(repetitions)
        times.append((time.perf_counter() - began) / repetitions)
    return statistics.median(times)


def numbers(count: int) -> Any:
    """So many, at a cache line; written, because memory that nobody has written is one page of zeros again and
    again.
    """
    x = aligned((count,), np.float32)
    x[...] = np.random.default_rng(0).random(count, np.float32) - 0.5
    return x


@compiled
def _read(x, sums, repetitions):
    wide_vectors()
    for repetition in range(repetitions):
        total = x.dtype.type(0)
        for i in range(x.size):
            total += x[i]
        sums[repetition & 7] = total


def reading(rounds: int) -> None:
    print(f"\nreading, one core\n{'KiB':>8}{'GB/s':>8}")
    for kb in SIZES_KB:
        x = numbers(kb << 8)
        print(f"{kb:8,}{x.nbytes / median(functools.partial(_read, x, np.zeros(8, np.float32)), rounds) / 1e9:8.0f}")


@compiled
def _meet(me, team, meeting, theta, grads, steps):
    wide_vectors()
    zero, count = theta.dtype.type(0), theta.size
    size, own, half = itemsize(zero), grads[me], count // team
    total, hyper, none = zero, np.full(1, 1e-9), theta[:0]
    begin, end = me * half, count if me == team - 1 else (me + 1) * half
    for step in range(steps):
        for i in range(count):
            own[i] = step
        barrier(meeting, me, team)
        for i in range(begin, end, AT_ONCE):
            n = min(AT_ONCE, end - i)
            w, grad = vector_at(address(theta) + i * size, zero, n), vector_at(address(grads) + i * size, zero, n)
            call_back(address(theta) + i * size, n * size)
            for other in range(1, team):
                add(vector_at(address(grads[other]) + i * size, zero, n), grad)
            update(0, hyper, 1, w, grad, none, none, 1.0, 0.0)
        barrier(meeting, me, team)
        for i in range(count):
            total += theta[i]
    return total


def meeting(count: int, rounds: int) -> float:
    """Seconds of a step's meeting of two threads over so many parameters."""
    theta, grads, memory = (
        aligned((count,), np.float32, np.zeros),
        aligned((2, -(-count // 16) * 16), np.float32, np.zeros),
        new_barrier(2),
    )
    _meet(0, 1, new_barrier(1), theta, grads, 1)  # compiled here, not by two threads at once
    return median(lambda steps: run_team(lambda me: _meet(me, 2, memory, theta, grads, steps), 2), rounds)


@numba.njit(nogil=True)
def _apply(panels, zero, x, places, m, M, width, depth, out, repetitions):
    for _ in range(repetitions):
        apply(
            panels, zero, address(x), address(places), m, 0, m, address(M), depth + 1, width, 0, depth, 0, address(out),
            step_of(width, itemsize(zero)), 0,
        )  # fmt: skip


@numba.njit(nogil=True)
def _gradient(panels, zero, x, places, m, d, M, width, depth, repetitions):
    for _ in range(repetitions):
        gradient(
            panels, zero, address(x), address(places), m, address(places), 0, address(d), address(M), depth + 1, width,
            0, depth, zero, zero + 1,
        )  # fmt: skip


@numba.njit(nogil=True)
def _transpose(panels, zero, M, width, depth, nothing, T, T_width, repetitions):
    for _ in range(repetitions):
        transpose(panels, zero, address(M), depth + 1, width, 0, depth, address(nothing), address(T), T_width)


def products(sizes: list[int], rows: int, rounds: int) -> float:
    """Seconds of a step's products alone, on one core: forward, back and gradient of so many rows in tiles as the
    step takes them, and the transposes.
    """
    panels, zero = kernels(np.float32), np.float32(0)
    m = min(rows, Problem(tuple(sizes), rows, 4).tile(panels=True))
    tall, tiles = min(m, TALL), rows / m

    def timed(kernel: Any, *arguments: Any) -> float:
        return median(functools.partial(kernel, panels, zero, *arguments), rounds)

    seconds = 0.0
    for layer, (depth, n) in enumerate(itertools.pairwise(sizes)):
        P, Q = padded(n, np.float32), padded(depth, np.float32)
        x_step, d_step = (depth if layer == 0 else spaced(Q, 4)), spaced(P, 4)
        M, T, x, d, side = (
            numbers(count)
            for count in ((depth + 1) * P, (n + 1) * Q, (m + AHEAD) * x_step, (m + AHEAD) * d_step, m * P)
        )
        x_places, d_places = (np.minimum(np.arange(m + AHEAD), m - 1) * step for step in (x_step, d_step))
        seconds += tiles * timed(_apply, x, x_places, m, M, P, depth, d)
        seconds += rows / tall * timed(_gradient, x, x_places, tall, side, M, P, depth)
        if layer:
            seconds += tiles * timed(_apply, d, d_places, m, T, Q, n, x)
            seconds += timed(_transpose, M, P, depth, np.zeros(64, np.float32), numbers(P * Q), Q)
    return seconds


def library_products(sizes: list[int], rows: int, rounds: int) -> tuple[str, float]:
    """The same products, without transposes, by PyTorch's BLAS where it is installed, else by NumPy's, on one core
    and with all rows at once: who, and seconds.
    """
    try:
        import torch
    except ImportError:
        name, multiply, make, limits = (
            "NumPy",
            np.matmul,
            lambda m, n: numbers(m * n).reshape(m, n),
            threadpool_limits(1, "blas"),
        )
    else:
        torch.set_num_threads(1)
        name, multiply, make, limits = "PyTorch", torch.mm, torch.rand, contextlib.nullcontext()
    seconds = 0.0

    def again(a: Any, b: Any, out: Any, repetitions: int) -> None:
        for _ in range(repetitions):
            multiply(a, b, out=out)

    with limits:
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            a, delta, W = make(rows, n_in), make(rows, n_out), make(n_out, n_in)
            seconds += median(functools.partial(again, a, W.T, make(rows, n_out)), rounds)
            seconds += median(functools.partial(again, delta.T, a, make(n_out, n_in)), rounds)
            if layer:
                seconds += median(functools.partial(again, delta, W, make(rows, n_in)), rounds)
    return name, seconds


def step_seconds(sizes: list[int], batch: int, threads: int, rounds: int) -> float:
    """Seconds of a whole step in the comparison's sense: rows shuffled, plain gradient descent."""
    rng = np.random.default_rng(0)
    rows = 60_000 // batch * batch
    X = rng.random((rows, sizes[0]), np.float32)
    y = rng.integers(0, sizes[-1], rows) if sizes[-1] > 1 else rng.random((rows, 1), np.float32)
    output, cost = ("softmax", "cross_entropy") if sizes[-1] > 1 else ("identity", "squared_error")
    engine = fastnn.get_backend("numba", threads=threads, sliced=True, panels=True)
    net = fastnn.Network(sizes, output=output, cost=cost, backend=engine, seed=0)
    program, order, steps = (
        engine.compile(net, fastnn.optimizers.SGD(1e-6), batch),
        rng.permutation(rows),
        rows // batch,
    )

    def epochs(count: int) -> None:
        for _ in range(count):
            program.run(X, y, order, 0, steps)

    return median(epochs, rounds) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    about = describe()
    print(
        f"fastnn {fastnn.__version__} on {about['cpu']}, {about['cores']} cores; load {about['load']}; {about['date']}"
    )
    reading(rounds)
    print(
        f"\n{'':27}{'one thread':>13}{'own products':>14}{'share':>7}{'GFLOP/s':>9}"
        f"{'library':>14}{'GFLOP/s':>9}{'two threads':>14}{'half of one':>13}{'meeting':>11}",
    )
    for name, batches in NETS.items():
        sizes = [int(n) for n in name.split("-")]
        flops = 2 * sum(
            n_in * n_out * (3 if layer else 2) for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes))
        )
        parameters = sum(padded(n_out, np.float32) * (n_in + 1) for n_in, n_out in itertools.pairwise(sizes))
        for batch in batches:
            one, two = (step_seconds(sizes, batch, threads, rounds) for threads in (1, 2))
            own, met = products(sizes, batch, rounds), meeting(parameters, rounds)
            library, theirs = library_products(sizes, batch, rounds)
            print(
                f"{f'{name}, batch {batch:,}':27}{one * 1e6:10,.1f} us{own * 1e6:11,.1f} "
                f"us{own / one:7.0%}{flops * batch / own / 1e9:9.0f}"
                f"{theirs * 1e6:11,.1f} us{flops * batch / theirs / 1e9:9.0f}{two * 1e6:11,.1f} us{one * 5e5:10,.1f} "
                f"us{met * 1e6:8,.1f} us"
            )
    print(f"library: {library}, one thread, all rows of the batch at once")


if __name__ == "__main__":
    main()
