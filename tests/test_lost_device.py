"""A device that dies while a network trains: one clear message, and a network that is whole, on the host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu import ShimDevice

import fastnn
from fastnn import lost_device, optimizers
from fastnn.backends.cupy_backend import CupyBackend

ERROR = "cudaErrorIllegalAddress: an illegal memory access was encountered"
SIZES = (6, 9, 3)


class CUDARuntimeError(RuntimeError):
    """As CuPy names it."""


class Mortal(ShimDevice):
    """Dies after so many calls; from then on every call fails, and its memory is gone."""

    def __init__(self):
        super().__init__()
        self.calls_left, self.arrays = None, []

    def guard(self):
        super().guard()
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                for x in self.arrays:
                    x[...] = -1
                raise CUDARuntimeError(f"{ERROR} (call {-self.calls_left})")


def data(rows=90):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], rows)


def mortal_net(**more):
    device = Mortal()
    net = fastnn.Network(SIZES, backend=CupyBackend(device), seed=1, **more)
    device.arrays = [net.theta]
    return net, device


@pytest.mark.parametrize("calls", [1, 7, 60, 200])
def test_the_network_goes_on_on_the_host(calls, monkeypatch, tmp_path):
    """Whenever it dies: in the copy of the snapshot, in a kernel, in the reading of the cost, in validation."""
    monkeypatch.setattr(lost_device, "SPARING", 0)  # a copy before every slice
    net, device = mortal_net()
    X, y = data()
    rule = optimizers.Adam(0.01)

    def dies_soon(epoch, history, net):
        device.calls_left = calls if epoch == 1 else device.calls_left

    with pytest.raises(fastnn.DeviceLost) as caught:
        net.fit(X, y, optimizer=rule, batch_size=16, epochs=50, validation=0.2, callbacks=[dies_soon])
    message = str(caught.value)
    assert f"CUDARuntimeError: {ERROR} (call 1)" in message  # the first error, not one of those that followed
    assert "Save the network (net.save) and go on in a new process" in message
    assert "\n" not in message
    assert net.backend.name == "numpy"
    assert type(net.theta) is np.ndarray
    assert np.isfinite(net.theta).all()
    assert not (net.theta == -1).any()
    assert net.weights[0].base is not None
    assert np.shares_memory(net.weights[0], net.theta)
    assert caught.value.epoch in (net.epochs_trained - 1, net.epochs_trained)
    assert net.epochs_trained >= 2
    assert (rule.state, rule.t) == ([], 0)
    # It computes, is saved, loaded and trained on.
    net.save(tmp_path / "net.safetensors")
    again = fastnn.load(tmp_path / "net.safetensors", backend="numpy")
    np.testing.assert_array_equal(again.predict(X), net.predict(X))
    net.fit(X, y, optimizer=rule, epochs=1)


def test_the_parameters_are_those_of_the_place_that_is_named(monkeypatch):
    monkeypatch.setattr(lost_device, "SPARING", 0)
    X, y = data()
    net, device = mortal_net()
    epochs = []

    def dies(epoch, history, net):
        epochs.append(np.array(net.theta))
        if epoch == 2:
            device.calls_left = 3

    with pytest.raises(fastnn.DeviceLost) as caught:
        net.fit(X, y, optimizer="sgd", batch_size=90, epochs=9, callbacks=[dies])
    error = caught.value
    assert (error.epoch, error.step) in ((2, 0), (3, 0))  # before epoch 3 began, or in the copy for it
    np.testing.assert_array_equal(net.theta, epochs[error.epoch - 1])
    assert len(error.history.cost) == 3
    assert f"before step {error.step} of epoch {error.epoch}" in str(error)


def test_a_failure_that_the_device_survives_is_what_it_was(monkeypatch):
    """The snapshot is restored and the network stays where it is."""
    net, device = mortal_net()
    X, y = data()
    net.fit(X, y, batch_size=16, epochs=1)
    start = np.array(net.theta)
    launch = device._launch

    def fails(kernel, *rest):
        if kernel.startswith("update"):
            monkeypatch.setattr(device, "_launch", launch)
            raise MemoryError("out of memory on the device")
        launch(kernel, *rest)

    monkeypatch.setattr(device, "_launch", fails)
    with pytest.raises(MemoryError):
        net.fit(X, y, optimizer="sgd", batch_size=16, epochs=1)
    assert net.backend.name == "cupy"
    np.testing.assert_array_equal(net.theta, start)


def test_copies_cost_a_hundredth_of_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(lost_device.time, "monotonic", lambda: now[0])
    net, _ = mortal_net()
    slow = net.backend.to_numpy

    def takes_two_seconds(x):
        now[0] += 2
        return slow(x)

    monkeypatch.setattr(net.backend, "to_numpy", takes_two_seconds)
    copy, taken = lost_device.HostCopy(net, optimizers.SGD(0.1)), []
    for step in range(1000):
        before = now[0]
        copy.refresh(0, step)
        taken += [step] if now[0] != before else []
        now[0] += 1
    assert taken[0] == 0
    assert len(taken) == 5
    assert copy.place == (0, taken[-1])


def test_engines_on_the_host_keep_no_copy():
    for name in ("numpy", "numba"):
        net = fastnn.Network(SIZES, backend=name)
        copy = lost_device.HostCopy(net, optimizers.SGD(0.1))
        copy.refresh(0, 0)
        assert copy.theta is None
        assert copy.rescue(RuntimeError(), None) is None


def test_the_command_line_saves_what_is_left(tmp_path):
    """In a process of its own, as CUDA would demand it."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, test_lost_device as t, fastnn.cli.training as training, fastnn.network\n"
        "real = fastnn.network.Network\n"
        "def mortal(sizes, **more):\n"
        "    net = real(sizes, **{**more, 'backend': t.CupyBackend(t.Mortal())})\n"
        "    net.backend.device.calls_left = 400\n"
        "    return net\n"
        "training.Network = mortal\n"
        "from fastnn.cli import main\n"
        "sys.argv = ['fastnn', 'train', 'table.csv', '--target', 'c', '--epochs', '100', '--save', "
        "'left.safetensors', '--no-plot', '--json']\n"
        "main()\n"
    )
    rows = "".join(f"{a},{a * a},{a % 2}\n" for a in range(60))
    (tmp_path / "table.csv").write_text("a,b,c\n" + rows)
    result = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    last = [line for line in result.stderr.splitlines() if line.startswith("fastnn:")][-2:]
    assert last[0] == "fastnn: the network as it was before is saved to left.safetensors"
    assert last[1].startswith("fastnn: error: the device was lost in epoch")
    assert "Traceback" not in result.stderr
    assert np.isfinite(fastnn.load(tmp_path / "left.safetensors", backend="numpy").theta).all()
    assert json.loads(result.stdout or "{}") == {}
