"""The stand-in of the device: NumPy arrays for memory, fibers for kernels, NumPy for matrix products, a list for a
graph.

It counts what a GPU would make expensive, fills fresh memory with NaN, and can be given less memory.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from contextlib import contextmanager

import numpy as np

from fastnn.backends.cupy_contract import CaptureRefused, Device, Graph, Mark
from fastnn.backends.cupy_products import EPILOGUES, READS_BIAS, Candidate
from fastnn.kernels.cuda import sources

from . import products
from .builder import library
from .order import Order, Pinned, operation


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
        self.device, self.pending, self.place = device, pending, device.order.record()

    def wait(self):
        self.device.order.wait(self.place)
        self._reach()

    def synchronize(self):
        self.device.order.synchronize(self.place)
        self._reach()

    def _reach(self):
        self.device.waits += 1
        while self.pending:
            self.pending.pop(0)()


def prefetches(built):
    """(address, bytes) of everything that the last launch asked for ahead."""
    count = built.prefetched(None, ctypes.c_size_t(0))
    numbers = (ctypes.c_uint64 * count)()
    built.prefetched(numbers, ctypes.c_size_t(count))
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def touched(kernel, arguments):
    """(what the kernel reads, what it may write), as its source declares it."""
    given = [
        (p, (p.name, x)) for p, x in zip(sources.kernels()[kernel].parameters, arguments, strict=True) if p.pointer
    ]
    return [pair for p, pair in given if p.const], [pair for p, pair in given if not p.const]


def product_touches(product, A, B, D, bias, aux, workspace):
    """The `order.operation` of a cuBLASLt product, which may use all of its workspace."""
    reads, writes = [("A", A), ("B", B)], [("D", D), ("the workspace", workspace)]
    if bias is not None:
        (reads if product.epilogue in READS_BIAS else writes).append(("the bias", bias))
    if aux is not None:
        (writes if product.epilogue == "RELU_AUX_BIAS" else reads).append(("aux", aux))
    return operation(str(product), reads, writes)


class ShimDevice(Device):
    """Attributes: `seed` of the thread schedules; `faults` planted; `offers`, the epilogues that products have here.

    `aligned`: whether products insist on `products.check_alignment`. `shared_bytes`: 0, with which narrow nets are not
    fused. `limit`: bytes of memory, of which `taken` are held by arrays of 1 KiB and more (None: no limit).
    `refuses_capture`: a reason. `duration`: a function from the name of a candidate to the seconds it is to take when
    it is timed.
    `prefetched`: addresses and bytes that the last kernel asked for ahead. Counters `allocations`, `synchronizations`,
    `launches` (names), `products` (their strings), `graphs`, `waits`. `order`: what is certain to come before what; every
    operation is checked.
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
        self._recording, self.order = threading.local(), Order()
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
        self.order.hand_out()
        x, memory = self._memory(size, 0xFF)  # NaN, -1
        if size >= 1024 and self.limit is not None:
            self._held.append((weakref.ref(memory), size))
        return x.view(dtype).reshape(shape)

    def _memory(self, size, filled, pinned=False):
        """Bytes, and the object that lives as long as somebody has a view of them."""
        block = np.full(size + 256, filled, np.uint8)
        memory = (ctypes.c_char * block.size).from_buffer(block)
        self.order.taken(memory, block, pinned)
        start = -block.ctypes.data % 256
        return np.frombuffer(memory, np.uint8)[start : start + size], memory

    def memory(self):
        self._held = [(memory, size) for memory, size in self._held if memory() is not None]
        limit = 1 << 40 if self.limit is None else self.limit
        return limit - sum(size for _, size in self._held), limit

    def clear(self, x):
        self.guard()
        self._do(lambda: x.fill(0), operation("clear", (), [("x", x)]))

    def _asarray(self, x, dtype):
        result = np.asarray(x, dtype, order="C")
        self.allocations += result is not x
        return result

    def _to_numpy(self, x):
        self.synchronizations += 1
        self.order.note(operation("a copy to the host", [("x", x)]))
        self.order.synchronize()
        return x

    def _upload(self, target, source):
        reads = [("pinned memory", source)] if isinstance(source, Pinned) else ()
        self.order.note(operation("an upload", reads, [("target", target)]))
        source = source.view(np.ndarray)
        if self._pending is None:
            target[...] = source
        else:
            self._pending.append(lambda: np.copyto(target, source))

    def _pinned(self, shape, dtype):
        self.order.hand_out()
        x = self._memory(int(np.prod(shape)) * np.dtype(dtype).itemsize, 0xFF, pinned=True)[0].view(Pinned)
        x.order = self.order
        return x.view(dtype).reshape(shape)

    def copy(self, target, source):
        self.guard()
        what = operation("a copy", [("source", source)], [("target", target)])
        target, source = target.view(np.ndarray), source.view(np.ndarray)  # pinned memory shall not say it is the host
        self._do(lambda: np.copyto(target, source, casting="no"), what)

    def overlap(self, x, y):
        return np.may_share_memory(x, y)

    def address(self, x):
        return x.ctypes.data

    def _synchronize(self):
        self.synchronizations += 1
        self.order.synchronize()

    # ---- streams and graphs

    @contextmanager
    def _own_stream(self):
        order = self.order
        caller, begin = order.stream, order.record()
        with order.on("the engine's stream"):
            order.wait(begin)
            try:
                yield
            finally:
                order.wait(order.record(), caller)

    @contextmanager
    def copying(self):
        self._pending = self._copies
        try:
            with self.order.on("the stream of copies"):
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
        order, branch = self.order, "a branch of a graph"
        self._recording.calls.append(lambda: order.wait(order.record(), branch))
        second()
        calls, self._recording.calls = self._recording.calls, []
        first()
        calls.append(functools.partial(self._on, branch, self._recording.calls))
        calls.append(lambda: order.wait(order.record(branch)))
        self._recording.calls = calls

    def _on(self, stream, calls):
        with self.order.on(stream):
            for call in calls:
                call()

    def _do(self, call, what):
        """Do it, or record it while a step is being captured; `what` it reads and writes is an `order.operation`."""

        def noted():
            self.order.note(what)
            call()

        calls = getattr(self._recording, "calls", None)
        noted() if calls is None else calls.append(noted)

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

        self._do(call, operation(kernel, *touched(kernel, arguments)))

    def _gemm(self, op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        if getattr(self._recording, "calls", None) is not None:
            raise CaptureRefused("NotImplementedError: cuBLAS through CuPy cannot be captured")  # as CuPy does
        self.calls.append(f"gemm {op_A}{op_B} {m}x{n}x{k}")
        self.order.note(operation("gemm", [("A", A), ("B", B)], [("C", C)]))
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

        what = product_touches(product, A, B, D, bias, aux, workspace)

        def call():
            self._do(do, what)

        call.name = product.epilogue
        return [Candidate(product.epilogue, call)]
