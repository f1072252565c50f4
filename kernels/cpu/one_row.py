"""The outputs of a network for one row: one compiled call with few arguments, because each costs as much as a small
layer.

A layer is a matrix times a vector, and takes the time to read its weights once, as they lie. As many outputs as a
vector has lanes are summed side by side, a vector of each row of weights at a time, and their sums leave as
one vector. BLAS does not do this better, and might wake its threads for it.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from . import JIT, compiled, part, per_dtype
from .operations import activate
from .panels import address, itemsize, rows_at, vector_at
from .prediction import finite
from .vectors import VECTOR, Emitter

__all__ = ["finish_layer", "one_row", "sums_of_rows"]

_I64 = ir.IntType(64)


@intrinsic
def sums_of_rows(typingctx, real, W, n_in, last, x, z):
    """Overwrites a vector at z with as many sums_k W_jk x_k, j = 0, 1, ...; rows beyond `last` are the last once
    more.
    """

    def codegen(context, builder, signature, args):
        _, W, n_in, last, x, z = args
        emit = Emitter(builder, signature.args[0])
        n = emit.count
        chains = max(1, 8 // n)  # of one sum: eight additions are to be under way at a time
        rows = [
            emit.at(W, builder.mul(n_in, builder.select(builder.icmp_signed("<", last, _I64(j)), last, _I64(j))))
            for j in range(n)
        ]
        sums = [[emit.sum_at(emit.zero()) for _ in rows] for _ in range(chains)]

        def add(k, c):
            x_k = emit.load(emit.at(x, k))
            for row, total in zip(rows, sums[c], strict=True):
                place = emit.at(row, k)
                emit.add_product(emit.load(place), x_k, total)

        whole = builder.sdiv(n_in, _I64(n * chains))
        with cgutils.for_range(builder, whole) as loop:
            for c in range(chains):
                add(builder.mul(builder.add(builder.mul(loop.index, _I64(chains)), _I64(c)), _I64(n)), c)
        done = builder.mul(whole, _I64(n * chains))
        groups = builder.sdiv(builder.sub(n_in, done), _I64(n))
        with cgutils.for_range(builder, groups) as loop:
            add(builder.add(done, builder.mul(loop.index, _I64(n))), 0)
        done = builder.add(done, builder.mul(groups, _I64(n)))
        left = builder.sub(n_in, done)  # fewer than a vector
        with builder.if_else(builder.icmp_signed("<", n_in, _I64(n))) as (short, long):
            with short, cgutils.for_range(builder, left) as loop:
                x_k = emit.first_lane(emit.load(emit.at(x, loop.index), emit.real))
                for row, total in zip(rows, sums[0], strict=True):
                    emit.add_product(emit.first_lane(emit.load(emit.at(row, loop.index), emit.real)), x_k, total)
            with long, builder.if_then(builder.icmp_signed(">", left, _I64(0))):
                begin = builder.sub(n_in, _I64(n))  # the row's last vector, less what is summed already
                x_k = emit.last_lanes(emit.load(emit.at(x, begin)), left)
                for row, total in zip(rows, sums[0], strict=True):
                    emit.add_product(emit.last_lanes(emit.load(emit.at(row, begin)), left), x_k, total)
        totals = [builder.load(place) for place in sums[0]]
        for chain in sums[1:]:
            totals = [builder.fadd(total, builder.load(place)) for total, place in zip(totals, chain, strict=True)]
        emit.store(emit.sums_across(totals), z)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 5), codegen


if JIT:

    def _times(zero, W, n_in, n_out, x, z):
        size = itemsize(zero)
        step = VECTOR // size
        for j in range(0, n_out, step):
            sums_of_rows(zero, W + j * n_in * size, n_in, n_out - 1 - j, x, z + j * size)

else:

    def _times(zero, W, n_in, n_out, x, z):
        vector_at(z, zero, n_out)[...] = rows_at(W, zero, n_out, n_in) @ vector_at(x, zero, n_in)


# overwrites z (n_out,) with W (n_out, n_in) times x (n_in,); up to a vector more of z is overwritten
_times = compiled(_times)


def _finish_layer(zero, layers, layer, z):
    """Makes the activations of a layer, in place, of its sums at z (n_out,)."""
    n_in, n_out = layers[layer, 0], layers[layer, 1]
    b = vector_at(layers[layer, 2] + n_in * n_out * itemsize(zero), zero, n_out)
    activate(layers[layer, 3], vector_at(layers[layer, 4], zero, 1)[0], rows_at(z, zero, 1, n_out), b)


finish_layer = part(_finish_layer)


def _one_row(X, layers, h):
    """Overwrites h (1, s_L) with a^(L) of X (1, s_1). Returns whether X is finite; if not, h is left alone.

    layers (L - 1, 5) int64, by layer: inputs, outputs, address of its weights and then biases, activation, address of
    its slope; every array among the arguments would cost 0.1 us
    """
    zero = h.dtype.type(0)
    size = itemsize(zero)
    widest = 0
    for layer in range(layers.shape[0]):
        widest = max(widest, layers[layer, 1])
    room = (widest + VECTOR // size) * size  # `_times` writes whole vectors
    scratch = np.empty(2 * room, np.uint8)
    x, z, last = address(X), address(scratch), layers.shape[0] - 1
    for layer in range(layers.shape[0]):
        n_in, n_out = layers[layer, 0], layers[layer, 1]
        _times(zero, layers[layer, 2], n_in, n_out, x, z)
        if layer == 0 and not abs(vector_at(z, zero, 1)[0]) < np.inf and not finite(X):
            # NaN and infinity in X reach every z; so may overflow
            return False
        finish_layer(zero, layers, layer, z)
        if layer == last:
            outputs = vector_at(z, zero, n_out)
            for j in range(n_out):
                h[0, j] = outputs[j]
        x, z = z, address(scratch) + (room if layer % 2 == 0 else 0)
    return True


def _signature(name):
    real = getattr(types, name)
    return types.boolean(
        types.Array(real, 2, "C", readonly=True), types.Array(types.int64, 2, "C"), types.Array(real, 2, "C")
    )


one_row = per_dtype(_one_row, _signature)
