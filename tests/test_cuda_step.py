"""The fused CUDA kernels of a training step, compiled for the CPU, in float32, float64 and bfloat16, against
extended precision.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference
from cuda_cases import (
    Memory,
    activations,
    classes,
    close,
    g_of,
    normal,
    one_hot,
    places,
    shapes,
    slope_of,
    softmax_of,
    spans_of,
    wide,
)
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.products import rounded, widened
from together import together
from tolerances import assert_close

from fastnn import costs
from fastnn.activations import Exp, Identity, LeakyReLU, Sigmoid, SiLU, Softmax, Tanh
from fastnn.kernels.cuda import sources
from fastnn.kernels.cuda.launchers import in_chunks, partials_shape
from fastnn.kernels.cuda.step import CONSTANTS, Rows, StepKernels, output_blocks

kinds = pytest.mark.parametrize("kind", sources.KINDS)
STEP, OFFSET = 2, 3  # the third step of a run, from its fourth row on


@pytest.fixture
def memory():
    made = Memory()
    yield made
    made.check()


def kernels(kind, seed=1):
    return StepKernels(ShimDevice(seed), kind)


def real(kind):
    return sources.real(kind).name


def stored(x, kind):
    """x as a STORE array, and what it holds."""
    x = rounded(x) if kind == "bfloat16" else x.astype(real(kind))
    return x, widened(x)


def eps(kind):
    """Relative distance of neighbouring numbers of STORE."""
    return 2.0**-7 if kind == "bfloat16" else np.finfo(real(kind)).eps


def close_in(kind, got, expected, magnitude, ulps):
    """Within `ulps` units of the computation and half a unit of what it is stored in."""
    precision = np.finfo(real(kind)).eps
    bound = (ulps * precision + (eps(kind) if kind == "bfloat16" else 0)) * np.abs(magnitude) + np.finfo(
        np.float32 if kind == "bfloat16" else real(kind)
    ).tiny
    assert_close(widened(got).astype(np.longdouble), expected, bound)


def rows_of(m, memory):
    """Rows in the third step of a run over a shuffled order; and which they are."""
    batch = m + 5
    order = np.random.default_rng(m).permutation(3 * batch)
    return Rows(memory(order), memory(np.array([STEP])), batch, OFFSET, m), order[STEP * batch + OFFSET :][:m]


# ---- rows of a batch --------------------------------------------------------------------------------------


@kinds
@shapes
@pytest.mark.parametrize("source", ["same", "uint8"])
def test_gather(source, shape, kind, memory):
    m, n = shape
    rows, chosen = rows_of(m, memory)
    x = (
        np.random.default_rng(1).integers(0, 256, (3 * (m + 5), n)).astype(np.uint8)
        if source == "uint8"
        else normal((3 * (m + 5), n), real(kind))
    )
    scale = np.float32(1 / 255).item() if source == "uint8" else 1.0
    out = memory.apart(stored(np.full(shape, np.nan), kind)[0])
    kernels(kind).gather(memory(x), rows, out, scale)
    exact = wide(x)[0][chosen] * np.longdouble(np.dtype(real(kind)).type(scale))
    close_in(kind, out, exact, exact, 1)
    if source == "same" and kind != "bfloat16":
        np.testing.assert_array_equal(out, x[chosen])


@kinds
def test_gather_of_a_row_that_is_not_there(kind):
    x, order = normal((4, 8), real(kind)), np.array([0, 4, -1, 3])
    out = stored(np.zeros((4, 8)), kind)[0]
    kernels(kind).gather(x, Rows(order, np.zeros(1, np.int64), 4, 0, 4), out, 1.0)
    assert np.isnan(widened(out)[1:3]).all()
    np.testing.assert_array_equal(out[[0, 3]], stored(x[[0, 3]], kind)[0])


# ---- bias and activation -----------------------------------------------------------------------------------


@kinds
@shapes
@activations
def test_bias_activate(g, shape, kind, memory):
    (a, z), b = stored(normal(shape, np.float32), kind), normal(shape[1:], real(kind), 1)
    a = memory.apart(a)
    kernels(kind).bias_activate(g, a, memory(b))
    with np.errstate(over="ignore"):
        shifted = (z.astype(real(kind)) + b).astype(np.longdouble)  # the sum is rounded before g sees it
    expected = g_of(g, shifted.astype(np.dtype(real(kind)))).astype(np.longdouble)
    close_in(kind, a, expected, expected, 8)


# ---- the output layer ---------------------------------------------------------------------------------------


@kinds
@together("shape", [(1, 2), (7, 3), (33, 10), (3, 33), (601, 4)])
@pytest.mark.parametrize("cost", ["absolute_error", "huber:0.4", "quantile:0.75", "poisson"])
def test_output_of_errors(cost, shape, kind, memory):
    g = Exp() if cost == "poisson" else Identity()
    pair, (m, n) = costs.pair(g, cost), shape
    rows, chosen = rows_of(m, memory)
    (z, exact), b = stored(normal(shape, np.float32), kind), normal(shape[1:], real(kind), 1)
    y = np.random.default_rng(4).random((3 * (m + 5), n)).astype(real(kind))
    z, partials = memory.apart(z), memory(np.full(partials_shape(), np.nan))
    delta, blocks, k = memory.apart(stored(np.full(shape, np.nan), kind)[0]), output_blocks(m, n), kernels(kind)
    a, t = exact.astype(real(kind)) + b, y[chosen]
    slopes, of_rows = reference.output_delta(g.name, cost, a, t), reference.cost_rows(g.name, cost, a, t)
    weights = np.random.default_rng(m).random(len(y)).astype(real(kind))
    total = 0.0
    for w in (None, weights):  # the second time as another part of the batch
        k.output(
            g, False, z, memory(b), memory(y), rows, delta, partials, accumulate=w is not None,
            weights=None if w is None else memory(w), errors=(pair.code, pair.parameter),
        )  # fmt: skip
        shares = np.ones(m) if w is None else weights[chosen]
        total += float((shares * of_rows).sum())
        close_in(kind, delta, shares[:, None] * slopes, np.abs(g.value(a)) + np.abs(t) + 1, 8)
        np.testing.assert_allclose(partials[0, :blocks].sum(), total, rtol=64 * (n + 8) * np.finfo(real(kind)).eps)
        assert not partials[1, :blocks].any()


OUTPUTS = [(Softmax(), True, "classes"), (Softmax(), True, "values"), (Sigmoid(), True, "values")]
OUTPUTS += [(g, False, y) for g in (Softmax(), Identity(), Tanh(), LeakyReLU()) for y in ("classes", "values")]
WIDTHS = [(1, 2), (5, 1), (7, 3), (33, 10), (9, 32), (3, 33), (2, 300), (601, 4)]


def expected_output(g, cross_entropy, z, y, n):
    """cost, hits, delta and the magnitudes that enter delta, from exact z (with bias) and targets."""
    t = one_hot(y, n)
    h = softmax_of(z) if isinstance(g, Softmax) else np.asarray(g_of(g, z), np.longdouble)
    e = h - t
    if cross_entropy and isinstance(g, Softmax):
        top = z.max(axis=1, keepdims=True)
        cost, delta = (t * (np.log(np.exp(z - top).sum(axis=1)) + top[:, 0] - z.T).T).sum(), e
    elif cross_entropy:
        cost, delta = (np.maximum(z, 0) - t * z + np.log1p(np.exp(-np.abs(z)))).sum(), e
    else:
        cost = (e**2).sum() / 2
        delta = h * (e - (e * h).sum(axis=1, keepdims=True)) if isinstance(g, Softmax) else e * slope_of(g, h)
    hits = (
        (h.argmax(axis=1) == t.argmax(axis=1)).sum()
        if y.ndim == 1 or (cross_entropy and isinstance(g, Softmax))
        else ((h >= 0.5) == (t >= 0.5)).all(axis=1).sum()
        if cross_entropy
        else 0
    )
    return cost, hits, delta, (np.abs(h) + np.abs(t)) * (n + 4 if isinstance(g, Softmax) else 2)


@kinds
@together("shape", WIDTHS)
@pytest.mark.parametrize(
    ("g", "cross_entropy", "targets"), OUTPUTS, ids=lambda v: repr(v) if not isinstance(v, (bool, str)) else str(v)
)
@pytest.mark.parametrize("over", ["delta over z", "apart"])
def test_output(over, g, cross_entropy, targets, shape, kind, memory):
    m, n = shape
    rows, chosen = rows_of(m, memory)
    (z, exact), b = stored(normal(shape, np.float32), kind), normal(shape[1:], real(kind), 1)
    many = 3 * (m + 5)
    y = classes(many, n) if targets == "classes" else np.random.default_rng(4).random((many, n)).astype(real(kind))
    z = memory.apart(z)
    delta = z if over == "delta over z" else memory(stored(np.full(shape, np.nan), kind)[0])
    partials = memory(np.full(partials_shape(), np.nan))
    k = kernels(kind)
    k.output(g, cross_entropy, z, memory(b), memory(y), rows, delta, partials, accumulate=False)
    shifted = wide(exact.astype(real(kind)) + b)[0]
    cost, hits, expected, magnitude = expected_output(
        g, cross_entropy, shifted, y[chosen] if y.ndim == 1 else wide(y[chosen])[0].astype(real(kind)), n
    )
    spread = 1 + np.abs(shifted - shifted.max(axis=1, keepdims=True)) if isinstance(g, Softmax) else 1
    close_in(kind, delta, expected, magnitude * spread, 8)
    blocks = output_blocks(m, n)
    np.testing.assert_allclose(partials[0, :blocks].sum(), float(cost), rtol=64 * (n + 8) * np.finfo(real(kind)).eps)
    assert partials[1, :blocks].sum() == hits
    if over == "apart":  # a second part of the batch adds its sums; here its rows have weights
        weights = np.random.default_rng(m).random(many).astype(real(kind))
        k.output(g, cross_entropy, z, b, y, rows, delta, partials, accumulate=True, weights=memory(weights))
        targets = y[chosen] if y.ndim == 1 else wide(y[chosen])[0].astype(real(kind))
        of_rows = [expected_output(g, cross_entropy, shifted[[i]], targets[[i]], n)[0] for i in range(m)]
        both = float(cost) + float((weights[chosen] * np.array(of_rows)).sum())
        np.testing.assert_allclose(partials[0, :blocks].sum(), both, rtol=64 * (n + 8) * np.finfo(real(kind)).eps)
        assert partials[1, :blocks].sum() == 2 * hits
        w = weights[chosen][:, None]
        close_in(kind, delta, w * expected, magnitude * spread, 8)


@pytest.mark.parametrize(("g", "cross_entropy"), [(Softmax(), True), (Softmax(), False), (Tanh(), False)])
@pytest.mark.parametrize("bad", ["row", "class"])
def test_a_row_or_a_class_out_of_range_makes_the_cost_nan(bad, g, cross_entropy):
    y, order = np.array([0, 1, 7 if bad == "class" else 2]), np.array([0, 5 if bad == "row" else 2])
    z, partials = np.zeros((2, 3), np.float32), np.zeros(partials_shape())
    kernels("float32").output(
        g,
        cross_entropy,
        z,
        np.zeros(3, np.float32),
        y,
        Rows(order, np.zeros(1, np.int64), 2, 0, 2),
        z,
        partials,
        accumulate=False,
    )
    assert np.isnan(partials[0]).any()


@kinds
@pytest.mark.parametrize(("g", "cross_entropy"), [(Softmax(), True), (Softmax(), False)])
def test_softmax_of_peaks(g, cross_entropy, kind):
    """The largest of each row in another place, and too large for exp: it must be found wherever it is."""
    n = 70
    z, y, partials = stored(np.where(np.eye(n, dtype=bool), 1e4, 0), kind)[0], np.arange(n), np.zeros(partials_shape())
    kernels(kind).output(
        g,
        cross_entropy,
        z,
        np.zeros(n, real(kind)),
        y,
        Rows(np.arange(n), np.zeros(1, np.int64), n, 0, n),
        z,
        partials,
        accumulate=False,
    )
    assert (widened(z) == 0).all()
    assert (partials[0].sum(), partials[1].sum()) == (0, n)
    z[...], b = 0, np.where(np.arange(n) == 41, 1e4, 0).astype(real(kind))  # the same with a peak in the bias
    kernels(kind).output(
        g,
        cross_entropy,
        z,
        b,
        np.full(n, 41),
        Rows(np.arange(n), np.zeros(1, np.int64), n, 0, n),
        z,
        partials,
        accumulate=False,
    )
    assert (widened(z) == 0).all()
    assert (partials[0].sum(), partials[1].sum()) == (0, n)


@kinds
@activations
def test_arrays_that_begin_anywhere(g, kind, memory):
    """No multiple of 16 bytes: the same numbers, moved one by one."""
    z, _ = stored(normal((9, 8), np.float32), kind)
    aligned, apart, b = memory(z), memory(np.append(z.dtype.type(7), z.ravel())), normal(8, real(kind), 1)
    kernels(kind).bias_activate(g, aligned, b)
    kernels(kind).bias_activate(g, apart[1:].reshape(z.shape), b)
    np.testing.assert_array_equal(apart[1:], aligned.ravel())
    assert apart[0] == 7


@kinds
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e4, -1e4])
def test_softmax_at_the_edges(value, kind):
    z = stored(np.array([[value, 0, 1], [0, 1, 2]]), kind)[0]
    partials = np.zeros(partials_shape())
    kernels(kind).output(
        Softmax(),
        True,
        z,
        np.zeros(3, real(kind)),
        np.array([0, 2]),
        Rows(np.arange(2), np.zeros(1, np.int64), 2, 0, 2),
        z,
        partials,
        accumulate=False,
    )
    assert np.isfinite(widened(z)[1]).all()
    assert np.isfinite(partials[0]).all() == np.isfinite(value)
    assert np.isfinite(widened(z)[0]).all() == np.isfinite(value)


# ---- times g', and sums over rows ----------------------------------------------------------------------------

TALL = [(1, 1), (8, 33), (255, 3), (257, 72), (1000, 5), (5000, 8)]


@kinds
@together("shape", TALL)
@pytest.mark.parametrize("g", [None, Identity(), Tanh(), LeakyReLU(), SiLU()], ids=repr)
def test_sums_of_columns(g, shape, kind, memory):
    m, n = shape
    (delta, d), (a, h) = stored(normal(shape, np.float32, 2), kind), stored(np.tanh(normal(shape, np.float32)), kind)
    per_chunk, parts = in_chunks(m)
    delta, chunks, k = memory.apart(delta), memory(np.full((parts + 1) * n, np.nan, real(kind))), kernels(kind)
    chunks[parts * n :] = 7
    if g is None:
        k.column_sums(delta, chunks, per_chunk, accumulate=False)
        product = wide(d)[0]
    else:
        k.derivative_sums(g, delta, memory.apart(a), chunks, per_chunk, accumulate=False)
        product = wide(d)[0] * slope_of(g, wide(h)[0])
        close_in(kind, delta, product, np.abs(wide(d)[0]) * 2, 4)
        product = wide(widened(delta))[0]  # what is stored is what is summed
    assert (chunks[parts * n :] == 7).all()
    Delta, table = memory(np.full(n + 4, -1, real(kind))), memory(np.array([[0, parts, 2, n], [0, 0, 0, n]]))
    k.sum_chunks(chunks, Delta, table, n)
    close(Delta[2:-2], product.sum(axis=0), np.abs(product).sum(axis=0), 200)
    np.testing.assert_array_equal(Delta[[0, 1, -2, -1]], -1)  # a layer without chunks is left alone
    before = chunks.copy()
    k.column_sums(delta, chunks, per_chunk, accumulate=True)
    np.testing.assert_array_equal(chunks[: parts * n], 2 * before[: parts * n])


# ---- the update ------------------------------------------------------------------------------------------------

UPDATES = {"sgd": (0, (0.1,)), "momentum": (1, (0.1, 0.9)), "adam": (2, (0.02, 0.1, 0.001, 30.0, 1e-8, 0.75))}


def updated(rule, theta, Delta, state, weights, rows, decay, constants):
    D = Delta / rows + np.where(weights, decay * theta, 0)
    if rule == "sgd":
        return theta - constants[0] * D, []
    if rule == "momentum":
        v = constants[1] * state[0] + D
        return theta - constants[0] * v, [v]
    rate, b1, b2, correction, eps_, kept = constants
    m, v = state[0] + b1 * (D - state[0]), state[1] + b2 * (D * D - state[1])
    return np.where(weights, kept, 1) * theta - rate * m / (np.sqrt(v * correction) + eps_), [m, v]


@kinds
@together("shift", [0, 1, 3])
@together("decay", [0.0, 0.25])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (5, 7, 1, 4), (60, 90, 3)], ids=str)
@pytest.mark.parametrize("rule", UPDATES)
def test_update(rule, sizes, decay, shift, kind, memory):
    """1/m and L2 within the step; biases do not decay; arrays may be aligned alike, differently or not at all."""
    spans, where, length = places(spans_of(sizes), sizes[:-1])
    begin, weights = (
        len(where),
        [w for n_in, n_out in itertools.pairwise(sizes) for w in [True] * (n_in * n_out) + [False] * n_out],
    )
    (slots, numbers), dtype, blocks = UPDATES[rule], real(kind), 2
    theta, Delta = normal(begin, dtype), normal(begin, dtype, 1)
    state = [np.abs(normal(begin, dtype, 2 + k)) for k in range(slots)]
    moved, untouched = memory(np.append(np.zeros(shift, dtype), theta))[shift:], memory(np.full(length, np.nan, dtype))
    untouched[where] = Delta
    states = [memory(s) for s in state]
    constants, squares = np.zeros((3, CONSTANTS[rule]), dtype), memory(np.zeros(len(spans) * blocks))
    constants[STEP] = decay, *numbers
    # a copy in the parameters' own dtype, as tf32 has it, in some of the cases
    copied = kind == "bfloat16" or shift == 3
    before, _ = stored(np.full(length, -5.0), kind)
    low = memory(before) if copied else moved
    kernels(kind).update(
        rule, moved, low, untouched, states, memory(spans), memory(constants), memory(np.array([STEP])), squares, 7
    )
    exact = wide(constants[STEP])[0]
    expected, expected_states = updated(rule, *wide(theta, Delta), wide(*state), weights, 7, exact[0], exact[1:])
    scale = np.abs(theta) + np.abs(Delta) + sum(np.abs(s) for s in state) + 1
    close(moved, expected, scale, 16)
    for got, want in zip(states, expected_states, strict=True):
        close(got, want, scale**2, 16)
    np.testing.assert_array_equal(untouched[where], Delta)
    assert np.isnan(np.delete(untouched, where)).all()
    np.testing.assert_allclose(squares.sum(), (wide(theta)[0] ** 2)[weights].sum() if decay else 0, rtol=1e-12)
    if copied:
        before[where] = rounded(moved) if kind == "bfloat16" else moved
        np.testing.assert_array_equal(low, before)


@kinds
def test_finish_step(kind):
    totals, step, partials, squares = np.array([1.0, 2.0]), np.array([1]), np.full((2, 700), np.nan), np.arange(700.0)
    partials[:, :600] = np.random.default_rng(0).random((2, 600))  # more than a program has, and than there are threads
    constants = np.zeros((3, 2), real(kind))
    k = kernels(kind)
    k.finish_step(totals, step, partials, 600, squares, constants, 7)
    np.testing.assert_allclose(totals, np.array([1, 2]) + partials[:, :600].sum(axis=1), rtol=1e-14)
    assert step[0] == 2
    constants[2, 0] = 0.5
    k.finish_step(totals, step, partials, 600, squares, constants, 7)
    np.testing.assert_allclose(totals[0], 1 + 2 * partials[0, :600].sum() + 7 / 2 * 0.5 * squares.sum(), rtol=1e-14)
    assert step[0] == 3


@kinds
@pytest.mark.parametrize("sizes", [(1, 1), (60, 90, 3)], ids=str)
def test_round_theta(sizes, kind, memory):
    """Every layer at its place; what lies between is left alone."""
    spans, where, length = places(spans_of(sizes), sizes[:-1])
    theta = normal(len(where), real(kind))
    low, _ = stored(np.full(length, -5.0), kind)
    expected, low = low.copy(), memory(low)
    kernels(kind).round_theta(memory(theta), low, memory(spans))
    expected[where] = stored(theta, kind)[0]
    np.testing.assert_array_equal(low, expected)


# ---- bfloat16 itself ---------------------------------------------------------------------------------------------


def test_bfloat16_is_rounded_to_nearest_even():
    """The stand-in rounds in another way than the kernels: through the mantissa, not through the bits."""
    values = np.concatenate(
        [
            np.random.default_rng(0).standard_normal(4000).astype(np.float32)
            * np.float32(10.0) ** np.random.default_rng(1).integers(-38, 38, 4000).astype(np.float32),
            (np.arange(0x3F80_0000, 0x3F82_0000, 0x2000, dtype=np.uint32)).view(np.float32),  # ties
            np.array([0, -0.0, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-45, 1.2e-38], np.float32),
        ]
    )
    low = np.zeros(values.size, np.uint16)
    kernels("bfloat16").round_theta(
        values, low, np.array([[0, values.size, values.size, 0, 0, values.size, values.size]])
    )
    np.testing.assert_array_equal(low, rounded(values))
    ties = values[4000:4016]
    np.testing.assert_array_equal(widened(low)[4000:4016], np.float32(2.0**-7) * np.rint(ties * np.float32(2.0**7)))


# ---- what the launchers refuse --------------------------------------------------------------------------------------


def test_launch_checks():
    k, z, b, step = kernels("float32"), np.zeros((4, 3), np.float32), np.zeros(3, np.float32), np.zeros(1, np.int64)
    rows = Rows(np.arange(4), step, 4, 0, 4)
    with pytest.raises(ValueError, match=r"out must have shape \(4, 3\), got \(3, 4\)"):
        k.gather(z, rows, np.zeros((3, 4), np.float32), 1.0)
    with pytest.raises(TypeError, match="source must be float32, got float64"):
        k.gather(z.astype(float), rows, z, 1.0)
    with pytest.raises(ValueError, match=r"b must have shape \(3,\), got \(4,\)"):
        k.bias_activate(Tanh(), z, np.zeros(4, np.float32))
    with pytest.raises(TypeError, match="a must be uint16, got float32"):
        kernels("bfloat16").bias_activate(Tanh(), z, b)
    with pytest.raises(ValueError, match="z has 4 rows, 3 are taken"):
        k.output(
            Softmax(),
            True,
            z,
            b,
            np.zeros(4, np.int64),
            Rows(np.arange(4), step, 4, 0, 3),
            z,
            np.zeros(partials_shape()),
            accumulate=False,
        )
    with pytest.raises(ValueError, match="chunks must have shape"):
        k.column_sums(z, b[:2], 64, accumulate=False)
    with pytest.raises(ValueError, match=r"constants must have shape \(1, 7\), got \(1, 2\)"):
        k.update(
            "adam", b, b, b, [b, b], np.zeros((1, 7), np.int64), np.zeros((1, 2), np.float32), step, np.zeros(1), 1
        )
