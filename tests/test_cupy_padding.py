"""Rows of an aligned length in training programs, for nets of any sizes: the float64 oracle, gaps that nobody reads or
writes, the same bits as without gaps, and a stand-in that insists on the alignment. Wrong strides in single kernels:
test_cuda_step.py, test_cuda_faults.py."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace

import numpy as np
import pytest
import reference
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.products import check_alignment
from hypothesis import example, given
from hypothesis import strategies as st

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_arena, cupy_buffers, cupy_program, cupy_update
from fastnn.backends.cupy_arena import Arena
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_products import forward, outer, row_ld
from fastnn.backends.cupy_update import has_copy, padded

# Relative size of one rounding of a factor.
ROUNDING = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8}
PRECISIONS = tuple(ROUNDING)
OWN = ("DEFAULT",)
precisions = pytest.mark.parametrize("precision", PRECISIONS)
odd_sizes = st.lists(st.integers(1, 41), min_size=2, max_size=5).map(tuple)


def program_of(
    sizes, precision, *, rows, offers=None, hidden="relu", rule=optimizers.SGD, rate=1.0, micro_batch=None, **given
):
    """A program over the stand-in, and data; its network has two classes or more."""
    device = ShimDevice(**({} if offers is None else {"offers": offers}), **given)
    output = {} if sizes[-1] > 1 else {"output": "sigmoid"}
    net = fastnn.Network(sizes, hidden=hidden, precision=precision, backend=CupyBackend(device), seed=2, **output)
    rng = np.random.default_rng(sizes)
    X = rng.standard_normal((rows + 3, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], rows + 3) if sizes[-1] > 1 else rng.random((rows + 3, 1)).astype(np.float32)
    return net.backend.compile(net, rule(rate), rows, micro_batch), X, y


def matrices(program):
    """Names of the pieces of memory that hold matrices, or what belongs to them."""
    return [
        name
        for name in program._arena._views
        if name.startswith(("a", "delta", "Delta", "low", "mask", "chunks")) and not name.startswith("trial")
    ]


def poison(program):
    """NaN everywhere, between rows too."""
    for name in matrices(program):
        program._arena[name].view(np.uint8).fill(0xFF)


def gaps(program):
    """What lies between the rows of every a, and of Delta and the copy of theta."""
    sizes, arena = program.net.sizes, program._arena
    found = [arena[f"a{layer}"][:, n:] for layer, n in enumerate(sizes[:-1])]
    vectors = [arena[name] for name in ("Delta", "low") if name in matrices(program)]
    for (begin, ld, _), n_in, n_out in zip(padded(sizes)[0], sizes, sizes[1:], strict=False):
        found += [vector[begin : begin + n_out * ld].reshape(n_out, ld)[:, n_in:] for vector in vectors]
    return found


@contextlib.contextmanager
def without_gaps():
    """Every leading dimension is the number of columns."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (cupy_arena, cupy_buffers, cupy_update):
            patch.setattr(module, "row_ld", lambda units, kind: units)
        yield


def test_rows_begin_at_multiples_of_16_bytes():
    assert [row_ld(n, "bfloat16") for n in (1, 8, 10, 841, 2500, 4096)] == [8, 8, 16, 848, 2504, 4096]
    assert [row_ld(n, "float32") for n in (1, 4, 10, 841, 2500)] == [4, 4, 12, 844, 2500]
    assert [row_ld(n, "float64") for n in (1, 10, 841)] == [2, 10, 842]


@pytest.mark.parametrize(("sizes", "kind", "compute", "expected"), [
    ((784, 300, 100, 10), "float32", "tf32", False), ((841, 300, 10), "float32", "tf32", True), ((784, 30, 10), "float32", "tf32", True), ((784, 31, 4), "float32", "tf32", True),
    ((4, 3, 4), "float32", "tf32", True), ((841, 300, 10), "float32", "fp32", False), ((841, 300, 10), "float64", "fp64", False), ((784, 300, 100, 10), "bfloat16", "fp32", True),
])  # fmt: skip
def test_products_read_a_copy_of_theta_where_it_is_rounded_or_lies_as_tensor_cores_do_not_want_it(
    sizes, kind, compute, expected
):
    """In tf32 where rows are 841 or 30 numbers long, or the second layer begins at 31 x 785 numbers."""
    assert has_copy(sizes, kind, compute) is expected


def test_a_copy_is_counted_in_the_footprint():
    with_copy, without = (program_of(sizes, "tf32", rows=5)[0] for sizes in ((841, 8, 4), (840, 8, 4)))
    assert with_copy._buffers.low is not with_copy.net.theta
    assert without._buffers.low is without.net.theta
    assert with_copy.arena_bytes - without.arena_bytes > 4 * 841 * 8


# ---- right, whatever the sizes ---------------------------------------------------------------------------------------


@precisions
@pytest.mark.parametrize("offers", [None, OWN], ids=["epilogues", "own kernels"])
@given(sizes=odd_sizes, rows=st.integers(1, 40), parts=st.sampled_from([1, 3]))
@example(sizes=(17, 20, 12, 10), rows=33, parts=1)
@example(sizes=(29, 25, 20, 15, 10), rows=40, parts=3)
@example(sizes=(1, 1), rows=1, parts=1)
def test_a_gradient_against_the_oracle(offers, precision, sizes, rows, parts):
    """One step of gradient descent with rate 1 moves theta by D; tanh, because a kink would turn a rounding into
    another gradient.
    """
    program, X, y = program_of(sizes, precision, rows=rows, offers=offers, hidden="tanh", micro_batch=-(-rows // parts))
    theta = program.net.theta.copy()
    poison(program)
    order = np.random.default_rng(1).permutation(rows + 3)
    cost, _ = program.run(X, y, order, 0, 1)
    names = ["tanh"] * (len(sizes) - 2) + ["softmax" if sizes[-1] > 1 else "sigmoid"]
    problem = (theta, sizes, names, "cross_entropy", X[order[:rows]], reference.as_rows(y[order[:rows]], sizes[-1]))
    exact = np.asarray(reference.gradient(*problem), float)
    # A few roundings of the factors; of theta as well where D is small beside it.
    limit = 16 * ROUNDING[precision] * np.linalg.norm(exact) + 4 * ROUNDING["fp32"] * np.linalg.norm(theta) + 1e-6
    assert np.linalg.norm((theta - program.net.theta) - exact) < limit
    np.testing.assert_allclose(cost / rows, float(reference.cost(*problem)), rtol=16 * ROUNDING[precision], atol=1e-5)
    for gap in gaps(program):
        assert (np.ascontiguousarray(gap).view(np.uint8) == 0xFF).all(), "something was written between rows"


RULES = [optimizers.SGD, optimizers.Momentum, optimizers.Adam, optimizers.LARS, optimizers.LAMB]


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("offers", [None, OWN], ids=["epilogues", "own kernels"])
@given(
    sizes=odd_sizes, rows=st.integers(1, 40), rule=st.sampled_from(RULES), hidden=st.sampled_from(["relu", "sigmoid"])
)
@example(sizes=(17, 20, 12, 10), rows=33, rule=optimizers.Adam, hidden="relu")
def test_the_same_bits_as_without_gaps(offers, precision, sizes, rows, rule, hidden):
    """NaN between rows reaches no result. (In fp32 the stand-in's products may add up in another order.)"""
    results = []
    for way in (contextlib.nullcontext(), without_gaps()):
        with way:
            program, X, y = program_of(
                sizes, precision, rows=rows, offers=offers, hidden=hidden, rule=rule, rate=0.01, aligned=not results
            )
            poison(program)
            cost = [program.run(X, y, np.arange(rows + 3), 0, 2)[0] for _ in range(2)]
        results.append((cost, program.net.theta.copy(), *program.optimizer.state))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert np.isfinite(results[0][1]).all()


@precisions
@pytest.mark.parametrize("hidden", ["relu", "sigmoid"])
def test_captured_steps_equal_eager_ones_bit_for_bit(precision, hidden):
    thetas = []
    for refuse in (None, "for comparison"):
        program, X, y = program_of(
            (17, 20, 12, 10), precision, rows=16, hidden=hidden, rule=optimizers.Adam, rate=0.01, refuses_capture=refuse
        )
        with pytest.warns(RuntimeWarning, match="for comparison") if refuse else contextlib.nullcontext():
            for epoch in range(20):
                program.run(X, y, np.random.default_rng(epoch).permutation(19), 0, 2)
        assert program.mode == ("eager" if refuse else "captured")
        thetas.append(program.net.theta)
    np.testing.assert_array_equal(*thetas)


# ---- memory
# -------------------------------------------------------------------------------------------------------------


@precisions
@pytest.mark.parametrize("sizes", [(17, 20, 12, 10), (1, 1), (841, 9, 3)], ids=str)
def test_the_footprint_is_predicted_exactly(sizes, precision):
    device = ShimDevice()
    net = fastnn.Network(sizes, output="sigmoid", precision=precision, backend=CupyBackend(device))
    rule = optimizers.Adam(0.01)
    rule.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
    predicted, taken, empty = Arena.size(cupy_program.footprint(net, device, 7, 7, rule)), [], device._empty
    device._empty = lambda shape, dtype: (
        taken.append(int(np.prod(shape)) * np.dtype(dtype).itemsize) or empty(shape, dtype)
    )
    program = net.backend.compile(net, rule, 7)
    assert taken == [predicted] == [program.arena_bytes]
    rows = 7 * sum(16 * -(-n * (2 if precision == "bf16" else 4) // 16) for n in sizes[:-1])
    assert sum(program._arena[f"a{layer}"].nbytes for layer in range(len(sizes) - 1)) == rows
    assert f"{predicted / 1e6:,.1f} MB of device memory" in net.plan(7)


def test_the_pieces_of_a_padded_vector_are_apart_and_aligned():
    for sizes in ((1, 1), (17, 20, 12, 10), (841, 2500, 10)):
        begins, length = padded(sizes)
        ends = []
        for (begin, ld, biases), (n_in, n_out) in zip(begins, itertools.pairwise(sizes), strict=True):
            assert (begin % 128, biases % 128, ld) == (0, 0, row_ld(n_in, "bfloat16"))
            assert begin >= (ends[-1] if ends else 0)
            assert biases >= begin + n_out * ld
            ends.append(biases + n_out)
        assert length >= ends[-1]


# ---- the alignment is insisted on
# ------------------------------------------------------------------------------------------


@precisions
@pytest.mark.parametrize(
    "where", [cupy_arena, cupy_buffers, cupy_update], ids=lambda module: module.__name__.split(".")[-1]
)
def test_a_program_without_gaps_is_refused_by_the_stand_in(where, precision, monkeypatch):
    """Planted: one of the places that know leading dimensions forgets them. Memory that is too small cannot be
    viewed either.
    """
    monkeypatch.setattr(where, "row_ld", lambda units, kind: units)
    with pytest.raises(
        (AssertionError, ValueError),
        match="is not aligned to 16 bytes" if where is not cupy_arena else "aligned|reshape",
    ):
        program_of((17, 21, 13, 10), precision, rows=9)


@precisions
def test_a_bias_that_begins_anywhere_in_theta_is_added_by_an_own_kernel(precision):
    """That is in fp32; tf32 and bf16 read it in a copy. Biases of layer 3 lie 3 * 5 + 5 + 5 * 6 numbers from the
    beginning of theta, 200 bytes; those of layer 2 lie 60 bytes from it.
    """
    program, *_ = program_of((3, 5, 6, 4), precision, rows=9)
    assert [choice.forward for choice in program._choices[:2]] == (
        ["DEFAULT"] * 2 if precision == "fp32" else ["RELU_AUX_BIAS"] * 2
    )
    program, *_ = program_of((4, 6, 6, 4), precision, rows=9)  # 96 bytes; 264 bytes
    assert [choice.forward for choice in program._choices[:2]] == [
        "RELU_AUX_BIAS",
        "DEFAULT" if precision == "fp32" else "RELU_AUX_BIAS",
    ]


def test_what_the_stand_in_insists_on():
    aligned, beside = 4096, 4096 + 8
    product = forward(3, 8, 16, "bfloat16", "fp32", "BIAS")
    check_alignment(product, [aligned] * 4 + [None])
    for wrong, name in enumerate(("A", "B", "D", "bias")):
        with pytest.raises(AssertionError, match=rf"{name} at {beside} with"):
            check_alignment(product, [beside if at == wrong else aligned for at in range(4)] + [None])
    with pytest.raises(AssertionError, match="B at 4096 with leading dimension 9"):
        check_alignment(forward(3, 8, 16, "bfloat16", "fp32", lds=(8, 9, 16)), [aligned] * 3 + [None] * 2)
    # theta itself lies as it lies, and fp32 reads it so.
    theta_of = forward(3, 9, 16, "float32", "fp32", "BIAS", lds=(9, 12, 16)), [beside, aligned, aligned, aligned, None]
    check_alignment(*theta_of)
    with pytest.raises(AssertionError, match=rf"A at {beside} with leading dimension 9"):
        check_alignment(replace(theta_of[0], compute="tf32"), theta_of[1])
    with pytest.raises(AssertionError, match="D at 4096 with leading dimension 9"):
        check_alignment(outer(3, 9, 16, "float32", "tf32", lds=(12, 16, 9)), [aligned] * 3 + [None] * 2)
