"""Dropout: the random numbers against their published values, every program against a wide oracle that draws its own,
`fit`, what becomes of it in files and copies, and what is refused.
"""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import reference
from amx_tools import needs_unit
from cuda_cases import Memory
from cuda_on_cpu import ShimDevice
from cuda_on_cpu.products import rounded, widened
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from test_cupy_narrow import backend as cupy_backend
from test_programs import PAIRS, RULES, Problem, count_hits, orders, with_rules
from test_row_weights import ROWS, check

import fastnn
from fastnn import dropout
from fastnn.backends.cupy_stream import HostRows
from fastnn.estimators import DenseClassifier, DenseRegressor
from fastnn.kernels.cpu import JIT
from fastnn.kernels.cpu import dropout as cpu_kernel
from fastnn.kernels.cuda import sources
from fastnn.kernels.cuda.step import StepKernels

RATES = (0.3, 0.6)
KEYS = [0x0123456789ABCDEF, -0x123456789]  # of two epochs

# From the library of the paper's authors (Random123, examples/kat_vectors): counter, key, words of philox4x32-10.
PUBLISHED = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def philox(counter, key):
    """The same in Python's integers."""
    (c0, c1, c2, c3), (k0, k1), word = counter, key, 2**32
    for _ in range(10):
        (h0, l0), (h1, l1) = divmod(0xD2511F53 * c0, word), divmod(0xCD9E8D57 * c2, word)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + 0x9E3779B9) % word, (k1 + 0xBB67AE85) % word
    return [c0, c1, c2, c3]


def factors(rate, key, step, row, layer, n):
    """Of a row's n units, as the documentation has it."""
    words = [
        word
        for group in range(-(-n // 4))
        for word in philox([group, row, step, layer], [key % 2**32, key % 2**64 // 2**32])
    ]
    return [np.longdouble(0) if word < rate * 2**32 else 1 / (1 - np.longdouble(rate)) for word in words[:n]]


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_random_numbers_are_the_published_ones(counter, key, words):
    assert philox(counter, key) == words
    assert [int(word) for word in dropout.philox(counter, key)] == words


@given(
    st.floats(1e-10, 0.999999),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**31),
    st.integers(0, 2**20),
    st.integers(0, 9),
    st.integers(1, 70),
)
def test_every_engine_leaves_the_same_units_out(rate, key, step, row, layer, n):
    expected = np.array([factors(rate, key, step, row + i, layer, n) for i in range(3)])
    got = dropout.factors(rate, dropout.Drawn(key, step, row), layer, (3, n), "float64")
    np.testing.assert_allclose(got, expected.astype(float), rtol=1e-15)
    x = np.ones((3, n))
    for i in range(3):
        cpu_kernel.drop(x[i], 0, row + i, step, layer, key, dropout.limit_of(rate), dropout.scale_of(rate))
    np.testing.assert_array_equal(x, got)
    if n > 4:  # a part of a row's units, as threads share them
        part = np.ones(n - 4)
        cpu_kernel.drop(part, 4, row, step, layer, key, dropout.limit_of(rate), dropout.scale_of(rate))
        np.testing.assert_array_equal(part, got[0, 4:])


@pytest.mark.parametrize("kind", sources.KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (33, 130), (300, 8)], ids=str)
def test_the_kernel_of_the_gpu(shape, kind):
    kernel_of_the_gpu(shape, kind, Memory())


def kernel_of_the_gpu(shape, kind, memory):
    real = sources.real(kind)
    numbers = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    stored = rounded(numbers) if kind == "bfloat16" else numbers.astype(real)
    x, step = memory.apart(stored), memory(np.array([5]))
    drawn = memory(np.array([KEYS[1], 70]))
    StepKernels(ShimDevice(3), kind).drop(x, drawn, step, 11, 2, dropout.limit_of(0.4), dropout.scale_of(0.4))
    memory.check()
    factor = dropout.factors(0.4, dropout.Drawn(KEYS[1], 75, 11), 2, shape, real)
    expected = widened(stored).astype(real) * factor
    np.testing.assert_array_equal(widened(x), widened(rounded(expected)) if kind == "bfloat16" else expected)
    assert 0 < (factor == 0).mean() < 1 or shape == (1, 1)


# ---- programs -----------------------------------------------------------------------------------------------------


class Thinned(Problem):
    """A problem with units left out."""

    def network(self, backend, dtype):
        net = super().network(backend, dtype)
        net.dropout = RATES
        return net

    def train(self, backend, dtype, rule, epochs, batch=5, mode=None, streamed=False, micro=None, slices=1):
        net = self.network(backend, dtype)
        X, y = self.on_engine(backend, dtype)
        program, results = backend.compile(net, rule, batch, micro), []
        if mode:
            program.mode = mode
        for epoch, order in enumerate(epochs):
            program.key = KEYS[epoch]
            rows, steps = X.view(HostRows) if streamed else X, program.steps(len(order))
            cuts = [steps * i // slices for i in range(slices + 1)]
            found = [
                (*program.run(rows, y, backend.asarray(order.astype(np.int64)), *cut), program.hits)
                for cut in itertools.pairwise(cuts)
            ]
            cost, count, hits = zip(*found, strict=True)
            results.append((sum(cost), sum(count), None if hits[0] is None else sum(hits)))
        return np.array(backend.to_numpy(net.theta)), results

    def oracle(self, rule, epochs, batch=5):
        names, theta, t, results = [*self.hidden, self.output], self.theta, 0, []
        state = [np.zeros_like(theta) for _ in rule.slots]
        for key, order in zip(KEYS, epochs, strict=True):
            cost_sum = hits = 0
            for step, start in enumerate(range(0, len(order), batch)):
                chosen, t = order[start : start + batch], t + 1
                y, m = self.y[chosen], len(chosen)
                W, b = zip(*reference.split(theta, self.sizes), strict=True)
                a, z, thin = [np.longdouble(self.X[chosen])], [], []
                for layer, name in enumerate(names):
                    z.append(reference.dense_forward(a[-1], W[layer], b[layer]))
                    a.append(reference.activation(name, z[-1]))
                    if layer < len(RATES):
                        n = self.sizes[layer + 1]
                        thin.append(np.array([factors(RATES[layer], key, step, i, layer, n) for i in range(m)]))
                        a[-1] = a[-1] * thin[-1]
                hits += count_hits(a[-1], y)
                squares = sum((np.longdouble(weights) ** 2).sum() for weights in W)
                cost_sum += reference.cost_rows(self.output, self.cost, z[-1], y).sum()
                cost_sum += m * self.l2 / (2 * self.rows) * squares
                delta, D = reference.output_delta(self.output, self.cost, z[-1], y), []
                for layer in reversed(range(len(names))):
                    D[:0] = [delta.T @ a[layer] / m + self.l2 / self.rows * np.longdouble(W[layer]), delta.sum(0) / m]
                    if layer:
                        delta = reference.propagate_delta(delta, W[layer], names[layer - 1], z[layer - 1])
                        delta = delta * thin[layer - 1]
                D = np.concatenate([part.ravel() for part in D])
                theta, state = reference.update(rule.name, self.sizes, theta, D, state, t, *rule.hyper())
            results.append((cost_sum, len(order), hits))
        return theta, results


HIDDEN = ["relu", "sigmoid", "tanh", "leaky_relu", "identity", "gelu"]


# factors meet activations; of a rule they know nothing
@pytest.mark.parametrize(("hidden", "rule"), with_rules(HIDDEN))
def test_every_activation_and_rule(backend, dtype, hidden, rule):
    check(Thinned(hidden), backend, dtype, rule)


@pytest.mark.parametrize(("output", "cost"), PAIRS)
def test_every_pair(backend, dtype, output, cost):
    check(Thinned(output=output, cost=cost), backend, dtype, "adam")


def test_slices_of_an_epoch_change_nothing(backend, dtype):
    whole, parts = (
        Thinned().train(backend, dtype, RULES["adam"](), orders(ROWS, 2), slices=slices)[0] for slices in (1, 3)
    )
    np.testing.assert_allclose(whole, parts, rtol=1e-6)


VARIANTS = [
    {"threads": 1, "panels": True},
    {"threads": 2, "panels": True, "sliced": True, "chunk": 4},
    {"threads": 2, "panels": True, "sliced": False, "chunk": 7},
    {"threads": 2, "panels": False, "sliced": True, "chunk": 6},
    {"threads": 2, "panels": False, "sliced": False, "chunk": 3},
]


@pytest.mark.skipif(not JIT, reason="several threads need compiled code")
@pytest.mark.parametrize("batch", [1, 10, ROWS])
@pytest.mark.parametrize(
    ("hidden", "output", "cost"),
    [("relu", *PAIRS[0]), ("tanh", "sigmoid", "cross_entropy"), ("silu", "identity", "squared_error")],
)
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_program_of_the_cpu(options, hidden, output, cost, batch):
    for dtype, sizes in itertools.product(("float32", "float64"), ((6, 9, 7, 4), (5, 70, 33, 1))):
        if sizes[-1] == 1 and output == "softmax":
            continue
        engine = fastnn.get_backend("numba", **options)
        rule = "adam" if batch == 1 and cost == "squared_error" else "sgd"  # which would diverge
        check(Thinned(hidden, output, cost, sizes), engine, dtype, rule, batch)


@needs_unit
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_the_matrix_unit(threads, hidden):
    engine = fastnn.get_backend("numba", amx=True, threads=threads, chunk=6)
    for sizes in ((6, 40, 33, 4), (40, 33, 20, 20)):
        check(Thinned(hidden, sizes=sizes), engine, "float32", "adam", 16)


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize(
    "options", [{"mode": "eager"}, {"mode": "captured"}, {"streamed": True}, {"micro": 2}], ids=str
)
def test_every_program_of_the_gpu(options, hidden):
    for dtype in ("float32", "float64"):
        check(Thinned(hidden), cupy_backend(), dtype, "adam", **options)


def test_the_narrow_kernel_of_the_gpu_says_why_it_is_not_used():
    with pytest.raises(ValueError, match="it leaves no units out, and this network has dropout"):
        Thinned().train(cupy_backend(fused=True), np.dtype("float32"), RULES["adam"](), orders(ROWS, 2))


def test_gradient_against_finite_differences(backend):
    net = Thinned("tanh").network(backend, np.dtype("float64"))
    X, y = Thinned("tanh").on_engine(backend, np.dtype("float64"))
    masks = net._dropped(dropout.Drawn(KEYS[0], 3), ROWS)
    _, Delta, _ = net._backpropagate(X, y, None, None, masks)
    Delta, h = net.backend.to_numpy(Delta).copy(), 1e-6
    for i in range(0, net.layout.size, 5):
        costs = []
        for sign in (1, -1):
            net.theta[i] += sign * h
            costs.append(net._backpropagate(X, y, None, None, masks)[0])
            net.theta[i] -= sign * h
        assert (costs[0] - costs[1]) / (2 * h) == pytest.approx(Delta[i], rel=1e-5, abs=1e-7)


# ---- fit ----------------------------------------------------------------------------------------------------------


def data(rows=60):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 4)), rng.integers(0, 3, rows)


def net_of(backend, p=0.5, **options):
    return fastnn.Network([4, 20, 12, 3], backend=backend, dropout=p, dtype="float64", seed=2, **options)


def fitted(backend, p=0.5, epochs=4, **options):
    net = net_of(backend, p)
    history = net.fit(*data(), epochs=epochs, batch_size=16, **options)
    return net.backend.to_numpy(net.theta).copy(), history, net


def test_engines_agree_and_the_seed_decides(backend):
    theta, history, _ = fitted(backend, seed=3)
    reference_theta, reference_history, _ = fitted("numpy", seed=3)
    np.testing.assert_allclose(theta, reference_theta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.cost, reference_history.cost, rtol=1e-10)
    np.testing.assert_array_equal(theta, fitted(backend, seed=3)[0])
    in_order = [fitted(backend, seed=seed, shuffle=False)[0] for seed in (3, 4)]
    assert not np.allclose(*in_order), "another seed, other units, though rows come in the same order"
    assert not np.allclose(theta, fitted(backend, p=0, seed=3)[0])


def test_each_epoch_leaves_other_units_out(backend):
    net = net_of(backend)
    X, y = data()
    costs = []
    for epochs_trained in (0, 1):
        net.epochs_trained = epochs_trained
        history = net.fit(X, y, epochs=1, batch_size=60, optimizer="sgd", learning_rate=1e-12, shuffle=False)
        costs.append(history.cost[0])
    assert costs[0] != pytest.approx(costs[1], rel=1e-3)


def test_parts_of_a_batch_leave_out_what_the_batch_would(backend):
    np.testing.assert_allclose(fitted(backend, micro_batch=5)[0], fitted(backend)[0], rtol=1e-9, atol=1e-12)


def test_predictions_and_validation_take_all_units(backend):
    X, y = data()
    theta, history, net = fitted(backend, validation=(X, y))
    plain = fastnn.Network([4, 20, 12, 3], backend=backend, dtype="float64", init=theta)
    np.testing.assert_array_equal(net.predict_proba(X), plain.predict_proba(X))
    assert history.val_cost[-1] == pytest.approx(plain.mean_cost(X, y), rel=1e-12)
    assert history.cost[-1] != pytest.approx(history.val_cost[-1], rel=1e-2)


def test_what_is_left_out_is_made_up_for_on_average():
    found = dropout.factors(0.3, dropout.Drawn(1, 2), 0, (500, 500), "float64")
    share, n = (found == 0).mean(), found.size
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / n)
    assert found.mean() == pytest.approx(1, abs=5 * np.sqrt(0.3 / 0.7 / n))
    for axis in (0, 1):  # neither units nor rows are left out together
        of_each = (found == 0).mean(axis=axis)
        assert of_each.std() == pytest.approx(np.sqrt(0.3 * 0.7 / 500), rel=0.15)


def test_resumed_training_goes_on_with_the_same_units(backend, tmp_path):
    rule = fastnn.optimizers.Adam(0.01)
    whole = net_of(backend)
    whole.fit(*data(), optimizer=fastnn.optimizers.Adam(0.01), epochs=5, batch_size=16)
    first = net_of(backend)
    first.fit(*data(), optimizer=rule, epochs=2, batch_size=16)
    first.save(tmp_path / "net", optimizer=rule)
    net, rule = fastnn.resume(tmp_path / "net", backend=backend)
    assert net.dropout == (0.5, 0.5)
    net.fit(*data(), optimizer=rule, epochs=3, batch_size=16)
    np.testing.assert_array_equal(net.backend.to_numpy(net.theta), whole.backend.to_numpy(whole.theta))


def test_it_may_be_set_between_fits(backend):
    """The CPU engine keeps a program between fits of one rule: it is made anew."""
    found = []
    for kept in (True, False):
        net, rule = net_of(backend, 0.5), fastnn.optimizers.SGD(0.05)
        net.fit(*data(), optimizer=rule, epochs=2, batch_size=16)
        net.dropout = (0, 0.25)
        assert net.dropout == (0.0, 0.25)
        if not kept:
            net, theta = net_of(backend, (0, 0.25)), net.theta
            net.theta[...] = theta
            net.epochs_trained = 2
        net.fit(*data(), optimizer=rule if kept else fastnn.optimizers.SGD(0.05), epochs=1, batch_size=16)
        found.append(net.backend.to_numpy(net.theta).copy())
    np.testing.assert_array_equal(*found)


def test_the_layer_of_a_divergence_is_found():
    net = net_of("numpy")
    with pytest.raises(fastnn.Diverged) as caught:
        net.fit(*data(), optimizer="sgd", learning_rate=1e200, epochs=3, batch_size=16)
    assert caught.value.layer in (2, 3, 4)


def test_copies_and_files_keep_it(tmp_path):
    net = net_of("numpy", (0.1, 0.2))
    net.save(tmp_path / "net")
    assert fastnn.load(tmp_path / "net").dropout == (0.1, 0.2)
    assert copy.deepcopy(net).dropout == pickle.loads(pickle.dumps(net)).dropout == (0.1, 0.2)
    state = net.__getstate__()
    del state["_dropout"]  # as of before there was any
    old = fastnn.Network.__new__(fastnn.Network)
    old.__setstate__(state)
    assert old.dropout == (0, 0)
    net.dropout = 0
    net.save(tmp_path / "plain")
    assert b"dropout" not in (tmp_path / "plain").read_bytes(), "what does not use it can be read by older versions"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (1.0, r"dropout must be a finite number >= 0 and < 1, got 1"),
        (-0.1, r"dropout must be .*got -0\.1"),
        (np.nan, "dropout must be"),
        ("half", "dropout must be a number p, 0 <= p < 1, or one for each hidden layer, got 'half'"),
        (True, "dropout must be a number p"),
        ([0.1], "dropout must be one number, or one for each of the 2 hidden layers, got 1 numbers"),
        ([0.1, 1], r"dropout\[1\] must be"),
        (None, "dropout must be a number p"),
        (np.array("half"), "dropout must be a number p"),
        (np.full((2, 2), 0.1), r"dropout\[0\] must be a finite number"),
    ],
)
def test_what_is_refused(given, message):
    for make in (lambda: net_of("numpy", given), lambda: setattr(net_of("numpy"), "dropout", given)):
        with pytest.raises((ValueError, TypeError), match=message):
            make()


def test_numbers_of_numpy_are_numbers():
    for rate in (np.float32(0.5), np.array(0.5), np.array([0.5, 0.5])):
        assert net_of("numpy", rate).dropout == (0.5, 0.5)


def test_without_hidden_layers_there_is_nothing_to_leave_out():
    assert fastnn.Network([3, 2], dropout=0).dropout == ()
    with pytest.raises(ValueError, match=r"dropout=0\.5 leaves hidden units out, and this network has none"):
        fastnn.Network([3, 2], dropout=0.5)


def test_estimators():
    X, y = data()
    for kind, targets in ((DenseClassifier, y), (DenseRegressor, X[:, 0])):
        model = kind((20, 12), dropout=0.5, epochs=3, random_state=0)
        assert clone(model).dropout == 0.5
        assert model.fit(X, targets).network_.dropout == (0.5, 0.5)
        plain = kind((20, 12), epochs=3, random_state=0).fit(X, targets)
        assert not np.allclose(model.network_.theta, plain.network_.theta)


PROGRAMS = [{}, {"panels": True, "amx": False}, {"panels": False, "amx": False}]


@pytest.mark.parametrize("options", PROGRAMS)
def test_it_cannot_be_set_amid_a_fit(options):
    """Compiled programs are made for some probabilities, and would call the code of others at an address of 0."""
    net = fastnn.Network([8, 64, 3], dropout=0.5, seed=0, backend=fastnn.get_backend("numba", **options))
    X, y = np.ones((64, 8), np.float32), np.arange(64) % 3
    with pytest.raises(RuntimeError, match="dropout cannot be set while the network is being trained"):
        net.fit(X, y, epochs=3, callbacks=[lambda *_: setattr(net, "dropout", 0.0)])
    assert net.dropout == (0.5,)
    rule = fastnn.optimizers.SGD()
    program, order = net.backend.compile(net, rule, 16), np.arange(64)
    program.run(X, y, order, 0, 2)
    before = net.theta.copy()
    for rate in (0.0, 0.25):
        net.dropout = rate
        with pytest.raises(ValueError, match="when this program was compiled; compile another"):
            program.run(X, y, order, 2, 4)
    assert (net.theta.tobytes(), rule.t) == (before.tobytes(), 2)
