"""What callbacks may do to the fit that calls them, and `fastnn.callbacks`."""

import copy
import pickle

import numpy as np
import pytest

import fastnn
from fastnn.callbacks import Plateau
from fastnn.estimators import DenseClassifier
from fastnn.optimizers import SGD, Adam
from fastnn.training import History

X, y = np.random.default_rng(0).standard_normal((200, 6)), np.arange(200) % 3


class Holding:
    """Stands for a network with a fit under way."""

    def __init__(self, rate):
        self.optimizer = SGD(rate)


def rates_of(costs, plateau, validation=True):
    """The rate of each epoch, where these are the costs."""
    net, history, rates = Holding(1.0), History(), []
    for epoch, cost in enumerate(costs):
        rates.append(net.optimizer.rate)
        history.cost.append(5.0 - epoch)  # falls, and is looked at where nothing is watched alone
        if validation:
            history.val_cost.append(cost)
        history.learning_rate.append(net.optimizer.rate)
        plateau(epoch, history, net)
    return rates


def test_the_rate_goes_down_where_the_cost_does_not():
    costs = [3, 2, 2, 2, 2, 2, 1, 1, 1, 1]
    assert rates_of(costs, Plateau(0.5, 2)) == [1, 1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]
    assert rates_of(costs, Plateau(0.1, 3)) == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1])
    assert rates_of(costs, Plateau(0.5, 1), validation=False) == [1] * 10, "that of training falls"


def test_the_threshold_is_a_share_and_the_least_rate_stays():
    costs = [1.0, 0.9999, 0.9998, 0.9997, 0.99]
    assert rates_of(costs, Plateau(0.5, 2, threshold=1e-3)) == [1, 1, 1, 0.5, 0.5]
    assert rates_of(costs, Plateau(0.5, 2, threshold=0)) == [1] * 5
    assert rates_of([1] * 9, Plateau(0.1, 1, least=0.05))[-3:] == [0.05] * 3


def test_as_pytorch_has_it():
    """ReduceLROnPlateau(factor=0.5, patience=p) waits for p + 1 epochs without an improvement."""
    rng = np.random.default_rng(3)
    costs = list(rng.random(60).cumsum()[::-1] ** 0.1 + 0.02 * rng.random(60))
    best, bad, rate, expected = np.inf, 0, 1.0, []
    for cost in costs:  # torch.optim.lr_scheduler.ReduceLROnPlateau.step, threshold_mode="rel", cooldown=0
        expected.append(rate)
        if cost < best * (1 - 1e-4):
            best, bad = cost, 0
        else:
            bad += 1
        if bad > 2:
            rate, bad = max(rate * 0.5, 1e-6), 0
    assert rates_of(costs, Plateau(0.5, 3)) == expected
    assert len(set(expected)) > 3


def test_a_cost_that_is_no_number_hides_nothing():
    costs = [np.nan, np.inf, 3, 2, 1, 0.5, 0.4, 0.3]
    assert rates_of(costs, Plateau(0.5, 2)) == [1] * 8
    assert rates_of([1, np.nan, np.nan, 0.5], Plateau(0.5, 2)) == [1, 1, 1, 0.5]


def test_in_a_fit_and_the_next_one():
    net, rule, plateau = fastnn.Network([6, 8, 3], seed=0, backend="numpy"), Adam(1e-9), Plateau(0.5, 1)
    history = net.fit(X, y, optimizer=rule, epochs=4, callbacks=[plateau])
    assert history.learning_rate == [1e-9] * 4, "below the least rate already"
    rule.learning_rate = 1e-5
    history = net.fit(X, y, optimizer=rule, epochs=5, callbacks=[Plateau(0.5, 1, threshold=0.5, least=1e-9)])
    assert history.learning_rate == [1e-5, 1e-5, 0.5e-5, 0.25e-5, 0.125e-5]


def test_in_an_estimator_the_running_rule_is_meant_and_the_given_one_stays():
    rule = Adam(1e-3)
    model = DenseClassifier(
        (4,), optimizer=rule, callbacks=[Plateau(0.5, 1, threshold=0.9)], epochs=4, random_state=0, backend="numpy"
    )
    rates = [model.fit(X, y).history_.learning_rate for _ in range(2)]
    assert rates[0] == rates[1] == [1e-3, 1e-3, 0.5e-3, 0.25e-3]
    assert rule.rate == 1e-3
    assert repr(pickle.loads(pickle.dumps(model)).callbacks[0]) == "Plateau(0.5, 1, threshold=0.9, least=1e-06)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "lbfgs"}, "'lbfgs' has none"),
        ({"learning_rate": fastnn.schedules.Cosine(0.1, 3)}, "is a schedule; give only one of them"),
    ],
)
def test_plateau_wants_a_rate_that_is_a_number(options, words):
    with pytest.raises(ValueError, match=words):
        fastnn.Network([6, 8, 3], seed=0, backend="numpy").fit(X, y, epochs=3, callbacks=[Plateau()], **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"factor": 1}, "factor"), ({"factor": 0}, "factor"), ({"patience": 0}, "patience"),
        ({"patience": 1.5}, "patience"), ({"threshold": -1}, "threshold"), ({"least": 0}, "least"),
    ],
)  # fmt: skip
def test_bad_constants_of_plateau(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        Plateau(**options)


def test_the_network_tells_its_optimizer_while_it_trains():
    net, rule, seen = fastnn.Network([6, 8, 3], backend="numpy"), Adam(), []
    assert net.optimizer is None
    net.fit(
        X,
        y,
        optimizer=rule,
        epochs=1,
        callbacks=[lambda e, h, n: seen.append((n.optimizer, copy.deepcopy(n).optimizer))],
    )
    assert seen == [(rule, None)]
    assert net.optimizer is None
    with pytest.raises(ValueError, match="epochs"):
        net.fit(X, y, optimizer=rule, epochs=-1)
    assert net.optimizer is None


@pytest.mark.parametrize(
    ("name", "value"), [("l2", 3.0), ("scale", 2.0), ("epochs_trained", 0), ("dropout", 0.5)], ids=str
)
@pytest.mark.parametrize("options", [{}, {"optimizer": "lbfgs"}], ids=["adam", "lbfgs"])
def test_what_a_fit_counts_on_cannot_be_set_amid_it(name, value, options):
    net = fastnn.Network([6, 8, 3], backend="numpy", l2=1.0)

    def change(epoch, history, net):
        setattr(net, name, value)

    with pytest.raises(RuntimeError, match=f"net.{name} cannot be set while the network is being trained"):
        net.fit(X, y, epochs=3, callbacks=[change], **options)
    setattr(net, name, value)


@pytest.mark.parametrize(
    ("name", "hint"), [("dropuot", "did you mean 'dropout'"), ("learning_rate", "optimizer"), ("L2", "l2")]
)
def test_a_name_that_a_network_has_not_is_refused(name, hint):
    net = fastnn.Network([6, 8, 3], backend="numpy")
    with pytest.raises(AttributeError, match=hint):
        setattr(net, name, 0.5)
    assert not hasattr(net, name)

    class Own(fastnn.Network):
        pass

    own = Own([6, 8, 3], backend="numpy")
    own.remark = "a subclass may have its own"
    assert own.remark


def test_the_best_epoch_comes_back_with_the_rate_that_it_had(backend):
    """A rate that was cut while waiting for a better epoch would make the next fit go on as from the last one."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 4)).astype(np.float32), rng.integers(0, 2, 60)
    rule = fastnn.optimizers.Adam(0.05)
    net = fastnn.Network((4, 16, 2), seed=0, backend=backend)
    history = net.fit(
        X, y, optimizer=rule, epochs=60, validation=0.3, patience=12, callbacks=[fastnn.callbacks.Plateau(0.5, 3)]
    )
    assert history.learning_rate[-1] < history.learning_rate[history.best]
    # the callback acts after an epoch, so what belongs to an epoch is the rate of its steps
    assert rule.learning_rate == history.learning_rate[history.best]
