"""What the CuPy engine needs of a device: memory, kernel launches, matrix products, streams, graphs.

`CupyDevice` (cupy_device.py) is the real one. The tests bind the same engine to a stand-in over NumPy
arrays (tests/cuda_on_cpu), so that all of the engine but that file runs without a GPU. The stand-in also checks
(order.py there) that no two operations, of which one writes, meet on the same memory without one of these orders:

- What is asked of one stream is done in that order; a launched graph is one piece of it, within which only
  `side_by_side` leaves an order open.
- A device has a stream of its own (`work`), one for copies (`copying`) and one for branches of graphs. None of them
  waits for the default stream, nor that for them: `work` begins after what the caller's stream holds and the caller's
  stream goes on after it; copies and computation are put in order by marks alone. Whoever uses arrays on two streams of
  his own has to put those in order.
- The host goes on after `Mark.synchronize`, `synchronize` and `to_numpy`, which wait for what the current stream holds.
  It may change pinned memory when the copies that read it are over, other memory when `upload` returns.
- Freed memory belongs to the stream that was current when it was taken, and is used again in the order of that stream;
  so what used it on another stream must come before what this stream is given next. Freed pinned memory is anybody's at
  once: wait for its copies before.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np

from ..kernels.cuda import sources
from .cupy_products import ROW_BYTES, Candidate, Product

__all__ = ["INT_MAX", "Array", "CaptureRefused", "Device", "ForbiddenInCapture", "Graph", "Mark"]

Array = Any
INT_MAX = 2**31 - 1


class CaptureRefused(RuntimeError):
    """The driver or a library would not record a step as a graph; the step can still be run eagerly."""


class ForbiddenInCapture(RuntimeError):
    """A step that is being recorded did what a graph cannot hold. Always a mistake of the engine's."""


class Graph(ABC):
    """Recorded work, to be repeated with the same arguments at the same addresses."""

    @abstractmethod
    def launch(self) -> None:
        """Ask for all of it once more, on the current stream; returns at once."""


class Mark(ABC):
    """A place in a stream (a CUDA event)."""

    @abstractmethod
    def wait(self) -> None:
        """What is asked of the current stream from here on begins when the place is reached; returns at once."""

    @abstractmethod
    def synchronize(self) -> None:
        """Returns when the place is reached."""


class Device(ABC):
    """Memory, launches, matrix products and graphs of one device. Work is asynchronous and done in order.

    A device belongs to the process that made it: in a forked child, whose CUDA context is unusable, every
    call raises RuntimeError. While a step is being captured, whatever a graph cannot hold - taking memory,
    waiting, reading back, copying from the host - raises ForbiddenInCapture.

    Attributes
    ----------
    workspace_bytes : int
        What a matrix product may use beside its operands; part of a program's memory.
    reserve_bytes : int
        Free memory that programs leave alone, for what the driver takes by itself.
    shared_bytes : int
        Shared memory that a block can have at most; 0 where that is not known.
    identity : str or None
        Device, driver and library; measured choices hold for the same ones. None: not worth remembering.
    no_products : str or None
        Why `prepare` cannot offer products that can be captured; None if it can.
    library : str
        What products are computed by, for people.
    paced_by_host : bool
        Whether some work that was to be timed as a graph was launched piece by piece since this was last set to False:
        such times are not remembered.
    refusals : mapping
        Product -> what the library answered if that was anything but that it does not offer it; {} unless the engine is
        at fault.
    """

    workspace_bytes = 0
    reserve_bytes = 0
    shared_bytes = 0
    identity: str | None = None
    no_products: str | None = None
    library: str = "cuBLAS"
    paced_by_host = False
    refusals: Mapping[str, str] = MappingProxyType({})

    def __init__(self) -> None:
        self._process = os.getpid()
        self._turn = threading.RLock()  # programs of several threads take turns: they share the device's own stream
        self._here = threading.local()

    def guard(self) -> None:
        """Raises RuntimeError where the device cannot be used from here."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "the cupy engine was started before this process was forked, and CUDA cannot be used after a fork; "
                'start workers with multiprocessing.get_context("spawn") and make the network there'
            )

    def _outside_capture(self, what: str) -> None:
        self.guard()
        if getattr(self._here, "capturing", False):
            raise ForbiddenInCapture(f"a step that is being captured may not {what}")

    # ---- memory -------------------------------------------------------------------------------------

    @abstractmethod
    def is_array(self, x: object) -> bool:
        """Whether x is an array in this device's memory.

        Raises
        ------
        ValueError
            x is an array of another CUDA device.
        """

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A C-contiguous array with undefined content, at an address that is a multiple of 256.

        Raises
        ------
        MemoryError
            The device has not that much; the message says how much was asked for and how much is free.
        """
        self._outside_capture("allocate memory")
        return self._empty(shape, dtype)

    def view(self, memory: Array, offset: int, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array over the bytes of `memory`, one-dimensional uint8, from `offset` on; the memory lives as long as the
        view.

        Raises
        ------
        ValueError
            It would reach beyond the memory, or the offset is no multiple of the item's size.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if (
            memory.dtype != np.uint8
            or memory.ndim != 1
            or offset < 0
            or offset + size > memory.shape[0]
            or offset % np.dtype(dtype).itemsize
        ):
            raise ValueError(
                f"a view of {size} bytes at {offset} does not fit into {memory.dtype} memory of shape "
                f"{tuple(memory.shape)}"
            )
        return memory[offset : offset + size].view(dtype).reshape(shape)

    @abstractmethod
    def adopt(self, x: Any) -> Array:
        """An array here over the memory of a device array of any library; no copy, in order with the current stream.

        Raises
        ------
        ValueError
            It lies on another device.
        """

    @abstractmethod
    def clear(self, x: Array) -> None:
        """Overwrites a C-contiguous array with zeros."""

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """x, from the host or the device, as a C-contiguous array here; x itself if it is one already."""
        self._outside_capture("convert arrays")
        return self._asarray(x, dtype)

    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """A host copy (the stand-in: x itself), complete when this returns. Synchronises."""
        self._outside_capture("read back")
        return self._to_numpy(x)

    def upload(self, target: Array, source: np.ndarray[Any, Any]) -> None:
        """Overwrites target with a host array of its shape and dtype. `source` may be changed afterwards, unless it is
        `pinned`.

        From pinned memory the copy is asynchronous: leave the source alone until a later `mark` is reached.
        """
        self._outside_capture("copy from the host")
        if tuple(target.shape) != source.shape or target.dtype != source.dtype or not source.flags.c_contiguous:
            raise ValueError(f"upload of {source.dtype} {source.shape} into {target.dtype} {tuple(target.shape)}")
        self._upload(target, source)

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
        """A host array that the device can read by itself, without content."""
        self._outside_capture("allocate memory")
        return self._pinned(shape, dtype)

    @abstractmethod
    def copy(self, target: Array, source: Array) -> None:
        """Overwrites target with source, both here, any strides, one shape and dtype."""

    @abstractmethod
    def overlap(self, x: Array, y: Array) -> bool:
        """Whether the memory ranges of two arrays meet."""

    @abstractmethod
    def address(self, x: Array) -> int:
        """Where the array's memory begins."""

    @abstractmethod
    def memory(self) -> tuple[int, int]:
        """(bytes that can still be taken, bytes the device has)."""

    def synchronize(self) -> None:
        """Returns when all work asked for so far is done."""
        self._outside_capture("wait")
        self._synchronize()

    # ---- streams and graphs ---------------------------------------------------------------------------

    @contextmanager
    def work(self) -> Iterator[None]:
        """Inside, work goes to the device's own stream: after what the caller's current stream holds, before what it is
        given later.

        One thread at a time; another waits.
        """
        self.guard()
        with self._turn, self._own_stream():
            yield

    @abstractmethod
    def copying(self) -> AbstractContextManager[None]:
        """Inside, work goes to a second stream, for copies beside computation; only marks put it in order with
        other streams.
        """

    @abstractmethod
    def mark(self) -> Mark:
        """The present end of the current stream."""

    def capture(self, step: Callable[[], None]) -> Graph:
        """What `step` asks of the device, recorded instead of done; inside `work()`.

        Raises
        ------
        CaptureRefused
            The driver or a library does not record this.
        ForbiddenInCapture
            The step does what a graph cannot hold.
        """
        self._outside_capture("capture another")
        self._here.capturing = True
        try:
            return self._capture(step)
        finally:
            self._here.capturing = False

    def side_by_side(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        """Asks for both, of which neither may touch what the other overwrites: in a step that is being captured so
        that neither waits for the other, else one after the other. What is asked for next waits for both.
        """
        self.guard()
        if getattr(self._here, "capturing", False):
            self._side_by_side(first, second)
        else:
            first()
            second()

    @abstractmethod
    def _side_by_side(self, first: Callable[[], None], second: Callable[[], None]) -> None: ...

    @abstractmethod
    def seconds(self, work: Callable[[], None], *, recorded: bool = True) -> float:
        """How long the device takes for `work`, done several times in a row; inside `work()`, waits.

        recorded: as one graph, as in training, for a kernel may end before the host has asked for the next one; where a
        graph is refused, which `paced_by_host` tells, and where `work` launches graphs itself and is long,
        it is asked for each time.
        """

    # ---- work ---------------------------------------------------------------------------------------

    def launch(
        self,
        kernel: str,
        kind: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: tuple[Any, ...],
        *,
        shared: int = 0,
    ) -> None:
        """Start a kernel, compiled for one of `sources.KINDS`. Arrays as `sources.bind` wants them.

        shared: bytes of dynamic shared memory for each block, at most `shared_bytes`.

        Raises
        ------
        TypeError, ValueError
            The arguments are not what the kernel's source declares, or too much shared memory is asked for.
        """
        self.guard()
        if shared > self.shared_bytes:
            raise ValueError(
                f"kernel {kernel} is to have {shared} bytes of shared memory, a block here has at most "
                f"{self.shared_bytes}"
            )
        declared = sources.kernels()[kernel]
        self._launch(kernel, kind, grid, block, shared, sources.bind(declared, kind, arguments, self.is_array))

    def gemm(
        self,
        op_A: str,
        op_B: str,
        m: int,
        n: int,
        k: int,
        A: Array,
        lda: int,
        B: Array,
        ldb: int,
        C: Array,
        ldc: int,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """C = alpha op(A) op(B) + beta C with the column-major meaning of BLAS; C is not read where beta is 0.

        op(A) is (m, k), op(B) (k, n), C (m, n), each stored with columns one after another, `ld` elements apart. A
        row-major (rows, columns) array is the column-major (columns, rows) one with ld = columns, or more where its
        rows lie apart. All are C-contiguous, or such matrices, of one dtype, float32 (in full precision, no TF32) or
        float64.

        Raises
        ------
        TypeError, ValueError
            Dtypes that differ, strides, or arrays too small for these sizes.
        """
        self.guard()
        if C.dtype.name not in ("float32", "float64") or not A.dtype == B.dtype == C.dtype:
            raise TypeError(f"gemm takes float32 or float64 arrays of one dtype, got {A.dtype}, {B.dtype}, {C.dtype}")
        for name, x, op, rows, columns, ld in (
            ("A", A, op_A, m, k, lda),
            ("B", B, op_B, k, n, ldb),
            ("C", C, "N", m, n, ldc),
        ):
            stored_rows, stored_columns = (rows, columns) if op == "N" else (columns, rows)
            apart = self.is_array(x) and tuple(x.shape) == (stored_columns, stored_rows) and sources.rows_apart(x, ld)
            if not self.is_array(x) or not (x.flags.c_contiguous or apart):
                raise ValueError(
                    f"gemm: {name} must be a C-contiguous array on the device, or have its rows {ld} elements apart"
                )
            if (
                ld < max(1, stored_rows)
                or not (apart or x.size >= stored_columns * ld)
                or max(ld, rows, columns) > INT_MAX
            ):
                raise ValueError(
                    f"gemm: {name} of {x.size} elements with ld={ld} cannot hold {stored_rows} x {stored_columns}"
                )
        if m and n and (k or beta != 1):
            self._gemm(op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)

    def prepare(
        self,
        product: Product,
        A: Array,
        B: Array,
        D: Array,
        workspace: Array,
        *,
        bias: Array | None = None,
        aux: Array | None = None,
    ) -> list[Candidate]:
        """Ways to compute this product on these arrays, the most promising first; none if the library does not offer
        it, is not to be asked (`Product.doubtful`), or the bias does not begin at a multiple of 16 bytes: cuBLASLt is
        known to have answered that with an alignment error on the device (A100; marian-dev, src/tensors/gpu/prod.cpp),
        after which a process is lost.

        Calling a candidate asks for the product on the current stream; it allocates nothing and may be captured.
        A candidate knows addresses: the caller keeps the arrays as long as it. bias, aux: what the epilogue reads or
        writes (cupy_products.py).

        Raises
        ------
        TypeError, ValueError
            Arrays that the product would read or write beyond their end, or of another dtype.
        """
        self.guard()
        product.check(self.is_array, A, B, D, bias, aux)
        if product.doubtful or (product.bias_length and self.address(bias) % ROW_BYTES):
            return []
        return self._prepare(product, A, B, D, workspace, bias, aux)

    # ---- what a device writes ---------------------------------------------------------------------------

    @abstractmethod
    def _own_stream(self) -> AbstractContextManager[None]: ...

    @abstractmethod
    def _prepare(
        self, product: Product, A: Array, B: Array, D: Array, workspace: Array, bias: Array | None, aux: Array | None
    ) -> list[Candidate]: ...

    @abstractmethod
    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Array: ...

    @abstractmethod
    def _asarray(self, x: Any, dtype: Any) -> Array: ...

    @abstractmethod
    def _to_numpy(self, x: Array) -> np.ndarray[Any, Any]: ...

    @abstractmethod
    def _upload(self, target: Array, source: np.ndarray[Any, Any]) -> None: ...

    @abstractmethod
    def _pinned(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]: ...

    @abstractmethod
    def _synchronize(self) -> None: ...

    @abstractmethod
    def _capture(self, step: Callable[[], None]) -> Graph: ...

    @abstractmethod
    def _launch(
        self, kernel: str, kind: str, grid: tuple[int, ...], block: tuple[int, ...], shared: int, arguments: list[Any]
    ) -> None: ...

    @abstractmethod
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
    ) -> None: ...
