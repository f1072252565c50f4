"""The stand-in of the device: NumPy arrays for memory, fibers for kernels, NumPy for matrix products.

It counts what a GPU would make expensive, and fills fresh memory with NaN.
"""

from __future__ import annotations

import ctypes

import numpy as np

from fastnn.backends.cupy_device import Device
from fastnn.kernels.cuda import sources

from .builder import library


class KernelFault(RuntimeError):
    """A kernel broke the rules of CUDA."""


class ShimDevice(Device):
    """Attributes: `seed` of the thread schedules; `faults` planted; counters `allocations`, `synchronizations`, `launches` (names)."""

    def __init__(self, seed=0, faults=()):
        super().__init__()
        self.seed, self.faults = seed, tuple(faults)
        self.reset_counters()

    def reset_counters(self):
        self.allocations, self.synchronizations, self.launches, self.products = 0, 0, [], 0

    def is_array(self, x):
        return isinstance(x, np.ndarray)

    def empty(self, shape, dtype):
        self.guard()
        self.allocations += 1
        x = np.empty(shape, dtype)
        x.view(np.uint8).fill(0xFF) if x.ndim and x.size else None  # NaN, -1
        return x

    def clear(self, x):
        self.guard()
        x[...] = 0

    def asarray(self, x, dtype=None):
        self.guard()
        result = np.asarray(x, dtype, order="C")
        self.allocations += result is not x
        return result

    def to_numpy(self, x):
        self.guard()
        self.synchronizations += 1
        return x

    def copy(self, target, source):
        self.guard()
        np.copyto(target, source, casting="no")

    def overlap(self, x, y):
        return np.may_share_memory(x, y)

    def synchronize(self):
        self.guard()
        self.synchronizations += 1

    def _launch(self, kernel, real, grid, block, arguments):
        self.launches.append(kernel)
        self.seed += 1
        run = getattr(library(sources.REALS[real.name], self.faults), f"run_{kernel}")
        run.restype = ctypes.c_char_p
        # An array is passed as its address, a number by its bytes; the driver wants pointers to both.
        values = [np.array(x.ctypes.data, np.uintp) if isinstance(x, np.ndarray) else np.array(x) for x in arguments]
        packed = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = [(ctypes.c_uint * 3)(*dims, *([1] * (3 - len(dims)))) for dims in (grid, block)]
        wrong = run(packed, *sizes, ctypes.c_uint64(self.seed))
        if wrong:
            raise KernelFault(f"{kernel}: {wrong.decode()}")

    def _gemm(self, op_A, op_B, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        self.products += 1
        with np.errstate(all="ignore"):
            product = C.dtype.type(alpha) * (_matrix(op_A, A, m, k, lda) @ _matrix(op_B, B, k, n, ldb))
            target = _matrix("N", C, m, n, ldc)
            target[...] = product if beta == 0 else product + C.dtype.type(beta) * target  # BLAS: C is not read if beta is 0


def _matrix(op, x, rows, columns, ld):
    """op(X), (rows, columns), of the column-major matrix stored in x with this leading dimension; a view."""
    stored_rows, stored_columns = (rows, columns) if op == "N" else (columns, rows)
    columnwise = x.reshape(-1)[: stored_columns * ld].reshape(stored_columns, ld)[:, :stored_rows]
    return columnwise.T if op == "N" else columnwise
