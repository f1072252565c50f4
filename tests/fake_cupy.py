"""A CuPy without a device: enough of it for CupyDevice, with kernels and products done by the stand-in."""

from __future__ import annotations

import ctypes
import functools
import itertools
from types import SimpleNamespace

import numpy as np
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.device import touched
from cuda_on_cpu.order import DEFAULT, Order, operation

from fastnn.kernels.cuda import sources


def runtime(driver=13000, toolkit=13020, devices=1, error=None):
    def count():
        if error:
            raise error
        return devices

    return SimpleNamespace(driverGetVersion=lambda: driver, runtimeGetVersion=lambda: toolkit, getDeviceCount=count)


class FakeCupy:
    """Just enough of CuPy to get past the first questions."""

    ndarray = np.ndarray

    def __init__(self, **kw):
        self.cuda = SimpleNamespace(runtime=runtime(**kw))


class DeviceArray(np.ndarray):
    """What CupyDevice uses of cupy.ndarray."""

    device = SimpleNamespace(id=0)
    cupy = None  # whose `order` is told; the last one made
    __cuda_array_interface__ = {"version": 3}  # noqa: RUF012 - CuPy has it, and fastnn looks for it

    def set(self, source):
        assert type(source) is np.ndarray
        self.cupy.did(operation("an upload", (), [("target", self)]))
        self.view(np.ndarray)[...] = source

    @property
    def data(self):
        def memset_async(value, count):
            assert (value, count) == (0, self.nbytes)
            self.cupy.did(operation("clear", (), [("x", self)]))
            self.view(np.ndarray)[...] = 0

        return SimpleNamespace(ptr=self.ctypes.data, memset_async=memset_async)


class FakeCublas:
    """gemm on raw addresses, as cuBLAS sees it."""

    CUBLAS_DEFAULT_MATH = 0

    def __init__(self, cupy):
        self.cupy = cupy
        self.mode, self.calls = 3, 0  # somebody allowed TF32 on the handle

    def getMathMode(self, handle):
        return self.mode

    def setMathMode(self, handle, mode):
        self.mode = mode

    def _gemm(self, real, handle, op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        assert self.mode == 0, "TF32 is still allowed"
        assert handle == "the handle"
        if self.cupy.recording is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        self.calls += 1

        def memory(address, count):
            return np.ctypeslib.as_array((real * count).from_address(address))

        arrays = [
            memory(A, lda * (k if op_A == 0 else m)),
            memory(B, ldb * (n if op_B == 0 else k)),
            memory(C, ldc * n),
        ]
        self.cupy.did(operation("gemm", zip("AB", arrays, strict=False), [("C", arrays[2])]))
        ShimDevice().gemm(
            "NT"[op_A],
            "NT"[op_B],
            m,
            n,
            k,
            arrays[0],
            lda,
            arrays[1],
            ldb,
            arrays[2],
            ldc,
            alpha=memory(alpha, 1)[0],
            beta=memory(beta, 1)[0],
        )

    def sgemm(self, *arguments):
        self._gemm(ctypes.c_float, *arguments)

    def dgemm(self, *arguments):
        self._gemm(ctypes.c_double, *arguments)


class Tensor:
    """An array of another library; its memory is `array`, on this device."""

    def __init__(self, array, place=(2, 0)):
        self.array, self.place = array, place

    def __dlpack_device__(self):
        return self.place

    def __dlpack__(self, **options):
        raise AssertionError("the fake CuPy looks at the array itself")

    def __array__(self, dtype=None, copy=None):
        assert self.place[0] == 1, "a host round trip"
        return self.array


class FakeOutOfMemory(MemoryError):
    pass


class FakeEvent:
    def __init__(self, cupy):
        self.cupy, self.reached = cupy, {}

    def record(self, stream=None):
        stream = stream or self.cupy.streams[-1]
        self.cupy.log.append(("record", stream.name))

        def recorded():
            self.reached = self.cupy.order.record(stream.key)

        self.cupy.do(recorded)

    def synchronize(self):
        self.cupy.order.synchronize(self.reached)
        self.cupy.log.append(("wait for event",))


class FakeStream:
    """Records launches while it captures, as the driver does. `key`: its name in the order of the streams."""

    ptr = 7

    def __init__(self, cupy, name, key):
        self.cupy, self.name, self.key = cupy, name, key

    def __enter__(self):
        self.cupy.streams.append(self)

    def __exit__(self, *error):
        self.cupy.streams.pop()

    def wait_event(self, event):
        self.cupy.log.append(("wait", self.name))
        self.cupy.do(lambda: self.cupy.order.wait(event.reached, self.key))

    def synchronize(self):
        self.cupy.order.synchronize(self.cupy.order.record(self.key))
        self.cupy._wait()

    def begin_capture(self, mode):
        assert (mode, self.cupy.recording) == (1, None)
        if self.cupy.refuses:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: operation not permitted\nmore")
        self.cupy.recording = []

    def end_capture(self):
        calls, self.cupy.recording = self.cupy.recording, None
        return SimpleNamespace(launch=lambda: [call() for call in calls], upload=lambda stream: None)


class WorkingCupy(FakeCupy):
    ndarray = DeviceArray

    def __init__(self):
        super().__init__()
        self.current, self.modules, self.waits, self.log = 0, [], 0, []
        runtime = self.cuda.runtime
        runtime.getDevice, runtime.memGetInfo, runtime.streamCaptureModeThreadLocal = (
            lambda: self.current,
            lambda: (10**9, 2 * 10**9),
            1,
        )
        runtime.getDeviceProperties = lambda device: {"name": b"Fake GPU"}
        self.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 24)
        self.order, made = Order(), itertools.count(1)
        DeviceArray.cupy = self
        self.streams = [FakeStream(self, "the caller's", DEFAULT)]
        self.cuda.get_current_stream = lambda: self.streams[-1]
        self.cuda.Stream = lambda non_blocking: FakeStream(self, f"own {non_blocking}", f"stream {next(made)}")
        self.cuda.Event = lambda disable_timing=False: FakeEvent(self)
        self.cuda.get_elapsed_time = lambda begin, end: 40.0  # milliseconds
        self.cuda.alloc_pinned_memory = bytearray
        self.cuda.get_cublas_handle = lambda: "the handle"
        self.cuda.memory = SimpleNamespace(OutOfMemoryError=FakeOutOfMemory)
        self.recording, self.refuses = None, False

    def _wait(self):
        self.waits += 1

    def do(self, call):
        """Do it, or record it while a graph is being captured."""
        call() if self.recording is None else self.recording.append(call)

    def noted(self, what, call):
        """The call, which also says that the stream that is current now does this."""
        key = self.streams[-1].key

        def noted():
            with self.order.on(key):
                self.order.note(what)
            call()

        return noted

    def did(self, what):
        self.do(self.noted(what, lambda: None))

    def empty(self, shape, dtype):
        if np.prod(shape) > 10**10:
            raise FakeOutOfMemory("story")
        memory = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize + 256, 0xFF, np.uint8).view(DeviceArray)
        start = -memory.ctypes.data % 256
        return memory[start : memory.size - 256 + start].view(dtype).reshape(shape)

    def asarray(self, x, dtype=None):
        assert isinstance(x, DeviceArray) or x.dtype.isnative
        if isinstance(x, DeviceArray) and dtype in (None, x.dtype):
            return x
        made = np.array(x, dtype).view(DeviceArray)
        self.did(operation("asarray", [("x", x)] if isinstance(x, DeviceArray) else (), [("the array", made)]))
        return made

    def from_dlpack(self, x):
        self.log.append("from_dlpack")
        if isinstance(x.array, str):
            raise BufferError(x.array)
        return x.array.view(DeviceArray)

    def ascontiguousarray(self, x):
        return np.ascontiguousarray(x).view(DeviceArray) if not x.flags.c_contiguous else x

    def asnumpy(self, x):
        assert isinstance(x, DeviceArray)
        self.did(operation("a copy to the host", [("x", x)]))
        self.order.synchronize(self.order.record(self.streams[-1].key))
        return np.array(x)

    def copyto(self, target, source):
        copy = functools.partial(np.copyto, target, source)
        self.do(self.noted(operation("a copy", [("source", source)], [("target", target)]), copy))

    may_share_memory = staticmethod(np.may_share_memory)

    def RawModule(self, code, options):
        self.modules.append(options)
        assert "#include" not in code
        (kind,) = (kind for kind in sources.KINDS if sources.options(kind) == options)

        def get_function(name):
            assert f" {name}(" in code

            def run(grid, block, arguments, shared_mem=0):
                assert shared_mem <= 48 << 10 or shared_mem <= run.max_dynamic_shared_size_bytes
                for x in arguments:
                    assert isinstance(x, (DeviceArray, np.generic))
                assert self.streams[-1].name == "own True" or not in_a_step(name)
                call = functools.partial(ShimDevice()._launch, name, kind, grid, block, shared_mem, arguments)
                self.do(self.noted(operation(name, *touched(name, arguments)), call))

            run.shared_size_bytes = 512
            return run

        return SimpleNamespace(get_function=get_function, compile=lambda: None)


def in_a_step(kernel):
    return kernel.startswith(("gather", "output", "update", "finish", "bias_activate", "derivative", "sum_chunks"))
