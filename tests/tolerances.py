"""Every tolerance of the suite with its reason, and the one comparison that uses them.

The bounds follow the standard model of rounding, fl(x op y) = (x op y)(1 + d) with |d| <= eps/2,
where eps = numpy.finfo(dtype).eps. A sum of n products in any order, fused or not, is then off by at
most n eps/2 of the sum of the magnitudes of its terms (Higham, Accuracy and Stability, section 3.1).
Written with eps instead of eps/2, each bound holds twice over. Inputs reach the oracle as the exact
numbers that the engine was given, so they contribute nothing.

Functions take the arrays the engine was given (their dtype tells eps) and return an absolute bound
per element.
"""

from __future__ import annotations

import numpy as np

# Correctly written exp, tanh and sigmoid lose a few units in the last place; this many is what the
# engines promise (NumPy's SIMD loops are within 4, CUDA's expf and tanhf within 2, plus a division).
FUNCTION_ULPS = 8


def _dtype(x):
    return x.dtype if isinstance(x, (np.ndarray, np.generic)) else np.dtype(x)


def eps(x):
    """Of a dtype, or of an array's."""
    return float(np.finfo(_dtype(x)).eps)


def tiny(x):
    """What may be flushed to zero: the smallest normal number."""
    return float(np.finfo(_dtype(x)).tiny)


def _abs(*arrays):
    return [np.abs(np.asarray(x).astype(np.longdouble)) for x in arrays]


# ---- the operations ---------------------------------------------------------------------------------


def dense_forward(a, W, b):
    """n_in products and n_in sums, the bias included."""
    A, Wa, B = _abs(a, W, b)
    return (a.shape[1] + 2) * eps(a) * (A @ Wa.T + B) + tiny(a)


def activate(name, z, value):
    """The function's own units in the last place; softmax adds what follows."""
    if name == "softmax":
        # e^(z - max): rounding the difference shifts the exponent by eps |z - max|; then a sum of n and a division.
        spread = np.abs(z - z.max(axis=1, keepdims=True)).astype(np.longdouble)
        return eps(z) * (FUNCTION_ULPS + z.shape[1] + spread) * np.abs(value) + tiny(z)
    if name in ("identity", "relu"):
        return 0.0  # a choice, not a computation
    if name in ("silu", "gelu"):
        # z times what may be flushed; in e^(-z^2 / 2) the rounding of z^2 / 2 counts absolutely
        ulps = FUNCTION_ULPS + (np.asarray(z, np.longdouble) ** 2 if name == "gelu" else 0)
        return ulps * eps(z) * np.abs(value) + tiny(z) * (1 + np.abs(z))
    return FUNCTION_ULPS * eps(z) * np.abs(value) + tiny(z)


def derivative(name, z):
    """Absolute error of g' computed from the rounded a: a(1-a) and 1-a^2 inherit the error of a,
    which is relative to a <= 1, and 1-a cancels: so absolute in eps, not relative to g'. The terms of silu's and gelu's
    are at most 1."""
    return dict.fromkeys(("sigmoid", "silu", "gelu"), FUNCTION_ULPS).get(
        name, 2 * FUNCTION_ULPS if name == "tanh" else 1
    ) * eps(z)


def propagate_delta(delta, W, name, z, slope):
    """n_out products and sums, times g' with its own error; `slope` is the oracle's |g'(z)|."""
    D, Wa, s = _abs(delta, W, slope)
    product = D @ Wa
    return product * ((delta.shape[1] + 3) * eps(z) * s + derivative(name, z)) + tiny(z)


def accumulate(Delta_W, Delta_b, delta, a):
    """m products and sums on top of what was there, for weights and biases."""
    DW, Db, d, A = _abs(Delta_W, Delta_b, delta, a)
    factor = (delta.shape[0] + 2) * eps(a)
    return factor * (DW + d.T @ A) + tiny(a), factor * (Db + d.sum(axis=0)) + tiny(a)


def output_delta(output, cost, z, targets, h):
    """From the rounded h: e = h - y is off by the error of h (relative to h <= max(1, |h|)) and its own rounding.

    squared_error multiplies by g' (error as above; |g'| <= 1); softmax also sums K products e_j h_j.
    """
    t, H = _abs(targets, h)
    error = activate(output, z, H) + eps(z) * (H + t)
    if cost in ("cross_entropy", "poisson"):
        return error + tiny(z)
    if ":" in cost:  # e, or a slope: the cost's parameter, at most 1 here, or 1 less that, in the dtype
        return error + eps(z)
    if output == "softmax":
        spread = error + eps(z) * (H + t) * (z.shape[1] + 4)
        return 2 * (
            H * (spread + (H * spread).sum(axis=1, keepdims=True))
            + error * (H + t + (H * (H + t)).sum(axis=1, keepdims=True))
        ) + tiny(z)
    if output == "exp":  # g' is h, with the error of h
        return error * H + (H + t) * (activate(output, z, H) + 2 * eps(z) * H) + tiny(z)
    return error + (H + t) * (derivative(output, z) + 2 * eps(z)) + tiny(z)


def cost_sum(output, cost, z, targets, h):
    """Scalar bound. Each element is computed in the dtype, the sum over rows in float64.

    poisson: each element in float64, with e^z of some ulps. cross_entropy: the terms |z| (1 + |y|) and log(...) <= log K + 1 are each rounded a few times, and
    softmax sums K exponentials. squared_error: e^2 with e off as in `output_delta`.
    """
    t, H, Z = _abs(targets, h, z)
    m, K = z.shape
    if ":" in cost:  # no steeper than 1
        return float((2 * eps(z) * (H + t)).sum())
    if cost == "poisson":
        logs = np.abs(np.log(np.where(t > 0, t, 1)))
        return float(FUNCTION_ULPS * eps(np.float64) * (H + t * (1 + Z + logs)).sum())
    if cost == "squared_error":
        error = eps(z) * (H + t) * 2 + activate(output, z, H)
        terms = (H + t) * error + 2 * eps(z) * (H + t) ** 2
        return float(terms.sum()) + m * K * np.finfo(np.float64).eps * float(((H + t) ** 2).sum())
    per_row = Z.max(axis=1) + np.log(K) + 1 if output == "softmax" else (Z * (1 + t) + 1).sum(axis=1)
    return float((FUNCTION_ULPS + (K if output == "softmax" else 2)) * eps(z) * per_row.sum())


# ---- optimizers: bounds for theta and each state vector after one step ------------------------------


def sgd(theta, grad, state, t, learning_rate):
    th, g = _abs(theta, grad)
    return 2 * eps(theta) * (th + 2 * learning_rate * g), []


def momentum(theta, grad, state, t, learning_rate, mu):
    th, g, v = _abs(theta, grad, state[0])
    velocity = 2 * eps(theta) * (2 * mu * v + g)
    return 2 * eps(theta) * (th + 2 * learning_rate * (mu * v + g)) + learning_rate * velocity, [velocity]


def adam(theta, grad, state, t, learning_rate, beta1, beta2, epsilon, decay=0.0):
    """m may cancel, so its error is relative to its terms; v is a sum of non-negative terms.

    A step is scale m / (sqrt(v') + eps): the error of m passes through, and the quotient, the root
    and the rounded constants cost a few eps of the step itself. g - m and g^2 - v are rounded before
    they are scaled, hence the factors.
    """
    th, g, m, v = _abs(theta, grad, *state)
    e = eps(theta)
    m_bound = 4 * e * (beta1 * m + (1 - beta1) * (g + m))
    v_bound = 6 * e * (beta2 * v + (1 - beta2) * (g**2 + v)) + tiny(theta)
    new_m, new_v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    root = np.sqrt(new_v / (1 - beta2**t)) + epsilon
    scale = learning_rate / (1 - beta1**t)
    return 2 * e * th + scale * (m_bound + 16 * e * new_m) / root, [m_bound, v_bound]


UPDATES = {"sgd": sgd, "momentum": momentum, "adam": adam}


def lars(w, g, v, step, mu, beta):
    """Of one part, for v; theta adds its own rounding. `step` is the oracle's alpha lambda, whose norms are sums in
    float64.
    """
    W, G, V = _abs(w, g, v)
    return (6 * eps(w) + 2 * w.size * eps(np.float64)) * (mu * V + step * (G + beta * W)) + tiny(w)


def lamb(w, r_bound, r, step, beta):
    """Of one part of theta, from the bound of r and the oracle's r + beta w and its alpha times the ratio: the error of
    a norm is at most the norm of the errors."""
    W, R, B = _abs(w, r, r_bound)
    B = B + 3 * eps(w) * (R + 2 * beta * W)
    of_norm = np.sqrt((B**2).sum()) / max(np.sqrt((R**2).sum()), np.finfo(np.float64).tiny) + w.size * eps(np.float64)
    return 2 * eps(w) * W + step * (B + R * (of_norm + 4 * eps(w))) + tiny(w)


# ---- whole networks and training -----------------------------------------------------------------------

# ||D - N|| / (||D|| + ||N||) per layer, the specification's bound for smooth g with float64 central differences.
GRADCHECK_SMOOTH = 1e-6
# Seen at three layers with a step of 6e-6 (specification); asserted with a factor of ten.
GRADCHECK_THREE_LAYERS = 1e-7
# Central differences of the long double oracle: truncation and rounding are both near eps^(2/3) of the cost;
# a thousand of them covers higher derivatives of these small networks, beside float64 rounding of D.
ORACLE_DIFFERENCES = 1e3 * (float(np.finfo(np.longdouble).eps) ** (2 / 3) + float(np.finfo(np.float64).eps))


def network_gradient(dtype, sizes, rows):
    """Of the largest component of a layer's gradient: every layer adds its sums forward and back.

    The widest sum has max(sizes) or `rows` terms, there are 2 (L-1) products in a row, and a factor
    of 8 stands for |W| |a| being larger than what remains after cancellation.
    """
    return 8 * 2 * (len(sizes) - 1) * (max(*sizes, rows) + FUNCTION_ULPS) * eps(dtype)


def training(dtype, steps):
    """Of max|theta|, between two ways to compute the same `steps` updates.

    A step differs by a few sums of some ten terms (10 eps); while learning_rate x curvature stays
    below 2 these differences add up and do not grow, so they are linear in the steps. (Seen: 2 eps a step.)
    """
    return 10 * eps(dtype) * max(steps, 1)


# Ten significant digits were printed in the lecture; half a unit of the last one.
WORKED_EXAMPLE = 1e-12  # absolute, specification, for the two values in bold


# Relative, float32: the sum of 2^16 equal terms. In blocks of B the drift is that of a running sum over B and over
# 2^16/B terms, well below this for B near 256; pairwise and float64 sums are near eps. A running sum is at 6e-4.
LONG_SUM = 1e-4


# ---- the comparison -----------------------------------------------------------------------------------


def assert_close(actual, expected, bound, *, dtype=None, what="result"):
    """`actual` has the shape, the dtype, only finite numbers, and lies within `bound` of `expected`.

    Phrased so that NaN fails: the condition is "is within", not "is not beyond".
    """
    actual = np.asarray(actual)
    expected = np.asarray(expected)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    if dtype is not None:
        assert actual.dtype == np.dtype(dtype), f"{what}: dtype {actual.dtype}, expected {np.dtype(dtype)}"
    assert np.isfinite(expected).all(), f"{what}: the oracle itself is not finite"
    assert np.isfinite(actual).all(), f"{what}: {np.count_nonzero(~np.isfinite(actual))} values are not finite"
    difference = np.abs(actual.astype(np.longdouble) - expected.astype(np.longdouble))
    within = difference <= bound
    if not np.all(within):
        worst = np.unravel_index(np.argmax(difference - np.broadcast_to(bound, difference.shape)), difference.shape)
        raise AssertionError(
            f"{what}: {np.count_nonzero(~within)} of {within.size} values are off; at {tuple(map(int, worst))} "
            f"got {actual[worst]!r}, expected {expected[worst]!r}, bound "
            f"{np.broadcast_to(bound, difference.shape)[worst]:.3g}"
        )
