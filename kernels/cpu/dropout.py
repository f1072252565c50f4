"""Dropout: which units of a row are left out in a step, drawn from numbers that any engine can count to.

Philox4x32-10 (J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 4.3): ten rounds
make four words of 32 bits from a counter of four and a key of two, each independently of all others. So a unit is left
out or not whoever computes it, in whatever order: threads, tiles and engines do not change the result. See
fastnn/dropout.py, whose NumPy version this one is tested against.
"""

from __future__ import annotations

import numpy as np

from . import compiled, part
from .elementary import wide_vectors

__all__ = ["drop", "philox"]

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_2, _3, _4, _5, _6, _7, _8, _9 = (np.uint64(number) for number in range(2, 10))


def _round(c0, c1, c2, c3, k0, k1):
    """One round on words, which lie in numbers of 64 bits; the key may be larger than a word."""
    p, q = _M0 * c0, _M1 * c2
    return (q >> _HALF) ^ c1 ^ (k0 & _LOW), q & _LOW, (p >> _HALF) ^ c3 ^ (k1 & _LOW), p & _LOW


_round = part(_round)


def _philox(c0, c1, c2, c3, k0, k1):
    """The four words of a counter and a key. Written out, because a loop in it is not turned into vectors around it."""
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _W0, k1 + _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _2 * _W0, k1 + _2 * _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _3 * _W0, k1 + _3 * _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _4 * _W0, k1 + _4 * _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _5 * _W0, k1 + _5 * _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _6 * _W0, k1 + _6 * _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _7 * _W0, k1 + _7 * _W1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _8 * _W0, k1 + _8 * _W1)
    return _round(c0, c1, c2, c3, k0 + _9 * _W0, k1 + _9 * _W1)


philox = part(_philox)


def _drop(x, unit, row, step, layer, key, limit, scale):
    """x (n,) *= 0 for units that are left out, *= scale for the others, in place.

    Its columns are the units from `unit` on, a multiple of 4, of a hidden layer (the first is 0), of row `row` of the
    step's batch. limit: a word below it leaves a unit out. Integers are int64.
    """
    wide_vectors()
    n, zero = x.size, x.dtype.type(0)
    k0, k1, bound = np.uint64(key) & _LOW, np.uint64(key) >> _HALF, np.uint64(limit)
    first, of, when, where = np.uint64(unit // 4), np.uint64(row), np.uint64(step), np.uint64(layer)
    for g in range(n // 4):
        w0, w1, w2, w3 = philox(first + np.uint64(g), of, when, where, k0, k1)
        x[4 * g] *= zero if w0 < bound else scale
        x[4 * g + 1] *= zero if w1 < bound else scale
        x[4 * g + 2] *= zero if w2 < bound else scale
        x[4 * g + 3] *= zero if w3 < bound else scale
    if n % 4:
        g = n // 4
        w0, w1, w2, _ = philox(first + np.uint64(g), of, when, where, k0, k1)
        x[4 * g] *= zero if w0 < bound else scale
        if n % 4 > 1:
            x[4 * g + 1] *= zero if w1 < bound else scale
        if n % 4 > 2:
            x[4 * g + 2] *= zero if w2 < bound else scale


drop = compiled(_drop)
