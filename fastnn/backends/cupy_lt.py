"""cuBLASLt: a matrix product with its epilogue as one call that a graph can hold.

CuPy refuses its own cuBLAS wrappers while a stream is being captured, and has none for cuBLASLt. The library is
reached through nvmath-python's bindings where they can be used, else through fastnn's own (cublaslt.py), which has
the same functions. NVIDIA, cuBLAS library documentation, chapter "Using the cuBLASLt API".
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .cublaslt import HEURISTIC_RESULT, CublasLt, MatmulDescAttribute, MatmulPreferenceAttribute, ReductionScheme
from .cupy_products import EPILOGUES, READS_BIAS, USES_AUX, WRITES_BIAS, Candidate, NotOffered, Product

__all__ = ["BINDING", "Binding", "Lt", "choose_binding"]

DATA_TYPES = {"float32": 0, "float64": 1, "bfloat16": 14}  # cudaDataType_t
COMPUTE_TYPES = {"fp32": 68, "fp64": 70, "tf32": 77}  # cublasComputeType_t
OPERATIONS = {"N": 0, "T": 1}
ALGORITHMS = 8  # heuristic results looked at
MAX_ALIGNMENT = 256
# cublasStatus_t of an algorithm that was proposed and then does not run: invalid value, another architecture, failed
# while running or inside, not supported. cublasLt.h names the first two for cublasLtMatmul as well; the third was seen
# of a proposed algorithm (RAPIDS raft, issue 3097).
INVALID_VALUE, ARCH_MISMATCH, EXECUTION_FAILED, INTERNAL_ERROR, NOT_SUPPORTED = 7, 8, 13, 14, 15
DOES_NOT_RUN = (INVALID_VALUE, ARCH_MISMATCH, EXECUTION_FAILED, INTERNAL_ERROR, NOT_SUPPORTED)
# environment variable: "nvmath" or "ctypes" for that binding alone, to tell which of them is at fault
BINDING = "FASTNN_CUBLASLT"


@dataclass(frozen=True)
class Binding:
    """A way to call the library: the module, or object, with its functions, the library's version, and which way
    that is and why, for people.
    """

    module: Any
    version: int
    why: str

    def __str__(self) -> str:
        return f"{self.version} through {self.why}"


def choose_binding() -> Binding:
    """nvmath-python's binding where it can be used, else fastnn's own; or the one that FASTNN_CUBLASLT names.

    Raises
    ------
    OSError, AttributeError
        There is no libcublasLt, or it lacks functions (`cublaslt.library`).
    ImportError
        FASTNN_CUBLASLT is "nvmath", which cannot be used.
    ValueError
        FASTNN_CUBLASLT is something else.
    """
    wanted = os.environ.get(BINDING, "")
    if wanted not in ("", "nvmath", "ctypes"):
        raise ValueError(f"{BINDING} must be 'nvmath' or 'ctypes', or not be set, got {wanted!r}")
    if wanted == "ctypes":
        own = CublasLt()
        return Binding(own, own.get_version(), f"fastnn's own binding, because {BINDING} asks for it")
    try:
        module = importlib.import_module("nvmath.bindings.cublasLt")
        return Binding(module, int(module.get_version()), "nvmath-python")
    except Exception as error:  # it loads driver and library by rules of its own, with its own kinds of errors
        missing = isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "nvmath"
        why = (
            "is not installed" if missing else f"cannot be used ({type(error).__name__}: {str(error).splitlines()[0]})"
        )
        if wanted == "nvmath":
            raise ImportError(f"{BINDING} asks for nvmath-python, which {why}") from error
    own = CublasLt()
    return Binding(own, own.get_version(), f"fastnn's own binding, because nvmath-python {why}")


class Lt:
    """The library on the current device; `version` is its own, `binding` says how it is called.

    `refusals` has what the library answered about a product if that was anything but "not supported": a mistake in what
    it was asked, or an algorithm that it proposed and that then failed.
    """

    def __init__(self, binding: Binding | None = None) -> None:
        self.binding = choose_binding() if binding is None else binding
        self._module = self.binding.module
        self._handle = self._module.create()
        self.version = self.binding.version
        self.refusals: dict[str, str] = {}

    def candidates(
        self,
        product: Product,
        addresses: list[int | None],
        workspace: int,
        workspace_bytes: int,
        stream: Callable[[], Any],
    ) -> list[Candidate]:
        """The algorithms that the library offers for this product at these addresses (A, B, D, bias, aux), best
        guess first; perhaps none.
        """
        lib = self._module
        call = _Call(lib, product, addresses, workspace)
        results = np.zeros(ALGORITHMS, HEURISTIC_RESULT)
        found = np.zeros(1, np.int32)
        preference = _preference(lib, addresses, workspace_bytes)
        try:
            lib.matmul_algo_get_heuristic(
                self._handle, call.desc, *call.layouts, call.layouts[2], preference, ALGORITHMS, results.ctypes.data,
                found.ctypes.data,
            )  # fmt: skip
        except lib.cuBLASLtError as error:
            # NOT_SUPPORTED: this combination does not exist; there is another way for every product
            if error.status != NOT_SUPPORTED:
                self.refusals[str(product)] = str(error)
            return []
        finally:
            lib.matmul_preference_destroy(preference)
        usable = [result for result in results[: int(found[0])] if int(result["state"]) == 0]
        return [call.candidate(self._handle, result, stream, self.refusals) for result in usable]


class _Call:
    """Descriptors and addresses of one product; they live as long as its candidates."""

    def __init__(self, lib: Any, product: Product, addresses: list[int | None], workspace: int) -> None:
        self._lib, self._product = lib, product
        self._A, self._B, self._D, bias, aux = addresses
        self._workspace = workspace
        real = np.float64 if product.compute == "fp64" else np.float32
        # alpha and beta, read from host memory at the call
        self._scalars = np.array([1, 1 if product.accumulate else 0], real)
        self.desc = lib.matmul_desc_create(
            COMPUTE_TYPES[product.compute], DATA_TYPES["float64" if real is np.float64 else "float32"]
        )
        (rows_A, columns_A), (rows_B, columns_B) = product.stored
        self.layouts: list[Any] = []  # one by one: those that there are are destroyed where a later one fails
        for numbers, rows, columns, leading in (
            (product.inputs, rows_A, columns_A, product.lda),
            (product.inputs, rows_B, columns_B, product.ldb),
            (product.output, product.m, product.n, product.ldd),
        ):
            self.layouts.append(lib.matrix_layout_create(DATA_TYPES[numbers], rows, columns, leading))
        self._set(MatmulDescAttribute.TRANSA, np.int32(OPERATIONS[product.op_A]))
        self._set(MatmulDescAttribute.TRANSB, np.int32(OPERATIONS[product.op_B]))
        self._set(MatmulDescAttribute.EPILOGUE, np.uint32(EPILOGUES[product.epilogue]))
        # The heuristic looks at the alignment of these, so they are set before it is asked.
        if product.epilogue in READS_BIAS or product.epilogue in WRITES_BIAS:
            self._set(MatmulDescAttribute.BIAS_POINTER, np.uint64(bias or 0))
            self._set(MatmulDescAttribute.BIAS_DATA_TYPE, np.int32(DATA_TYPES[product.output]))
        if product.epilogue in USES_AUX:
            self._set(MatmulDescAttribute.EPILOGUE_AUX_POINTER, np.uint64(aux or 0))
            self._set(MatmulDescAttribute.EPILOGUE_AUX_LD, np.int64(product.aux_ld))

    def _set(self, attribute: Any, value: np.generic) -> None:
        buffer = np.array([value])
        self._lib.matmul_desc_set_attribute(self.desc, int(attribute), buffer.ctypes.data, buffer.itemsize)

    def candidate(self, handle: int, result: Any, stream: Callable[[], Any], refusals: dict[str, str]) -> Candidate:
        """A call with this algorithm. Its name is the algorithm's own bytes, the same as long as the library is.
        One that does not run is told in `refusals`, unless it is not supported.
        """
        algorithm = np.array([result["algo"]])
        alpha = self._scalars.ctypes.data
        beta = alpha + self._scalars.itemsize
        A, B, C = self.layouts
        size = int(result["workspace_size"])

        def call() -> None:
            try:
                self._lib.matmul(
                    handle, self.desc, alpha, self._A, A, self._B, B, beta, self._D, C, self._D, C,
                    algorithm.ctypes.data, self._workspace, size, stream().ptr,
                )  # fmt: skip
            except self._lib.cuBLASLtError as error:
                if error.status not in DOES_NOT_RUN:
                    raise
                if error.status in (EXECUTION_FAILED, INTERNAL_ERROR):
                    stream().synchronize()  # which raises where the device is lost
                if error.status != NOT_SUPPORTED:
                    refusals[str(self._product)] = str(error)
                raise NotOffered(
                    f"cuBLASLt proposed an algorithm for {self._product} that it does not run: {error}"
                ) from error

        return Candidate(algorithm.tobytes().hex(), call)

    def __del__(self) -> None:
        for layout in getattr(self, "layouts", ()):
            self._lib.matrix_layout_destroy(layout)
        if hasattr(self, "desc"):
            self._lib.matmul_desc_destroy(self.desc)


def _preference(lib: Any, addresses: list[int | None], workspace_bytes: int) -> int:
    preference = int(lib.matmul_preference_create())

    def put(attribute: Any, value: np.generic) -> None:
        buffer = np.array([value])
        lib.matmul_preference_set_attribute(preference, int(attribute), buffer.ctypes.data, buffer.itemsize)

    put(MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES, np.uint64(workspace_bytes))
    # Split sums in the compute type only: INPLACE adds into D itself in turns, OUTPUT_TYPE rounds partial sums to
    # bfloat16.
    put(MatmulPreferenceAttribute.REDUCTION_SCHEME_MASK, np.uint32(ReductionScheme.COMPUTE_TYPE))
    A, B, D, bias, _ = (alignment(address or 0) for address in addresses)
    # 256 is assumed otherwise, and parameters begin anywhere. A bias is moved with D, so that D can claim no more than
    # it.
    for attribute, bytes_ in (
        (MatmulPreferenceAttribute.MIN_ALIGNMENT_A_BYTES, A),
        (MatmulPreferenceAttribute.MIN_ALIGNMENT_B_BYTES, B),
        (MatmulPreferenceAttribute.MIN_ALIGNMENT_C_BYTES, D),
        (MatmulPreferenceAttribute.MIN_ALIGNMENT_D_BYTES, min(D, bias)),
    ):
        put(attribute, np.uint32(bytes_))
    return preference


def alignment(address: int) -> int:
    """The largest power of two, at most 256, that divides the address."""
    return MAX_ALIGNMENT if address == 0 else min(MAX_ALIGNMENT, address & -address)
