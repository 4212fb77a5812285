"""Per-element rules that every float32 kernel set shares: plain arithmetic with typed literals.

No libm: a set compiles these for its own machine, and because each step is one IEEE operation
(no contraction, no reassociation) scalar and vectorised code give the same bits everywhere. They
also run as Python on `numpy.float32`. A set binds the names in the order of `RULES` and brings
its own `bits_of` and `float_of`.
"""

from __future__ import annotations

import numpy as np

RULES = (
    "exp",
    "log",
    "sigmoid",
    "softplus",
    "round_f16",
    "ceil_pow2",
    "round_e4m3",
    "round_e2m1",
)

_F = np.float32
_I = np.int32
ZERO = _F(0)
HALF = _F(0.5)
ONE = _F(1)
TWO = _F(2)

# Adding 1.5 * 2**23 leaves the nearest integer in the low bits of the sum.
_MAGIC = _F(12582912)
_MAGIC_BITS = _I(0x4B400000)
_LOG2E = _F(1.4426950408889634)
_LN2_HI = _F(0.693359375)  # 9 bits, so its product with an exponent is exact
_LN2_LO = _F(-2.12194440054690583e-4)
_EXP_TOP = _F(89)  # beyond: infinity
_EXP_BOTTOM = _F(-104)  # below: 0
# (e**r - 1 - r) / r**2 on |r| <= ln(2)/2, weighted least squares driven to equal ripple.
_E0 = _F(0.4999999403953552)
_E1 = _F(0.16666515171527863)
_E2 = _F(0.04166845604777336)
_E3 = _F(0.008369418792426586)
_E4 = _F(0.0013813144760206342)
# (2 atanh(s) - 2 s) / s**3 as a polynomial in s**2, same method.
_L0 = _F(0.6666666269302368)
_L1 = _F(0.40000346302986145)
_L2 = _F(0.2853657901287079)
_L3 = _F(0.23596784472465515)
_SQRT_HALF_BITS = _I(0x3F3504F3)
_ONE_BITS = _I(0x3F800000)
_MANTISSA = _I(0x007FFFFF)
_MAGNITUDE = _I(0x7FFFFFFF)
_INFINITY = _F(np.inf)

F16_MAX_TIE = _F(65520)  # from here on float16 rounds to infinity
E4M3_MAX = _F(448)
E2M1_MAX = _F(6)
FP8_FLOOR = _F(1e-4)  # least amax of an FP8 block
FP4_FLOOR = _F(6 * 2.0**-126)


def bits_of(x):
    """The 32 bits of a float32 as int32."""
    return _F(x).view(_I)


def float_of(n):
    """The float32 that these 32 bits are."""
    return _I(n).view(_F)


def exp(x):
    """e**x within 1 ulp; NaN stays NaN. Below -104 it is 0, above 89 infinity."""
    x = _EXP_TOP if x > _EXP_TOP else x
    x = _EXP_BOTTOM if x < _EXP_BOTTOM else x
    shifted = x * _LOG2E + _MAGIC
    k = shifted - _MAGIC
    r = (x - k * _LN2_HI) - k * _LN2_LO
    p = (((_E4 * r + _E3) * r + _E2) * r + _E1) * r + _E0
    p = (p * r * r + r) + ONE
    # Two factors, since 2**k alone leaves the float32 range at both ends.
    n = _I(bits_of(shifted) - _MAGIC_BITS)
    half = _I(n >> _I(1))
    low = float_of(_I(half + _I(127)) << _I(23))
    high = float_of(_I(_I(n - half) + _I(127)) << _I(23))
    return p * low * high


def log(x):
    """ln(x) of a positive, normal float32 within 1 ulp; NaN and infinity stay."""
    bits = bits_of(x)
    # Exponent such that the mantissa lies in [sqrt(1/2), sqrt(2)).
    k = _I(_I(bits - _SQRT_HALF_BITS) >> _I(23))
    m = float_of(bits - _I(k << _I(23)))
    f = m - ONE
    s = f / (TWO + f)
    z = s * s
    r = z * (((_L3 * z + _L2) * z + _L1) * z + _L0)
    h = HALF * f * f
    e = _F(k)
    y = e * _LN2_HI + ((e * _LN2_LO + s * (h + r)) - h + f)
    return y if x < _INFINITY else x


def sigmoid(x):
    """1 / (1 + e**-x)."""
    return ONE / (ONE + exp(-x))


def softplus(x):
    """ln(1 + e**x): x itself above 20, e**x below -20 (the model's own branches)."""
    u = exp(x)
    w = ONE + u
    # What 1 + u lost to rounding comes back as the first term of the series.
    y = log(w) + (u - (w - ONE)) / w
    y = u if x < _F(-20) else y
    return x if x > _F(20) else y


def round_f16(x):
    """Nearest float16, ties to even, as float32; infinity from 65520 on."""
    bits = bits_of(x)
    odd = _I(_I(bits >> _I(13)) & _I(1))
    up = _I(bits + _I(_I(0xFFF) + odd))
    normal = float_of(up & _I(~0x1FFF))
    size = abs(x)
    # 0.75 has an ulp of 2**-24 above it: adding it rounds to float16's subnormals.
    small = (size + _F(0.75)) - _F(0.75)
    small = -small if bits < _I(0) else small
    y = small if size < _F(2.0**-14) else normal
    infinite = -_INFINITY if bits < _I(0) else _INFINITY
    y = infinite if size >= F16_MAX_TIE else y
    return y if size <= _INFINITY else x


def ceil_pow2(x):
    """Least power of two >= x, for positive normal x up to 2**126; NaN stays NaN."""
    bits = bits_of(x)
    up = float_of(_I(bits + _MANTISSA) & _I(~0x007FFFFF))
    return up if x <= _F(2.0**126) else x


def round_e4m3(x):
    """Nearest FP8 E4M3FN value of x clamped to +-448, ties to the even code, as float32."""
    x = E4M3_MAX if x > E4M3_MAX else x
    x = -E4M3_MAX if x < -E4M3_MAX else x
    bits = bits_of(x)
    odd = _I(_I(bits >> _I(20)) & _I(1))
    normal = float_of(_I(bits + _I(_I(0x7FFFF) + odd)) & _I(~0xFFFFF))
    size = abs(x)
    # 1.5 * 2**14 has an ulp of 2**-9, the step of E4M3's subnormals.
    small = (size + _F(24576)) - _F(24576)
    small = -small if bits < _I(0) else small
    y = small if size < _F(2.0**-6) else normal
    return y if size <= E4M3_MAX else x


def round_e2m1(x):
    """Nearest FP4 E2M1 value (0, .5, 1, 1.5, 2, 3, 4, 6) of x clamped to +-6, ties to even."""
    x = E2M1_MAX if x > E2M1_MAX else x
    x = -E2M1_MAX if x < -E2M1_MAX else x
    bits = bits_of(x)
    odd = _I(_I(bits >> _I(22)) & _I(1))
    normal = float_of(_I(bits + _I(_I(0x1FFFFF) + odd)) & _I(~0x3FFFFF))
    size = abs(x)
    # 1.5 * 2**22 has an ulp of 0.5.
    small = (size + _F(6291456)) - _F(6291456)
    small = -small if bits < _I(0) else small
    y = small if size < ONE else normal
    return y if size <= E2M1_MAX else x
