"""What all update rules have in common: a learning rate, constants, a state bound to one network, and a lock."""

from __future__ import annotations

import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .constant import Constant
from .errors import finite_number
from .fit_lock import FitLock
from .schedules import Schedule, first_rate, get, is_function

__all__ = ["Optimizer"]

Array = NDArray[Any]


class Optimizer:
    """An update rule with its hyper-parameters and, once bound to a network, its state.

    An instance keeps its state over several fits of the same network; `reset()` forgets it. A copy, also by pickle, has
    the constants and no state, and belongs to no network, unless the network is copied by the same pickle or deepcopy:
    then the one trains the other, as copy.deepcopy((net, rule)). `net.save(path, optimizer=rule)` keeps both too.

    Attributes
    ----------
    learning_rate : float or Schedule
        alpha > 0, or its course (fastnn.schedules); set to a function epoch -> rate, it becomes one.
    rate : float
        alpha of the next step: `learning_rate` itself, or what the schedule says where training is; programs keep it.
    clip_norm : float or None
        A gradient that is longer (Euclidean norm of D, L2 term and biases included, summed in float64) is scaled to
        that length before the step. R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
        networks", 2013, arXiv:1211.5063, algorithm 1.
    slots : tuple of str
        Names of the state vectors.
    state : list of arrays
        One vector like theta per slot, on the network's device; empty until bound.
    t : int
        Steps taken.
    in_use : FitLock
        Held by the fit that trains by this instance, if it has a state.
    first_epoch : int
        Epochs its network had been trained when it began: from there a schedule counts.
    """

    name: ClassVar[str]
    code: ClassVar[int]
    slots: ClassVar[tuple[str, ...]] = ()
    _own: ClassVar[frozenset[str]] = frozenset(
        {"_learning_rate", "_left", "_owner", "_rate", "first_epoch", "in_use", "state", "t"}
    )

    clip_norm = Constant(above=0, optional=True)
    _left = 0  # steps after which this copy was made alone, and left the state behind

    def __init__(self, learning_rate: float | Schedule, clip_norm: float | None = None) -> None:
        self.learning_rate, self.clip_norm = learning_rate, clip_norm
        self.state: list[Any] = []
        self.t = self.first_epoch = 0
        self._owner: weakref.ref[Any] | None = None
        self.in_use = FitLock()

    def __setattr__(self, name: str, value: Any) -> None:
        own_class = type(self).__module__ != "fastnn.optimizers"  # which may have more
        if not own_class and name not in self._own and not hasattr(type(self), name):
            known = sorted({"learning_rate", "rate", *self.constants()})
            raise AttributeError(
                f"{type(self).__name__} has no {name!r} to be set; it has {', '.join(known)}", name=name, obj=self
            )
        super().__setattr__(name, value)

    @classmethod
    def constants(cls) -> tuple[str, ...]:
        """Names of the rule's constants besides the rate."""
        return tuple(name for base in cls.__mro__ for name, value in vars(base).items() if isinstance(value, Constant))

    @property
    def learning_rate(self) -> float | Schedule:
        """alpha > 0 or a schedule; may be set between epochs, for example by a callback."""
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | Schedule) -> None:
        if isinstance(value, Schedule) or is_function(value):
            schedule = get(value)
            self._rate = first_rate(schedule)
            self._learning_rate: float | Schedule = schedule
        else:
            self._learning_rate = self._rate = finite_number(
                "learning_rate", value, above=0, also="a schedule (fastnn.schedules) or a function epoch -> rate"
            )

    @property
    def rate(self) -> float:
        """alpha of the next step: `learning_rate` if that is a number; with a schedule the rate of the last step, or of
        the first if none has been taken. Setting it sets `learning_rate`; with a schedule it sets (>= 0) only the rate
        that `Network.step` uses.
        """
        return self._rate

    @rate.setter
    def rate(self, value: float) -> None:
        if isinstance(self.learning_rate, Schedule):
            self._rate = finite_number("rate", value, least=0)
        else:
            self.learning_rate = value

    def took(self, rate: float) -> None:
        """Record the rate of the last step, which a schedule gave; programs call this."""
        self._rate = rate

    def hyper(self) -> tuple[float, ...]:
        """The constants of the rule in the order its kernels read them; the rate of the next step first."""
        return (self.rate,)

    def step(self, theta: Array, grad: Array, state: Sequence[Array], t: int) -> None:
        """Move theta (in place) by step number t from the gradient; updates the state vectors in place.

        theta, grad, state[k]: (P,), one dtype. `grad` is left as it was.
        """
        raise NotImplementedError

    def held(self) -> AbstractContextManager[Any]:
        """Inside, no other fit or step moves its state, if it has one; RuntimeError where one does at this moment."""
        return (
            nullcontext()
            if not self.slots
            else self.in_use.held(
                lambda: (
                    f"optimizer={self!r} trains another network at this moment, in another thread or in the fit that "
                    "called this one from a callback; give each network an instance of its own"
                )
            )
        )

    def clipped(self, grad: Array) -> Array:
        """The gradient (P,) itself, or scaled to the length `clip_norm`, a fresh array."""
        if self.clip_norm is None:
            return grad
        largest = float(np.abs(grad).max(initial=0)) or 1.0  # by which squares cannot overflow
        norm = largest * float(np.sqrt(np.sum(np.square(grad / largest, dtype=np.float64))))
        return grad * grad.dtype.type(self.clip_norm / norm) if norm > self.clip_norm else grad

    def bind(self, owner: Any, zeros: Callable[[], Any]) -> None:
        """Attach to `owner` (a network, or what else has parameters), making zero state vectors unless it is attached
        to it already.

        Raises
        ------
        ValueError
            The instance carries the state of another network.
        """
        if self.belongs_to(owner):
            if not self.t:
                self.first_epoch = _epochs(owner)
            return
        if self.t and self.slots:
            # a rule without state, gradient descent, may serve one network after another
            raise ValueError(
                f"optimizer={self!r} carries the state of another network; give a fresh instance, or call reset() first"
            )
        self._warn_of_what_is_left()
        if self._owner is not None:
            self.t = 0
        self.state, self.first_epoch = [zeros() for _ in self.slots], _epochs(owner)
        self._owner = weakref.ref(owner)

    def parts(self) -> Iterator[tuple[slice, float]]:
        """Parts of theta, each with the rule's own weight decay: all of it, with none."""
        yield slice(None), 0.0

    def began(self, owner: Any) -> int:
        """The epoch of this network's life from which the schedule of a fit that begins now counts: where the rule
        made its first step, or the next, if it has made none.
        """
        now = _epochs(owner)
        return min(self.first_epoch, now) if self.belongs_to(owner) and self.t else now

    def lost(self, owner: Any) -> bool:
        """Whether it has been reset, or has gone to another network, since it was attached to this one; a rule without
        a state loses nothing.
        """
        return bool(self.slots) and not self.belongs_to(owner)

    def belongs_to(self, owner: Any) -> bool:
        """Whether it is attached to this network."""
        return self._owner is not None and self._owner() is owner

    def reset(self) -> None:
        """Forget the state and the network."""
        self.state, self.t, self.first_epoch, self._owner, self._left = [], 0, 0, None, 0

    def _warn_of_what_is_left(self) -> None:
        """Once, where a copy that has lost a state begins to train."""
        if left := self._left:
            self._left = 0
            warnings.warn(
                f"the copy {self!r} begins anew: the state after {left} steps has stayed with the network that they "
                "trained. copy.deepcopy((net, rule)) and pickle.dumps((net, rule)) keep both, and net.save(path, "
                "optimizer=rule) with fastnn.resume(path)",
                UserWarning,
                stacklevel=_levels_to_the_caller(),
            )

    def __getstate__(self) -> dict[str, Any]:
        # A weak reference cannot be pickled, and the copy belongs to no network unless that is copied with it.
        left = self.t if self.t and self.slots else self._left
        state = {**self.__dict__, "_owner": None, "state": [], "t": 0, "first_epoch": 0, "in_use": FitLock()}
        state["_left"] = left
        net = None if self._owner is None else self._owner()
        link = getattr(net, "_link", None)
        if self.t and net is not None and link is not None and not _trained_elsewhere(net):
            vectors = [np.array(net.backend.to_numpy(vector)) for vector in self.state]
            state["_twin"] = link, vectors, self.t, self.first_epoch
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        twin = state.pop("_twin", None)
        self.__dict__.update(state)
        if twin is not None and not twin[0].original:  # of copy.copy it is the same Link
            link, *carried = twin
            link.when_there(self, partial(_join, carried))

    def __repr__(self) -> str:
        rate = self.learning_rate
        constants = [
            f"{rate!r}" if isinstance(rate, Schedule) else f"{rate:g}",
            *(f"{value:g}" for value in self.hyper()[1:]),
            *([] if self.clip_norm is None else [f"clip_norm={self.clip_norm:g}"]),
        ]
        return f"{type(self).__name__}({', '.join(constants)})"


def _epochs(owner: Any) -> int:
    """How many epochs the owner has been trained; 0 if it does not count them."""
    return int(getattr(owner, "epochs_trained", 0))


def _join(carried: list[Any], rule: Optimizer, net: Any) -> None:
    """The copy of a rule takes up what its original had, beside the copy of that one's network."""
    vectors, t, first_epoch = carried
    rule._left = 0
    rule.bind(net, lambda: net.backend.zeros(net.theta.shape, net.dtype))
    for place, vector in zip(rule.state, vectors, strict=True):
        net.backend.copyto(place, net.backend.asarray(vector))
    rule.t, rule.first_epoch = t, first_epoch


def _trained_elsewhere(net: Any) -> bool:
    """By another thread at this moment, so that its state would be torn."""
    return bool(net._training.busy()) and net._training.holder != threading.get_ident()


def _levels_to_the_caller() -> int:
    """`stacklevel` of the first line outside fastnn, for a warning of the function that calls this one."""
    frame, level, package = sys._getframe(1), 1, __name__.partition(".")[0]
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level
