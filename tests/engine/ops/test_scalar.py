"""The shared float32 rules against float64 mathematics, all of float16, and brute force."""

import numpy as np
import pytest

from engine.ops import scalar as rules
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.simd import scalar as compiled
from engine.ops.reference import rounding
from tests.engine.ops.support import same_bits


def _loop(rule):
    @kernel
    def run(out, x):
        for i in range(x.size):
            out[i] = rule(x[i])

    return run


_LOOPS = {name: _loop(getattr(compiled, name)) for name in rules.RULES}


def _apply(name, x):
    out = np.full_like(x, 77)
    _LOOPS[name](out, x)
    return out


def _ulps(actual, exact):
    unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return np.abs(actual.astype(np.float64) - exact) / unit


def _softplus(x):
    return np.where(x > 20, x, np.where(x < -20, np.exp(x), np.logaddexp(0, x)))


# Bounds: half an ulp per rounding after the last cancellation, measured 0.98, 0.83, 2.4 and 1.9.
@pytest.mark.parametrize(
    ("name", "exact", "low", "high", "bound"),
    [
        ("exp", np.exp, -87.3, 88.7, 1.0),
        ("exp", np.exp, -1, 1, 1.0),
        ("log", np.log, 0.5, 2, 1.0),
        ("log", np.log, 1e-30, 1e-20, 1.0),
        ("log", np.log, 1, 1e9, 1.0),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), -80, 80, 2.5),
        ("softplus", _softplus, -70, 70, 2.0),
        ("softplus", _softplus, -5, 5, 2.0),
    ],
)
def test_error_in_ulps(rng, name, exact, low, high, bound):
    x = rng.uniform(low, high, 200_001).astype(np.float32)

    assert _ulps(_apply(name, x), exact(x.astype(np.float64))).max() <= bound


@pytest.mark.parametrize("name", rules.RULES)
def test_scalar_and_vectorised_code_give_the_same_bits(rng, name):
    x = rng.uniform(-30, 30, 333).astype(np.float32)
    if name in ("log", "ceil_pow2"):
        x = np.abs(x) + np.float32(1e-3)

    one_by_one = np.array([getattr(rules, name)(v) for v in x], np.float32)

    assert same_bits(_apply(name, x), one_by_one)


def test_ends_of_the_range():
    x = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 200, -200, 88.72, -103], np.float32)

    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(_apply("exp", x)[3:], exact[3:], rtol=2e-7, atol=2e-45)
    assert np.isnan(_apply("exp", x)[0]) and _apply("exp", x)[1] == np.inf
    assert np.isnan(_apply("softplus", x)[0]) and np.isnan(_apply("sigmoid", x)[0])
    assert _apply("exp", x)[2] == 0
    assert list(_apply("sigmoid", x)[5:7]) == [1, 0]


def _around(values):
    """Each value, each midpoint of neighbours, and the floats next to them; both signs."""
    values = np.unique(values).astype(np.float64)
    middle = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    x = np.concatenate([values.astype(np.float32), middle])
    x = np.concatenate([x, np.nextafter(x, np.float32(9e30)), np.nextafter(x, np.float32(-9e30))])
    return np.concatenate([x, -x])


def test_round_f16_is_numpys(rng):
    every = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    noise = rng.integers(0, 2**32, 100_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    ends = np.array([65519.996, 65520, -65520, 1e30, np.inf, -np.inf], np.float32)
    x = np.concatenate([_around(every), noise[~np.isnan(noise)], ends])

    with np.errstate(over="ignore"):
        expected = x.astype(np.float16).astype(np.float32)
    assert same_bits(_apply("round_f16", x), expected)
    assert np.isnan(_apply("round_f16", np.array([np.nan], np.float32)))[0]


def _codes(bits_exponent, bits_mantissa, bias, top):
    """Magnitudes of a small float format in code order, decoded bit by bit."""
    values = []
    for code in range(1 << (bits_exponent + bits_mantissa)):
        exponent, mantissa = divmod(code, 1 << bits_mantissa)
        fraction = mantissa / (1 << bits_mantissa)
        if exponent:
            values.append((1 + fraction) * 2.0 ** (exponent - bias))
        else:
            values.append(fraction * 2.0 ** (1 - bias))
    return np.array([v for v in values if v <= top])


E4M3 = _codes(4, 3, 7, 448)
E2M1 = _codes(2, 1, 1, 6)


def _nearest(x, values):
    """Brute force: nearest magnitude, ties to the even code."""
    size = np.minimum(np.abs(x.astype(np.float64)), values[-1])
    distance = np.abs(size[:, None] - values)
    best = distance.min(axis=1, keepdims=True)
    tie = distance == best
    even = tie & (np.arange(len(values)) % 2 == 0)
    code = np.where(even.any(axis=1), even.argmax(axis=1), tie.argmax(axis=1))
    return np.copysign(values[code], x).astype(np.float32)


def test_small_formats_are_the_published_ones():
    assert len(E4M3) == 127 and E4M3[1] == 2.0**-9 and E4M3[-1] == 448
    assert list(E2M1) == [0, 0.5, 1, 1.5, 2, 3, 4, 6]


@pytest.mark.parametrize(
    ("name", "values", "reference"),
    [("round_e4m3", E4M3, rounding.e4m3), ("round_e2m1", E2M1, rounding.e2m1)],
)
def test_small_float_rounding_is_brute_forces(rng, name, values, reference):
    x = np.concatenate([_around(values), rng.normal(0, values[-1] / 2, 20_000).astype(np.float32)])
    expected = _nearest(x, values)

    assert np.array_equal(_apply(name, x), expected)
    assert np.array_equal(reference(x.astype(np.float64)), expected)
    assert np.isnan(_apply(name, np.array([np.nan], np.float32)))[0]


def test_ceil_pow2(rng):
    powers = 2.0 ** np.arange(-120, 120)
    x = np.concatenate([powers, np.nextafter(powers.astype(np.float32), np.float32(9e30))])
    x = np.concatenate([x, 10 ** rng.uniform(-30, 30, 1000)]).astype(np.float32)

    actual = _apply("ceil_pow2", x).astype(np.float64)

    assert np.all(np.frexp(actual)[0] == 0.5)
    assert np.all(actual >= x) and np.all(actual < 2 * x.astype(np.float64))


@pytest.mark.oracle
def test_e4m3_is_torchs(rng):
    torch = pytest.importorskip("torch")
    x = np.concatenate([_around(E4M3), rng.normal(0, 200, 50_000).astype(np.float32)])
    x = np.clip(x, -448, 448)

    expected = torch.from_numpy(x).to(torch.float8_e4m3fn).to(torch.float32).numpy()

    assert same_bits(_apply("round_e4m3", x), expected)
