"""`fit`: batches, orders, histories, validation, callbacks, optimizers, divergence - against independent arithmetic."""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
import tolerances
from together import together

import fastnn
from fastnn import optimizers
from fastnn.backends.base import Program

SIZES, NAMES = (4, 5, 3), ("tanh", "softmax")
ROWS = 23


def data(rows=ROWS):
    return cases.normal((rows, 4), np.float64), np.arange(rows) % 3


def net_of(backend, dtype="float64", **options):
    return fastnn.Network(SIZES, hidden="tanh", init=cases.parameters(SIZES), backend=backend, dtype=dtype, **options)


def theta_of(net):
    return np.array(net.backend.to_numpy(net.theta))


def oracle(theta, X, y, orders, batch, rate=0.3, l2=0.0, n=None):
    """Plain gradient descent over these orders of rows, wide: theta, and per epoch the running cost and the hits."""
    n, costs, accuracies = n or len(X), [], []
    for order in orders:
        total = hits = 0
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            share = l2 * len(rows) / n
            total += len(rows) * reference.cost(theta, SIZES, NAMES, "cross_entropy", X[rows], y[rows], share)
            hits += (reference.forward(theta, SIZES, NAMES, X[rows])[1][-1].argmax(axis=1) == y[rows]).sum()
            theta = theta - np.longdouble(rate) * reference.gradient(
                theta, SIZES, NAMES, "cross_entropy", X[rows], y[rows], share
            )
        costs.append(total / len(order))
        accuracies.append(hits / len(order))
    return theta, costs, accuracies


def shuffles(epochs, m=ROWS, seed=0):
    return [np.random.default_rng([seed, epoch]).permutation(m) for epoch in epochs]


def check(net, history, expected, steps):
    theta, costs, accuracies = expected
    bound = tolerances.training(net.dtype, steps)
    tolerances.assert_close(theta_of(net), theta, bound * float(abs(theta).max()), dtype=net.dtype)
    tolerances.assert_close(history.cost, np.array(costs), bound * 10)
    assert history.accuracy == pytest.approx(accuracies, abs=1e-12)


# ---- batches and orders -----------------------------------------------------------------------------------------


@together("l2", [0.0, 0.7])
@pytest.mark.parametrize("batch_size", [1, 5, ROWS])
def test_fit_is_gradient_descent_over_the_shuffled_rows(backend, dtype, batch_size, l2):
    (X, y), net = data(), net_of(backend, dtype, l2=l2)
    X = X.astype(np.float32)
    history = net.fit(X, y, optimizer="sgd", learning_rate=0.3, batch_size=batch_size, epochs=3)
    expected = oracle(cases.parameters(SIZES).astype(dtype), X, y, shuffles(range(3)), batch_size, l2=l2)
    check(net, history, expected, 3 * -(-ROWS // batch_size))


@pytest.mark.parametrize("rows", [23, 128, 150])
def test_batch_size_none_means_128_or_all_rows(backend, rows):
    results = []
    for batch_size in (None, min(128, rows)):
        net = net_of(backend)
        net.fit(*data(rows), optimizer="sgd", learning_rate=0.3, batch_size=batch_size, epochs=2)
        results.append(theta_of(net))
    np.testing.assert_array_equal(*results)


def test_without_shuffling_rows_come_in_order(backend):
    (X, y), net = data(), net_of(backend)
    history = net.fit(X, y, optimizer="sgd", learning_rate=0.3, batch_size=5, epochs=2, shuffle=False)
    check(net, history, oracle(cases.parameters(SIZES), X, y, [np.arange(ROWS)] * 2, 5), 10)


def test_a_second_fit_goes_on_and_does_not_replay(backend):
    (X, y), once, twice = data(), net_of(backend), net_of(backend)
    options = {"optimizer": "sgd", "learning_rate": 0.3, "batch_size": 5, "seed": 7}
    whole = once.fit(X, y, epochs=5, **options)
    parts = [twice.fit(X, y, epochs=epochs, **options) for epochs in (2, 3)]
    np.testing.assert_array_equal(theta_of(once), theta_of(twice))
    # slices end by the clock, so the partial sums of the cost may be added up in another grouping
    assert parts[0].cost + parts[1].cost == pytest.approx(whole.cost, rel=1e-14)
    assert once.epochs_trained == twice.epochs_trained == 5
    check(once, whole, oracle(cases.parameters(SIZES), X, y, shuffles(range(5), seed=7), 5), 25)


def test_order_is_asked_with_the_epoch_over_the_networks_life(backend):
    (X, y), net, asked = data(), net_of(backend), []

    def order(epoch):
        asked.append(epoch)
        return [[3, 3, 1, 0, 22, 3], np.arange(ROWS)[::-1], np.array([5], np.int32)][epoch]

    histories = [
        net.fit(X, y, optimizer="sgd", learning_rate=0.3, batch_size=5, epochs=epochs, order=order) for epochs in (2, 1)
    ]
    assert asked == [0, 1, 2]
    expected = oracle(
        cases.parameters(SIZES), X, y, [np.array([3, 3, 1, 0, 22, 3]), np.arange(ROWS)[::-1], np.array([5])], 5
    )
    histories[0].cost += histories[1].cost
    histories[0].accuracy += histories[1].accuracy
    check(net, histories[0], expected, 8)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_twice_gives_the_same_bits_and_another_does_not(backend, dtype, seed):
    results = {}
    for run in (seed, seed, seed + 5):
        net = net_of(backend, dtype)
        net.fit(*data(), epochs=3, batch_size=5, seed=run)
        assert results.setdefault(run, theta_of(net).tobytes()) == theta_of(net).tobytes()
    assert len(set(results.values())) == 2


# ---- optimizers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "make", "rate"),
    [("sgd", optimizers.SGD, 0.1), ("momentum", optimizers.Momentum, 0.05), ("adam", optimizers.Adam, 1e-3)],
)
def test_names_and_instances_and_learning_rates(backend, name, make, rate):
    results = []
    for options in (
        {"optimizer": name, "learning_rate": 0.02},
        {"optimizer": make(0.02)},
        {"optimizer": name},
        {"optimizer": make()},
        {"optimizer": make(rate)},
    ):
        net = net_of(backend)
        net.fit(*data(), epochs=2, batch_size=5, **options)
        results.append(theta_of(net).tobytes())
    assert results[0] == results[1]
    assert results[2] == results[3] == results[4]
    assert results[0] != results[2]


@pytest.mark.parametrize(
    "make", [lambda: optimizers.Momentum(0.05), lambda: optimizers.Adam(0.01)], ids=["momentum", "adam"]
)
def test_an_instance_keeps_its_state_and_a_name_starts_fresh(backend, make):
    thetas = {}
    for way in ("one fit", "instance", "name"):
        net, rule = net_of(backend), make()
        for epochs in (4,) if way == "one fit" else (2, 2):
            if way == "name":
                rule = make()
            net.fit(*data(), optimizer=rule, epochs=epochs, batch_size=5)
        thetas[way] = theta_of(net).tobytes()
        assert rule.t == (10 if way == "name" else 20)
    assert thetas["one fit"] == thetas["instance"] != thetas["name"]


def test_a_learning_rate_beside_an_instance_is_refused():
    net = net_of("numpy")
    for rate in (0.1, 1e-3):  # the default's number as well, when it is given
        with pytest.raises(ValueError, match=r"learning_rate=.* beside optimizer=Adam"):
            net.fit(*data(), optimizer=optimizers.Adam(), learning_rate=rate)
    rule = optimizers.Adam()
    net_of("numpy").fit(*data(), optimizer=rule, epochs=1)
    with pytest.raises(ValueError, match="state of another network"):
        net.fit(*data(), optimizer=rule, epochs=1)


# ---- history, validation, callbacks ----------------------------------------------------------------------------------


def test_history_has_one_entry_per_epoch(backend):
    (X, y), net = data(), net_of(backend)
    history = net.fit(X, y, epochs=4, validation=(X[:7], y[:7]))
    lists = [history.cost, history.accuracy, history.val_cost, history.val_accuracy, history.seconds]
    assert [len(values) for values in lists] == [4] * 5
    assert all(type(value) is float and np.isfinite(value) for values in lists for value in values)
    assert history.interrupted is False
    assert min(history.seconds) > 0


def test_without_validation_or_classes_lists_stay_empty(backend):
    net = fastnn.Network([4, 2], output="identity", cost="squared_error", backend=backend)
    history = net.fit(data()[0], np.zeros((ROWS, 2)), epochs=2)
    assert (len(history.cost), history.accuracy, history.val_cost, history.val_accuracy) == (2, [], [], [])


@pytest.mark.parametrize("targets", ["0/1", "soft"])
def test_accuracy_of_sigmoid_outputs(backend, targets):
    """Exact match for 0/1 targets; soft targets are neither right nor wrong."""
    X, _ = data()
    y = np.random.default_rng(0).integers(0, 2, (ROWS, 2)).astype(float)
    if targets == "soft":
        y[0, 0] = 0.3
    net = fastnn.Network([4, 2], output="sigmoid", backend=backend, dtype="float64", seed=1)
    right = float(((net.predict_proba(X) >= 0.5) == y).all(axis=1).mean())
    history = net.fit(X, y, epochs=1, batch_size=ROWS, validation=(X, y))
    assert history.accuracy == ([right] if targets == "0/1" else [])
    assert history.val_accuracy == ([net.score(X, y)] if targets == "0/1" else [])


@together("l2", [0.0, 0.9])
def test_validation_pair_is_measured_after_each_epoch(backend, l2):
    """val_cost is the mean cost without L2; nothing is trained on these rows."""
    (X, y), (V, t) = data(), (cases.normal((9, 4), np.float64, 5), np.arange(9) % 3)
    seen, net, plain = [], net_of(backend, l2=l2), net_of(backend, l2=l2)

    def watch(epoch, history, net):
        theta = theta_of(net)
        J = reference.cost(theta, SIZES, NAMES, "cross_entropy", V, t)
        seen.append((float(J), float((reference.forward(theta, SIZES, NAMES, V)[1][-1].argmax(axis=1) == t).mean())))

    history = net.fit(X, y, epochs=3, batch_size=5, validation=(V, t), callbacks=[watch])
    plain.fit(X, y, epochs=3, batch_size=5)
    np.testing.assert_array_equal(theta_of(net), theta_of(plain))
    assert history.val_cost == pytest.approx([J for J, _ in seen], rel=1e-12)
    assert history.val_accuracy == pytest.approx([accuracy for _, accuracy in seen])


def test_a_validation_fraction_is_disjoint_chosen_by_the_seed_and_left_out_of_n(backend):
    """Labels give the rows away: training sees each of its rows once an epoch, validation rows never."""
    rows, l2 = 20, 0.5
    X, y = data(rows)
    net = net_of(backend, l2=l2)
    history = net.fit(X, y, optimizer="sgd", learning_rate=0.3, epochs=1, batch_size=16, validation=0.2, seed=3)
    again, other = net_of(backend, l2=l2), net_of(backend, l2=l2)
    assert (
        again.fit(X, y, optimizer="sgd", learning_rate=0.3, epochs=1, batch_size=16, validation=0.2, seed=3).val_cost
        == history.val_cost
    )
    assert (
        other.fit(X, y, optimizer="sgd", learning_rate=0.3, epochs=1, batch_size=16, validation=0.2, seed=4).val_cost
        != history.val_cost
    )
    # one full batch of 16: which 4 rows were left out is found by trying all, then cost, theta and val_cost must fit
    # them
    import itertools

    costs = reference.cost_rows(
        "softmax", "cross_entropy", reference.forward(cases.parameters(SIZES), SIZES, NAMES, X)[0][-1], y
    )
    squares = sum((W**2).sum() for W, _ in reference.split(cases.parameters(SIZES), SIZES))
    data_cost = history.cost[0] - l2 / (2 * 16) * squares
    held_out = [
        rows_
        for rows_ in itertools.combinations(range(rows), 4)
        if abs((costs.sum() - costs[list(rows_)].sum()) / 16 - data_cost) < 1e-12
    ]
    assert len(held_out) == 1
    train = np.setdiff1d(np.arange(rows), held_out[0])
    theta, _, _ = oracle(cases.parameters(SIZES), X[train], y[train], [np.arange(16)], 16, l2=l2)
    tolerances.assert_close(theta_of(net), theta, tolerances.training(np.float64, 1) * float(abs(theta).max()))
    V = list(held_out[0])
    tolerances.assert_close(
        history.val_cost[0], reference.cost(theta, SIZES, NAMES, "cross_entropy", X[V], y[V]), 1e-12
    )


def test_callbacks_see_every_epoch_and_true_stops(backend):
    calls, net = [], net_of(backend)

    def count(epoch, history, given):
        calls.append((epoch, len(history.cost), given is net, given.epochs_trained))
        return epoch == 3

    def truthy(epoch, history, net):
        calls.append("second")
        return 1  # not True: a callback that happens to return something does not stop

    net.fit(*data(), epochs=2, callbacks=[count, truthy])
    net.fit(*data(), epochs=9, callbacks=(count, truthy))
    numbered = [call for call in calls if call != "second"]
    assert numbered == [(0, 1, True, 1), (1, 2, True, 2), (2, 1, True, 3), (3, 2, True, 4)]
    assert calls.count("second") == 4, "every callback sees every epoch, the one that stops as well"
    assert net.epochs_trained == 4


def test_an_error_in_a_callback_passes_through_and_the_network_can_be_trained_again(backend):
    net = net_of(backend)

    def fail(epoch, history, net):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        net.fit(*data(), epochs=3, callbacks=[fail])
    assert net.epochs_trained == 1
    net.fit(*data(), epochs=1)


def test_training_learns(backend, dtype):
    """Three well separated clouds are told apart, with the defaults but for more epochs: right on 99 % of fresh
    rows.
    """
    rng = np.random.default_rng(0)
    centres = np.array([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 4.0, 0]])
    y = np.arange(300) % 3
    X, V = (centres[y] + rng.standard_normal((300, 4)) * 0.7 for _ in range(2))
    net = fastnn.Network([4, 16, 3], backend=backend, dtype=dtype)
    history = net.fit(X, y, learning_rate=0.02, epochs=15)
    assert net.score(V, y) >= 0.99
    assert history.cost[-1] < 0.1 * history.cost[0]


# ---- scale
# ----------------------------------------------------------------------------------------------------------------


def test_scale_is_applied_to_integers_and_kept(backend, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 4), dtype=np.uint8)
    _, y = data()
    scaled, plain = net_of(backend, dtype), net_of(backend, dtype)
    scaled.fit(pixels, y, epochs=2, scale=1 / 255)
    plain.fit(pixels.astype(dtype) * dtype.type(1 / 255), y, epochs=2)
    assert theta_of(scaled).tobytes() == theta_of(plain).tobytes()
    assert scaled.scale == 1 / 255
    np.testing.assert_array_equal(
        scaled.predict_proba(pixels), plain.predict_proba(pixels.astype(dtype) * dtype.type(1 / 255))
    )
    scaled.fit(pixels, y, epochs=1)  # goes on with the factor it has
    plain.fit(pixels.astype(dtype) * dtype.type(1 / 255), y, epochs=1)
    assert theta_of(scaled).tobytes() == theta_of(plain).tobytes()


@pytest.mark.parametrize(("flops", "slices"), [(10**8, [5]), (0, [1, 2, 2]), (3 * (6 * 43 * 5 + 10**5), [3, 2])])
def test_the_first_slice_is_so_long_that_it_is_soon_over_anywhere(backend, monkeypatch, flops, slices):
    """A fit of few steps has one slice; 43 parameters, batches of 5, 6 flops each; a step counts as 100,000 more.
    Later slices last 0.25 s by a clock that says 0.1 for each.
    """
    X, y = data()
    net, original, taken, clock = net_of(backend), Program.run, [], iter(0.1 * i for i in range(100))

    def run(self, X, y, order, start, stop, rates=None):
        taken.append(stop - start)
        return original(self, X, y, order, start, stop, rates)

    monkeypatch.setattr(Program, "run", run)
    monkeypatch.setattr("fastnn.training.FIRST_SLICE_FLOPS", flops)
    monkeypatch.setattr("fastnn.training.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("fastnn.training.SLICE_SECONDS", 0.25)
    net.fit(X, y, epochs=1, batch_size=5)
    assert net.theta.size == 43
    assert taken == slices


# ---- what the clock, and numbers at the edge, must not change -------------------------------------------------------


@pytest.mark.parametrize(
    "options", [None, {"panels": False}, {"panels": True, "sliced": False}, {"threads": 1, "panels": True}], ids=str
)
@pytest.mark.parametrize("batch", [1, 7])
def test_costs_do_not_depend_on_where_the_clock_cuts_an_epoch(backend, options, batch, monkeypatch):
    """Bit for bit: a callback may compare them."""
    if options is not None:
        if backend.name != "numba":
            return
        backend = fastnn.get_backend("numba", **options)
    X, y = data(200)
    found = set()
    for seconds in (100.0, 1e-9):
        monkeypatch.setattr("fastnn.training.SLICE_SECONDS", seconds)
        monkeypatch.setattr("fastnn.training.FIRST_SLICE_FLOPS", 1)
        net = net_of(backend, l2=0.1)
        if batch > 1 and backend.name == "cupy":
            monkeypatch.setattr(backend, "fused", False)  # whose sums are those of a launch
        rule = "sgd" if batch == 1 else "adam"
        history = net.fit(X, y, optimizer=rule, learning_rate=0.01, epochs=3, batch_size=batch)
        found.add((*history.cost, *history.accuracy, theta_of(net).tobytes()))
    assert len(found) == 1


def test_a_state_of_the_optimizer_that_overflows_is_a_divergence(backend):
    """Its squares are infinite long before cost and parameters are, and nothing moves from then on."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 4)).astype("f4")
    y = (X @ rng.normal(size=(4, 1)) * 1e20).astype("f4")
    net = fastnn.Network([4, 1], output="identity", cost="squared_error", backend=backend, seed=0)
    rule, before = optimizers.Adam(0.1), theta_of(net)
    with pytest.raises(fastnn.Diverged, match="the optimizer's state is no longer finite, first in layer 2") as caught:
        net.fit(X, y, optimizer=rule, epochs=1, batch_size=64)
    assert "the targets are not scaled" in str(caught.value)
    np.testing.assert_array_equal(theta_of(net), before)
    history = net.fit(X, y / np.float32(1e20), optimizer=rule, epochs=3, batch_size=64)
    assert history.cost[-1] < history.cost[0]


def test_squared_errors_beyond_float32_are_summed_all_the_same(backend):
    X, y = np.random.default_rng(0).normal(size=(64, 4)).astype("f4"), np.full((64, 1), 3e19, "f4")
    net = fastnn.Network([4, 1], output="identity", cost="squared_error", backend=backend, seed=0)
    assert net.mean_cost(X, y) == pytest.approx(float(y[0, 0]) ** 2 / 2, rel=1e-6)
    history = net.fit(X, y, optimizer="sgd", learning_rate=1e-9, epochs=1, batch_size=64)
    assert history.cost[0] == pytest.approx(float(y[0, 0]) ** 2 / 2, rel=1e-6)


def test_a_large_l2_is_blamed_where_rows_count_next_to_nothing():
    X, y = data()
    weights = np.full(ROWS, 1e-300)
    with (
        pytest.warns(UserWarning, match="sample_weight sums to 2.3e-299 over 23 rows"),
        pytest.raises(fastnn.Diverged, match="l2=1 is too large for this learning rate"),
    ):
        net_of("numpy", l2=1.0).fit(X, y, sample_weight=weights, optimizer="sgd", learning_rate=0.1)
