"""A thin binding of libcublasLt through ctypes, for where nvmath-python is not installed.

The methods of `CublasLt` have the names and arguments of the functions of `nvmath.bindings.cublasLt`, so that
`cupy_lt.py` is written once for both: handles, descriptors and addresses are plain integers, and a status other than
success is raised. The constants here are used with either binding.

Source of signatures, numbers and layouts: NVIDIA, cublasLt.h, cublas_api.h and library_types.h of CUDA 12 and 13;
cuBLAS library documentation, chapter "Using the cuBLASLt API".
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator
from ctypes import POINTER, byref, c_int, c_int64, c_size_t, c_uint64, c_void_p
from enum import IntEnum
from pathlib import Path

import numpy as np

__all__ = [
    "HEURISTIC_RESULT",
    "CublasLt",
    "MatmulDescAttribute",
    "MatmulPreferenceAttribute",
    "ReductionScheme",
    "cuBLASLtError",
]

NAMES = ("libcublasLt.so.13", "libcublasLt.so.12")  # one for each major version of CUDA that CuPy 14 is made for
FOLDERS = ("cu13/lib", "cublas/lib")  # of NVIDIA's wheels for CUDA 13 and 12, below site-packages/nvidia


class MatmulDescAttribute(IntEnum):
    """cublasLtMatmulDescAttributes_t, as far as it is used; the type of each value beside it."""

    TRANSA = 3  # int32, cublasOperation_t
    TRANSB = 4
    EPILOGUE = 7  # uint32, cublasLtEpilogue_t
    BIAS_POINTER = 8  # address
    EPILOGUE_AUX_POINTER = 11  # address
    EPILOGUE_AUX_LD = 12  # int64
    BIAS_DATA_TYPE = 26  # int32, cudaDataType_t


class MatmulPreferenceAttribute(IntEnum):
    """cublasLtMatmulPreferenceAttributes_t, as far as it is used."""

    MAX_WORKSPACE_BYTES = 1  # uint64
    REDUCTION_SCHEME_MASK = 3  # uint32
    MIN_ALIGNMENT_A_BYTES = 5  # uint32, like the three below
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


class ReductionScheme(IntEnum):
    """cublasLtReductionScheme_t: how the sums of a product that is split along k are added up."""

    NONE = 0
    INPLACE = 1
    COMPUTE_TYPE = 2
    OUTPUT_TYPE = 4


# cublasLtMatmulHeuristicResult_t, 96 bytes; `algo` is opaque and may be copied.
HEURISTIC_RESULT = np.dtype(
    [
        ("algo", [("data_", np.uint64, (8,))]),
        ("workspace_size", np.uint64),
        ("state", np.int32),
        ("waves_count", np.float32),
        ("reserved", np.int32, (4,)),
    ],
    align=True,
)

STATUS = {
    0: "SUCCESS", 1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}  # fmt: skip
HINTS = {
    "NOT_INITIALIZED": "the driver or the device does not answer",
    "NOT_SUPPORTED": "the library has no algorithm for this",
}


class cuBLASLtError(RuntimeError):
    """What a function of the library answered if not success. Named as nvmath-python names it; `status` is
    cublasStatus_t.
    """

    def __init__(self, function: str, status: int) -> None:
        self.status = status
        name = STATUS.get(status, f"status {status}")
        super().__init__(
            f"{function} answered "
            f"{'CUBLAS_STATUS_' if status in STATUS else ''}{name}{': ' + HINTS[name] if name in HINTS else ''}"
        )


# ---- finding and declaring the library ---------------------------------------------------------------

# A parameter without a declared type would be passed as a 32-bit int, which cuts addresses.
_OUT = POINTER(c_void_p)
_ATTRIBUTE = (c_void_p, c_int, c_void_p, c_size_t)
SIGNATURES: dict[str, tuple[type, ...]] = {
    "cublasLtCreate": (_OUT,),
    "cublasLtMatmulDescCreate": (_OUT, c_int, c_int),
    "cublasLtMatmulDescDestroy": (c_void_p,),
    "cublasLtMatmulDescSetAttribute": _ATTRIBUTE,
    "cublasLtMatrixLayoutCreate": (_OUT, c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatrixLayoutDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceCreate": (_OUT,),
    "cublasLtMatmulPreferenceDestroy": (c_void_p,),
    "cublasLtMatmulPreferenceSetAttribute": _ATTRIBUTE,
    "cublasLtMatmulAlgoGetHeuristic": (*[c_void_p] * 7, c_int, c_void_p, c_void_p),
    "cublasLtMatmul": (*[c_void_p] * 14, c_size_t, c_void_p),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The library, with its functions declared.

    Raises
    ------
    OSError
        It is nowhere, or cannot be loaded; the message names each place and what was wrong there.
    AttributeError
        It lacks a function.
    """
    refusals: list[str] = []
    for place, mode in _places():
        try:
            return _declared(ctypes.CDLL(place, mode=mode))
        except OSError as error:
            if not mode & os.RTLD_NOLOAD:  # that it is not loaded yet is nothing wrong
                refusals.append(str(error).splitlines()[0])
    raise OSError(
        f"libcublasLt cannot be loaded ({'; '.join(dict.fromkeys(refusals))}); it comes with the [ctk] extra of the "
        "CuPy package"
    )


def _places() -> Iterator[tuple[str, int]]:
    """(file or soname, mode of dlopen), the best first: what CuPy computes with, then what is installed."""
    for name in NAMES:
        # CuPy's cuBLAS has loaded its own already, and a second version is not wanted
        yield name, os.RTLD_NOW | os.RTLD_NOLOAD
    found = _by_pathfinder()
    if found is not None:
        yield found, os.RTLD_NOW
    spec = importlib.util.find_spec("nvidia")
    for parent in (spec.submodule_search_locations or ()) if spec else ():
        for folder in FOLDERS:
            for name in NAMES:
                if (path := Path(parent) / folder / name).is_file():
                    yield str(path), os.RTLD_NOW
    for name in NAMES:
        yield name, os.RTLD_NOW  # the system's toolkit, by the linker's own search


def _by_pathfinder() -> str | None:
    """The file that NVIDIA's own search names: wheels, conda, CUDA_PATH, the system."""
    try:
        return str(importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception:
        # not installed, or nothing found: its error types are its own, and there are other places to look
        return None


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    for name, arguments in SIGNATURES.items():
        function = getattr(lib, name)
        function.argtypes, function.restype = arguments, c_int
    lib.cublasLtGetVersion.argtypes, lib.cublasLtGetVersion.restype = (), c_size_t
    return lib


class CublasLt:
    """The library's functions as nvmath.bindings.cublasLt has them; objects go back to the library that made them.

    Raises
    ------
    OSError, AttributeError
        No library is given, and there is none that can be used (`library`).
    """

    cuBLASLtError = cuBLASLtError

    def __init__(self, lib: ctypes.CDLL | None = None) -> None:
        self._lib = library() if lib is None else lib

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self._lib, name)(*arguments)
        if status != 0:
            raise cuBLASLtError(name, status)

    def _made(self, name: str, *arguments: object) -> int:
        """The opaque object that a function writes through its first parameter."""
        made = c_void_p()
        self._call(name, byref(made), *arguments)
        return made.value or 0

    def get_version(self) -> int:
        """10000 major + 100 minor + patch."""
        return int(self._lib.cublasLtGetVersion())

    def create(self) -> int:
        """A handle for the current CUDA context."""
        return self._made("cublasLtCreate")

    def matmul_desc_create(self, compute_type: int, scale_type: int) -> int:
        """A product; cublasComputeType_t of the sums, cudaDataType_t of alpha and beta."""
        return self._made("cublasLtMatmulDescCreate", compute_type, scale_type)

    def matmul_desc_destroy(self, desc: int) -> None:
        """Give a product back."""
        self._call("cublasLtMatmulDescDestroy", desc)

    def matmul_desc_set_attribute(self, desc: int, attribute: int, address: int, size: int) -> None:
        """Set a MatmulDescAttribute from `size` bytes of host memory."""
        self._call("cublasLtMatmulDescSetAttribute", desc, attribute, address, size)

    def matrix_layout_create(self, kind: int, rows: int, columns: int, ld: int) -> int:
        """A column-major matrix of cudaDataType_t `kind`."""
        return self._made("cublasLtMatrixLayoutCreate", kind, rows, columns, ld)

    def matrix_layout_destroy(self, layout: int) -> None:
        """Give a layout back."""
        self._call("cublasLtMatrixLayoutDestroy", layout)

    def matmul_preference_create(self) -> int:
        """What an algorithm may need and assume."""
        return self._made("cublasLtMatmulPreferenceCreate")

    def matmul_preference_destroy(self, preference: int) -> None:
        """Give a preference back."""
        self._call("cublasLtMatmulPreferenceDestroy", preference)

    def matmul_preference_set_attribute(self, preference: int, attribute: int, address: int, size: int) -> None:
        """Set a MatmulPreferenceAttribute from `size` bytes of host memory."""
        self._call("cublasLtMatmulPreferenceSetAttribute", preference, attribute, address, size)

    def matmul_algo_get_heuristic(
        self,
        handle: int,
        desc: int,
        A: int,
        B: int,
        C: int,
        D: int,
        preference: int,
        wanted: int,
        results: int,
        found: int,
    ) -> None:
        """Write at most `wanted` HEURISTIC_RESULTs, and their number as an int32, to these addresses."""
        self._call("cublasLtMatmulAlgoGetHeuristic", handle, desc, A, B, C, D, preference, wanted, results, found)

    def matmul(
        self,
        handle: int,
        desc: int,
        alpha: int,
        A: int,
        A_layout: int,
        B: int,
        B_layout: int,
        beta: int,
        C: int,
        C_layout: int,
        D: int,
        D_layout: int,
        algorithm: int,
        workspace: int,
        workspace_bytes: int,
        stream: int,
    ) -> None:
        """D = epilogue(alpha op(A) op(B) + beta C) on the stream. alpha, beta and the algorithm lie in host memory,
        the rest on the device.
        """
        self._call(
            "cublasLtMatmul", handle, desc, alpha, A, A_layout, B, B_layout, beta, C, C_layout, D, D_layout, algorithm,
            workspace, workspace_bytes, stream,
        )  # fmt: skip
