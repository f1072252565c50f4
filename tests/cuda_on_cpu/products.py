"""cuBLASLt's matrix product in NumPy: column-major memory, leading dimensions, epilogues, mask bits, roundings."""

from __future__ import annotations

import numpy as np

from fastnn.backends.cupy_products import READS_BIAS, USES_AUX
from fastnn.kernels.cuda import sources


def matrix(op, x, rows, columns, ld):
    """op(X), (rows, columns), of the column-major matrix stored in x with this leading dimension; a view."""
    stored_rows, stored_columns = (rows, columns) if op == "N" else (columns, rows)
    columnwise = np.lib.stride_tricks.as_strided(x, (stored_columns, stored_rows), (ld * x.itemsize, x.itemsize))
    return columnwise.T if op == "N" else columnwise


def check_alignment(product, addresses):
    """The engine's promise for its programs: bases of A, B, D, bias and aux, and leading dimensions, are multiples of
    16 bytes - but for theta itself, a vector without gaps, where products read it: the weights of fp32 and fp64 (A
    forward and back)."""
    A_is_theta = product.inputs != "bfloat16" and product.compute != "tf32" and product.op_B == "N"
    lds = {"A": (product.lda, product.inputs), "B": (product.ldb, product.inputs), "D": (product.ldd, product.output)}
    for name, address in zip(("A", "B", "D", "bias", "aux"), addresses, strict=True):
        ld, kind = lds.get(name, (0, "float32"))
        wrong = [(address or 0) % 16, ld * np.dtype(sources.store(kind)).itemsize % 16]
        assert not any(wrong) or (name == "A" and A_is_theta), (
            f"{product}: {name} at {address} with leading dimension {ld} is not aligned to 16 bytes"
        )


def widened(x):
    """float32 numbers from bfloat16 bits; other arrays as they are."""
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x


def rounded(x):
    """bfloat16 bits of float32 numbers, to nearest, ties to even, through exact arithmetic: 8 bits of mantissa."""
    x = np.asarray(x, np.float32)
    mantissa, exponent = np.frexp(x.astype(np.float64))
    with np.errstate(all="ignore"):
        nearest = np.ldexp(np.rint(mantissa * 256), exponent - 8).astype(np.float32)  # rint takes ties to even
        smallest = np.float64(2.0**-133)  # steps of subnormal bfloat16
        nearest = np.where(np.abs(x) < 2.0**-126, (np.rint(x / smallest) * smallest).astype(np.float32), nearest)
    bits = nearest.view(np.uint32) >> 16
    return np.where(np.isnan(x), 0x7FFF, bits).astype(np.uint16)


def tf32(x):
    """float32 numbers rounded to the 10 bits of mantissa that the tensor cores read."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.rint(mantissa * 2048), exponent - 11).astype(np.float32)


def mask_of(aux, m, n, ld):
    """The bits of the mask as a bool (m, n)."""
    return np.unpackbits(aux.reshape(-1)[: n * ld // 8].reshape(n, ld // 8), axis=1, bitorder="little")[:, :m].T.astype(
        bool
    )


def multiply(product, A, B, D, bias, aux):
    m, n, k, epilogue = product.m, product.n, product.k, product.epilogue
    left = widened(matrix(product.op_A, A, m, k, product.lda))
    right = widened(matrix(product.op_B, B, k, n, product.ldb))
    if product.compute == "tf32":
        left, right = tf32(left), tf32(right)
    target = matrix("N", D, m, n, product.ldd)

    def store(into, values):
        into[...] = rounded(values) if into.dtype == np.uint16 else values

    with np.errstate(all="ignore"):
        P = left @ right
        if product.accumulate:
            P = P + widened(target)
        if epilogue in READS_BIAS:
            P = P + widened(bias)[:m, None]
        if epilogue == "RELU_AUX_BIAS":
            bits = np.zeros((n, product.aux_ld), bool)
            bits[:, :m] = (P > 0).T
            aux.reshape(-1)[: n * product.aux_ld // 8] = np.packbits(bits, axis=1, bitorder="little").reshape(-1)
        if epilogue in ("RELU_BIAS", "RELU_AUX_BIAS"):
            P = np.where(P < 0, 0, P).astype(P.dtype)  # NaN stays
        if epilogue in USES_AUX and epilogue != "RELU_AUX_BIAS":
            P = np.where(mask_of(aux, m, n, product.aux_ld), P, 0).astype(P.dtype)
        store(target, P)
        if epilogue == "DRELU_BGRAD":
            store(bias[:m], P.sum(axis=1))
        if epilogue == "BGRADB":
            store(bias[:n], right.sum(axis=0))
