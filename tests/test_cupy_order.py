"""Nothing is read, overwritten or given away before its time, whatever the streams do.

The stand-in checks every operation (cuda_on_cpu/order.py). Here waits are taken away one at a time and marks are made
too early, and it must say so each time; and what the engine does is seen to be in order.
"""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from cuda_on_cpu import OrderFault, ShimDevice
from test_cupy_device import fake, working  # noqa: F401 - fixtures

import fastnn
from fastnn import optimizers
from fastnn.backends import cupy_program
from fastnn.backends.cupy_backend import CupyBackend
from fastnn.backends.cupy_device import CupyDevice, _CupyMark
from fastnn.backends.cupy_stream import Feeder, HostRows

SIZES, ROWS, BATCH = (6, 5, 3), 64, 4
ENGINE, COPIES = "the engine's stream", "the stream of copies"


def program(device=None):
    device = device or ShimDevice()
    net = fastnn.Network(SIZES, backend=CupyBackend(device), seed=1)
    return net.backend.compile(net, optimizers.SGD(0.1), BATCH)


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((ROWS, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], ROWS)


def streamed(steps=5, made=None):
    X, y = data()
    made = made or program()
    made.run(X.view(HostRows), made.net.backend.asarray(y), np.arange(ROWS), 0, steps)
    return made


def resident(steps=5, made=None):
    made = made or program()
    X, y = (made.net.backend.asarray(x) for x in data())
    made.run(X, y, np.arange(ROWS), 0, steps)
    return made


# ---- the streams of rows from the host ----------------------------------------------------------------------------


def no_wait_for_the_rows(self, buffer):
    pass


def mark_before_the_step(self, buffer):
    """`done` as soon as the rows are there: before the step that reads them."""
    self._copied[buffer].wait()
    self._used[buffer] = self._device.mark()


def mark_before_the_copy(self, buffer, chosen):
    if self._copied[buffer] is not None:
        self._copied[buffer].synchronize()
    source = self._pinned[buffer][: len(chosen)]
    np.take(self._X, chosen, axis=0, out=source, mode="clip")
    with self._device.copying():
        self._used[buffer].wait()
        self._copied[buffer] = self._device.mark()
        self._device.upload(self.rows[buffer][: len(chosen)], source)


def fetch(self, buffer, chosen, *, pinned=True, used=True):
    """`Feeder.fetch` without one of its waits."""
    if pinned and self._copied[buffer] is not None:
        self._copied[buffer].synchronize()
    source = self._pinned[buffer][: len(chosen)]
    np.take(self._X, chosen, axis=0, out=source, mode="clip")
    with self._device.copying():
        if used:
            self._used[buffer].wait()
        self._device.upload(self.rows[buffer][: len(chosen)], source)
        self._copied[buffer] = self._device.mark()


STREAMING = {
    "the step does not wait for its rows": ({"ready": no_wait_for_the_rows}, rf"{ENGINE} reads .*{COPIES} writes"),
    "the event of the copy is recorded before the copy": (
        {"fetch": mark_before_the_copy},
        rf"{ENGINE} reads .*{COPIES} writes",
    ),
    "the buffer is free before the step": (
        {"ready": mark_before_the_step, "done": lambda self, buffer: None},
        rf"an upload on {COPIES} writes target, which .* on {ENGINE} reads",
    ),
    "the buffer is never said to be used": (
        {"done": lambda self, buffer: None},
        rf"an upload on {COPIES} writes target, which .* on {ENGINE} reads",
    ),
    "the copy does not wait for the buffer": (
        {"fetch": lambda self, *a: fetch(self, *a, used=False)},
        rf"an upload on {COPIES} writes target",
    ),
    "pinned memory is filled while it is read": (
        {"fetch": lambda self, *a: fetch(self, *a, pinned=False)},
        rf"numpy.take on thread \d+ of the host writes pinned memory, which an upload on {COPIES} reads",
    ),
}


@pytest.mark.parametrize("fault", STREAMING)
def test_a_forgotten_wait_of_the_feeder_is_seen(fault, monkeypatch):
    changed, message = STREAMING[fault]
    for name, function in changed.items():
        monkeypatch.setattr(Feeder, name, function)
    with pytest.raises(OrderFault, match=message):
        streamed()


def test_the_feeder_is_in_order_with_all_its_waits(monkeypatch):
    """The same code as in the faults above; and as graphs, of short batches, over several runs."""
    monkeypatch.setattr(Feeder, "fetch", fetch)
    made = streamed()
    monkeypatch.undo()
    X, y = data()
    for _ in range(3):
        made.run(X.view(HostRows), y, np.arange(ROWS)[: 5 * BATCH - 1], 0, 5)
    assert made.mode == "captured"


# ---- after an interruption ------------------------------------------------------------------------------------------


def interrupted(*arguments):
    raise KeyboardInterrupt


def upload_and_interrupt(self, target, source, upload=ShimDevice._upload):
    """A Ctrl-C between a copy on the second stream and its mark."""
    upload(self, target, source)
    if self.order.stream == COPIES:
        raise KeyboardInterrupt


def test_a_program_can_run_again_after_an_interruption_between_a_step_and_its_mark(monkeypatch):
    """The next copy into the buffer comes after that step, not after the last one that has a mark."""
    made = streamed()
    with monkeypatch.context() as patch:
        patch.setattr(Feeder, "done", interrupted)
        with pytest.raises(KeyboardInterrupt):
            streamed(made=made)
    streamed(made=made)


@pytest.mark.parametrize("settled", [True, False])
def test_no_memory_is_given_away_while_a_copy_is_under_way(settled, monkeypatch):
    """Not even that of a copy which was interrupted before it had a mark."""
    made, X = program(), data()[0].view(HostRows)
    with monkeypatch.context() as patch:
        if not settled:
            patch.setattr(Feeder, "settle", lambda self: None)
        patch.setattr(ShimDevice, "_upload", upload_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            streamed(made=made)
    device = made.net.backend.device
    device._copies.clear()  # which keep their arrays, as CUDA does not
    del made
    gc.collect()
    if settled:
        streamed(made=program(device))
        return
    used = "memory that was freed and is used again"
    for who, what in (("the default stream", "writes"), (r"thread \d+ of the host", "reads")):  # pinned memory is read
        with pytest.raises(OrderFault, match=f"{used} on {who} writes it, which an upload on {COPIES} {what}"):
            Feeder(device, X, BATCH)


# ---- the engine's stream and the caller's ---------------------------------------------------------------------------


def own_stream(*, begin=True, end=True):
    """`ShimDevice._own_stream`, which leaves out a wait."""

    @contextmanager
    def own(self):
        caller, before = self.order.stream, self.order.record()
        with self.order.on(ENGINE):
            if begin:
                self.order.wait(before)
            yield
            if end:
                self.order.wait(self.order.record(), caller)

    return own


@pytest.mark.parametrize("run", [resident, streamed])
def test_work_that_does_not_wait_for_the_caller_is_seen(run, monkeypatch):
    monkeypatch.setattr(ShimDevice, "_own_stream", own_stream(begin=False))
    with pytest.raises(OrderFault, match=f"on {ENGINE} .* on the default stream"):
        run()


@pytest.mark.parametrize("end", [True, False])
def test_a_caller_that_does_not_wait_for_the_work_is_seen(end, monkeypatch):
    monkeypatch.setattr(ShimDevice, "_own_stream", own_stream(end=end))
    device = ShimDevice()
    x = device.empty((8,), np.float32)
    with device.work():
        device.clear(x)
    if end:
        device.clear(x)
        return
    with pytest.raises(OrderFault, match=f"clear on the default stream writes x, which clear on {ENGINE} writes"):
        device.clear(x)


def test_streams_of_a_user():
    """Arrays made on another stream are found by what is called on that stream; whoever changes streams must wait."""
    made, (X, y) = program(), data()
    device = made.net.backend.device
    order, X = device.order, device.asarray(X)
    with order.on("a user's stream"):
        device.clear(X)
        made.run(X, y, np.arange(ROWS), 0, 2)
        device.clear(X)
        reached = device.mark()
    with pytest.raises(OrderFault, match=f"{ENGINE} reads .* which clear on a user's stream writes as x"):
        made.run(X, y, np.arange(ROWS), 0, 2)
    reached.wait()
    made.run(X, y, np.arange(ROWS), 0, 2)
    with order.on("a blocking stream", blocking=True):
        device.clear(X)
    made.run(X, y, np.arange(ROWS), 0, 2)


def test_threads_take_turns():
    """Programs of one device in two threads; the host's threads know nothing of each other."""
    device, faults = ShimDevice(), []

    def train():
        try:
            for _ in range(3):
                streamed(made=program(device))
                resident(made=program(device))
        except OrderFault as fault:
            faults.append(fault)

    threads = [threading.Thread(target=train) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# ---- graphs ---------------------------------------------------------------------------------------------------------


def branches(first, second, after=None):
    """A device whose graph does both beside each other, then what comes after."""
    device = ShimDevice()
    x, y = (device.empty((8,), np.float32) for _ in range(2))
    for array in (x, y):
        device.clear(array)
    pieces = {"x": lambda: device.clear(x), "y": lambda: device.clear(y), "x to y": lambda: device.copy(y, x)}

    def step():
        device.side_by_side(pieces[first], pieces[second])
        if after:
            pieces[after]()

    with device.work():
        graph = device.capture(step)
        for _ in range(3):
            graph.launch()
    device.clear(x)


def test_branches_of_a_graph():
    branches("x", "y", "x to y")  # and the next launch, and the caller afterwards, wait for both
    with pytest.raises(OrderFault, match="clear on a branch of a graph writes x, which a copy on the engine's stream"):
        branches("x", "x to y")


@pytest.mark.parametrize(("left_out", "message"), [(0, "clear on a branch"), (-1, f"a copy on {ENGINE} reads")])
def test_a_branch_that_does_not_wait_or_is_not_waited_for_is_seen(left_out, message, monkeypatch):
    def without(self, first, second):
        beside(self, first, second)
        del self._recording.calls[left_out]

    beside = ShimDevice._side_by_side
    monkeypatch.setattr(ShimDevice, "_side_by_side", without)
    with pytest.raises(OrderFault, match=message):
        branches("x", "y", "x to y")


# ---- what the host reads, and memory ---------------------------------------------------------------------------------


def test_the_host_reads_pinned_memory_after_the_device_wrote_it():
    """Nothing of the engine does that so far; a cost that is left in pinned memory is to be waited for."""
    device = ShimDevice()
    cost, pinned = device.empty((2,), np.float64), device.pinned((2,), np.float64)
    with device.work():
        device.clear(cost)
        device.copy(pinned, cost)
        there = device.mark()
    with pytest.raises(OrderFault, match=rf"numpy.sum on thread \d+ of the host reads .* a copy on {ENGINE} writes"):
        np.sum(pinned)
    there.synchronize()
    assert np.sum(pinned) == 0


@pytest.mark.parametrize("waits", [True, False])
def test_memory_of_another_stream_is_freed_in_the_order_of_the_stream_that_took_it(waits):
    device = ShimDevice()
    x = device.empty((8,), np.float32)
    with device.copying():
        if waits:
            device.clear(x)
            reached = device.mark()
        else:
            device.clear(x)
    if waits:
        reached.wait()
    del x
    if waits:
        device.empty((8,), np.float32)
        return
    with pytest.raises(OrderFault, match=f"used again on the default stream writes it, which clear on {COPIES}"):
        device.empty((8,), np.float32)


# ---- the real device's streams and events, over the fake CuPy ---------------------------------------------------------


def no_together(self, first, second):
    """`CupyDevice._side_by_side` without its end."""
    stream, (apart, _) = self._cupy.cuda.get_current_stream(), self._places
    apart.record(stream)
    self._beside.wait_event(apart)
    with self._beside:
        first()
    second()


def no_apart(self, first, second):
    stream, (_, together) = self._cupy.cuda.get_current_stream(), self._places
    with self._beside:
        first()
    second()
    together.record(self._beside)
    stream.wait_event(together)


def beside(patch):
    chosen = cupy_program.choose
    patch.setattr(
        cupy_program,
        "choose",
        lambda *a, **k: [replace(choice, beside=layer > 0) for layer, choice in enumerate(chosen(*a, **k))],
    )


REAL = {
    "work does not wait for the caller": (resident, CupyDevice, "_order", lambda *a: None),
    "a mark is not waited for": (streamed, _CupyMark, "wait", lambda self: None),
    "a branch is not waited for": (resident, CupyDevice, "_side_by_side", no_together),
    "a branch does not wait": (resident, CupyDevice, "_side_by_side", no_apart),
}


@pytest.mark.parametrize("run", [resident, streamed])
def test_the_real_device_is_in_order(run, working, monkeypatch):  # noqa: F811
    beside(monkeypatch)
    made = run(made=program(CupyDevice(working)))
    assert made.mode == "captured"
    run(made=made)


def twice(run, device):
    run(made=run(made=program(device)))


@pytest.mark.parametrize("fault", REAL)
def test_a_forgotten_wait_of_the_real_device_is_seen(fault, working, monkeypatch):  # noqa: F811
    run, owner, name, changed = REAL[fault]
    beside(monkeypatch)
    monkeypatch.setattr(owner, name, changed)
    with pytest.raises(OrderFault, match=r"stream \d"):
        twice(run, CupyDevice(working))
