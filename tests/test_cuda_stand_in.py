"""The stand-in on the CPU: schedules, planted faults, the product, and what launchers and builder refuse."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import test_cuda_narrow as narrow
from cuda_cases import Memory
from cuda_on_cpu import CompilerMissing, KernelFault, ShimDevice, builder, library

import fastnn
from fastnn.activations import Identity, ReLU, Sigmoid, Softmax, Tanh
from fastnn.kernels.cuda import launchers, sources, step
from fastnn.kernels.cuda import narrow as fused
from fastnn.kernels.cuda.clip import ClipKernels, clip_partials_shape
from fastnn.kernels.cuda.launchers import Kernels, partials_shape, scratch_size
from fastnn.kernels.cuda.layerwise import LayerwiseKernels, layer_partials_shape, layer_ratios_shape
from fastnn.kernels.cuda.step import CONSTANTS, Rows, StepKernels

floats = pytest.mark.parametrize("dtype", ["float32", "float64"])


def normal(shape, dtype, seed=0):
    return (np.random.default_rng([seed, *np.atleast_1d(shape)]).standard_normal(shape) * 3).astype(dtype)


# ---- the schedule ---------------------------------------------------------------------------------------------


@functools.cache
def everything_with_a_reduction(seed, faults=()):
    """Results of every kernel with a barrier or a shuffle, on one set of inputs, by kernel."""
    m, n = 300, 40
    z, y, values = normal((m, n), np.float32), np.random.default_rng(0).integers(0, n, m), normal((m, n), np.float32, 4)
    device = ShimDevice(seed, faults, shared_bytes=1 << 20)
    k, partials = Kernels(device), np.full(partials_shape(), np.nan)
    out = {}
    out["softmax"] = np.empty_like(z)
    k.activate(Softmax(), z, out["softmax"])
    for name, t in (("delta_softmax_values", values), ("delta_softmax_classes", y)):
        out[name] = np.empty_like(z)
        k.output_delta(Softmax(), False, z, t, out[name])
    for name, ce, t in (
        ("cost_softmax_cross_entropy", True, y), ("cost_sigmoid_cross_entropy", True, values),
        ("cost_squared_values", False, values), ("cost_squared_classes", False, y),
    ):  # fmt: skip
        k.cost(ce, z, z, t, partials, np.zeros(2))
        out[name] = partials.copy()  # what the kernel itself wrote; add_partials has its own entry
    k.cost(True, z, z, values, partials, np.zeros(2), softmax=True)
    out["cost_softmax_probabilities"] = partials.copy()
    k.cost(False, z, z, values, partials, np.zeros(2), errors=(5, 0.4))
    out["cost_of_errors"] = partials.copy()
    k.squares_and_nonfinite(z, partials, np.zeros(2))
    out["squares_and_nonfinite"] = partials.copy()
    out["column_sums"] = np.zeros(n, np.float32)
    k.column_sums(z, out["column_sums"], np.full(scratch_size(n), np.nan, np.float32), accumulate=False)
    out |= of_a_step(device, z, y, values)
    out["add_partials"] = np.zeros(2)
    device.launch(
        "add_partials", "float32", (2,), (256,), (out["add_partials"], np.arange(1400.0).reshape(2, 700), 700, 1.0)
    )
    out |= of_layers(device, z, values)
    case = narrow.Case(Memory(), (9, 33, 40), part=20, batch=30).run(96, device=device)
    out["narrow_steps"] = np.concatenate([case.totals, case.moved, *case.states])
    return out


def of_a_step(device, z, y, values):
    """The same for the kernels of a training step; each result is everything that the kernel wrote."""
    k, (m, n) = StepKernels(device, "float32"), z.shape
    rows, bias, out = Rows(np.arange(m), np.zeros(1, np.int64), m, 0, m), np.ones(n, np.float32), {}
    for name, g, ce, t in (
        ("softmax_cross_entropy", Softmax(), True, y),
        ("softmax_probabilities", Softmax(), True, values),
        ("sigmoid_cross_entropy", Sigmoid(), True, values),
        ("squared_values", Tanh(), False, values),
        ("squared_classes", Tanh(), False, y),
        ("softmax_squared_values", Softmax(), False, values),
        ("softmax_squared_classes", Softmax(), False, y),
    ):
        partials, delta = np.zeros(partials_shape()), z.copy()  # delta over z, as a program has it
        k.output(g, ce, delta, bias, t, rows, delta, partials, accumulate=False)
        out[f"output_{name}"] = np.concatenate([partials.ravel(), delta.ravel()])
    partials, delta = np.zeros(partials_shape()), z.copy()
    k.output(Identity(), False, delta, bias, values, rows, delta, partials, accumulate=False, errors=(5, 0.4))
    out["output_of_errors"] = np.concatenate([partials.ravel(), delta.ravel()])
    chunks, delta = np.zeros(5 * n, np.float32), z.copy()
    k.derivative_sums(Tanh(), delta, values, chunks, 64, accumulate=False)
    out["derivative_sums"] = np.concatenate([chunks, delta.ravel()])
    spans, constants = (
        np.array([[0, 9000, 9030, 0, 9000, 300, 300]]),
        np.array([[0.5, 0.1, 0.1, 0.001, 2.0, 1e-3, 0.9]], np.float32),
    )
    for rule, slots in (("sgd", 0), ("momentum", 1), ("adam", 2)):
        theta, state, squares = (
            z.ravel()[:9030].copy(),
            [np.abs(values.ravel()[:9030]) for _ in range(slots)],
            np.zeros(3),
        )
        table = np.ascontiguousarray(constants[:, : CONSTANTS[rule]])
        k.update(
            rule, theta, theta, values.ravel()[:9030].copy(), state, spans, table, np.zeros(1, np.int64), squares, 7
        )
        out[f"update_{rule}"] = np.concatenate([squares, theta, *state])
    out["finish_step"] = np.zeros(2)
    k.finish_step(
        out["finish_step"], np.zeros(1, np.int64), np.arange(512.0).reshape(2, 256), 200, np.arange(300.0), constants, 7
    )
    return out


def of_layers(device, z, values):
    """The same for the kernels of LARS and LAMB, and for those that clip."""
    spans, layers, out = (
        np.array([[0, 9000, 9090, 0, 9000, 300, 300], [9090, 9100, 12000, 9090, 9100, 10, 10]]),
        LayerwiseKernels(device, "float32"),
        {},
    )
    for rule, slots, constants in (
        ("lars", 1, (0.1, 0.5, 0.9, 0.02, 0.3)),
        ("lamb", 2, (0.1, 0.05, 0.1, 0.01, 2.0, 30.0, 1e-6, 0.3)),
    ):
        state = [np.zeros(z.size, np.float32) for _ in range(slots)]
        sums, ratios, squares = (
            np.full(layer_partials_shape(2), np.nan),
            np.full(layer_ratios_shape(2), np.nan),
            np.zeros(512),
        )
        table = np.array([constants], np.float32)
        getattr(layers, rule)(
            z.ravel().copy(), values.ravel(), *state, spans, sums, ratios, squares, table, np.zeros(1, np.int64), 7
        )
        out[f"{rule}_norms"] = sums
    out["clip_norms"], out["clip_factor"] = np.zeros(clip_partials_shape(2)), np.array([1e-3, 0])
    ClipKernels(device, "float32")(
        z.ravel().copy(), values.ravel().copy(), spans, out["clip_norms"], out["clip_factor"],
        np.array([[0.1, 0.5]], np.float32), np.zeros(1, np.int64), 7,
    )  # fmt: skip
    out["layer_ratios"] = np.zeros(4)
    table = np.ones((1, 5), np.float32)
    device.launch(
        "layer_ratios",
        "float32",
        (4,),
        (256,),
        (out["layer_ratios"], np.arange(5600.0).reshape(4, 2, 700), 700, table, 5, np.zeros(1, np.int64), 1),
    )
    return out


@pytest.fixture(scope="module")
def right():
    return everything_with_a_reduction(5)


@pytest.mark.parametrize("seed", range(6))
def test_same_input_same_bits_whatever_the_schedule(seed, right):
    for name, result in everything_with_a_reduction(seed).items():
        np.testing.assert_array_equal(result.view(np.uint8), right[name].view(np.uint8), err_msg=name)


def kernels_that_use(*words):
    """Kernels whose source, headers and helpers included, uses one of the words."""
    sums = ("block_sum", "store_partials", "store_sums", "store_squares", "update<")
    groups = ("softmax_row", "softmax_constants", "group_", "squared_error(", "softmax_squared(")
    helpers = {"block_barrier": (*sums, "chunk_sums", "squared_error(", "softmax_squared("), "warp_": (*sums, *groups)}
    wanted = [*words, *(h for w in words for h in helpers.get(w, ()))]
    found = []
    for kernel in sources.kernels().values():
        body = (
            sources.read(kernel.file)
            .split(f" {kernel.name}(", 1)[1]
            .split('extern "C"', 1)[0]
            .split("__forceinline__", 1)[0]
        )
        if any(word in body for word in wanted):
            found.append(kernel.name)
    return found


@pytest.mark.parametrize("name", kernels_that_use("block_barrier"))
def test_a_missing_barrier_is_seen(name, right):
    """The planted fault proves that the stand-in would show a forgotten __syncthreads."""
    wrong = [everything_with_a_reduction(seed, ("FASTNN_FAULT_NO_BARRIER",))[name] for seed in range(3)]
    assert all(not np.array_equal(result, right[name]) for result in wrong)


@pytest.mark.parametrize("name", kernels_that_use("warp_"))
def test_a_short_shuffle_is_seen(name, right):
    wrong = everything_with_a_reduction(0, ("FASTNN_FAULT_SHORT_SHUFFLE",))[name]
    assert not np.array_equal(wrong, right[name])


def test_every_kernel_with_a_reduction_is_in_these_lists(right):
    assert set(right) == {*kernels_that_use("block_barrier"), *kernels_that_use("warp_")}


# ---- the launchers refuse what a kernel would misread -----------------------------------------------------------


def test_launch_checks():
    k, z, b = Kernels(ShimDevice()), normal((4, 3), np.float32), normal(3, np.float32)
    with pytest.raises(ValueError, match=r"add_bias: z must be C-contiguous, got shape \(3, 4\)"):
        k.add_bias(z.T, normal(4, np.float32))
    with pytest.raises(TypeError, match="add_bias: b must be float32, got float64"):
        k.add_bias(z, b.astype(np.float64))
    with pytest.raises(TypeError, match=r"add_bias: b must be an array on the device, got .*Strange"):
        k.add_bias(z, type("Strange", (), {"shape": (3,)})())
    with pytest.raises(ValueError, match=r"b must have shape \(3,\), got \(4,\)"):
        k.add_bias(z, normal(4, np.float32))
    with pytest.raises(ValueError, match=r"a must have the shape \(4, 3\) of z, got \(3, 4\)"):
        k.activate(ReLU(), z, np.empty((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"y must have shape \(4,\), got \(3,\)"):
        k.output_delta(Softmax(), True, z, np.zeros(3, np.int64), np.empty_like(z))
    with pytest.raises(TypeError, match="classes must be int64, got int32"):
        k.output_delta(Softmax(), True, z, np.zeros(4, np.int32), np.empty_like(z))
    with pytest.raises(ValueError, match="scratch must hold at least"):
        k.column_sums(z, b, b, accumulate=True)
    with pytest.raises(ValueError, match="at least one row"):
        k.column_sums(z[:0], b, np.empty(scratch_size(3), np.float32), accumulate=False)
    with pytest.raises(TypeError, match="kernel add_bias takes 4 arguments, got 2"):
        ShimDevice().launch("add_bias", "float32", (1,), (32,), (z, b))


def test_no_rows_launch_nothing():
    device = ShimDevice()
    k, none, b = Kernels(device), np.empty((0, 3), np.float32), np.ones(3, np.float32)
    k.add_bias(none, b)
    k.activate(Softmax(), none, none)
    k.activate(Tanh(), none, none)
    k.column_sums(none, b, np.empty(scratch_size(3), np.float32), accumulate=True)
    k.cost(True, none, none, np.empty(0, np.int64), np.empty(partials_shape()), np.zeros(2))
    assert device.launches == []
    np.testing.assert_array_equal(b, 1)


# ---- the stand-in itself ------------------------------------------------------------------------------------------


def gemm(dtype, m, n, k, op_A, op_B, beta=0.0):
    A, B, C = normal((m, k), dtype), normal((k, n), dtype, 1), normal((m, n), dtype, 2)
    # Column-major memory of X is the row-major memory of its transpose.
    stored = [np.ascontiguousarray(x.T if op == "N" else x) for x, op in ((A, op_A), (B, op_B))]
    out = np.array(C.T, order="C")
    ShimDevice().gemm(
        op_A, op_B, m, n, k, stored[0], stored[0].shape[1], stored[1], stored[1].shape[1], out, m, alpha=2.0, beta=beta
    )
    return out.T, 2 * A @ B + beta * C


@floats
@pytest.mark.parametrize("ops", ["NN", "TN", "NT", "TT"])
@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5])
def test_the_stand_in_product_is_that_of_blas(ops, beta, dtype):
    for m, n, k in ((1, 1, 1), (3, 5, 2), (7, 1, 4)):
        got, expected = gemm(dtype, m, n, k, *ops, beta)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_product_checks():
    device, x = ShimDevice(), np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError, match="one dtype"):
        device.gemm("N", "N", 3, 2, 2, x, 3, x.astype(np.float64), 2, x, 3)
    with pytest.raises(ValueError, match="gemm: A of 6 elements with ld=3 cannot hold 3 x 5"):
        device.gemm("N", "N", 3, 1, 5, x, 3, x, 5, x, 3)
    with pytest.raises(
        ValueError, match="gemm: B must be a C-contiguous array on the device, or have its rows 2 elements apart"
    ):
        device.gemm("N", "N", 3, 2, 2, x, 3, x[:, :2], 2, x, 3)
    full = np.full((2, 3), np.nan, np.float32)
    device.gemm("N", "N", 3, 2, 2, np.ones((2, 3), np.float32), 3, np.ones((2, 2), np.float32), 2, full, 3)
    np.testing.assert_array_equal(full, 2)  # beta = 0 does not read C


def test_a_barrier_not_reached_by_all_is_an_error(monkeypatch, tmp_path):
    source = (
        'extern "C" __global__ void half_way(REAL* x, int64 count) { if (threadIdx.x < count) __syncthreads(); }\n'
        'extern "C" __global__ void half_warp(REAL* x, int64 count) { if (threadIdx.x < count) x[0] = '
        "__shfl_xor_sync(0xffffffffu, x[0], 1); }\n"
    )
    (tmp_path / "bad.cu").write_text('#include "common.cuh"\n' + source)
    (tmp_path / "common.cuh").write_text(sources.read("common.cuh"))
    monkeypatch.setattr(sources.resources, "files", lambda package: tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "kernels", lambda kernels=sources.kernels.__wrapped__: kernels())
        patch.setattr("cuda_on_cpu.device.library", builder.library.__wrapped__)
        x = np.zeros(8, np.float32)
        for name, text in (
            ("half_way", "__syncthreads was not reached"),
            ("half_warp", "shuffle or __syncwarp was not reached"),
        ):
            with pytest.raises(KernelFault, match=f"{name}: a {text}"):
                ShimDevice().launch(name, "float32", (1,), (32,), (x, 7))


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr(builder.shutil, "which", lambda name: None)
    with pytest.raises(CompilerMissing, match=r"g\+\+, which is not installed"):
        library.__wrapped__("float32")


def test_what_the_compiler_refuses_is_shown(monkeypatch):
    monkeypatch.setattr(builder, "translation_unit", lambda: "int main( {")
    with pytest.raises(RuntimeError, match=r"g\+\+ refuses the CUDA kernels:[\s\S]*error"):
        library.__wrapped__("float32")


def test_numbers_that_stand_in_sources_and_in_python_are_the_same():
    defined = {
        name: int(value)
        for source in (*sources.files(), "layers.cuh", "common.cuh", "costs.cuh")
        for name, value in re.findall(r"^#define (\w+) (\d+)\b", sources.read(source), re.MULTILINE)
    }
    assert defined["OF_A_SPAN"] == step.OF_A_SPAN
    assert defined["OF_A_LAYER"] == fused.OF_A_LAYER
    assert defined["REDUCTION_BLOCKS"] == launchers.REDUCTION_BLOCKS
    assert defined["WARP"] == launchers.WARP
    assert defined["MAX_THREADS"] == launchers.THREADS
    assert defined["MAX_WARPS"] == 1024 // launchers.WARP
    assert defined["CONSTANTS"] == max(step.CONSTANTS[rule] for rule in fused.RULES)
    pairs = [
        fastnn.Network([1, 1], output=output, cost=cost, backend="numpy").pair
        for output, cost in (("exp", "poisson"), ("identity", "huber:1"), ("identity", "quantile:.5"))
    ]
    assert [defined["POISSON"], defined["HUBER"], defined["QUANTILE"]] == [pair.code for pair in pairs]
