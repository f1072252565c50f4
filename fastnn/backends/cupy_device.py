"""The real device under the CuPy engine, and whether there is one.

CuPy is imported here and nowhere else, by `open_device`. This file cannot be run without a GPU, so it
holds as little as it can; what it holds is run by the tests over a fake CuPy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..arrays import device_of
from ..errors import BackendUnavailable
from ..kernels.collector import uncollected
from ..kernels.cuda import sources
from .cupy_contract import Array, CaptureRefused, Device, ForbiddenInCapture, Graph, Mark
from .cupy_products import Candidate, Product

__all__ = ["CupyDevice", "open_device"]

OPERATIONS = {"N": 0, "T": 1}  # cublasOperation_t
MOST_REPEATS, TIMING_SECONDS, TIMINGS = 20, 0.005, 3  # of a piece of work that is timed; the least counts


class _CupyGraph(Graph):
    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def launch(self) -> None:
        self._graph.launch()  # CuPy takes the current stream


class _CupyMark(Mark):
    def __init__(self, cupy: Any) -> None:
        self._cupy, self._event = cupy, cupy.cuda.Event(disable_timing=True)
        self._event.record()

    def wait(self) -> None:
        self._cupy.cuda.get_current_stream().wait_event(self._event)

    def synchronize(self) -> None:
        self._event.synchronize()


class CupyDevice(Device):
    """The current CUDA device, through CuPy. Work goes to CuPy's current stream, which `work` and `copying` replace
    by their own.
    """

    workspace_bytes = 32 << 20  # what cuBLAS itself takes on Hopper
    reserve_bytes = 256 << 20
    refused = False  # whether a capture was

    def __init__(self, cupy: Any) -> None:
        super().__init__()
        self._cupy = cupy
        # as an attribute: CuPy then loads libcublas from NVIDIA's wheels, where the linker does not find it; an import
        # of the module behind it does not
        self._cublas, self._get_handle = cupy.cuda.cublas, cupy.cuda.get_cublas_handle
        self.id = int(cupy.cuda.runtime.getDevice())
        self.shared_bytes = int(cupy.cuda.runtime.getDeviceProperties(self.id).get("sharedMemPerBlockOptin", 0))
        self._own = cupy.cuda.Stream(non_blocking=True)  # the null stream, which is the default, cannot be captured
        self._copies, self._beside = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
        self._places = cupy.cuda.Event(disable_timing=True), cupy.cuda.Event(disable_timing=True)
        self._lt = self._open_lt()
        self._modules: dict[tuple[str, str], Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}
        # alpha and beta, which cuBLAS reads through host pointers
        self._scalars: dict[tuple[str, float], np.ndarray[Any, Any]] = {}

    def _open_lt(self) -> Any:
        """cuBLASLt, named in `library`, or None with the reason in `no_products`."""
        try:
            lt = importlib.import_module(".cupy_lt", __package__).Lt()
        except Exception as error:
            self.no_products = f"cuBLASLt cannot be used ({type(error).__name__}: {_first_line(error)})"
            self.library = f"cuBLAS, because {self.no_products}"
            return None
        runtime = self._cupy.cuda.runtime
        name = runtime.getDeviceProperties(self.id)["name"]
        self.identity = (
            f"{name.decode() if isinstance(name, bytes) else name}, driver {runtime.driverGetVersion()}, cublasLt "
            f"{lt.version}"
        )
        self.library, self.refusals = f"cuBLASLt {lt.binding}", lt.refusals
        return lt

    def guard(self) -> None:
        super().guard()
        current = self._cupy.cuda.runtime.getDevice()
        if current != self.id:
            raise RuntimeError(
                f"the cupy engine works on CUDA device {self.id}, but device {current} is current here; call it "
                f"inside `with cupy.cuda.Device({self.id}):`"
            )

    # ---- memory -------------------------------------------------------------------------------------

    def is_array(self, x: object) -> bool:
        if not isinstance(x, self._cupy.ndarray):
            return False
        place = x.device.id
        if place != self.id:
            raise ValueError(
                f"the array lies on CUDA device {place}, the cupy engine works on device {self.id}; copy it there first"
            )
        return True

    def adopt(self, x: Any) -> Array:
        self.guard()
        if not self.is_array(x):
            place = device_of(x)
            if place not in (None, self.id):
                raise ValueError(
                    f"the array lies on CUDA device {place}, the cupy engine works on device {self.id}; copy it there "
                    "first"
                )
            x = self._cupy.from_dlpack(x) if hasattr(x, "__dlpack__") else self._cupy.asarray(x)
            self.is_array(x)  # the CUDA array interface does not say where it lies; its memory does
        return x

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        try:
            return self._cupy.empty(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            free, total = self.memory()
            wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raise MemoryError(
                f"the GPU has {free / 1e9:.3g} GB of {total / 1e9:.3g} GB free, {wanted / 1e9:.3g} GB were asked for"
            ) from error

    def clear(self, x: Array) -> None:
        self.guard()
        if x.nbytes:
            x.data.memset_async(0, x.nbytes)

    def _asarray(self, x: Any, dtype: Any) -> Array:
        if not self.is_array(x) and not hasattr(x, "__cuda_array_interface__"):
            x = np.asarray(x, dtype, order="C")
            x = x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
        return self._cupy.ascontiguousarray(self._cupy.asarray(x, dtype))

    def _to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        return np.asarray(self._cupy.asnumpy(x))

    def _upload(self, target: Array, source: np.ndarray[Any, Any]) -> None:
        target.set(source)  # on the current stream; from pageable memory CUDA returns once the source has been read

    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        count = int(np.prod(shape))
        memory = self._cupy.cuda.alloc_pinned_memory(max(1, count * np.dtype(dtype).itemsize))
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def copy(self, target: Array, source: Array) -> None:
        self.guard()
        self._cupy.copyto(target, source)

    def overlap(self, x: Array, y: Array) -> bool:
        return bool(self._cupy.may_share_memory(x, y))

    def address(self, x: Array) -> int:
        return int(x.data.ptr)

    def memory(self) -> tuple[int, int]:
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return int(free) + int(self._cupy.get_default_memory_pool().free_bytes()), int(total)

    def _synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    # ---- streams and graphs -----------------------------------------------------------------------------

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        caller = self._cupy.cuda.get_current_stream()
        self._order(caller, self._own)
        with self._own:
            try:
                yield
            finally:
                self._order(self._own, caller)

    def _order(self, first: Any, then: Any) -> None:
        """What `then` is given from here on begins when `first` has done what it holds."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record(first)
        then.wait_event(event)

    @contextmanager
    def copying(self) -> Iterator[None]:
        self.guard()
        with self._copies:
            yield

    def mark(self) -> Mark:
        self.guard()
        return _CupyMark(self._cupy)

    def _capture(self, step: Callable[[], None]) -> Graph:
        stream = self._cupy.cuda.get_current_stream()
        try:
            # Only this thread's calls may break the capture; the default mode would let memory be taken silently.
            stream.begin_capture(self._cupy.cuda.runtime.streamCaptureModeThreadLocal)
            try:
                # What the collector frees meanwhile, in this thread, might be another graph: to destroy one is an
                # operation that a capture does not permit.
                with uncollected():
                    step()
            except BaseException:
                self._abandon(stream)
                raise
            graph = stream.end_capture()
            graph.upload(stream)
        except ForbiddenInCapture:
            raise
        except Exception as error:
            self.refused = True
            raise CaptureRefused(f"{type(error).__name__}: {_first_line(error)}") from error
        return _CupyGraph(graph)

    def _side_by_side(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        stream = self._cupy.cuda.get_current_stream()
        apart, together = self._places  # made before, for a capture is no time to make or destroy events
        apart.record(stream)
        self._beside.wait_event(apart)  # from here on the other stream is captured too, into a branch of the graph
        with self._beside:
            first()
        second()
        together.record(self._beside)
        stream.wait_event(together)

    def _abandon(self, stream: Any) -> None:
        """End a capture that failed, so that the stream can be used again; what was recorded is thrown away."""
        try:
            stream.end_capture()
        except Exception:  # the error that broke the capture is the one to show
            return

    def seconds(self, work: Callable[[], None], *, recorded: bool = True) -> float:
        self._outside_capture("be timed")
        work()  # loads what there is to load
        work()  # records what there is to record
        times = max(1, min(MOST_REPEATS, int(TIMING_SECONDS / max(self._between_events(work), 1e-9))))

        def repeated() -> None:
            for _ in range(times):
                work()

        launch = repeated
        if not recorded and (self.no_products is not None or self.refused):
            self.paced_by_host = True  # graphs that it was to launch are launched kernel by kernel
        if recorded:
            try:
                launch = self.capture(repeated).launch
            except CaptureRefused:
                self.paced_by_host = True  # steps are not recorded either, then
            else:
                launch()
        return min(self._between_events(launch) for _ in range(TIMINGS)) / times

    def _between_events(self, work: Callable[[], None]) -> float:
        begin, end = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        begin.record()
        work()
        end.record()
        end.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(begin, end)) / 1e3

    # ---- work -----------------------------------------------------------------------------------------

    def _launch(
        self, kernel: str, kind: str, grid: tuple[int, ...], block: tuple[int, ...], shared: int, arguments: list[Any]
    ) -> None:
        function = self._functions.get((kernel, kind))
        if function is None:
            file = sources.kernels()[kernel].file
            if (file, kind) not in self._modules:
                self._modules[file, kind] = self._cupy.RawModule(code=sources.text(file), options=sources.options(kind))
            function = self._functions[kernel, kind] = self._modules[file, kind].get_function(kernel)
            if shared:
                # above 48 KiB it must be allowed; what a later launch of this kernel may want is allowed as well
                function.max_dynamic_shared_size_bytes = self.shared_bytes - function.shared_size_bytes
        function(grid, block, tuple(arguments), shared_mem=shared)

    def _gemm(
        self,
        op_A: str,
        op_B: str,
        m: int,
        n: int,
        k: int,
        alpha: float,
        A: Array,
        lda: int,
        B: Array,
        ldb: int,
        beta: float,
        C: Array,
        ldc: int,
    ) -> None:
        # one handle for each thread and device; the call below sets its stream
        cublas, handle = self._cublas, self._get_handle()
        if cublas.getMathMode(handle) != cublas.CUBLAS_DEFAULT_MATH:  # somebody allowed TF32 on the shared handle
            cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
        product = cublas.sgemm if C.dtype == np.float32 else cublas.dgemm
        one, other = self._scalar(C.dtype, alpha), self._scalar(C.dtype, beta)
        product(
            handle, OPERATIONS[op_A], OPERATIONS[op_B], m, n, k, one, A.data.ptr, lda, B.data.ptr, ldb, other,
            C.data.ptr, ldc,
        )  # fmt: skip

    def _prepare(
        self, product: Product, A: Array, B: Array, D: Array, workspace: Array, bias: Array | None, aux: Array | None
    ) -> list[Candidate]:
        if self._lt is None:
            return []
        addresses = [None if x is None else int(x.data.ptr) for x in (A, B, D, bias, aux)]
        found: list[Candidate] = self._lt.candidates(
            product, addresses, int(workspace.data.ptr), int(workspace.nbytes), self._cupy.cuda.get_current_stream
        )
        return found

    def _scalar(self, dtype: np.dtype[Any], value: float) -> int:
        """Address of the number in host memory, which is kept."""
        key = (dtype.name, value)
        scalar = self._scalars.get(key)
        if scalar is None:
            # the same for all threads: cuBLAS may read it later
            scalar = self._scalars.setdefault(key, np.array([value], dtype))
        return int(scalar.ctypes.data)


# ---- whether there is a device to use -----------------------------------------------------------------


def open_device() -> CupyDevice:
    """The current CUDA device, after one kernel and one product on it gave the right numbers.

    Raises
    ------
    BackendUnavailable
        With the one reason why it cannot be used, and the remedy where there is one.
    """
    reason = _packages_reason(_cupy_packages()) if importlib.util.find_spec("cupy") else "CuPy is not installed"
    if reason is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what matters of them is found out and said below
                cupy = importlib.import_module("cupy")
        except Exception as error:
            reason = f"CuPy cannot be imported ({type(error).__name__}: {_first_line(error)})"
    if reason is None:
        reason = device_reason(cupy.cuda.runtime)
    if reason is not None:
        raise BackendUnavailable(reason)
    try:
        device = CupyDevice(cupy)
        _try_out(device)
    except Exception as error:
        raise BackendUnavailable(
            f"a CUDA device is there, but a first kernel and matrix product on it failed ({type(error).__name__}: "
            f"{_first_line(error)}); "
            "cuBLAS and NVRTC come with the [ctk] extra of the CuPy package"
        ) from error
    return device


def _cupy_packages() -> list[str]:
    """Names of the installed distributions that provide CuPy."""
    names = (str(d.metadata["Name"] or "").lower() for d in importlib.metadata.distributions())
    return sorted({name for name in names if re.fullmatch(r"cupy(-cuda\d+x?|-rocm-[\d-]+)?", name)})


def _packages_reason(packages: list[str]) -> str | None:
    if len(packages) > 1:
        return (
            f"{len(packages)} CuPy packages are installed ({', '.join(packages)}), which overwrite each other's files; "
            f"run `pip uninstall {' '.join(packages)}` and install the one for your driver"
        )
    return None


def device_reason(runtime: Any) -> str | None:
    """Why no device can be used through `cupy.cuda.runtime`, or None. Allocates nothing on a device."""
    try:
        driver, toolkit = int(runtime.driverGetVersion()), int(runtime.runtimeGetVersion())
        if driver == 0:
            return "no CUDA driver was found (the NVIDIA driver brings libcuda; `nvidia-smi` shows whether it works)"
        if driver // 1000 < toolkit // 1000:  # within a major version older drivers run newer toolkits
            return (
                f"the driver supports CUDA {_version(driver)}, but the installed CuPy is built for CUDA "
                f"{_version(toolkit)}; "
                f"update the driver, or install cupy-cuda{driver // 1000}x in place of the present CuPy package"
            )
        devices = int(runtime.getDeviceCount())
    except Exception as error:
        return f"no CUDA device can be reached ({_first_line(error)}){_visible()}"
    return None if devices else f"no CUDA device is visible{_visible()}"


def _visible() -> str:
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if given is None else f"; CUDA_VISIBLE_DEVICES is {given!r}"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def _try_out(device: Device) -> None:
    """(1 2) (3 4)^T + 5 = 16 by one product and one kernel."""
    a, w, b = (device.asarray(np.array(x, np.float32)) for x in ([[1, 2]], [[3, 4]], [5]))
    z = device.empty((1, 1), np.float32)
    device.gemm("T", "N", 1, 1, 2, w, 2, a, 2, z, 1)
    device.launch("add_bias", z.dtype.name, (1, 1), (8, 32), (z, b, 1, 1))
    result = device.to_numpy(z)
    if not np.array_equal(result, [[16]]):
        raise ArithmeticError(f"1*3 + 2*4 + 5 gave {result[0, 0]} instead of 16")
