"""exp, tanh and sigmoid that the compiler can vectorise; float32 and float64, NaN in NaN out.

Numba's own np.exp and np.tanh are calls inside the loop; bench/test_elementary.py has these beside them,
beside NumPy's and beside torch's. Method: x = k ln 2 + r with k an integer and |r| <= ln(2)/2, ln 2
subtracted in two parts (Cody and Waite 1980, "Software Manual for the Elementary Functions", ch. 6);
p = e^r - 1 by a polynomial; then

  e^x = 2^k (1 + p)
  tanh |x| = t / (t + 2) with t = e^2|x| - 1 = 2^k p + (2^k - 1), no cancellation for any |x|; the sign is put back
             as a bit
  sigmoid x = (1 or e^-|x|) / (1 + e^-|x|)

A quotient whose divisor was rounded is corrected once by what the rounding lost (`_quotient`).
No branch but selections, one division: that is what the compiler can do on many numbers at once.

Bounds, tested against longdouble, in units in the last place of the result: exp 1.5 for results that are
normal numbers, 0 below and inf above the range; tanh 2; sigmoid 2 above 1e-37 (1e-307), below absolute. Where the
processor does not multiply and add in one rounding (SSE2, AVX without FMA), the last two have 2.5.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import intrinsic, overload

from . import JIT, exact

__all__ = ["exp", "largest", "sigmoid", "tanh", "wide_vectors"]


def _reinterpret(source, target):
    """A function that reads the bits of one type as another of the same size."""
    if not JIT:
        return lambda x: getattr(np, source.name)(x).view(getattr(np, target.name))

    @intrinsic
    def bits(typingctx, x):
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), codegen

    return bits


_bits32, _float32 = _reinterpret(types.float32, types.int32), _reinterpret(types.int32, types.float32)
_bits64, _float64 = _reinterpret(types.float64, types.int64), _reinterpret(types.int64, types.float64)


if JIT:

    @intrinsic
    def wide_vectors(typingctx):
        """Asks the compiler for the processor's widest vectors in the function this stands in.

        On processors with AVX-512 LLVM keeps to half of it unless told so: these functions take 1.2 to 1.5
        times as long then. llvmlite has no name for the attribute, hence the plain `set.add`.
        """

        def codegen(context, builder, signature, args):
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')
            return context.get_dummy_value()

        return types.void(), codegen

else:

    def wide_vectors():
        """Without JIT there are no vectors."""


# float32: 1.5 * 2^23 added to a small number leaves its nearest integer in the low bits of the sum.
_ROUND32, _LOG2E32 = np.float32(12582912.0), np.float32(1.4426950408889634)
_LN2_HIGH32, _LN2_LOW32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
# (e^r - 1 - r) / r^2 for |r| <= 0.3467 by the polynomial through its values at the zeros of a Chebyshev polynomial,
# highest power first; it changes e^r by at most 1e-8 (float64, below: 2e-17).
_C32 = tuple(
    np.float32(c) for c in (0.0013926213466332443, 0.008363202971575855, 0.04166655443768594, 0.16666576845993976, 0.5)
)


def _split32(v):
    """(p, k) with e^v = 2^k (1 + p), for |v| < 89; k as an integer where float32 has its exponent, ready to be
    added to one.
    """
    shifted = v * _LOG2E32 + _ROUND32
    n = shifted - _ROUND32
    r = v - n * _LN2_HIGH32
    r = r - n * _LN2_LOW32
    p = _C32[0]
    p = p * r + _C32[1]
    p = p * r + _C32[2]
    p = p * r + _C32[3]
    p = p * r + _C32[4]
    return p * (r * r) + r, _bits32(shifted) << np.int32(23)  # the low 9 bits of the sum are n modulo 512


_ROUND64, _LOG2E64 = 6755399441055744.0, 1.4426950408889634
_LN2_HIGH64, _LN2_LOW64 = 6.93145751953125e-1, 1.42860682030941723212e-6
_C64 = (
    2.5100424157005067e-08,
    2.7620138719733996e-07,
    2.7557268378684193e-06,
    2.4801521190217728e-05,
    0.00019841269863105969,
    0.0013888888917281793,
    0.008333333333330051,
    0.04166666666662399,
    0.16666666666666667,
    0.5000000000000001,
)


def _split64(v):
    """(p, k) with e^v = 2^k (1 + p), for |v| < 710; k where float64 has its exponent."""
    shifted = v * _LOG2E64 + _ROUND64
    n = shifted - _ROUND64
    r = v - n * _LN2_HIGH64
    r = r - n * _LN2_LOW64
    p = _C64[0]
    p = p * r + _C64[1]
    p = p * r + _C64[2]
    p = p * r + _C64[3]
    p = p * r + _C64[4]
    p = p * r + _C64[5]
    p = p * r + _C64[6]
    p = p * r + _C64[7]
    p = p * r + _C64[8]
    p = p * r + _C64[9]
    return p * (r * r) + r, _bits64(shifted) << np.int64(52)


if JIT:
    _split32, _split64 = exact(_split32), exact(_split64)

# Below the first e^x is no normal number, above the second infinite.
_LOW32, _HIGH32 = np.float32(-87.33654), np.float32(88.72283)
_ZERO32, _ONE32, _TWO32, _INF32 = np.float32(0), np.float32(1), np.float32(2), np.float32(np.inf)
_ONE_BITS32, _ONE_BITS64 = np.int32(127 << 23), np.int64(1023 << 52)


def _exp32(x):
    v = _LOW32 if x < _LOW32 else x  # comparisons this way round keep NaN
    v = _HIGH32 if v > _HIGH32 else v
    p, k = _split32(v)
    e = _float32(_bits32(p + _ONE32) + k)  # times 2^k, which alone may be too large for a float32
    e = _ZERO32 if x < _LOW32 else e
    return e if x <= _HIGH32 else x + _INF32  # inf, or NaN, whose own bits may have made anything of k


_LOW64, _HIGH64 = -708.3964185322641, 709.782712893384


def _exp64(x):
    v = _LOW64 if x < _LOW64 else x
    v = _HIGH64 if v > _HIGH64 else v
    p, k = _split64(v)
    e = _float64(_bits64(p + 1.0) + k)
    e = 0.0 if x < _LOW64 else e
    return e if x <= _HIGH64 else x + np.inf


def _quotient(one, above, divisor, lost):
    """above / (divisor + lost) for a small `lost`, which the rounding of the divisor left out; one is 1 in their
    type.
    """
    inverse = one / divisor
    q = above * inverse
    return q + ((above - q * divisor) - q * lost) * inverse


if JIT:
    _quotient = exact(_quotient)

# tanh is 1 to the last bit from 9.02 (19.07) on; the sign is the top bit.
_TOP32, _TOP64 = np.float32(18.1), 40.0
_SIGN32, _SIGN64 = np.int32(-(2**31)), np.int64(-(2**63))


def _tanh32(x):
    y = _TWO32 * abs(x)
    y = _TOP32 if y > _TOP32 else y
    p, k = _split32(y)
    scale = _float32(k + _ONE_BITS32)
    t = p * scale + (scale - _ONE32)
    divisor = t + _TWO32
    more, less = (t if t > _TWO32 else _TWO32), (t if t < _TWO32 else _TWO32)
    lost = less - (divisor - more)  # exactly (Dekker's fast two-sum)
    return _float32(_bits32(_quotient(_ONE32, t, divisor, lost)) | (_bits32(x) & _SIGN32))


def _tanh64(x):
    y = 2.0 * abs(x)
    y = _TOP64 if y > _TOP64 else y
    p, k = _split64(y)
    scale = _float64(k + _ONE_BITS64)
    t = p * scale + (scale - 1.0)
    divisor = t + 2.0
    more, less = (t if t > 2.0 else 2.0), (t if t < 2.0 else 2.0)
    lost = less - (divisor - more)
    return _float64(_bits64(_quotient(1.0, t, divisor, lost)) | (_bits64(x) & _SIGN64))


def exp(x):
    """e^x of a float32 or float64 scalar, in its own precision. (Without JIT this body runs; compiled code takes
    the overload.)
    """
    with np.errstate(all="ignore"):
        return _exp32(x) if x.dtype == np.float32 else _exp64(x)


def tanh(x):
    """tanh x of a float32 or float64 scalar, in its own precision."""
    with np.errstate(all="ignore"):
        return _tanh32(x) if x.dtype == np.float32 else _tanh64(x)


if JIT:
    _exp_of = {types.float32: exact(_exp32), types.float64: exact(_exp64)}
    _tanh_of = {types.float32: exact(_tanh32), types.float64: exact(_tanh64)}

    @overload(exp, inline="always")
    def _exp_overload(x):
        function = _exp_of.get(x)
        return None if function is None else (lambda x: function(x))

    @overload(tanh, inline="always")
    def _tanh_overload(x):
        function = _tanh_of.get(x)
        return None if function is None else (lambda x: function(x))


# As integers, floats are in order once the bits below the sign of negative ones are flipped. The largest
# integer is found in vectors; the largest float is not, because a comparison must do the right thing with NaN.


def _largest32(row):
    top = np.int32(-(2**31))
    for j in range(row.size):
        bits = _bits32(row[j])
        key = bits ^ ((bits >> np.int32(31)) & np.int32(2**31 - 1))
        top = key if key > top else top
    return _float32(top ^ ((top >> np.int32(31)) & np.int32(2**31 - 1)))


def _largest64(row):
    top = np.int64(-(2**63))
    for j in range(row.size):
        bits = _bits64(row[j])
        key = bits ^ ((bits >> np.int64(63)) & np.int64(2**63 - 1))
        top = key if key > top else top
    return _float64(top ^ ((top >> np.int64(63)) & np.int64(2**63 - 1)))


def largest(row):
    """The largest number of a row (n,), n >= 1, of float32 or float64. A NaN may or may not be it."""
    return row.max()


if JIT:
    _largest_of = {types.float32: exact(_largest32), types.float64: exact(_largest64)}

    @overload(largest, inline="always")
    def _largest_overload(row):
        function = _largest_of.get(row.dtype)
        return None if function is None else (lambda row: function(row))


def _sigmoid(x):
    """1/(1+e^-x): e^-|x| <= 1 never overflows."""
    one = type(x)(1)
    e = exp(-abs(x))
    divisor = one + e
    return _quotient(one, e if x < 0 else one, divisor, e - (divisor - one))


sigmoid = exact(_sigmoid)
