"""`fit(patience=...)`: when it ends, and to what the network goes back - against a fit without it whose epochs are
written down.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest

import fastnn
from fastnn import optimizers, schedules
from fastnn.early_stopping import BestEpoch, Patience
from fastnn.errors import TrainingInterrupted
from fastnn.training import History

SIZES, EPOCHS = (4, 12, 3), 40


def data():
    """Rows and rows to validate on with classes drawn at random: what is learned of the first does not hold for the
    others, so their cost soon rises.
    """
    rng = np.random.default_rng(5)
    X, V = rng.normal(size=(2, 30, 4))
    return X, rng.integers(0, 3, 30), (V, (V[:, 0] > 0) + (V[:, 1] > 0) * rng.integers(0, 2, 30))


def net_of(backend):
    return fastnn.Network(SIZES, hidden="tanh", init=cases.parameters(SIZES), backend=backend, dtype="float64")


def state_of(net, rule):
    return [np.array(net.backend.to_numpy(x)).tobytes() for x in (net.theta, *rule.state)], rule.t


@pytest.fixture(scope="module")
def written_down(backend):
    """(validation cost, state) of each of many epochs without patience."""
    net, rule, states = net_of(backend), optimizers.Adam(0.05), []
    X, y, validation = data()
    history = net.fit(
        X,
        y,
        optimizer=rule,
        epochs=EPOCHS,
        batch_size=8,
        validation=validation,
        callbacks=[lambda *_: states.append(state_of(net, rule))],
    )
    assert history.best is None
    return history.val_cost, states


def fit(backend, epochs=EPOCHS, **options):
    net, rule = net_of(backend), optimizers.Adam(0.05)
    X, y, validation = data()
    return net, rule, net.fit(X, y, optimizer=rule, epochs=epochs, batch_size=8, validation=validation, **options)


@pytest.mark.parametrize("patience", [1, 3, 7])
def test_it_ends_after_so_many_epochs_without_a_lower_cost_and_goes_back(backend, written_down, patience):
    costs, states = written_down
    end = next(epoch for epoch in range(EPOCHS) if epoch - int(np.argmin(costs[: epoch + 1])) == patience)
    best = int(np.argmin(costs[: end + 1]))
    net, rule, history = fit(backend, patience=patience)
    assert history.val_cost == costs[: end + 1]
    assert (history.best, net.epochs_trained) == (best, end + 1)
    assert state_of(net, rule) == states[best]


def test_it_goes_back_where_the_epochs_end_first(backend, written_down):
    costs, states = written_down
    net, rule, history = fit(backend, patience=1000)
    assert len(history.cost) == EPOCHS
    assert history.best == int(np.argmin(costs)) < EPOCHS - 1
    assert state_of(net, rule) == states[history.best]


def test_it_goes_back_where_a_callback_or_ctrl_c_ends_the_fit(backend, written_down):
    costs, states = written_down
    last = int(np.argmin(costs)) + 3
    net, rule, history = fit(backend, patience=1000, callbacks=[lambda epoch, *_: epoch == last])
    assert (len(history.cost), history.best) == (last + 1, last - 3)
    assert state_of(net, rule) == states[history.best]

    def interrupt(epoch, *_):
        if epoch == last:
            raise KeyboardInterrupt

    with pytest.warns(TrainingInterrupted, match="the parameters go back to those of the best epoch"):
        net, rule, history = fit(backend, patience=1000, callbacks=[interrupt])
    assert history.interrupted
    assert state_of(net, rule) == states[last - 3]


def test_callbacks_see_the_last_epoch_and_which_is_the_best(backend, written_down):
    seen = []
    fit(
        backend,
        patience=3,
        callbacks=[lambda epoch, history, net: seen.append((history.best, net.backend.to_numpy(net.theta).tobytes()))],
    )
    assert [theta for _, theta in seen] == [state[0][0] for state in written_down[1][: len(seen)]]
    assert [best for best, _ in seen] == [int(np.argmin(written_down[0][: epoch + 1])) for epoch in range(len(seen))]


def test_a_next_fit_begins_anew(backend, written_down):
    net, rule, _ = fit(backend, patience=2)
    X, y, validation = data()
    before = net.epochs_trained
    history = net.fit(X, y, optimizer=rule, epochs=2, batch_size=8, validation=validation, patience=2)
    assert history.best == int(np.argmin(history.val_cost))
    assert net.epochs_trained == before + 2


@pytest.mark.parametrize(
    ("patience", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("3", TypeError), (True, TypeError)]
)
def test_what_is_no_number_of_epochs_is_refused(backend, patience, error):
    net = net_of(backend)
    X, y, validation = data()
    with pytest.raises(error, match="patience"):
        net.fit(X, y, validation=validation, patience=patience)
    assert net.epochs_trained == 0


def test_without_validation_it_is_refused(backend):
    net = net_of(backend)
    X, y, _ = data()
    before = net.backend.to_numpy(net.theta).tobytes()
    with pytest.raises(
        ValueError,
        match=r"patience=3 waits for a lower cost of the validation rows, and there are none; give validation=0.1",
    ):
        net.fit(X, y, patience=3)
    assert (net.epochs_trained, net.backend.to_numpy(net.theta).tobytes()) == (0, before)


def test_costs_that_are_no_numbers_are_never_the_best():
    net = net_of("numpy")
    rule = optimizers.SGD(0.1)
    best, history, before = BestEpoch(net, rule, Patience(2)), History(), net.theta.copy()
    for cost, over in ((float("nan"), False), (float("inf"), True)):
        history.val_cost.append(cost)
        history.cost.append(cost)
        assert best.is_over(history) == over
    net.theta[...] = 7
    best.restore(history)
    assert history.best is None
    assert (net.theta == 7).all()
    history.val_cost.append(1.0)
    history.cost.append(1.0)
    assert not best.is_over(history)
    net.theta[...] = before
    best.restore(history)
    assert (net.theta == 7).all()


def test_the_rate_of_the_best_epoch_comes_back_too(backend):
    """By which a network's own steps go on; a schedule gave others after it."""
    X, y, validation = data()
    net, rule = net_of(backend), optimizers.Adam(schedules.Step(0.05, every=1, factor=0.9))
    history = net.fit(X, y, optimizer=rule, epochs=EPOCHS, batch_size=8, validation=validation, patience=2)
    assert history.best < len(history.cost) - 1
    assert rule.rate == history.learning_rate[history.best] == 0.05 * 0.9**history.best
