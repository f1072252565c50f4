"""LARS and LAMB: single steps by hand and against the oracle, zero norms, L2 beside weight decay, state, refusals.

Whole training runs of both rules on every engine are in test_programs.py and test_schedules.py.
"""

from __future__ import annotations

import copy
import pickle

import cases
import numpy as np
import pytest
import reference
import tolerances
from hypothesis import given
from hypothesis import strategies as st
from together import together

import fastnn
from fastnn import optimizers

SIZES = (6, 5, 1, 4)
RULES = {
    "lars": lambda **more: optimizers.LARS(2.0, 0.8, 0.02, **more),
    "lamb": lambda **more: optimizers.LAMB(0.03, 0.8, 0.99, 1e-7, **more),
}
rules = pytest.mark.parametrize("name", RULES)


def bound_rule(rule, backend, dtype, sizes=SIZES):
    """The rule with zero state for a theta of these sizes; the network that owns it must live."""
    net = fastnn.Network(sizes, output="identity", cost="squared_error", backend=backend, dtype=dtype)
    rule.bind(net, lambda: backend.zeros(net.theta.shape, dtype))
    return net


def check_step(backend, rule, theta, grad, sizes):
    """One step of the engine from its own theta and state against the oracle; returns nothing, moves theta."""
    before, state = np.array(backend.to_numpy(theta)), [np.array(backend.to_numpy(s)) for s in rule.state]
    device_grad = backend.asarray(grad.copy())
    backend.update(rule, theta, device_grad)
    assert backend.to_numpy(device_grad).tobytes() == grad.tobytes(), "the gradient was changed"
    expected, new_state = reference.update(rule.name, sizes, before, grad, state, rule.t, *rule.hyper())
    got, got_state = backend.to_numpy(theta), [backend.to_numpy(s) for s in rule.state]
    if rule.name == "lamb":  # r is an Adam step of length 1 from nowhere
        adam = (grad, state, rule.t, 1.0, *rule.hyper()[1:4])
        r_bound, state_bounds = tolerances.adam(0 * before, *adam)
        r = -reference.adam(0 * before, *adam)[0]
        for got_slot, want, limit in zip(got_state, new_state, state_bounds, strict=True):
            tolerances.assert_close(got_slot, want, limit, dtype=before.dtype)
    for at, weights in reference._parts(before, sizes):
        w, decay = before[at], rule.weight_decay if weights else 0.0
        if rule.name == "lars":
            g_norm, w_norm = (np.sqrt((x[at].astype(np.longdouble) ** 2).sum()) for x in (grad, before))
            step = (
                rule.rate * rule.trust * (w_norm / (g_norm + decay * w_norm) if w_norm * g_norm + w_norm * decay else 1)
            )
            limit = tolerances.lars(w, grad[at], state[0][at], step, rule.momentum, decay)
            tolerances.assert_close(got_state[0][at], new_state[0][at], limit, dtype=before.dtype)
            limit = limit + 2 * tolerances.eps(w) * np.abs(w)
        else:
            u = r[at] + decay * w
            norms = [np.sqrt((x.astype(np.longdouble) ** 2).sum()) for x in (w, u)]
            limit = tolerances.lamb(
                w, r_bound[at], u, rule.rate * (norms[0] / norms[1] if norms[0] * norms[1] else 1), decay
            )
        tolerances.assert_close(got[at], expected[at], limit, dtype=before.dtype, what=f"theta, weights={weights}")


# ---- by hand
# ------------------------------------------------------------------------------------------------------------


def test_lars_by_hand(backend):
    """||w|| = 5, ||g|| = 10, beta 0.5: the ratio is 5 / (10 + 2.5) = 0.4. The bias is 0, so its ratio counts as 1."""
    rule = optimizers.LARS(0.5, 0.9, 0.1, weight_decay=0.5)
    owner = bound_rule(rule, backend, "float64", (2, 1))
    theta = backend.asarray(np.array([3.0, 4.0, 0.0]))
    backend.update(rule, theta, backend.asarray(np.array([6.0, -8.0, 2.0])))
    # v = 0.5 * 0.1 * 0.4 * (g + w / 2) for the weights, 0.5 * 0.1 * 1 * g for the bias
    np.testing.assert_allclose(backend.to_numpy(theta), [3 - 0.02 * 7.5, 4 + 0.02 * 6, -0.1], rtol=1e-14)
    np.testing.assert_allclose(backend.to_numpy(rule.state[0]), [0.15, -0.12, 0.1], rtol=1e-14)
    backend.update(rule, theta, backend.asarray(np.zeros(3)))
    w = np.array([2.85, 4.12])
    v = 0.9 * np.array([0.15, -0.12]) + 0.5 * 0.1 * 2 * 0.5 * w  # ||w|| / (0 + ||w|| / 2) = 2
    np.testing.assert_allclose(backend.to_numpy(theta), [*(w - v), -0.1 - 0.09], rtol=1e-13)
    del owner


def test_lamb_by_hand(backend):
    """At the first step r = sign(g): of the weights (1, -1), norm sqrt 2, beside ||w|| = 5; the bias has no norm
    yet.
    """
    rule = optimizers.LAMB(0.1, eps=1e-300)
    owner = bound_rule(rule, backend, "float64", (2, 1))
    theta = backend.asarray(np.array([3.0, 4.0, 0.0]))
    backend.update(rule, theta, backend.asarray(np.array([6.0, -8.0, 2.0])))
    step = 0.1 * 5 / np.sqrt(2)
    np.testing.assert_allclose(backend.to_numpy(theta), [3 - step, 4 + step, -0.1], rtol=1e-13)
    del owner


# ---- against the oracle
# ----------------------------------------------------------------------------------------------------


@rules
@together("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("sizes", [(1, 1), SIZES, (70, 40, 3)], ids=str)
def test_twelve_steps_one_by_one(backend, dtype, name, sizes, weight_decay):
    """Each from the engine's own state before it, so that errors do not add up."""
    rule = RULES[name](weight_decay=weight_decay)
    owner = bound_rule(rule, backend, dtype, sizes)
    theta = backend.asarray(cases.parameters(sizes, dtype))
    for t in range(1, 13):
        grad = cases.normal(theta.shape, dtype, t)
        grad[::5] = 0  # a parameter that no row reaches must not become NaN
        check_step(backend, rule, theta, grad, sizes)
        assert rule.t == t
    del owner


@rules
@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 1.0, 1e4]), of_grad=st.sampled_from([1e-6, 1.0, 1e3]), decay=st.sampled_from([0.0, 0.01, 2.0]))  # fmt: skip
def test_a_step_over_the_input_space(backend, dtype, name, sizes, seed, scale, of_grad, decay):
    rule = RULES[name](weight_decay=decay)
    owner = bound_rule(rule, backend, dtype, sizes)
    theta = backend.asarray((cases.parameters(sizes, np.float64, seed) * scale).astype(dtype))
    for k in range(2):
        check_step(backend, rule, theta, cases.normal(theta.shape, dtype, seed + k, of_grad), sizes)
    del owner


@rules
@pytest.mark.parametrize("what", ["theta", "gradient", "both", "biases", "one layer"])
def test_zero_norms(backend, dtype, name, what):
    """The ratio of a part counts as 1 there: it moves as far as its gradient says, and nothing becomes NaN."""
    rule = RULES[name](weight_decay=0.2)
    owner = bound_rule(rule, backend, dtype)
    theta, grad = cases.parameters(SIZES, dtype), cases.normal(cases.parameters(SIZES).shape, dtype)
    if what in ("theta", "both"):
        theta[:] = 0
    if what in ("gradient", "both"):
        grad[:] = 0
    if what == "biases":
        for at, weights in reference._parts(theta, SIZES):
            theta[at] = theta[at] if weights else 0
    if what == "one layer":
        theta[:35] = grad[:35] = 0
    device = backend.asarray(theta.copy())
    check_step(backend, rule, device, grad, SIZES)
    if what == "both":
        np.testing.assert_array_equal(backend.to_numpy(device), theta)
    if what in ("theta", "biases"):
        assert np.any(backend.to_numpy(device) != theta)
    del owner


@pytest.mark.parametrize("size", [3e-38, 1e-30, 1e-20])
def test_a_step_is_as_long_however_small_the_gradient(backend, size):
    """The length that multiplies it is beyond float32 at first, and the step, by the norm of the weights, is not."""
    net = fastnn.Network((8, 6, 3), seed=1, backend=backend)
    before = np.array(backend.to_numpy(net.theta), np.float64)
    net.step(backend.asarray(np.full(before.size, size, np.float32)), optimizers.LARS(1000.0, 0.0, 0.1))
    expected = before.copy()
    for at, _ in reference._parts(before, (8, 6, 3)):
        norm, count = np.linalg.norm(before[at]), len(at)
        step = 100 * norm / np.sqrt(count) if norm > 0 else 100 * np.float64(np.float32(size))
        expected[at] -= step
    np.testing.assert_allclose(backend.to_numpy(net.theta), expected, rtol=1e-5)


def test_every_layer_moves_as_far_as_its_own_norm_says(backend, dtype):
    """What the rules are for: a gradient a thousand times as large in one layer moves it no further."""
    for rule in (optimizers.LARS(1.0, 0.0, 0.01), optimizers.LAMB(0.01)):
        owner = bound_rule(rule, backend, dtype)
        theta, grad = cases.parameters(SIZES, dtype), cases.normal(cases.parameters(SIZES).shape, dtype)
        grad[35:] *= 1000
        device = backend.asarray(theta.copy())
        backend.update(rule, device, backend.asarray(grad))
        moved = np.array(backend.to_numpy(device)) - theta
        for at, _ in reference._parts(theta, SIZES):
            assert np.linalg.norm(moved[at]) == pytest.approx(0.01 * np.linalg.norm(theta[at]), rel=1e-3)
        del owner


# ---- in training
# ----------------------------------------------------------------------------------------------------------


@rules
def test_a_network_that_begins_with_zero_biases_trains(backend, name):
    X, y = cases.normal((60, 6), np.float32), np.arange(60) % 4
    X[np.arange(60), y] += 3
    net = fastnn.Network((6, 8, 4), backend=backend, seed=1)
    history = net.fit(X, y, optimizer=optimizers.get(name, 10.0 if name == "lars" else 0.05), batch_size=20, epochs=40)
    assert history.accuracy[-1] > 0.9
    assert all(np.any(backend.to_numpy(b)) for b in net.biases)


@rules
def test_l2_of_the_network_is_part_of_the_gradient(backend, dtype, name):
    """lambda / n goes through D, and so through the norm and the moments; weight decay does not."""
    X, y = cases.normal((12, 6), np.float32), np.arange(12) % 4
    theta, D = cases.parameters(SIZES, np.float32), {}
    names = ("tanh", "tanh", "softmax")
    for l2, decay in ((0.0, 0.0), (6.0, 0.0), (0.0, 0.5)):
        net = fastnn.Network(SIZES, hidden="tanh", init=theta, l2=l2, backend=backend, dtype=dtype)
        rule = RULES[name](weight_decay=decay)
        net.fit(X, y, optimizer=rule, batch_size=12, epochs=1, shuffle=False)
        grad = reference.gradient(theta, SIZES, names, "cross_entropy", X, y, l2)
        expected, _ = reference.update(
            name, SIZES, theta, grad, [np.zeros_like(theta)] * len(rule.slots), 1, *rule.hyper()
        )
        D[l2, decay] = np.array(backend.to_numpy(net.theta))
        tolerances.assert_close(
            D[l2, decay], expected, 10 * tolerances.training(np.dtype(dtype), 1) * np.abs(expected).max(), dtype=dtype
        )
    assert not np.allclose(D[6.0, 0.0], D[0.0, 0.5])


@rules
def test_state_goes_on_over_fits(backend, name):
    X, y = cases.normal((24, 6), np.float64), np.arange(24) % 4
    whole, apart = (fastnn.Network(SIZES, backend=backend, dtype="float64", seed=5) for _ in range(2))
    whole.fit(X, y, optimizer=RULES[name](), batch_size=8, epochs=4)
    rule = RULES[name]()
    apart.fit(X, y, optimizer=rule, batch_size=8, epochs=1)
    apart.fit(X, y, optimizer=rule, batch_size=8, epochs=3)
    np.testing.assert_array_equal(backend.to_numpy(apart.theta), backend.to_numpy(whole.theta))
    assert rule.t == 12
    with pytest.raises(ValueError, match="carries the state of another network"):
        whole.fit(X, y, optimizer=rule, epochs=1)


@rules
def test_state_is_restored_after_divergence(backend, name):
    """To the end of the last finite slice; the epoch before it went well."""
    X, y = cases.normal((24, 6), np.float32), cases.normal((24, 4), np.float32)
    net = fastnn.Network((6, 5, 4), hidden="identity", output="identity", cost="squared_error", backend=backend)
    rule = RULES[name]()
    net.fit(X, y, optimizer=rule, batch_size=24, epochs=1)
    theta, state = np.array(backend.to_numpy(net.theta)), [np.array(backend.to_numpy(s)) for s in rule.state]
    rule.learning_rate = 1e300
    with pytest.raises(fastnn.Diverged):
        net.fit(X, y, optimizer=rule, batch_size=24, epochs=1)
    np.testing.assert_array_equal(backend.to_numpy(net.theta), theta)
    for got, kept in zip(rule.state, state, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(got), kept)
    assert rule.t == 1


@rules
def test_copies_are_fresh(name):
    net = fastnn.Network(SIZES, backend="numpy")
    rule = RULES[name]()
    net.fit(cases.normal((8, 6), np.float32), np.arange(8) % 4, optimizer=rule, epochs=1)
    for twin in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule)), copy.copy(rule)):
        assert (twin.t, twin.state, twin.hyper(), repr(twin)) == (0, [], rule.hyper(), repr(rule))
        with pytest.warns(UserWarning, match="begins anew: the state after 1 steps has stayed"):
            fastnn.Network((3, 2), backend="numpy").fit(np.eye(3), [0, 1, 1], optimizer=twin, epochs=1)


# ---- what is refused
# ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: optimizers.LARS(0),
            ValueError,
            r"learning_rate must be a finite number > 0 or a schedule \(fastnn\.schedules\) or .*, got 0",
        ),
        (lambda: optimizers.LARS(momentum=1), ValueError, "momentum must be a finite number >= 0 and < 1, got 1"),
        (lambda: optimizers.LARS(trust=0.0), ValueError, "trust must be a finite number > 0, got 0.0"),
        (lambda: optimizers.LARS(trust="small"), TypeError, "trust must be a finite number > 0, got 'small'"),
        (lambda: optimizers.LARS(weight_decay=-1e-4), ValueError, "weight_decay must be a finite number >= 0"),
        (lambda: optimizers.LAMB(beta1=1.0), ValueError, "beta1 must be a finite number >= 0 and < 1"),
        (lambda: optimizers.LAMB(beta2=-0.1), ValueError, "beta2 must be a finite number >= 0 and < 1"),
        (lambda: optimizers.LAMB(eps=0), ValueError, "eps must be a finite number > 0"),
        (
            lambda: optimizers.LAMB(weight_decay=np.nan),
            ValueError,
            "weight_decay must be a finite number >= 0, got nan",
        ),
        (lambda: optimizers.get("lamp"), ValueError, "optimizer='lamp' is not known; did you mean 'lamb'"),
    ],
)
def test_hyper_parameters_that_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_theta_of_another_layout_is_refused(backend):
    """A compiled update would write beyond the end of a layer it believes in."""
    rule = optimizers.LARS()
    owner = bound_rule(rule, backend, "float32", (2, 3))
    rule.state = [backend.zeros((5,), "float32")]
    with pytest.raises(ValueError, match="knows no layers of a theta of shape"):
        backend.update(rule, backend.zeros((5,), "float32"), backend.zeros((5,), "float32"))
    unbound = optimizers.LARS()
    unbound.state = [backend.zeros((5,), "float32")]
    with pytest.raises(ValueError, match="knows no layers of a theta of shape"):
        backend.update(unbound, backend.zeros((5,), "float32"), backend.zeros((5,), "float32"))
    del owner
