"""`fit(optimizer="lbfgs")`: the minimum that others find, what it shares with the other ways to fit, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

import fastnn
from fastnn import optimizers, training
from fastnn.estimators import DenseClassifier, DenseRegressor


def sine(rows=60):
    X = np.linspace(-2, 2, rows)[:, None]
    return X, np.sin(3 * X)


def net_of(backend, dtype="float64", **options):
    options = {"hidden": "tanh", "output": "identity", "cost": "squared_error", "l2": 1e-3} | options
    return fastnn.Network([1, 16, 1], backend=backend, dtype=dtype, seed=0, **options)


def test_it_is_scipys_search_on_the_networks_gradient():
    X, y = sine()
    found, by_hand = net_of("numpy"), net_of("numpy")
    history = found.fit(X, y, optimizer="lbfgs", epochs=40)
    costs = []

    def cost_and_gradient(theta):
        by_hand.theta[...] = theta
        return by_hand.cost_and_gradient(X, y)

    expected = minimize(
        cost_and_gradient, by_hand.theta.copy(), jac=True, method="L-BFGS-B", options={"maxiter": 40, "ftol": 2.2e-9},
        callback=lambda intermediate_result: costs.append(intermediate_result.fun),
    )  # fmt: skip
    np.testing.assert_allclose(found.theta, expected.x, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(history.cost, costs, rtol=1e-9)
    assert found.mean_cost(X, y) == pytest.approx(history.cost[-1], rel=1e-12)
    assert found.epochs_trained == len(history.cost) == len(history.seconds) == 40
    assert (history.learning_rate, history.accuracy, history.val_cost) == ([], [], [])


def test_every_engine(backend, dtype):
    """The same start, and a cost as low; the parameters differ by what rounding makes of a long search."""
    X, y = sine()
    net = net_of(backend, dtype)
    before = float(net.mean_cost(X, y))
    history = net.fit(X, y, optimizer="lbfgs", epochs=150)
    assert history.cost[-1] < before / 10
    assert all(b <= a * (1 + 1e-6) for a, b in zip(history.cost, history.cost[1:], strict=False))
    assert net.score(X, y) > 0.94
    assert net.mean_cost(X, y) == pytest.approx(history.cost[-1], rel=1e-4)


def test_without_a_hidden_layer_it_is_logistic_regression(backend):
    """lambda = 1/C; with weights of the rows too."""
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    weights = np.random.default_rng(0).integers(0, 3, len(X))
    for w in (None, weights):
        net = fastnn.Network([4, 3], l2=1.0, backend=backend, dtype="float64")
        history = net.fit(X, y, optimizer="lbfgs", epochs=300, sample_weight=w, micro_batch=70)
        expected = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(X, y, sample_weight=w)
        np.testing.assert_allclose(backend.to_numpy(net.predict_proba(X)), expected.predict_proba(X), atol=1e-3)
        assert history.accuracy[-1] == net.score(X, y)


def test_validation_patience_and_callbacks():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 5))
    y = (X[:, 0] + rng.standard_normal(60) > 0).astype(int)
    net, seen = fastnn.Network([5, 30, 2], backend="numpy", seed=0), []
    history = net.fit(
        X, y, optimizer="lbfgs", epochs=100, validation=0.3, patience=5, callbacks=[lambda e, h, n: seen.append(e)]
    )
    assert history.best is not None
    assert len(history.cost) == history.best + 6 == len(history.val_cost) == len(seen) == net.epochs_trained < 100
    _, kept = fastnn.training_data._validation_rows, history.val_cost[history.best]
    assert kept == min(history.val_cost)
    stopped = net_of("numpy").fit(*sine(), optimizer="lbfgs", epochs=50, callbacks=[lambda e, h, n: e == 3])
    assert len(stopped.cost) == 4


def test_the_network_is_left_where_the_last_iteration_ended(monkeypatch):
    """Ctrl-C, an error of a callback: not at what the search was trying."""
    X, y = sine()
    for error in (KeyboardInterrupt, LookupError):
        net, costs = net_of("numpy"), []

        def callback(epoch, history, net, error=error, costs=costs):
            costs.append(net.mean_cost(X, y))
            if epoch == 6:
                raise error

        if error is LookupError:
            with pytest.raises(LookupError):
                net.fit(X, y, optimizer="lbfgs", epochs=30, callbacks=[callback])
        else:
            with pytest.warns(fastnn.TrainingInterrupted, match="interrupted after 7 iterations"):
                history = net.fit(X, y, optimizer="lbfgs", epochs=30, callbacks=[callback])
            assert history.interrupted
            np.testing.assert_allclose(history.cost, costs, rtol=1e-12)
        assert net.mean_cost(X, y) == costs[-1]
        assert net.epochs_trained == 7
        net.fit(X, y, epochs=1)  # and it can be trained on


def test_a_step_that_was_being_tried_is_undone(monkeypatch):
    """Ctrl-C amid a search along a line: the parameters are those of the last complete iteration."""
    X, y = sine()
    net, tried = net_of("numpy"), []
    backpropagate = fastnn.Network._backpropagate

    def interrupted(self, *arguments):
        tried.append(np.array(self.theta))
        if len(tried) == 12:
            raise KeyboardInterrupt
        return backpropagate(self, *arguments)

    monkeypatch.setattr(fastnn.Network, "_backpropagate", interrupted)
    with pytest.warns(fastnn.TrainingInterrupted):
        history = net.fit(X, y, optimizer="lbfgs", epochs=30)
    monkeypatch.undo()
    assert not np.array_equal(net.theta, tried[-1])
    assert net.mean_cost(X, y) == pytest.approx(history.cost[-1], rel=1e-12)


def test_pixels_are_scaled_as_in_every_fit(backend):
    rng = np.random.default_rng(0)
    pixels, y = rng.integers(0, 256, (50, 6)).astype(np.uint8), np.arange(50) % 3
    nets = [fastnn.Network([6, 5, 3], backend=backend, dtype="float64", seed=1) for _ in range(2)]
    nets[0].fit(pixels, y, optimizer="lbfgs", epochs=5, scale=1 / 255)
    nets[1].fit(pixels / 255, y, optimizer="lbfgs", epochs=5)
    np.testing.assert_allclose(*(backend.to_numpy(net.theta) for net in nets), rtol=1e-5, atol=1e-8)
    assert nets[0].scale == 1 / 255


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0.1}, "learning_rate=0.1 means nothing to optimizer='lbfgs'"),
        ({"batch_size": 8}, "batch_size=8 means nothing to optimizer='lbfgs'"),
        ({"order": lambda epoch: [0]}, "order=.* means nothing to optimizer='lbfgs'"),
        ({"patience": 3}, "patience=3 waits for a lower cost"),
        ({"optimizer": "LBFGS"}, "optimizer='LBFGS' is not known; did you mean 'lbfgs'"),
        ({"optimizer": "lbgfs"}, "did you mean 'lbfgs'"),
    ],
)
def test_what_is_refused(options, words):
    net = net_of("numpy")
    before = net.theta.copy()
    with pytest.raises(ValueError, match=words):
        net.fit(*sine(), **{"optimizer": "lbfgs", "epochs": 2} | options)
    np.testing.assert_array_equal(net.theta, before)
    with pytest.raises(ValueError, match=r"dropout=\(0.5,\) changes the cost at random"):
        net_of("numpy", dropout=0.5).fit(*sine(), optimizer="lbfgs", epochs=2)


def test_a_cost_that_is_not_finite_to_begin_with():
    net = net_of("numpy", "float32")
    before = net.theta.copy()
    with pytest.raises(fastnn.Diverged, match="the cost is not finite before the first iteration"):
        net.fit(np.full((4, 1), 3e38), np.full((4, 1), 3e38), optimizer="lbfgs", epochs=2)
    np.testing.assert_array_equal(net.theta, before)
    assert net.epochs_trained == 0


def test_in_the_estimators():
    X, y = sine()
    model = DenseRegressor((16,), activation="tanh", optimizer="lbfgs", l2=1e-4, random_state=0).fit(X, y.ravel())
    assert model.score(X, y.ravel()) > 0.99
    assert model.optimizer_ is None
    assert len(model.history_.cost) <= 200
    search = GridSearchCV(clone(model), {"l2": [1e-4, 1.0]}, cv=3).fit(X, y.ravel())
    assert search.best_estimator_.optimizer == "lbfgs"
    flowers, kinds = load_iris(return_X_y=True)
    classifier = DenseClassifier((8,), optimizer="lbfgs", random_state=0).fit(flowers, kinds)
    assert classifier.score(flowers, kinds) > 0.97
    with pytest.raises(ValueError, match="partial_fit takes steps of batches, which optimizer='lbfgs' does not"):
        classifier.partial_fit(flowers, kinds)
    with pytest.raises(ValueError, match=r"learning_rate=0\.1 means nothing"):
        clone(classifier).set_params(learning_rate=0.1).fit(flowers, kinds)


def test_it_is_no_rule_of_steps():
    with pytest.raises(ValueError, match="optimizer='lbfgs' takes no steps of batches"):
        optimizers.get("lbfgs")
    assert training.LBFGS not in optimizers.OPTIMIZERS


def test_pixels_to_validate_on_are_scaled_from_the_first_iteration_on(backend):
    """The network learns of the scale with the first iteration, and engines may keep these rows as integers."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (200, 8)).astype(np.uint8)
    y = (X[:, 0] > X[:, 1]).astype(np.int64)
    scaled = []
    for rows, scale in ((X, 1 / 255), (X / 255.0, None)):
        net = fastnn.Network((8, 5, 2), hidden="tanh", backend=backend, dtype="float64", seed=1)
        scaled.append(net.fit(rows, y, optimizer="lbfgs", epochs=3, scale=scale, validation=0.25))
    np.testing.assert_allclose(scaled[0].val_cost, scaled[1].val_cost, rtol=1e-6)
    assert scaled[0].val_accuracy == scaled[1].val_accuracy
