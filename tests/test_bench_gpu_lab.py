"""The GPU run's clock, products and copies: the real ones, over a fake CuPy that shows what it was asked."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from fastnn.bench.gpu import lab as labs
from fastnn.bench.gpu.timer import EventTimer


class FakeEvents:
    """CuPy's events with a clock that moves 2 ms with each piece of work; `asked` is everything in order."""

    def __init__(self):
        self.now, self.asked = 0.0, []
        properties = {"l2CacheSize": 1 << 28}
        self.cuda = SimpleNamespace(
            Event=lambda: FakeEvent(self),
            get_elapsed_time=lambda a, b: 1000 * (b.at - a.at),
            runtime=SimpleNamespace(getDevice=lambda: 0, getDeviceProperties=lambda d: properties),
        )

    def empty(self, count, dtype):
        assert count == 1 << 29  # twice the cache
        return SimpleNamespace(fill=lambda value: self.asked.append("flush"))

    def work(self):
        self.asked.append("work")
        self.now += 0.002


class FakeEvent:
    def __init__(self, cupy):
        self.cupy = cupy

    def record(self):
        self.at = self.cupy.now
        self.cupy.asked.append("record")

    def synchronize(self):
        self.cupy.asked.append("wait")


def test_events_stand_around_the_work_alone():
    cupy = FakeEvents()
    timer = EventTimer(cupy)
    assert timer.once(cupy.work) == pytest.approx(0.002)
    assert cupy.asked == ["flush", "record", "work", "record", "wait"]
    assert timer.seconds(cupy.work, rounds=5, warm_up=2) == pytest.approx(
        dict.fromkeys(("median", "q1", "q3", "least"), 0.002)
    )
    assert cupy.asked.count("work") == 1 + 5 + 2


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_product_that_is_timed_is_a_product(precision):
    """gemmEx on raw addresses, column-major: the memory that it is given holds C = A B in rows."""
    made = []

    def gemm_ex(
        handle, op_a, op_b, m, n, k, alpha, A, type_a, lda, B, type_b, ldb, beta, C, type_c, ldc, compute, algo
    ):
        kinds = {0: np.float32, 14: np.uint16}
        columnwise = [
            np.ctypeslib.as_array((ctypes.c_uint8 * (np.dtype(kinds[kind]).itemsize * rows * ld)).from_address(at))
            .view(kinds[kind])
            .reshape(rows, ld)
            .T
            for at, kind, rows, ld in ((A, type_a, k, lda), (B, type_b, n, ldb), (C, type_c, n, ldc))
        ]
        made.append((op_a, op_b, compute, algo, *columnwise))
        assert (lda, ldb, ldc) == (m, k, m)

    class Array(np.ndarray):
        @property
        def data(self):
            return SimpleNamespace(ptr=self.ctypes.data)

    lab = object.__new__(labs.CupyLab)
    lab.xp = SimpleNamespace(
        asarray=lambda x: x.view(Array),
        tile=lambda x, n: np.tile(x, n).view(Array),
        cuda=SimpleNamespace(cublas=SimpleNamespace(gemmEx=gemm_ex), get_cublas_handle=lambda: 7),
    )
    lab.product(precision, 3, 5, 4)()
    ((op_a, op_b, compute, algo, first, second, result),) = made
    assert (op_a, op_b, algo) == (0, 0, -1)
    assert compute == {"fp32": 68, "tf32": 77, "bf16": 68}[precision]
    assert (first.shape, second.shape, result.shape) == ((5, 4), (4, 3), (5, 3))  # (B^T) (A^T) = C^T
    assert first.dtype == (np.uint16 if precision == "bf16" else np.float32)
    numbers = (first.astype(np.uint32) << 16).view(np.float32) if precision == "bf16" else first
    assert len(np.unique(numbers)) > 10
    assert np.abs(numbers).max() <= 0.5


def test_a_copy_is_a_copy():
    lab, moved = object.__new__(labs.CupyLab), []
    memory = SimpleNamespace(data=SimpleNamespace(copy_from_device_async=lambda *arguments: moved.append(arguments)))
    lab.xp = SimpleNamespace(
        ones=lambda count, dtype: memory,
        empty=lambda count, dtype: memory,
        cuda=SimpleNamespace(get_current_stream=lambda: "the stream"),
    )
    lab.copy(100)()
    assert moved == [(memory.data, 100, "the stream")]
