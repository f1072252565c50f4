"""Data of uint8 on the CPU's matrix unit, which takes them in one part of bfloat16 (kernels/cpu/amx_bytes.py).
Without JIT NumPy takes the unit's place.
"""

import numpy as np
import pytest
from amx_tools import ERRAND, SHAPES, at, needs_unit, pieces, room, trained

import fastnn
from fastnn.backends import numba_amx, numba_backend
from fastnn.backends.cpu_plan import Plan, Problem, choose_plan
from fastnn.kernels.cpu import JIT, amx, amx_bytes, compiled
from fastnn.kernels.cpu.on_demand import amx_table


@compiled
def _forward(table, registers, x, places, m, n_in, left, W, n_out, weights, width, bias, scale, out, gate, errand):
    amx.pack_weights(table, W, 4 * n_in, 0, n_out, n_out, n_in, weights, 0)
    amx.configure(registers)
    amx_bytes.forward_bytes(
        table, x, places, m, n_in, left, weights, width, bias, scale, out, 4 * width, gate, 0, errand
    )
    amx.release()


@compiled
def _gradient(table, registers, d, m, n_out, left, x, places, n_in, right, sums, out, share, keep, errand):
    amx.pack_turned(table, d, 4 * n_out, m, n_out, left, 0, (m + 31) // 32)
    amx.configure(registers)
    amx_bytes.add_up_bytes(table, left, n_out, x, places, m, n_in, right, sums, out, 4 * n_in, share, keep, 0, errand)
    amx.release()


def whole(*numbers):
    return [np.int64(number) for number in numbers]


def data(rng, m, n_in):
    """Rows of bytes, in another order than they lie in: (rows, where they lie, their places)."""
    lying = rng.integers(0, 256, (m, n_in + 3)).astype(np.uint8)
    return lying[::-1, :n_in], lying, np.arange(m, dtype=np.int64)[::-1] * lying.shape[1]


@needs_unit
@pytest.mark.parametrize(("m", "n_in", "n_out"), SHAPES)
def test_products_are_as_exact_as_those_of_float32(m, n_in, n_out):
    """Against float64: scale times the sums, which round less often than a chain of float32 additions."""
    rng, scale, width = np.random.default_rng(m), np.float32(1 / 255), -(-n_out // 16) * 16
    x, lying, places = data(rng, m, n_in)
    W, b = rng.standard_normal((n_out, n_in)).astype(np.float32), rng.standard_normal(n_out).astype(np.float32)
    bias, left, weights = (
        np.zeros(width, np.float32),
        room(amx.left_pieces(m, -(-n_in // 32)) * amx.PIECE // 4),
        room(pieces(n_out, n_in)),
    )
    bias[:n_out] = b
    made = []
    for gate in (0, 1):
        out = np.zeros((m + 16, width), np.float32)
        numbers = whole(
            at(amx.REGISTERS), at(lying), at(places), m, n_in, at(left), at(W), n_out, at(weights), width, at(bias)
        )
        _forward(amx_table((), octets=True), *numbers, scale, *whole(at(out), gate, at(ERRAND)))
        made.append(out[:m, :n_out])
    exact = scale * (x.astype(float) @ W.T.astype(float)) + b
    sizes = scale * (x.astype(float) @ np.abs(W).T.astype(float)) + np.abs(b)
    assert (np.abs(made[0] - exact) <= 4e-7 * sizes).all()
    np.testing.assert_array_equal(made[1], np.maximum(made[0], 0))


@needs_unit
@pytest.mark.parametrize(("m", "n_in", "n_out"), SHAPES)
@pytest.mark.parametrize(("share", "keep"), [(1, 0), (1, 1), (-0.25, 0.5)])
def test_gradients_are_as_exact_as_those_of_float32(m, n_in, n_out, share, keep):
    rng = np.random.default_rng(m)
    x, lying, places = data(rng, m, n_in)
    d, before = (
        rng.standard_normal((m, n_out)).astype(np.float32),
        rng.standard_normal((n_out, n_in)).astype(np.float32),
    )
    left, right, sums = room(pieces(n_out, m)), room(amx.right_pieces(m) * amx.PIECE // 4), room(amx.ROOM // 4)
    out = np.full_like(before, np.nan) if keep == 0 else before.copy()  # is not read then
    numbers = whole(
        at(amx.REGISTERS), at(d), m, n_out, at(left), at(lying), at(places), n_in, at(right), at(sums), at(out)
    )
    _gradient(amx_table((), octets=True), *numbers, np.float32(share), np.float32(keep), at(ERRAND))
    exact = keep * before.astype(float) + share * (d.T.astype(float) @ x.astype(float))
    sizes = np.abs(keep * before) + abs(share) * (np.abs(d).T @ x.astype(float))
    assert (np.abs(out - exact) <= 5e-7 * sizes + 1e-12).all()


@pytest.fixture
def tables(monkeypatch):
    """For each table of products that was asked for, whether it was one for bytes."""
    asked = []

    def noted(needed, few=False, octets=False):
        asked.append(octets)
        return amx_table(needed, few, octets)

    monkeypatch.setattr(numba_amx, "amx_table", noted)
    return asked


@needs_unit
@pytest.mark.parametrize(
    ("make", "as_they_are"),
    [
        (lambda X: X, True),
        (lambda X: X > 99, True),
        (lambda X: np.pad(X, ((0, 0), (0, 9)))[:, : X.shape[1]], True),  # rows apart
        (lambda X: np.repeat(X, 2, axis=0)[::2], True),
        (lambda X: X.astype(np.int16), False),
        (lambda X: X[:, ::-1], False),
    ],
)
@pytest.mark.parametrize(
    ("sizes", "batch_size", "threads", "hidden", "optimizer", "l2"),
    [((40, 33, 20, 3), 100, 2, "relu", "sgd", 0.5), *([((70, 130, 3), 64, 1, "tanh", "adam", 0.0)] if JIT else [])],
)
def test_scaled_training_gives_what_numpy_gives_in_float64(
    tables, make, as_they_are, sizes, batch_size, threads, hidden, optimizer, l2
):
    rng = np.random.default_rng(0)
    X, y = make(rng.integers(0, 256, (601, sizes[0])).astype(np.uint8)), rng.integers(0, sizes[-1], 601)
    backend = fastnn.get_backend("numba", threads=threads if JIT else 1, amx=True)
    ours = trained(
        backend, sizes, X, y, hidden, optimizer, batch_size, scale=None if X.dtype == bool else 1 / 255, l2=l2
    )
    assert set(tables) == {as_they_are}
    oracle = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float64", seed=1, l2=l2)
    oracle.theta[...] = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float32", seed=1).theta
    oracle.fit(X, y, optimizer=optimizer, learning_rate=0.01, batch_size=batch_size, epochs=2, scale=ours.scale)
    # rounding of up to 20 steps; at most 1e-6 was seen
    assert np.linalg.norm(ours.theta - oracle.theta) <= 5e-6 * np.linalg.norm(oracle.theta)
    again = trained(backend, sizes, X, y, hidden, optimizer, batch_size, scale=ours.scale, l2=l2)
    np.testing.assert_array_equal(again.theta, ours.theta)


@needs_unit
def test_few_columns_are_converted(tables):
    """Whose layer vectors multiply."""
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 256, (121, 4)).astype(np.uint8), rng.integers(0, 3, 121)
    backend = fastnn.get_backend("numba", threads=1, amx=True)
    theta = [
        trained(backend, (4, 20, 3), x, y, "relu", "sgd", 60, scale=scale).theta
        for x, scale in ((X, 1 / 255), (X.astype(np.float32) * np.float32(1 / 255), None))
    ]
    np.testing.assert_array_equal(*theta)
    assert set(tables) == {False}


def test_the_plan_knows_the_data():
    """Where the unit pays for bytes and not for float32, as measured side by side (bench/results)."""
    for sizes, batch in (((784, 30, 10), 8192), ((784, 16, 16, 10), 2048)):
        assert not choose_plan(Problem(sizes, batch, 4, amx=True), 2).amx
        assert choose_plan(Problem(sizes, batch, 4, amx=True, octets=True), 2) == Plan(2, 512, True, amx=True)
    assert not choose_plan(Problem((784, 100, 100, 10), 32, 4, amx=True, octets=True), 2).amx
    assert choose_plan(Problem((784, 100, 100, 10), 8192, 4, octets=True), 2).panels  # no unit
    few = [Problem((4, 128, 128, 3), 512, 4, amx=True, octets=octets).amx_seconds(2) for octets in (False, True)]
    assert few[0] == few[1]


@needs_unit
@pytest.mark.skipif(not JIT, reason="plans of compiled code")
def test_fits_of_one_network_are_planned_for_their_data(tables):
    net = fastnn.Network([784, 30, 10], backend=fastnn.get_backend("numba", threads=2))
    assert "in panels" in net.plan(2048) == net.plan(2048, data_dtype="float32")
    assert "on the matrix unit" in net.plan(2048, data_dtype="uint8") == net.plan(2048, data_dtype=bool)
    assert "0.15 ns  the same of uint8" in net.plan(2048, data_dtype=np.uint8, explain=True)
    rng, rule = np.random.default_rng(0), fastnn.optimizers.SGD(0.01)
    X, y = rng.integers(0, 256, (4096, 784)).astype(np.uint8), rng.integers(0, 10, 4096)
    for x, runs in ((X, [True]), (X.astype(np.float32) / 255, []), (X, [True])):
        tables.clear()
        net.fit(x, y, optimizer=rule, batch_size=2048, epochs=1, scale=1 / 255 if x is X else None)
        assert tables[:1] == runs
    with pytest.raises(
        TypeError,
        match="data_dtype must be a NumPy dtype of integers, floats or bool, such as 'uint8', or None, got 'bytes8x'",
    ):
        net.plan(2048, data_dtype="bytes8x")


@needs_unit
@pytest.mark.parametrize("rows", [1024, 1300] if JIT else [1024])
@pytest.mark.parametrize(
    ("sizes", "scale", "kind"),
    [
        ((40, 70, 33, 3), 1 / 255, "uint8"),
        *([((33, 30, 1), None, "uint8"), ((100, 64, 2), 0.5, "bool")] if JIT else []),
    ],
)
def test_predictions_of_bytes(monkeypatch, tables, sizes, scale, kind, rows):
    monkeypatch.setattr(numba_backend, "TEAM_FLOPS", 0)
    monkeypatch.setattr(numba_backend, "ONE_THREAD_FLOPS", 0)
    options = {} if sizes[-1] > 1 else {"output": "identity", "cost": "squared_error"}
    net = fastnn.Network(sizes, hidden="relu", seed=1, backend=fastnn.get_backend("numba", amx=True), **options)
    exact = fastnn.Network(sizes, hidden="relu", dtype="float64", backend="numpy", **options)
    exact.theta[...] = net.theta
    net.scale = exact.scale = scale
    X = np.random.default_rng(0).integers(0, 256 if kind == "uint8" else 2, (rows, sizes[0])).astype(kind)
    ours, theirs = (other.predict(X) if sizes[-1] == 1 else other.predict_proba(X) for other in (net, exact))
    # unscaled bytes make z of a hundred, whose roundings the softmax shows
    near = {"rtol": 5e-5, "atol": 2e-6 * max(2.5, np.abs(theirs).max())}
    np.testing.assert_allclose(ours, theirs, **near)
    assert (True in tables) is (kind == "uint8")  # bool are looked at, and converted
    tables.clear()
    for other in (X[:, ::-1], X[:1023], np.asfortranarray(X)):  # are converted
        ours, theirs = (
            other_net.predict(other) if sizes[-1] == 1 else other_net.predict_proba(other) for other_net in (net, exact)
        )
        np.testing.assert_allclose(ours, theirs, **near)
    assert True not in tables
    net.scale = 1e38
    if kind == "uint8":
        with pytest.raises(ValueError, match=r"which times scale=1e\+38 overflows float32"):
            net.predict(X)
    with pytest.raises(ValueError, match=f"X must have {sizes[0]} columns, one per input unit, got {sizes[0] + 1}"):
        net.predict(np.zeros((rows, sizes[0] + 1), np.uint8))
