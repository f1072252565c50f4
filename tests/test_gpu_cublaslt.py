"""cuBLASLt on a real device: every algorithm offered for every product and epilogue against extended precision; reduced
precision and streamed data as whole programs. Skipped, with the reason, where there is no device.

What an epilogue is taken to mean here (mask bits, bias sums, leading dimensions) is what the stand-in imitates
(cuda_on_cpu/products.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from cuda_on_cpu.products import mask_of, widened
from test_cupy_padding import gaps, poison
from test_cupy_products import PRECISIONS, blank, bound, numbers
from tolerances import assert_close

import fastnn
from fastnn import optimizers
from fastnn.backends.cupy_products import aux_ld, back, forward, outer

pytestmark = pytest.mark.gpu

# rows, n_in, n_out
SHAPES = [(1, 1, 2), (3, 5, 2), (33, 65, 1), (33, 65, 31), (256, 64, 128), (512, 784, 300), (1000, 300, 130)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
precisions = pytest.mark.parametrize(("kind", "compute"), PRECISIONS, ids=[f"{k} {c}" for k, c in PRECISIONS])


def engine():
    reason = fastnn.available_backends()["cupy"]
    if reason is not None:
        pytest.skip(f"cupy: {reason}")
    return fastnn.get_backend("cupy")


class Case:
    """Arrays on the device, and every candidate of a product on them."""

    def __init__(self, product, record_property, **arrays):
        self.gpu = engine()
        assert self.gpu.device.no_products is None, self.gpu.device.no_products
        self.arrays = {name: self.gpu.asarray(x) for name, x in arrays.items()}
        # A candidate holds addresses: what it reads is kept here.
        self.factors, self.workspace = (
            (self.arrays.pop("A"), self.arrays.pop("B")),
            self.gpu.empty((self.gpu.device.workspace_bytes,), np.uint8),
        )
        more = {name: self.arrays.get(name) for name in ("bias", "aux")}
        self.candidates = self.gpu.device.prepare(product, *self.factors, self.arrays["D"], self.workspace, **more)
        self.start = {name: self.gpu.to_numpy(x) for name, x in self.arrays.items()}
        record_property("algorithms offered", len(self.candidates))
        assert self.candidates or product.epilogue != "DEFAULT", f"{product} must be offered"

    def results(self):
        """What each candidate leaves in D, bias and aux."""
        for candidate in self.candidates:
            for name, x in self.start.items():
                self.gpu.copyto(self.arrays[name], self.gpu.asarray(x))
            candidate.call()
            yield {name: self.gpu.to_numpy(x) for name, x in self.arrays.items()}


@precisions
@shapes
@pytest.mark.parametrize("epilogue", ["DEFAULT", "BIAS", "RELU_BIAS", "RELU_AUX_BIAS"])
def test_forward(epilogue, shape, kind, compute, record_property):
    m, n_in, n_out = shape
    (a, A), (W, V), (b, B) = numbers((m, n_in), kind), numbers((n_out, n_in), kind, 1), numbers((n_out,), kind, 2)
    aux = np.full((m, aux_ld(n_out) // 8), 0xAA, np.uint8)
    expected = A @ V.T + (B if epilogue != "DEFAULT" else 0)
    limit = bound(kind, compute, n_in, np.abs(A) @ np.abs(V).T + np.abs(B))
    case = Case(
        forward(m, n_in, n_out, kind, compute, epilogue),
        record_property,
        A=W,
        B=a,
        D=blank((m, n_out), kind),
        bias=b,
        aux=aux,
    )
    for got in case.results():
        assert_close(widened(got["D"]), np.maximum(expected, 0) if "RELU" in epilogue else expected, limit)
        if epilogue == "RELU_AUX_BIAS":  # exact zeros may count either way, and so may what rounds to them
            sure = np.abs(expected) > limit
            np.testing.assert_array_equal(mask_of(got["aux"], n_out, m, aux_ld(n_out)).T[sure], (expected > 0)[sure])


@precisions
@shapes
@pytest.mark.parametrize("epilogue", ["DEFAULT", "DRELU", "DRELU_BGRAD"])
def test_back(epilogue, shape, kind, compute, record_property):
    m, n_in, n_out = shape
    (delta, D), (W, V) = numbers((m, n_out), kind), numbers((n_out, n_in), kind, 1)
    bits = np.random.default_rng(3).random((m, aux_ld(n_in))) < 0.5
    expected = D @ V * (bits[:, :n_in] if epilogue != "DEFAULT" else 1)
    limit = bound(kind, compute, n_out, np.abs(D) @ np.abs(V))
    aux = np.packbits(bits, axis=1, bitorder="little")
    for got in Case(
        back(m, n_in, n_out, kind, compute, epilogue),
        record_property,
        A=W,
        B=delta,
        D=blank((m, n_in), kind),
        bias=blank((n_in,), kind),
        aux=aux,
    ).results():
        assert_close(widened(got["D"]), expected, limit)
        if epilogue == "DRELU_BGRAD":
            assert_close(
                widened(got["bias"]),
                expected.sum(axis=0),
                limit.sum(axis=0) + bound(kind, compute, m, np.abs(expected).sum(axis=0)),
            )


@precisions
@shapes
@pytest.mark.parametrize("epilogue", ["DEFAULT", "+=", "BGRADB"])
def test_outer(epilogue, shape, kind, compute, record_property):
    m, n_in, n_out = shape
    real = "float32" if kind == "bfloat16" else kind
    (a, A), (delta, D) = numbers((m, n_in), kind), numbers((m, n_out), kind, 1)
    start, plus = (np.ones((n_out, n_in), real), True) if epilogue == "+=" else (blank((n_out, n_in), real), False)
    product = outer(m, n_in, n_out, kind, compute, "DEFAULT" if plus else epilogue, accumulate=plus)
    for got in Case(product, record_property, A=a, B=delta, D=start, bias=blank((n_out,), real)).results():
        assert_close(got["D"], D.T @ A + plus, bound(kind, compute, m, np.abs(D).T @ np.abs(A) + 1, real), dtype=real)
        if epilogue == "BGRADB":
            assert_close(got["bias"], D.sum(axis=0), bound(kind, compute, m, np.abs(D).sum(axis=0), real), dtype=real)


# ---- whole programs
# ----------------------------------------------------------------------------------------------------


def problem():
    X = np.random.default_rng(0).standard_normal((501, 20)).astype(np.float32)
    return X, X[:, :4].argmax(axis=1)


# Relative size of one rounding of a factor; a gradient is a product of several.
ROUNDING = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}


@pytest.mark.parametrize("hidden", ["relu", "tanh"])
@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("sizes", [(20, 64, 32, 4), (19, 33, 18, 10)], ids=str)
def test_a_gradient(sizes, precision, hidden):
    """One step of gradient descent with rate 1 is the gradient, off by the rounding of its factors. NaN between
    rows reaches nothing.
    """
    gpu, (X, y) = engine(), problem()
    X = np.ascontiguousarray(X[:, : sizes[0]])
    net = fastnn.Network(sizes, hidden=hidden, precision=precision, backend=gpu, seed=2)
    before = gpu.to_numpy(net.theta).copy()
    program = gpu.compile(net, optimizers.SGD(1.0), 501)
    poison(program)
    cost, _ = program.run(gpu.asarray(X), gpu.asarray(y), gpu.asarray(np.arange(501)), 0, 1)
    reference = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float64", init=before.astype(float))
    J, exact = reference.cost_and_gradient(X.astype(float), y)
    off = np.linalg.norm(before - gpu.to_numpy(net.theta) - exact) / np.linalg.norm(exact)
    assert off < 8 * ROUNDING[precision] + 1e-5
    np.testing.assert_allclose(cost / 501, J, rtol=8 * ROUNDING[precision] + 1e-6)
    for gap in gaps(program):
        assert (np.ascontiguousarray(gpu.to_numpy(gap)).view(np.uint8) == 0xFF).all(), (
            "something was written between rows"
        )


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("sizes", [(20, 64, 32, 4), (20, 33, 18, 10)], ids=str)
def test_replays_equal_eager_steps_bit_for_bit(sizes, precision):  # reduced precision is never fused
    gpu, (X, y), thetas = engine(), problem(), []
    for mode in ("captured", "eager"):
        net = fastnn.Network(sizes, precision=precision, backend=gpu, seed=2)
        program = gpu.compile(net, optimizers.Adam(1e-3), 64)
        assert program.mode == "captured", program.why_eager
        program.mode = mode
        for epoch in range(125):
            program.run(
                gpu.asarray(X), gpu.asarray(y), gpu.asarray(np.random.default_rng(epoch).permutation(501)), 0, 8
            )
        thetas.append(gpu.to_numpy(net.theta))
    np.testing.assert_array_equal(*thetas)


@pytest.mark.parametrize("precision", ROUNDING)
def test_the_library_is_asked_for_nothing_that_makes_no_sense(precision):
    """Not offered is an answer; an invalid value is a mistake of the engine's, which would only be slow."""
    gpu = engine()
    for sizes, batch in (([784, 300, 100, 10], 512), ([20, 33, 17, 4], 7), ([5, 1, 1], 1)):
        gpu.compile(fastnn.Network(sizes, precision=precision, backend=gpu), optimizers.SGD(0.1), batch)
    assert dict(gpu.device.refusals) == {}


def test_streamed_rows_train_to_the_same_bits(monkeypatch):
    gpu, (X, y), thetas = fastnn.get_backend("cupy", fused=False), problem(), []  # streamed rows are not fused
    monkeypatch.setattr(type(gpu.device), "reserve_bytes", 0)
    for share in (0.8, 0.0):
        monkeypatch.setattr("fastnn.backends.cupy_backend.SHARE_OF_DATA", share)
        net = fastnn.Network([20, 64, 4], backend=gpu, seed=2)
        if share:
            net.fit(X, y, epochs=20, batch_size=64)
        else:
            with pytest.warns(RuntimeWarning, match="its rows stay in the host's memory"):
                net.fit(X, y, epochs=20, batch_size=64)
        thetas.append(gpu.to_numpy(net.theta))
    np.testing.assert_array_equal(*thetas)


@pytest.mark.parametrize("rule", ["lars", "lamb"])
def test_rules_with_a_length_per_layer(rule):
    gpu, (X, y), thetas = engine(), problem(), []
    for backend in (gpu, "numpy"):
        net = fastnn.Network([20, 33, 4], hidden="tanh", backend=backend, seed=2, l2=0.1)
        net.fit(X, y, optimizer=rule, learning_rate=0.05, epochs=3, batch_size=64)
        thetas.append(net.backend.to_numpy(net.theta))
    np.testing.assert_allclose(*thetas, atol=2e-4)
