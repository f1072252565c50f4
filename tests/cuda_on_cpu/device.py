"""The stand-in of the device: NumPy arrays for memory, fibers for kernels, NumPy for matrix products, a list for a
graph.

It counts what a GPU would make expensive, fills fresh memory with NaN, and can be given less memory.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager

import numpy as np

from fastnn.backends.cupy_contract import CaptureRefused, Device, Graph, Mark
from fastnn.backends.cupy_products import EPILOGUES, Candidate

from . import products
from .builder import library


class KernelFault(RuntimeError):
    """A kernel broke the rules of CUDA."""


class RecordedGraph(Graph):
    """Calls with the arguments they had when they were recorded."""

    def __init__(self, device, calls):
        self.device, self.calls = device, calls

    def launch(self):
        self.device.graphs += 1
        for call in self.calls:
            call()


class Reached(Mark):
    """Work is done at once here, but for copies on the second stream: they are done when somebody waits for them, so
    that one nobody waits for shows. Marks are counted."""

    def __init__(self, device, pending):
        self.device, self.pending = device, pending

    def wait(self):
        self.device.waits += 1
        while self.pending:
            self.pending.pop(0)()

    synchronize = wait


def prefetches(built):
    """(address, bytes) of everything that the last launch asked for ahead."""
    count = built.prefetched(None, ctypes.c_size_t(0))
    numbers = (ctypes.c_uint64 * count)()
    built.prefetched(numbers, ctypes.c_size_t(count))
    return list(zip(numbers[::2], numbers[1::2], strict=True))


class ShimDevice(Device):
    """Attributes: `seed` of the thread schedules; `faults` planted; `offers`, the epilogues that products have here.

    `aligned`: whether products insist on `products.check_alignment`. `shared_bytes`: 0, with which narrow nets are not
    fused. `limit`: bytes of memory, of which `taken` are held by arrays of 1 KiB and more (None: no limit).
    `refuses_capture`: a reason. `duration`: a function from the name of a candidate to the seconds it is to take when
    it is timed.
    `prefetched`: addresses and bytes that the last kernel asked for ahead. Counters `allocations`, `synchronizations`,
    `launches` (names), `products` (their strings), `graphs`, `waits`.
    """

    workspace_bytes = 4096

    def __init__(
        self, seed=0, faults=(), offers=tuple(EPILOGUES), limit=None, refuses_capture=None, shared_bytes=0, aligned=True
    ):
        super().__init__()
        self.seed, self.faults, self.offers, self.limit, self.refuses_capture = (
            seed,
            tuple(faults),
            offers,
            limit,
            refuses_capture,
        )
        self.shared_bytes, self.aligned = shared_bytes, aligned
        self.duration = lambda name: 1.0
        self._recording = threading.local()
        self._held = []
        self._copies, self._pending = [], None  # copies asked for on the second stream; where uploads go now
        self.reset_counters()

    def reset_counters(self):
        self.allocations, self.synchronizations, self.launches, self.calls, self.graphs, self.waits, self.timings = (
            0,
            0,
            [],
            [],
            0,
            0,
            0,
        )

    @property
    def no_products(self):
        return None if "DEFAULT" in self.offers else "there is no cuBLASLt here"

    # ---- memory

    def is_array(self, x):
        return isinstance(x, np.ndarray)

    def adopt(self, x):
        return np.from_dlpack(x)

    def _empty(self, shape, dtype):
        self.allocations += 1
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.limit is not None and size > self.memory()[0]:
            raise MemoryError(f"the stand-in has {self.memory()[0]} bytes free, {size} were asked for")
        memory = np.full(size + 256, 0xFF, np.uint8)  # NaN, -1
        start = -memory.ctypes.data % 256
        x = memory[start : start + size].view(dtype).reshape(shape)
        if size >= 1024 and self.limit is not None:
            import weakref

            self._held.append((weakref.ref(memory), size))
        return x

    def memory(self):
        self._held = [(memory, size) for memory, size in self._held if memory() is not None]
        limit = 1 << 40 if self.limit is None else self.limit
        return limit - sum(size for _, size in self._held), limit

    def clear(self, x):
        self.guard()
        self._do(lambda: x.fill(0))

    def _asarray(self, x, dtype):
        result = np.asarray(x, dtype, order="C")
        self.allocations += result is not x
        return result

    def _to_numpy(self, x):
        self.synchronizations += 1
        return x

    def _upload(self, target, source):
        if self._pending is None:
            target[...] = source
        else:
            self._pending.append(lambda: np.copyto(target, source))

    def _pinned(self, shape, dtype):
        return np.empty(shape, dtype)

    def copy(self, target, source):
        self.guard()
        self._do(lambda: np.copyto(target, source, casting="no"))

    def overlap(self, x, y):
        return np.may_share_memory(x, y)

    def address(self, x):
        return x.ctypes.data

    def _synchronize(self):
        self.synchronizations += 1

    # ---- streams and graphs

    @contextmanager
    def _own_stream(self):
        yield

    @contextmanager
    def copying(self):
        self._pending = self._copies
        try:
            yield
        finally:
            self._pending = None

    def mark(self):
        self.guard()
        return Reached(self, [] if self._pending is None else self._pending)

    def _capture(self, step):
        if self.refuses_capture:
            raise CaptureRefused(self.refuses_capture)
        self._recording.calls = []
        try:
            step()
            return RecordedGraph(self, self._recording.calls)
        finally:
            self._recording.calls = None

    def _side_by_side(self, first, second):
        """The second first: if the one needs what the other overwrites, the step gives another result than launch
        by launch.
        """
        second()
        first()

    def _do(self, call):
        """Do it, or record it while a step is being captured."""
        calls = getattr(self._recording, "calls", None)
        call() if calls is None else calls.append(call)

    def seconds(self, work, *, recorded=True):
        """`work` is a Candidate's call; what it is called is what `duration` is asked."""
        self._outside_capture("be timed")
        self.timings += 1
        work()
        return self.duration(getattr(work, "name", "own kernel"))

    # ---- work

    def _launch(self, kernel, kind, grid, block, shared, arguments):
        # An array is passed as its address, a number by its bytes; the driver wants pointers to both.
        values = [np.array(x.ctypes.data, np.uintp) if isinstance(x, np.ndarray) else np.array(x) for x in arguments]
        packed = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = [(ctypes.c_uint * 3)(*dims, *([1] * (3 - len(dims)))) for dims in (grid, block)]

        def call(keep=(values, arguments)):
            self.launches.append(kernel)
            self.seed += 1
            run = getattr(library(kind, self.faults), f"run_{kernel}")
            run.restype = ctypes.c_char_p
            wrong = run(packed, *sizes, ctypes.c_size_t(shared), ctypes.c_uint64(self.seed))
            self.prefetched = prefetches(library(kind, self.faults))
            if wrong:
                raise KernelFault(f"{kernel}: {wrong.decode()}")

        self._do(call)

    def _gemm(self, op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        if getattr(self._recording, "calls", None) is not None:
            raise CaptureRefused("NotImplementedError: cuBLAS through CuPy cannot be captured")  # as CuPy does
        self.calls.append(f"gemm {op_A}{op_B} {m}x{n}x{k}")
        with np.errstate(all="ignore"):
            product = C.dtype.type(alpha) * (products.matrix(op_A, A, m, k, lda) @ products.matrix(op_B, B, k, n, ldb))
            target = products.matrix("N", C, m, n, ldc)
            # BLAS: C is not read if beta is 0
            target[...] = product if beta == 0 else product + C.dtype.type(beta) * target

    def _prepare(self, product, A, B, D, workspace, bias, aux):
        if self.aligned:
            products.check_alignment(product, [None if x is None else self.address(x) for x in (A, B, D, bias, aux)])
        if product.epilogue not in self.offers:
            return []

        def do():
            self.calls.append(str(product))
            products.multiply(product, A, B, D, bias, aux)

        def call():
            self._do(do)

        call.name = product.epilogue
        return [Candidate(product.epilogue, call)]
