"""LARS and LAMB, whose steps depend on the norms of a layer's weights and of its biases (fastnn.optimizers).

A part - the weights or the biases of one layer - may be shared by a team. `prepare` turns the gradient of a
thread's share into the direction of the step and gives that share's sums of squares; when all have met,
`move` adds the sums of all threads in one order, so that every thread computes the same ratio, and moves
its share. Codes: 3 LARS, 4 LAMB; what is below LAYERWISE goes through `operations.update`.
"""

from __future__ import annotations

import numpy as np

from . import compiled
from .codes import LARS

__all__ = ["LAYERWISE", "factor_of", "finish", "move", "prepare"]

LAYERWISE = 3
LONG, LIFT = 1e30, 2.0**64  # of a step, beyond which its direction is multiplied and it is divided: exact


def _finish(theta, grad, share, l2):
    """Overwrites grad (n,) with D = share * grad + l2 * theta; the sum of its squares, in float64."""
    kind = theta.dtype.type
    share, l2, total = kind(share), kind(l2), 0.0
    for i in range(theta.size):
        D = share * grad[i] + l2 * theta[i]
        grad[i] = D
        total += np.float64(D) * np.float64(D)
    return total


finish = compiled(_finish)


def _factor_of(clip, squares):
    """What a gradient is multiplied by so that it is at most `clip` long; squares (layers, 2, team, 2), of which the
    first of each pair are sums of D^2 of a part by a thread. The same for all who ask.
    """
    total = 0.0
    for layer in range(squares.shape[0]):
        for biases in range(2):
            for member in range(squares.shape[2]):
                total += squares[layer, biases, member, 0]
    norm = np.sqrt(total)
    if norm - norm != 0:  # squares that overflow: the step is lost, and that is found
        return norm - norm
    return clip / norm if norm > clip else 1.0


factor_of = compiled(_factor_of)


def _prepare(rule, hyper, t, theta, grad, state1, state2, share, l2, decays, squares):
    """Overwrites grad (n,) with the direction of the step, and squares (2,) float64 with sum theta^2 and the sum that
    the ratio needs.

    D = share * grad + l2 * theta, as in `operations.update`. LARS: direction D + beta theta, the second sum is of
    D^2. LAMB: moves state1 (m) and state2 (v), direction r + beta theta, the second sum is of its square.
    decays says whether weight decay applies here. Callers pass slices: loops start at 0.
    """
    kind = theta.dtype.type
    share, l2 = kind(share), kind(l2)
    own = other = 0.0
    if rule == LARS:
        beta = kind(hyper[3] if decays else 0)
        for i in range(theta.size):
            w = theta[i]
            D = share * grad[i] + l2 * w
            own += np.float64(w) * np.float64(w)
            other += np.float64(D) * np.float64(D)
            grad[i] = D + beta * w
    else:
        # 1 - b^t in float64 first: in float32 it would lose its digits at small t.
        fresh1, fresh2 = kind(1 - hyper[1]), kind(1 - hyper[2])
        scale, correction = kind(1 / (1 - hyper[1] ** t)), kind(1 / (1 - hyper[2] ** t))
        eps, beta = kind(hyper[3]), kind(hyper[4] if decays else 0)
        for i in range(theta.size):
            w = theta[i]
            D = share * grad[i] + l2 * w
            m = state1[i] + fresh1 * (D - state1[i])
            v = state2[i] + fresh2 * (D * D - state2[i])
            state1[i] = m
            state2[i] = v
            direction = scale * (m / (np.sqrt(v * correction) + eps)) + beta * w
            own += np.float64(w) * np.float64(w)
            other += np.float64(direction) * np.float64(direction)
            grad[i] = direction
    squares[0] = own
    squares[1] = other


prepare = compiled(_prepare)


def _move(rule, hyper, theta, grad, state1, decays, squares):
    """Moves theta (n,), and for LARS its velocity state1, along grad, the direction; squares (team, 2) as `prepare`
    left them.
    """
    kind = theta.dtype.type
    own = other = 0.0
    for member in range(squares.shape[0]):
        own += squares[member, 0]
        other += squares[member, 1]
    own, other = np.sqrt(own), np.sqrt(other)
    if rule == LARS and decays:
        other += hyper[3] * own
    length = hyper[0] * (own / other if own > 0 and other > 0 else 1.0)
    if rule == LARS:
        length *= hyper[2]
    if length > LONG:  # as fastnn/optimizers.py; in a loop of its own, for the compiler may change a product's order
        length /= LIFT
        for i in range(theta.size):
            grad[i] *= kind(LIFT)
    rate = kind(length)
    if rule == LARS:
        mu = kind(hyper[1])
        for i in range(theta.size):
            v = mu * state1[i] + rate * grad[i]
            state1[i] = v
            theta[i] -= v
    else:
        for i in range(theta.size):
            theta[i] -= rate * grad[i]


move = compiled(_move)
