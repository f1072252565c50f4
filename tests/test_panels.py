"""The products in panels (kernels/cpu/panels.py) against float64 and long double, for every tile and tail; and
packing parameters for them.
"""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_tools import (
    EXAMPLES,
    EXTRA,
    SIZES,
    UNTOUCHED,
    bound,
    call,
    packed,
    rows_anywhere,
    rows_of,
    step_of,
    unpacked,
)
from tolerances import assert_close

import fastnn
import fastnn.kernels.cpu as kernels_cpu
from fastnn.backends.numba_panels import _Panels, addresses
from fastnn.kernels.cpu import JIT, panels


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    m=st.integers(1, 40),
    depth=SIZES,
    n=SIZES,
    dtype=st.sampled_from(["float32", "float64"]),
    ahead=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_numba_apply_against_long_double(m, depth, n, dtype, ahead, seed):
    rng = np.random.default_rng(seed)
    data, places, x = rows_anywhere(rng, m, depth, dtype)
    matrix = rng.standard_normal((depth + 1, n)).astype(dtype)  # the last row: biases
    M, width = packed(matrix, dtype)
    out, memory = rows_of(m + EXTRA + 2, width, dtype)
    call(0, dtype, data, places, m, ahead, m + ahead, M, depth + 1, width, 0, depth, 0, out, step_of(out), 0)
    with_one = np.concatenate([x, np.ones((m, 1), dtype)], axis=1)
    expected = with_one.astype(np.longdouble) @ matrix.astype(np.longdouble)
    assert_close(out[:m, :n], expected, bound(dtype, with_one, matrix), what="apply")
    np.testing.assert_array_equal(out[:m, n:], 0)
    np.testing.assert_array_equal(out[m + EXTRA :], UNTOUCHED)
    np.testing.assert_array_equal(memory[:, width:], UNTOUCHED)
    again, _ = rows_of(m + EXTRA + 2, width, dtype)
    nothing = np.zeros(width, dtype)
    call(0, dtype, data, places, m, 0, m, M, depth + 1, width, 0, depth, nothing, again, step_of(again), 0)
    assert_close(
        again[:m, :n],
        x.astype(np.longdouble) @ matrix[:-1].astype(np.longdouble),
        bound(dtype, x, matrix[:-1]),
        what="apply without biases",
    )


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    m=st.integers(1, 20), depth=SIZES, n=SIZES, dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99)
)
def test_numba_apply_with_the_relu_and_with_its_derivative(m, depth, n, dtype, seed):
    """To the last bit what comes of the plain product; NaN in z, or in a, stays."""
    rng = np.random.default_rng(seed)
    data, places, _ = rows_anywhere(rng, m, depth, dtype)
    M, width = packed(rng.standard_normal((depth + 1, n)).astype(dtype), dtype)
    M[0] = np.nan if seed % 3 == 0 else M[0]
    plain, relu, gated, a = (rows_of(m + EXTRA, width, dtype)[0] for _ in range(4))
    a[...] = np.maximum(rng.standard_normal(a.shape), 0)
    a[0, n - 1] = np.nan
    for out, gate in ((plain, 0), (relu, panels.RECTIFY), (gated, a)):
        call(0, dtype, data, places, m, 0, m, M, depth + 1, width, 0, depth, 0, out, step_of(out), gate)
    np.testing.assert_array_equal(relu[:m], np.where(plain[:m] < 0, 0, plain[:m]))
    expected = plain[:m] * np.where(a[:m] > 0, np.ones_like(a[:m]), a[:m])
    np.testing.assert_array_equal(gated[:m], expected)
    assert np.isnan(gated[0, n - 1])


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    m=SIZES, n=SIZES, dtype=st.sampled_from(["float32", "float64"]), in_panels=st.booleans(), seed=st.integers(0, 99)
)
def test_numba_dots_against_long_double(m, n, dtype, in_panels, seed):
    """Of rows in panels, and of rows as they lie; the row that is there beyond the last is not seen."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((m + 1, n)).astype(dtype)
    matrix[m] = np.nan
    x = np.zeros(panels.padded(n, dtype), dtype)
    x[:n] = rng.standard_normal(n)
    M, width = packed(matrix, dtype)
    rows = M if in_panels else unpacked(M, m + 1, width, dtype).copy()
    out = np.full(panels.padded(m, dtype) + 4, UNTOUCHED, dtype)
    call(3, dtype, rows, m + 1 if in_panels else 0, 0 if in_panels else width, m, x, width, out)
    assert_close(
        out[:m, None],
        matrix[:m].astype(np.longdouble) @ x[:n, None].astype(np.longdouble),
        bound(dtype, matrix[:m], x[:n, None]),
        what="dots",
    )
    np.testing.assert_array_equal(out[m : panels.padded(m, dtype)], 0)
    np.testing.assert_array_equal(out[panels.padded(m, dtype) :], UNTOUCHED)


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    m=st.integers(0, 40), depth=SIZES, n=SIZES, dtype=st.sampled_from(["float32", "float64"]),
    keep=st.sampled_from([0.0, 1.0, 0.75]), share=st.sampled_from([1.0, -0.125]), cut=st.integers(0, 100), seed=st.integers(0, 99),
)  # fmt: skip
def test_numba_gradient_against_long_double(m, depth, n, dtype, keep, share, cut, seed):
    """For some rows of the matrix; what lies beside them is left alone, and with keep = 0 what they held is not
    read.
    """
    rng = np.random.default_rng(seed)
    data, places, x = rows_anywhere(rng, max(1, m), depth, dtype)
    x = x[:m]
    first = cut % depth
    count = 1 + (cut * 7) % (depth - first)
    before = rng.standard_normal((depth + 1, n)).astype(dtype)
    if keep == 0:
        before[first : first + count] = np.nan
    M, width = packed(before, dtype)
    d = rng.standard_normal((m, n)).astype(dtype)
    d_packed, _ = packed(d, dtype)
    call(
        1, dtype, data[:, first:], places, m, places, min(m, 3), d_packed, M, depth + 1, width, first, count, share,
        keep,
    )  # fmt: skip
    after = unpacked(M, depth + 1, width, dtype)[:, :n]
    own = slice(first, first + count)
    kept = keep * before[own].astype(np.longdouble) if keep else np.zeros((count, n), np.longdouble)
    expected = kept + share * (x[:, own].astype(np.longdouble).T @ d.astype(np.longdouble))
    slack = bound(dtype, x[:, own].T, d) + 4 * np.finfo(dtype).eps * np.abs(kept)
    assert_close(after[own], expected, slack, what="gradient")
    np.testing.assert_array_equal(np.delete(after, np.r_[own], axis=0), np.delete(before, np.r_[own], axis=0))


@pytest.mark.parametrize(("m", "depth", "n"), [(1, 700, 300), (7, 700, 300), (64, 785, 200), (13, 2, 80_000)])
def test_numba_products_of_matrices_beyond_the_cache(m, depth, n):
    """Parts of them are asked for in advance, past their end too: more than half a MiB, panels of all widths,
    hardly any inputs.
    """
    rng = np.random.default_rng(4)
    assert (depth + 1) * n * 4 > panels.FAR
    data, places, x = rows_anywhere(rng, m, depth, "float32")
    matrix, d = rng.standard_normal((depth + 1, n)).astype(np.float32), rng.standard_normal((m, n)).astype(np.float32)
    M, width = packed(matrix, "float32")
    out, _ = rows_of(m + EXTRA, width, "float32")
    call(0, "float32", data, places, m, 0, m, M, depth + 1, width, 0, depth, 0, out, step_of(out), 0)
    with_one = np.concatenate([x, np.ones((m, 1), np.float32)], axis=1)
    assert_close(
        out[:m, :n],
        with_one.astype(np.longdouble) @ matrix.astype(np.longdouble),
        bound(np.float32, with_one, matrix),
        what="apply",
    )
    call(1, "float32", data, places, m, places, 0, packed(d, "float32")[0], M, depth + 1, width, 0, depth, 1.0, 0.0)
    after = unpacked(M, depth + 1, width, "float32")[:, :n]
    assert_close(
        after[:-1], x.T.astype(np.longdouble) @ d.astype(np.longdouble), bound(np.float32, x.T, d), what="gradient"
    )
    np.testing.assert_array_equal(after[-1], matrix[-1])


@settings(deadline=None, max_examples=EXAMPLES)
@given(depth=SIZES, n=SIZES, dtype=st.sampled_from(["float32", "float64"]))
def test_numba_transpose_is_exact_and_its_padding_zero(depth, n, dtype):
    matrix = np.arange((depth + 1) * n, dtype=dtype).reshape(depth + 1, n) + 1
    M, width = packed(matrix, dtype)
    T_width = panels.padded(depth, dtype)
    T = np.full(width * T_width, np.nan, dtype)
    call(2, dtype, M, depth + 1, width, 0, depth, np.zeros(64, dtype), T, T_width)
    whole = unpacked(T, width, T_width, dtype)
    np.testing.assert_array_equal(whole[:n, :depth], matrix[:-1].T)
    np.testing.assert_array_equal(whole[:, depth:], 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numba_apply_carries_nan_and_infinity(dtype, bad):
    x = np.ones((5, 20), dtype)
    x[3, 7] = bad
    M, width = packed(np.ones((21, 33), dtype), dtype)
    out, _ = rows_of(5 + EXTRA, width, dtype)
    call(0, dtype, x, np.array([0, 20, 40, 60, 80, *[80] * 24]), 5, 0, 5, M, 21, width, 0, 20, 0, out, step_of(out), 0)
    np.testing.assert_array_equal(out[3, :33], bad)
    np.testing.assert_array_equal(out[[0, 1, 2, 4], :33], 21)


@pytest.mark.parametrize("n", [15, 30, 40, 64, 75, 128])
def test_numba_rows_do_not_depend_on_the_rows_beside_them(dtype, n):
    """So that the cut of a batch into tiles and slices changes no activation; one row alone is summed in another
    order.
    """
    rng = np.random.default_rng(3)
    data, places, _ = rows_anywhere(rng, 37, 90, dtype)
    M, width = packed(rng.standard_normal((91, n)).astype(dtype), dtype)
    whole, _ = rows_of(37 + EXTRA, width, dtype)
    call(0, dtype, data, places, 37, 0, 37, M, 91, width, 0, 90, 0, whole, step_of(whole), 0)
    for first, stop in [(5, 37), *((37 - m, 37) for m in range(2, 20))]:
        part, _ = rows_of(stop - first + EXTRA, width, dtype)
        call(
            0, dtype, data, places[first:].copy(), stop - first, 0, stop - first, M, 91, width, 0, 90, 0, part,
            step_of(part), 0,
        )  # fmt: skip
        np.testing.assert_array_equal(part[: stop - first], whole[first:stop])


@pytest.mark.parametrize("q", range(1, panels.code.MOST + 1))
def test_tiles_cover_all_rows_and_inputs(q):
    """Tiles of inputs end with the last; those of rows may add some."""
    known = [*panels.code.tiles(panels.code.ROWS), *panels.code.tiles(panels.code.DEPTHS)]
    # compiled, they are for compiled callers alone
    rows, inputs = (getattr(function, "py_func", function) for function in (panels._rows_of, panels._inputs_of))
    for n in range(1, 100):
        for next_tile, waste in ((lambda left, n=n: rows(n, q, left), EXTRA - 1), (lambda left: inputs(q, left), 0)):
            left = n
            while left > 0:
                tile = next_tile(left)
                assert (q, tile) in known
                left -= tile
            assert left >= -waste


@settings(deadline=None, max_examples=EXAMPLES)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 7, 8, 16, 33, 64, 65, 130, 257]), min_size=2, max_size=4),
    dtype=st.sampled_from(["float32", "float64"]),
    team=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_numba_packing_there_and_back(sizes, dtype, team, seed):
    net = fastnn.Network(sizes, output="identity", cost="squared_error", backend="numba", dtype=dtype, seed=4)
    layout = _Panels(net)
    rng = np.random.default_rng(seed)
    vectors = [rng.standard_normal(net.theta.size).astype(dtype) for _ in range(2)]
    packed = [np.zeros(int(layout.blocks[-1]), dtype) for _ in vectors]
    for me in range(team):
        layout.pack(list(zip(addresses(*vectors), addresses(*packed), strict=True)), me, team)
    for vector, memory in zip(vectors, packed, strict=True):
        for layer, (W, b) in enumerate(zip(*net.split(vector), strict=True)):
            first = int(layout.blocks[layer])
            for columns in panels.panels_of(panels.padded(len(b), dtype), dtype):
                size = (W.shape[1] + 1) * (columns.stop - columns.start)
                panel = memory[first : first + size].reshape(W.shape[1] + 1, -1)
                own = W[columns].shape[0]
                np.testing.assert_array_equal(panel[:-1, :own], W[columns].T)
                np.testing.assert_array_equal(panel[-1, :own], b[columns])
                np.testing.assert_array_equal(panel[:, own:], 0)
                first += size
            assert first == layout.blocks[layer + 1]
    again = [np.full_like(vector, np.nan) for vector in vectors]
    for me in range(team):
        layout.unpack(list(zip(addresses(*again), addresses(*packed), strict=True)), me, team)
    np.testing.assert_array_equal(again, vectors)


@pytest.mark.parametrize(
    ("hidden", "output", "cost"),
    # each activation, and each pair with one whose slope is known from its value and one whose is not
    [
        ("sigmoid", "softmax", "cross_entropy"),
        ("gelu", "softmax", "cross_entropy"),
        ("tanh", "softmax", "squared_error"),
        ("silu", "softmax", "squared_error"),
        ("relu", "sigmoid", "cross_entropy"),
        ("gelu", "sigmoid", "cross_entropy"),
        ("leaky_relu", "identity", "squared_error"),
        ("silu", "identity", "squared_error"),
        ("identity", "identity", "squared_error"),
    ],
)
@pytest.mark.parametrize("widths", [(70, 5), (17, 130, 9), (128, 256)] if JIT else [(17, 5)], ids=str)
def test_numba_panels_train_as_blas_does(dtype, hidden, output, cost, widths):
    """Widths that fill no vector, batches that fill no tile, data converted on its way or read where it lies."""
    rng = np.random.default_rng(1)
    X = rng.integers(0, 255, (90, 23)).astype(np.uint8)
    y = rng.integers(0, 6, 90) if output == "softmax" else rng.random((90, 6))
    trained = []
    for wanted, data in ((False, X), (True, X), (True, (X * np.dtype(dtype).type(1 / 255)).astype(dtype))):
        engine = fastnn.get_backend("numba", threads=1, panels=wanted)
        net = fastnn.Network(
            [23, *widths, 6], hidden=hidden, output=output, cost=cost, l2=0.3, backend=engine, dtype=dtype, seed=2
        )
        history = net.fit(
            data,
            y,
            optimizer="momentum",
            learning_rate=0.05,
            batch_size=77,
            epochs=3,
            scale=1 / 255 if data.dtype == np.uint8 else None,
        )
        trained.append((net.theta, history.cost))
    for theta, costs in trained[1:]:
        np.testing.assert_allclose(theta, trained[0][0], rtol=0, atol=200 * np.finfo(dtype).eps)
        np.testing.assert_allclose(costs, trained[0][1], rtol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize("threads", [1, 2] if JIT else [1])
@pytest.mark.parametrize("batch", [1, 13, 77] if JIT else [1, 13])
@pytest.mark.parametrize(
    ("sizes", "output"),
    [((3, 70, 1), "identity"), ((3, 20, 66, 1), "sigmoid"), ((3, 1), "identity"), ((3, 9, 5), "identity")],
    ids=str,
)
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_numba_panels_with_one_output_or_one_row_train_as_blas_does(dtype, sizes, output, batch, threads, rule):
    """A single output is summed and moved by kernels of its own, and so is a single row; the last batch has fewer
    rows.
    """
    rng = np.random.default_rng(5)
    X, y = (
        rng.standard_normal((40 if batch == 1 else 90, 3)).astype(dtype),
        rng.random((40 if batch == 1 else 90, sizes[-1])),
    )
    cost = "squared_error" if output == "identity" else "cross_entropy"
    trained = []
    for how in (
        {"threads": 1, "panels": False},
        {"threads": threads, "panels": True},
        {"threads": threads, "panels": True, "sliced": threads > 1, "chunk": 16 * threads},
    ):
        net = fastnn.Network(
            sizes,
            hidden="relu",
            output=output,
            cost=cost,
            l2=0.3,
            backend=fastnn.get_backend("numba", **how),
            dtype=dtype,
            seed=2,
        )
        history = net.fit(X, y, optimizer=rule, learning_rate=0.02, batch_size=batch, epochs=2)
        trained.append((net.theta, history.cost))
    # Parameters near 1 after up to 80 steps, each rounded a few times in another order; Adam divides small gradients,
    # and their rounding, by their size.
    for theta, costs in trained[1:]:
        np.testing.assert_allclose(
            theta, trained[0][0], rtol=0, atol=(2000 if rule == "sgd" else 40000) * np.finfo(dtype).eps
        )
        np.testing.assert_allclose(costs, trained[0][1], rtol=2000 * np.finfo(dtype).eps)


@pytest.mark.parametrize(
    "how",
    [{"threads": 1}, {"threads": 2, "sliced": True}, {"threads": 2, "sliced": False}] if JIT else [{"threads": 1}],
    ids=str,
)
@pytest.mark.parametrize(
    ("sizes", "output"),
    [((23, 128, 256, 6), "softmax"), ((5, 130, 1), "identity"), ((7, 20, 3), "softmax")]
    if JIT
    else [((5, 128, 1), "identity")],
    ids=str,
)
@pytest.mark.parametrize("rule", ["sgd", "momentum"])
def test_numba_tall_tiles_train_as_blas_does(dtype, sizes, output, how, rule):
    """More rows at a time than a gradient takes: it adds their parts up, in plain gradient descent onto the parameters
    themselves; widths whose rows lie a line further apart.

    By BLAS too, on as many threads, where each adds up and moves thousands of parameters.
    """
    rng = np.random.default_rng(6)
    X = rng.standard_normal((610, sizes[0])).astype(dtype)
    y, cost = (
        (rng.integers(0, sizes[-1], 610), "cross_entropy")
        if output == "softmax"
        else (rng.random((610, 1)), "squared_error")
    )
    trained = []
    for options in (
        {"threads": 1, "panels": False},
        {**how, "panels": True, "chunk": how["threads"] * 230},
        {**how, "panels": False},
    ):
        net = fastnn.Network(
            sizes,
            hidden="relu",
            output=output,
            cost=cost,
            l2=0.3,
            backend=fastnn.get_backend("numba", **options),
            dtype=dtype,
            seed=2,
        )
        history = net.fit(X, y, optimizer=rule, learning_rate=0.05, batch_size=230 * how["threads"], epochs=3)
        trained.append((net.theta, history.cost))
    for theta, costs in trained[1:]:
        np.testing.assert_allclose(theta, trained[0][0], rtol=0, atol=500 * np.finfo(dtype).eps)
        np.testing.assert_allclose(costs, trained[0][1], rtol=500 * np.finfo(dtype).eps)


@pytest.mark.parametrize("rows", [512, 700, 6_000] if JIT else [512])  # plain Python takes seconds for each
@pytest.mark.parametrize(
    ("sizes", "hidden", "output"),
    [
        ((33, 70, 5), "tanh", "softmax"),
        ((5, 16, 16, 1), "relu", "identity"),
        *([((9, 128, 256, 128), "sigmoid", "softmax"), ((300, 130), "relu", "sigmoid")] if JIT else []),
    ],
    ids=str,
)
def test_numba_predictions_of_many_rows(dtype, rows, sizes, hidden, output):
    """On one thread and on several; the last tile is not full, and the memory behind X is not read (its pages end
    with it).
    """
    cost = "squared_error" if output == "identity" else "cross_entropy"
    how = {"hidden": hidden, "output": output, "cost": cost, "dtype": dtype, "seed": 3}
    X = np.random.default_rng(1).standard_normal((rows, sizes[0])).astype(dtype)
    expected = fastnn.Network(sizes, backend="numpy", **how).forward(X)[-1]
    net = fastnn.Network(sizes, backend=fastnn.get_backend("numba", threads=3 if JIT else 1), **how)
    h = net.backend.outputs(net, X)
    assert_close(h, expected, 100 * np.finfo(dtype).eps * np.maximum(1, np.abs(expected)))
    net.theta[:] += 1  # nothing packed before is used again
    moved = net.backend.outputs(net, X)
    assert not np.allclose(moved, h)
    X[rows - 1, 0] = np.nan
    assert net.backend.outputs(net, X) is None


def test_garbage_is_collected_again_after_compilation():
    @kernels_cpu.uncollected()
    def failing():
        with kernels_cpu.uncollected():  # as when one compilation asks for another
            assert not gc.isenabled()
        assert not gc.isenabled()
        raise ZeroDivisionError

    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError):
        failing()
    assert gc.isenabled()


def test_numba_predictions_see_infinity_that_a_relu_would_hide(dtype):
    """-inf times positive weights is 0 after the ReLU."""
    net = fastnn.Network(
        (3, 9, 7, 2), hidden="relu", output="identity", cost="squared_error", backend="numba", dtype=dtype, seed=0
    )
    net.theta[:] = 1
    X = np.ones((600, 3), dtype)
    assert net.backend.outputs(net, X) is not None
    X[444, 1] = -np.inf
    assert net.backend.outputs(net, X) is None


@pytest.mark.skipif(not (JIT and sys.platform == "linux"), reason="compiled code, beside pages that Linux protects")
def test_numba_reads_nothing_beyond_the_data():
    """In a process of its own, which a number read too many would end."""
    program = Path(__file__).with_name("behind_a_guard.py")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(program)], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "nothing beyond was touched\n"), done.stderr


def test_numba_cost_of_many_classes_and_rows(dtype):
    """The program takes one logarithm of a product over rows. Equal outputs cost log(classes) each; 200^300 is no
    float64.
    """
    engine = fastnn.get_backend("numba", threads=1, panels=True, chunk=300)
    net = fastnn.Network([3, 200], init="zeros", backend=engine, dtype=dtype)
    X, y = np.zeros((300, 3), dtype), np.arange(300) % 200
    (cost,) = net.fit(X, y, optimizer="sgd", learning_rate=1e-3, batch_size=300, epochs=1).cost
    np.testing.assert_allclose(cost, np.log(200), rtol=10 * np.finfo(dtype).eps)
