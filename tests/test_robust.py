"""Targets of costs that do not mind a few wild ones: their unit does not mind them either."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastnn
from fastnn.cli.app import app
from fastnn.data import tables
from fastnn.data.dataset import deal
from fastnn.estimators import DenseRegressor
from fastnn.prediction import predict_file
from fastnn.robust import centre_and_spread, is_robust

COSTS = ["absolute_error", "huber:1.35", "quantile:0.5"]


def test_which_are():
    assert all(map(is_robust, COSTS))
    assert not any(map(is_robust, ["squared_error", "cross_entropy", None, 3]))


@pytest.mark.parametrize("cost", [*COSTS, "quantile:0.9"])
def test_of_normal_numbers_they_are_median_quantile_and_standard_deviation(cost):
    values = np.random.default_rng(0).normal([3, -20], [2, 50], (200_000, 2))
    centre, spread = centre_and_spread(cost, values)
    z = 1.2815515655446004 if cost == "quantile:0.9" else 0  # of the normal distribution
    np.testing.assert_allclose(centre, [3 + 2 * z, -20 + 50 * z], atol=0.5)
    np.testing.assert_allclose(spread, [2, 50], rtol=0.02)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 4)), min_size=1, max_size=30).filter(
        lambda rows: any(count for _, count in rows)
    ),
    st.sampled_from([*COSTS, "quantile:0.8"]),
)
def test_a_row_that_counts_twice_is_two_rows(rows, cost):
    values, counts = np.array(rows, float).T
    repeated = np.repeat(values, counts.astype(int))[:, None]
    found = centre_and_spread(cost, values[:, None], counts)
    again = centre_and_spread(cost, repeated, np.ones(len(repeated)))
    np.testing.assert_allclose(np.array(found), np.array(again), atol=1e-9)


@pytest.mark.parametrize("cost", [*COSTS, "quantile:0.8"])
@pytest.mark.parametrize("rows", [1, 2, 7, 200])
def test_no_weights_are_weights_of_one(cost, rows):
    values = np.random.default_rng(rows).standard_normal((rows, 2))
    assert np.array_equal(centre_and_spread(cost, values), centre_and_spread(cost, values, np.ones(rows)))
    if cost == "absolute_error":
        np.testing.assert_allclose(centre_and_spread(cost, values)[0], np.median(values, axis=0))


def test_numbers_that_differ_by_rounding_are_one_number():
    """0.3 and 0.1 + 0.2 are 5e-17 apart, and that is no unit."""
    values = np.r_[np.tile([0.3, 0.1 + 0.2], 30), np.linspace(-2, 5, 40)][:, None]
    _, spread = centre_and_spread("huber:1", values)
    assert 0.5 < spread[0] < 3


@pytest.mark.parametrize(("values", "spread"), [([5.0] * 9 + [6.0], 0.31622776601683794), ([5.0] * 4, 0.0)])
def test_where_most_are_one_number_it_is_the_standard_deviation_from_it(values, spread):
    centre, found = centre_and_spread("absolute_error", np.array(values)[:, None])
    assert (centre[0], found[0]) == (5, pytest.approx(spread))


@pytest.fixture(scope="module")
def wild():
    """3,000 rows of a line with a little noise, of which 15 have targets that are 10^5 spreads away."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 3))
    truth = 2 * X[:, 0] + X[:, 1]
    y = truth + 0.3 * rng.standard_normal(3000)
    y[:15] = 1e5 * y.std()
    return X, y, truth


@pytest.mark.parametrize("cost", COSTS)
def test_a_few_wild_targets_change_little(wild, cost):
    """The standard deviation of these targets is 7,000 times that of the others: it left R2 at -2,501 and -0.1."""
    X, y, truth = wild
    model = DenseRegressor(cost=cost, epochs=20, random_state=0).fit(X, y)
    assert 1 < model.spread_[0] < 4
    assert 1 - ((model.predict(X) - truth) ** 2).mean() / truth.var() > 0.97


def test_the_command_line_has_the_same_unit(wild, tmp_path):
    X, y, truth = wild
    path = tmp_path / "t.csv"
    rows = np.column_stack([X, y])
    np.savetxt(path, rows, delimiter=",", header="a,b,c,y", comments="")
    words = ["train", str(path), "--target", "y", "--cost", "huber:1.35", "--epochs", "20", "--no-plot", "--save"]
    model = tmp_path / "t.safetensors"
    code = app([*words, str(model)], standalone_mode=False)
    assert code == 0
    net = fastnn.load(model)
    parts = deal(tables.load(path, "y"), validation=0.1, seed=0, cost="huber:1.35")
    assert net.preprocessing["target_std"] == parts.preprocessing["target_std"]
    assert 1 < net.preprocessing["target_std"] < 4
    answers = np.array(predict_file(net, path).answers)
    assert 1 - ((answers - truth) ** 2).mean() / truth.var() > 0.97
