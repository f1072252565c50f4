"""Forward, backpropagation and the gradient: the composition of the engine's operations, in the order of the lecture,
all gradients before any parameter moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import checks, row_weights
from .dropout import Drawn
from .dropout import factors as drawn_factors
from .errors import positive_integer, unknown_name
from .optimizers import Optimizer, check_known

if TYPE_CHECKING:
    from .activations import Activation
    from .backends import Backend
    from .layout import Layout
    from .network import Network

__all__ = ["Backpropagation"]

OF = ("outputs", "logits")

Array = Any


class Backpropagation:
    """The forward and backward passes of `Network`; its attributes are documented there."""

    sizes: tuple[int, ...]
    hidden: tuple[Activation, ...]
    output: Activation
    cost: str
    l2: float
    dropout: tuple[float, ...]
    dtype: np.dtype[Any]
    layout: Layout
    backend: Backend
    theta: Array
    weights: Sequence[Array]
    biases: Sequence[Array]

    if TYPE_CHECKING:

        @property
        def activations(self) -> list[Activation]: ...
        def split(self, vector: Array) -> tuple[list[Array], list[Array]]: ...
        def _inputs(self, X: Any, first_row: int = 0, argument: str = "X") -> Array: ...
        def _targets(self, y: Any, m: int, argument: str = "y") -> Array: ...
        def _on_device(self, X: Any) -> bool: ...
        def _blocks(self, m: int) -> Iterator[slice]: ...
        def _evaluate(self, x: Array, y: Array, weights: Array | None = None) -> tuple[float, int | None]: ...

    def forward(self, X: Any) -> list[Array]:
        """[a^(1), ..., a^(L)], each (m, s_l), fresh arrays of the network's dtype; NumPy arrays for NumPy input, device
        arrays for device input.

        Raises
        ------
        TypeError, ValueError
            X is not what the network takes.
        """
        X = checks.numeric("X", X, self.backend)
        x, device = self._inputs(X), self._on_device(X)
        _, _, a = self._forward(x)
        if x is X or (isinstance(x, np.ndarray) and isinstance(X, np.ndarray) and np.may_share_memory(x, X)):
            a[0] = x.copy()  # a^(1) is the caller's otherwise
        return a if device else [self.backend.to_numpy(layer) for layer in a]

    def _forward(
        self, x: Array, factors: Sequence[Array | None] | None = None
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """z^(2..L), g(z^(2..L)) and a^(1..L) of the rows x, where a is g(z), of hidden layers times `factors`."""
        z: list[Array] = []
        g_of_z, a = [], [x]
        for W, b, g in zip(self.weights, self.biases, self.activations, strict=True):
            layer = len(z)
            z.append(self.backend.dense_forward(a[-1], W, b))
            g_of_z.append(self.backend.activate(g, z[-1]))
            factor = factors[layer] if factors is not None and layer < len(factors) else None
            a.append(g_of_z[-1] if factor is None else g_of_z[-1] * factor)
        return z, g_of_z, a

    def _dropped(self, drawn: Drawn, m: int) -> list[Array | None] | None:
        """For each hidden layer the factors (m, s_l) of its activations in a step with dropout, or None; None for all
        where nothing is left out.
        """
        if not any(self.dropout):
            return None
        return [
            self.backend.asarray(drawn_factors(p, drawn, layer, (m, n), self.dtype)) if p else None
            for layer, (p, n) in enumerate(zip(self.dropout, self.sizes[1:-1], strict=True))
        ]

    def _backpropagate(
        self,
        x: Array,
        y: Array,
        Delta: Array | None = None,
        weights: Array | None = None,
        factors: Sequence[Array | None] | None = None,
    ) -> tuple[float, Array, Array]:
        """Forward and backward over one batch. Accumulates into Delta; no 1/m, no L2, nothing else changed.

        Parameters
        ----------
        x : (m, s_1); y : (m,) int64 classes or (m, K); both already on the engine, of the network's dtype
        Delta : (P,), optional
            Running sums laid out as theta; zeros if not given.
        weights : (m,), optional
            Factor of each row's cost, and so of its delta; on the engine, of the network's dtype.
        factors : list, optional
            Of the activations of each hidden layer, as `_dropped` gives them; None takes units as they are.

        Returns
        -------
        cost_sum : float, Delta : (P,), h : (m, K)
            Sum of the rows' costs times their weights, Delta, and the outputs a^(L).
        """
        backend = self.backend
        if Delta is None:
            Delta = backend.zeros(self.theta.shape, self.dtype)
        Delta_W, Delta_b = self.split(Delta)
        z, g_of_z, a = self._forward(x, factors)
        cost_sum = backend.cost_sum(self.output, self.cost, z[-1], a[-1], y, weights)
        delta = backend.output_delta(self.output, self.cost, z[-1], a[-1], y)
        if weights is not None:
            delta *= weights[:, None]
        for layer, delta_above in self._deltas(delta, z, g_of_z, factors):
            backend.accumulate(Delta_W[layer], Delta_b[layer], delta_above, a[layer])
        return cost_sum, Delta, a[-1]

    def _deltas(
        self, delta: Array, z: list[Array], g_of_z: list[Array], factors: Sequence[Array | None] | None = None
    ) -> Iterator[tuple[int, Array]]:
        """From the delta of the output layer: each layer of weights, the last first, with the delta above it."""
        for layer in reversed(range(len(self.weights))):
            yield layer, delta
            if layer:  # there is no delta^(1)
                below = layer - 1
                delta = self.backend.propagate_delta(
                    delta, self.weights[layer], self.hidden[below], z[below], g_of_z[below]
                )
                if factors is not None and (factor := factors[below]) is not None:
                    delta *= factor

    def cost_and_gradient(
        self,
        X: Any,
        y: Any,
        *,
        micro_batch: int | None = None,
        sample_weight: Any = None,
        training_rows: int | None = None,
    ) -> tuple[float, Array]:
        """Mean cost over the rows, L2 included, and its gradient.

        J = cost_sum / m + lambda / (2 n) sum Theta^2 and D = Delta / m + (lambda / n) Theta off the
        biases, with m the rows passed and n = m (see fastnn.costs), or `training_rows`.

        Parameters
        ----------
        X : (m, s_1), y : targets (see `fit`)
        micro_batch : int, optional
            Rows processed at a time; Delta accumulates to the same result in less memory.
        sample_weight : (m,) or "balanced", optional
            As for `fit`: J = (sum w cost + lambda/2 sum Theta^2) / sum w.
        training_rows : int, optional
            n, where the rows passed are a batch of so many: `fit` spreads lambda over all of them. (Weights are divided
            by the mean of those passed, in `fit` by that of all rows.)

        Returns
        -------
        J : float
        D : (P,)
            A fresh vector laid out as theta, on the engine's device.

        Raises
        ------
        TypeError, ValueError
            X or y is not what the network takes.
        """
        x = self._inputs(X)
        targets, m = self._targets(y, x.shape[0]), x.shape[0]
        step = m if micro_batch is None else positive_integer("micro_batch", micro_batch)
        weights, total = row_weights.for_rows(sample_weight, cast("Network", self), targets)
        if training_rows is not None:
            total = positive_integer("training_rows", training_rows)
        of_program = self.backend.gradient(
            cast("Network", self), x, targets, np.arange(m), weights, self.l2 / total, micro_batch
        )
        return self._cost_and_gradient(x, targets, weights, total, step) if of_program is None else of_program[:2]

    def _cost_and_gradient(
        self, x: Array, targets: Array, weights: Array | None, total: float, step: int
    ) -> tuple[float, Array]:
        """The same of prepared rows by the engine's operations, `step` rows at a time."""
        m, cost_sum, Delta = x.shape[0], 0.0, None
        for start in range(0, m, step):
            part = slice(start, start + step)
            of_rows = None if weights is None else weights[part]
            of_part, Delta, _ = self._backpropagate(x[part], targets[part], Delta, of_rows)
            cost_sum += of_part
        assert Delta is not None
        Delta /= m
        self._add_l2_gradient(Delta, self.l2 / total)
        return cost_sum / m + self.l2 / (2 * total) * self._sum_of_squared_weights(), Delta

    def backward(self, X: Any, derivatives: Any, *, of: str = "outputs") -> Array:
        """Gradient of a cost of your own, from its derivatives by the outputs: the sum over rows i and outputs k of
        dJ/dh_ik dh_ik/dTheta.

        Parameters
        ----------
        X : (m, s_1)
        derivatives : (m, K), or (m,) with one output
            dJ/dh of the rows of X; where J is a mean, 1/m is in them.
        of : "outputs" or "logits"
            Whether J is a function of h = a^(L), as `forward`, `predict_proba`, and for identity outputs `predict`
            give it, or of z^(L), as `logits` does, which takes one pass less.

        Returns
        -------
        D : (P,)
            A fresh vector laid out as theta, on the engine's device, as `step` takes it: of J alone, without the L2
            term and with no unit left out. Not finite where products overflow.

        Raises
        ------
        TypeError, ValueError
            X or derivatives is not what the network takes, or `of` is another word.
        """
        x, delta = self._checked_delta(self._inputs(X), derivatives, of)
        D = self.backend.gradient_of_deltas(cast("Network", self), x, delta)
        if D is None:
            D = self.backend.zeros(self.theta.shape, self.dtype)
            D_W, D_b = self.split(D)
            for rows in self._blocks(x.shape[0]):
                z, g_of_z, a = self._forward(x[rows])
                for layer, delta_above in self._deltas(delta[rows], z, g_of_z):
                    self.backend.accumulate(D_W[layer], D_b[layer], delta_above, a[layer])
        return D

    def input_gradient(self, X: Any, derivatives: Any, *, of: str = "outputs") -> Array:
        """dJ/dX of a cost of your own, from its derivatives by the outputs: what each number of X does to it, and how
        another network goes on that has made X.

        Parameters
        ----------
        X, derivatives, of
            As for `backward`.

        Returns
        -------
        (m, s_1)
            A fresh array of the network's dtype; of NumPy for NumPy input, on the device for device input. Where
            integers are scaled (`scale`), by the integers.

        Raises
        ------
        TypeError, ValueError
            As for `backward`.
        """
        X = checks.numeric("X", X, self.backend)
        x, delta = self._checked_delta(self._inputs(X), derivatives, of)
        found = self.backend.empty(x.shape, self.dtype)
        for rows in self._blocks(x.shape[0]):
            z, g_of_z, _ = self._forward(x[rows])
            *_, (_, lowest) = self._deltas(delta[rows], z, g_of_z)
            self.backend.propagate_delta(lowest, self.weights[0], "identity", x[rows], x[rows], out=found[rows])
        scale = cast("Network", self).scale
        if scale is not None and X.dtype.kind in "iu":
            found *= self.dtype.type(scale)
        return found if self._on_device(X) else self.backend.to_numpy(found)

    def _checked_delta(self, x: Array, derivatives: Any, of: str) -> tuple[Array, Array]:
        """x, and delta^(L) (m, K) = dJ/dz from the derivatives, both on the engine."""
        if of not in OF:
            raise unknown_name("of", of, OF)
        backend = self.backend
        d = checks.derivatives(derivatives, x.shape[0], self.sizes[-1], self.dtype, backend)
        if of == "logits" or self.output.name == "identity":
            return x, d
        z = backend.outputs(cast("Network", self), x, activated=False)
        assert z is not None, "prepared rows are finite"
        a = backend.activate(self.output, z)
        if self.output.elementwise:
            return x, backend.times_derivative(d, self.output, z, a)
        with np.errstate(all="ignore"):
            return x, a * (d - (d * a).sum(axis=1)[:, None])

    def step(self, gradient: Array, optimizer: Optimizer) -> None:
        """Move theta by one step of the optimizer from a gradient of your own making, for loops that `fit` does not
        have: a gradient that is clipped, or added to.

        Parameters whose gradient is 0 stay only while nothing else moves them: a weight decay does, and so do the
        momenta of an optimizer that has trained them before. To freeze a layer restore its `weights` and `biases` after
        each step.

        Parameters
        ----------
        gradient : (P,)
            Of the mean cost, as `cost_and_gradient` gives it: of the network's dtype, on its engine's device.
        optimizer : Optimizer
            An instance; its state goes on from step to step, and may go on in `fit`. A schedule plays no part: the rate
            is `optimizer.rate`, which may be set.

        Raises
        ------
        TypeError, ValueError
            gradient does not fit or is not finite, or the optimizer is none, or that of another network; nothing was
            changed. (A finite step that overflows the dtype is not looked for, as `fit` does.)
        RuntimeError
            The network is being trained by a fit, or the optimizer trains another at this moment.
        """
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                "optimizer must be an instance, such as fastnn.optimizers.Adam(), whose state goes on, got "
                f"{optimizer!r}"
            )
        check_known(optimizer)
        backend = self.backend
        if not backend.is_array(gradient) or gradient.shape != self.theta.shape or gradient.dtype != self.dtype:
            raise ValueError(
                f"gradient must be an array of shape {tuple(self.theta.shape)} and {self.dtype} on the {backend.name} "
                f"engine, got {type(gradient).__name__} of shape {getattr(gradient, 'shape', None)} and "
                f"{getattr(gradient, 'dtype', None)}"
            )
        if not backend.all_finite(gradient):
            raise ValueError("gradient holds NaN or infinity")
        backend._check_target("theta", self.theta, gradient)
        under_way = cast("Network", self)._training.held(
            "this network is being trained by a fit, or moved by a step in another thread; step after it, or on a copy "
            "(copy.deepcopy(net))"
        )
        with under_way, optimizer.held():
            optimizer.bind(self, lambda: backend.zeros(self.theta.shape, self.dtype))
            backend.update(optimizer, self.theta, gradient)

    def mean_cost(self, X: Any, y: Any, *, l2: bool = True, sample_weight: Any = None) -> float:
        """Mean cost over the m rows: J of `cost_and_gradient`, dropout off.

        Parameters
        ----------
        X : (m, s_1), y : targets (see `fit`)
        l2 : bool
            Whether the L2 term is included, lambda spread over these rows; without it the cost is measured as
            `history.val_cost` is.
        sample_weight : (m,) or "balanced", optional
            As for `fit`.

        Returns
        -------
        float
            Summed in float64.

        Raises
        ------
        TypeError, ValueError
            X, y or sample_weight is not what the network takes.
        """
        x = self._inputs(X)
        targets = self._targets(y, x.shape[0])
        weights, total = row_weights.for_rows(sample_weight, cast("Network", self), targets)
        cost, _ = self._evaluate(x, targets, weights)
        return cost + (self.l2 / (2 * total) * self._sum_of_squared_weights() if l2 else 0.0)

    def _add_l2_gradient(self, grad: Array, factor: float) -> None:
        """Accumulates factor * Theta into the weights' part of grad (P,); biases are left alone."""
        if factor:
            for D_W, W in zip(self.split(grad)[0], self.weights, strict=True):
                D_W += self.dtype.type(factor) * W

    def _sum_of_squared_weights(self) -> float:
        """Sum of Theta^2 without biases, for the L2 cost; 0.0 without L2."""
        return sum(self.backend.sum_of_squares(W) for W in self.weights) if self.l2 else 0.0
