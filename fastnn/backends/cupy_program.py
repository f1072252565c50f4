"""The training program of the CuPy engine: a whole step, or many, as one CUDA graph, or for narrow nets as one kernel.

All memory is taken before the first step. The first step of each size runs launch by launch, which loads the
kernels; then the same launches are recorded and repeated. What changes between steps - row numbers, learning
rate, the corrections of Adam, the number of the step - lies on the device. The host waits once per `run`, for the cost.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .base import Array, Job, Program
from .cupy_arena import Arena, Pieces, pieces_of_program, steps_per_upload
from .cupy_buffers import Buffers
from .cupy_contract import Device
from .cupy_narrow import TRIAL_ROWS, Fused, pieces_of_narrow, why_not
from .cupy_plan import choose, describe, offered, timings
from .cupy_replay import Capture, Replay
from .cupy_step import Step, cut
from .cupy_stream import Feeder, HostRows
from .cupy_trials import CAPTURED, Trials
from .cupy_update import spans, update_constants

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer
    from .cupy_backend import CupyBackend

__all__ = ["CupyProgram", "arithmetic", "footprint", "plan_key", "rows_that_fit"]


class CupyProgram(Program):
    """Steps recorded once and repeated.

    A row number in `order` outside the data makes the cost NaN instead of raising, because checking it
    would mean waiting for the device.

    Attributes
    ----------
    mode : str
        "captured", "eager", or "fused": one kernel for whole steps (cupy_narrow.py), taken where it was timed to be
        faster, or as the engine's `fused` says. Rows that are streamed from the host are computed by captured or eager
        steps all the same.
    why_eager : str
        The reason why nothing is captured.
    why_not_fused : str
        The reason why the one kernel is not used.
    micro_batch : int
        Rows computed at a time: fewer than asked for where the device has not the memory.
    arena_bytes : int
        Device memory of this program.
    """

    def __init__(self, backend: CupyBackend, job: Job) -> None:
        device, net, optimizer = backend.device, job.net, job.optimizer
        update_constants(optimizer, 1, 1, 0.0, net.dtype)  # refuses a rule without a kernel before any work
        kind, compute = arithmetic(net, device)
        self.why_not_fused = (
            "fused=False was given" if backend.fused is False else why_not(net, device, job.batch_size, optimizer)
        )
        if backend.fused and self.why_not_fused:
            raise ValueError(f"fused=True, but the fused kernel cannot train this network: {self.why_not_fused}")
        rows = rows_that_fit(net, device, job.batch_size, job.rows, optimizer)
        super().__init__(replace(job, micro_batch=rows))
        self._backend, self._device = backend, device
        pieces, arena = self._take_memory(optimizer)
        self._arena, self.arena_bytes = arena, Arena.size(pieces)
        rows = self.micro_batch = cut(self.batch_size, self.micro_batch)[0][1]  # what is timed is what steps do
        self._buffers = Buffers(net, device, arena, kind, compute, rows, backend.tuner)
        device.upload(arena["spans"], spans(net.layout.spans(), net.sizes))
        self._capture = Capture()
        self._data: tuple[Any, ...] = ()  # what the replays are bound to
        self._feeder: Feeder | None = None  # of data on the host
        self._replays: list[Replay] = []  # one, or one for each buffer of the feeder
        self._short = 0  # rows of the short steps at hand
        self._fused: Fused | None = None
        self._trials: Trials | None = None
        self._fusing = False
        if device.no_products is not None:
            self._capture.mode, self._capture.why_eager = "eager", device.no_products
        with device.work():
            with self._buffers.filled():
                self._choices = choose(self._buffers, rows, in_parts=rows < self.batch_size)
            if not self.why_not_fused:
                self._fused = Fused(net, device, arena, optimizer, self.batch_size, job.micro_batch or self.batch_size)
                self._trials = Trials(
                    net, device, arena, optimizer, self.batch_size, rows, net.l2 / (job.training_rows or TRIAL_ROWS),
                    self._fused, self._bound, functools.partial(self._repeat, 0, self.batch_size),
                )  # fmt: skip
                self._fusing = self._trials.fused_is_faster(backend.tuner, forced=bool(backend.fused))
                self.why_not_fused = "" if self._fusing else f"{CAPTURED} were timed to be faster than fused ones"
        backend.tuner.save()
        backend.plans[plan_key(net, self.batch_size, rows)] = describe(self._choices)
        backend.plans[plan_key(net, self.batch_size, rows, optimizer.name)] = self.describe()
        if device.no_products is not None and not self._fusing:
            self._capture.refused(device.no_products)

    def _take_memory(self, optimizer: Optimizer) -> tuple[Pieces, Arena]:
        """The arena for `micro_batch` rows at a time, or for fewer: what is free may lie in too small pieces."""
        while True:
            pieces = footprint(self.net, self._device, self.batch_size, self.micro_batch, optimizer)
            try:
                return pieces, Arena(self._device, pieces)
            except MemoryError:
                if self.micro_batch == 1:
                    raise
                self.micro_batch = -(-self.micro_batch // 2)

    @property
    def mode(self) -> str:
        """See above; may be set, for comparisons."""
        return "fused" if self._fusing else self._capture.mode

    @mode.setter
    def mode(self, value: str) -> None:
        if value == "fused" and self._fused is None:
            raise ValueError(f"mode='fused' cannot be used here: {self.why_not_fused}")
        self._fusing = value == "fused"
        if not self._fusing:
            self._capture.mode = value

    @property
    def why_eager(self) -> str:
        return self._capture.why_eager

    def describe(self) -> str:
        """How steps are computed: layer by layer, or by the one kernel."""
        if self._fused is None:
            return describe(self._choices)
        return self._fused.describe() if self._fusing else f"{describe(self._choices)}; {self.why_not_fused}"

    def timings(self) -> list[dict[str, float | None]]:
        """Seconds of every way to compute each hidden layer, of which `describe` names those that were chosen."""
        with self._device.work(), self._buffers.filled():
            return timings(self._buffers, self.micro_batch)

    def _run(
        self, X: Array, y: Array, order: Array, start: int, stop: int, rates: np.ndarray[Any, Any] | None
    ) -> tuple[float, int]:
        net, backend, arena, device = self.net, self._backend, self._arena, self._device
        if not backend.is_array(X) and not isinstance(X, HostRows):
            raise TypeError(
                f"X must be an array of the {backend.name} engine, got {type(X).__module__}.{type(X).__name__}; see "
                "backend.asarray"
            )
        if not y.flags.c_contiguous or (y.ndim == 1 and y.dtype != np.int64):
            raise TypeError(
                f"y must be C-contiguous, and int64 where it holds classes, got shape {tuple(y.shape)} of {y.dtype}"
            )
        order = backend.asarray(order)
        end = min(stop * self.batch_size, order.shape[0])
        rows = end - min(start * self.batch_size, end)
        if not rows and not self.continues:
            self.hits = 0 if net._counts_hits(y) else None
            return 0.0, 0
        self._bind(X, y, self.weights)
        chosen = _numbers(backend.to_numpy(order[start * self.batch_size : end]), X.shape[0]) if self._feeder else None
        with device.work():
            if not self.continues:
                device.clear(arena["totals"])
            if self._buffers.low is not net.theta:  # theta may have been changed from outside
                self._buffers.kernels.round_theta(net.theta, self._buffers.low, arena["spans"])
            for first in range(start, stop, steps_per_upload(self.batch_size)):
                last = min(stop, first + steps_per_upload(self.batch_size))
                given = None if rates is None else rates[first - start : last - start]
                constants = update_constants(
                    self.optimizer,
                    self.optimizer.t + 1 + first - start,
                    last - first,
                    self.l2_per_row(X),
                    net.dtype,
                    given,
                )
                taken = order[first * self.batch_size : last * self.batch_size]
                self._upload(taken, constants, first)
                if chosen is None and self._fusing:
                    self._repeat_fused(*divmod(taken.shape[0], self.batch_size))
                elif chosen is None:
                    full, short = divmod(taken.shape[0], self.batch_size)
                    self._repeat(0, self.batch_size, full)
                    self._repeat(0, short, 1 if short else 0)
                else:
                    self._run_streamed(chosen[(first - start) * self.batch_size :][: taken.shape[0]])
            cost_sum, hits = (float(total) for total in backend.to_numpy(arena["totals"]))
        self.optimizer.t += stop - start
        self.hits = int(hits) if net._counts_hits(y) else None
        return cost_sum, rows

    def _upload(self, taken: Array, constants: np.ndarray[Any, Any], first: int) -> None:
        """What the next steps read: their row numbers and constants, where in the random numbers of the epoch they are,
        of which the next is step `first`, and that none of them has been done.
        """
        arena, device = self._arena, self._device
        device.copy(arena["order"][: taken.shape[0]], taken)
        device.upload(arena["constants"][: len(constants)], constants)
        device.upload(arena["drawn"], np.array([self.key, first], np.int64))
        if self.optimizer.clip_norm is not None:
            device.upload(arena["clip"], np.array([self.optimizer.clip_norm, 1.0]))
        device.clear(arena["step"])

    def _run_streamed(self, chosen: np.ndarray[Any, Any]) -> None:
        """Steps on these rows (any,) of the host: while one computes, the rows of the next are on their way."""
        feeder, batch = self._feeder, self.batch_size
        assert feeder is not None
        try:
            feeder.fetch(0, chosen[:batch])
            for step in range(self.steps(len(chosen))):
                buffer, following = step % 2, chosen[(step + 1) * batch : (step + 2) * batch]
                feeder.ready(buffer)
                self._repeat(buffer, min(batch, len(chosen) - step * batch), 1)
                feeder.done(buffer)
                if len(following):
                    feeder.fetch(1 - buffer, following)
        except BaseException:
            # a Ctrl-C: whoever drops this program gives memory back into which a copy may be under way
            feeder.settle()
            raise

    def _repeat(self, buffer: int, m: int, times: int) -> None:
        if m not in (0, self.batch_size, self._short):
            for replay in self._replays:  # short steps share a table on the device
                replay.forget_short()
            self._short = m
        self._replays[buffer].repeat(m, times)

    def _repeat_fused(self, full: int, short: int) -> None:
        """So many full steps, then one of so many rows, by the one kernel."""
        assert self._fused is not None
        X, y, weights, scale = self._data
        self._fused.repeat(X, y, weights, scale, self.batch_size, full)
        self._fused.repeat(X, y, weights, scale, short, 1 if short else 0)

    def fused_timings(self) -> dict[str, float]:
        """Seconds of a step by captured steps and by the one kernel in each of its ways; {} where that cannot be
        used.
        """
        if self._trials is None:
            return {}
        with self._device.work():
            return self._trials.seconds()

    @contextmanager
    def _bound(self, X: Array, y: Array) -> Iterator[None]:
        """Inside, steps are of these data; afterwards of none."""
        self._bind(X, y, None)
        try:
            yield
        finally:
            self._data, self._replays = (), []

    def _make_step(self, X: Array, m: int) -> Step:
        """A step of m rows of X, which is a buffer of the feeder where there is one."""
        _, y, weights, scale = self._data
        full, feeder = m == self.batch_size, self._feeder
        timed = {self.micro_batch} if full else set[int]()
        others = sorted({rows for _, rows in cut(m, self.micro_batch)} - timed)
        choices = offered(self._buffers, self._choices, others)
        own_order = None if feeder is None else (feeder.order, feeder.step)
        return Step(
            self._buffers, self.optimizer, X, y, self.batch_size, m, choices, scale,
            self._arena["tables"][0 if full else 1], own_order, weights,
        )  # fmt: skip

    def _bind(self, X: Array, y: Array, weights: Array | None) -> None:
        """Steps hold the addresses of the data: other data, other steps."""
        scale = self.scale if X.dtype.kind in "iu" else 1.0
        if (
            self._data
            and self._data[3] == scale
            and all(_same_memory(self._device, old, new) for old, new in zip(self._data, (X, y, weights), strict=False))
        ):
            return
        self._feeder = Feeder(self._device, X, self.batch_size) if isinstance(X, HostRows) else None
        self._data = (X, y, weights, scale)
        if self._feeder is not None and self._fusing and self._device.no_products is not None:
            self._capture.refused(self._device.no_products)  # not said yet: fused steps do without products
        sources = [X] if self._feeder is None else self._feeder.rows
        self._replays = [
            Replay(self._device, self._capture, functools.partial(self._make_step, source), self.batch_size)
            for source in sources
        ]


def _numbers(chosen: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """Row numbers, all of rows that are there."""
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < rows):
        raise ValueError(f"order must hold numbers 0..{rows - 1}, got {chosen.min()}..{chosen.max()}")
    return chosen


def _same_memory(device: Device, old: Array, new: Array) -> bool:
    if old is None or new is None or isinstance(old, HostRows) or isinstance(new, HostRows):
        return old is new
    return bool(device.address(old) == device.address(new) and old.shape == new.shape and old.dtype == new.dtype)


def plan_key(net: Network, batch: int, rows: int, rule: str = "") -> tuple[object, ...]:
    """What the choices of a program depend on, on one device; with the name of a rule, those that are for it alone:
    whether steps are fused.
    """
    return (
        net.sizes,
        tuple(g.name for g in (*net.hidden, net.output)),
        net.pair.code,
        net.dtype.name,
        net.precision,
        net.dropout,
        batch,
        rows,
        rule,
    )


def arithmetic(net: Network, device: Device) -> tuple[str, str]:
    """(kind of kernels, arithmetic of products) for the network's dtype and precision.

    Raises
    ------
    ValueError
        Reduced precision where the device has no products for it.
    """
    if net.precision != "fp32" and device.no_products is not None:
        raise ValueError(f"precision={net.precision!r} cannot be used: {device.no_products}; use precision='fp32'")
    return arithmetic_of(net)


def arithmetic_of(net: Network) -> tuple[str, str]:
    """The same, whatever the device has."""
    if net.precision == "bf16":
        return "bfloat16", "fp32"
    if net.precision == "tf32":
        return "float32", "tf32"
    return net.dtype.name, "fp64" if net.dtype == np.float64 else "fp32"


def footprint(net: Network, device: Device, batch: int, rows: int, optimizer: Optimizer | None) -> Pieces:
    """The memory of a program that computes `rows` rows of a batch at a time; with Adam if no optimizer is given."""
    kind, compute = arithmetic_of(net)
    rule = "adam" if optimizer is None else optimizer.name
    clips = optimizer is not None and optimizer.clip_norm is not None
    return pieces_of_program(
        net.sizes, rows, batch, kind, compute, rule, net.hidden, device.workspace_bytes, clips
    ) | pieces_of_narrow(net, device, batch, optimizer)


def rows_that_fit(net: Network, device: Device, batch: int, most: int, optimizer: Optimizer | None) -> int:
    """Rows of a batch to compute at a time: `most`, or equal parts of that where the device has not the memory.

    Raises
    ------
    MemoryError
        Not even one row fits; the message says what is needed and what is free.
    """
    slots, bound = (2, False) if optimizer is None else (len(optimizer.slots), bool(optimizer.state))
    vectors = 1 + slots + (0 if bound else slots)  # the rule's state; `fit` keeps a copy of theta and of that
    beside = vectors * net.layout.size * net.dtype.itemsize + device.reserve_bytes
    free = device.memory()[0]
    parts = 1
    while (needed := beside + Arena.size(footprint(net, device, batch, -(-most // parts), optimizer))) > free:
        if parts >= most:
            hint = "" if net.precision == "bf16" else "; precision='bf16' halves the activations"
            raise MemoryError(
                f"a training step of one row at a time needs {needed / 1e9:.3g} GB of device memory beside the data, "
                f"{free / 1e9:.3g} GB are free{hint}; a smaller network needs less"
            )
        parts = min(most, 2 * parts)
    return -(-most // parts)
