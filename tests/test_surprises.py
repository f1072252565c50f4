"""What surprised somebody who used fastnn for the first time: nothing silent, nothing misleading, nothing fixed
that looks as if it could be set.
"""

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fastnn
from fastnn import optimizers, small_data
from fastnn.cli import settings
from fastnn.data import tables

ROWS = 40


def data(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, 4)).astype(np.float32)
    return X, (X[:, 0] + X[:, 1] > 0).astype(int)


def net_of(backend, **options):
    return fastnn.Network([4, 8, 2], backend=backend, **options)


# ---- callbacks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "epochs"),
    [
        (True, 1),
        (np.True_, 1),
        (np.float32(1) < 2, 1),
        (False, 3),
        (np.False_, 3),
        (None, 3),
        (1, 3),
        ("stop", 3),
        ([1], 3),
    ],
    ids=["True", "np.True_", "a comparison", "False", "np.False_", "None", "1", "text", "list"],
)
def test_a_callback_stops_with_true_as_python_or_numpy_give_it(answer, epochs):
    history = net_of("numpy").fit(*data(), epochs=3, callbacks=[lambda *_: answer])
    assert len(history.cost) == epochs


def test_parameters_that_a_callback_spoils_are_told_by_its_name(backend):
    net = net_of(backend)

    def spoil(epoch, history, net):
        net.backend.copyto(net.theta, net.backend.asarray(np.full(net.theta.shape, np.nan, net.dtype)))

    with pytest.raises(ValueError, match=r"a callback has left NaN or infinity in the parameters.*after epoch 0"):
        net.fit(*data(), epochs=3, callbacks=[spoil])
    assert net.epochs_trained == 1


def test_a_fit_within_a_callback_of_the_same_network_says_so_and_one_of_another_works(backend):
    net, seen = net_of(backend), []

    def callback(epoch, history, net):
        with pytest.raises(RuntimeError, match="by the fit that called this one, from a callback"):
            net.fit(*data(), epochs=1)
        seen.append(net_of(backend).fit(*data(), epochs=1).cost)

    net.fit(*data(), epochs=1, callbacks=[callback])
    assert len(seen) == 1
    net.fit(*data(), epochs=1)  # released


# ---- what is fixed
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sizes", (4, 8, 3)),
        ("hidden", "tanh"),
        ("output", "sigmoid"),
        ("cost", "squared_error"),
        ("pair", None),
        ("dtype", "float64"),
        ("layout", None),
    ],
)
def test_what_the_network_was_made_for_cannot_be_replaced(backend, name, value):
    net = net_of(backend)
    before = getattr(net, name)
    with pytest.raises(AttributeError, match=f"net.{name} is fixed once the network is made"):
        setattr(net, name, value)
    assert getattr(net, name) is before


def test_l2_may_be_set_and_is_checked(backend):
    X, y = data()
    net = net_of(backend, dtype="float64")
    assert net.l2 == 0.0
    plain = net.mean_cost(X, y)
    net.l2 = 3
    squares = sum((np.array(backend.to_numpy(W)) ** 2).sum() for W in net.weights)
    assert net.mean_cost(X, y) == pytest.approx(plain + 3 / (2 * ROWS) * squares, rel=1e-12)
    for wrong in (-1, float("nan"), "0.1", None):
        with pytest.raises((TypeError, ValueError), match="l2 must be a finite number >= 0"):
            net.l2 = wrong
    assert net.l2 == 3.0
    with pytest.raises(ValueError, match="l2 must be"):
        net_of("numpy", l2=-1)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["deepcopy", "pickle"]
)
def test_copies_keep_what_is_fixed_and_l2(copied):
    net = copied(net_of("numpy", l2=0.5))
    assert (net.l2, net.sizes, net.cost) == (0.5, (4, 8, 2), "cross_entropy")
    with pytest.raises(AttributeError, match="is fixed"):
        net.sizes = (1, 2)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (5, "init must be a name, an Initializer, a flat vector or a pair"),
        ({"weights": 1}, "init must be a name, an Initializer, a flat vector or a pair"),
        (b"he", "init must be a name, an Initializer, a flat vector or a pair"),
        (("he", "he"), "init weights must be a list of 2 arrays, one per layer, got str"),
        (None, "init must be a name, an Initializer, a flat vector or a pair"),
        ((1.0, 2.0), "init weights must be a list of 2 arrays, one per layer, got float"),
        (([np.zeros((8, 4)), np.zeros((2, 8))], 0), "init biases must be a list of 2 arrays, one per layer, got int"),
    ],
    ids=["number", "dict", "bytes", "names", "None", "pair of numbers", "bias alone"],
)
def test_an_init_that_is_nothing_of_the_kind_is_a_type_error(init, message):
    with pytest.raises(TypeError, match=message):
        net_of("numpy", init=init)


@pytest.mark.parametrize(
    ("name", "defaults"), [("digits", settings.DIGITS), ("mnist", settings.MNIST), ("a table", settings.TABLE)]
)
def test_the_help_tells_the_defaults_of_each_kind_of_data(name, defaults):
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    said = subprocess.run(
        [sys.executable, "-m", "fastnn", "train", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    options = {option.name.replace("_", "-"): getattr(defaults, option.name) for option in dataclasses.fields(defaults)}
    text = " ".join(said.split())
    told = text[text.index(f"{name}: --hidden") :].split(";")[0].split("Arguments")[0]
    for option, value in options.items():  # None: of so many rows as there are, which is explained
        assert f"--{option} {'' if value is None else value if isinstance(value, str) else f'{value:.3g}'}" in told
    if name == "a table":
        assert "--epochs 100, of few rows so many more that they are 1,000 steps" in told
        assert "--l2 3, below 300 rows a hundredth of their number" in told
        assert [small_data.epochs_of(rows, 32) for rows in (10**6, 12_800, 6_400, 64)] == [20, 50, 100, 500]
        assert (small_data.l2_of(300), small_data.l2_of(50)) == (3, 0.5)


@pytest.mark.parametrize(
    ("options", "here"),
    [
        ({"init": "xavier"}, "glorot"), ({"init": "Kaiming-Normal"}, "he"), ({"output": "linear"}, "identity"), ({"hidden": "logistic"}, "sigmoid"), ({"hidden": "rleu"}, "relu"),
        ({"cost": "mse"}, "squared_error"), ({"cost": "log loss"}, "cross_entropy"), ({"backend": "gpu"}, "cupy"), ({"backend": "cpu"}, "numba"), ({"precision": "bfloat16"}, "bf16"),
    ],
    ids=str,
)  # fmt: skip
def test_the_names_of_other_libraries_lead_to_those_here(options, here):
    with pytest.raises(ValueError, match=f"; did you mean '{here}'[?]"):
        fastnn.Network([4, 8, 2], **options)


def test_a_pair_of_anything_with_one_array_per_layer_is_an_init():
    net = net_of("numpy", seed=4)
    np.testing.assert_array_equal(net_of("numpy", init=(net.weights, net.biases)).theta, net.theta)
    stacked = np.arange(8.0).reshape(1, 2, 4), np.ones((1, 2))
    np.testing.assert_array_equal(fastnn.Network([4, 2], init=stacked, backend="numpy").theta, [*range(8), 1, 1])


# ---- rules
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate"), [("sgd", 0.1), ("momentum", 0.05), ("adam", 0.001), ("lars", 1.0), ("lamb", 0.01)]
)
def test_every_rule_has_a_rate_of_its_own_and_learns_with_it(name, rate):
    assert optimizers.get(name).rate == rate
    history = net_of("numpy").fit(*data(), optimizer=name, epochs=10, batch_size=8)
    assert set(history.learning_rate) == {rate}
    assert history.cost[-1] < (1.0 if name == "lars" else 0.9) * history.cost[0]


def test_gradient_descent_has_no_state_and_serves_one_network_after_another(backend):
    rule = optimizers.SGD(0.05)
    for seed in (1, 2):
        net, alone = net_of(backend, seed=seed), net_of(backend, seed=seed)
        net.fit(*data(), optimizer=rule, epochs=2, batch_size=8)
        alone.fit(*data(), optimizer=optimizers.SGD(0.05), epochs=2, batch_size=8)
        np.testing.assert_array_equal(backend.to_numpy(net.theta), backend.to_numpy(alone.theta))
        assert rule.t == 10


# ---- data that is not what it seems
# -----------------------------------------------------------------------------------


def pixels(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (ROWS, 4)).astype(np.uint8), rng.integers(0, 2, ROWS)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score", "fit"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixels_that_became_floats_are_noticed_where_integers_are_scaled(backend, method, dtype):
    X, y = pixels()
    net = net_of(backend)
    net.fit(X, y, epochs=1, scale=1 / 255)
    arguments = (y,) if method in ("score", "fit") else ()
    with pytest.warns(
        fastnn.UnscaledInput,
        match=f"whole numbers up to 25[0-9] as {np.dtype(dtype).name}.*this network multiplies integers by "
        "scale=0.00392157",
    ) as caught:
        getattr(net, method)(X.astype(dtype), *arguments)
    assert [w.filename for w in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (X, (X / 255).astype(dtype), (X > 9).astype(dtype), X.astype(dtype) + dtype(0.5)):
            # integers, scaled, 0 and 1, and no whole numbers
            getattr(net, method)(fine, *arguments)


def test_validation_rows_are_looked_at_as_well():
    X, y = pixels()
    with pytest.warns(fastnn.UnscaledInput, match="validation X holds whole numbers"):
        net_of("numpy").fit(X, y, epochs=1, scale=1 / 255, validation=(X.astype(np.float32), y))


def test_a_network_without_a_scale_takes_any_floats_without_a_word():
    X, y = pixels()
    net = net_of("numpy")
    net.fit(X.astype(np.float32) // 16, y, epochs=1, learning_rate=1e-6)
    net.predict(X.astype(np.float32))


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["007", "08", "7"], ["007", "08", "7"]),
        ([str(2**53), str(2**53 + 1), str(2**53 + 2)], [str(2**53 + k) for k in range(3)]),
    ],
)
def test_names_made_of_digits_stay_as_they_are_written(tmp_path, cells, classes):
    path = tmp_path / "t.csv"
    path.write_text("x,name\n" + "".join(f"{i / 3},{cells[i % 3]}\n" for i in range(30)))
    table = tables.load(path, "name")
    assert table.task == "classification"
    assert table.classes == classes
    assert table.y.tolist() == [i % 3 for i in range(30)]
    assert tables.load(path, "name", task="regression").classes is None


def test_large_integers_of_an_array_stay_apart(tmp_path):
    path = tmp_path / "t.npz"
    np.savez(path, x=np.arange(30) / 3, name=2**53 + np.arange(30) % 3)
    assert tables.load(path, "name").classes == [str(2**53 + k) for k in range(3)]


@pytest.mark.parametrize("cells", [["0", "1", "2"], ["0.5", "00", "1.5"], ["-1", "0", "1"]])
def test_other_numbers_are_numbers(tmp_path, cells):
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "".join(f"{i / 3},{cells[i % 3]}\n" for i in range(30)))
    if "00" in cells:
        assert tables.load(path, "y", task="regression").y[:3].tolist() == [0.5, 0, 1.5]
    else:
        assert tables.load(path, "y").classes == [int(cell) for cell in sorted(cells, key=int)]


# ---- divergence
# -------------------------------------------------------------------------------------------------------


def test_a_divergence_names_the_step_and_layer_in_which_it_happens(backend):
    """One row of the third step is huge: the steps before it were fine, and what they left behind does not hide
    that.
    """
    X, y = data()
    X[17] = 3e38
    net = fastnn.Network([4, 8, 8, 2], backend=backend, hidden="identity", l2=0.1)
    with pytest.raises(fastnn.Diverged, match=r"diverged in epoch 0, step 2: .* first in layer 2") as caught:
        net.fit(X, y, batch_size=8, shuffle=False, epochs=2, optimizer="sgd", learning_rate=0.01)
    assert caught.value.layer == 2


@pytest.mark.parametrize(
    "options", [{"threads": 1}, {"threads": 2, "sliced": True}, {"threads": 2, "sliced": False}], ids=str
)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_nor_does_what_a_step_left_in_the_padding_of_panels(rule, options):
    X, y = data()
    X[17] = 3e38
    net = fastnn.Network(
        [4, 8, 8, 2], backend=fastnn.get_backend("numba", panels=True, **options), hidden="identity", l2=0.1
    )
    assert "in panels" in net.plan(8, optimizer=rule)
    with pytest.raises(fastnn.Diverged, match=r"diverged in epoch 0, step 2: .* first in layer 2"):
        net.fit(X, y, batch_size=8, shuffle=False, epochs=2, optimizer=rule, learning_rate=0.01)


def test_a_divergence_tells_what_was_large_before(backend):
    X, y = data()
    for size, said, unsaid in (
        (1e3, "parameters were as large as 1000 before already", "initial weights"),
        (1.0, "the initial weights are too large", "before already"),
    ):
        net = net_of(backend, init="zeros", hidden="identity")
        net.theta[...] = 0.01
        net.weights[0][0, 0] = size
        with pytest.warns(fastnn.SymmetricStart), pytest.raises(fastnn.Diverged) as caught:
            net.fit(
                np.where(X > 2, np.float32(3e38), X * np.float32(1e37)),
                y,
                optimizer="sgd",
                learning_rate=1e30,
                epochs=3,
            )
        assert said in str(caught.value)
        assert unsaid not in str(caught.value)


def test_a_divergence_that_does_not_repeat_names_no_step(monkeypatch):
    """Steps taken one at a time may round differently; what was not found is not said."""
    X, y = data()
    net = fastnn.Network([4, 8, 2], backend="numpy")
    made = net.backend.program_for

    def spoilt(job):
        program = made(job)
        run = program.run
        program.run = lambda X, y, order, start, stop, rates=None: (
            (float("nan"), stop - start) if stop - start > 1 else run(X, y, order, start, stop, rates)
        )
        return program

    monkeypatch.setattr(net.backend, "program_for", spoilt)
    with pytest.raises(
        fastnn.Diverged, match=r"epoch 0, steps 0 to \d+: .* these steps one at a time stays finite"
    ) as caught:
        net.fit(X, y, batch_size=8, epochs=1)
    assert caught.value.layer is None
    assert np.isfinite(net.theta).all()


def test_a_refused_start_leaves_the_optimizer_free():
    """Where warnings are errors: a rule that was bound to a network that was never trained would be refused by others."""
    X, y = data()
    rule = fastnn.optimizers.Adam()
    with pytest.raises(fastnn.SymmetricStart):  # in this suite warnings are errors
        fastnn.Network([4, 8, 2], init="zeros", backend="numpy").fit(X, y, optimizer=rule)
    fastnn.Network([4, 8, 2], backend="numpy").fit(X, y, optimizer=rule, epochs=1)


def test_targets_that_the_dtype_does_not_tell_apart_are_warned_of(backend):
    """1e9 +- 1 in float32 are all the same number."""
    X, y = np.linspace(-1, 1, 40)[:, None], 1e9 + np.linspace(-1, 1, 40)
    options = {"output": "identity", "cost": "squared_error", "backend": backend}
    words = r"y is 1e\+09 \+- 0\.59\d+, which float32 tells apart to 60 only: subtract its mean"
    with pytest.warns(fastnn.UnscaledInput, match=words):
        fastnn.Network([1, 1], **options).fit(X, y, epochs=1, learning_rate=1e-9)
    both = np.column_stack([X[:, 0], y])
    with pytest.warns(fastnn.UnscaledInput, match=r"column 1 of y is 1e\+09 \+- 0.59\d+, which float32"):
        fastnn.Network([1, 2], **options).fit(X, both, epochs=1, learning_rate=1e-9)
    fastnn.Network([1, 1], **options).fit(X, y - 1e9 + 1000, epochs=1, learning_rate=1e-9)
    fastnn.Network([1, 1], **options, dtype="float64").fit(X, y, epochs=1, learning_rate=1e-9)
    fastnn.Network([1, 1], **options).fit(X, np.full(40, 1e9), epochs=1, learning_rate=1e-9)  # all the same anyway
