"""What is said of rows whose answers are known, against scikit-learn."""

import json

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

import fastnn
from fastnn.cli.app import app
from fastnn.confusion import confusion_matrix
from fastnn.evaluation import Evaluation, _gain_of_classes, _roc_auc, evaluate_file, evaluated

codes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(codes)
def test_of_classes(pairs):
    y, answers = np.array(pairs).T
    found = Evaluation(len(y), 0.0, confusion=confusion_matrix(y, answers, 4))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(y, answers))
    assert found.f1 == pytest.approx(metrics.f1_score(y, answers, average="macro", zero_division=0))


@given(codes)
def test_gain_over_the_most_frequent_class(pairs):
    """Against the mean of the paired differences of the rows, and its standard error."""
    y, answers = np.array(pairs).T
    found = _gain_of_classes(confusion_matrix(y, answers, 4))
    if len(set(y)) == 1 or len(y) == 1:
        assert found is None
        return
    most = int(np.bincount(y).argmax())
    right = (answers == y).astype(float) - (y == most)
    np.testing.assert_allclose(found, (right.mean(), stats.sem(right)), atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_roc_auc(pairs):
    p, second = np.array([p / 5 for p, _ in pairs]), np.array([s for _, s in pairs])
    found = _roc_auc(p, second)
    if second.all() or not second.any():
        assert found is None
    else:
        assert found == pytest.approx(metrics.roc_auc_score(second, p))


def trained(folder, target, *options):
    """A model of the command line, and what it says of its own file."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3))
    table = folder / "t.csv"
    rows = [",".join([*(f"{v:.5f}" for v in row), str(t)]) for row, t in zip(X, target(X, rng), strict=True)]
    table.write_text("a,b,c,y\n" + "\n".join(rows) + "\n")
    words = ["train", str(table), "--target", "y", "--epochs", "20", "--no-plot", "--save", str(folder / "m"), *options]
    assert app(words, standalone_mode=False) == 0
    return folder / "m", table


def test_on_the_command_line_of_two_classes(tmp_path, capsys):
    model, table = trained(tmp_path, lambda X, rng: np.where(X[:, 0] + rng.standard_normal(300) > 1, "yes", "no"))
    shown = capsys.readouterr().out
    assert "balanced accuracy " in shown
    assert "ROC AUC 0." in shown
    assert app(["evaluate", str(model), str(table), "--json"], standalone_mode=False) in (0, None)
    found = json.loads(capsys.readouterr().out)
    net = fastnn.load(model)
    answers = fastnn.prediction.predict_file(net, table)
    y = [line.rsplit(",", 1)[1] for line in table.read_text().split()[1:]]
    assert found["better_than_baseline"] is True
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, answers.answers))
    assert found["f1"] == pytest.approx(metrics.f1_score(y, answers.answers, average="macro"))
    yes = answers.all_probabilities[:, answers.classes.index("yes")]
    assert found["roc_auc"] == pytest.approx(metrics.roc_auc_score(np.array(y) == "yes", yes))


def test_on_the_command_line_of_quantities(tmp_path, capsys):
    model, table = trained(
        tmp_path, lambda X, rng: np.round(X[:, 0] * 50 + 5 * rng.standard_normal(300), 3), "--cost", "quantile:0.8"
    )
    shown = capsys.readouterr().out
    assert "\ntest       pinball loss " in shown
    assert " of the quantile 0.8, D2 0." in shown
    assert "mean absolute error " in shown
    assert "% of the targets are below the predicted quantile" in shown
    net = fastnn.load(model)
    found = evaluate_file(net, table)
    answers = np.array(fastnn.prediction.predict_file(net, table).answers)
    y = np.array([line.rsplit(",", 1)[1] for line in table.read_text().split()[1:]], float)
    assert found.mae == pytest.approx(metrics.mean_absolute_error(y, answers), rel=1e-5)
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(y, answers), rel=1e-5)
    assert found.below == pytest.approx((y < answers).mean(), abs=0.005)
    assert 0.6 < found.below < 0.95
    assert found.pinball == pytest.approx(metrics.mean_pinball_loss(y, answers, alpha=0.8), rel=1e-5)
    assert found.d2 == pytest.approx(reference.d2_pinball(y, answers, 0.8), rel=1e-5)
    assert app(["evaluate", str(model), str(table), "--json"], standalone_mode=False) in (0, None)
    told = json.loads(capsys.readouterr().out)
    assert (told["pinball"], told["d2"]) == (found.pinball, found.d2)


def test_on_the_command_line_of_absolute_errors(tmp_path, capsys):
    options = ("--cost", "absolute_error", "--json", "--backend", "numpy")
    model, table = trained(tmp_path, lambda X, rng: np.round(X[:, 1] * 9 + rng.standard_normal(300), 3), *options)
    of_train = json.loads(capsys.readouterr().out)
    assert (of_train["test_pinball"], 0.2 < of_train["test_d2"] < 1) == (None, True)
    found = evaluate_file(fastnn.load(model), table)
    answers = fastnn.prediction.predict_file(fastnn.load(model), table).answers
    y = [float(line.rsplit(",", 1)[1]) for line in table.read_text().split()[1:]]
    assert found.d2 == pytest.approx(metrics.d2_absolute_error_score(y, answers), rel=1e-5)
    assert app(["evaluate", str(model), str(table)], standalone_mode=False) in (0, None)
    shown = capsys.readouterr().out
    assert shown.startswith(f"evaluation mean absolute error {found.mae:.4g}, D2 {found.d2:.4f}, cost ")


quantities = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=30)


@given(quantities, st.sampled_from([0.1, 0.25, 0.5, 0.9, 0.97]))
def test_pinball_and_d2(pairs, q):
    """Of a network that repeats its input, in a unit of its own."""
    y, answers = np.array(pairs, float).T
    net = fastnn.Network(
        [1, 1], output="identity", cost=f"quantile:{q}", init=np.array([1.0, 0.0]), backend="numpy", dtype="float64"
    )
    known = {"classes": None, "target_mean": 3.0, "target_std": 4.0}
    found = evaluated(net, known, (answers[:, None] - 3) / 4, (y - 3) / 4)
    assert found.pinball == pytest.approx(metrics.mean_pinball_loss(y, answers, alpha=q), abs=1e-12)
    assert found.d2 == pytest.approx(reference.d2_pinball(y, answers, q), abs=1e-9)


def test_there_is_no_d2_of_one_row():
    net = fastnn.Network([1, 1], output="identity", cost="absolute_error", backend="numpy")
    found = evaluated(net, {"classes": None, "target_mean": 0.0, "target_std": 1.0}, np.ones((1, 1)), np.ones(1))
    assert (found.d2, found.gain, found.better) == (None, None, None)
