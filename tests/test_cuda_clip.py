"""The kernels that scale gradients, on the stand-in against NumPy in extended precision."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_cases import SEEDS, Memory, close, floats, normal, places, spans_of, wide
from cuda_on_cpu import ShimDevice

from fastnn.kernels.cuda.clip import ClipKernels, clip_partials_shape

ROWS, STEP = 7, 2
LAYERS = [(1, 1), (3, 2), (5, 7, 1, 4), (60, 90, 3)]


@pytest.fixture
def memory():
    made = Memory()
    yield made
    made.check()


def gradient(theta, Delta, spans, decay):
    """D in extended precision."""
    theta, D = wide(theta, Delta / ROWS)
    for begin, biases, _ in spans:
        D[begin:biases] += decay * theta[begin:biases]
    return D


def run(theta, Delta, spans, sizes, decay, length, seed=1, faults=(), hold=np.array):
    """Delta as the kernels leave it, the factor and the partial sums."""
    table_of_layers, where, size = places(spans, sizes[:-1])
    changed, kept = hold(np.full(size, np.nan, theta.dtype)), hold(theta)
    changed[where] = Delta
    partials, clip = hold(np.zeros(clip_partials_shape(len(spans)))), hold(np.array([length, np.nan]))
    table = np.full((STEP + 1, 4), np.nan, theta.dtype)
    table[STEP, 0] = decay
    ClipKernels(ShimDevice(seed, faults), theta.dtype.name)(
        kept, changed, hold(table_of_layers), partials, clip, hold(table), hold(np.array([STEP])), ROWS
    )
    np.testing.assert_array_equal(kept, theta)
    outside = np.ones(size, bool)
    outside[where] = False
    assert np.isnan(changed[outside]).all(), "what lies between rows is not written"
    return changed[where], clip[1], partials


def inputs(sizes, dtype):
    spans = spans_of(sizes)
    P = spans[-1, 2]
    slope = np.linspace(0.1, 2, P)
    return (normal(P, dtype) * slope).astype(dtype), (normal(P, dtype, 1) * slope[::-1]).astype(dtype), spans


@floats
@pytest.mark.parametrize("sizes", LAYERS, ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("share", [0.3, 1.5])
def test_step(sizes, decay, share, dtype, memory):
    """Of the gradient's own length, L2 of weights and biases included."""
    theta, Delta, spans = inputs(sizes, dtype)
    D = gradient(theta, Delta, spans, decay)
    norm = np.sqrt((D**2).sum())
    changed, factor, _ = run(theta, Delta, spans, sizes, decay, float(share * norm), hold=memory)
    wanted = min(1.0, share)
    np.testing.assert_allclose(factor, wanted, rtol=20 * np.finfo(dtype).eps)
    if share > 1:
        np.testing.assert_array_equal(changed, Delta)
        return
    close(gradient(theta, changed, spans, decay).astype(dtype), wanted * D, np.abs(theta) + np.abs(Delta) + 1, 8)


def test_the_factor_is_of_all_sums():
    """More partial sums than a block has threads."""
    partials, clip = np.arange(700.0), np.array([2.0, np.nan])
    ShimDevice(1).launch("clip_factor", "float32", (1,), (256,), (clip, partials, 700))
    assert clip[1] == pytest.approx(2 / np.sqrt(partials.sum()), rel=1e-14)
    ShimDevice(1).launch("clip_factor", "float32", (1,), (256,), (clip, partials * np.nan, 700))
    assert clip[1] == 1, "NaN is in D, and stays there"


def test_the_schedule_of_threads_does_not_matter():
    results = [run(*inputs((60, 90, 3), "float32"), (60, 90, 3), 0.25, 1.0, seed) for seed in SEEDS]
    for found in results[1:]:
        for got, first in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(got, first)


@pytest.mark.parametrize("fault", ["FASTNN_FAULT_NO_BARRIER", "FASTNN_FAULT_SHORT_SHUFFLE"])
def test_a_fault_in_the_sums_is_seen(fault):
    given = (*inputs((60, 90, 3), "float32"), (60, 90, 3), 0.25, 1.0)
    right, wrong = run(*given), run(*given, faults=(fault,))
    assert not np.array_equal(wrong[2], right[2])
    assert wrong[1] != right[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": np.zeros((2, 2), np.int64)}, r"spans must have shape \(2, 7\), got \(2, 2\)"),
        ({"partials": np.zeros(3)}, r"partials must have shape \(1024,\), got \(3,\)"),
        ({"clip": np.zeros(1)}, r"clip must have shape \(2,\), got \(1,\)"),
    ],
)
def test_launchers_refuse(change, message):
    spans, _, _ = places(spans_of((3, 2, 2)), (3, 2))
    given = {
        "theta": np.ones(14, np.float32), "Delta": np.ones(99, np.float32), "spans": spans,
        "partials": np.zeros(clip_partials_shape(2)), "clip": np.zeros(2), "constants": np.zeros((1, 5), np.float32),
        "step": np.zeros(1, np.int64),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ClipKernels(ShimDevice(), "float32")(**{**given, **change}, rows=1)
