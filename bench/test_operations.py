"""Micro-benchmarks: the four operations of the lecture, and a slice of a program, on every engine that is usable here.

Each result is compared with float64 NumPy beside the clock, so that a time always belongs to a right answer.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastnn

# Rows, units in, units out: a narrow layer, a middle one, a wide one.
SHAPES = [(32, 784, 16), (128, 300, 100), (512, 1024, 1024)]
IDS = ["32x784-16", "128x300-100", "512x1024-1024"]
USABLE = [name for name, reason in fastnn.available_backends().items() if reason is None]


@pytest.fixture(params=USABLE)
def backend(request):
    return fastnn.get_backend(request.param)


@pytest.fixture(params=SHAPES, ids=IDS)
def layer(request, backend):
    """float64 arrays of a layer, and the same ones in float32 on the engine."""
    m, n_in, n_out = request.param
    rng = np.random.default_rng(0)
    made = {
        "a": rng.normal(size=(m, n_in)),
        "W": rng.normal(size=(n_out, n_in)) / n_in**0.5,
        "b": rng.normal(size=n_out),
        "delta": rng.normal(size=(m, n_out)),
        "z": rng.normal(size=(m, n_in)),
    }
    exact = {name: array.astype(np.float32).astype(np.float64) for name, array in made.items()}
    return exact, {name: backend.asarray(array.astype(np.float32)) for name, array in made.items()}


def timed(benchmark, backend, operation, name):
    """Time the operation, its result complete; grouped by what is computed, so that engines stand beside each other."""
    benchmark.group = name

    def call():
        result = operation()
        backend.synchronize()
        return result

    return benchmark(call)


def close(backend, result, expected, terms):
    """Within the rounding of a float32 sum of so many terms of size about one."""
    np.testing.assert_allclose(
        backend.to_numpy(result),
        expected,
        rtol=0,
        atol=8 * np.finfo(np.float32).eps * terms**0.5 * max(1, np.abs(expected).max()),
    )


def test_dense_forward(benchmark, backend, layer):
    exact, x = layer
    out = backend.empty((exact["a"].shape[0], exact["W"].shape[0]), np.float32)
    z = timed(
        benchmark,
        backend,
        lambda: backend.dense_forward(x["a"], x["W"], x["b"], out=out),
        f"dense_forward {exact['a'].shape} -> {exact['W'].shape[0]}",
    )
    close(backend, z, exact["a"] @ exact["W"].T + exact["b"], exact["a"].shape[1])


@pytest.mark.parametrize("g", ["relu", "tanh", "sigmoid", "softmax"])
def test_activate(benchmark, backend, layer, g):
    exact, x = layer
    out = backend.empty(exact["z"].shape, np.float32)
    a = timed(benchmark, backend, lambda: backend.activate(g, x["z"], out=out), f"activate {g} {exact['z'].shape}")
    close(backend, a, fastnn.activations.get(g, "output").value(exact["z"]), 1)


def test_propagate_delta(benchmark, backend, layer):
    exact, x = layer
    a = backend.activate("relu", x["z"])
    out = backend.empty(exact["z"].shape, np.float32)
    delta = timed(
        benchmark,
        backend,
        lambda: backend.propagate_delta(x["delta"], x["W"], "relu", x["z"], a, out=out),
        f"propagate_delta {exact['delta'].shape} -> {exact['z'].shape[1]}",
    )
    close(backend, delta, exact["delta"] @ exact["W"] * (exact["z"] > 0), exact["delta"].shape[1])


def test_accumulate(benchmark, backend, layer):
    exact, x = layer
    Delta_W, Delta_b = backend.zeros(exact["W"].shape, np.float32), backend.zeros(exact["b"].shape, np.float32)
    timed(
        benchmark,
        backend,
        lambda: backend.accumulate(Delta_W, Delta_b, x["delta"], x["a"]),
        f"accumulate {exact['delta'].shape}, {exact['a'].shape}",
    )
    # However often it was called against the clock: once more from zero.
    backend.copyto(Delta_W, backend.zeros(exact["W"].shape, np.float32))
    backend.copyto(Delta_b, backend.zeros(exact["b"].shape, np.float32))
    backend.accumulate(Delta_W, Delta_b, x["delta"], x["a"])
    close(backend, Delta_W, exact["delta"].T @ exact["a"], len(exact["a"]))
    close(backend, Delta_b, exact["delta"].sum(axis=0), len(exact["a"]))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("sizes", "batch"), [((784, 16, 16, 10), 32), ((784, 300, 100, 10), 128)], ids=["784-16-16-10", "784-300-100-10"]
)
def test_program(benchmark, backend, sizes, batch, optimizer):
    """Sixteen training steps over shuffled rows; then the same from the start, against float64 on the NumPy engine."""
    rng = np.random.default_rng(0)
    X = rng.random((2048, sizes[0]), np.float32) - np.float32(0.5)
    y = (X @ rng.normal(size=(sizes[0], sizes[-1])).astype(np.float32)).argmax(axis=1)
    order = rng.permutation(2048)
    rate = 0.01 if optimizer == "sgd" else 1e-3

    def start(engine, dtype):
        net = fastnn.Network(sizes, backend=engine, dtype=dtype)
        program = net.backend.compile(net, fastnn.optimizers.get(optimizer, rate), batch)
        given = [net.backend.asarray(array) for array in (X.astype(dtype), y, order)]
        return net, lambda: program.run(*given, 0, 16)

    timed(
        benchmark,
        backend,
        start(backend, "float32")[1],
        f"16 steps of {'-'.join(map(str, sizes))}, batch {batch}, {optimizer}",
    )
    net, run = start(backend, "float32")
    exact, exactly = start("numpy", "float64")
    before = exact.theta.copy()
    assert run()[0] == pytest.approx(exactly()[0], rel=1e-5)
    off = np.linalg.norm(net.backend.to_numpy(net.theta) - exact.theta)
    assert off < 2e-2 * np.linalg.norm(exact.theta - before)
