"""scikit-learn's MLPClassifier and MLPRegressor.

Its `fit` draws its own order, and `partial_fit` checks the whole model again at each batch. So the
driver runs the body of the loop in its `_fit_stochastic` - select the rows, `_backprop`,
`update_params` - with the order given: what its own `fit` does per batch, and nothing more.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np

from ..cases import Net
from ..problem import Problem, split
from .base import Array, Peer, blas_threads

__all__ = ["Sklearn"]


class Sklearn(Peer):
    """Plain NumPy and SciPy underneath; threads are those of its BLAS."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import sklearn
        from sklearn.neural_network import MLPClassifier, MLPRegressor
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

        self.version = sklearn.__version__
        self.models = {True: MLPClassifier, False: MLPRegressor}
        self.rules = {"sgd": SGDOptimizer, "adam": AdamOptimizer}
        blas_threads(threads)

    def _model(self, net: Net, optimizer: str, learning_rate: float) -> Any:
        """A model of these layers; one call of its partial_fit makes everything that its methods read."""
        model = self.models[net.classes](
            hidden_layer_sizes=net.sizes[1:-1],
            activation=net.hidden,
            solver=optimizer,
            alpha=0.0,
            learning_rate_init=learning_rate,
            momentum=0.0,
            nesterovs_momentum=False,
            random_state=0,
            max_iter=1,
        )
        K = net.sizes[-1]
        x = np.zeros((max(K, 2), net.sizes[0]), np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if net.classes:
                model.partial_fit(x, np.arange(K), classes=np.arange(K))
            else:
                model.partial_fit(x, np.zeros(len(x), np.float32))
        model.n_outputs_ = K
        return model

    def load(self, problem: Problem) -> None:
        self.problem, net = problem, problem.net
        self.model = self._model(net, problem.optimizer, problem.learning_rate)
        self.X, self.y = problem.X, problem.y
        if net.classes:
            self.y = np.zeros((len(problem.y), net.sizes[-1]), np.float32)
            self.y[np.arange(len(problem.y)), problem.y] = 1
        layers = len(net.sizes) - 1
        self.weighted = "sample_weight" in inspect.signature(self.model._backprop).parameters
        self.activations: list[Any] = [None] * (layers + 1)
        self.deltas: list[Any] = [None] * layers
        self.coef_grads = [np.empty((W.shape[1], W.shape[0]), np.float32) for W, _ in split(net, problem.theta)]
        self.intercept_grads = [np.empty(b.shape, np.float32) for _, b in split(net, problem.theta)]

    def _set(self, net: Net, theta: Array) -> None:
        # a copy even where W.T is contiguous already
        self.model.coefs_ = [np.array(W.T, order="C") for W, _ in split(net, theta)]
        self.model.intercepts_ = [b.copy() for _, b in split(net, theta)]

    def reset(self, theta: Array) -> None:
        self._set(self.problem.net, theta)
        self.parameters = self.model.coefs_ + self.model.intercepts_
        rate = self.problem.learning_rate
        more = {"momentum": 0.0, "nesterov": False} if self.problem.optimizer == "sgd" else {}
        self.rule = self.rules[self.problem.optimizer](self.parameters, rate, **more)

    def run(self, start: int, stop: int) -> float:
        batch, order, X, y, a = self.problem.batch, self.problem.order, self.X, self.y, self.activations
        weights = (None,) if self.weighted else ()
        rule, adam, total = self.rule, self.problem.optimizer == "adam", 0.0
        for step in range(start, stop):
            rows = order[step * batch : (step + 1) * batch]
            a[0] = X.take(rows, axis=0)
            cost, coefs, intercepts = self.model._backprop(
                a[0], y[rows], *weights, a, self.deltas, self.coef_grads, self.intercept_grads
            )
            total += cost
            if adam:  # its epsilon stands before the bias correction of v; so corrected, its rule is that of the paper
                rule.epsilon = 1e-8 * (1 - rule.beta_2 ** (rule.t + 1)) ** 0.5
            rule.update_params(self.parameters, coefs + intercepts)
        return float(total / (stop - start))

    def theta(self) -> Array:
        return _flat(self.model.coefs_, self.model.intercepts_)

    def load_network(self, net: Net, theta: Array, x: Array) -> None:
        self.model, self.x = self._model(net, "sgd", 0.1), x
        self._set(net, theta)

    def predict(self) -> Array:
        """Without the checks of its public predict_proba, which cost several times a small network's time."""
        return np.asarray(self.model._forward_pass_fast(self.x, check_input=False))

    def versions(self) -> dict[str, str]:
        import scipy

        return {**super().versions(), "scikit-learn": self.version, "scipy": scipy.__version__}


def _flat(coefs: list[Array], intercepts: list[Array]) -> Array:
    """Weights (n_in, n_out) and biases per layer as one vector laid out as theta."""
    return np.concatenate([part for W, b in zip(coefs, intercepts, strict=True) for part in (W.T.ravel(), b)])
