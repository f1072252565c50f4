"""Independent oracles: the mathematics of the specification, written a second time.

Nothing here imports fastnn. Everything is computed in `wide` (80-bit long double where the machine
has it, else float64) with einsum and the textbook formulas, so that an oracle's own rounding is
negligible beside that of the engine under test. Formulas are written differently from the
library's where there is a choice (log of a probability instead of log1p, the Jacobian instead of
the closed form), at inputs where the textbook formula is safe.

Shapes as in the specification: rows are examples, W (n_out, n_in), b (n_out,).
"""

from __future__ import annotations

import itertools

import numpy as np

wide = np.longdouble
WIDE_EPS = float(np.finfo(wide).eps)


def widen(*arrays):
    return [np.asarray(x).astype(wide) for x in arrays]


# ---- activations: name -> (g, g'), both of z alone --------------------------------------------------


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))  # long double reaches e^11356, so no branch is needed for |z| <= 1e4


def _sigmoid_slope(z):
    return 1 / (2 + np.exp(z) + np.exp(-z))  # g(1-g) without the cancellation in 1-g


def normal_cdf(z):
    """Phi of the wide z: near 0 by the series of terms of one sign, 1/2 + phi(z) (z + z^3/3 + z^5/15 + ...); beyond 3
    by Laplace's continued fraction, Phi(-x) = phi(x) / (x + 1/(x + 2/(x + ...))), which keeps the digits of small ones.
    """
    x = np.abs(z)
    near, far = np.minimum(x, 3), np.maximum(x, 3)
    term = total = near
    for k in range(3, 123, 2):
        term = term * near * near / k
        total = total + term
    fraction = far
    for k in range(200, 0, -1):
        fraction = far + k / fraction
    tail = np.where(x > 3, normal_density(far) / fraction, wide(0.5) - normal_density(near) * total)
    return np.where(z < 0, tail, 1 - tail)


def normal_density(z):
    return np.exp(-z * z / 2) / np.sqrt(2 * np.arccos(wide(-1)))


def activation(name, z, slope=0.01):
    """g(z), wide."""
    (z,) = widen(z)
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    return {
        "sigmoid": _sigmoid,
        "tanh": np.tanh,
        "relu": lambda z: np.where(z > 0, z, 0 * z),
        "leaky_relu": lambda z: np.where(z > 0, z, wide(slope) * z),
        "identity": lambda z: z,
        "exp": np.exp,
        "silu": lambda z: z * _sigmoid(z),
        "gelu": lambda z: z * normal_cdf(z),
    }[name](z)


def derivative(name, z, slope=0.01):
    """g'(z), wide; the left one at a kink."""
    (z,) = widen(z)
    return {
        "sigmoid": _sigmoid_slope,
        "tanh": lambda z: (1 / np.cosh(z)) ** 2,  # squared last: cosh(1e4) is within reach, its square is not
        "relu": lambda z: np.where(z > 0, wide(1), wide(0)),
        "leaky_relu": lambda z: np.where(z > 0, wide(1), wide(slope)),
        "identity": np.ones_like,
        "exp": np.exp,
        "silu": lambda z: _sigmoid(z) + z * _sigmoid_slope(z),
        "gelu": lambda z: normal_cdf(z) + z * normal_density(z),
    }[name](z)


def softmax_jacobian(h):
    """dh_j/dz_k of every row, (m, K, K): h_j (1[j=k] - h_k)."""
    return np.einsum("mj,jk->mjk", h, np.eye(h.shape[1], dtype=wide)) - np.einsum("mj,mk->mjk", h, h)


# ---- costs ------------------------------------------------------------------------------------------


def as_rows(y, K):
    """Targets as (m, K): integer classes become one-hot rows."""
    y = np.asarray(y)
    if y.ndim == 2:
        return y.astype(wide)
    return np.eye(K, dtype=wide)[y] if y.dtype.kind in "iu" else y.astype(wide)[:, None]


def tilted_or_bounded(cost):
    """(name, parameter) of a cost of errors; None for the others. The absolute error is twice the median's."""
    name, _, parameter = cost.partition(":")
    if name == "absolute_error":
        return name, wide(0.5)
    return (name, wide(parameter)) if parameter else None


def cost_rows(output, cost, z, y, slope=0.01):
    """Each row's cost, (m,), from the probabilities themselves."""
    h, t = activation(output, z, slope), as_rows(y, np.shape(z)[1])
    if cost == "squared_error":
        return ((t - h) ** 2).sum(axis=1) / 2
    if (found := tilted_or_bounded(cost)) is not None:
        name, p = found
        miss = t - h  # the other way round than the engines have it
        if name == "huber":
            return np.where(np.abs(miss) <= p, miss**2 / 2, p * np.abs(miss) - p**2 / 2).sum(axis=1)
        return np.maximum(p * miss, (p - 1) * miss).sum(axis=1) * (2 if name == "absolute_error" else 1)
    (z,) = widen(z)
    if cost == "poisson":
        return (h - t + np.where(t > 0, t * np.log(np.where(t > 0, t, 1) / h), 0)).sum(axis=1)  # half the deviance
    if output == "softmax":
        return -(
            t
            * (
                z
                - z.max(axis=1, keepdims=True)
                - np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
            )
        ).sum(axis=1)
    # 1 - h is the sigmoid of -z: no digit is lost, and 0 log 0 does not arise
    return -(t * np.log(h) + (1 - t) * np.log(_sigmoid(-z))).sum(axis=1)


def output_delta(output, cost, z, y, slope=0.01):
    """dJ_sum/dz of the output layer through the chain rule, (m, K): dC/dh times dh/dz."""
    h, t = activation(output, z, slope), as_rows(y, np.shape(z)[1])
    if cost in ("cross_entropy", "poisson"):
        return h - t  # the chain rule in closed form; checked against central differences in test_costs
    if (found := tilted_or_bounded(cost)) is not None:
        name, p = found
        if name == "huber":
            return (h - t) * np.minimum(1, p / np.maximum(np.abs(h - t), p / 2))
        return np.where(h > t, 1 - p, np.where(h < t, -p, 0)) * (2 if name == "absolute_error" else 1)
    if output == "softmax":
        return np.einsum("mj,mjk->mk", h - t, softmax_jacobian(h))
    return (h - t) * derivative(output, z, slope)


# ---- the four operations ----------------------------------------------------------------------------


def dense_forward(a, W, b):
    a, W, b = widen(a, W, b)
    return np.einsum("mi,oi->mo", a, W) + b


def propagate_delta(delta, W, name, z, slope=0.01):
    delta, W = widen(delta, W)
    return np.einsum("mo,oi->mi", delta, W) * derivative(name, z, slope)


def accumulate(Delta_W, Delta_b, delta, a):
    Delta_W, Delta_b, delta, a = widen(Delta_W, Delta_b, delta, a)
    return Delta_W + np.einsum("mo,mi->oi", delta, a), Delta_b + delta.sum(axis=0)


# ---- optimizers: theta, gradient, state -> theta, state -----------------------------------------------


def sgd(theta, grad, state, t, learning_rate):
    theta, grad = widen(theta, grad)
    return theta - wide(learning_rate) * grad, []


def momentum(theta, grad, state, t, learning_rate, mu):
    theta, grad, v = widen(theta, grad, state[0])
    v = wide(mu) * v + grad
    return theta - wide(learning_rate) * v, [v]


def adam(theta, grad, state, t, learning_rate, beta1, beta2, eps, decay=0.0, sizes=None):
    """Kingma and Ba 2015; with decay Loshchilov and Hutter 2019, algorithm 2, for weights."""
    theta, grad, m, v = widen(theta, grad, *state)
    shrunk = theta.copy()
    for at, weights in _parts(theta, sizes) if decay else ():
        shrunk[at] -= wide(learning_rate) * wide(decay) * theta[at] * weights
    m = wide(beta1) * m + (1 - wide(beta1)) * grad
    v = wide(beta2) * v + (1 - wide(beta2)) * grad**2
    return shrunk - wide(learning_rate) * (m / (1 - wide(beta1) ** t)) / (
        np.sqrt(v / (1 - wide(beta2) ** t)) + wide(eps)
    ), [m, v]


def _parts(theta, sizes):
    """(positions in theta, whether weights) of each layer's weights and of its biases."""
    at = 0
    for n_in, n_out in itertools.pairwise(sizes):
        for count, weights in ((n_out * n_in, True), (n_out, False)):
            yield np.arange(at, at + count), weights
            at += count
    assert at == len(theta)


def _quotient(a, b):
    """|a| / b of a vector and a number; 1 where either is zero."""
    length = np.sqrt(np.einsum("i,i->", a, a))
    return length / b if length * b != 0 else wide(1)


def lars(theta, grad, state, t, learning_rate, mu, eta, beta, sizes):
    """You, Gitman, Ginsburg 2017, algorithm 1 with equation 6, from the paper: the local rate, the velocity, the
    move.
    """
    theta, grad, v = widen(theta, grad, state[0])
    for at, weights in _parts(theta, sizes):
        w, g, decay = theta[at], grad[at], wide(beta) if weights else wide(0)
        local = wide(eta) * _quotient(w, np.sqrt((g**2).sum()) + decay * np.sqrt((w**2).sum()))
        v[at] = wide(mu) * v[at] + wide(learning_rate) * local * (g + decay * w)
    return theta - v, [v]


def lamb(theta, grad, state, t, learning_rate, beta1, beta2, eps, decay, sizes):
    """You et al. 2020, algorithm 2 with phi(x) = x."""
    theta, grad, m, v = widen(theta, grad, *state)
    m = wide(beta1) * m + (1 - wide(beta1)) * grad
    v = wide(beta2) * v + (1 - wide(beta2)) * grad**2
    r = m / (1 - wide(beta1) ** t) / (np.sqrt(v / (1 - wide(beta2) ** t)) + wide(eps))
    moved = theta.copy()
    for at, weights in _parts(theta, sizes):
        u = r[at] + (wide(decay) * theta[at] if weights else 0)
        moved[at] -= wide(learning_rate) * _quotient(theta[at], np.sqrt((u**2).sum())) * u
    return moved, [m, v]


UPDATES = {"sgd": sgd, "momentum": momentum, "adam": adam}
LAYERED = {"lars": lars, "lamb": lamb, "adam": adam}


def update(name, sizes, theta, grad, state, t, *hyper):
    """theta and state after one step of the rule of that name."""
    return (
        LAYERED[name](theta, grad, state, t, *hyper, sizes)
        if name in LAYERED
        else UPDATES[name](theta, grad, state, t, *hyper)
    )


# ---- whole networks ---------------------------------------------------------------------------------


def split(theta, sizes):
    """[(W, b)] of a flat vector: each layer's weights row by row, then its biases."""
    theta, layers, at = np.asarray(theta), [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        W = theta[at : at + n_out * n_in].reshape(n_out, n_in)
        layers.append((W, theta[at + n_out * n_in : at + n_out * (n_in + 1)]))
        at += n_out * (n_in + 1)
    assert at == theta.size
    return layers


def forward(theta, sizes, names, X, slope=0.01):
    """z^(2..L) and a^(1..L)."""
    a, z = widen(X), []
    for (W, b), name in zip(split(theta, sizes), names, strict=True):
        z.append(dense_forward(a[-1], W, b))
        a.append(activation(name, z[-1], slope))
    return z, a


def cost(theta, sizes, names, cost_name, X, y, l2=0.0, slope=0.01):
    """Mean cost with L2, wide."""
    z, _ = forward(theta, sizes, names, X, slope)
    m = len(X)
    squares = sum((widen(W)[0] ** 2).sum() for W, _ in split(theta, sizes))
    return cost_rows(names[-1], cost_name, z[-1], y, slope).sum() / m + wide(l2) / (2 * m) * squares


def gradient(theta, sizes, names, cost_name, X, y, l2=0.0, slope=0.01):
    """Its gradient by backpropagation, wide, laid out as theta."""
    z, a = forward(theta, sizes, names, X, slope)
    layers, m, parts = split(theta, sizes), len(X), []
    delta = output_delta(names[-1], cost_name, z[-1], y, slope)
    for layer in reversed(range(len(layers))):
        W, b = layers[layer]
        D_W, D_b = accumulate(0 * W, 0 * b, delta, a[layer])
        parts[:0] = [(D_W / m + wide(l2) / m * W).ravel(), D_b / m]
        if layer:
            delta = propagate_delta(delta, W, names[layer - 1], z[layer - 1], slope)
    return np.concatenate(parts)


def central_differences(f, theta, step=None):
    """Gradient of the scalar function f, one parameter at a time, wide.

    The step eps^(1/3) balances the truncation error h^2 against the rounding error eps/h.
    """
    theta = np.asarray(theta).astype(wide)
    h = wide(WIDE_EPS ** (1 / 3)) if step is None else wide(step)
    result = np.empty_like(theta)
    for i in range(theta.size):
        up, down = theta.copy(), theta.copy()
        up[i] += h
        down[i] -= h
        result[i] = (f(up) - f(down)) / (up[i] - down[i])
    return result


def d2_pinball(y, predicted, alpha, weights=None):
    """scikit-learn's score, always with weights: without, it compares before its 1.9 with an interpolated quantile, which
    need not be the best constant.
    """
    from sklearn import metrics

    weights = np.ones(len(y)) if weights is None else weights
    return metrics.d2_pinball_score(y, predicted, alpha=alpha, sample_weight=weights)
