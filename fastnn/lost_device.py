"""A device that is lost while a network trains: its memory is gone, the network is not.

After an illegal access, an uncorrectable memory error or a reset, every call to the device fails, and what lay in
its memory cannot be read any more. So while a network trains on an engine whose `loses_arrays` is true, a copy of
the parameters is kept on the host, and the network goes on from it on the NumPy engine.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .backends import get_backend
from .errors import DeviceLost

if TYPE_CHECKING:
    from .network import Network
    from .optimizers import Optimizer

__all__ = ["HostCopy"]

# A copy is taken when this many times the duration of the last one has passed: 1 % of the time at most.
SPARING = 100


class HostCopy:
    """Theta on the host, at most 1 % of the time spent on it.

    Parameters
    ----------
    net : Network
    optimizer : Optimizer
        Its state lies on the device as well, and is not copied.
    """

    def __init__(self, net: Network, optimizer: Optimizer) -> None:
        self.net, self.optimizer, self.wanted = net, optimizer, net.backend.loses_arrays
        self.theta: Any = None
        self.place = (0, 0)  # epoch and step that the copy was taken before
        self._next = 0.0  # when another one is due

    def refresh(self, epoch: int, step: int) -> None:
        """Copy Theta, which is finite, if it is time to; `step` of `epoch` comes next."""
        began = time.monotonic()
        if self.wanted and began >= self._next:
            self.theta, self.place = np.array(self.net.backend.to_numpy(self.net.theta)), (epoch, step)
            ended = time.monotonic()
            self._next = ended + SPARING * (ended - began)

    def rescue(self, error: BaseException, history: object) -> DeviceLost | None:
        """None while the device still answers; else the network is moved to the NumPy engine, and this is the error
        to raise.
        """
        first = _first(error)
        # CUDA's errors have classes of their own. Python's are about arguments, or about the place of the call.
        if not self.wanted or self.theta is None or type(first).__module__ == "builtins" or self._answers():
            return None
        net, lost_on = self.net, self.net.backend.name
        remark = (
            "" if net.precision == "fp32" else f" Its precision {net.precision!r} is 'fp32' now, the only one there."
        )
        net._move(get_backend("numpy"), f"numpy: the device of the {lost_on} engine was lost", self.theta)
        self.optimizer.reset()
        epoch, step = self.place
        return DeviceLost(
            f"the device was lost in epoch {net.epochs_trained} ({_line(first)}). The network is now on the numpy "
            f"engine with its parameters from before step {step} of epoch {epoch} (both count from 0); "
            f"the optimizer's state is lost.{remark} Save the network (net.save) and go on in a new process: CUDA "
            "cannot be used in this one any more. "
            "`fastnn doctor` and `nvidia-smi -q` show the state of the GPU, the kernel's log (dmesg, Xid) the cause.",
            epoch=epoch,
            step=step,
            history=history,
        )

    def _answers(self) -> bool:
        """Whether the device still does what it is asked."""
        try:
            self.net.backend.synchronize()
            self.net.backend.to_numpy(self.net.theta[:1])
        except Exception:
            return False
        return True


def _first(error: BaseException) -> BaseException:
    """The first of a chain of errors: those that follow a lost device only repeat it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
