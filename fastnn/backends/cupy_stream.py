"""Data larger than the device: rows fetched batch by batch from the host's memory, beside the computation.

Two buffers of a batch on the device, each with one of pinned host memory behind it. While the device computes on
one, the host gathers the rows of the next batch and a second stream copies them into the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .cupy_contract import Device, Mark

__all__ = ["Feeder", "HostRows"]

Array = Any


class HostRows(np.ndarray):
    """Rows (m, n) that stay in the host's memory because the device has not enough."""


class Feeder:
    """Fetches rows of X for batches of at most `batch` rows.

    Attributes
    ----------
    rows : list of two arrays (batch, n)
        The buffers on the device.
    order, step : arrays
        The order 0, 1, ... in which a step takes the rows of a buffer.

    Raises
    ------
    MemoryError
        The device has no memory for the buffers.
    """

    def __init__(self, device: Device, X: HostRows, batch: int) -> None:
        self._device, self._X = device, X.view(np.ndarray)
        shape = (batch, X.shape[1])
        self.rows = [device.empty(shape, X.dtype) for _ in range(2)]
        self._pinned = [device.pinned(shape, X.dtype) for _ in range(2)]
        self.order, self.step = device.asarray(np.arange(batch)), device.asarray(np.zeros(1, np.int64))
        self._copied: list[Mark | None] = [None, None]
        # the memory may be another's until the caller's stream has come here, in whose order the pool hands it out
        self._used: list[Mark | None] = [device.mark(), device.mark()]

    def fetch(self, buffer: int, chosen: np.ndarray[Any, Any]) -> None:
        """Begin to bring these rows (m,) into a buffer; returns when they have been gathered on the host."""
        copied, used = self._copied[buffer], self._used[buffer]
        if copied is not None:
            copied.synchronize()  # the pinned memory has been read
        source = self._pinned[buffer][: len(chosen)]
        np.take(self._X, chosen, axis=0, out=source, mode="clip")  # the numbers have been checked; "raise" would buffer
        with self._device.copying():
            if used is not None:
                used.wait()  # the step on this buffer is over
            self._device.upload(self.rows[buffer][: len(chosen)], source)
            self._copied[buffer] = self._device.mark()

    def settle(self) -> None:
        """Waits until no copy is under way, not even one that was interrupted before it had its mark; then the memory
        may be given back. A later fetch comes after what the current stream holds: a step may lack its mark too.
        """
        with self._device.copying():
            self._device.mark().synchronize()
        self._used = [self._device.mark(), self._device.mark()]

    def ready(self, buffer: int) -> None:
        """What is asked of the current stream from here on finds the rows in the buffer."""
        copied = self._copied[buffer]
        assert copied is not None, "fetched first"
        copied.wait()

    def done(self, buffer: int) -> None:
        """The buffer may be overwritten when the current stream has come here."""
        self._used[buffer] = self._device.mark()
