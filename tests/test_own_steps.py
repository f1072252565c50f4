"""`Network.step`: loops of one's own, from gradients of one's own."""

import copy

import numpy as np
import pytest

import fastnn
from fastnn import optimizers

X = np.random.default_rng(0).standard_normal((24, 4))
Y = np.arange(24) % 3


def network(backend, dtype="float64", **named):
    return fastnn.Network([4, 8, 3], hidden="tanh", seed=3, backend=backend, dtype=dtype, **named)


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_steps_are_those_of_fit(backend, name):
    own, fitted = network(backend, l2=0.5), network(backend, l2=0.5)
    rule = optimizers.get(name, 0.01)
    for _ in range(4):
        _, D = own.cost_and_gradient(X, Y)
        own.step(D, rule)
    fitted.fit(X, Y, optimizer=(again := optimizers.get(name, 0.01)), epochs=4, batch_size=24, shuffle=False)
    np.testing.assert_allclose(backend.to_numpy(own.theta), backend.to_numpy(fitted.theta), rtol=1e-9, atol=1e-12)
    assert rule.t == again.t == 4
    own.fit(X, Y, optimizer=rule, epochs=1, batch_size=24, shuffle=False)  # its state goes on
    fitted.fit(X, Y, optimizer=again, epochs=1, batch_size=24, shuffle=False)
    np.testing.assert_allclose(backend.to_numpy(own.theta), backend.to_numpy(fitted.theta), rtol=1e-9, atol=1e-12)


def test_a_layer_whose_gradient_is_zero_stays():
    net, rule = network("numpy"), fastnn.optimizers.Adam(0.1)
    before = net.weights[0].copy()
    for _ in range(3):
        _, D = net.cost_and_gradient(X, Y)
        net.split(D)[0][0][...] = 0
        net.step(D, rule)
    np.testing.assert_array_equal(net.weights[0], before)
    assert not np.array_equal(net.weights[1], network("numpy").weights[1])


@pytest.mark.parametrize("rule", [fastnn.optimizers.Momentum(0.05), fastnn.optimizers.Adam(0.01, weight_decay=0.1)])
def test_a_layer_that_has_been_trained_stays_if_it_is_restored(rule):
    """Momenta and weight decay move it where its gradient is zero, too."""
    net = network("numpy")
    net.fit(X, Y, optimizer=rule, epochs=1)
    before = net.weights[0].copy(), net.biases[0].copy()
    for restored in (False, True):
        for _ in range(3):
            _, D = net.cost_and_gradient(X, Y)
            for of_layers in net.split(D):
                of_layers[0][...] = 0
            net.step(D, rule)
            if restored:
                net.weights[0][...], net.biases[0][...] = before
        assert np.array_equal(net.weights[0], before[0]) == restored
        assert np.array_equal(net.biases[0], before[1]) == restored


def wrong(dtype="float64", shape=67, value=0.0):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("gradient", "optimizer", "error", "words"),
    [
        (wrong(), "adam", TypeError, r"optimizer must be an instance, such as .*, got 'adam'"),
        (wrong("float32"), None, ValueError, r"shape \(67,\) and float64 .*, got ndarray of shape \(67,\) and float32"),
        (wrong(shape=66), None, ValueError, r"got ndarray of shape \(66,\)"),
        ([0.0] * 67, None, ValueError, r"got list of shape None"),
        (wrong(value=np.nan), None, ValueError, "gradient holds NaN or infinity"),
        (wrong(value=np.inf), None, ValueError, "gradient holds NaN or infinity"),
    ],
)
def test_what_is_refused_changes_nothing(gradient, optimizer, error, words):
    net, rule = network("numpy"), fastnn.optimizers.Adam()
    before = net.theta.copy()
    with pytest.raises(error, match=words):
        net.step(gradient, optimizer or rule)
    np.testing.assert_array_equal(net.theta, before)
    assert (rule.t, rule.state) == (0, [])


def test_not_amid_a_fit_nor_with_the_rule_of_another_network():
    net = network("numpy")
    with pytest.raises(RuntimeError, match="is being trained by a fit, or moved by a step"):
        net.fit(X, Y, epochs=1, callbacks=[lambda *_: net.step(np.zeros(67), fastnn.optimizers.SGD())])
    rule = fastnn.optimizers.Adam()
    net.step(np.ones(67), rule)
    with pytest.raises(ValueError, match="carries the state of another network"):
        copy.deepcopy(net).step(np.ones(67), rule)


def test_lambda_is_spread_over_all_rows(backend):
    """A batch of a quarter of the rows: the L2 term is that of J over all of them."""
    net = network(backend)
    part = slice(0, len(X) // 4)
    plain, full = (net.cost_and_gradient(X[part], Y[part], training_rows=n) for n in (10**12, len(X)))
    W = [backend.to_numpy(w) for w in net.weights]
    assert full[0] - plain[0] == pytest.approx(net.l2 / (2 * len(X)) * sum((w**2).sum() for w in W), rel=1e-6)
    of_weights = net.split(full[1] - plain[1])
    for D, w in zip(of_weights[0], W, strict=True):
        np.testing.assert_allclose(backend.to_numpy(D), net.l2 / len(X) * w, rtol=1e-6, atol=1e-12)
    assert all(float(abs(D).max()) == 0 for D in of_weights[1])
    with pytest.raises(ValueError, match="training_rows must be a positive integer, got 0"):
        net.cost_and_gradient(X, Y, training_rows=0)


def test_the_rate_is_the_learning_rate():
    rule = fastnn.optimizers.Adam(0.1)
    rule.rate = 0.5
    assert (rule.learning_rate, rule.hyper()[0]) == (0.5, 0.5)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="learning_rate must be a finite number > 0"):
            rule.rate = bad
    rule.learning_rate = fastnn.schedules.Polynomial(0.2, epochs=10)
    rule.rate = 0.05  # of steps of one's own
    assert rule.hyper()[0] == 0.05
    with pytest.raises(ValueError, match="rate must be a finite number >= 0"):
        rule.rate = -1.0
