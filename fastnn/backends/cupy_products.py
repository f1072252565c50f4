"""Matrix products with epilogues, as cuBLASLt has them: what they compute, on which memory, in which precision.

Everything is column-major, as in BLAS; a row-major (rows, columns) array is the column-major (columns, rows) one with
leading dimension `columns`, or more where its rows lie apart. The three products of the lecture on row-major arrays of
m rows:

    z = a Theta^T         (n_out, m)    = op_T(Theta) op_N(a)        `forward`
    delta Theta           (n_in, m)     = op_N(Theta) op_N(delta)    `back`
    Delta = delta^T a     (n_in, n_out) = op_N(a)     op_T(delta)    `outer`

Epilogues work on the accumulated product before it is rounded into D (cublasLt.h, cublasLtEpilogue_t):

    BIAS            D = P + bias                      bias (m,), added to every column
    RELU_BIAS       D = max(P + bias, 0)
    RELU_AUX_BIAS   the same; aux holds a bit for each element, 1 where it is positive
    DRELU           D = P where the bit of aux is 1, else 0
    DRELU_BGRAD     the same; bias = sums of D over its columns (written)
    BGRADB          D = P; bias = sums of op(B) over k (written, (n,))

The mask aux has `aux_ld` bits for each column of D, a multiple of 128 and >= m, the lowest bit of a byte first.
bias has the type of D. What the sign bit is where P + bias is exactly 0 the library does not say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels.cuda import sources

__all__ = [
    "COMPUTE",
    "EPILOGUES",
    "ROW_BYTES",
    "Candidate",
    "NotOffered",
    "Product",
    "aux_ld",
    "back",
    "forward",
    "outer",
    "row_ld",
]

Array = Any
Lds = tuple[int, int, int]
ROW_BYTES = 16  # what a row begins at a multiple of
# cublasLtEpilogue_t
EPILOGUES = {
    "DEFAULT": 1,
    "BIAS": 4,
    "RELU_BIAS": 6,
    "RELU_AUX_BIAS": 134,
    "DRELU": 136,
    "DRELU_BGRAD": 152,
    "BGRADB": 512,
}
READS_BIAS, WRITES_BIAS = ("BIAS", "RELU_BIAS", "RELU_AUX_BIAS"), ("DRELU_BGRAD", "BGRADB")
USES_AUX = ("RELU_AUX_BIAS", "DRELU", "DRELU_BGRAD")
COMPUTE = ("fp64", "fp32", "tf32")  # arithmetic of the sums; tf32 rounds float32 factors to 10 bits


class NotOffered(RuntimeError):
    """The library does not compute this product in this way here; another way may do."""


@dataclass(frozen=True)
class Product:
    """D (m, n) = epilogue(op(A) op(B) [+ D]) with op(A) (m, k), op(B) (k, n).

    Attributes
    ----------
    inputs, output : str
        Types of A and B, and of D: "float32", "float64" or "bfloat16" (bits in uint16 arrays).
    compute : str
        One of COMPUTE.
    accumulate : bool
        Add to D instead of overwriting it; with the epilogue DEFAULT only.
    """

    m: int
    n: int
    k: int
    op_A: str
    op_B: str
    lda: int
    ldb: int
    ldd: int
    inputs: str
    output: str
    compute: str
    epilogue: str = "DEFAULT"
    accumulate: bool = False
    aux_ld: int = 0

    def __str__(self) -> str:
        arithmetic = f"{self.inputs}->{self.output} {self.compute}"
        return (
            f"{self.epilogue}{'+=' if self.accumulate else ''} {self.op_A}{self.op_B} {self.m}x{self.n}x{self.k} ld "
            f"{self.lda},{self.ldb},{self.ldd} {arithmetic}"
        )

    @property
    def stored(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(rows, columns) of A and of B as they lie in memory."""
        return (self.m, self.k) if self.op_A == "N" else (self.k, self.m), (self.k, self.n) if self.op_B == "N" else (
            self.n,
            self.k,
        )

    @property
    def doubtful(self) -> bool:
        """Whether the library is not to be asked: for DRELU with k = 1, which nvmath-python 1.0 refuses ("not supported
        by cuBLAS", linalg/_internal/epilog_protocol.py), and BGRADB with n = 1, which its tests leave out. What
        cuBLASLt says to them is not documented."""
        return (self.k == 1 and self.epilogue in ("DRELU", "DRELU_BGRAD")) or (
            self.n == 1 and self.epilogue == "BGRADB"
        )

    @property
    def bias_length(self) -> int:
        if self.epilogue == "BGRADB":
            return self.n
        return self.m if self.epilogue in READS_BIAS or self.epilogue in WRITES_BIAS else 0

    def check(
        self, is_array: Callable[[object], bool], A: Array, B: Array, D: Array, bias: Array | None, aux: Array | None
    ) -> None:
        """Raises TypeError or ValueError where the arrays are not what the product reads and writes."""
        if (
            self.epilogue not in EPILOGUES
            or self.compute not in COMPUTE
            or (self.accumulate and self.epilogue != "DEFAULT")
        ):
            raise ValueError(f"no such product: {self}")
        (rows_A, columns_A), (rows_B, columns_B) = self.stored
        uses_aux = self.epilogue in USES_AUX
        if uses_aux and (self.aux_ld < self.m or self.aux_ld % 128):
            raise ValueError(f"aux_ld={self.aux_ld} must be a multiple of 128 and at least m={self.m}")
        for name, x, kind, ld, rows, columns in (
            ("A", A, self.inputs, self.lda, rows_A, columns_A),
            ("B", B, self.inputs, self.ldb, rows_B, columns_B),
            ("D", D, self.output, self.ldd, self.m, self.n),
            *([("bias", bias, self.output, None, self.bias_length, 1)] if self.bias_length else []),
            *([("aux", aux, "uint8", self.aux_ld // 8, self.aux_ld // 8, self.n)] if uses_aux else []),
        ):
            dtype = np.dtype(np.uint8) if kind == "uint8" else sources.store(kind)
            if x is None or not is_array(x):
                raise ValueError(f"{self}: {name} must be an array on the device")
            if x.dtype != dtype:
                raise TypeError(f"{self}: {name} must be {kind}, got {x.dtype}")
            if ld is None:
                if tuple(x.shape) != (rows,) or not x.flags.c_contiguous:
                    raise ValueError(
                        f"{self}: {name} must be {rows} elements without gaps, got shape {tuple(x.shape)} with "
                        f"strides {x.strides}"
                    )
            elif tuple(x.shape) != (columns, rows) or not sources.rows_apart(x, ld):
                raise ValueError(
                    f"{self}: {name} must have shape {(columns, rows)} and rows {ld} elements apart, got shape "
                    f"{tuple(x.shape)} with strides {x.strides}"
                )


@dataclass(frozen=True)
class Candidate:
    """One way to do a piece of work: `name` tells it from the others for the same work, `call` asks for it."""

    name: str
    call: Callable[[], None]


def aux_ld(units: int) -> int:
    """Bits for each row of a ReLU mask over that many units."""
    return -(-units // 128) * 128


def row_ld(units: int, kind: str) -> int:
    """Elements from one row of a matrix of so many columns to the next, if every row is to begin at a multiple of 16
    bytes.

    Below that cuBLASLt falls back on slow kernels, or has none (NVIDIA, cuBLAS library documentation, "Tensor Core
    Usage").
    """
    step = ROW_BYTES // int(sources.store(kind).itemsize)
    return -(-units // step) * step


def forward(
    rows: int, n_in: int, n_out: int, kind: str, compute: str, epilogue: str = "DEFAULT", *, lds: Lds | None = None
) -> Product:
    """z (rows, n_out) = a Theta^T: A = Theta (n_out, n_in), B = a (rows, n_in). lds: of A, B and D; without gaps
    between rows if not given.
    """
    return Product(
        n_out,
        rows,
        n_in,
        "T",
        "N",
        *(lds or (n_in, n_in, n_out)),
        kind,
        kind,
        compute,
        epilogue,
        aux_ld=aux_ld(n_out) if epilogue in USES_AUX else 0,
    )


def back(
    rows: int, n_in: int, n_out: int, kind: str, compute: str, epilogue: str = "DEFAULT", *, lds: Lds | None = None
) -> Product:
    """delta Theta (rows, n_in): A = Theta (n_out, n_in), B = delta (rows, n_out)."""
    return Product(
        n_in,
        rows,
        n_out,
        "N",
        "N",
        *(lds or (n_in, n_out, n_in)),
        kind,
        kind,
        compute,
        epilogue,
        aux_ld=aux_ld(n_in) if epilogue in USES_AUX else 0,
    )


def outer(
    rows: int,
    n_in: int,
    n_out: int,
    kind: str,
    compute: str,
    epilogue: str = "DEFAULT",
    accumulate: bool = False,
    *,
    lds: Lds | None = None,
) -> Product:
    """Delta (n_out, n_in) = delta^T a in the type of the parameters: A = a (rows, n_in), B = delta (rows, n_out)."""
    return Product(
        n_in, n_out, rows, "N", "T", *(lds or (n_in, n_out, n_in)), kind, sources.real(kind).name, compute, epilogue,
        accumulate,
    )  # fmt: skip
