"""The kernels of LARS and LAMB on the stand-in against NumPy in extended precision, and what their launchers refuse."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import SEEDS, Memory, close, floats, normal, places, spans_of, wide
from cuda_on_cpu import ShimDevice

from fastnn.kernels.cuda.layerwise import LayerwiseKernels, layer_partials_shape, layer_ratios_shape

ROWS, STEP = 7, 2  # the third step since the constants were written


@pytest.fixture
def memory():
    made = Memory()
    yield made
    made.check()


CONSTANTS = {"lars": (0.5, 0.9, 0.02, 0.3), "lamb": (0.05, 0.1, 0.01, 2.0, 30.0, 1e-6, 0.3)}
LAYERS = pytest.mark.parametrize("sizes", [(1, 1), (3, 2), (5, 7, 1, 4), (60, 90, 3)], ids=str)


def ratio(a, b):
    return a / b if a > 0 and b > 0 else np.longdouble(1)


def updated(rule, theta, Delta, state, spans, decay, constants):
    """theta, the state and the ratios by the formulas, part by part."""
    theta, Delta, state, ratios = *wide(theta, Delta), wide(*state), []
    for begin, biases, end in spans:
        for part, weights in ((slice(begin, biases), True), (slice(biases, end), False)):
            w = theta[part]
            D = Delta[part] / ROWS + (decay * w if weights else 0)
            size = np.sqrt((w**2).sum())
            if rule == "lars":
                rate, mu, trust, beta = constants
                beta *= weights
                local = trust * ratio(size, np.sqrt((D**2).sum()) + beta * size)
                ratios.append(local)
                state[0][part] = mu * state[0][part] + rate * local * (D + beta * w)
                theta[part] = w - state[0][part]
            else:
                rate, b1, b2, scale, correction, eps, beta = constants
                m, v = state[0][part], state[1][part]
                m += b1 * (D - m)
                v += b2 * (D * D - v)
                u = scale * m / (np.sqrt(v * correction) + eps) + beta * weights * w
                ratios.append(ratio(size, np.sqrt((u**2).sum())))
                theta[part] = w - rate * ratios[-1] * u
    return theta, state, ratios


def run(rule, theta, Delta, state, spans, sizes, decay, constants, seed=1, faults=(), hold=np.array):
    """theta and the state as the kernels leave them, and the scratch they wrote."""
    table_of_layers, where, length = places(spans, sizes[:-1])
    moved, states, untouched = hold(theta), [hold(s) for s in state], hold(np.full(length, np.nan, theta.dtype))
    untouched[where] = Delta
    partials, ratios = (
        hold(np.full(layer_partials_shape(len(spans)), np.nan)),
        hold(np.full(layer_ratios_shape(len(spans)), np.nan)),
    )
    table, squares = np.full((STEP + 1, 1 + len(constants)), np.nan, theta.dtype), hold(np.zeros(256 * len(spans)))
    table[STEP] = decay, *constants
    step = getattr(LayerwiseKernels(ShimDevice(seed, faults), theta.dtype.name), rule)
    step(
        moved, untouched, *states, hold(table_of_layers), partials, ratios, squares, hold(table),
        hold(np.array([STEP])), ROWS,
    )  # fmt: skip
    weights = np.concatenate([theta[begin:biases] for begin, biases, _ in spans]).astype(np.longdouble)
    if not faults:
        np.testing.assert_allclose(squares.sum(), (weights**2).sum() if decay else 0, rtol=1e-12)
    np.testing.assert_array_equal(untouched[where], Delta)
    return moved, states, partials, ratios


def inputs(rule, sizes, dtype):
    spans = spans_of(sizes)
    P = spans[-1, 2]
    state = [normal(P, dtype, 2)] if rule == "lars" else [normal(P, dtype, 2), np.abs(normal(P, dtype, 3))]
    slope = np.linspace(0.1, 2, P)  # elements left out or taken twice must not change both norms alike
    return (normal(P, dtype) * slope).astype(dtype), (normal(P, dtype, 1) * slope[::-1]).astype(dtype), state, spans


@floats
@LAYERS
@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("rule", CONSTANTS)
def test_step(rule, sizes, decay, dtype, memory):
    """1/m and L2 within the step; neither L2 nor weight decay on biases; margins untouched."""
    theta, Delta, state, spans = inputs(rule, sizes, dtype)
    moved, states, _, ratios = run(rule, theta, Delta, state, spans, sizes, decay, CONSTANTS[rule], hold=memory)
    expected, expected_states, expected_ratios = updated(rule, theta, Delta, state, spans, decay, CONSTANTS[rule])
    # Of D and r a few roundings each; where they cancel, the error of a norm is still small beside the others' sum.
    np.testing.assert_allclose(ratios, np.array(expected_ratios, np.float64), rtol=100 * np.finfo(dtype).eps)
    scale = np.abs(theta) + np.abs(Delta) + sum(np.abs(s) for s in state) + 1
    close(moved, expected, scale, 16)
    for got, want in zip(states, expected_states, strict=True):
        close(got, want, scale**2, 16)


@pytest.mark.parametrize("rule", CONSTANTS)
@pytest.mark.parametrize("zero", ["theta", "Delta", "both"])
def test_a_norm_of_zero_counts_as_the_other(rule, zero, memory):
    theta, Delta, state, spans = inputs(rule, (5, 7, 4), "float64")
    theta[:42] *= zero == "Delta"
    Delta[35:] *= zero == "theta"
    state = [0 * s for s in state]
    moved, _, _, ratios = run(rule, theta, Delta, state, spans, (5, 7, 4), 0.0, CONSTANTS[rule], hold=memory)
    close(moved, updated(rule, theta, Delta, state, spans, 0.0, CONSTANTS[rule])[0], np.abs(theta) + 1, 16)
    assert np.isfinite(moved).all()
    if zero != "Delta":
        assert (ratios[:2] == CONSTANTS["lars"][2] if rule == "lars" else ratios[:2] == 1).all()


def test_ratios_are_sums_of_everything():
    """More partial sums than a block has threads."""
    partials, ratios = np.arange(4 * 2 * 700.0).reshape(4, 2, 700), np.full(4, np.nan)
    constants = np.array([[9, 9, 9, 0.5, 0.25]], np.float32)
    ShimDevice(1).launch(
        "layer_ratios", "float32", (4,), (256,), (ratios, partials, 700, constants, 5, np.zeros(1, np.int64), 1)
    )
    own, other = np.sqrt(partials.sum(axis=2)).T
    np.testing.assert_allclose(ratios, 0.5 * own / (other + 0.25 * own * [1, 0, 1, 0]), rtol=1e-14)


@pytest.mark.parametrize("rule", CONSTANTS)
def test_the_schedule_of_threads_does_not_matter(rule):
    results = [
        run(rule, *inputs(rule, (60, 90, 3), "float32"), (60, 90, 3), 0.25, CONSTANTS[rule], seed) for seed in SEEDS
    ]
    for moved, states, partials, _ in results[1:]:
        np.testing.assert_array_equal(moved, results[0][0])
        np.testing.assert_array_equal(states, results[0][1])
        np.testing.assert_array_equal(partials, results[0][2])


@pytest.mark.parametrize("fault", ["FASTNN_FAULT_NO_BARRIER", "FASTNN_FAULT_SHORT_SHUFFLE"])
@pytest.mark.parametrize("rule", CONSTANTS)
def test_a_fault_in_the_sums_is_seen(rule, fault):
    given = (*inputs(rule, (60, 90, 3), "float32"), (60, 90, 3), 0.25, CONSTANTS[rule])
    right, wrong = run(rule, *given), run(rule, *given, faults=(fault,))
    assert not np.array_equal(wrong[2], right[2], equal_nan=True)  # of lars_norms, lamb_norms
    assert not np.array_equal(wrong[0], right[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": np.zeros((2, 2), np.int64)}, r"spans must have shape \(2, 7\), got \(2, 2\)"),
        ({"partials": np.zeros((2, 2, 256))}, r"partials must have shape \(4, 2, 256\), got \(2, 2, 256\)"),
        ({"ratios": np.zeros(2)}, r"ratios must have shape \(4,\), got \(2,\)"),
        ({"velocity": np.zeros(9, np.float32)}, r"state\[0\] must have shape \(14,\), got \(9,\)"),
    ],
)
def test_launchers_refuse(change, message):
    spans, _, _ = places(spans_of((3, 2, 2)), (3, 2))
    theta = np.ones(14, np.float32)
    given = {
        "theta": theta,
        "Delta": np.ones(99, np.float32),
        "velocity": theta.copy(),
        "spans": spans,
        "partials": np.zeros(layer_partials_shape(2)),
        "ratios": np.zeros(4),
    }
    given |= {"squares": np.zeros(512), "constants": np.zeros((1, 5), np.float32), "step": np.zeros(1, np.int64)}
    with pytest.raises(ValueError, match=message):
        LayerwiseKernels(ShimDevice(), "float32").lars(**{**given, **change}, rows=1)
