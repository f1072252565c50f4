"""Gradients that are scaled to a length, on every engine and in every program that does it."""

import copy
import pickle

import numpy as np
import pytest

import fastnn
from fastnn.optimizers import OPTIMIZERS, SGD, Adam

rng = np.random.default_rng(0)
X, y = 3 * rng.standard_normal((60, 5)), np.arange(60) % 3
SIZES, LENGTH, BATCH = [5, 9, 7, 3], 3.3, 16


def network(backend, dtype="float64", **options):
    return fastnn.Network(SIZES, backend=backend, dtype=dtype, **{"seed": 0, "l2": 2.0} | options)


def by_hand(kind, length, dropout=0.0, epochs=3):
    """Steps from gradients that NumPy scales, in float64; and how many were too long."""
    net, rule, long = network("numpy", dropout=dropout), kind(0.05), 0
    for epoch in range(epochs):
        order = np.random.default_rng([1, epoch]).permutation(60)
        for first in range(0, 60, BATCH):
            rows = order[first : first + BATCH]
            _, D = net.cost_and_gradient(X[rows], y[rows], training_rows=60)
            norm = np.linalg.norm(D)
            long += norm > length
            net.step(D * min(1.0, length / norm), rule)
    return net.theta, long


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_rule_on_every_engine(backend, kind, dtype):
    expected, long = by_hand(kind, LENGTH)
    assert 1 < long < 12, "some are too long and some are not"
    net, rule = network(backend, dtype), kind(0.05, clip_norm=LENGTH)
    net.fit(X, y, optimizer=rule, epochs=3, batch_size=BATCH, seed=1)
    bound = 2e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(backend.to_numpy(net.theta), expected, rtol=0, atol=bound)
    plain = network(backend, dtype)
    plain.fit(X, y, optimizer=kind(0.05), epochs=3, batch_size=BATCH, seed=1)
    far = np.abs(backend.to_numpy(plain.theta) - expected).max()
    assert kind.name in ("lars", "lamb", "adam") or far > 100 * bound, "which do not mind the length of all gradients"


@pytest.mark.parametrize(
    "plan",
    [
        {"threads": 1}, {"threads": 2, "sliced": True}, {"threads": 2, "sliced": False},
        {"threads": 2, "sliced": True, "chunk": 4}, {"threads": 3, "sliced": False, "chunk": 5},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_numba_plans(plan, kind):
    expected, _ = by_hand(kind, LENGTH)
    net = network(fastnn.get_backend("numba", **plan))
    net.fit(X, y, optimizer=kind(0.05, clip_norm=LENGTH), epochs=3, batch_size=BATCH, seed=1)
    np.testing.assert_allclose(net.theta, expected, rtol=0, atol=1e-12)


def test_numba_takes_the_program_that_does_it_and_says_so():
    net = network(fastnn.get_backend("numba", amx=None), "float32")
    assert net.backend.choose(fastnn.backends.base.Job(net, Adam(clip_norm=1.0), 32)).panels is False
    assert "clip_norm" in net.plan(32, explain=True, optimizer=Adam(clip_norm=1.0))


def test_with_dropout_and_in_parts_of_a_batch(backend):
    """The same units left out, and the norm of the whole batch's gradient."""
    nets = []
    for engine, micro_batch in (("numpy", None), (backend, None), (backend, 5)):
        net = network(engine, dropout=0.4)
        net.fit(X, y, optimizer=Adam(0.05, clip_norm=LENGTH), epochs=2, batch_size=BATCH, micro_batch=micro_batch)
        nets.append(net.backend.to_numpy(net.theta))
    np.testing.assert_allclose(nets[1], nets[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(nets[2], nets[0], rtol=0, atol=1e-11)


def test_a_step_of_ones_own(backend):
    net, rule, gradient = network(backend), SGD(1.0, clip_norm=0.5), np.linspace(-1, 1, network("numpy").theta.size)
    given = backend.asarray(gradient)
    before = backend.to_numpy(net.theta).copy()
    net.step(given, rule)
    np.testing.assert_allclose(
        backend.to_numpy(net.theta), before - 0.5 * gradient / np.linalg.norm(gradient), atol=1e-14
    )
    np.testing.assert_array_equal(backend.to_numpy(given), gradient)
    net.step(backend.asarray(gradient * 1e-3), rule)


def test_it_may_be_set_between_fits_and_is_kept_in_files(tmp_path):
    rule, net = Adam(0.05, clip_norm=0.5), network("numba")
    net.fit(X, y, optimizer=rule, epochs=1, batch_size=BATCH)
    for again in (pickle.loads(pickle.dumps(Adam(clip_norm=2))), copy.deepcopy(Adam(clip_norm=2))):
        assert (again.clip_norm, repr(again)) == (2.0, "Adam(0.001, 0.9, 0.999, 1e-08, 0, clip_norm=2)")
    net.save(tmp_path / "m", optimizer=rule)
    twin, its_rule = fastnn.resume(tmp_path / "m", backend="numba")
    assert its_rule.clip_norm == 0.5
    for one, of_it in ((net, rule), (twin, its_rule)):
        one.fit(X, y, optimizer=of_it, epochs=1, batch_size=BATCH)
    assert net.theta.tobytes() == twin.theta.tobytes()
    rule.clip_norm = None
    net.save(tmp_path / "n", optimizer=rule)
    assert fastnn.resume(tmp_path / "n")[1].clip_norm is None
    assert b"clip_norm" not in (tmp_path / "n").read_bytes(), "as files were before there was one"
    before = twin.theta.copy()
    net.fit(X, y, optimizer=rule, epochs=1, batch_size=BATCH)
    twin.fit(X, y, optimizer=its_rule, epochs=1, batch_size=BATCH)
    assert not np.array_equal(net.theta, twin.theta)
    assert not np.array_equal(before, twin.theta)


@pytest.mark.parametrize("length", [0, -1, np.nan, np.inf, "1", True])
def test_bad_lengths(length):
    with pytest.raises((ValueError, TypeError), match="clip_norm must be a finite number > 0 or None"):
        Adam(clip_norm=length)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_a_gradient_that_overflows_is_found_all_the_same(engine):
    """Rows that no weight multiplies: outputs and costs are finite, and sums over rows are not."""
    net = fastnn.Network([2, 3], backend=engine, dtype="float32", init="zeros")
    rows = np.full((60, 2), 3e38, np.float32) * np.where(y == 0, 1, -1)[:, None]
    assert np.isfinite(net.mean_cost(rows, y))
    with pytest.raises(fastnn.Diverged):
        net.fit(rows, y, optimizer=SGD(1e-30, clip_norm=1.0), epochs=1)


@pytest.mark.parametrize("length", [1e30, 1e160, 1e300])
def test_a_step_from_a_very_long_gradient_is_as_long_as_it_may_be(backend, length):
    if backend.name == "cupy" and length > 1e150:
        pytest.skip("its square overflows on a device, and the step is lost")
    net = network(backend)
    before = backend.to_numpy(net.theta).copy()
    net.step(backend.asarray(np.full(before.size, length)), SGD(1.0, clip_norm=1.0))
    assert np.linalg.norm(backend.to_numpy(net.theta) - before) == pytest.approx(1)


@pytest.mark.parametrize("plan", [{}, {"panels": True, "amx": False}], ids=str)
@pytest.mark.parametrize("first", [None, 1e-6])
def test_it_cannot_be_set_amid_a_fit(plan, first):
    net, rule = network(fastnn.get_backend("numba", **plan), "float32"), SGD(0.1, clip_norm=first)

    def change(epoch, history, net):
        net.optimizer.clip_norm = 0.5

    with pytest.raises(
        RuntimeError, match=f"a callback has set clip_norm, by which this fit was planned, from {first} to 0.5"
    ):
        net.fit(X, y, optimizer=rule, epochs=3, callbacks=[change])


def test_in_estimators_and_on_the_command_line(tmp_path):
    from fastnn.cli.app import app
    from fastnn.estimators import DenseClassifier

    given = {"hidden_layer_sizes": (6,), "epochs": 2, "random_state": 0, "backend": "numpy"}
    one, two = DenseClassifier(clip_norm=0.2, **given), DenseClassifier(optimizer=Adam(clip_norm=0.2), **given)
    assert one.fit(X, y).network_.theta.tobytes() == two.fit(X, y).network_.theta.tobytes()
    with pytest.raises(ValueError, match="is not for 'lbfgs', which searches"):
        DenseClassifier(optimizer="lbfgs", clip_norm=0.2, **given).fit(X, y)
    table, models = tmp_path / "t.csv", []
    np.savetxt(table, np.column_stack([X, y]), delimiter=",", header="a,b,c,d,e,y", comments="", fmt="%.5g")
    for name, options in (("free", []), ("clipped", ["--clip-norm", "0.05"])):
        models.append(tmp_path / f"{name}.safetensors")
        words = ["train", str(table), "--target", "y", "--epochs", "2", "--optimizer", "sgd", "--no-plot", *options]
        assert app([*words, "--save", str(models[-1])], standalone_mode=False) == 0
    free, clipped = (fastnn.load(model).theta for model in models)
    assert not np.array_equal(free, clipped)
    assert app(["train", str(table), "--target", "y", "--clip-norm", "0"], standalone_mode=False) == 2
