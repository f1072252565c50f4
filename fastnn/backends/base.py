"""The contract between a network and an engine.

Two levels: *operations*, small and stateless, on which trust rests; *programs*,
many training steps in the engine's own best form, on which speed rests. A program must produce
what the composition of operations produces.

Every public operation checks shapes, dtypes and devices once and calls the engine's `_operation`.
There is no fallback from one engine to another: what an engine cannot do, it refuses.

Shapes: m rows (examples), n_in inputs and n_out units of a layer, K units of the output layer.
All arrays of one call have one dtype, float32 or float64. Any strides are accepted; an engine may
copy an array that is not C-contiguous into one that is. `out` must be C-contiguous, is overwritten
and may not overlap an input, except in `activate`, where it may be z itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import activations, costs
from ..activations import Activation
from ..costs import Pair
from ..optimizers import Decaying, LayerWise
from .program import Array, Job, Program

if TYPE_CHECKING:
    from ..network import Network
    from ..optimizers import Optimizer

__all__ = ["FLOATS", "Array", "Backend", "Job", "Program", "Waiting"]

FLOATS = frozenset(map(np.dtype, ("float32", "float64")))


@dataclass
class Waiting:
    """Seconds spent on what later runs are spared."""

    seconds: float = 0.0


class Backend(ABC):
    """An engine: the four operations of the lecture, the output delta, array handling and `compile`."""

    name: ClassVar[str]
    # Which library multiplies matrices, and why that one; for people.
    products: str = ""
    # Options that `get_backend(name, ...)` passes to the constructor, and those that this engine was given.
    options: ClassVar[tuple[str, ...]] = ()
    given: Mapping[str, Any] = {}
    # Arithmetic of products (`precision`) that its programs know.
    precisions: ClassVar[frozenset[str]] = frozenset({"fp32"})
    # dtypes of X, beside the network's own, that its programs read without a converted copy; and whether they do so
    # with any strides, and not from C-contiguous arrays alone.
    reads: ClassVar[frozenset[str]] = frozenset()
    reads_strides: ClassVar[bool] = False
    # The same dtypes for `outputs`, which multiplies integers by `net.scale`; and whether it notices NaN and infinity.
    predicts: ClassVar[frozenset[str]] = frozenset()
    checks_outputs: ClassVar[bool] = False
    # Its arrays lie on a device that can be lost while the process lives on.
    loses_arrays: ClassVar[bool] = False
    # A context that `fit` enters for as long as it plans and runs.
    under_way: ClassVar[staticmethod[[], AbstractContextManager[Any]]] = staticmethod(nullcontext)

    # ---- the operations -------------------------------------------------------------------------

    def dense_forward(self, a: Array, W: Array, b: Array, out: Array | None = None) -> Array:
        """z = a W^T + b: (m, n_in), (n_out, n_in), (n_out,) -> (m, n_out). Overwrites `out`.

        Raises
        ------
        TypeError
            Not arrays of this engine, or dtypes that differ or are not float32/float64.
        ValueError
            Shapes that do not fit together.
        """
        self._check_arrays(a=(a, 2), W=(W, 2), b=(b, 1))
        self._check_shape("W", W, (W.shape[0], a.shape[1]))
        self._check_shape("b", b, (W.shape[0],))
        return self._dense_forward(a, W, b, self._out(out, (a.shape[0], W.shape[0]), a, W, b))

    def activate(self, activation: str | Activation, z: Array, out: Array | None = None) -> Array:
        """a = g(z), (m, n) -> (m, n). Overwrites `out`, which may be z itself."""
        g = activations.get(activation)
        self._check_arrays(z=(z, 2))
        if out is z:
            self._check_writable("out", z)
            return self._activate(g, z, z)
        return self._activate(g, z, self._out(out, z.shape, z))

    def output_delta(
        self, output: str | Activation, cost: str, z: Array, a: Array, y: Array, out: Array | None = None
    ) -> Array:
        """delta^(L) of the output layer, (m, K), without 1/m. Overwrites `out`.

        y: integer classes (m,), or (m, K) of z's dtype; see `fastnn.costs` for what each pair takes.
        """
        g, pair = self._output(output, cost, z, a, y)
        return self._output_delta(g, pair, z, a, y, self._out(out, z.shape, z, a, y))

    def cost_sum(
        self, output: str | Activation, cost: str, z: Array, a: Array, y: Array, weights: Array | None = None
    ) -> float:
        """Sum over rows of the cost, each times its weight (m,) where there are weights, without L2 and without 1/m,
        accumulated in float64. Synchronises.
        """
        _, pair = self._output(output, cost, z, a, y)
        if weights is not None:
            self._check_arrays(weights=(weights, 1), z=(z, 2))
            self._check_shape("weights", weights, (z.shape[0],))
        return self._cost_sum(pair, z, a, y, weights)

    def propagate_delta(
        self, delta: Array, W: Array, activation: str | Activation, z: Array, a: Array, out: Array | None = None
    ) -> Array:
        """delta^(l) = (delta^(l+1) W) * g'(z^(l)): (m, n_out), (n_out, n_in), z and a (m, n_in) -> (m, n_in).
        Overwrites `out`.
        """
        g = activations.get(activation)
        if g.output_only:
            raise ValueError(f"activation={g.name!r} is for the output layer only; its delta comes from output_delta")
        self._check_arrays(delta=(delta, 2), W=(W, 2), z=(z, 2), a=(a, 2))
        self._check_shape("W", W, (delta.shape[1], W.shape[1]))
        self._check_shape("z", z, (delta.shape[0], W.shape[1]))
        self._check_shape("a", a, z.shape)
        return self._propagate_delta(delta, W, g, z, a, self._out(out, z.shape, delta, W, z, a))

    def accumulate(self, Delta_W: Array, Delta_b: Array, delta: Array, a: Array) -> None:
        """Accumulates: Delta_W += delta^T a, Delta_b += column sums of delta; no 1/m.

        Delta_W (n_out, n_in) and Delta_b (n_out,) are C-contiguous and changed in place;
        delta (m, n_out), a (m, n_in).
        """
        self._check_arrays(Delta_W=(Delta_W, 2), Delta_b=(Delta_b, 1), delta=(delta, 2), a=(a, 2))
        self._check_shape("a", a, (delta.shape[0], a.shape[1]))
        self._check_shape("Delta_W", Delta_W, (delta.shape[1], a.shape[1]))
        self._check_shape("Delta_b", Delta_b, (delta.shape[1],))
        self._check_target("Delta_W", Delta_W, delta, a, Delta_b)
        self._check_target("Delta_b", Delta_b, delta, a)
        self._accumulate(Delta_W, Delta_b, delta, a)

    def update(self, optimizer: Optimizer, theta: Array, grad: Array) -> None:
        """One optimizer step: moves theta (P,) in place from the gradient (P,), advances the optimizer's state and
        t.
        """
        self._check_arrays(theta=(theta, 1), grad=(grad, 1))
        self._check_shape("grad", grad, theta.shape)
        self._check_target("theta", theta, grad)
        # A compiled update trusts these: a missing or short state would be written beyond its end.
        if [(s.shape, s.dtype) for s in optimizer.state] != [(theta.shape, theta.dtype)] * len(optimizer.slots):
            raise ValueError(
                f"optimizer={optimizer!r} holds no state for a theta of shape {tuple(theta.shape)} and {theta.dtype}; "
                "call its bind() first"
            )
        if (
            isinstance(optimizer, Decaying)
            and (isinstance(optimizer, LayerWise) or optimizer.weight_decay > 0)
            and (optimizer.spans is None or optimizer.spans[-1, -1] != theta.shape[0])
        ):
            raise ValueError(
                f"optimizer={optimizer!r} knows no layers of a theta of shape {tuple(theta.shape)}; call its bind() "
                "with a network of that layout first"
            )
        self._update(optimizer, theta, grad, optimizer.t + 1)
        optimizer.t += 1  # not where the update has failed

    def gradient(
        self,
        net: Network,
        X: Array,
        y: Array,
        order: Array,
        weights: Array | None,
        l2: float,
        micro_batch: int | None = None,
        scale: float = 1.0,
    ) -> tuple[float, Array, int | None] | None:
        """J, D (P,) and the number of rows that are right (None for values) over the rows `order` (m,) int64 of X and
        y, or None where the engine has no faster way than its operations one by one (fastnn/backpropagation.py).

        X : (n, s_1), of a dtype that programs read, integers times `scale`; y : (n,) int64 classes or (n, K)
        weights : (n,), factors of the rows' costs; l2 : lambda / n of the L2 term, part of J and D
        Nothing is validated, neither ranges nor types: the caller has done so.
        """
        return self._gradient(net, X, y, order, weights, l2, micro_batch, scale)

    def _gradient(self, net: Network, *rows: Any) -> tuple[float, Array, int | None] | None:
        """The same, all arguments by position."""
        return None

    def times_derivative(self, delta: Array, activation: Activation, z: Array, a: Array) -> Array:
        """delta * g'(z), (m, n), a fresh array, from z, a = g(z) and delta, all (m, n), contiguous and of one dtype, on
        the engine's device. For outputs but softmax, whose g'(z) is known from a. Nothing is validated.
        """
        return self._times_derivative(delta, activation, z, a)

    def gradient_of_deltas(self, net: Network, X: Array, delta: Array) -> Array | None:
        """The sum over the rows of delta^(L) dz^(L)/dTheta, (P,), a fresh vector, or None where the engine has no
        faster way than its operations one by one.

        X : (m, s_1), delta : (m, K), of the network's dtype, on the engine's device; nothing is validated
        """
        return self._gradient_of_deltas(net, X, delta)

    def _gradient_of_deltas(self, net: Network, X: Array, delta: Array) -> Array | None:
        """The same."""
        return None

    def flush_subnormals(self, *vectors: Array) -> None:  # noqa: B027
        """`fit` calls it after each epoch with what it has moved: numbers too small to be normal become 0 where
        arithmetic on them is slow and steps leave them (kernels/cpu/subnormal.py).
        """

    def compile(
        self,
        net: Network,
        optimizer: Optimizer,
        batch_size: int,
        micro_batch: int | None = None,
        training_rows: int | None = None,
        data_dtype: Any = None,
    ) -> Program:
        """`program_for` a `Job` of these, where the arguments and their errors are documented."""
        return self.program_for(Job(net, optimizer, batch_size, micro_batch, training_rows, data_dtype))

    @abstractmethod
    def program_for(self, job: Job) -> Program:
        """This engine's program for the job; binds the optimizer to the network. ValueError or TypeError where the
        engine cannot do it, MemoryError where it has not the room.
        """

    def outputs(self, net: Network, x: Array, activated: bool = True) -> Array | None:
        """a^(L) (m, K), or z^(L) if not `activated`, a fresh array, of rows x (m, s_1): C-contiguous, of the network's
        dtype or one that it `predicts`, on this engine.

        None if x holds NaN or infinity and the engine notices; else what the operations give. Nothing is validated,
        so an engine with something better than their composition overrides this method itself.
        """
        a = x
        for layer, (W, b, g) in enumerate(zip(net.weights, net.biases, net.activations, strict=True), 1):
            z = self.dense_forward(a, W, b)
            a = self.activate(g, z, out=z) if activated or layer < len(net.activations) else z
        return a

    def warming_rows(self, net: Network) -> list[int]:
        """So many rows at a time that every way in which `outputs` predicts them is taken."""
        return [1, 2]

    @classmethod
    def predicts_kind(cls, x: Any) -> bool:
        """Whether `outputs` takes the numbers of this array of NumPy as they are."""
        return x.dtype.name in cls.predicts and bool(x.dtype.isnative) and bool(x.flags.aligned)

    @abstractmethod
    def plan(self, job: Job, explain: bool = False) -> str:
        """One sentence: how a program of this engine would run the steps; with `explain` several lines: why."""

    def announcing(self, say: Callable[[str], None]) -> AbstractContextManager[Waiting]:
        """Inside, `say` is told of a wait that happens once, such as a compilation, when it begins; its seconds are
        counted in what is yielded.
        """
        return nullcontext(Waiting())

    # ---- arrays ---------------------------------------------------------------------------------

    @abstractmethod
    def is_array(self, x: object) -> bool:
        """Whether x is an array that lies where this engine computes."""

    @abstractmethod
    def adopt(self, argument: str, x: Any) -> Any:
        """x, or an array over its memory if any library has it on this engine's device; TypeError or ValueError if
        on another, or with strides.
        """

    @abstractmethod
    def as_rows(self, x: Any, beside: int) -> Array:
        """x (m, n), C-contiguous, as programs read it: on the engine; or on the host, if the engine lacks the memory
        for x and `beside` bytes more.
        """

    @abstractmethod
    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """x as a C-contiguous array of this engine; a copy only if it is not one already."""

    @abstractmethod
    def to_numpy(self, x: Array) -> np.ndarray[Any, Any]:
        """x as a NumPy array, complete when this returns; x itself where the engine computes in NumPy arrays."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A zero array of this engine."""

    @abstractmethod
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array of this engine with undefined content."""

    @abstractmethod
    def copyto(self, target: Array, source: Array) -> None:
        """Overwrites target (in place) with source, both of this engine and of one shape and dtype."""

    @abstractmethod
    def concatenate(self, parts: list[Array]) -> Array:
        """The rows of several arrays of this engine below each other, a fresh array."""

    @abstractmethod
    def sum_of_squares(self, x: Array) -> float:
        """Sum of x^2 over all elements, accumulated in float64. Synchronises."""

    @abstractmethod
    def all_finite(self, x: Array) -> bool:
        """Whether no element is infinite or NaN. Synchronises."""

    @abstractmethod
    def synchronize(self) -> None:
        """Returns when everything asked of the engine so far is done."""

    # ---- what an engine writes ------------------------------------------------------------------

    @abstractmethod
    def _dense_forward(self, a: Array, W: Array, b: Array, out: Array) -> Array: ...

    @abstractmethod
    def _activate(self, activation: Activation, z: Array, out: Array) -> Array: ...

    @abstractmethod
    def _output_delta(self, activation: Activation, pair: Pair, z: Array, a: Array, y: Array, out: Array) -> Array: ...

    @abstractmethod
    def _cost_sum(self, pair: Pair, z: Array, a: Array, y: Array, weights: Array | None) -> float: ...

    @abstractmethod
    def _propagate_delta(
        self, delta: Array, W: Array, activation: Activation, z: Array, a: Array, out: Array
    ) -> Array: ...

    @abstractmethod
    def _times_derivative(self, delta: Array, activation: Activation, z: Array, a: Array) -> Array: ...

    @abstractmethod
    def _accumulate(self, Delta_W: Array, Delta_b: Array, delta: Array, a: Array) -> None: ...

    @abstractmethod
    def _update(self, optimizer: Optimizer, theta: Array, grad: Array, t: int) -> None: ...

    # ---- checks shared by all engines -----------------------------------------------------------

    def _check_arrays(self, **arrays: tuple[Any, int]) -> None:
        """Each (array, ndim) is an array of this engine with that many dimensions; all have one float dtype."""
        first = ""
        for name, (x, ndim) in arrays.items():
            if not self.is_array(x):
                raise TypeError(
                    f"{name} must be an array of the {self.name} engine, got {type(x).__module__}.{type(x).__name__}; "
                    "see backend.asarray"
                )
            if x.ndim != ndim:
                raise ValueError(
                    f"{name} must have {ndim} dimension{'s' if ndim > 1 else ''}, got shape {tuple(x.shape)}"
                )
            if x.dtype not in FLOATS:  # of another byte order neither
                raise TypeError(f"{name} must be float32 or float64 in native byte order, got {x.dtype}")
            first = first or name
            if x.dtype != arrays[first][0].dtype:
                raise TypeError(
                    f"{name} is {x.dtype} but {first} is {arrays[first][0].dtype}; the operations take one dtype"
                )

    def _check_shape(self, name: str, x: Array, shape: tuple[int, ...]) -> None:
        if tuple(x.shape) != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)} beside the other arguments, got {tuple(x.shape)}")

    def _check_target(self, name: str, target: Array, *inputs: Array) -> None:
        """A target written in place is writable, C-contiguous and does not overlap an input."""
        self._check_writable(name, target)
        if not target.flags.c_contiguous:
            raise ValueError(
                f"{name} must be C-contiguous, got shape {tuple(target.shape)} with strides {target.strides}"
            )
        if any(self._overlap(target, x) for x in inputs):
            raise ValueError(f"{name} overlaps an input in memory; give it memory of its own")

    def _check_writable(self, name: str, target: Array) -> None:
        if not getattr(target.flags, "writeable", True):  # device arrays have no such flag
            raise ValueError(f"{name} is read-only")

    def _out(self, out: Array | None, shape: tuple[int, ...], *inputs: Array) -> Array:
        if out is None:
            return self.empty(tuple(shape), inputs[0].dtype)
        self._check_arrays(out=(out, 2), input=(inputs[0], 2))
        self._check_shape("out", out, shape)
        self._check_target("out", out, *inputs)
        return out

    def _overlap(self, x: Array, y: Array) -> bool:
        return bool(np.may_share_memory(x, y))

    def _output(self, output: str | Activation, cost: str, z: Array, a: Array, y: Array) -> tuple[Activation, Pair]:
        g = activations.get(output, "output")
        pair = costs.pair(g, cost)
        self._check_arrays(z=(z, 2), a=(a, 2))
        self._check_shape("a", a, z.shape)
        self.check_targets(pair, y, z.shape[0], z.shape[1], z.dtype)
        if y.ndim == 1:
            self._check_classes(y, z.shape[1])
        return g, pair

    def check_targets(self, pair: Pair, y: Array, m: int, K: int, dtype: Any) -> None:
        """y is (m,) integer classes or (m, K) values of the dtype, whichever the pair takes.

        Raises
        ------
        TypeError, ValueError
            y is not an array of this engine, or its dtype or shape does not fit.
        """
        if not self.is_array(y):
            raise TypeError(
                f"y must be an array of the {self.name} engine, got {type(y).__module__}.{type(y).__name__}; see "
                "backend.asarray"
            )
        classes = y.ndim == 1 and y.dtype.kind in "iu"
        if classes and pair.targets not in ("probabilities", "numbers", "counts"):
            if y.shape[0] != m:
                raise ValueError(f"y must have one class per row, shape ({m},), got {tuple(y.shape)}")
            return
        if pair.targets == "classes" and (y.ndim != 2 or y.dtype.kind in "iu"):
            raise TypeError(
                f"y must be integer classes of shape ({m},), or probabilities ({m}, {K}), for softmax with "
                f"cross_entropy, got shape {tuple(y.shape)} of {y.dtype}"
            )
        if tuple(y.shape) != (m, K) or y.dtype != dtype:
            raise ValueError(f"y must be ({m}, {K}) of {dtype}, got shape {tuple(y.shape)} of {y.dtype}")

    def _check_classes(self, y: Array, K: int) -> None:
        """Classes lie in 0..K-1. Synchronises; programs check once per fit instead."""
        if y.shape[0] and not (int(y.min()) >= 0 and int(y.max()) < K):
            raise ValueError(f"y must hold classes 0..{K - 1}, got {int(y.min())}..{int(y.max())}")
