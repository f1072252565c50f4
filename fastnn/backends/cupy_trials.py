"""Whether the kernel of narrow nets (cupy_narrow.py) pays: steps by it and captured steps, timed beside each other
on the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .cupy_arena import Arena, steps_per_upload
from .cupy_contract import Device
from .cupy_narrow import TRIAL_ROWS, TRIAL_STEPS, WAYS, Fused
from .cupy_products import Candidate
from .cupy_tuner import Tuner
from .cupy_update import update_constants

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer

__all__ = ["CAPTURED", "Trials"]

Array = Any
CAPTURED = "captured steps"  # as they are named beside fused ones


class Trials:
    """Steps of one program on some rows of random numbers; inside `Device.work`.

    Parameters
    ----------
    batch, parts : int
        Rows of a step, and computed at a time where it is captured.
    l2 : float
        lambda / n, as the steps take it.
    bound : callable
        X, y -> a context inside which the program's steps are bound to these data.
    captured : callable
        Asks for so many of the program's steps, captured.
    """

    def __init__(
        self,
        net: Network,
        device: Device,
        arena: Arena,
        optimizer: Optimizer,
        batch: int,
        parts: int,
        l2: float,
        fused: Fused,
        bound: Callable[[Array, Array], AbstractContextManager[None]],
        captured: Callable[[int], None],
    ) -> None:
        self._net, self._device, self._arena, self._optimizer = net, device, arena, optimizer
        self._batch, self._parts, self._fused, self._bound, self._captured = batch, parts, fused, bound, captured
        self._l2 = l2
        self._steps = min(TRIAL_STEPS, steps_per_upload(batch))

    def fused_is_faster(self, tuner: Tuner, *, forced: bool) -> bool:
        """Whether the one kernel is to be used, always where `forced`; its fastest way is set. Timed once for each
        shape, rule and device.
        """
        net, g = self._net, (*self._net.hidden, self._net.output)
        work = (
            f"steps of {net.sizes} {' '.join(map(str, g))} {net.pair.code} {self._optimizer.name} {net.dtype} batch "
            f"{self._batch} parts {self._parts}, {self._fused.part}"
        )
        with self._prepared():
            candidates = [
                Candidate(name, call) for name, call in self._ways().items() if not (forced and name == CAPTURED)
            ]
            # captured steps are graphs already, and each call takes sixteen steps
            winner, _ = tuner.best(f"{work}{', fused alone' if forced else ''}", candidates, recorded=False)
        if winner.name == CAPTURED:
            return False
        self._fused.way = next(way for way in WAYS if _name(way) == winner.name)
        return True

    def seconds(self) -> dict[str, float]:
        """Of a step in every way."""
        way = self._fused.way
        with self._prepared():
            found = {
                name: self._device.seconds(call, recorded=False) / self._steps for name, call in self._ways().items()
            }
        self._fused.way = way
        return found

    def _ways(self) -> dict[str, Callable[[], None]]:
        """The same steps by graphs, and by the one kernel in each of its ways."""
        arena, device = self._arena, self._device

        def captured() -> None:
            device.clear(arena["step"])
            self._captured(self._steps)

        def by(way: int) -> None:
            device.clear(arena["step"])
            self._fused.way = way
            self._fused.repeat(arena["trial_X"], arena["trial_y"], None, 1.0, self._batch, self._steps)

        return {CAPTURED: captured, **{_name(way): functools.partial(by, way) for way in WAYS}}

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Inside, steps may be tried: theta and the rule's state are as before afterwards, and no data are bound."""
        arena, device, net, rule = self._arena, self._device, self._net, self._optimizer
        vectors = [net.theta, *rule.state]
        for kept, vector in zip(arena["trial_kept"], vectors, strict=True):
            device.copy(kept, vector)
        device.upload(arena["order"], np.arange(arena["order"].shape[0]) % TRIAL_ROWS)
        numbers = np.random.default_rng(0).standard_normal(arena["trial_X"].shape)
        device.upload(arena["trial_X"], numbers.astype(arena["trial_X"].dtype))
        device.upload(
            arena["constants"][: self._steps], update_constants(rule, rule.t + 1, self._steps, self._l2, net.dtype)
        )
        try:
            with self._bound(arena["trial_X"], arena["trial_y"]):
                yield
        finally:
            for kept, vector in zip(arena["trial_kept"], vectors, strict=True):
                device.copy(vector, kept)


def _name(way: int) -> str:
    return f"fused steps, {way} threads"
