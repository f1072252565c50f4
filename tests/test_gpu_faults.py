"""Faults of a GPU through the real device layer, over a fake CuPy: one clear message each, and everything as it was
before.

Why there is no device - driver, toolkit, packages - is in test_cupy_device.py, what `fastnn doctor` makes of it in
test_findings.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_cupy_device import fake, working  # noqa: F401 - fixtures

import fastnn
from fastnn import lost_device, optimizers
from fastnn.backends.cupy_backend import CupyBackend

SIZES, ROWS = (4, 5, 3), 24


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, SIZES[0])).astype(np.float32), np.arange(ROWS) % SIZES[-1]


class State:
    """What a refused call must leave alone: parameters, the rule's state, the number of epochs."""

    def __init__(self, net, rule):
        self.net, self.rule = net, rule
        self.before = self.now()

    def now(self):
        to_numpy = self.net.backend.to_numpy
        return [
            to_numpy(self.net.theta).tobytes(),
            *(to_numpy(x).tobytes() for x in self.rule.state),
            self.rule.t,
            self.net.epochs_trained,
            self.net.backend.name,
        ]

    def check(self):
        assert self.now() == self.before


@pytest.fixture
def trained(working):  # noqa: F811
    """A network after one epoch, its rule, its state, and the fake CuPy."""
    net, rule = fastnn.Network(SIZES, backend=CupyBackend()), optimizers.Adam(0.01)
    net.fit(*data(), optimizer=rule, batch_size=8, epochs=1)
    return net, rule, State(net, rule), working


def test_an_array_of_another_device(trained):
    net, rule, state, _ = trained
    X, y = data()
    there = net.backend.asarray(X)
    elsewhere = there.view(type("Elsewhere", (type(there),), {"device": SimpleNamespace(id=1)}))
    for call in (
        lambda: net.fit(elsewhere, y, optimizer=rule, epochs=1),
        lambda: net.predict(elsewhere),
        lambda: net.score(elsewhere, y),
    ):
        with pytest.raises(
            ValueError,
            match="the array lies on CUDA device 1, the cupy engine works on device 0; copy it there first",
        ):
            call()
        state.check()


def test_an_array_that_is_not_contiguous(trained):
    """A program reads memory as it lies and refuses; `fit` and `predict` lay it out anew, and give what they give
    for the same rows.
    """
    net, rule, state, _ = trained
    X, y = data()
    wide = net.backend.asarray(np.repeat(X, 2, axis=1))[:, ::2]
    order = net.backend.asarray(np.arange(ROWS))
    program = net.backend.compile(net, rule, 8)
    for arrays in (
        (wide, net.backend.asarray(y), order),
        (net.backend.asarray(X), net.backend.asarray(np.repeat(y, 2))[::2], order),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^[Xy] must be (a )?C-contiguous"):
            program.run(*arrays, 0, 1)
        state.check()
    np.testing.assert_array_equal(net.backend.to_numpy(net.predict(wide)), net.predict(X))


def test_no_memory_for_a_step(trained):
    net, rule, state, cupy = trained
    enough, cupy.cuda.runtime.memGetInfo = cupy.cuda.runtime.memGetInfo, lambda: (10**6, 2 * 10**9)
    with pytest.raises(
        MemoryError,
        match=r"needs .* GB of device memory beside the data, 0\.001 GB are free; precision='bf16' halves the "
        r"activations",
    ):
        net.fit(*data(), optimizer=rule, batch_size=8, epochs=1)
    state.check()
    cupy.cuda.runtime.memGetInfo = enough
    net.fit(*data(), optimizer=rule, batch_size=8, epochs=1)  # and goes on when there is room


def test_no_memory_for_an_array(trained):
    net, _, state, _ = trained
    with pytest.raises(MemoryError, match="the GPU has 1 GB of 2 GB free, 4e\\+03 GB were asked for"):
        net.backend.zeros((10**6, 10**6), np.float32)
    state.check()


def test_another_device_is_current(trained):
    net, rule, state, cupy = trained
    cupy.current = 1
    refusal = r"works on CUDA device 0, but device 1 is current here; call it inside `with cupy\.cuda\.Device\(0\):`"
    with pytest.raises(RuntimeError, match=refusal):
        net.fit(*data(), optimizer=rule, epochs=1)
    cupy.current = 0
    state.check()
    with pytest.raises(RuntimeError, match=refusal):
        net.fit(*data(), optimizer=rule, epochs=2, callbacks=[lambda *_: setattr(cupy, "current", 1)])
    cupy.current = 0
    assert net.backend.name == "cupy"  # which is not a loss of the device
    net.fit(*data(), optimizer=rule, epochs=1)


def test_the_device_is_lost(trained, monkeypatch):
    """From one moment on every call of CuPy fails, as after an illegal access."""
    net, rule, _, cupy = trained
    monkeypatch.setattr(lost_device, "SPARING", 0)
    # one step, so that the epoch has a second slice, before which Theta is copied
    monkeypatch.setattr("fastnn.training.FIRST_SLICE_FLOPS", 0)

    class CUDARuntimeError(RuntimeError):
        pass

    def gone(*arguments, **more):
        raise CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    def dies(epoch, history, net):
        for name in ("asnumpy", "copyto", "empty", "asarray"):
            monkeypatch.setattr(cupy, name, gone)
        monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: SimpleNamespace(synchronize=gone, wait_event=gone))

    before = net.backend.to_numpy(net.theta)
    with pytest.raises(
        fastnn.DeviceLost,
        match=r"CUDARuntimeError: cudaErrorIllegalAddress: .* Save the network \(net\.save\) and go on in a new "
        r"process",
    ):
        net.fit(*data(), optimizer=rule, batch_size=8, epochs=3, callbacks=[dies])
    assert net.backend.name == "numpy"
    assert np.isfinite(net.theta).all()
    assert not np.array_equal(net.theta, before)  # steps that were done are kept
    assert net.score(*data()) >= 0
