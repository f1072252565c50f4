"""Ordinary slips, each refused in one sentence or without harm."""

import warnings

import numpy as np
import pytest

import fastnn
from fastnn import dropout, row_weights
from fastnn.cli.app import app
from fastnn.initializers import Initializer, Normal
from fastnn.optimizers import SGD, Adam
from fastnn.schedules import Piecewise, Schedule, Step

rng = np.random.default_rng(0)
X, y = rng.standard_normal((60, 4)).astype(np.float32), np.arange(60) % 2


def net_of(backend="numpy", **options):
    return fastnn.Network([4, 8, 2], backend=backend, **{"seed": 0} | options)


def test_the_activations_of_the_inputs_are_no_part_of_the_callers_data(backend):
    net = net_of(backend)
    for rows in (X.copy(), X.astype(np.float64), np.asfortranarray(X), X.copy()[:, :]):
        kept = rows.copy()
        a = net.forward(rows)
        np.testing.assert_array_equal(a[0], kept.astype(np.float32))
        a[0][...] = 7
        np.testing.assert_array_equal(rows, kept)


class Odd(Initializer):
    """Draws what it is told."""

    name = "odd"

    def __init__(self, drawn):
        self.drawn = drawn

    def draw(self, n_in, n_out, rng):
        return self.drawn(n_in, n_out)

    def __repr__(self):
        return "Odd()"


@pytest.mark.parametrize(
    ("init", "words"),
    [
        (Normal(1e300), r"init must be finite, got .* which overflows float32,"),
        (Odd(lambda n_in, n_out: np.full((n_out, n_in), np.nan)), "init must be finite, got nan"),
        (Odd(lambda n_in, n_out: np.ones(n_in)), r"init=Odd\(\) must draw weights of shape \(8, 4\), got \(4,\)"),
        (Odd(lambda n_in, n_out: np.ones((n_out, 1))), r"must draw weights of shape \(8, 4\), got \(8, 1\)"),
        (Odd(lambda n_in, n_out: "x"), r"what Odd\(\) draws must hold real numbers"),
    ],
)
def test_initializers_are_looked_at_as_vectors_are(init, words):
    with pytest.raises((ValueError, TypeError), match=words):
        net_of(init=init)


class Own(Schedule):
    def __init__(self, at):
        self.at = at

    def __repr__(self):
        return "Own()"


def test_a_schedule_of_ones_own_may_say_float32(backend):
    net, twin = net_of(backend), net_of(backend)
    history = net.fit(
        X, y, learning_rate=Own(lambda e: np.full(np.shape(e), 0.25, np.float32)), optimizer="sgd", epochs=2
    )
    assert history.learning_rate == [0.25] * 2
    twin.fit(X, y, learning_rate=0.25, optimizer="sgd", epochs=2)
    np.testing.assert_allclose(*(each.backend.to_numpy(each.theta) for each in (net, twin)), rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Own(lambda e: 0.1 if np.ndim(e) else np.array(0.1)), r"learning_rate=Own\(\) must give a rate for each .* got shape \(\)"),
        (Own(lambda e: np.full(np.shape(e), -0.1)), r"learning_rate=Own\(\) must give finite rates >= 0, got -0.1 at epoch 0"),
        (Own(lambda e: np.where(np.asarray(e) > 1, np.nan, 0.1)), "must give finite rates >= 0, got nan at epoch"),
        (Own(lambda e: "fast"), r"learning_rate=Own\(\) must give numbers, got str"),
        (Step(1e-3, every=1, factor=1e200), "must give finite rates >= 0, got inf at epoch"),
    ],
)  # fmt: skip
def test_a_schedule_that_gives_something_else_is_named(schedule, words):
    net = net_of()
    before = net.theta.copy()
    with pytest.raises((ValueError, TypeError), match=words):
        net.fit(X, y, optimizer="sgd", learning_rate=schedule, epochs=3)
    np.testing.assert_array_equal(net.theta, before)


def test_a_schedule_that_ends_far_away_is_looked_at_too():
    """Epochs beyond the first million are not all looked at, but the last is."""
    net = net_of()
    with pytest.raises(ValueError, match=r"is down to 0 in epoch 1999999, but this fit runs from epoch 0 to 1999999"):
        net.fit(X, y, optimizer=SGD(Own(lambda e: np.where(np.asarray(e) > 1_500_000, 0.0, 0.1))), epochs=2_000_000)


def test_a_rule_begins_no_later_than_the_epoch_to_which_its_network_was_set_back():
    net, rule = net_of(), SGD(Piecewise((1,), (0.1, 0.2)))
    net.epochs_trained = 5
    net.fit(X, y, optimizer=rule, epochs=1)
    net.epochs_trained = 2
    assert rule.began(net) == 2
    assert net.fit(X, y, optimizer=rule, epochs=1).learning_rate == [0.1]


@pytest.mark.parametrize("state", ["raise", "warn"])
def test_the_callers_floating_point_state_plays_no_part(backend, state):
    net, wild = net_of(backend), net_of(backend, output="identity", cost="squared_error")
    with np.errstate(all=state), warnings.catch_warnings():
        warnings.simplefilter("error")
        net.predict(X * 100)
        net.fit(X * 50, y, epochs=1, validation=0.2)
        net.cost_and_gradient(X * 100, y)
        net.step(net.cost_and_gradient(X, y)[1] * np.float32(1e-30), Adam())
        with pytest.raises(ValueError, match="products overflow"):
            net.predict(X * np.float32(1e38))
        wild.predict(X * np.float32(1e38))


def test_weights_of_rows_do_not_outlive_their_fit():
    net, rule = net_of("numba"), Adam()
    net.fit(X, y, optimizer=rule, epochs=1)
    net.fit(X, y, optimizer=rule, epochs=1, sample_weight=np.ones(60))
    assert net._kept_program is not None
    assert net._kept_program[0].weights is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fastnn.Network({4, 8, 2}), "sizes must be a sequence of positive integers"),
        (lambda: fastnn.Network({4: 1, 2: 1}), "sizes must be a sequence of positive integers"),
        (lambda: fastnn.Network(np.array(4)), "sizes must be a sequence of positive integers"),
        (lambda: net_of(l2=10**400), "l2 must be a finite number"),
        (lambda: SGD(10**400), "learning_rate must be a finite number"),
        (lambda: net_of().fit(X, y, optimizer=Adam), r"an instance is Adam\(\)"),
        (lambda: net_of().fit(X, y, optimizer="LBFGS"), "did you mean 'lbfgs'"),
        (lambda: net_of(hidden="swish"), "did you mean 'silu'"),
        (lambda: net_of().cost_and_gradient(X, y, training_rows=0.5), "training_rows must be a positive integer"),
        (lambda: fastnn.warm_up(net_of(), dtypes="text"), "dtypes must be NumPy dtypes, got 'text'"),
    ],
)
def test_refused(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_one_number_of_rows_and_one_dtype_may_stand_for_themselves():
    assert fastnn.warm_up(net_of(), rows=3, dtypes="float32") >= 0


def test_a_step_that_is_refused_binds_no_rule():
    net, rule = net_of(), Adam()
    with pytest.raises(ValueError, match="overlap"):
        net.step(net.theta, rule)
    assert not rule.belongs_to(net)
    rule.in_use.of_this_process().acquire()
    with pytest.raises(RuntimeError, match="trains another network at this moment"):
        net.step(np.ones_like(net.theta), rule)
    rule.in_use.of_this_process().release()
    net.step(np.ones_like(net.theta), rule)
    assert rule.t == 1


def test_predictions_are_not_written_over_the_model_or_their_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.column_stack([rng.random((40, 2)), np.arange(40) % 2])
    np.savetxt("t.csv", rows, delimiter=",", header="a,b,y", comments="")
    assert (
        app(["train", "t.csv", "--target", "y", "--epochs", "1", "--no-plot", "--save", "m"], standalone_mode=False)
        == 0
    )
    model = next(tmp_path.glob("m*"))
    before = model.read_bytes(), (tmp_path / "t.csv").read_bytes()
    for output, what in ((model.name, "the model"), ("./t.csv", "the file to predict")):
        code = app(["predict", model.name, "t.csv", "--output", output], standalone_mode=False)
        assert code == 2
        assert f"is {what} itself" in capsys.readouterr().err
    assert (model.read_bytes(), (tmp_path / "t.csv").read_bytes()) == before


def test_a_probability_above_zero_leaves_something_out():
    assert [dropout.limit_of(p) for p in (0.0, 1e-12, 1e-10)] == [0, 1, 1]


def test_from_which_sum_of_weights_on_l2_is_strong(recwarn):
    """Weights that sum to so little beside lambda are warned of; both sides of the threshold."""
    for total, l2 in ((5.0, 1.6), (9.9, 3.0)):  # lambda beyond 0.3 of the sum, the sum below a tenth of the rows
        with pytest.warns(UserWarning, match=f"sample_weight sums to {total:g} over 100 rows"):
            row_weights.warn_of_small_sum(total, 100, l2)
    for total, l2 in ((5.0, 1.4), (10.1, 5.0), (100.0, 50.0)):
        row_weights.warn_of_small_sum(total, 100, l2)
    assert not recwarn.list


def test_tables_of_nullable_numbers_are_arrays(backend):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"a": [1, 2, 3, 4], "b": [0.5, 1.5, 2.5, 3.5], "c": [True, False, True, False], "d": [4, 3, 2, 1]}
    )
    net, plain = net_of(backend), frame.astype(float).to_numpy()
    for nullable in (frame.convert_dtypes(), frame.astype({"a": "Int64"}), frame.astype("Float64"), frame):
        if nullable is not frame:
            np.testing.assert_array_equal(net.forward(nullable)[0], plain.astype("f4"))
        np.testing.assert_array_equal(net.predict(nullable.astype(float)), net.predict(plain))
    net.fit(frame.convert_dtypes(), pandas.Series([0, 1, 0, 1], dtype="Int64"), epochs=1)
    lacking = frame.convert_dtypes()
    lacking.loc[2, "b"] = pandas.NA
    with pytest.raises(ValueError, match=r"X has a missing value at row 2, column 1; fill it, or drop the row"):
        net.predict(lacking)
    with pytest.raises(ValueError, match=r"y has a missing value at row 1"):
        net.fit(plain, pandas.Series([0, pandas.NA, 0, 1], dtype="Int64"), epochs=1)


def test_parameters_that_are_nan_are_told_from_data_that_are_too_large(backend):
    net = net_of(backend)
    net.theta[:] = float("nan")
    with pytest.raises(ValueError, match="the parameters hold NaN or infinity"):
        net.predict(X)


def test_infinity_among_whole_numbers_is_said_and_nothing_else():
    """NumPy would warn of the remainder of infinity first, by which pixels that became floats are found."""
    net = net_of("numpy")
    net.fit((100 * np.abs(X)).astype(np.uint8), y, epochs=1, scale=1 / 255)
    spoilt = np.round(100 * np.abs(X)).astype(np.float32)
    spoilt[1, 0] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"X must be finite.*row 1, column 0"):
            net.predict(spoilt)


def test_a_scale_that_is_0_in_the_dtype_is_refused():
    net = net_of("numpy")
    with pytest.raises(ValueError, match=r"scale=1e-46 is 0 in float32"):
        net.fit((100 * np.abs(X)).astype(np.uint8), y, epochs=1, scale=1e-46)
    with pytest.raises(ValueError, match=r"scale=1e-300 is 0 in float32"):
        net.scale = 1e-300
    assert net.scale is None


def test_an_update_that_fails_is_no_step(monkeypatch):
    def full(*arguments):
        raise MemoryError

    net, rule = net_of("numpy"), Adam()
    _, gradient = net.cost_and_gradient(X, y)
    monkeypatch.setattr(type(net.backend), "_update", full)
    with pytest.raises(MemoryError):
        net.step(gradient, rule)
    assert rule.t == 0


def test_engines_of_the_same_options_are_one_engine():
    """Each of the GPU holds streams and handles."""
    one = fastnn.get_backend("numba", threads=1)
    assert fastnn.get_backend("numba", threads=1) is one
    assert fastnn.get_backend("numba", threads=2) is not one
    with pytest.raises((TypeError, ValueError), match="threads"):
        fastnn.get_backend("numba", threads=True)


def test_more_slips(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"step=1e-30 is lost beside a parameter"):
        fastnn.gradcheck(net_of(dtype="float64"), X, y, step=1e-30)
    with pytest.raises(ValueError, match="a number is expected behind the colon"):
        net_of(output="identity", cost="huber:1_0")
    monkeypatch.setenv("FASTNN_DEBUG", "1")
    with pytest.raises(ValueError, match="SOURCE 'nothing' is not known"):
        app(["train", "nothing"], standalone_mode=False)
    monkeypatch.setenv("FASTNN_DEBUG", "")
    assert app(["train", "nothing"], standalone_mode=False) == 2
