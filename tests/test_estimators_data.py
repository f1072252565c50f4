"""What estimators are handed: sparse, masked and nullable data, weight decay, validation rows, streams of targets."""

import copy
import inspect
import re

import numpy as np
import pytest
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import fastnn
from fastnn.estimators import DenseClassifier, DenseRegressor
from fastnn.optimizers import Adam
from fastnn.schedules import Step

rng = np.random.default_rng(0)
X = rng.standard_normal((120, 5))
CODES = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
FAST = {"hidden_layer_sizes": (6,), "epochs": 3, "random_state": 0, "backend": "numpy"}


@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
@pytest.mark.parametrize("of", [DenseClassifier, DenseRegressor])
def test_sparse_rows_are_those_of_the_dense_array(of, kind):
    rows = np.where(rng.random((80, 30)) < 0.1, rng.random((80, 30)), 0).astype(np.float32)
    y = np.arange(80) % 3
    dense, thin = (of(**FAST).fit(data, y) for data in (rows, kind(rows)))
    assert dense.network_.theta.tobytes() == thin.network_.theta.tobytes()
    np.testing.assert_array_equal(dense.predict(rows), thin.predict(kind(rows)))
    thin.partial_fit(kind(rows), y)
    watched = of(**FAST).fit(kind(rows), y, X_val=kind(rows[:9]), y_val=y[:9])
    assert len(watched.history_.val_cost) == 3


def test_pipelines_of_text_and_of_many_categories():
    words = np.array(["red", "green", "blue", "cyan", "teal", "pink"])
    texts = [" ".join(rng.choice(words, 5)) for _ in range(150)]
    y = ["has" if "red" in text else "not" for text in texts]
    assert (
        make_pipeline(TfidfVectorizer(), DenseClassifier(random_state=0, backend="numpy")).fit(texts, y).score(texts, y)
        > 0.95
    )
    table = np.column_stack([rng.integers(0, 99, 300), rng.random(300)])
    columns = ColumnTransformer([("c", OneHotEncoder(handle_unknown="ignore"), [0]), ("n", StandardScaler(), [1])])
    assert sparse.issparse(columns.fit_transform(table))
    model = make_pipeline(columns, DenseRegressor((8,), epochs=60, random_state=0, backend="numpy"))
    assert model.fit(table, table[:, 1] * 9).score(table, table[:, 1] * 9) > 0.8


@pytest.mark.parametrize("of", [DenseClassifier, DenseRegressor])
def test_masked_arrays_are_refused(of):
    masked = np.ma.masked_array(X, mask=X > 2)
    for given in ((masked, CODES), (X, np.ma.masked_array(CODES, mask=CODES > 0))):
        with pytest.raises(TypeError, match=r"[Xy] must be a plain array, got a masked one"):
            of(**FAST).fit(*given)
        with pytest.raises(TypeError, match="a masked one"):
            of(**FAST).partial_fit(*given, **({"classes": [0, 1]} if of is DenseClassifier else {}))
        with pytest.raises(TypeError, match=r"[Xy]_val must be a plain array, got a masked one"):
            of(**FAST).fit(X, CODES, X_val=given[0], y_val=given[1])
    model = of(**FAST).fit(X, CODES)
    with pytest.raises(TypeError, match="a masked one"):
        model.predict(masked)


@pytest.mark.parametrize("of", [DenseClassifier, DenseRegressor])
def test_pickles_without_what_has_come_since_are_taken(of):
    model = of(**FAST).fit(X, CODES)
    state = model.__getstate__()
    for name in ("clip_norm", "weight_decay", "verbose", "_rows_of_unit"):
        state.pop(name, None)
    old = of.__new__(of)
    old.__setstate__(state)
    assert (old.clip_norm, old.weight_decay, old.verbose) == (None, None, False)
    repr(old)
    old.partial_fit(X, CODES)
    rule = Adam()
    del rule.__dict__["clip_norm"]
    assert (rule.clip_norm, repr(rule)) == (None, repr(Adam()))


def test_labels_of_nullable_dtypes_keep_their_kind():
    pandas = pytest.importorskip("pandas")
    for dtype, kind in (("Int64", "i"), ("boolean", "b")):
        model = DenseClassifier(**FAST).fit(X, pandas.Series(CODES).astype(dtype))
        assert model.classes_.dtype.kind == kind
        assert model.predict(X).dtype.kind == kind
    apart = pandas.Series([2**53, 2**53 + 1] * 60, dtype="Int64")
    assert DenseClassifier(**FAST).fit(X, apart).classes_.tolist() == [2**53, 2**53 + 1]


def test_weight_decay_is_that_of_the_rule_and_can_be_searched():
    given = DenseClassifier(optimizer="adam", weight_decay=0.3, **FAST).fit(X, CODES)
    instance = DenseClassifier(optimizer=Adam(weight_decay=0.3), **FAST).fit(X, CODES)
    assert given.network_.theta.tobytes() == instance.network_.theta.tobytes()
    assert given.optimizer_.weight_decay == 0.3
    rule = Adam(weight_decay=0.1)
    assert DenseClassifier(optimizer=rule, weight_decay=0.3, **FAST).fit(X, CODES).optimizer_.weight_decay == 0.3
    assert rule.weight_decay == 0.1
    search = GridSearchCV(DenseClassifier(**FAST), {"weight_decay": [None, 0.1]}, cv=2).fit(X, CODES)
    assert set(search.best_params_) == {"weight_decay"}
    for options, words in (
        ({"optimizer": "sgd"}, "is for adam, lars and lamb, not for 'sgd'"),
        ({"optimizer": "lbfgs"}, "is not for 'lbfgs'; give l2"),
    ):
        with pytest.raises(ValueError, match=words):
            DenseClassifier(weight_decay=0.3, **options, **FAST).fit(X, CODES)
    with pytest.raises(ValueError, match="weight_decay must be a finite number >= 0"):
        DenseClassifier(weight_decay=-1, **FAST).fit(X, CODES)


@pytest.mark.parametrize("of", [DenseClassifier, DenseRegressor])
def test_a_copy_has_a_network_of_its_own(of):
    model = of(**FAST).fit(X, CODES)
    before, twin = model.network_.theta.copy(), copy.copy(model)
    twin.partial_fit(X, CODES)
    np.testing.assert_array_equal(model.network_.theta, before)


def test_the_unit_is_that_of_the_training_rows_without_those_that_are_watched():
    y = np.exp(3 * X[:, 0])
    model = DenseRegressor(validation=0.5, **FAST).fit(X, y)
    kept, _ = train_test_split(y, test_size=0.5, random_state=model._seed)
    np.testing.assert_allclose([model.mean_[0], model.spread_[0]], [kept.mean(), kept.std()], rtol=1e-12)
    given = DenseRegressor(**FAST).fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    np.testing.assert_allclose([given.mean_[0], given.spread_[0]], [y[:60].mean(), y[:60].std()], rtol=1e-12)
    net, h = given.network_, given.network_.predict(X[60:])
    scaled = (y[60:] - y[:60].mean()) / y[:60].std()
    assert given.history_.val_cost[-1] == pytest.approx(((h - scaled) ** 2).mean() / 2, rel=1e-4)
    assert net.l2 > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_may_begin_with_rows_that_tell_no_unit(dtype):
    """As the power of the sun at night: the unit stayed 1 for ever, and R2 at -1.9."""
    rng = np.random.default_rng(1)
    A = rng.standard_normal((3000, 4))
    y = 1e4 * A[:, 0] + 2e4
    y[:40] = 0
    model = DenseRegressor(random_state=0, dtype=dtype)
    for _ in range(4):
        for i in range(0, 3000, 40):
            model.partial_fit(A[i : i + 40], y[i : i + 40])
    assert model.score(A[40:], y[40:]) > 0.98
    np.testing.assert_allclose([model.mean_[0], model.spread_[0]], [y.mean(), y.std()], rtol=1e-9)


def test_answers_stay_where_the_unit_moves_and_nothing_is_learnt():
    y = np.column_stack([X[:, 0], 1e3 * X[:, 1] + 50])
    model = DenseRegressor(dtype="float64", l2=0, optimizer="sgd", learning_rate=1e-12, **FAST).fit(X, y)
    before = model.predict(X)
    model.partial_fit(X, y * 7 - 3)
    assert model.spread_[0] > 2
    np.testing.assert_allclose(model.predict(X), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [100, 1e12, 1e60])
@pytest.mark.parametrize("how", ["a row that is refused", "a callback", "a divergence"])
def test_a_partial_fit_that_fails_leaves_the_unit_and_the_answers(dtype, scale, how):
    """Bit for bit, whatever the unit would have become."""
    angry = []

    def stop(epoch, history, net):
        if angry:
            raise LookupError("enough")

    rows, y = X.astype(np.float64), X[:, 0] * 5
    model = DenseRegressor(dtype=dtype, optimizer="sgd", learning_rate=0.01, callbacks=[stop], **FAST).fit(rows, y)
    model.partial_fit(rows, y)
    before, unit, theta = model.predict(rows), (model.mean_[0], model.spread_[0]), model.network_.theta.tobytes()
    wild, error = y * scale + 9, LookupError
    if how == "a callback":
        angry.append(1)
    elif how == "a divergence":
        rows, error = rows * (1e30 if dtype == "float32" else 1e250), fastnn.Diverged
    else:
        rows, error = np.where(np.arange(120)[:, None] == 3, 1e39 if dtype == "float32" else np.inf, rows), ValueError
    with pytest.raises(error):
        model.partial_fit(rows, wild)
    assert (model.mean_[0], model.spread_[0]) == unit
    assert model.network_.theta.tobytes() == theta
    np.testing.assert_array_equal(model.predict(X), before)


@pytest.mark.parametrize("before", ["a fit", "rows that count nothing", "a part"])
@pytest.mark.parametrize("kind", [DenseClassifier, DenseRegressor])
def test_a_partial_fit_that_a_callback_ends_has_not_been(kind, before):
    """Later ones have the same bits as without it: the order of rows, lambda and the rule's state too."""
    y, models = CODES if kind is DenseClassifier else X[:, 0], []
    named = {"classes": np.unique(CODES)} if kind is DenseClassifier else {}

    def angry(epoch, history, net):
        raise LookupError("enough")

    for fails in (False, True):
        model = kind(optimizer="momentum", l2=2.0, learning_rate=Step(0.01, every=1, factor=0.5), dropout=0.2, **FAST)
        if before == "a fit":
            model.fit(X, y)
        elif before == "a part":
            model.partial_fit(X, y, **named)
        else:
            model.partial_fit(X, y, sample_weight=np.zeros(120), **named)
        if fails:
            with pytest.raises(LookupError):
                model.set_params(callbacks=[angry]).partial_fit(X[:50], y[:50], **named)
            model.set_params(callbacks=())
        for rows in (slice(0, 70), slice(70, 120)):
            model.partial_fit(X[rows], y[rows], **named)
        models.append(model)
    plain, other = models
    assert plain.network_.theta.tobytes() == other.network_.theta.tobytes()
    assert plain.optimizer_.state[0].tobytes() == other.optimizer_.state[0].tobytes()
    assert (plain.network_.l2, plain.network_.epochs_trained) == (other.network_.l2, other.network_.epochs_trained)
    assert (plain.optimizer_.t, plain.optimizer_.rate) == (other.optimizer_.t, other.optimizer_.rate)


@pytest.mark.parametrize("costs", [("poisson", "squared_error"), ("squared_error", "poisson"), ("huber:1", "poisson")])
def test_a_cost_that_is_set_is_for_the_next_fit(costs):
    """`partial_fit` and `score` go by that of the network there is."""
    y, models = np.abs(X[:, 0]) * 5, []
    for change in (False, True):
        model = DenseRegressor(cost=costs[0], **FAST).fit(X, y)
        if change:
            model.set_params(cost=costs[1])
        model.partial_fit(X, y * 3)
        models.append(model)
    plain, other = models
    np.testing.assert_array_equal(plain.predict(X), other.predict(X))
    assert plain.score(X, y) == other.score(X, y)
    assert other.fit(X, y).network_.cost == costs[1]


def test_what_counts_nothing_moves_no_unit():
    model = DenseRegressor(**FAST).fit(X, X[:, 0])
    unit = model.mean_.copy(), model.spread_.copy()
    model.partial_fit(X, X[:, 0] * 100, sample_weight=np.zeros(120))
    assert (model.mean_, model.spread_) == unit


def test_progress_is_shown_where_it_is_asked_for(capfd):
    DenseClassifier(**FAST).fit(X, CODES)
    assert capfd.readouterr().err == ""
    DenseClassifier(verbose=True, **FAST).fit(X, CODES)
    assert "epoch" in capfd.readouterr().err
    with pytest.raises(TypeError, match="verbose must be True or False, or a number, got 'loud'"):
        DenseClassifier(verbose="loud", **FAST).fit(X, CODES)


def test_divergence_comes_back_from_a_worker():
    """Errors with arguments that have names could not be unpickled, and a pool waited for ever."""
    from sklearn.model_selection import cross_val_score

    model = DenseClassifier((6,), optimizer="sgd", learning_rate=1e30, epochs=1, backend="numpy")
    with pytest.raises(fastnn.Diverged, match="training diverged in epoch 0"):
        cross_val_score(model, X * 1e30, CODES, cv=2, n_jobs=2, error_score="raise")


def test_a_constant_target_beside_another_has_spread_1_with_weights_too():
    """The weighted mean of equal numbers is rounded, and what differs from it by that is no variation."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((100, 3))
    Y = np.c_[np.full(100, 4.2), X[:, 0]]
    for seed in range(20):
        w = np.random.default_rng(seed).random(100)
        model = DenseRegressor(epochs=1, random_state=0).partial_fit(X, Y, sample_weight=w)
        assert (model.spread_[0], model.mean_[0]) == (1, 4.2)
        model.partial_fit(X, Y, sample_weight=w[::-1])
        assert (model.spread_[0], model.mean_[0]) == (1, 4.2)
        assert model.spread_[1] == pytest.approx(
            np.sqrt(np.cov(np.r_[X[:, 0], X[:, 0]], aweights=np.r_[w, w[::-1]], ddof=0))
        )
        model.to_network()


@pytest.mark.parametrize("kind", [DenseClassifier, DenseRegressor])
def test_every_parameter_is_documented(kind):
    text = inspect.getdoc(kind)  # without its indentation, which Python has taken out from 3.13 on
    section = text[text.index("Parameters\n") : text.index("Attributes\n")]
    documented = [name for names in re.findall(r"^(\w[\w, ]*) : ", section, re.MULTILINE) for name in names.split(", ")]
    assert documented == list(inspect.signature(kind).parameters)
