"""The thin layer under the CuPy engine: memory, kernel launches, matrix products, waiting.

`Device` is what the engine needs; `CupyDevice` is the real one. The tests bind the same engine to a
stand-in over NumPy arrays (tests/cuda_on_cpu), so that all of it but this file runs without a GPU.
CuPy is imported here and nowhere else, by `open_device`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..errors import BackendUnavailable
from ..kernels.cuda import sources

__all__ = ["CupyDevice", "Device", "open_device"]

Array = Any
DType = np.dtype[Any]
OPERATIONS = {"N": 0, "T": 1}  # cublasOperation_t
INT_MAX = 2**31 - 1


class Device(ABC):
    """Memory, launches and matrix products of one device. Work is asynchronous and done in order.

    A device belongs to the process that made it: in a forked child, whose CUDA context is unusable, every
    call raises RuntimeError.
    """

    def __init__(self) -> None:
        self._process = os.getpid()

    def guard(self) -> None:
        """Raises RuntimeError where the device cannot be used from here."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "the cupy engine was started before this process was forked, and CUDA cannot be used after a fork; "
                'start workers with multiprocessing.get_context("spawn") and make the network there'
            )

    # ---- memory -------------------------------------------------------------------------------------

    @abstractmethod
    def is_array(self, x: object) -> bool:
        """Whether x is an array in this device's memory.

        Raises
        ------
        ValueError
            x is an array of another CUDA device.
        """

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A C-contiguous array with undefined content."""

    @abstractmethod
    def clear(self, x: Array) -> None:
        """Overwrites a C-contiguous array with zeros."""

    @abstractmethod
    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """x, from the host or the device, as a C-contiguous array here; x itself if it is one already."""

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """A host copy (the stand-in: x itself), complete when this returns. Synchronises."""

    @abstractmethod
    def copy(self, target: Array, source: Array) -> None:
        """Overwrites target with source, both here, any strides, one shape and dtype."""

    @abstractmethod
    def overlap(self, x: Array, y: Array) -> bool:
        """Whether the memory ranges of two arrays meet."""

    @abstractmethod
    def synchronize(self) -> None:
        """Returns when all work asked for so far is done."""

    # ---- work ---------------------------------------------------------------------------------------

    def launch(self, kernel: str, real: DType, grid: tuple[int, ...], block: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        """Start a kernel, compiled for REAL = real. Arrays C-contiguous and of the declared dtype, on this device.

        Raises
        ------
        TypeError, ValueError
            The arguments are not what the kernel's source declares.
        """
        self.guard()
        declared = sources.kernels()[kernel]
        self._launch(kernel, real, grid, block, sources.bind(declared, real, arguments, self.is_array))

    def gemm(self, op_A: str, op_B: str, m: int, n: int, k: int, A: Array, lda: int, B: Array, ldb: int, C: Array, ldc: int, *, alpha: float = 1.0, beta: float = 0.0) -> None:
        """C = alpha op(A) op(B) + beta C with the column-major meaning of BLAS; C is not read where beta is 0.

        op(A) is (m, k), op(B) (k, n), C (m, n), each stored with columns one after another, `ld` elements apart.
        A row-major (rows, columns) array is the column-major (columns, rows) one with ld = columns. All are
        C-contiguous arrays of one dtype, float32 (in full precision, no TF32) or float64.

        Raises
        ------
        TypeError, ValueError
            Dtypes that differ, strides, or arrays too small for these sizes.
        """
        self.guard()
        if C.dtype.name not in sources.REALS or not A.dtype == B.dtype == C.dtype:
            raise TypeError(f"gemm takes float32 or float64 arrays of one dtype, got {A.dtype}, {B.dtype}, {C.dtype}")
        for name, x, op, rows, columns, ld in (("A", A, op_A, m, k, lda), ("B", B, op_B, k, n, ldb), ("C", C, "N", m, n, ldc)):
            stored_rows, stored_columns = (rows, columns) if op == "N" else (columns, rows)
            if not self.is_array(x) or not x.flags.c_contiguous:
                raise ValueError(f"gemm: {name} must be a C-contiguous array on the device")
            if ld < max(1, stored_rows) or x.size < stored_columns * ld or max(ld, rows, columns) > INT_MAX:
                raise ValueError(f"gemm: {name} of {x.size} elements with ld={ld} cannot hold {stored_rows} x {stored_columns}")
        if m and n and (k or beta != 1):
            self._gemm(op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)

    @abstractmethod
    def _launch(self, kernel: str, real: DType, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any]) -> None: ...

    @abstractmethod
    def _gemm(self, op_A: str, op_B: str, m: int, n: int, k: int, alpha: float, A: Array, lda: int, B: Array, ldb: int, beta: float, C: Array, ldc: int) -> None: ...


class CupyDevice(Device):
    """The current CUDA device, through CuPy; all work goes to CuPy's current stream."""

    def __init__(self, cupy: Any) -> None:
        super().__init__()
        self._cupy = cupy
        self._cublas = importlib.import_module("cupy_backends.cuda.libs.cublas")
        self._get_handle = importlib.import_module("cupy.cuda.device").get_cublas_handle
        self.id = int(cupy.cuda.runtime.getDevice())
        self._modules: dict[tuple[str, str], Any] = {}
        self._functions: dict[tuple[str, str], Any] = {}
        self._scalars: dict[tuple[str, float], np.ndarray[Any, Any]] = {}  # alpha and beta, which cuBLAS reads through host pointers

    def guard(self) -> None:
        super().guard()
        current = self._cupy.cuda.runtime.getDevice()
        if current != self.id:
            raise RuntimeError(f"the cupy engine works on CUDA device {self.id}, but device {current} is current here; call it inside `with cupy.cuda.Device({self.id}):`")

    def is_array(self, x: object) -> bool:
        if not isinstance(x, self._cupy.ndarray):
            return False
        place = x.device.id
        if place != self.id:
            raise ValueError(f"the array lies on CUDA device {place}, the cupy engine works on device {self.id}; copy it there first")
        return True

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        self.guard()
        return self._cupy.empty(shape, dtype)

    def clear(self, x: Array) -> None:
        self.guard()
        if x.nbytes:
            x.data.memset_async(0, x.nbytes)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        self.guard()
        if not self.is_array(x) and not hasattr(x, "__cuda_array_interface__"):
            x = np.asarray(x, dtype, order="C")
            x = x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
        return self._cupy.ascontiguousarray(self._cupy.asarray(x, dtype))

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        self.guard()
        return np.asarray(self._cupy.asnumpy(x))

    def copy(self, target: Array, source: Array) -> None:
        self.guard()
        self._cupy.copyto(target, source)

    def overlap(self, x: Array, y: Array) -> bool:
        return bool(self._cupy.may_share_memory(x, y))

    def synchronize(self) -> None:
        self.guard()
        self._cupy.cuda.get_current_stream().synchronize()

    def _launch(self, kernel: str, real: DType, grid: tuple[int, ...], block: tuple[int, ...], arguments: list[Any]) -> None:
        function = self._functions.get((kernel, real.name))
        if function is None:
            file = sources.kernels()[kernel].file
            if (file, real.name) not in self._modules:
                self._modules[file, real.name] = self._cupy.RawModule(code=sources.text(file), options=sources.options(real))
            function = self._functions[kernel, real.name] = self._modules[file, real.name].get_function(kernel)
        function(grid, block, tuple(arguments))

    def _gemm(self, op_A: str, op_B: str, m: int, n: int, k: int, alpha: float, A: Array, lda: int, B: Array, ldb: int, beta: float, C: Array, ldc: int) -> None:
        cublas, handle = self._cublas, self._get_handle()  # one handle for each thread and device; the call below sets its stream
        if cublas.getMathMode(handle) != cublas.CUBLAS_DEFAULT_MATH:  # somebody allowed TF32 on the shared handle
            cublas.setMathMode(handle, cublas.CUBLAS_DEFAULT_MATH)
        product = cublas.sgemm if C.dtype == np.float32 else cublas.dgemm
        one, other = self._scalar(C.dtype, alpha), self._scalar(C.dtype, beta)
        product(handle, OPERATIONS[op_A], OPERATIONS[op_B], m, n, k, one, A.data.ptr, lda, B.data.ptr, ldb, other, C.data.ptr, ldc)

    def _scalar(self, dtype: DType, value: float) -> int:
        """Address of the number in host memory, which is kept."""
        key = (dtype.name, value)
        if key not in self._scalars:
            self._scalars[key] = np.array([value], dtype)
        return int(self._scalars[key].ctypes.data)


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
            f"a CUDA device is there, but a first kernel and matrix product on it failed ({type(error).__name__}: {_first_line(error)}); "
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
                f"the driver supports CUDA {_version(driver)}, but the installed CuPy is built for CUDA {_version(toolkit)}; "
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
    device.launch("add_bias", z.dtype, (1, 1), (8, 32), (z, b, 1, 1))
    result = device.to_numpy(z)
    if not np.array_equal(result, [[16]]):
        raise ArithmeticError(f"1*3 + 2*4 + 5 gave {result[0, 0]} instead of 16")
