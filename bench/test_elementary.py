"""Micro-benchmark of the functions inside activations: nanoseconds per element beside NumPy's and torch's, on one
thread.

Arrays of 128 x 256 numbers lie in the second-level cache. Each result is compared with long double beside the
clock. torch is measured where it is installed; `python bench/test_elementary.py` prints the table alone.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from fastnn.kernels.cpu import compiled, elementary, operations

try:
    import torch

    torch.set_num_threads(1)
except ImportError:
    torch = None

SHAPE = (128, 256)
DTYPES = ("float32", "float64")
SOFTMAX = 5  # its code
LIBRARIES = ("fastnn", "numpy", "torch")


def _exact_softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


EXACT = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda z: 1 / (1 + np.exp(-z)), "softmax": _exact_softmax}


def _loop(g):
    def loop(z, out):
        elementary.wide_vectors()
        for i in range(z.size):
            out[i] = g(z[i])

    return compiled(loop)


LOOPS = {"exp": _loop(elementary.exp), "tanh": _loop(elementary.tanh), "sigmoid": _loop(elementary.sigmoid)}


def function(library, name, z, out):
    """A call without arguments that overwrites out with the function of z; None where the library has none.

    fastnn's softmax works in place and adds a bias, so its call copies z first and adds zeros: both are counted.
    """
    if library == "fastnn" and name in LOOPS:
        return lambda: LOOPS[name](z.reshape(-1), out.reshape(-1))
    if library == "fastnn":
        bias, zero = np.zeros(z.shape[1], z.dtype), z.dtype.type(0)

        def call():
            np.copyto(out, z)
            operations.activate(SOFTMAX, zero, out, bias)

        return call
    if library == "numpy":
        return (lambda: getattr(np, name)(z, out=out)) if name in ("exp", "tanh") else None
    if torch is None:
        return None
    given, target = torch.from_numpy(z), torch.from_numpy(out)
    if name == "softmax":
        return lambda: torch.softmax(given, 1, out=target)
    return lambda: getattr(torch, name)(given, out=target)


def prepared(library, name, dtype):
    """(the call, a check of its result); (None, None) where there is nothing to call."""
    z = (2 * np.random.default_rng(0).standard_normal(SHAPE)).astype(dtype)
    out = np.empty_like(z)
    call = function(library, name, z, out)
    if call is None:
        return None, None

    def check():
        expected = EXACT[name](z.astype(np.longdouble))
        bound = 8 + (np.abs(z - z.max(axis=1, keepdims=True)) if name == "softmax" else 0)
        assert np.all(np.abs(out - expected) <= bound * np.finfo(dtype).eps * np.abs(expected))

    return call, check


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("library", LIBRARIES)
def test_per_element(benchmark, library, name, dtype):
    call, check = prepared(library, name, dtype)
    if call is None:
        pytest.skip(f"{library} has no {name}, or is not installed")
    benchmark.group = f"{name} {dtype}, {SHAPE[0]} x {SHAPE[1]}"
    benchmark(call)
    check()


def table(rounds=15, calls=100):
    """The best of some rounds, interleaved over the libraries, in ns per element; and fastnn's over the fastest
    other.
    """
    lines = [f"{'':18}" + "".join(f"{library:>10}" for library in LIBRARIES) + "     ratio"]
    for dtype in DTYPES:
        for name in EXACT:
            made = {library: prepared(library, name, dtype) for library in LIBRARIES}
            best = {}
            for _ in range(rounds):
                for library, (call, _check) in made.items():
                    if call is not None:
                        began = time.perf_counter()
                        for _ in range(calls):
                            call()
                        seconds = (time.perf_counter() - began) / calls / (SHAPE[0] * SHAPE[1])
                        best[library] = min(best.get(library, np.inf), seconds * 1e9)
            for _call, check in made.values():
                if check is not None:
                    check()
            others = [value for library, value in best.items() if library != "fastnn"]
            numbers = "".join(f"{best[library]:10.2f}" if library in best else f"{'-':>10}" for library in LIBRARIES)
            lines.append(
                f"{name + ' ' + dtype:18}{numbers}{best['fastnn'] / min(others):10.2f}"
                if others
                else f"{name + ' ' + dtype:18}{numbers}{'-':>10}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        f"ns per element, one thread, {SHAPE[0]} x {SHAPE[1]} numbers; NumPy {np.__version__}, torch "
        f"{torch.__version__ if torch else 'absent'}"
    )
    print(table())
