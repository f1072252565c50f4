"""Schedules without a length, which end with the fit, and those that end long after it."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
from test_schedules import BATCH, data, network, theta_of

import fastnn
from fastnn import optimizers
from fastnn.estimators import DenseClassifier
from fastnn.schedules import Cosine, PerEpoch, Piecewise, Polynomial, Step, WarmUp, config, from_config, scaled

# without a length, and of six epochs
PAIRS = [
    (Cosine(0.4), Cosine(0.4, 6)),
    (Cosine(0.4, final=0.1), Cosine(0.4, 6, 0.1)),
    (Polynomial(0.4, power=1.5), Polynomial(0.4, 6, 1.5)),
    (WarmUp(Cosine(0.4), 2), WarmUp(Cosine(0.4, 6), 2)),
    (WarmUp(WarmUp(Polynomial(0.4), 3), 1, start=0.01), WarmUp(WarmUp(Polynomial(0.4, 6), 3), 1, start=0.01)),
    (scaled(Cosine(0.1), 8, base_batch=2, warmup_epochs=2), scaled(Cosine(0.1, 6), 8, base_batch=2, warmup_epochs=2)),
]


@pytest.mark.parametrize(("without", "long"), PAIRS, ids=lambda s: repr(s)[:40])
def test_the_length_is_that_of_the_fit(backend, without, long):
    (X, y), net, same = data(), network(backend, "float64"), network(backend, "float64")
    rates = net.fit(X, y, optimizer="momentum", learning_rate=without, batch_size=BATCH, epochs=6).learning_rate
    assert rates == same.fit(X, y, optimizer="momentum", learning_rate=long, batch_size=BATCH, epochs=6).learning_rate
    steps = -(-len(X) // BATCH)
    np.testing.assert_allclose(rates, long.at(np.arange(6) + (steps - 1) / steps), rtol=1e-14)
    np.testing.assert_array_equal(theta_of(net), theta_of(same))


@pytest.mark.parametrize(("without", "long"), PAIRS, ids=lambda s: repr(s)[:40])
def test_they_are_values_before_and_after(without, long):
    assert without.over(6) == long
    assert without.over(6.0).over(9) == long.over(9) == long
    assert without.times(2).over(6) == long.times(2)
    assert from_config(config(without)) == without == pickle.loads(pickle.dumps(without)) == copy.deepcopy(without)
    with pytest.raises(ValueError, match=r"was made without a length, which is that of the fit; give epochs="):
        without.at([0.5, 3])
    assert optimizers.SGD(without).rate > 0


def test_an_instance_keeps_the_length_over_a_pause_and_a_file(backend, tmp_path):
    X, y = data()
    whole = network(backend, "float64")
    together = whole.fit(X, y, optimizer="adam", learning_rate=Cosine(0.1), batch_size=BATCH, epochs=5).learning_rate
    net, rule = network(backend, "float64"), optimizers.Adam(Cosine(0.1))
    stop = [lambda epoch, history, net: epoch == 1]
    apart = net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=5, callbacks=stop).learning_rate
    assert rule.learning_rate == Cosine(0.1, 5)
    net.save(tmp_path / "net", optimizer=rule)
    net, rule = fastnn.resume(tmp_path / "net", backend=backend)
    apart += net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=3).learning_rate
    assert apart == together
    np.testing.assert_array_equal(theta_of(net), theta_of(whole))
    with pytest.raises(ValueError, match=r"Cosine\(.*epochs=5.* is down to 0 in epoch 5"):
        net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=1)


def test_one_that_comes_later_ends_with_its_fit():
    (X, y), net, rule = data(), network("numpy", "float64"), optimizers.SGD(0.1)
    net.fit(X, y, optimizer=rule, epochs=3)
    rule.learning_rate = Cosine(0.1)
    net.fit(X, y, optimizer=rule, epochs=5)
    assert rule.learning_rate == Cosine(0.1, 8)


def test_what_is_refused_leaves_it_without_a_length(tmp_path):
    (X, y), net, rule = data(), network("numpy", "float64"), optimizers.SGD(WarmUp(Cosine(0.1), 5, start=0.01))
    net.save(tmp_path / "net", optimizer=rule)
    assert fastnn.resume(tmp_path / "net")[1].learning_rate == rule.learning_rate
    with pytest.raises(ValueError, match=r"then=Cosine\(.*\) is down to 0 after epochs=5, where the warm-up is to end"):
        net.fit(X, y, optimizer=rule, epochs=5)
    net.theta[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        net.fit(X, y, optimizer=rule, epochs=6)
    assert rule.learning_rate == WarmUp(Cosine(0.1), 5, start=0.01)


@pytest.mark.parametrize(
    ("schedule", "epochs", "left"),
    [
        (Cosine(0.01, 100), 32, 77),  # (1 + cos(0.32 pi)) / 2 = 0.768
        (Cosine(0.01, 100, final=0.001), 32, 77),
        (Polynomial(0.01, 10), 2, 64),
        (WarmUp(Polynomial(0.01, 10, power=1), 4), 5, 83),  # five of the last six epochs
        (WarmUp(Polynomial(0.01, 10, power=1), 4), 3, 100),  # it ends amid the warm-up
        (Cosine(0.01, 100), 51, None),
        (Polynomial(0.01, 10), 3, None),
        (Cosine(0.01, 100, final=0.01), 3, None),  # which goes nowhere
        (Cosine(0.01), 3, None),
        (Step(0.01, 30), 3, None),
        (Piecewise((30,), (0.1, 0.01)), 3, None),
        (0.01, 3, None),
    ],
)
def test_what_is_cut_off_is_warned_of(schedule, epochs, left):
    X, y = data()
    model = DenseClassifier((3,), learning_rate=schedule, epochs=epochs, backend="numpy", random_state=0)
    for train in (
        lambda: network("numpy", "float64").fit(X, y, optimizer="sgd", learning_rate=schedule, epochs=epochs),
        lambda: model.fit(X, y),
    ):
        if left is None:
            train()
        else:
            words = rf"after {epochs}, with {left} % of the way down not gone; leave its epochs out"
            with pytest.warns(fastnn.UnfinishedSchedule, match=words) as found:
                train()
            assert [w.filename for w in found] == [__file__]


def test_an_instance_may_go_on_and_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network("numpy", "float64").fit(*data(), optimizer=optimizers.SGD(Cosine(0.1, 100)), epochs=1)


def test_an_estimator_that_chooses_its_epochs_itself():
    X, y = data()
    model = DenseClassifier((3,), learning_rate=Cosine(0.01), backend="numpy", random_state=0).fit(X, y)
    assert model.optimizer_.learning_rate == Cosine(0.01, len(model.history_.cost))
    assert model.learning_rate == Cosine(0.01)  # the parameter stays, for the next one
    assert model.history_.learning_rate[-1] < 1e-6


# ---- functions of the epoch ------------------------------------------------------------------------------------


def halved(epoch):
    return 0.4 / 2**epoch


def test_a_function_gives_the_rate_of_each_epoch(backend, tmp_path):
    """As the rates set by hand between fits of an epoch."""
    X, y = data()
    net, asked = network(backend, "float64"), []

    def rate(epoch):
        asked.append(epoch)
        return halved(epoch)

    history = net.fit(X, y, optimizer="momentum", learning_rate=rate, batch_size=BATCH, epochs=4)
    assert history.learning_rate == [0.4, 0.2, 0.1, 0.05]
    assert all(type(epoch) is int for epoch in asked)
    same, rule = network(backend, "float64"), optimizers.Momentum(0.4)
    for epoch in range(4):
        rule.learning_rate = halved(epoch)
        same.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=1)
    np.testing.assert_array_equal(theta_of(net), theta_of(same))
    rule = optimizers.Momentum(halved)  # from its first epoch on, over two fits
    rates = [net.fit(X, y, optimizer=rule, epochs=2).learning_rate for _ in range(2)]
    assert rates == [[0.4, 0.2], [0.1, 0.05]]
    assert (rule.learning_rate, rule.rate) == (PerEpoch(halved), 0.05)
    with pytest.raises(TypeError, match="is a schedule of your own, which a model file cannot hold"):
        net.save(tmp_path / "net", optimizer=rule)
    assert pickle.loads(pickle.dumps(PerEpoch(halved))) == PerEpoch(halved)


def test_functions_as_values():
    positions = [[0, 0.99], [1, 2.5]]
    for schedule in (PerEpoch(halved), PerEpoch(lambda e: halved(e) * 10).times(0.1)):
        np.testing.assert_allclose(schedule.at(positions), [[0.4, 0.4], [0.2, 0.1]], rtol=1e-15)
        assert schedule.at(3.5).shape == ()
    np.testing.assert_allclose(WarmUp(halved, 1, start=0.1).at([0, 0.5, 1.5]), [0.1, 0.15, 0.2], rtol=1e-15)
    model = DenseClassifier((3,), learning_rate=halved, epochs=2, backend="numpy", random_state=0).fit(*data())
    assert model.history_.learning_rate == [0.4, 0.2]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (
            lambda epoch: -1.0,
            ValueError,
            r"the learning rate <function .*> gives for epoch 0 must be a finite number >= 0, got -1.0",
        ),
        (lambda epoch: [0.1, np.nan][epoch], ValueError, "gives for epoch 1 must be a finite number >= 0, got nan"),
        (lambda epoch: None, TypeError, "gives for epoch 0 must be a finite number >= 0, got None"),
        (lambda epoch: 0.1 * (epoch < 1), ValueError, "is down to 0 in epoch 1"),
        (Cosine, TypeError, r"must be a finite number > 0 or a schedule .*or a function epoch -> rate, got <class"),
        ("fast", TypeError, "or a function epoch -> rate, got 'fast'"),
    ],
)
def test_functions_that_are_refused_before_anything_moves(given, error, words):
    net = network("numpy", "float64")
    before = theta_of(net)
    with pytest.raises(error, match=words):
        net.fit(*data(), optimizer="sgd", learning_rate=given, epochs=2)
    np.testing.assert_array_equal(theta_of(net), before)
