"""The stand-in for libcublasLt (cublaslt.cpp), built with g++: fastnn's own binding calls it as it calls the real
library.

Products are computed by `products.multiply` from what the descriptors say, on the addresses that were given.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fastnn.backends.cupy_lt import COMPUTE_TYPES, DATA_TYPES
from fastnn.backends.cupy_products import EPILOGUES, Product
from fastnn.kernels.cuda import sources

from .builder import CompilerMissing
from .device import product_touches
from .products import check_alignment, multiply

SOURCE = Path(__file__).with_name("cublaslt.cpp")
SONAME = "libcublasLt.so.13"  # of the real one
EXECUTION_FAILED = 13


class Problem(ctypes.Structure):
    """As in cublaslt.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int32)
            for name in (
                "compute",
                "scale",
                "trans_a",
                "trans_b",
                "epilogue",
                "bias_type",
                "type_a",
                "type_b",
                "type_d",
                "index",
            )
        ),
        *((name, ctypes.c_int64) for name in ("m", "n", "k", "lda", "ldb", "ldd", "aux_ld")),
        *(
            (name, ctypes.c_uint64)
            for name in ("a", "b", "c", "d", "bias", "aux", "workspace", "workspace_bytes", "stream")
        ),
        ("alpha", ctypes.c_double),
        ("beta", ctypes.c_double),
    )

    def product(self):
        assert (self.type_a, self.alpha) == (self.type_b, 1.0)
        types, computes, epilogues = (
            {number: name for name, number in table.items()} for table in (DATA_TYPES, COMPUTE_TYPES, EPILOGUES)
        )
        return Product(
            self.m, self.n, self.k, "NT"[self.trans_a], "NT"[self.trans_b], self.lda, self.ldb, self.ldd,
            types[self.type_a], types[self.type_d], computes[self.compute], epilogues[self.epilogue], bool(self.beta),
            self.aux_ld,
        )  # fmt: skip


def arrays(product, addresses):
    """The memory behind the addresses of A, B, D, bias and aux; None where there is none."""
    (_, columns_A), (_, columns_B) = product.stored
    wanted = [
        (product.inputs, product.lda * columns_A),
        (product.inputs, product.ldb * columns_B),
        (product.output, product.ldd * product.n),
    ]
    wanted += [(product.output, product.bias_length), ("uint8", product.aux_ld // 8 * product.n)]
    found = []
    for (kind, count), address in zip(wanted, addresses, strict=True):
        dtype = np.dtype(np.uint8) if kind == "uint8" else sources.store(kind)
        found.append(
            np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype) if address else None
        )
    return found


@functools.cache
def build(soname: str = "libcublasLt-stand-in.so") -> Path:
    """The library's file. With the real one's name, for a process of its own: whoever wants the real one later gets
    this one.

    Raises
    ------
    CompilerMissing
        There is no g++.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise CompilerMissing(
            "the stand-in for cuBLASLt is built with g++, which is not installed (Debian, Ubuntu: apt install g++)"
        )
    cache = Path(tempfile.gettempdir()) / f"fastnn-cuda-on-cpu-{os.getuid()}"
    cache.mkdir(mode=0o700, exist_ok=True)
    built = cache / f"cublaslt-{hashlib.sha256(soname.encode() + SOURCE.read_bytes()).hexdigest()[:24]}.so"
    if not built.exists():
        temporary = cache / f"{built.stem}-{os.getpid()}.tmp"
        command = [
            compiler,
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Werror",
            f"-Wl,-soname,{soname}",
            "-o",
            str(temporary),
            str(SOURCE),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise RuntimeError(f"g++ refuses the stand-in for cuBLASLt:\n{result.stderr}")
        temporary.replace(built)
    return built


def without_nvmath(monkeypatch):
    """nvmath-python as if it were not installed: its cuBLASLt would be the real one."""
    for name in [name for name in sys.modules if name.split(".")[0] == "nvmath"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nvmath", None)


class StandInLt:
    """The stand-in in this process. `capturing()` is the list of a graph that is being recorded, or None. `aligned`: it
    insists on `check_alignment`. `noted`: from what a product reads and writes (order.py) and a call to the call.

    Attributes: `library`, its functions not declared yet; `problems`, all that was asked for; `calls`, how many
    products were computed; `errors` of those that could not be.
    """

    def __init__(self, capturing=lambda: None, path=None, aligned=False):
        self.aligned, self.noted = aligned, lambda what, call: call
        self.calls, self.errors, self.problems, self._capturing = 0, [], [], capturing
        self.library = ctypes.CDLL(str(path or build()))
        self.library.stand_in_living.restype = ctypes.c_size_t
        self.library.stand_in_alignments.restype = ctypes.c_uint64
        self.library.stand_in_refuses(0, 0)
        self.library.stand_in_create_answers(0)
        # kept as long as it may be called
        self._callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Problem))(self._asked)
        self.library.stand_in_multiply(self._callback)

    def _asked(self, pointer):
        try:
            problem = Problem.from_buffer_copy(pointer.contents)
            assert problem.stream == 7, "the stream of the fake CuPy"
            assert problem.workspace % 256 == 0
            assert problem.c == problem.d
            if self.aligned:
                check_alignment(problem.product(), [problem.a, problem.b, problem.d, problem.bias, problem.aux])
            self.problems.append(problem)
            recording = self._capturing()
            product = problem.product()
            touched = [
                *self._arrays(problem, product),
                np.frombuffer((ctypes.c_char * problem.workspace_bytes).from_address(problem.workspace), np.uint8),
            ]
            do = self.noted(product_touches(product, *touched), functools.partial(self._multiply, problem))
            do() if recording is None else recording.append(do)
        except Exception as error:  # it cannot pass through C
            self.errors.append(error)
            return EXECUTION_FAILED
        return 0

    def _multiply(self, problem):
        self.calls += 1
        product = problem.product()
        multiply(product, *self._arrays(problem, product))

    def _arrays(self, problem, product):
        return arrays(product, [problem.a, problem.b, problem.d, problem.bias, problem.aux])
