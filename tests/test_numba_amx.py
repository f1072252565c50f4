"""Products and training on the CPU's matrix unit. Without JIT NumPy takes the unit's place; where there is no unit
the compiled ones are skipped.
"""

import numpy as np
import pytest
from amx_tools import ERRAND, SHAPES, at, needs_unit, pieces, room, trained

import fastnn
from fastnn.backends import cpu_unit, numba_backend
from fastnn.backends.cpu_explain import explain_plan
from fastnn.backends.cpu_machine import AMX_FEW, AMX_LAST_UNITS
from fastnn.backends.cpu_plan import Plan, Problem, Wishes, choose_plan
from fastnn.kernels.cpu import JIT, amx, amx_parts, amx_thin, compiled
from fastnn.kernels.cpu.on_demand import amx_table


@compiled
def _forward(table, registers, x, places, m, n_in, left, W, n_out, weights, width, bias, out, gate, errand):
    amx.pack_weights(table, W, 4 * n_in, 0, n_out, n_out, n_in, weights, 0)
    amx.configure(registers)
    amx.forward(table, x, places, m, n_in, left, weights, width, bias, np.float32(1), out, 4 * width, gate, 0, errand)
    amx.release()


@compiled
def _gradient(table, registers, d, m, n_out, left, x, places, n_in, right, sums, out, share, keep, errand):
    amx.pack_turned(table, d, 4 * n_out, m, n_out, left, 0, (m + 31) // 32)
    amx.configure(registers)
    amx.add_up(table, left, n_out, x, places, m, n_in, right, sums, out, 4 * n_in, share, keep, 0, errand)
    amx.release()


def forward(x, W, b, gate=0):
    (m, n_in), n_out = x.shape, W.shape[0]
    width = -(-n_out // 16) * 16
    out, bias = np.zeros((m + 16, width), np.float32), np.zeros(width, np.float32)
    bias[:n_out] = b
    left, weights, places = (
        room(amx.left_pieces(m, -(-n_in // 32)) * amx.PIECE // 4),
        room(pieces(n_out, n_in)),
        np.arange(m, dtype=np.int64) * n_in,
    )
    _forward(
        amx_table(()), at(amx.REGISTERS), at(x), at(places), np.int64(m), np.int64(n_in), at(left), at(W),
        np.int64(n_out), at(weights), np.int64(width), at(bias), at(out), np.int64(gate), at(ERRAND),
    )  # fmt: skip
    return out[:m, :n_out]


def gradient(x, d, before, share, keep):
    (m, n_in), n_out = x.shape, d.shape[1]
    left, right, sums, out = (
        room(pieces(n_out, m)),
        room(amx.right_pieces(m) * amx.PIECE // 4),
        room(amx.ROOM // 4),
        before.copy(),
    )
    places = np.arange(m, dtype=np.int64) * n_in
    _gradient(
        amx_table(()), at(amx.REGISTERS), at(d), np.int64(m), np.int64(n_out), at(left), at(x), at(places),
        np.int64(n_in), at(right), at(sums), at(out), np.float32(share), np.float32(keep), at(ERRAND),
    )  # fmt: skip
    return out


@needs_unit
@pytest.mark.parametrize(("m", "n_in", "n_out"), SHAPES)
def test_products_are_as_exact_as_those_of_float32(m, n_in, n_out):
    """Against float64, beside NumPy's product of float32."""
    rng = np.random.default_rng(m)
    x, W, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, n_in), (n_out, n_in), (n_out,)))
    exact = x.astype(float) @ W.T.astype(float) + b
    scale = np.abs(x).astype(float) @ np.abs(W).T.astype(float) + np.abs(b)
    ours = forward(x, W, b)
    assert (np.abs(ours - exact) <= 4e-7 * scale).all()  # a few units in the last place of the sum of sizes, 6e-8 each
    theirs = np.sqrt(np.mean(((x @ W.T + b) - exact) ** 2))
    assert np.sqrt(np.mean((ours - exact) ** 2)) <= 1.5 * theirs + 1e-7
    np.testing.assert_array_equal(forward(x, W, b, gate=1), np.maximum(ours, 0))


@needs_unit
@pytest.mark.parametrize(("m", "n_in", "n_out"), SHAPES)
@pytest.mark.parametrize(("share", "keep"), [(1, 0), (1, 1), (-0.25, 0.5)])
def test_gradients_are_as_exact_as_those_of_float32(m, n_in, n_out, share, keep):
    rng = np.random.default_rng(m)
    x, d, before = (rng.standard_normal(shape).astype(np.float32) for shape in ((m, n_in), (m, n_out), (n_out, n_in)))
    exact = keep * before.astype(float) + share * (d.T.astype(float) @ x.astype(float))
    scale = np.abs(keep * before) + abs(share) * (np.abs(d).T @ np.abs(x))
    garbage = np.full_like(before, np.nan) if keep == 0 else before  # is not read then
    assert (np.abs(gradient(x, d, garbage, share, keep) - exact) <= 5e-7 * scale + 1e-12).all()


@needs_unit
def test_numbers_that_are_no_numbers_stay_so():
    x, W, b = np.ones((3, 40), np.float32), np.ones((2, 40), np.float32), np.zeros(2, np.float32)
    x[1, 7], x[2, 39] = np.nan, np.inf
    z = forward(x, W, b)
    assert z[0].tolist() == [40, 40]
    assert np.isnan(z[1]).all()
    assert not np.isfinite(z[2]).any()


@needs_unit
@pytest.mark.parametrize("kind", ["float32", "uint8"])
@pytest.mark.parametrize(
    ("sizes", "batch_size", "threads"),
    [((40, 33, 20, 3), 100, 2), ((40, 3), 301, 2), *([((40, 70, 3), 64, 1), ((40, 130, 4), 7, 2)] if JIT else [])],
)
@pytest.mark.parametrize(
    ("hidden", "optimizer", "l2"),
    [("relu", "sgd", 0.5), ("tanh", "adam", 0.0), *([("sigmoid", "momentum", 0.1)] if JIT else [])],
)
def test_training_gives_what_numpy_gives_in_float64(sizes, batch_size, threads, hidden, optimizer, l2, kind):
    rng = np.random.default_rng(0)
    X, y = rng.uniform(0, 3, (601, sizes[0])).astype(kind), rng.integers(0, sizes[-1], 601)
    backend = fastnn.get_backend("numba", threads=threads if JIT else 1, amx=True)
    ours = trained(backend, sizes, X, y, hidden, optimizer, batch_size, l2=l2)
    assert "on the matrix unit" in ours.plan(batch_size, optimizer=optimizer)
    oracle = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float64", seed=1, l2=l2)
    oracle.theta[...] = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float32", seed=1).theta
    oracle.fit(X, y, optimizer=optimizer, learning_rate=0.01, batch_size=batch_size, epochs=2)
    # rounding of up to 172 steps
    assert np.linalg.norm(ours.theta - oracle.theta) <= 2e-5 * np.linalg.norm(oracle.theta)
    again = trained(backend, sizes, X, y, hidden, optimizer, batch_size, l2=l2)
    np.testing.assert_array_equal(again.theta, ours.theta)


@needs_unit
@pytest.mark.skipif(not JIT, reason="without JIT a team has one thread")
@pytest.mark.parametrize("present", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [128, 300])  # weights laid out for all, and by each thread for itself
def test_members_of_the_plan_may_stay_away(present, batch_size):
    X, y, sizes = np.random.default_rng(0).random((700, 40), np.float32), np.arange(700) % 3, (40, 33, 20, 3)
    thetas = []
    for backend, dtype in ((fastnn.get_backend("numba", amx=True, threads=4), "float32"), ("numpy", "float64")):
        net = fastnn.Network(sizes, backend=backend, dtype=dtype, seed=0)
        program = net.backend.compile(net, fastnn.optimizers.SGD(0.1), batch_size)
        if dtype == "float32":
            assert (program.plan.threads, program._memory.weights.shape[0]) == (4, 4 if batch_size == 300 else 1)
            program._team = lambda: present
        program.run(X.astype(dtype), y, np.arange(700), 0, 2)
        thetas.append(net.theta)
    np.testing.assert_allclose(*thetas, atol=1e-6)


@needs_unit
@pytest.mark.parametrize("threads", [1, 2] if JIT else [1])
@pytest.mark.parametrize("sizes", [(1, 64, 64, 1), (4, 33, 50, 3), (2, 5, 1), (3, 4), (1, 100, 2, 70, 4), (5, 20, 5)])
@pytest.mark.parametrize(
    ("hidden", "optimizer", "l2"),
    [("relu", "sgd", 0.5), ("tanh", "adam", 0.0), ("leaky_relu", "momentum", 0.1), ("gelu", "adam", 0.2)],
)
def test_few_inputs_and_outputs_give_what_numpy_gives_in_float64(sizes, hidden, optimizer, l2, threads):
    """Whose layers vectors multiply (kernels/cpu/amx_thin.py); with 5 the unit does. 121 rows leave a last batch of
    one.
    """
    rng = np.random.default_rng(0)
    X, y = (
        rng.uniform(-1, 1, (121, sizes[0])).astype(np.float32),
        rng.standard_normal((121, sizes[-1])).astype(np.float32),
    )
    options = {"l2": l2, "output": "identity", "cost": "squared_error"}
    backend = fastnn.get_backend("numba", threads=threads if JIT else 1, amx=True)
    ours = trained(backend, sizes, X, y, hidden, optimizer, 60, **options)
    assert "on the matrix unit" in ours.plan(60, optimizer=optimizer)
    oracle = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float64", seed=1, **options)
    oracle.theta[...] = fastnn.Network(sizes, hidden=hidden, backend="numpy", dtype="float32", seed=1, **options).theta
    oracle.fit(X, y, optimizer=optimizer, learning_rate=0.01, batch_size=60, epochs=2)
    # rounding of six steps, 6e-8 a number; at most 8e-7 was seen
    assert np.linalg.norm(ours.theta - oracle.theta) <= 5e-6 * np.linalg.norm(oracle.theta)
    again = trained(backend, sizes, X, y, hidden, optimizer, 60, **options)
    np.testing.assert_array_equal(again.theta, ours.theta)


@compiled
def _thin(table, s, places, m, count, M, width, z, gate, with_biases, d, sums, a, b, few, room):
    amx_thin.few_to_many(table, s, places, m, count, M, width, z, 4 * width, gate, with_biases)
    amx_thin.sums_over_rows(table, s, places, m, count, d, 4 * width, width, sums)
    amx_thin.many_to_few(table, a, 4 * width, m, M, width, count, b, few, 4 * count, room)


@needs_unit
@pytest.mark.parametrize("m", [1, 15, 16, 37])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("gate", ["none", "biases", "relu", "derivative"])
def test_products_of_few_inputs_or_outputs(m, count, gate):
    """Against float64; NaN stays NaN."""
    rng, width = np.random.default_rng(m), 48
    s, M, d, a, b = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((m, count + 3), (count + 1, width), (m, width), (m, width), (count,))
    )
    s[0, 0] = np.nan if gate == "relu" else s[0, 0]
    z, sums, few, room16 = (
        np.full((m, width), 7, np.float32),
        np.zeros((count + 1, width), np.float32),
        np.zeros((m, count), np.float32),
        room(16),
    )
    places = np.arange(m, dtype=np.int64)[::-1] * s.shape[1]
    below = np.maximum(rng.standard_normal((m, width)), 0).astype(np.float32)
    gates = {"none": 0, "biases": 0, "relu": 1, "derivative": at(below)}
    numbers = (
        at(s),
        at(places),
        m,
        count,
        at(M),
        width,
        at(z),
        gates[gate],
        gate in ("biases", "relu"),
        at(d),
        at(sums),
        at(a),
        at(b),
        at(few),
        at(room16),
    )
    _thin(amx_table((), True), *(np.int64(number) for number in numbers))
    rows = s[::-1, :count].astype(float)
    exact = rows @ M[:count] + (M[count] if gate in ("biases", "relu") else 0)
    # np.maximum keeps NaN
    exact = np.maximum(exact, 0) if gate == "relu" else exact * (below > 0) if gate == "derivative" else exact
    np.testing.assert_allclose(z, exact, rtol=1e-5, atol=1e-5)
    # up to 48 products, some of which cancel: 48 units of 6e-8 of their sizes, about 3, are 1e-5
    np.testing.assert_allclose(sums, np.concatenate([rows.T @ d, d.sum(axis=0, keepdims=True)]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(few, a @ M[:count].T.astype(float) + b, rtol=1e-4, atol=1e-4)


def test_the_plan_takes_the_unit_where_it_pays_or_is_asked_for_and_can():
    """What pays as measured side by side (bench/results)."""
    problem = Problem((784, 300, 100, 10), 512, 4, amx=True)
    assert choose_plan(problem, 2) == choose_plan(problem, 2, Wishes(amx=True)) == Plan(2, 512, True, amx=True)
    assert choose_plan(Problem((784, 100, 100, 10), 8192, 4, amx=True), 2) == Plan(2, 1024, True, amx=True)
    assert choose_plan(Problem((1, 64, 64, 1), 2048, 4, amx=True), 2) == Plan(2, 128, True, amx=True)
    assert (AMX_FEW, AMX_LAST_UNITS) == (amx_thin.FEW, amx_parts.LAST_UNITS)
    assert choose_plan(Problem((2, 128, 128, 128, 1), 1024, 4, amx=True), 2).amx  # a function of two coordinates
    wide = (28, 300, 300, 300, 300, 1)
    for sizes, batch in (((784, 300, 100, 10), 128), ((784, 30, 10), 8192), ((1, 64, 64, 1), 64), (wide, 128)):
        other = choose_plan(Problem(sizes, batch, 4, amx=True), 2)
        assert other == choose_plan(Problem(sizes, batch, 4), 2)
        assert not other.amx
    for sizes, batch in ((wide, 512), ((784, 1024, 1024, 10), 512)):
        assert choose_plan(Problem(sizes, batch, 4, amx=True), 2).amx
    for wishes in (Wishes(amx=False), Wishes(panels=True), Wishes(sliced=False)):
        assert not choose_plan(problem, 2, wishes).amx
    assert choose_plan(problem, 2, Wishes(threads=1, chunk=100, amx=True)) == Plan(1, 100, True, amx=True)
    assert "in panels or on the matrix unit, whichever the model finds faster" in explain_plan(problem, 2)
    text = explain_plan(problem, 2, Wishes(amx=True))
    assert "on the matrix unit, as asked for" in text
    assert "270 GFLOP/s  products on the matrix unit, in whole tiles" in text
    for other in (
        Problem((784, 10), 1, 4, amx=True),
        Problem((784, 10), 8, 8, amx=True),
        Problem((784, 10), 8, 4, fits_panels=False, amx=True),
        Problem((784, 10), 8, 4),
    ):
        assert not choose_plan(other, 2, Wishes(amx=True)).amx
    assert (
        "not on the matrix unit, which was asked for, because the matrix unit multiplies float32 alone"
    ) in explain_plan(Problem((784, 10), 8, 8, amx=True), 2, Wishes(amx=True))
    far = Problem((784, 2048, 2048, 10), 2048, 4, amx=True)
    assert far.amx_seconds(1) > far.amx_seconds(2) > problem.amx_seconds(2)


@pytest.mark.parametrize("options", [{"panels": True}, {"panels": False}, {"sliced": False}])
def test_the_unit_leaves_no_other_choice(options):
    with pytest.raises(ValueError, match="leaves no choice of panels="):
        Wishes(amx=True, **options)


def test_a_unit_that_is_not_there_is_an_error(monkeypatch):
    fastnn.get_backend("numba")  # which all tests share, is made before
    monkeypatch.setattr("fastnn.backends.cpu_unit.missing", lambda: "no amx-tile here")
    with pytest.raises(ValueError, match="amx=True asks for a matrix unit that cannot be used: no amx-tile here"):
        fastnn.get_backend("numba", amx=True)
    engine = fastnn.get_backend("numba", chunk=4096)  # a new one
    net = fastnn.Network([784, 300, 100, 10], backend=engine)
    assert "matrix unit (AMX): not used" in net.plan(512, explain=True)
    assert "on the matrix unit" not in net.plan(512)


@needs_unit
@pytest.mark.parametrize(
    ("dtype", "optimizer", "batch_size", "reason"),
    [
        ("float64", "sgd", 8, "float32 alone"),
        ("float32", "lamb", 8, "rules with norms of layers"),
        ("float32", "sgd", 1, "steps of one row"),
    ],
)
def test_what_the_unit_cannot_do_is_said(dtype, optimizer, batch_size, reason):
    net = fastnn.Network([4, 3, 2], backend=fastnn.get_backend("numba", threads=1, amx=True), dtype=dtype)
    X, y = np.ones((16, 4), dtype), np.arange(16) % 2
    with pytest.warns(
        RuntimeWarning, match=f"amx=True is not followed, products are computed (in panels|by BLAS): .*{reason}"
    ):
        net.fit(X, y, optimizer=optimizer, learning_rate=0.01, batch_size=batch_size, epochs=1)
    assert reason in net.plan(batch_size, optimizer=optimizer, explain=True)
    assert np.isfinite(net.theta).all()


@needs_unit
@pytest.mark.parametrize("rows", [1024, 1300] if JIT else [1024])
@pytest.mark.parametrize(
    ("sizes", "hidden"),
    [
        ((40, 70, 33, 3), "relu"),
        *([((2, 64, 64, 1), "tanh"), ((33, 64, 5), "sigmoid"), ((784, 100, 10), "relu")] if JIT else []),
    ],
)
def test_predictions_of_many_rows(monkeypatch, sizes, hidden, rows):
    """Against float64, in parts; those that are no numbers are found wherever they are."""
    asked = []
    monkeypatch.setattr(
        numba_backend, "AmxPredictor", lambda net, real=numba_backend.AmxPredictor: asked.append(net) or real(net)
    )
    monkeypatch.setattr(numba_backend, "UNIT_OUTPUTS", 0)
    monkeypatch.setattr(numba_backend, "TEAM_FLOPS", 0)
    monkeypatch.setattr(numba_backend, "ONE_THREAD_FLOPS", 0)
    options = {} if sizes[-1] > 1 else {"output": "identity", "cost": "squared_error"}
    net = fastnn.Network(
        sizes, hidden=hidden, seed=1, dtype="float32", backend=fastnn.get_backend("numba", amx=True), **options
    )
    net.biases[0][...] = np.linspace(-1, 1, sizes[1])
    exact = fastnn.Network(sizes, hidden=hidden, dtype="float64", backend="numpy", **options)
    exact.theta[...] = net.theta
    X = np.random.default_rng(0).standard_normal((rows, sizes[0])).astype(np.float32)
    outputs = net.forward(X)[-1], net.predict(X) if sizes[-1] == 1 else net.predict_proba(X)
    for h in outputs:
        np.testing.assert_allclose(h, exact.forward(X.astype(float))[-1].reshape(h.shape), rtol=2e-5, atol=2e-6)
    assert asked == [net]  # made once
    net.theta[...] *= np.float32(0.5)  # and reads the parameters as they are
    exact.theta[...] = net.theta
    h = net.predict(X) if sizes[-1] == 1 else net.predict_proba(X)
    np.testing.assert_allclose(h, exact.forward(X.astype(float))[-1].reshape(h.shape), rtol=2e-5, atol=2e-6)
    for value in (np.nan, np.inf):
        for row in (0, 130, rows - 1):
            spoilt = X.copy()
            spoilt[row, -1] = value
            with pytest.raises(ValueError, match=f"at row {row}, column {sizes[0] - 1}"):
                net.predict(spoilt)


@needs_unit
@pytest.mark.parametrize(
    ("options", "dtype", "rows", "width", "used"),
    [({}, "float32", 1024, 256, JIT), ({"amx": False}, "float32", 1024, 256, False), ({"panels": True}, "float32", 1024, 256, False), ({"panels": False}, "float32", 1024, 256, False), ({"amx": True}, "float64", 1024, 256, False), ({"amx": True}, "float32", 1023, 300, False), ({"amx": True}, "float32", 1024, 255, False),
     *([({}, "float32", 4096, 64, True), ({"amx": True}, "float32", 4500, 63, False)] if JIT else [])],
)  # fmt: skip
def test_which_predictions_use_the_unit(monkeypatch, options, dtype, rows, width, used):
    asked = []
    monkeypatch.setattr(
        numba_backend, "AmxPredictor", lambda net, real=numba_backend.AmxPredictor: asked.append(net) or real(net)
    )
    fastnn.Network([4, width, 2], backend=fastnn.get_backend("numba", **options), dtype=dtype).predict(
        np.ones((rows, 4), dtype)
    )
    assert bool(asked) is used


@needs_unit
@pytest.mark.skipif(not JIT, reason="a plan for compiled code")
@pytest.mark.parametrize(
    ("value", "amx", "used"), [("off", None, False), ("on", None, True), ("", None, True), ("off", True, True)]
)
def test_the_environment_decides_where_the_program_says_nothing(monkeypatch, value, amx, used):
    monkeypatch.setenv("FASTNN_AMX", f" {value.upper()} ")
    engine = fastnn.get_backend("numba", threads=1) if amx is None else fastnn.get_backend("numba", threads=1, amx=amx)
    plan = fastnn.Network([784, 300, 100, 10], backend=engine).plan(2048, training_rows=60_000, explain=True)
    assert ("on the matrix unit" in plan.splitlines()[0]) is used
    assert ("FASTNN_AMX=off" in plan) is not used


@needs_unit
@pytest.mark.skipif(not JIT, reason="a plan for compiled code")
@pytest.mark.parametrize(
    ("value", "amx", "octets", "used"),
    [("", None, False, False), ("", None, True, True), ("on", None, False, True), ("", True, False, True)],
)
def test_where_others_may_use_the_unit_it_is_for_bytes(monkeypatch, value, amx, octets, used):
    monkeypatch.setattr(cpu_unit, "_one_thread_of_a_core", lambda: True)
    monkeypatch.setenv("FASTNN_AMX", value)
    asked = []
    monkeypatch.setattr(
        numba_backend, "AmxPredictor", lambda net, real=numba_backend.AmxPredictor: asked.append(net) or real(net)
    )
    engine = fastnn.get_backend("numba", threads=1, amx=amx)
    net = fastnn.Network([784, 300, 100, 10], backend=engine)
    kind = "uint8" if octets else "float32"
    plan = net.plan(2048, training_rows=60_000, explain=True, data_dtype=kind)
    assert ("on the matrix unit" in plan.splitlines()[0]) is used
    careful = not value and amx is None
    assert ("135 GFLOP/s  products on the matrix unit" in plan) is (careful and octets)
    assert ("FASTNN_AMX=on if nobody does" in plan) is careful
    assert ("for uint8 data alone" in engine.matrix_unit) is careful
    net.predict(np.ones((2048, 784), kind))
    assert bool(asked) is used


@pytest.mark.parametrize(
    "sizes", [(1, 32, 1), (16, 32, 10), (3000, 1024, 1024, 1000), (3000, 3000, 3000, 10), (784, 300, 10)]
)
@pytest.mark.parametrize("batch", [32, 512, 8192])
def test_no_plan_of_floats_takes_a_unit_that_others_may_use(sizes, batch):
    """However small, or large beyond panels, where the unit at half its speed would seem the better way."""
    for threads in (1, 2):
        assert not choose_plan(Problem(sizes, batch, 4, amx=True, amx_shared=True), threads).amx


INFO = "processor\t: 0\nflags\t\t: fpu vme {}amx_tile\n\nprocessor\t: 1\n"


@pytest.mark.parametrize(
    ("info", "siblings", "shared"),
    [
        (INFO.format("hypervisor "), "0\n", True),
        (INFO.format("hypervisor "), "0-1\n", False),  # both threads of its cores are the machine's own
        (INFO.format("hypervisor "), "0,2\n", False),
        (INFO.format(""), "0\n", False),  # no virtual machine, hyperthreads switched off
        ("nothing\n", "0\n", False),
        (None, None, False),
    ],
)
def test_who_may_share_the_unit(monkeypatch, tmp_path, shared, info, siblings):
    for name, content in (("CPUINFO", info), ("SIBLINGS", siblings)):
        monkeypatch.setattr(cpu_unit, name, tmp_path / name)
        if content is not None:
            (tmp_path / name).write_text(content)
    assert cpu_unit.really_shared.__wrapped__() is shared


def test_another_word_is_refused(monkeypatch):
    monkeypatch.setenv("FASTNN_AMX", "maybe")
    with pytest.raises(ValueError, match=r"environment variable FASTNN_AMX='maybe' is not known\. Known: on, off"):
        fastnn.get_backend("numba", threads=1)
