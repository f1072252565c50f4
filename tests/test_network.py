"""The network's public behaviour: shapes, conventions for y, predictions, scores, starts, seeds, copies."""

from __future__ import annotations

import copy
import os
import pickle

import cases
import numpy as np
import pytest
import reference
import tolerances
from sklearn.metrics import r2_score
from together import together

import fastnn
from fastnn import initializers
from fastnn.checks import BLOCK
from fastnn.kernels.cpu import JIT, compiled

SIZES = (4, 5, 3)


def problem(rows=7):
    return cases.normal((rows, 4), np.float64), np.arange(rows) % 3


def net_of(backend, dtype="float64", sizes=SIZES, hidden="tanh", **options):
    return fastnn.Network(sizes, hidden=hidden, init=cases.parameters(sizes), backend=backend, dtype=dtype, **options)


# ---- theta and its views ---------------------------------------------------------------------------------------


def test_theta_is_weights_row_by_row_then_biases(backend, dtype):
    net = fastnn.Network(SIZES, init=np.arange(43.0), backend=backend, dtype=dtype)
    assert (net.sizes, net.dtype, net.theta.shape, net.theta.dtype) == (SIZES, dtype, (43,), dtype)
    views = [np.array(backend.to_numpy(v)) for v in (net.weights[0], net.biases[0], net.weights[1], net.biases[1])]
    expected = (np.arange(20).reshape(5, 4), np.arange(20, 25), np.arange(25, 40).reshape(3, 5), np.arange(40, 43))
    for got, want in zip(views, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_theta_is_writable_in_place_and_the_views_see_it(backend, dtype):
    net = net_of(backend, dtype)
    X, _ = problem()
    net.theta[:] = 0
    np.testing.assert_allclose(net.predict_proba(X), 1 / 3, rtol=4 * tolerances.eps(dtype))
    net.biases[1][2] = 5.0
    assert float(net.theta[42]) == 5
    np.testing.assert_array_equal(net.predict(X), 2)
    net.weights[0][1, 2] = 7.0
    assert float(net.theta[6]) == 7


def test_parameters_are_not_replaced_by_arrays_that_the_engines_would_not_see(backend, dtype):
    net = net_of(backend, dtype)
    before = net.backend.to_numpy(net.theta).copy()
    for name in ("theta", "weights", "biases"):
        with pytest.raises(
            AttributeError,
            match=rf"net\.{name} cannot be replaced.*net\.{name}(\[0\])?\[\.\.\.\] = values",
        ):
            setattr(net, name, getattr(net, name)[:])
    for views in ("weights", "biases"):
        with pytest.raises(
            TypeError,
            match=rf"net\.{views}\[1\] cannot be replaced.*net\.{views}\[1\]\[\.\.\.\] = values",
        ):
            getattr(net, views)[1] = getattr(net, views)[1] * 2
    assert net.backend.to_numpy(net.theta).tobytes() == before.tobytes()
    net.theta += 1
    net.biases[1] += 1  # these write in place and then assign what was there
    expected = before + 1
    expected[net.layout.offsets[2] - net.sizes[2] :] += 1
    np.testing.assert_array_equal(net.backend.to_numpy(net.theta), expected.astype(dtype))


def test_split_gives_views_of_any_vector_and_refuses_other_lengths(backend):
    net = net_of(backend)
    vector = backend.zeros((43,), np.float64)
    (W1, W2), (b1, b2) = net.split(vector)
    assert [v.shape for v in (W1, b1, W2, b2)] == [(5, 4), (5,), (3, 5), (3,)]
    b2[0] = 1.0
    assert float(vector[40]) == 1
    for wrong in (backend.zeros((42,), np.float64), backend.zeros((43, 1), np.float64)):
        with pytest.raises(ValueError, match=r"vector must have shape \(43,\)"):
            net.split(wrong)


def test_cost_and_gradient_is_a_fresh_vector_each_time(backend):
    net = net_of(backend)
    first, second = (net.cost_and_gradient(*problem()) for _ in range(2))
    assert type(first[0]) is float
    assert first[1] is not second[1]
    assert first[0] == second[0]
    np.testing.assert_array_equal(backend.to_numpy(first[1]), backend.to_numpy(second[1]))


# ---- forward and what follows from it ---------------------------------------------------------------------------


def outputs(net, X):
    names = [g.name for g in net.activations]
    return reference.forward(net.backend.to_numpy(net.theta), net.sizes, names, X.astype(net.dtype))[1]


@pytest.mark.parametrize("sizes", [(4, 3), (4, 5, 3), (4, 6, 3, 5, 3)], ids=str)
def test_forward_gives_every_layer(backend, dtype, sizes):
    net, (X, _) = net_of(backend, dtype, sizes), problem()
    layers = net.forward(X)
    assert all(isinstance(a, np.ndarray) for a in layers), "NumPy in, NumPy out"
    for a, expected in zip(layers, outputs(net, X), strict=True):
        tolerances.assert_close(a, expected, tolerances.network_gradient(dtype, sizes, 1), dtype=dtype)


@pytest.mark.parametrize(
    ("output", "cost", "K"),
    [
        ("softmax", "cross_entropy", 3),
        ("softmax", "squared_error", 3),
        ("sigmoid", "cross_entropy", 3),
        ("sigmoid", "cross_entropy", 1),
    ]
    + [(output, "squared_error", K) for output in ("sigmoid", "tanh", "identity") for K in (1, 3)],
)
def test_predict_and_predict_proba(backend, dtype, output, cost, K):
    net, (X, _) = net_of(backend, dtype, (4, 5, K), output=output, cost=cost), problem()
    h = outputs(net, X)[-1]
    predicted = net.predict(X)
    if output == "softmax":
        np.testing.assert_array_equal(predicted, h.argmax(axis=1))
        assert predicted.dtype == np.int64
    elif cost == "cross_entropy":
        expected = (h >= 0.5).astype(np.int64)
        np.testing.assert_array_equal(predicted, expected[:, 0] if K == 1 else expected)
        assert predicted.dtype == np.int64
    else:
        tolerances.assert_close(
            predicted, h[:, 0] if K == 1 else h, tolerances.network_gradient(dtype, net.sizes, 1), dtype=dtype
        )
    if output in ("softmax", "sigmoid"):
        tolerances.assert_close(net.predict_proba(X), h, tolerances.network_gradient(dtype, net.sizes, 1), dtype=dtype)
    else:
        with pytest.raises(ValueError, match="softmax or sigmoid"):
            net.predict_proba(X)


def test_an_output_of_exactly_one_half_is_predicted_as_1(backend, dtype):
    net = fastnn.Network([2, 1], output="sigmoid", init="zeros", backend=backend, dtype=dtype)
    assert net.predict(np.ones((3, 2))).tolist() == [1, 1, 1]


def test_one_row_and_many_rows_agree(backend, dtype):
    """Across the blocks in which large inputs are processed as well."""
    net, (X, _) = net_of(backend, dtype), problem(50)
    whole = net.predict_proba(X)
    bound = tolerances.network_gradient(dtype, SIZES, 1)
    for i in (0, 17, 49):
        tolerances.assert_close(net.predict_proba(X[i : i + 1]), whole[i : i + 1], bound)


def test_rows_beyond_one_block(monkeypatch, backend, dtype):
    net, (X, y) = net_of(backend, dtype), problem(50)
    expected = net.predict_proba(X), net.score(X, y), net.mean_cost(X, y)
    assert BLOCK > 1000
    monkeypatch.setattr("fastnn.checks.BLOCK", 64)
    bound = tolerances.network_gradient(dtype, SIZES, 1)
    tolerances.assert_close(net.predict_proba(X), expected[0], bound, dtype=dtype)
    assert net.score(X, y) == expected[1]
    tolerances.assert_close(net.mean_cost(X, y), expected[2], bound)


# ---- score --------------------------------------------------------------------------------------------------------


def test_score_of_classes_is_accuracy(backend):
    net, (X, _) = net_of(backend), problem(20)
    right = net.predict(X)
    assert net.score(X, right) == 1
    wrong = right.copy()
    wrong[:5] = (wrong[:5] + 1) % 3
    assert net.score(X, wrong) == 0.75
    squared = net_of(backend, output="identity", cost="squared_error")
    assert squared.score(X, squared.predict(X).argmax(axis=1)) == 1


def test_r2_of_many_rows_far_from_zero(backend):
    """Sums of float32 down 300,000 rows of 1000 would be off by more than the targets' whole spread."""
    rng = np.random.default_rng(0)
    y = (1000 + 0.01 * rng.standard_normal((300_000, 2))).astype(np.float32)
    net = fastnn.Network([1, 2], output="identity", cost="squared_error", init="zeros", backend=backend)
    net.theta[-2:] = net.backend.asarray(y.astype(np.float64).mean(axis=0).astype(np.float32))
    X = np.zeros((300_000, 1), np.float32)
    assert net.score(X, y) == pytest.approx(r2_score(y.astype(np.float64), net.predict(X).astype(np.float64)), abs=1e-9)
    assert abs(net.score(X, y)) < 1e-3


def test_score_of_01_targets_is_exact_match(backend):
    net, (X, _) = net_of(backend, output="sigmoid"), problem(20)
    right = net.predict(X).astype(np.float64)
    assert net.score(X, right) == 1
    right[3, 0] = 1 - right[3, 0]
    assert net.score(X, right) == 0.95


@pytest.mark.parametrize("K", [1, 3])
def test_score_of_values_is_r2(backend, K):
    """Against scikit-learn's definition, worked out: the mean over outputs of 1 - residual / spread."""
    net, (X, _) = net_of(backend, sizes=(4, 5, K), output="identity", cost="squared_error"), problem(20)
    y = cases.normal((20, K), np.float64, 9)
    h = net.predict(X).reshape(20, K)
    r2 = [1 - sum((y[:, k] - h[:, k]) ** 2) / sum((y[:, k] - np.mean(y[:, k])) ** 2) for k in range(K)]
    tolerances.assert_close(net.score(X, y[:, 0] if K == 1 else y), np.mean(r2), 1e-12)
    assert net.score(X, h) == 1
    constant = y.copy()
    constant[:, 0] = 3.0
    expected = np.mean([0.0, *r2[1:]])
    tolerances.assert_close(net.score(X, constant), expected, 1e-12)


# ---- what y may be -------------------------------------------------------------------------------------------------


@together("kind", [np.int8, np.uint8, np.int32, np.int64, bool, list])
def test_integer_classes_of_any_kind(backend, kind):
    net, (X, _) = net_of(backend, sizes=(4, 5, 2)), problem(6)
    y = np.array([0, 1, 1, 0, 1, 0])
    expected = net.cost_and_gradient(X, y)[0]
    assert net.cost_and_gradient(X, y.tolist() if kind is list else y.astype(kind))[0] == expected


def test_a_vector_is_a_column_for_one_output(backend):
    X, _ = problem(6)
    y = np.array([0.0, 1, 1, 0, 0.5, 0.25])
    for options in ({"output": "sigmoid"}, {"output": "identity", "cost": "squared_error"}):
        net = net_of(backend, sizes=(4, 5, 1), **options)
        assert net.cost_and_gradient(X, y)[0] == net.cost_and_gradient(X, y[:, None])[0]
        assert (
            net.cost_and_gradient(X, (y > 0.3).astype(int))[0] == net.cost_and_gradient(X, (y > 0.3).astype(float))[0]
        )


def test_classes_with_squared_error_are_their_one_hot_rows(backend):
    (X, y), net = problem(), net_of(backend, output="identity", cost="squared_error")
    J, D = net.cost_and_gradient(X, y)
    expected_J, expected = net.cost_and_gradient(X, np.eye(3)[y])
    tolerances.assert_close(J, expected_J, 1e-14)
    tolerances.assert_close(np.array(backend.to_numpy(D)), np.array(backend.to_numpy(expected)), 1e-14)


@together("kind", [np.uint8, np.int32, np.float16, np.float32, np.float64, bool, ">f4", list])
def test_x_of_any_kind_and_layout_is_converted(backend, dtype, kind):
    net = net_of(backend, dtype)
    X = (np.arange(28).reshape(7, 4) % 5 > 1).astype(np.float64) if kind is bool else np.arange(28.0).reshape(7, 4) % 9
    expected = net.forward(X.astype(dtype))[-1]
    np.testing.assert_array_equal(net.forward(X.tolist() if kind is list else X.astype(kind))[-1], expected)
    np.testing.assert_array_equal(net.forward(np.asfortranarray(X))[-1], expected)
    np.testing.assert_array_equal(net.forward(np.repeat(X, 2, axis=0)[::2])[-1], expected)


# ---- starts and seeds -----------------------------------------------------------------------------------------------


@together("init", ["auto", *initializers.INITIALIZERS])
@pytest.mark.parametrize("hidden", ["relu", "tanh"])
def test_seeds_give_the_same_start_on_every_engine(backend, dtype, init, hidden):
    make = [
        fastnn.Network([30, 20, 10], hidden=hidden, init=init, seed=seed, backend=b, dtype=dtype)
        for b, seed in ((backend, 3), ("numpy", 3), ("numpy", 4))
    ]
    thetas = [np.array(net.backend.to_numpy(net.theta)) for net in make]
    assert thetas[0].tobytes() == thetas[1].tobytes()
    assert (init == "zeros") == np.array_equal(thetas[1], thetas[2])
    assert not any(np.any(np.array(net.backend.to_numpy(b))) for net in make for b in net.biases), (
        "biases start at zero"
    )
    if dtype == np.float32:
        wide = fastnn.Network([30, 20, 10], hidden=hidden, init=init, seed=3, backend="numpy", dtype="float64")
        np.testing.assert_array_equal(wide.theta.astype(np.float32), thetas[1])


@pytest.mark.parametrize(
    ("init", "spread", "limit"),
    [
        ("he", (2 / 200) ** 0.5, None),
        ("lecun", (1 / 200) ** 0.5, None),
        ("glorot", (2 / 500) ** 0.5, (6 / 500) ** 0.5),
        ("uniform", (2 / 500) ** 0.5, (6 / 500) ** 0.5),
        (initializers.Uniform(0.12), 0.12 / 3**0.5, 0.12),
        (initializers.Normal(0.5), 0.5, None),
        ("normal", 0.01, None),
    ],
    ids=str,
)
def test_spread_of_initial_weights(init, spread, limit):
    """200 -> 300: 60,000 draws have their standard deviation to 0.3 % and their mean to 0.4 % of it; five times
    that.
    """
    W = fastnn.Network(
        [200, 300], init=init, backend="numpy", dtype="float64", output="identity", cost="squared_error"
    ).weights[0]
    assert abs(W.std() / spread - 1) < 0.015
    assert abs(W.mean()) < 0.02 * spread
    if limit is not None:
        assert 0.99 * limit < np.abs(W).max() <= limit


def test_auto_is_he_before_rectifiers_and_glorot_otherwise():
    nets = {
        init: fastnn.Network([9, 8, 7, 6], hidden=["relu", "tanh"], init=init, backend="numpy", dtype="float64")
        for init in ("auto", "he", "glorot")
    }
    for layer, row in enumerate(("he", "glorot", "glorot")):
        # the same generator goes through the layers, so only the first is drawn from the same place
        assert abs(np.std(nets["auto"].weights[layer]) / np.std(nets[row].weights[layer]) - 1) < (
            1e-12 if layer == 0 else 0.5
        )
    np.testing.assert_array_equal(nets["auto"].weights[0], nets["he"].weights[0])
    assert isinstance(initializers.get("auto", fastnn.activations.LeakyReLU()), initializers.He)
    assert isinstance(initializers.get("auto", fastnn.activations.Sigmoid()), initializers.Glorot)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_orthogonal(shape):
    W = initializers.Orthogonal().draw(shape[1], shape[0], np.random.default_rng(0))
    small = W @ W.T if shape[0] <= shape[1] else W.T @ W
    tolerances.assert_close(small, np.eye(min(shape)), 1e-14)


def test_explicit_starts(backend, dtype):
    theta = cases.parameters(SIZES)
    (W1, b1), (W2, b2) = reference.split(theta, SIZES)
    for init in (theta, theta.tolist(), ([W1, W2], [b1, b2]), ([W1.tolist(), W2], [b1, b2])):
        net = fastnn.Network(SIZES, init=init, backend=backend, dtype=dtype)
        np.testing.assert_array_equal(backend.to_numpy(net.theta), theta.astype(dtype))
    theta[:] = 0
    assert np.any(backend.to_numpy(net.theta)), "the start is copied"


# ---- engines and copies
# ------------------------------------------------------------------------------------------------


def test_backend_and_its_reason(backend):
    net = fastnn.Network([2, 2], backend=backend)
    assert net.backend is backend
    assert net.backend_reason == f"{backend.name}: given"
    assert fastnn.Network([2, 2], backend="numpy").backend_reason == "numpy: asked for by name"
    auto = fastnn.Network([2, 2])
    assert auto.backend_reason.startswith(f"{auto.backend.name}: the best engine that can be used here")
    assert "cupy is considered from 1,000,000 parameters on, this network has 6" in auto.backend_reason, (
        "two parameters never pay for a GPU"
    )


@pytest.mark.parametrize(
    "copied",
    [lambda net: pickle.loads(pickle.dumps(net)), copy.deepcopy, copy.copy],
    ids=["pickle", "deepcopy", "copy"],
)
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_copies_are_equal_and_apart(engine, copied):
    X, y = problem(20)
    net = fastnn.Network(SIZES, hidden=fastnn.activations.LeakyReLU(0.2), l2=0.1, backend=engine)
    net.fit(X, y, epochs=2)
    twin = copied(net)
    assert (twin.epochs_trained, twin.l2, twin.hidden, twin.backend) == (2, 0.1, net.hidden, net.backend)
    assert twin.theta.tobytes() == net.theta.tobytes()
    before = net.theta.tobytes()
    twin.fit(X, y, epochs=1)  # trains on its own views and its own lock
    twin.weights[0][0, 0] += 1
    assert net.theta.tobytes() == before
    net.fit(X, y, epochs=1)
    assert net.theta[1:].tobytes() == (twin.theta[1:]).tobytes(), "the copy goes on as the original would"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_use_after_fork(engine):
    """A child predicts and trains like its parent, after the parent has used the engine."""
    X, y = problem(40)
    net = fastnn.Network(SIZES, backend=engine)
    net.fit(X, y, epochs=2)
    expected = copy.deepcopy(net)
    expected.fit(X, y, epochs=2)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - the child's coverage is not collected
        status = 1
        try:
            net.fit(X, y, epochs=2)
            os.write(write, net.theta.tobytes())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    assert result == expected.theta.tobytes()


def test_the_plan_is_one_sentence_on_every_engine(backend):
    net = fastnn.Network([4, 3, 2], backend=backend)
    assert isinstance(net.plan(), str)
    with pytest.raises(ValueError, match="batch_size must be a positive integer"):
        net.plan(0)


def test_a_wait_that_happens_once_is_announced(monkeypatch, tmp_path):
    engine = fastnn.get_backend("numba")
    said = []
    monkeypatch.setattr("fastnn.kernels.cpu.CACHE_FOLDER", tmp_path)  # without what earlier runs of this test left
    with engine.announcing(said.append) as waiting:
        compiled(lambda x: x + 1, "float32(float32)")
    if not JIT:
        assert said == []
        assert waiting.seconds == 0
        return
    assert said == [
        "the CPU kernels for this are compiled now, about ten seconds, once; later runs read them from disk"
    ]
    assert 0 < waiting.seconds < 60
    monkeypatch.setattr("fastnn.kernels.cpu.compiling.KEEPS", False)
    with engine.announcing(said.append) as waiting:
        compiled(lambda x: x + 2, "float32(float32)")
    assert said[1:] == ["the CPU kernels for this are compiled now, about ten seconds, for this process alone"]
    with engine.announcing(said.append) as waiting:  # nothing is to be compiled
        pass
    assert len(said) == 2
    assert waiting.seconds == 0


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_copy_whose_arrays_joblib_maps_read_only_predicts_and_trains(engine, tmp_path):
    """As joblib's worker processes are given large arguments."""
    joblib = pytest.importorskip("joblib")
    X, y = cases.normal((40, 4), np.float64), np.arange(40) % 3
    net = fastnn.Network([4, 6, 3], backend=engine)
    net.fit(X, y, epochs=1)
    joblib.dump(net, tmp_path / "net")
    copy = joblib.load(tmp_path / "net", mmap_mode="r")
    np.testing.assert_array_equal(copy.predict_proba(X), net.predict_proba(X))
    np.testing.assert_array_equal(copy.predict_proba(X[:1]), net.predict_proba(X[:1]))
    copy.fit(X, y, epochs=1)


def test_r2_of_targets_with_a_large_offset(backend):
    """In float32 they would all be the same, and a constant matched exactly counts 1."""
    X, y = np.linspace(-1, 1, 50, dtype=np.float32)[:, None], 1e9 + np.linspace(-1, 1, 50)
    net = fastnn.Network([1, 1], output="identity", cost="squared_error", init="zeros", backend=backend)
    net.biases[0][...] = 1e9
    assert net.score(X, y) == pytest.approx(0.0, abs=1e-9)


def test_logits(backend, dtype):
    X = np.random.default_rng(0).standard_normal((7, 4)).astype(dtype)
    for output in ("softmax", "sigmoid"):
        net = fastnn.Network([4, 5, 3], output=output, backend=backend, dtype=dtype, seed=1)
        z = np.asarray(backend.to_numpy(net.logits(X)))
        e = np.exp(z)
        expected = e / e.sum(axis=1, keepdims=True) if output == "softmax" else e / (1 + e)
        np.testing.assert_allclose(backend.to_numpy(net.predict_proba(X)), expected, rtol=1e-5)
        one = np.asarray(backend.to_numpy(net.logits(X[3:4])))
        np.testing.assert_allclose(one, z[3:4], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("output", "classes"), [("softmax", 3), ("sigmoid", 2)])
def test_no_class_is_made_of_what_is_no_number(backend, output, classes):
    """Finite inputs whose products overflow: NaN would be the first class, or 0."""
    net = fastnn.Network([4, 5, classes], output=output, backend=backend)
    net.theta[...] = 1
    net.weights[1][...] = backend.asarray(np.where(np.arange(5) % 2, -1, 1).astype(np.float32))
    X = np.ones((3, 4), np.float32)
    X[2] = 3e38
    for rows in (X, X[2:], np.asfortranarray(X)):
        y = np.zeros(len(rows), int) if output == "softmax" else np.zeros((len(rows), 2))
        for use in (net.predict, lambda rows, y=y: net.score(rows, y)):
            with (
                np.errstate(all="ignore"),
                pytest.raises(ValueError, match=f"the outputs of row {len(rows) - 1} are not numbers"),
            ):
                use(rows)
    assert len(net.predict(X[:2])) == 2
