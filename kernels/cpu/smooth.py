"""silu and gelu with their derivatives, for the compiler to vectorise; float32 and float64, NaN in NaN out.

g(z) falls before it rises, so g'(z) is not known from a = g(z); both come from one exponential and one division:

  silu z = z s with s = 1/(1 + e^-z)          silu' z = s (1 + z (1 - s))
  gelu z = z Phi(z), Phi the normal cdf       gelu' z = Phi(z) + z phi(z); Phi by the series of fastnn/normal.py

Bounds, tested against longdouble: the error of g is at most 3 units in the last place
of z, of g' 4 units of 1; and 0, 1 and z where infinities lead.
"""

from __future__ import annotations

import numpy as np
from numba.core import types
from numba.extending import overload

from . import JIT, exact
from .elementary import exp

__all__ = ["gelu", "silu"]

_ONE32, _HALF32, _TWO32, _THREE32 = (np.float32(number) for number in (1, 0.5, 2, 3))
_ROOT32, _DENSITY32, _ROOT64 = np.float32(0.5**0.5), np.float32(0.3989422804014327), 0.5**0.5
_DENSITY64 = 0.3989422804014327  # of the normal distribution at 0
# where e^-|z| is 0, and where e^(-z^2 / 2) is
_END32, _END64, _FAR32, _FAR64 = np.float32(88), np.float64(709), np.float32(13.3), np.float64(37.8)
# of fastnn/normal.py up to T_11, off by less than 2e-8
_Q32 = tuple(
    np.float32(c)
    for c in (
        7.731024224076895e-05,
        -9.254516686923966e-05,
        -0.0007264536790340485,
        0.001875079123772353,
        0.0024991168696069477,
        -0.02376357643949504,
        0.06831656777114085,
        -0.1192752752822409,
        0.1296441443140814,
        -0.047562156927520076,
        -0.1356210694002736,
        1.2530080563677553,
    )
)
# the same up to T_24 as there, which is not imported: what it says would not name the cache of compiled code (a test
# compares)
_Q64 = (
    8.393734858690877e-10,
    9.862533510345587e-10,
    -8.217595058711455e-09,
    -1.3312919661038687e-08,
    4.1064013667940355e-08,
    1.0183620603842736e-07,
    -1.4047654315428462e-07,
    -6.166011460398726e-07,
    3.5576086684080595e-07,
    3.472370944977168e-06,
    -7.308281468783614e-07,
    -2.0100542268525612e-05,
    4.949196649968345e-06,
    0.0001250993424583729,
    -0.00010515971958448065,
    -0.0007798322696543306,
    0.0018886903449991718,
    0.0025293918156939696,
    -0.02377051491717134,
    0.0683080273440099,
    -0.11927366341538638,
    0.1296451587027594,
    -0.0475622943534492,
    -0.13562110612458117,
    1.2530080582697296,
)


def _silu(z, one, end):
    """z between -end and end counts, where its place in a sum or product would make NaN of infinity."""
    low = -end if z < -end else z  # comparisons this way round keep NaN
    near = end if low > end else low
    e = exp(-abs(near))
    inverse = one / (one + e)
    small = e * inverse
    s, rest = (small, inverse) if near < 0 else (inverse, small)
    return low * s, s + s * (near * rest)


def _silu32(z):
    return _silu(z, _ONE32, _END32)


def _silu64(z):
    return _silu(z, 1.0, _END64)


def _gelu32(z):
    low = -_FAR32 if z < -_FAR32 else z
    y = _FAR32 if low > _FAR32 else low
    x = abs(y) * _ROOT32
    e = exp(-_HALF32 * (y * y))
    above, below = x + _THREE32, _ONE32 + _TWO32 * x
    inverse = _ONE32 / (above * below)
    t = (x - _THREE32) * (below * inverse)
    q = _Q32[0]
    q = q * t + _Q32[1]
    q = q * t + _Q32[2]
    q = q * t + _Q32[3]
    q = q * t + _Q32[4]
    q = q * t + _Q32[5]
    q = q * t + _Q32[6]
    q = q * t + _Q32[7]
    q = q * t + _Q32[8]
    q = q * t + _Q32[9]
    q = q * t + _Q32[10]
    q = q * t + _Q32[11]
    tail = _HALF32 * e * q * (above * inverse)
    cdf = tail if y < 0 else _ONE32 - tail
    return low * cdf, cdf + y * (e * _DENSITY32)


def _gelu64(z):
    low = -_FAR64 if z < -_FAR64 else z
    y = _FAR64 if low > _FAR64 else low
    x = abs(y) * _ROOT64
    e = exp(-0.5 * (y * y))
    above, below = x + 3.0, 1.0 + 2.0 * x
    inverse = 1.0 / (above * below)
    t = (x - 3.0) * (below * inverse)
    q = _Q64[0]
    q = q * t + _Q64[1]
    q = q * t + _Q64[2]
    q = q * t + _Q64[3]
    q = q * t + _Q64[4]
    q = q * t + _Q64[5]
    q = q * t + _Q64[6]
    q = q * t + _Q64[7]
    q = q * t + _Q64[8]
    q = q * t + _Q64[9]
    q = q * t + _Q64[10]
    q = q * t + _Q64[11]
    q = q * t + _Q64[12]
    q = q * t + _Q64[13]
    q = q * t + _Q64[14]
    q = q * t + _Q64[15]
    q = q * t + _Q64[16]
    q = q * t + _Q64[17]
    q = q * t + _Q64[18]
    q = q * t + _Q64[19]
    q = q * t + _Q64[20]
    q = q * t + _Q64[21]
    q = q * t + _Q64[22]
    q = q * t + _Q64[23]
    q = q * t + _Q64[24]
    tail = 0.5 * e * q * (above * inverse)
    cdf = tail if y < 0 else 1.0 - tail
    return low * cdf, cdf + y * (e * _DENSITY64)


def silu(z):
    """(g(z), g'(z)) of a float32 or float64 scalar, in its own precision. (Without JIT this body runs; compiled code
    takes the overload.)
    """
    with np.errstate(all="ignore"):
        return _silu32(z) if z.dtype == np.float32 else _silu64(z)


def gelu(z):
    """The same of gelu."""
    with np.errstate(all="ignore"):
        return _gelu32(z) if z.dtype == np.float32 else _gelu64(z)


if JIT:
    _silu = exact(_silu)
    _silu_of = {types.float32: exact(_silu32), types.float64: exact(_silu64)}
    # Not `exact`: too large for the compiler to put into a loop as a function, it goes there before compilation.
    _gelu_of = {types.float32: _gelu32, types.float64: _gelu64}

    @overload(silu, inline="always")
    def _silu_overload(z):
        function = _silu_of.get(z)
        return None if function is None else (lambda z: function(z))

    @overload(gelu, inline="always")
    def _gelu_overload(z):
        return _gelu_of.get(z)
