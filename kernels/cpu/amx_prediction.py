"""The outputs of a network for many rows, with the products of kernels/cpu/amx.py: one compiled call on weights that
are laid out as factors.

Memory, C-contiguous float32 unless said, given by the caller; P_l, B: as in kernels/cpu/amx_program.py, with C = ROWS:
  x : the address of X (total, s_1), float32, or uint8 if they are `octets`, of which `scale` counts, read where it
      lies; out (total, s_L); packed: from `amx_packing`, for each layer its weights as factors, then P_l biases
  places (L + 1, B) int64, zeros (B * the widest P,) as there; a (B * (P_2 + ... + P_L),), side (any,), first (ROWS +
  ROOM_AHEAD,) int64, errand (16,) int64 : scratch
"""

from __future__ import annotations

import numpy as np
from numba.core import types

from . import per_dtype
from .amx import SIDE, configure, forward, pack_weights, release
from .amx_bytes import forward_bytes
from .amx_parts import AHEAD, ROOM_AHEAD, few_at, padded_biases, step_at
from .amx_thin import few_to_many, lay_out_few, many_to_few
from .codes import RELU
from .on_demand import activate_at
from .panels import RECTIFY, address, rows_at
from .prediction import finite, first_finite
from .workspace import Shape, kinds

__all__ = ["ROWS", "amx_packing", "amx_prediction"]

ROWS = 128  # at a time


def _pack(table, theta, shape, begin, packed):
    """Lays the weights and biases of theta (P,) out; those of a layer begin at number begin[layer] of packed."""
    zero, first = packed.dtype.type(0), np.int64(0)
    for layer in range(shape.codes.size):
        n_in = shape.sizes[layer]
        n_out = shape.sizes[layer + 1]
        W = address(theta) + shape.blocks[layer] * 4
        at = address(packed) + begin[layer] * 4
        if few_at(shape, layer):
            lay_out_few(
                zero, W, W + n_out * n_in * 4, first, n_out, n_out, n_in,
                shape.widths[layer if layer == 0 else layer - 1], layer == 0, at,
            )  # fmt: skip
        else:
            pack_weights(table, W, n_in * 4, first, n_out, n_out, n_in, at, first)
        padded_biases(
            zero, address(theta), shape, layer, address(packed) + begin[layer + 1] * 4 - shape.widths[layer] * 4
        )


def _predict(
    x, total, octets, scale, table, registers, shape, begin, packed, a, side, zeros, places, first, errand, out
):
    """Overwrites out (total, s_L) with a^(L). Returns False, with out unfinished, if X holds NaN or infinity."""
    sizes, widths, codes = shape.sizes, shape.widths, shape.codes
    layers, n_in, K, block = codes.size, sizes[0], sizes[codes.size], ROWS + SIDE
    zero, one, nothing = packed.dtype.type(0), packed.dtype.type(1), address(zeros)
    fine = True
    configure(address(registers))
    for start in range(0, total, ROWS):
        m = min(ROWS, total - start)
        for i in range(m + ROOM_AHEAD):
            first[i] = min(start + i, total - 1) * n_in
        for layer in range(layers):
            n_out, P, step = sizes[layer + 1], widths[layer], step_at(shape, layer) * 4
            z = address(a) + block * shape.starts[layer] * 4
            M = address(packed) + begin[layer] * 4
            b = address(packed) + (begin[layer + 1] - P) * 4
            inputs = x if layer == 0 else address(a) + block * shape.starts[layer - 1] * 4
            where = address(first) if layer == 0 else address(places) + layer * 8 * block
            # not of the first: infinity in X must be seen in z
            rectified = 0 < layer < layers - 1 and codes[layer] == RELU
            gate = np.int64(RECTIFY if rectified else 0)
            if layer == 0 and octets:
                forward_bytes(
                    table, x, where, m, n_in, address(side), M, P, b, scale, z, step, gate, np.int64(AHEAD),
                    address(errand),
                )  # fmt: skip
            elif not few_at(shape, layer):
                forward(
                    table, inputs, where, m, sizes[layer], address(side), M, P, b, one, z, step, gate,
                    np.int64(AHEAD if layer == 0 else 0), address(errand),
                )  # fmt: skip
            elif layer == 0:
                few_to_many(table, inputs, where, m, n_in, M, P, z, step, gate, np.int64(1))
            else:
                many_to_few(
                    table, inputs, step_at(shape, layer - 1) * 4, m, M, widths[layer - 1], n_out, b, z, step,
                    address(side),
                )  # fmt: skip
            if (
                layer == 0
                and not octets
                and not first_finite(rows_at(z, zero, m, step // 4))
                and not finite(rows_at(x + start * n_in * 4, zero, m, n_in))
            ):
                fine = False
                break
            if layer < layers - 1 and not rectified:
                activate_at(table, zero, codes[layer], shape.slopes[layer], z, 1, m * (step // 4), nothing, np.int64(0))
        if not fine:
            break
        last = rows_at(address(a) + block * shape.starts[layers - 1] * 4, zero, m, step_at(shape, layers - 1))
        for i in range(m):
            for j in range(K):
                out[start + i, j] = last[i, j]
        activate_at(
            table, zero, codes[layers - 1], shape.slopes[layers - 1], address(out) + start * K * 4, m, K, nothing,
            np.int64(0),
        )  # fmt: skip
    release()
    return fine


def _of(name):
    real, integer = getattr(types, name), types.int64
    return (
        types.Array(integer, 1, "C"),
        types.Array(integer, 2, "C"),
        types.Array(real, 1, "C"),
        types.Array(real, 2, "C"),
        kinds(name)[Shape],
    )


def _packing_signature(name):
    indices, _, vector, _, shape = _of(name)
    return types.void(indices, types.Array(getattr(types, name), 1, "C", readonly=True), shape, indices, vector)


def _signature(name):
    indices, numbers, vector, table, shape = _of(name)
    return types.boolean(
        types.int64, types.int64, types.boolean, getattr(types, name), indices, types.Array(types.uint8, 1, "C"), shape,
        indices, vector, vector, vector, vector, numbers, indices, indices, table,
    )  # fmt: skip


amx_packing, amx_prediction = per_dtype(_pack, _packing_signature), per_dtype(_predict, _signature)
