"""Schedules: their values by hand and against formulas written a second time, what they refuse, and training under
them.
"""

from __future__ import annotations

import copy
import itertools
import math
import re

import cases
import numpy as np
import pytest
import reference
import tolerances
from hypothesis import given
from hypothesis import strategies as st
from together import together

import fastnn
from fastnn import optimizers
from fastnn.schedules import Constant, Cosine, Piecewise, Polynomial, Step, WarmUp, scaled

positive = st.floats(1e-6, 1e3)

# ---- values
# -----------------------------------------------------------------------------------------------------------

BY_HAND = [
    (Constant(0.3), [0, 0.1, 100], [0.3, 0.3, 0.3]),
    (WarmUp(0.8, 4, start=0.2), [0, 1, 2, 3.5, 4, 9], [0.2, 0.35, 0.5, 0.725, 0.8, 0.8]),
    (WarmUp(1.0), [0, 2.5, 5], [0.1, 0.55, 1.0]),  # from a tenth, over five epochs
    (Cosine(0.6, 6), [0, 2, 3, 4, 6, 7], [0.6, 0.45, 0.3, 0.15, 0, 0]),
    (Cosine(0.6, 6, final=0.2), [0, 3, 6, 60], [0.6, 0.4, 0.2, 0.2]),
    (Polynomial(0.8, 4), [0, 1, 2, 3, 4, 5], [0.8, 0.45, 0.2, 0.05, 0, 0]),
    (Polynomial(0.8, 4, power=1, final=0.4), [0, 1, 4, 5], [0.8, 0.7, 0.4, 0.4]),
    (Step(0.5, 3), [0, 2.99, 3, 5, 6], [0.5, 0.5, 0.05, 0.05, 0.005]),
    (Step(0.5, 2, factor=2), [1, 2, 4], [0.5, 1, 2]),
    (Piecewise((2, 5), (0.1, 0.2, 0.3)), [0, 1.99, 2, 4.9, 5, 50], [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]),
    (Piecewise((), (0.1,)), [0, 7], [0.1, 0.1]),
    # the rate after the warm-up counts from epoch 0, so the course ends where it would without
    (WarmUp(Polynomial(1.0, 10, power=1), 5, start=0.1), [0, 2.5, 5, 7.5, 10], [0.1, 0.3, 0.5, 0.25, 0]),
]  # fmt: skip


@pytest.mark.parametrize(("schedule", "epochs", "rates"), BY_HAND, ids=lambda x: repr(x)[:30])
def test_values_by_hand(schedule, epochs, rates):
    got = schedule.at(epochs)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, rates, rtol=1e-14, atol=1e-16)
    assert schedule.at(float(epochs[1])).shape == ()
    np.testing.assert_allclose(schedule.times(3).at(epochs), 3 * np.array(rates), rtol=1e-14, atol=1e-16)


@given(rate=positive, length=positive, share=st.floats(0, 2), final=st.floats(0, 1))
def test_cosine_and_polynomial_are_their_formulas(rate, length, share, final):
    e, low = share * length, final * rate
    inside = min(e / length, 1.0)
    got = Cosine(rate, length, low).at(e)
    assert got == pytest.approx(
        low + 0.5 * (rate - low) * (1 + math.cos(math.pi * inside)), rel=1e-12, abs=1e-15 * rate
    )
    assert low * (1 - 1e-12) <= got <= rate * (1 + 1e-12)
    assert Polynomial(rate, length, 3.0, low).at(e) == pytest.approx(
        low + (rate - low) * (1 - inside) ** 3, rel=1e-12, abs=1e-15 * rate
    )


@given(rate=positive, length=positive, start=positive)
def test_a_warm_up_is_straight_and_joins_what_follows(rate, length, start):
    schedule = WarmUp(Step(rate, 2 * length), length, start)
    np.testing.assert_allclose(
        schedule.at(length * np.array([0, 0.25, 0.75])), start + (rate - start) * np.array([0, 0.25, 0.75]), rtol=1e-9
    )
    assert schedule.at(np.nextafter(length, 0)) == pytest.approx(schedule.at(length), rel=1e-9)
    assert schedule.at(2 * length) == pytest.approx(rate / 10)


def test_linear_scaling():
    """Goyal et al.: k times the rate for k times the batch, reached from the small one's in five epochs."""
    schedule = scaled(0.05, 8192, base_batch=128)
    np.testing.assert_allclose(schedule.at([0, 2.5, 5, 30]), [0.05, (0.05 + 3.2) / 2, 3.2, 3.2])
    np.testing.assert_allclose(scaled(0.05, 8192, base_batch=128, warmup_epochs=0).at([0, 9]), 3.2)
    np.testing.assert_allclose(scaled(0.05, 32, base_batch=128).at([0, 9]), 0.0125)  # smaller: nothing to warm up
    course = scaled(Cosine(0.1, 20), 512, base_batch=128, warmup_epochs=2)
    np.testing.assert_allclose(
        course.at([0, 2, 10, 20]), [0.1, 0.4 * (1 + math.cos(0.1 * math.pi)) / 2, 0.2, 0], atol=1e-15
    )


def test_schedules_are_values():
    assert WarmUp(0.8, 4) == WarmUp(Constant(0.8), 4.0, start=0.08)
    assert copy.deepcopy(Piecewise([1], [2, 3])) == Piecewise((1.0,), (2.0, 3.0))
    with pytest.raises(AttributeError):
        Constant(0.1).learning_rate = 2
    rule = optimizers.Adam(WarmUp(0.01))
    assert (repr(rule), rule.rate, rule.hyper()[0]) == (f"Adam({WarmUp(0.01)!r}, 0.9, 0.999, 1e-08, 0)", 0.001, 0.001)
    rule.learning_rate = 0.5
    assert (rule.rate, repr(rule)) == (0.5, "Adam(0.5, 0.9, 0.999, 1e-08, 0)")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant(0), ValueError, "learning_rate must be a finite number > 0, got 0"),
        (lambda: Constant("0.1"), TypeError, "learning_rate must be a finite number > 0"),
        (lambda: WarmUp(-1.0), ValueError, "then must be a finite number > 0, got -1.0"),
        (lambda: WarmUp(1.0, 0), ValueError, "epochs must be a finite number > 0, got 0"),
        (lambda: WarmUp(1.0, 5, math.nan), ValueError, "start must be a finite number > 0, got nan"),
        (lambda: WarmUp(1.0, 5, 0.0), ValueError, "start must be a finite number > 0"),
        # it would warm up to nothing
        (
            lambda: WarmUp(Cosine(1.0, 5), 5),
            ValueError,
            r"then=Cosine\(.*\) is down to 0 after epochs=5, where the warm-up is to end",
        ),
        (lambda: Cosine(0.1, math.inf), ValueError, "epochs must be a finite number > 0"),
        (lambda: Cosine(0.1, 5, -0.1), ValueError, "final must be a finite number >= 0"),
        (lambda: Cosine(0.1, 5, 0.2), ValueError, "final must be at most learning_rate=0.1, got 0.2"),
        (lambda: Polynomial(0.1, 5, 0), ValueError, "power must be a finite number > 0"),
        (lambda: Polynomial(0.1, 5, 2, 1), ValueError, "final must be at most learning_rate"),
        (lambda: Step(0.1, True), TypeError, "every must be a finite number > 0"),
        (lambda: Step(0.1, 2, 0), ValueError, "factor must be a finite number > 0"),
        (lambda: Piecewise(3, (1, 2)), TypeError, "boundaries must be a sequence of numbers, got 3"),
        (lambda: Piecewise((3,), (1,)), ValueError, "learning_rates must be one more than the 1 boundaries, got 1"),
        (lambda: Piecewise((3, 3), (1, 1, 1)), ValueError, "boundaries must ascend"),
        (lambda: Piecewise((3,), (1, 0)), ValueError, r"learning_rates\[1\] must be a finite number > 0, got 0"),
        (lambda: scaled(0.1, 0, base_batch=1), ValueError, "batch_size must be a positive integer, got 0"),
        (lambda: scaled(0.1, 8, base_batch=2.0), TypeError, "base_batch must be a positive integer"),
        (
            lambda: scaled(0.1, 8, base_batch=2, warmup_epochs=-1),
            ValueError,
            "warmup_epochs must be a finite number >= 0",
        ),
        (lambda: optimizers.SGD("fast"), TypeError, "learning_rate must be a finite number > 0"),
    ],
)
def test_what_schedules_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- training under a schedule
# ------------------------------------------------------------------------------------------

SIZES, NAMES, ROWS, BATCH = (4, 5, 3), ("tanh", "softmax"), 23, 5
MAKERS = {
    "sgd": optimizers.SGD,
    "momentum": lambda a: optimizers.Momentum(a, 0.8),
    "adam": lambda a: optimizers.Adam(a, 0.8, 0.95, 1e-5),
    "lars": lambda a: optimizers.LARS(a, 0.8, 0.1),
    "lamb": lambda a: optimizers.LAMB(a, 0.8, 0.95),
}
COURSE = WarmUp(Cosine(0.5, 5, final=0.05), 1.5, start=0.02)


def data(rows=ROWS):
    return cases.normal((rows, 4), np.float32), np.arange(rows) % 3


def network(backend, dtype, **options):
    return fastnn.Network(
        SIZES, hidden="tanh", init=cases.parameters(SIZES, np.float32), backend=backend, dtype=dtype, **options
    )


def theta_of(net):
    return np.array(net.backend.to_numpy(net.theta))


def oracle(rule, schedule, X, y, epochs, batch=BATCH, l2=0.0):
    """theta and the rate of each epoch's last step: the rule of the oracle with the rate of every single step."""
    theta, t, last = cases.parameters(SIZES, np.float32), 0, []
    state = [np.zeros_like(theta) for _ in rule.slots]
    steps = -(-len(X) // batch)
    for epoch in epochs:
        order = np.random.default_rng([0, epoch]).permutation(len(X))
        for step in range(steps):
            rows, t = order[step * batch : (step + 1) * batch], t + 1
            rate = float(schedule.at(epoch + step / steps))
            D = reference.gradient(theta, SIZES, NAMES, "cross_entropy", X[rows], y[rows], l2 * len(rows) / len(X))
            theta, state = reference.update(rule.name, SIZES, theta, D, state, t, rate, *rule.hyper()[1:])
        last.append(rate)
    return theta, last


@pytest.mark.parametrize("l2", [0.0, 0.4])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_step_has_its_own_rate(backend, dtype, make, l2):
    (X, y), net, rule = data(), network(backend, dtype, l2=l2), make(COURSE)
    history = net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=4)
    theta, last = oracle(make(0.1), COURSE, X, y, range(4), l2=l2)
    tolerances.assert_close(theta_of(net), theta, tolerances.training(dtype, 20) * np.abs(theta).max(), dtype=dtype)
    np.testing.assert_allclose(history.learning_rate, last, rtol=1e-12)
    assert rule.rate == history.learning_rate[-1]
    assert rule.learning_rate is COURSE


def test_a_schedule_goes_on_over_fits_and_files(backend, tmp_path):
    """Positions count the epochs of the optimizer: three fits by one, the last after a file, are one fit."""
    X, y = data()
    whole = network(backend, "float64")
    together = whole.fit(X, y, optimizer="sgd", learning_rate=COURSE, batch_size=BATCH, epochs=4).learning_rate
    net, rule = network(backend, "float64"), optimizers.SGD(COURSE)
    apart = net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=1).learning_rate
    apart += net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=2).learning_rate
    net.save(tmp_path / "net.safetensors", optimizer=rule)
    net, rule = fastnn.resume(tmp_path / "net.safetensors", backend=backend)
    apart += net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=1).learning_rate
    assert apart == together
    np.testing.assert_array_equal(theta_of(net), theta_of(whole))


@pytest.mark.parametrize("fresh", [lambda rule: ("adam", COURSE), lambda rule: (optimizers.Adam(COURSE), None)])
def test_a_schedule_begins_with_its_optimizer(backend, tmp_path, fresh):
    """A trained network that is trained further by a fresh rule: the same rates as the first time, and again after a
    file from where that one left off.
    """
    X, y = data()
    net = network(backend, "float64")
    first = net.fit(X, y, optimizer="adam", learning_rate=COURSE, batch_size=BATCH, epochs=3).learning_rate
    rule, rate = fresh(None)
    assert net.fit(X, y, optimizer=rule, learning_rate=rate, batch_size=BATCH, epochs=3).learning_rate == first
    assert net.epochs_trained == 6
    rule = optimizers.Adam(COURSE)
    net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=2)
    assert (rule.first_epoch, rule.t) == (6, 10)
    net.save(tmp_path / "net.safetensors", optimizer=rule)
    loaded, again = fastnn.resume(tmp_path / "net.safetensors", backend=backend)
    assert loaded.fit(X, y, optimizer=again, batch_size=BATCH, epochs=1).learning_rate == first[2:]
    rule.reset()
    assert net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=3).learning_rate == first


def raising(error):
    raise error


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"order": lambda epoch: [ROWS]}, ValueError),
        ({"order": lambda epoch: raising(OSError("story"))}, OSError),
        ({"order": lambda epoch: raising(KeyboardInterrupt)}, None),
        ({"sample_weight": np.full(ROWS, 1.0), "callbacks": [print], "order": lambda epoch: "ab"}, ValueError),
    ],
    ids=["another row", "an error", "Ctrl-C", "text"],
)
@pytest.mark.parametrize("rule", [optimizers.SGD, optimizers.Adam])
def test_a_fit_without_a_step_gives_a_schedule_no_length(backend, rule, options, error):
    """The next one does, as if the other had not been."""
    net, by = network(backend, "float64"), rule(Cosine(0.1, final=0.01))
    by.rate = 0.03
    with pytest.raises(error) if error else pytest.warns(fastnn.TrainingInterrupted):
        net.fit(*data(), optimizer=by, batch_size=BATCH, epochs=2, **options)
    assert (by.learning_rate, by.rate, by.t) == (Cosine(0.1, final=0.01), 0.03, 0)
    history, steps = net.fit(*data(), optimizer=by, batch_size=BATCH, epochs=5), -(-ROWS // BATCH)
    assert by.learning_rate == Cosine(0.1, 5, final=0.01)
    np.testing.assert_allclose(
        history.learning_rate, Cosine(0.1, 5, final=0.01).at(np.arange(5) + 1 - 1 / steps), rtol=1e-12
    )


@pytest.mark.parametrize("done", [0, 1])
def test_a_divergence_before_the_first_step_is_kept_gives_a_schedule_no_length(done):
    X, y = data()
    net, by = network("numpy", "float64"), optimizers.SGD(Cosine(0.1, final=0.01))
    if done:
        net.fit(X, y, optimizer=by, epochs=2)
    before = by.learning_rate
    net.l2 = 1e308
    with pytest.raises(fastnn.Diverged):
        net.fit(X, y, optimizer=by, epochs=3)
    assert by.learning_rate is before


def test_a_schedule_begins_with_a_step_of_ones_own(backend):
    """A rule that moved the network by `step` before its first fit, after other epochs; also if a program was made for
    it before those.
    """
    X, y = data()
    net, rule = network(backend, "float64"), optimizers.Adam(Cosine(0.1, 4))
    backend.compile(net, rule, BATCH)
    net.fit(X, y, epochs=6, batch_size=BATCH)
    net.step(net.cost_and_gradient(X, y)[1], rule)
    assert rule.first_epoch == 6
    rates = net.fit(X, y, optimizer=rule, batch_size=BATCH, epochs=3).learning_rate
    fresh = network(backend, "float64").fit(X, y, optimizer=optimizers.Adam(Cosine(0.1, 4)), batch_size=BATCH, epochs=3)
    assert rates == fresh.learning_rate


def test_a_constant_schedule_is_a_number(backend, dtype):
    results = []
    for rate in (0.3, Constant(0.3)):
        net = network(backend, dtype)
        history = net.fit(*data(), optimizer="momentum", learning_rate=rate, batch_size=BATCH, epochs=2)
        assert history.learning_rate == [0.3, 0.3]
        results.append(theta_of(net))
    np.testing.assert_array_equal(*results)


def test_cutting_a_run_into_slices_does_not_change_the_rates(backend, dtype):
    """`fit` cuts an epoch by the clock; a program given the rates of its own steps must not notice."""
    X, y = backend.asarray(data()[0].astype(dtype)), backend.asarray(data()[1])
    rates, results = np.linspace(0.1, 0.9, 5), []
    for cuts in ((0, 5), (0, 1, 3, 5)):
        net = network(backend, dtype)
        program = backend.compile(net, optimizers.Adam(), BATCH)
        for start, stop in itertools.pairwise(cuts):
            program.run(X, y, backend.asarray(np.arange(ROWS)), start, stop, rates[start:stop])
        results.append(theta_of(net))
    np.testing.assert_array_equal(*results)


def test_a_callback_may_replace_the_rate(backend):
    rule = optimizers.SGD(Constant(0.4))

    def lower(epoch, history, net):
        rule.learning_rate = [0.2, Step(0.1, 100), 0.3][epoch]

    history = network(backend, "float64").fit(*data(), optimizer=rule, batch_size=BATCH, epochs=3, callbacks=[lower])
    assert history.learning_rate == [0.4, 0.2, 0.1]


def test_a_rate_of_zero_takes_the_step_and_moves_nothing(backend, dtype):
    net, rule = network(backend, dtype, l2=0.5), optimizers.SGD()
    before = theta_of(net)
    X, y = backend.asarray(data()[0].astype(dtype)), backend.asarray(data()[1])
    backend.compile(net, rule, BATCH).run(X, y, backend.asarray(np.arange(ROWS)), 0, 5, np.zeros(5))
    np.testing.assert_array_equal(theta_of(net), before)
    assert (rule.t, rule.rate) == (5, 0.0)


@pytest.mark.parametrize(
    "rates",
    [
        np.full(4, 0.1),
        np.full(5, 0.1, np.float32),
        [0.1] * 5,
        np.array([0.1, 0.1, math.nan, 0.1, 0.1]),
        np.array([0.1] * 4 + [-1]),
        0.1,
    ],
    ids=str,
)
def test_a_program_refuses_rates(backend, rates):
    net, rule = network(backend, "float64"), optimizers.Momentum()
    before = theta_of(net)
    X, y = backend.asarray(data()[0].astype(np.float64)), backend.asarray(data()[1])
    with pytest.raises(ValueError, match="rates must be"):
        backend.compile(net, rule, BATCH).run(X, y, backend.asarray(np.arange(ROWS)), 0, 5, rates)
    np.testing.assert_array_equal(theta_of(net), before)
    assert rule.t == 0


def test_a_spent_schedule_is_refused_before_anything_moves(backend):
    """A rate of 0 would train on in silence and change nothing."""
    net = network(backend, "float64")
    before = theta_of(net)
    with pytest.raises(
        ValueError,
        match=r"learning_rate=Cosine\(.*\) is down to 0 in epoch 3, but this fit runs from epoch 0 to 4",
    ):
        net.fit(*data(), optimizer="sgd", learning_rate=Cosine(0.1, 3), batch_size=BATCH, epochs=5)
    np.testing.assert_array_equal(theta_of(net), before)
    rule = optimizers.SGD(Cosine(0.1, 3))
    net.fit(*data(), optimizer=rule, batch_size=BATCH, epochs=3)
    with pytest.raises(
        ValueError, match=r"is down to 0 in epoch 3, but this fit runs from epoch 3 to 3 \(counted from"
    ):
        net.fit(*data(), optimizer=rule, batch_size=BATCH, epochs=1)
    with pytest.raises(ValueError, match="which has its own"):
        net.fit(*data(), optimizer=optimizers.SGD(0.1), learning_rate=Cosine(0.1, 30))


def test_divergence_names_the_rate_of_the_step(backend):
    net = fastnn.Network((4, 5, 1), hidden="identity", output="identity", cost="squared_error", backend=backend)
    with pytest.raises(fastnn.Diverged, match=r"epoch 1.*the learning rate 1e\+20 is too large"):
        net.fit(
            data()[0],
            data()[1] * 1.0,
            optimizer="sgd",
            learning_rate=Piecewise((1,), (0.01, 1e20)),
            batch_size=BATCH,
            epochs=3,
        )


# ---- micro-batches
# ------------------------------------------------------------------------------------------------------


@together("micro_batch", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_micro_batches_add_up_to_the_batch(backend, dtype, rule, micro_batch):
    """One update of the whole batch, cost and hits included; the last batch (7 rows) and its last part are short."""
    results = []
    for rows in (None, micro_batch):
        net = network(backend, dtype, l2=0.4)
        history = net.fit(*data(), optimizer=rule, learning_rate=0.1, batch_size=16, epochs=3, micro_batch=rows)
        results.append((theta_of(net), history))
    (whole, one), (parts, many) = results
    tolerances.assert_close(parts, whole, tolerances.training(np.dtype(dtype), 6) * np.abs(whole).max(), dtype=dtype)
    np.testing.assert_allclose(many.cost, one.cost, rtol=tolerances.training(np.dtype(dtype), 6) * 10)
    assert many.accuracy == one.accuracy


def test_micro_batches_of_a_wide_net_on_a_team(backend):
    """Shared by threads on the CPU engine: with the plan's own chunk, with one that is cut, and with one of fewer
    rows than threads.
    """
    sizes, rows = (30, 600, 400, 5), 300
    X, y = cases.normal((rows, 30), np.float64), np.arange(rows) % 5
    results = []
    for micro_batch in (None, 77, 1 if backend.name == "numba" else 150):
        net = fastnn.Network(sizes, backend=backend, dtype="float64", seed=2)
        net.fit(X, y, optimizer="sgd", learning_rate=0.05, batch_size=200, epochs=1, micro_batch=micro_batch)
        results.append(theta_of(net))
    for got in results[1:]:
        tolerances.assert_close(
            got, results[0], tolerances.training(np.dtype(np.float64), 2) * np.abs(results[0]).max() * 10
        )


def test_a_micro_batch_is_what_the_workspace_holds(backend):
    """Less memory is what it is for: the rows of every buffer of activations."""
    net = fastnn.Network((50, 40, 30), backend=backend)
    program = backend.compile(net, optimizers.SGD(), 64, 8)
    assert program.micro_batch == 8
    assert backend.compile(net, optimizers.SGD(), 4, 8).micro_batch == 4
    if backend.name == "numba":
        assert program.plan.chunk <= 8
        for make in (optimizers.SGD, optimizers.LARS):  # products in panels, and by BLAS
            parts, whole = (
                sum(buffer.nbytes for buffer in backend.compile(net, make(), 64, rows)._memory) for rows in (8, None)
            )
            assert parts < whole


def test_the_plan_tells_of_micro_batches(backend):
    net = fastnn.Network((50, 40, 30), backend=backend)
    plan, parts = net.plan(64), net.plan(64, micro_batch=8)
    assert plan != parts
    assert re.search(r"parts of 8 rows| [1-8] rows at a time", parts), parts  # of each thread, on the CPU engine
    assert net.plan(64, explain=True, micro_batch=8).splitlines()[0] == parts
    assert net.plan(64, micro_batch=64) == plan
    with pytest.raises(ValueError, match="micro_batch=100 is larger than batch_size=64"):  # as `fit` says
        net.plan(64, micro_batch=100)
    with pytest.raises(ValueError, match="micro_batch must be a positive integer, got 0"):
        net.plan(64, micro_batch=0)


@pytest.mark.parametrize(
    ("micro_batch", "error", "message"),
    [
        (0, ValueError, "micro_batch must be a positive integer, got 0"),
        (2.5, TypeError, "micro_batch must be a positive integer"),
        (9, ValueError, "micro_batch=9 is larger than batch_size=8"),
    ],
)
def test_micro_batches_that_are_refused(backend, micro_batch, error, message):
    net = network(backend, "float64")
    before = theta_of(net)
    with pytest.raises(error, match=message):
        net.fit(*data(), batch_size=8, micro_batch=micro_batch)
    np.testing.assert_array_equal(theta_of(net), before)


def test_adamw_is_said_to_be_adam_with_a_decay():
    with pytest.raises(ValueError, match=r"AdamW is fastnn\.optimizers\.Adam\(1e-3, weight_decay=0\.01\)"):
        fastnn.optimizers.get("adamw")


def test_steps_of_a_tenth_come_where_they_should():
    """0.3 / 0.1 is less than 3 in binary."""
    s = fastnn.schedules.Step(0.3, 0.1, 0.5)
    np.testing.assert_allclose([float(s.at(k / 10)) for k in range(50)], [0.3 * 0.5**k for k in range(50)], rtol=1e-12)
    np.testing.assert_allclose(float(s.at(0.3 - 1e-9)), 0.3 * 0.25)
