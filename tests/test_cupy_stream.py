"""Data larger than the device: rows streamed from the host give the bits of rows that lie on the device."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice

import fastnn
from fastnn import optimizers
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_stream import Feeder, HostRows

SIZES, ROWS = (40, 12, 4), 3000


def problem(dtype):
    rng = np.random.default_rng(0)
    X = (
        rng.integers(0, 256, (ROWS, SIZES[0])).astype(np.uint8)
        if dtype == "uint8"
        else rng.standard_normal((ROWS, SIZES[0])).astype(dtype)
    )
    return X, rng.integers(0, SIZES[-1], ROWS)


def fitted(dtype="float32", precision="fp32", limit=None, rows=1, **kw):
    """A network trained on `rows` copies of the problem."""
    device = ShimDevice(limit=limit)
    net = fastnn.Network(SIZES, backend=CupyBackend(device), seed=1, l2=0.1, precision=precision)
    X, y = (np.concatenate([part] * rows) for part in problem(dtype))
    history = net.fit(X, y, **{"epochs": 2, "batch_size": 128, "scale": 1 / 255 if dtype == "uint8" else None, **kw})
    return net, history


def same(got, expected):
    """Sums of the cost are taken slice by slice, and slices depend on the clock."""
    for name in ("cost", "val_cost", "accuracy", "val_accuracy"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-12)


@pytest.fixture
def always(monkeypatch):
    """Streams whatever the memory; the warning is expected."""

    def stream(**kw):
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.setattr("fastnn.backends.cupy_backend.SHARE_OF_DATA", 0.0)
            warnings.simplefilter("ignore", RuntimeWarning)
            return fitted(**kw)

    return stream


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_streamed_rows_train_to_the_same_bits(dtype, precision, always):
    resident, expected = fitted(dtype, precision)
    streamed, history = always(dtype=dtype, precision=precision)
    np.testing.assert_array_equal(streamed.theta, resident.theta)
    same(history, expected)
    assert streamed.backend.device.graphs > 30  # steps are captured, one graph for each buffer


@pytest.mark.parametrize(
    "more",
    [{"validation": 0.2}, {"shuffle": False, "micro_batch": 50}, {"optimizer": "lamb"}, {"batch_size": 3000}],
    ids=str,
)
def test_streaming_beside_everything_else(more, always):
    resident, expected = fitted(**more)
    streamed, history = always(**more)
    np.testing.assert_array_equal(streamed.theta, resident.theta)
    same(history, expected)


def test_a_divergence_is_found_in_streamed_rows(always):
    with pytest.raises(fastnn.Diverged, match="diverged in epoch 0"):
        always(optimizer="sgd", learning_rate=1e30)


def test_data_that_do_not_fit_are_streamed_and_it_is_said():
    resident, expected = fitted(rows=6, epochs=1)  # 2.9 MB
    with pytest.warns(
        RuntimeWarning,
        match=r"X takes 0\.00288 GB, the GPU has 0\.0023\d* GB for it: its rows stay in the host's memory and are "
        r"copied to the GPU for each step",
    ):
        streamed, history = fitted(rows=6, epochs=1, limit=2_400_000)
    np.testing.assert_array_equal(streamed.theta, resident.theta)
    same(history, expected)


def test_the_feeder_waits_for_both_sides():
    """The stand-in does a copy of the second stream only when somebody waits for it."""
    device, X = ShimDevice(), problem("float32")[0].view(HostRows)
    feeder, rng = Feeder(device, X, 64), np.random.default_rng(0)
    batches = [rng.permutation(ROWS)[: 64 - (number == 4)] for number in range(5)]
    feeder.fetch(0, batches[0])
    assert not np.array_equal(feeder.rows[0], X[batches[0]])
    for number, chosen in enumerate(batches):
        buffer = number % 2
        feeder.ready(buffer)
        np.testing.assert_array_equal(feeder.rows[buffer][: len(chosen)], X[chosen])
        feeder.done(buffer)
        if number + 1 < len(batches):
            feeder.fetch(1 - buffer, batches[number + 1])
    # Five copies waited for; pinned memory of three fetches; and before five fetches who had the buffer: at first whoever
    # had its memory before.
    assert device.waits == 5 + 3 + 5


def test_an_interrupted_step_leaves_no_copy_under_way(monkeypatch):
    """The memory that it reads and writes might be given to somebody else."""
    net = fastnn.Network(SIZES, backend=CupyBackend(ShimDevice()))
    X, y = problem("float32")
    program = net.backend.compile(net, optimizers.SGD(), 4)
    program.run(X.view(HostRows), y, np.arange(8), 0, 2)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(Feeder, "ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.run(X.view(HostRows), y, np.arange(8, 16), 0, 2)
    assert net.backend.device._copies == []


def test_a_row_that_is_not_there_is_refused():
    net = fastnn.Network(SIZES, backend=CupyBackend(ShimDevice()))
    X, y = problem("float32")
    program, before = net.backend.compile(net, optimizers.SGD(), 4), net.theta.copy()
    with pytest.raises(ValueError, match=r"order must hold numbers 0\.\.2999, got 0\.\.3000"):
        program.run(X.view(HostRows), y, np.array([0, ROWS]), 0, 1)
    np.testing.assert_array_equal(net.theta, before)
