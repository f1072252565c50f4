"""Each operation of each engine against the oracle, over shapes, layouts and the input space."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
import tolerances
from cases import LAYOUTS, PAIRS, SHAPES, laid_out, normal
from hypothesis import example, given
from hypothesis import strategies as st
from together import together

import fastnn
from fastnn import activations, optimizers

shapes = together(("m", "n_in", "n_out"), SHAPES)
layouts = together("layout", LAYOUTS)
ODD = (5, 7, 3)  # one small odd shape for what does not depend on the shape


def check_forward(backend, a, W, b, layout="contiguous", give_out=False):
    out = backend.asarray(np.full((len(a), len(W)), np.nan, a.dtype)) if give_out else None
    z = backend.dense_forward(
        laid_out(backend, a, layout),
        laid_out(backend, W, layout),
        laid_out(backend, b, "strided" if layout == "strided" else "contiguous"),
        out=out,
    )
    assert out is None or z is out
    tolerances.assert_close(
        backend.to_numpy(z), reference.dense_forward(a, W, b), tolerances.dense_forward(a, W, b), dtype=a.dtype
    )


def check_propagate(backend, delta, W, name, z, layout="contiguous", give_out=False):
    a = reference.activation(name, z).astype(z.dtype)
    out = backend.asarray(np.full(z.shape, np.nan, z.dtype)) if give_out else None
    arrays = [laid_out(backend, x, layout) for x in (delta, W, z, a)]
    d = backend.propagate_delta(arrays[0], arrays[1], name, arrays[2], arrays[3], out=out)
    assert out is None or d is out
    slope = reference.derivative(name, z)
    tolerances.assert_close(
        backend.to_numpy(d),
        reference.propagate_delta(delta, W, name, z),
        tolerances.propagate_delta(delta, W, name, z, slope),
        dtype=z.dtype,
    )


def check_accumulate(backend, Delta_W, Delta_b, delta, a, layout="contiguous"):
    got_W, got_b = backend.asarray(Delta_W.copy()), backend.asarray(Delta_b.copy())
    assert backend.accumulate(got_W, got_b, laid_out(backend, delta, layout), laid_out(backend, a, layout)) is None
    W, b = reference.accumulate(Delta_W, Delta_b, delta, a)
    bound_W, bound_b = tolerances.accumulate(Delta_W, Delta_b, delta, a)
    tolerances.assert_close(backend.to_numpy(got_W), W, bound_W, dtype=a.dtype, what="Delta_W")
    tolerances.assert_close(backend.to_numpy(got_b), b, bound_b, dtype=a.dtype, what="Delta_b")


def check_output(backend, output, cost, z, y, layout="contiguous", give_out=False):
    a = reference.activation(output, z).astype(z.dtype)
    out = backend.asarray(np.full(z.shape, np.nan, z.dtype)) if give_out else None
    z_, a_ = laid_out(backend, z, layout), laid_out(backend, a, layout)
    y_ = cases.engine_targets(backend, y) if y.ndim == 1 else laid_out(backend, y, layout)
    delta = backend.output_delta(output, cost, z_, a_, y_, out=out)
    assert out is None or delta is out
    t, h = reference.as_rows(y, z.shape[1]), reference.activation(output, z)
    expected = reference.output_delta(output, cost, z, y)
    tolerances.assert_close(
        backend.to_numpy(delta), expected, tolerances.output_delta(output, cost, z, t, h), dtype=z.dtype
    )
    J = backend.cost_sum(output, cost, z_, a_, y_)
    assert type(J) is float
    tolerances.assert_close(
        J, reference.cost_rows(output, cost, z, y).sum(), tolerances.cost_sum(output, cost, z, t, h), what="cost_sum"
    )


# ---- shapes and layouts -------------------------------------------------------------------------------


@shapes
@layouts
def test_dense_forward(backend, dtype, m, n_in, n_out, layout):
    check_forward(
        backend, normal((m, n_in), dtype), normal((n_out, n_in), dtype, 1), normal((n_out,), dtype, 2), layout
    )


@pytest.mark.parametrize("name", cases.HIDDEN)
@shapes
def test_propagate_delta(backend, dtype, m, n_in, n_out, name):
    check_propagate(
        backend,
        normal((m, n_out), dtype),
        normal((n_out, n_in), dtype, 1),
        name,
        cases.away_from_kinks(normal((m, n_in), dtype, 2)),
    )


@layouts
@together("give_out", [False, True])
def test_propagate_delta_layouts(backend, dtype, layout, give_out):
    m, n_in, n_out = ODD
    check_propagate(
        backend,
        normal((m, n_out), dtype),
        normal((n_out, n_in), dtype, 1),
        "tanh",
        normal((m, n_in), dtype, 2),
        layout,
        give_out,
    )


@shapes
@layouts
def test_accumulate(backend, dtype, m, n_in, n_out, layout):
    check_accumulate(
        backend,
        normal((n_out, n_in), dtype),
        normal((n_out,), dtype, 1),
        normal((m, n_out), dtype, 2),
        normal((m, n_in), dtype, 3),
        layout,
    )


@pytest.mark.parametrize(("output", "cost"), PAIRS)
@together("give_out", [False, True])
@together(("m", "K"), [(1, 2), (7, 3), (33, 10), (3, 67), (130, 5)])
def test_output_delta_and_cost(backend, dtype, output, cost, m, K, give_out):
    z = cases.away_from_kinks(normal((m, K), dtype, scale=2))
    check_output(backend, output, cost, z, cases.targets_for(output, cost, m, K, dtype), give_out=give_out)


@pytest.mark.parametrize(("output", "cost"), PAIRS)
@layouts
def test_output_delta_layouts(backend, dtype, output, cost, layout):
    check_output(
        backend,
        output,
        cost,
        cases.away_from_kinks(normal((5, 4), dtype)),
        cases.targets_for(output, cost, 5, 4, dtype),
        layout,
    )


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_integer_classes_with_squared_error_mean_their_one_hot_rows(backend, dtype, output):
    check_output(backend, output, "squared_error", normal((9, 4), dtype), np.arange(9) % 4)


@pytest.mark.parametrize("output", ["sigmoid", "identity"])
def test_one_output_unit(backend, dtype, output):
    cost = "cross_entropy" if output == "sigmoid" else "squared_error"
    check_output(backend, output, cost, normal((9, 1), dtype), cases.targets_for(output, cost, 9, 1, dtype))


@pytest.mark.parametrize("name", [*cases.HIDDEN, "softmax"])
@shapes
def test_activate(backend, dtype, m, n_in, n_out, name):
    z = normal((m, n_in), dtype, scale=3)
    expected = reference.activation(name, z)
    tolerances.assert_close(
        backend.to_numpy(backend.activate(name, backend.asarray(z))),
        expected,
        tolerances.activate(name, z, expected),
        dtype=dtype,
    )


@pytest.mark.parametrize("name", [*cases.HIDDEN, "softmax"])
@layouts
def test_activate_layouts_and_out(backend, dtype, name, layout):
    z = normal((5, 7), dtype)
    expected = reference.activation(name, z)
    bound = tolerances.activate(name, z, expected)
    given_z = laid_out(backend, z, layout)
    out = backend.asarray(np.full(z.shape, np.nan, dtype))
    assert backend.activate(name, given_z, out=out) is out
    tolerances.assert_close(backend.to_numpy(out), expected, bound, dtype=dtype)
    assert backend.to_numpy(given_z).tobytes() == z.tobytes(), "z was changed"
    # in place, whatever the strides
    assert backend.activate(name, given_z, out=given_z) is given_z
    tolerances.assert_close(backend.to_numpy(given_z), expected, bound, dtype=dtype, what="in place")


@pytest.mark.parametrize("slope", [0.0, 0.05, 0.3, 1.0, 2.5])
def test_leaky_relu_takes_its_slope(backend, dtype, slope):
    z, g = cases.away_from_kinks(normal((5, 7), dtype)), activations.LeakyReLU(slope)
    expected = reference.activation("leaky_relu", z, slope)
    tolerances.assert_close(
        backend.to_numpy(backend.activate(g, backend.asarray(z))),
        expected,
        2 * tolerances.eps(dtype) * np.abs(expected),
        dtype=dtype,
    )
    eye, ones = backend.asarray(np.eye(7, dtype=dtype)), backend.asarray(np.ones((5, 7), dtype))
    d = backend.propagate_delta(ones, eye, g, backend.asarray(z), backend.asarray(expected.astype(dtype)))
    tolerances.assert_close(
        backend.to_numpy(d), reference.derivative("leaky_relu", z, slope), tolerances.eps(dtype) * slope, dtype=dtype
    )


@shapes
def test_out_is_overwritten_and_returned(backend, dtype, m, n_in, n_out):
    check_forward(
        backend, normal((m, n_in), dtype), normal((n_out, n_in), dtype, 1), normal((n_out,), dtype, 2), give_out=True
    )


def test_read_only_inputs_are_fine(backend, dtype):
    """Data often comes from a memory map or a broadcast."""
    if not isinstance(backend.zeros((1,), dtype), np.ndarray):
        pytest.skip("device arrays have no such flag")
    m, n_in, n_out = ODD
    a, W, b = normal((m, n_in), dtype), normal((n_out, n_in), dtype, 1), normal((n_out,), dtype, 2)
    delta, z = normal((m, n_out), dtype), normal((m, n_in), dtype, 4)
    for x in (a, W, b, delta, z):
        x.flags.writeable = False
    check = tolerances.assert_close
    check(
        backend.dense_forward(a, W, b), reference.dense_forward(a, W, b), tolerances.dense_forward(a, W, b), dtype=dtype
    )
    check(backend.activate("relu", z), np.maximum(z, 0), 0.0, dtype=dtype)
    got = backend.propagate_delta(delta, W, "identity", z, z)
    check(
        got,
        reference.propagate_delta(delta, W, "identity", z),
        tolerances.propagate_delta(delta, W, "identity", z, np.ones_like(z)),
        dtype=dtype,
    )
    Delta_W, Delta_b = np.zeros((n_out, n_in), dtype), np.zeros(n_out, dtype)
    backend.accumulate(Delta_W, Delta_b, delta, a)
    check(
        Delta_W,
        reference.accumulate(0, 0, delta, a)[0],
        tolerances.accumulate(Delta_W * 0, Delta_b * 0, delta, a)[0],
        dtype=dtype,
    )


# ---- the space of inputs ------------------------------------------------------------------------------

size = st.integers(1, 40)
magnitude = st.sampled_from([1e-12, 1e-3, 1.0, 30.0, 1e6])


@given(m=size, n_in=size, n_out=size, seed=st.integers(0, 2**32 - 1), scale=magnitude, layout=st.sampled_from(LAYOUTS))
@example(m=1, n_in=1, n_out=1, seed=0, scale=1e6, layout="strided")
def test_products_over_the_input_space(backend, dtype, m, n_in, n_out, seed, scale, layout):
    a, W, b = (
        normal((m, n_in), dtype, seed, scale),
        normal((n_out, n_in), dtype, seed + 1),
        normal((n_out,), dtype, seed, scale),
    )
    delta = normal((m, n_out), dtype, seed, scale)
    check_forward(backend, a, W, b, layout)
    check_propagate(backend, delta, W, "sigmoid", normal((m, n_in), dtype, seed, 3.0), layout)
    check_accumulate(backend, W.copy(), b.copy(), delta, a, layout)


@given(
    pair=st.sampled_from(PAIRS),
    m=size,
    K=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-6, 1.0, 20.0]),
)
def test_outputs_over_the_input_space(backend, dtype, pair, m, K, seed, scale):
    z = cases.away_from_kinks(normal((m, K), dtype, seed, scale), gap=1e-7)
    if pair[0] == "exp":
        z = np.minimum(z, dtype.type(30))  # the square of e^z is finite
    check_output(backend, *pair, z, cases.targets_for(*pair, m, K, dtype, seed))


# ---- accumulation ---------------------------------------------------------------------------------------


def test_two_halves_accumulate_to_the_whole(backend, dtype):
    m, n_in, n_out = 37, 11, 6
    delta, a = normal((m, n_out), dtype), normal((m, n_in), dtype, 1)
    Delta_W, Delta_b = backend.zeros((n_out, n_in), dtype), backend.zeros((n_out,), dtype)
    for rows in (slice(0, 20), slice(20, m)):
        backend.accumulate(Delta_W, Delta_b, backend.asarray(delta[rows]), backend.asarray(a[rows]))
    zero_W, zero_b = np.zeros((n_out, n_in), dtype), np.zeros(n_out, dtype)
    bounds = tolerances.accumulate(zero_W, zero_b, delta, a)
    for got, expected, bound in zip(
        (Delta_W, Delta_b), reference.accumulate(zero_W, zero_b, delta, a), bounds, strict=True
    ):
        tolerances.assert_close(backend.to_numpy(got), expected, 2 * bound, dtype=dtype)


def test_accumulating_twice_doubles(backend, dtype):
    delta, a = backend.asarray(normal((5, 3), dtype)), backend.asarray(normal((5, 7), dtype))
    Delta_W, Delta_b = backend.zeros((3, 7), dtype), backend.zeros((3,), dtype)
    backend.accumulate(Delta_W, Delta_b, delta, a)
    once = [np.array(backend.to_numpy(x)) for x in (Delta_W, Delta_b)]
    backend.accumulate(Delta_W, Delta_b, delta, a)
    for got, first in zip((Delta_W, Delta_b), once, strict=True):
        tolerances.assert_close(
            backend.to_numpy(got), 2 * first, 7 * tolerances.eps(dtype) * (2 * np.abs(first) + 1), dtype=dtype
        )


def test_long_bias_sums_do_not_drift(backend):
    """A running float32 sum of 0.1 over 2^16 rows is off by 6e-4; a sum in blocks, in pairs or in float64 is not."""
    m = 1 << 16
    delta, a = backend.asarray(np.full((m, 3), 0.1, np.float32)), backend.asarray(np.ones((m, 1), np.float32))
    Delta_W, Delta_b = backend.zeros((3, 1), np.float32), backend.zeros((3,), np.float32)
    backend.accumulate(Delta_W, Delta_b, delta, a)
    exact = np.full(3, m * float(np.float32(0.1)))
    tolerances.assert_close(backend.to_numpy(Delta_b), exact, tolerances.LONG_SUM * exact, what="bias gradient")


# ---- updates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("P", [1, 7, 1000])
@pytest.mark.parametrize(
    "rule",
    [optimizers.SGD(0.3), optimizers.Momentum(0.05, 0.8), optimizers.Adam(0.02, 0.8, 0.99, 1e-7)],
    ids=lambda rule: rule.name,
)
def test_update(backend, dtype, rule, P):
    """Steps 1 to 3, each from the engine's own state before it, so that errors do not add up."""
    rule = type(rule)(*rule.hyper())
    theta = backend.asarray(normal((P,), dtype))
    rule.bind(backend, lambda: backend.zeros((P,), dtype))
    for t in (1, 2, 3):
        grad = normal((P,), dtype, t)
        grad[::5] = 0  # a parameter that no row reaches must not become NaN
        before, state = np.array(backend.to_numpy(theta)), [np.array(backend.to_numpy(s)) for s in rule.state]
        device_grad = backend.asarray(grad.copy())
        assert backend.update(rule, theta, device_grad) is None
        assert rule.t == t
        assert backend.to_numpy(device_grad).tobytes() == grad.tobytes(), "the gradient was changed"
        expected, new_state = reference.UPDATES[rule.name](before, grad, state, t, *rule.hyper())
        bound, state_bounds = tolerances.UPDATES[rule.name](before, grad, state, t, *rule.hyper())
        tolerances.assert_close(backend.to_numpy(theta), expected, bound, dtype=dtype, what="theta")
        for slot, got, want, limit in zip(rule.slots, rule.state, new_state, state_bounds, strict=True):
            tolerances.assert_close(backend.to_numpy(got), want, limit, dtype=dtype, what=slot)


@pytest.mark.parametrize("engine", ["numpy"])
def test_a_false_alarm_of_blas_is_not_passed_on_and_a_real_nan_is_in_the_result(engine):
    """OpenBLAS may raise the flag of an invalid operation on what it throws away (numpy issue 24067)."""
    backend = fastnn.get_backend(engine)
    a, W, b = np.array([[np.inf, -np.inf]]), np.ones((1, 2)), np.zeros(1)
    with np.errstate(invalid="raise"):
        assert np.isnan(backend.dense_forward(a, W, b)).all()
        assert np.isnan(backend.propagate_delta(a, W.T, "identity", b[None], b[None])).all()
        Delta = np.zeros((2, 1)), np.zeros(2)
        backend.accumulate(*Delta, np.array([[np.inf, 1], [-np.inf, 1]]), np.ones((2, 1)))
        assert np.isnan(Delta[0][0]).all()
        assert np.geterr()["invalid"] == "raise"
