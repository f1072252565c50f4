"""Parts of a program that many networks do without, called by address, so that each is compiled when a network first
needs it.

Compiling all of them with every program would cost the first `fit` of a network with ReLU and softmax three seconds of
eleven. They stand behind the products in the table that programs call them by (`panels`, from kernels/cpu/panels.py); 0
stands for one that the network does not need, and who makes the table (`table`) knows which these are.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from . import JIT, amx, exported, once
from .amx_bytes import bytes_addresses
from .amx_thin import few_addresses
from .codes import OF_Z
from .dropout import drop
from .elementary import wide_vectors
from .operations import activate, activate_and_differentiate, cost_of_rows, hits_of_rows, output_delta, times_derivative
from .panels import called, itemsize, kernels, rows_at, vector_at

__all__ = [
    "ACTIVATE",
    "DERIVATIVE",
    "DROP",
    "OUTPUTS",
    "activate_at",
    "amx_table",
    "derivative_at",
    "drop_at",
    "outputs_at",
    "parts",
    "table",
]

ACTIVATE, DERIVATIVE, OUTPUTS, DROP = ALL = 4, 5, 6, 7  # places in the table, behind those of the products


def _activate(zero, code, slope, a, m, n, b, beside):
    wide_vectors()
    if code >= OF_Z and beside != 0:
        activate_and_differentiate(code, rows_at(a, zero, m, n), vector_at(b, zero, n), rows_at(a + beside, zero, m, n))
    else:
        activate(code, slope, rows_at(a, zero, m, n), vector_at(b, zero, n))


def _derivative(zero, code, slope, share, delta, a, n, beside):
    known = a + beside if code >= OF_Z else a
    times_derivative(code, slope, share, rows_at(delta, zero, 1, n), rows_at(known, zero, 1, n))


def _drop(zero, x, m, apart, n, unit, row, step, layer, key, limit, scale):
    for i in range(m):
        drop(vector_at(x + i * apart * itemsize(zero), zero, n), unit, row + i, step, layer, key, limit, scale)


def _outputs(zero, pair, code, slope, m, K, labels, wanted, by_class, shares, h, e, nothing, sums):
    """The shortcuts of a pair apart: these are in kernels/cpu/panel_output.py."""
    weights = vector_at(shares, zero, m if shares != 0 else 0)
    classes, values = vector_at(labels, np.int64(0), m), rows_at(wanted, zero, m, K)
    a, delta = rows_at(h, zero, m, K), rows_at(e, zero, m, K)
    activate(code, slope, a, vector_at(nothing, zero, K))
    totals = vector_at(sums, np.float64(0), 2)
    totals[0] = cost_of_rows(pair, slope, delta, a, classes, values, by_class, weights)
    totals[1] = hits_of_rows(pair, a, classes, values, by_class)
    output_delta(pair, code, slope, a, classes, values, by_class, weights, delta)


# Arrays by address. `panels`: from `table`; zero: a number of the dtype.
#
# activate_at:   overwrites a (m, n), C-contiguous, with g(a + b); b (n,), which may be zeros. Where g' is not known
#                from a (OF_Z), what lies `beside` bytes behind a becomes g'(a + b), unless that is 0: who only predicts
# derivative_at: delta (n,) *= g'(z) from a = g(z) / share (n,), or from what lies beside it
# drop_at:       x (m, n), rows `apart` numbers apart, times the factors of dropout (kernels/cpu/dropout.py)
# outputs_at:    overwrites h (m, K), which holds z of the output layer, with its activations, and e (m, K), which holds
#                z too, with its deltas; targets labels (m,) int64 if by_class, else wanted (m, K); shares: weights (m,)
#                of the rows, or 0 for none; zeros (K,); totals (2,) float64: the cost and the rows that are right
if JIT:

    @intrinsic
    def activate_at(typingctx, panels, zero, code, slope, a, m, n, b, beside):
        """See above."""
        return types.void(panels, zero, types.int64, zero, *[types.int64] * 5), called(ACTIVATE)

    @intrinsic
    def derivative_at(typingctx, panels, zero, code, slope, share, delta, a, n, beside):
        """See above."""
        return types.void(panels, zero, types.int64, zero, zero, *[types.int64] * 4), called(DERIVATIVE)

    @intrinsic
    def drop_at(typingctx, panels, zero, x, m, apart, n, unit, row, step, layer, key, limit, scale):
        """See above."""
        return types.void(panels, zero, *[types.int64] * 10, zero), called(DROP)

    @intrinsic
    def outputs_at(
        typingctx, panels, zero, pair, code, slope, m, K, labels, wanted, by_class, shares, h, e, nothing, totals
    ):
        """See above."""
        integer = types.int64
        return types.void(panels, zero, integer, integer, zero, *[integer] * 4, types.boolean, *[integer] * 5), called(
            OUTPUTS
        )

else:

    def activate_at(panels, *arguments):
        """The same without JIT."""
        _activate(*arguments)

    def derivative_at(panels, *arguments):
        """The same without JIT."""
        _derivative(*arguments)

    def drop_at(panels, *arguments):
        """The same without JIT."""
        _drop(*arguments)

    def outputs_at(panels, *arguments):
        """The same without JIT."""
        _outputs(*arguments)


@once
def _compiled(name, which):
    """One of them, once per process: its code must not be freed."""
    real, integer = getattr(types, name), types.int64
    if which == ACTIVATE:
        return exported(_activate, types.void(real, integer, real, *[integer] * 5))
    if which == DERIVATIVE:
        return exported(_derivative, types.void(real, integer, real, real, *[integer] * 4))
    if which == DROP:
        return exported(_drop, types.void(real, *[integer] * 10, real))
    return exported(_outputs, types.void(real, integer, integer, real, *[integer] * 4, types.boolean, *[integer] * 5))


def table(dtype, needed):
    """`panels` of this dtype with those of ALL that are needed."""
    return _table(np.dtype(dtype).name, frozenset(needed) if JIT else frozenset())


def parts(dtype, needed):
    """The same without products."""
    return np.concatenate([np.zeros(ACTIVATE, np.int64), _addresses(np.dtype(dtype).name, needed)])


@once
def _table(name, needed):
    return np.concatenate([kernels(name), _addresses(name, needed)])


def _addresses(name, needed):
    return np.array([_compiled(name, which).address if which in needed else 0 for which in ALL], np.int64)


def amx_table(needed, few=False, octets=False):
    """The same with the products of kernels/cpu/amx.py in place of those on panels, and behind all those of
    kernels/cpu/amx_thin.py and amx_bytes.py; few: whether a layer is so narrow; octets: whether data are uint8.
    """
    return _amx_table(frozenset(needed) if JIT else frozenset(), bool(few), bool(octets))


@once
def _amx_table(needed, few, octets):
    return np.concatenate([amx.addresses(), _addresses("float32", needed), few_addresses(few), bytes_addresses(octets)])
