"""The second level of the contract between a network and an engine (base.py): many training steps in the engine's
own best form.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import check_rates
from ..errors import positive_integer
from ..optimizers import Optimizer, check_known

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["Array", "Job", "Program"]

# An array of the engine: numpy.ndarray, or cupy.ndarray on the device. CuPy cannot be named in an
# annotation here, because nothing of it may be imported by the core.
Array = Any


@dataclass(frozen=True, eq=False)
class Job:
    """What a program is made for.

    Attributes
    ----------
    net, optimizer : what is trained, and by which rule
    batch_size : int
        Rows per step.
    micro_batch : int, optional
        Rows at a time, at most; the engine's choice if not given.
    training_rows : int, optional
        Rows of an epoch, n of the L2 term; if not given, those of the X of each run, and for the plan many.
    data_dtype : numpy dtype, optional
        Of the X to come; the network's if not given. Data of other dtypes are taken all the same.

    Raises
    ------
    ValueError, TypeError
        optimizer is no Optimizer; batch_size, micro_batch or training_rows no positive integer.
    """

    net: Network
    optimizer: Optimizer
    batch_size: int
    micro_batch: int | None = None
    training_rows: int | None = None
    data_dtype: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(
                f"optimizer must be an Optimizer, such as fastnn.optimizers.SGD(0.1), got {self.optimizer!r}"
            )
        check_known(self.optimizer)
        for name, given in (
            ("batch_size", self.batch_size),
            ("micro_batch", self.micro_batch),
            ("training_rows", self.training_rows),
        ):
            if given is not None or name == "batch_size":
                object.__setattr__(self, name, positive_integer(name, given))  # of NumPy's integers some would overflow

    @property
    def rows(self) -> int:
        """Most rows at a time that are allowed."""
        return self.batch_size if self.micro_batch is None else min(self.batch_size, self.micro_batch)


class Program(ABC):
    """Many training steps of one network with one optimizer and one batch size.

    Made by `Backend.compile`. `run` moves `net.theta`, the optimizer's state, step counter and rate.

    Attributes
    ----------
    micro_batch : int
        Rows taken through the network at a time, at most; the Delta of the micro-batches of a batch add
        up, and the one update of the step is that of the whole batch, to rounding.
    hits : int or None
        Of the rows of the last `run`, or of all that it continued, how many were right before their update: the
        largest output for classes, every output on its side of 1/2 for sigmoid with cross_entropy; None for values.
    training_rows : int or None
        n of the L2 term; the rows of X if None. `fit` tells it, because X may hold validation rows as well.
    scale : float
        Factor for X of integers, where the engine reads them as they are.
    weights : (n,) array of the engine or None
        How much each row of X counts, its cost and its part of Delta times that; None is 1 for all. Of the network's
        dtype. `fit` gives them a mean of 1.
    key : int
        Of the epoch's random numbers for dropout (fastnn.dropout.epoch_key), which `fit` sets.
    total_weight : float or None
        n of the L2 term where rows have weights: their sum as they were given, so that a row that counts twice is the
        same as two rows.
    continues : bool
        The sums of the next `run` go on from where those of the last ended: cost_sum and `hits` are then those of all
        of these runs together, the same bits however the steps are cut into runs (but for fused steps on a GPU, which
        round otherwise). `fit` sets it within an epoch.
    nbytes : int or None
        Of its workspace, if it may `serve` more than one fit.
    """

    hits: int | None = None
    scale: float = 1.0
    weights: Array | None = None
    total_weight: float | None = None
    key: int = 0
    continues: bool = False
    nbytes: int | None = None

    def __init__(self, job: Job) -> None:
        net = self.net = job.net
        self.optimizer = job.optimizer
        self.batch_size = job.batch_size
        self.micro_batch = job.rows
        self.training_rows = job.training_rows
        self.optimizer.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
        self._dropout = net.dropout

    def serves(self, job: Job) -> bool:
        """Whether this program, made for this network, is what would be made for the job now, so that it can be
        used again.
        """
        return False

    def clear(self) -> None:  # noqa: B027 - most engines write all that they read
        """Forget what earlier runs left in the workspace; NaN there, where zeros are taken for granted, would
        spread.
        """

    def steps(self, rows: int) -> int:
        """Steps in an epoch over `rows` rows; the short last batch counts."""
        return -(-rows // self.batch_size)

    def l2_per_row(self, X: Array) -> float:
        """lambda / n of the L2 term."""
        return self.net.l2 / (self.total_weight or self.training_rows or X.shape[0])

    def run(
        self, X: Array, y: Array, order: Array, start: int, stop: int, rates: np.ndarray[Any, Any] | None = None
    ) -> tuple[float, int]:
        """Take steps start..stop (stop excluded) of an epoch over the rows of X in this order.

        Step s takes rows order[s * batch_size : (s + 1) * batch_size], averages their gradient, each row's times its
        weight, over its own rows, with hidden units left out as `net.dropout` says, adds the L2 term (lambda / n) Theta
        of the weights with n = `training_rows`, and updates once.

        Parameters
        ----------
        X : (n, s_1)
            On the engine's device, of the network's dtype or one that the engine `reads`; C-contiguous, unless it
            `reads_strides`.
        y : (n,) or (n, K)
            int64 classes, or values of the network's dtype; on the engine's device.
        order : (any,) int64
            Row numbers, 0..n-1. The CuPy engine does not check them: a wrong one makes the cost NaN.
        start, stop : int
            0 <= start <= stop <= steps(len(order)).
        rates : (stop - start,) float64 in the host's memory, optional
            alpha >= 0 of each step; the optimizer's rate for all of them if not given.

        Returns
        -------
        cost_sum : float
            Sum over the rows taken of the cost before each row's update, times the row's weight, the L2 cost included
            once per row.
        rows : int
            Rows taken.

        Raises
        ------
        ValueError, TypeError
            Shapes, dtypes or the range of steps do not fit, or the program is no longer that of its network and
            optimizer; nothing was changed.
        MemoryError
            Memory is missing that is taken only when steps run, such as for rows that are streamed to a device.
        RuntimeError
            Another thread cannot be started, or the device cannot be used from here, as after a fork.

        Notes
        -----
        Where something is raised amid the steps (MemoryError, an error of the device, Ctrl-C), some of them may have
        moved the parameters and the optimizer's state, and its `t` may not count them. To go on, restore copies made
        before, as `fit` does. A cost that is not finite is returned and raises nothing.
        """
        self._check(X, y, order, start, stop)
        if rates is not None:
            check_rates(rates, stop - start)
        result = self._run(X, y, order, start, stop, rates)
        if rates is not None and stop > start:
            self.optimizer.took(float(rates[-1]))
        return result

    def _check(self, X: Array, y: Array, order: Array, start: int, stop: int) -> None:
        net = self.net
        if self.optimizer.lost(net):  # compiled code would look for a state that is not there
            raise ValueError(
                f"optimizer={self.optimizer!r} has been reset, or serves another network, since this program was "
                "compiled; compile another"
            )
        if net.dropout != self._dropout:
            raise ValueError(
                f"net.dropout={net.dropout} was {self._dropout} when this program was compiled; compile another"
            )
        fits = X.dtype == net.dtype or (X.dtype.name in net.backend.reads and X.dtype.isnative)
        lies_well = X.flags.c_contiguous or (net.backend.reads_strides and X.flags.aligned)
        if X.ndim != 2 or X.shape[1] != net.sizes[0] or not fits or not lies_well:
            kinds = " or ".join([str(net.dtype), *sorted(net.backend.reads - {net.dtype.name})])
            how = "" if net.backend.reads_strides else "C-contiguous "
            raise ValueError(
                f"X must be a {how}(n, {net.sizes[0]}) array of {kinds}, got shape {tuple(X.shape)} of {X.dtype}"
            )
        net.backend.check_targets(net.pair, y, X.shape[0], net.sizes[-1], net.dtype)
        if (weights := self.weights) is not None and not (
            net.backend.is_array(weights)
            and tuple(weights.shape) == (X.shape[0],)
            and weights.dtype == net.dtype
            and weights.flags.c_contiguous
        ):
            raise ValueError(f"weights must be a contiguous ({X.shape[0]},) array of {net.dtype} of the engine")
        if order.ndim != 1 or order.dtype != np.int64 or not order.flags.c_contiguous:
            raise TypeError(
                f"order must be a contiguous one-dimensional int64 array, got shape {tuple(order.shape)} of "
                f"{order.dtype}"
            )
        if not 0 <= start <= stop <= self.steps(order.shape[0]):
            raise ValueError(
                f"start={start}, stop={stop} must satisfy 0 <= start <= stop <= {self.steps(order.shape[0])}"
            )

    @abstractmethod
    def _run(
        self, X: Array, y: Array, order: Array, start: int, stop: int, rates: np.ndarray[Any, Any] | None
    ) -> tuple[float, int]: ...
