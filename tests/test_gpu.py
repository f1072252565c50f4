"""The CuPy engine on a real device, against the NumPy engine. Skipped, with the reason, where there is none.

With --require-backend=cupy a missing device is an error (conftest).
"""

from __future__ import annotations

import numpy as np
import pytest
from tolerances import assert_close, training

import fastnn
from fastnn import optimizers
from fastnn.backends.cupy_narrow import WAYS
from fastnn.backends.cupy_program import CupyProgram

pytestmark = pytest.mark.gpu


def engine(**options):
    """The engine on the device; skips where conftest has not decided already."""
    reason = fastnn.available_backends()["cupy"]
    if reason is not None:
        pytest.skip(f"cupy: {reason}")
    return fastnn.get_backend("cupy", **options)


def normal(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


SHAPES = [(1, 1, 1), (3, 5, 2), (33, 65, 31), (257, 784, 10), (1000, 300, 130)]
floats = pytest.mark.parametrize("dtype", ["float32", "float64"])
PAIRS = [
    ("softmax", "cross_entropy"),
    ("sigmoid", "cross_entropy"),
    ("softmax", "squared_error"),
    ("tanh", "squared_error"),
    ("identity", "squared_error"),
    ("exp", "poisson"),
]


@floats
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "leaky_relu", "identity", "silu", "gelu"])
def test_operations(shape, name, dtype):
    gpu, cpu, (m, n_in, n_out) = engine(), fastnn.get_backend("numpy"), shape
    a, W, b, delta = (
        normal((m, n_in), dtype),
        normal((n_out, n_in), dtype, 1),
        normal((n_out,), dtype, 2),
        normal((m, n_out), dtype, 3),
    )
    start_W, start_b = normal((n_out, n_in), dtype, 4), normal((n_out,), dtype, 5)
    on_gpu = {
        key: gpu.asarray(x)
        for key, x in {"a": a, "W": W, "b": b, "delta": delta, "start_W": start_W, "start_b": start_b}.items()
    }
    eps = np.finfo(dtype).eps

    def compare(got, expected, magnitude):
        assert_close(gpu.to_numpy(got), expected, 2 * eps * magnitude + 10 * np.finfo(dtype).tiny, dtype=dtype)

    compare(
        gpu.dense_forward(on_gpu["a"], on_gpu["W"], on_gpu["b"]),
        cpu.dense_forward(a, W, b),
        (n_in + 2) * (np.abs(a) @ np.abs(W).T + np.abs(b)),
    )
    activated, expected = gpu.activate(name, on_gpu["a"]), cpu.activate(name, a)
    compare(activated, expected, (8 + a * a) * np.abs(expected))  # gelu rounds the exponent z^2 / 2
    back = cpu.propagate_delta(delta, W, name, a, expected)
    compare(
        gpu.propagate_delta(on_gpu["delta"], on_gpu["W"], name, on_gpu["a"], activated),
        back,
        (n_out + 16) * (np.abs(delta) @ np.abs(W)),
    )
    cpu.accumulate(start_W, start_b, delta, a)
    gpu.accumulate(on_gpu["start_W"], on_gpu["start_b"], on_gpu["delta"], on_gpu["a"])
    compare(on_gpu["start_W"], start_W, (m + 2) * (np.abs(delta).T @ np.abs(a) + np.abs(start_W) + 1))
    compare(on_gpu["start_b"], start_b, (m + 2) * (np.abs(delta).sum(axis=0) + np.abs(start_b) + 1))


@floats
@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_output_delta_and_cost(pair, dtype):
    gpu, cpu, (output, cost) = engine(), fastnn.get_backend("numpy"), pair
    for m, K in ((1, 1), (7, 33), (1000, 10)):
        if output == "softmax" and K == 1:
            continue
        z = normal((m, K), dtype)
        h = cpu.activate(output, z)
        classes = np.random.default_rng(0).integers(0, K, m)
        values = np.random.default_rng(0).random((m, K)).astype(dtype)
        for y in (
            [classes]
            if pair == ("softmax", "cross_entropy")
            else [values]
            if cost == "cross_entropy"
            else [values, classes]
        ):
            arguments = [gpu.asarray(x) for x in (z, h, y)]
            bound = 64 * (K + 8) * np.finfo(dtype).eps
            assert_close(
                gpu.to_numpy(gpu.output_delta(output, cost, *arguments)),
                cpu.output_delta(output, cost, z, h, y),
                bound * (1 + np.abs(h)),
            )
            expected = cpu.cost_sum(output, cost, z, h, y)
            np.testing.assert_allclose(gpu.cost_sum(output, cost, *arguments), expected, rtol=bound)


@floats
def test_edges(dtype):
    """NaN in is NaN out, infinities as in the table, also with CuPy's -ftz=true."""
    gpu = engine()
    z = np.array([[0, 1e4, -1e4, np.inf, -np.inf, np.nan]], dtype)
    for name in ("sigmoid", "tanh", "relu", "leaky_relu", "identity", "silu", "gelu"):
        expected = fastnn.activations.get(name).value(z.copy())
        np.testing.assert_allclose(
            gpu.to_numpy(gpu.activate(name, gpu.asarray(z))), expected, rtol=8 * np.finfo(dtype).eps
        )
    assert np.isnan(gpu.to_numpy(gpu.activate("softmax", gpu.asarray(z)))).all()
    x = gpu.asarray(normal((100, 7), dtype))
    assert gpu.all_finite(x)
    x[3, 3] = np.inf
    assert not gpu.all_finite(x)


def problem(dtype):
    X = normal((501, 20), dtype)
    return X, (X[:, :4].argmax(axis=1)).astype(np.int64)


def trained(backend, rule, dtype):
    net = fastnn.Network([20, 33, 17, 4], hidden="tanh", l2=0.1, dtype=dtype, backend=backend, seed=1)
    X, y = problem(dtype)
    program = net.backend.compile(net, rule(), 64)
    results = []
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(len(X))
        results.append(
            (
                *program.run(
                    net.backend.asarray(X), net.backend.asarray(y), net.backend.asarray(order), 0, program.steps(len(X))
                ),
                program.hits,
            )
        )
    return net, results


@floats
@pytest.mark.parametrize("fused", [False, True], ids=["graphs", "fused"])
@pytest.mark.parametrize(
    "rule",
    [lambda: optimizers.SGD(0.1), lambda: optimizers.Momentum(0.05), lambda: optimizers.Adam(0.01)],
    ids=["sgd", "momentum", "adam"],
)
def test_a_training_program(rule, fused, dtype):
    net, results = trained(engine(fused=fused), rule, dtype)
    reference, expected = trained("numpy", rule, dtype)
    # Sixteen steps; sums run in another order there, with fused multiply-adds.
    bound = 64 * training(np.dtype(dtype), 16) * np.abs(reference.theta).max()
    assert_close(net.backend.to_numpy(net.theta), reference.theta, bound, dtype=dtype)
    np.testing.assert_allclose([r[0] for r in results], [r[0] for r in expected], rtol=1e4 * np.finfo(dtype).eps)
    assert [r[1] for r in results] == [501, 501]
    # A row whose two largest outputs are equal to rounding may count either way.
    np.testing.assert_allclose([r[2] for r in results], [r[2] for r in expected], atol=1)


@pytest.mark.parametrize("fused", [False, True], ids=["graphs", "fused"])
def test_the_same_run_gives_the_same_bits(fused):
    gpu = engine(fused=fused)  # one: each chooses by its own timing
    first, second = (trained(gpu, lambda: optimizers.Adam(0.01), "float32")[0] for _ in range(2))
    np.testing.assert_array_equal(first.backend.to_numpy(first.theta), second.backend.to_numpy(second.theta))


@pytest.mark.parametrize("hidden", ["relu", "tanh"])
@floats
def test_a_thousand_replays_equal_eager_steps_bit_for_bit(dtype, hidden, monkeypatch):
    gpu, results = engine(fused=False), []
    for eager in (False, True):
        net = fastnn.Network([20, 33, 17, 4], hidden=hidden, l2=0.1, dtype=dtype, backend=gpu, seed=1)
        program = gpu.compile(net, optimizers.Adam(0.001), 64)
        assert program.mode == "captured", "steps were not captured"
        if eager:
            program.mode = "eager"
        X, y = (gpu.asarray(x) for x in problem(dtype))
        for epoch in range(125):  # eight steps each, the last one short
            order = gpu.asarray(np.random.default_rng(epoch).permutation(501))
            cost = program.run(X, y, order, 0, 8)
        results.append((cost, program.hits, [gpu.to_numpy(x) for x in (net.theta, *program.optimizer.state)]))
    assert results[0][:2] == results[1][:2]
    for captured, launched in zip(results[0][2], results[1][2], strict=True):
        np.testing.assert_array_equal(captured, launched)


@pytest.mark.parametrize("way", WAYS, ids=str)
@floats
def test_every_way_of_the_fused_kernel(dtype, way):
    """Also in parts of a batch, with bytes, and with more shared memory than a kernel has unasked."""
    gpu = engine(fused=True)
    X = np.random.default_rng(0).integers(0, 256, (501, 120)).astype(np.uint8)
    y, thetas = np.random.default_rng(1).integers(0, 10, 501), []
    for backend in (gpu, fastnn.get_backend("numpy")):
        net = fastnn.Network([120, 40, 10], hidden="relu", dtype=dtype, backend=backend, seed=1)
        program = backend.compile(net, optimizers.Adam(0.001), 100)
        program.scale = 1 / 255
        if backend is gpu:
            program._fused.way = way
            assert program.mode == "fused"
        else:
            X = (X * np.dtype(dtype).type(1 / 255)).astype(dtype)
        program.run(backend.asarray(X), backend.asarray(y), backend.asarray(np.arange(501)), 0, 6)
        thetas.append(backend.to_numpy(net.theta))
    assert_close(*thetas, 640 * training(np.dtype(dtype), 6) * np.abs(thetas[1]).max(), dtype=dtype)


def test_the_callers_stream_is_respected():
    """Data written on another stream just before, parameters read on it just after, without waiting in between."""
    import cupy

    gpu = engine()
    X, y = problem("float32")
    expected, _ = trained_once(gpu, gpu.asarray(X), gpu.asarray(y))
    with cupy.cuda.Stream(non_blocking=True):
        slow = cupy.zeros((4000, 4000), np.float32)
        for _ in range(20):
            slow = slow @ slow
        late = cupy.asarray(X) + slow[0, 0]
        got, _ = trained_once(gpu, late, gpu.asarray(y))
    np.testing.assert_array_equal(got, expected)


def trained_once(gpu, X, y):
    net = fastnn.Network([20, 33, 4], backend=gpu, seed=1)
    program = gpu.compile(net, optimizers.SGD(0.1), 64)
    result = program.run(X, y, gpu.asarray(np.arange(501)), 0, 8)
    return gpu.to_numpy(net.theta * 1), result


def test_steps_allocate_nothing():
    import cupy

    gpu = engine()
    net = fastnn.Network([20, 33, 4], backend=gpu)
    X, y = (gpu.asarray(x) for x in problem("float32"))
    order = gpu.asarray(np.arange(501))
    program = gpu.compile(net, optimizers.Adam(), 64)
    assert isinstance(program, CupyProgram)
    program.run(X, y, order, 0, 8)

    class Counter(cupy.cuda.MemoryHook):
        name = "counter"
        calls = 0

        def malloc_preprocess(self, **kwargs):
            self.calls += 1

    with Counter() as counter:
        program.run(X, y, order, 0, 8)
    assert counter.calls == 0


def test_fit_and_predict():
    X, y = problem("float32")
    net = fastnn.Network([20, 32, 4], backend=engine())
    net.fit(X, y, optimizer="adam", learning_rate=0.01, epochs=30)
    assert net.score(X, y) > 0.9
    assert isinstance(net.predict(X), np.ndarray)
    assert net.backend.is_array(net.predict(net.backend.asarray(X)))
