"""Where arrays of any library lie, and what they hold. Imports NumPy alone."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["check_rates", "device_of", "on_host"]

CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged of DLPack


def device_of(x: Any) -> int | None:
    """Number of the CUDA device on which an array lies (DLPack, or the CUDA array interface, which does not say:
    0); None for everything else.
    """
    if isinstance(x, np.ndarray):
        return None
    where = getattr(x, "__dlpack_device__", None)
    if where is not None:
        kind, number = where()
        return int(number) if int(kind) in CUDA else None
    return 0 if hasattr(x, "__cuda_array_interface__") else None


def on_host(x: Any) -> Any:
    """x, or a copy in the host's memory where it lies on a CUDA device."""
    if device_of(x) is None:
        return x
    for copy in ("get", "cpu", "copy_to_host"):  # of CuPy, PyTorch, Numba
        if hasattr(x, copy):
            return getattr(x, copy)()
    return np.asarray(x)  # JAX


def check_rates(rates: Any, steps: int) -> None:
    """Raises ValueError where `rates` are not one rate >= 0 for each of the steps."""
    if not isinstance(rates, np.ndarray) or rates.dtype != np.float64 or rates.shape != (steps,):
        what = f"shape {rates.shape} of {rates.dtype}" if isinstance(rates, np.ndarray) else type(rates).__name__
        raise ValueError(f"rates must be a float64 NumPy array of shape ({steps},), one rate per step, got {what}")
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError(f"rates must be finite and >= 0, got {rates[~(np.isfinite(rates) & (rates >= 0))][0]}")
