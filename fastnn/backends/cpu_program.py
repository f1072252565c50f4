"""What the programs of the CPU engine have in common: arguments for compiled code, checked first, a team, and
what it adds up.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ..dropout import limit_of, scale_of
from ..kernels.cpu import entry
from ..kernels.cpu.codes import GIVEN, GRADIENT
from ..kernels.cpu.gather import reader, source_of
from ..kernels.cpu.subnormal import as_zero
from ..kernels.cpu.workspace import Data, Rule, Run, read_only
from .base import Array, Job, Program
from .cpu_plan import Plan
from .cpu_threads import usable_threads
from .host import aligned

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer
    from .numba_backend import NumbaBackend

__all__ = [
    "Steps",
    "TeamProgram",
    "any_of_z",
    "check_range",
    "dropout_of",
    "hyper_rows",
    "no_dropout",
    "slopes_of",
    "states_of",
    "targets_of",
    "two_states",
    "weights_of",
]

NO_CONSTANTS = np.zeros((1, 1))


def check_range(argument: str, numbers: Array, end: int) -> None:
    """A stray number would read another array's memory.

    Raises
    ------
    ValueError
        Some number is not one of 0..end - 1.
    """
    if numbers.shape[0] and not (numbers.min() >= 0 and numbers.max() < end):
        raise ValueError(f"{argument} must hold numbers 0..{end - 1}, got {numbers.min()}..{numbers.max()}")


def targets_of(y: Array, K: int, dtype: Any) -> tuple[Array, Array, bool]:
    """(classes (m,) int64, values (m, K), by_class) as kernels take them; the one that is not used is empty."""
    if y.ndim == 1:
        return np.ascontiguousarray(y, np.int64), np.empty((0, K), dtype), True
    return np.empty(0, np.int64), np.ascontiguousarray(y), False


def weights_of(weights: Array | None, dtype: Any) -> Array:
    """(m,), or (0,) for none, as kernels take them."""
    return np.empty(0, dtype) if weights is None else np.ascontiguousarray(weights)


def dropout_of(net: Network) -> dict[str, Array]:
    """limits, kept and scales of layers 2..L, as `Shape` has them."""
    rates = [*net.dropout, 0.0]
    return {
        "limits": np.array([limit_of(rate) for rate in rates], np.int64),
        "kept": np.array([1 - rate for rate in rates], net.dtype),
        "scales": np.array([scale_of(rate) for rate in rates], net.dtype),
    }


def no_dropout(net: Network) -> dict[str, Array]:
    """The same of a network that leaves no unit out."""
    layers = len(net.sizes) - 1
    return {
        "limits": np.full(layers, limit_of(0.0), np.int64),
        "kept": np.ones(layers, net.dtype),
        "scales": np.full(layers, scale_of(0.0), net.dtype),
    }


def hyper_rows(optimizer: Optimizer, rates: Array | None) -> Array:
    """The rule's constants, (1, constants) for all steps; with a rate per step a row for each."""
    rows = np.tile(np.array(optimizer.hyper()), (1 if rates is None else max(1, rates.shape[0]), 1))
    if rates is not None:
        rows[: rates.shape[0], 0] = rates
    return rows


def any_of_z(net: Network) -> bool:
    """Whether a hidden layer's g'(z) is not known from its activations, so that programs keep it beside them."""
    return any(g.of_z for g in net.hidden)


def slopes_of(net: Network) -> Array:
    """The parameters of the activations, of which the last is the cost's where it has one."""
    slopes = [g.parameter for g in net.activations]
    if net.pair.parameter is not None:  # the output is the identity, which needs none
        slopes[-1] = net.pair.parameter
    return np.array(slopes, net.dtype)


def two_states(states: list[Array], dtype: Any) -> tuple[Array, Array]:
    """The optimizer's state vectors; an empty one stands for each that its rule does not have."""
    empty = np.empty(0, dtype)
    first, second = [*states, empty, empty][:2]
    return first, second


def states_of(rule: Optimizer, theta: Array) -> list[Array]:
    """The rule's state vectors, read once: kernels find them by address, and another thread might reset the rule.

    Raises
    ------
    ValueError
        They are not what the rule has for such a theta.
    """
    states = list(rule.state)
    if len(states) != len(rule.slots) or not all(
        isinstance(state, np.ndarray)
        and (state.shape, state.dtype) == (theta.shape, theta.dtype)
        and state.flags.c_contiguous
        and state.flags.writeable
        for state in states
    ):
        raise ValueError(
            f"optimizer={rule!r} holds no state for a theta of shape {theta.shape} and {theta.dtype}: its `state` must "
            f"be {len(rule.slots)} such vectors, which can be written; a rule is for one network at a time, and "
            "rule.reset() between two fits begins anew"
        )
    return states


class Steps(NamedTuple):
    """Steps start..stop over the rows of X and y in this order, as `Program.run` takes them."""

    X: Array
    y: Array
    order: Array
    start: int
    stop: int


class TeamProgram(Program):
    """A program that a team of threads runs as planned. Member i adds cost and hits up in elements 16 i of `_costs`
    and `_hits`.
    """

    _worker: Any  # the compiled program
    _again: Any = None  # the same for arguments made like those of a call before
    _shape: Any  # what it is told of the network, a named tuple

    def __init__(self, job: Job, plan: Plan) -> None:
        super().__init__(job)
        self.plan = plan.with_rows_at_most(self.micro_batch)
        self._made_for = self._needs(job, plan)
        self._fixed = "threads" in job.net.backend.given
        self._no_targets = [
            read_only(empty) for empty in (np.empty(0, np.int64), np.empty((0, job.net.sizes[-1]), job.net.dtype))
        ]
        self._no_weights = read_only(weights_of(None, job.net.dtype))
        self._costs, self._hits = np.zeros(16 * plan.threads), np.zeros(16 * plan.threads, np.int64)

    @staticmethod
    def _needs(job: Job, plan: Plan) -> tuple[Any, ...]:
        """All that the workspace and the kernels' constant arguments were made from, but the optimizer."""
        net = job.net
        return (
            id(net.backend),
            id(net.theta),
            tuple(net.activations),
            net.pair,
            net.dropout,
            job.batch_size,
            job.micro_batch,
            job.training_rows,
            plan,
        )

    def _run(self, X: Array, y: Array, order: Array, start: int, stop: int, rates: Array | None) -> tuple[float, int]:
        theta = self.net.theta
        check_range("order", order[start * self.batch_size : stop * self.batch_size], X.shape[0])
        if y.ndim == 1:
            check_range("y", y, self.net.sizes[-1])
        steps = Steps(X, y, order, start, stop)
        return self._run_on(theta, states_of(self.optimizer, theta), self._rule(X, rates), steps)

    @abstractmethod
    def _run_on(
        self, theta: Array, states: list[Array], rule: Rule, steps: Steps, D: Array | None = None
    ) -> tuple[float, int]:
        """As `run` by this rule; theta (P,) and its state vectors (P,) move. With D (P,) theta stays as it is, and what
        it would have become is written there. Row numbers and classes are not checked, and lead the kernels anywhere.
        """

    def leave_no_unit_out(self) -> None:
        """From now on all steps are without dropout."""
        self._shape = self._shape._replace(**no_dropout(self.net))

    def take_deltas(self) -> None:
        """From now on y are no targets but the deltas of the output layer, (n, K), and costs and hits are 0."""
        self._shape = self._shape._replace(pair=GIVEN)

    def gradient(self, X: Array, y: Array, order: Array, l2: float) -> tuple[float, Array]:
        """The cost's sum and D (P,), a fresh vector, over the rows `order` (batch_size,) of X and y; the optimizer has
        no part in it. l2: lambda / n. `hits` is set. Nothing is checked.
        """
        D = aligned(self.net.theta.shape, self.net.dtype)
        rule = Rule(GRADIENT, NO_CONSTANTS, 0, l2, 0.0)
        cost, _ = self._run_on(self.net.theta, [], rule, Steps(X, y, order, 0, 1), D)
        return cost, D

    def serves(self, job: Job) -> bool:
        if job.optimizer is not self.optimizer:
            return False
        return self._made_for == self._needs(job, cast("NumbaBackend", job.net.backend).choose(job))

    @functools.cached_property
    def nbytes(self) -> int:  # type: ignore[override]
        buffers: dict[int, int] = {}

        def count(x: Any) -> None:
            if isinstance(x, np.ndarray):
                buffers[id(x)] = x.nbytes
            elif isinstance(x, tuple):
                for part in x:
                    count(part)

        count(tuple(vars(self).values()))
        return sum(buffers.values())

    def _work(self, *arguments: Any) -> None:
        """One thread's call of the compiled program. Only the first looks at the types of all arguments."""
        with as_zero():
            if self._again is not None:
                self._again(*arguments)
                return
            self._worker(*arguments)
        self._again = entry(self._worker)

    def _team(self) -> int:
        """As many threads as planned; fewer while fits of other networks are under way. Members of the plan who
        stay away add nothing to the sums.
        """
        if not self.continues:
            self._costs[...] = 0
            self._hits[...] = 0
        planned = self.plan.threads
        return planned if self._fixed or planned == 1 else min(planned, usable_threads())

    def _arguments(self, steps: Steps, native: bool = False) -> tuple[Data, Run]:
        """What the kernels are told of the data and the steps. native: they use the rows of X where they lie."""
        net, (X, y, order, start, stop) = self.net, steps
        classes, values = self._no_targets
        if by_class := y.ndim == 1:
            classes = read_only(np.ascontiguousarray(y, np.int64))
        else:
            values = read_only(np.ascontiguousarray(y))
        weights = self._no_weights if self.weights is None else read_only(np.ascontiguousarray(self.weights))
        factor = net.dtype.type(self.scale if X.dtype.kind in "iu" else 1)
        read = 0 if native else reader(X.dtype, net.dtype)
        data = Data(source_of(X), read, native, factor, classes, values, by_class, weights)
        return data, Run(read_only(order), start, stop, self.batch_size, self._capacity(), self.key)

    @abstractmethod
    def _capacity(self) -> int:
        """Rows that the workspace holds at a time, see `Run`."""

    def _rule(self, X: Array, rates: Array | None) -> Rule:
        """What the kernels are told of the optimizer."""
        rule = self.optimizer
        return Rule(rule.code, hyper_rows(rule, rates), rule.t, float(self.l2_per_row(X)), float(rule.clip_norm or 0))

    def _finish(self, steps: Steps) -> tuple[float, int]:
        """Counts the steps; what `run` returns."""
        _, y, order, start, stop = steps
        self.optimizer.t += stop - start
        cost, hits = self._costs[0], self._hits[0]
        if self.plan.threads > 1:
            cost, hits = self._costs[::16].sum(), self._hits[::16].sum()
        self.hits = int(hits) if self.net._counts_hits(y) else None
        rows = min(stop * self.batch_size, order.shape[0]) - min(start * self.batch_size, order.shape[0])
        return float(cost), rows
