"""Decoders against gguf's, bit for bit; encoders against gguf's and llama.cpp's."""

import ctypes
import importlib.util
import warnings
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants

from engine.errors import LayoutError
from engine.quant.formats import BY_ID, BY_NAME, KERNELS, NATIVE
from engine.quant.iq2_xxs import SIGNS
from engine.quant.iq2_xxs_grid import GRID
from engine.quant.registry import dequantize, quantize

FOREIGN = tuple(name for name in KERNELS["cpu"] if name not in NATIVE)


def gguf_dequantize(raw, fmt):
    kind = gguf.GGMLQuantizationType(fmt.type_id)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return quants.dequantize(raw.reshape(-1, fmt.block_bytes), kind).reshape(-1)


def assert_same_bits(actual, expected):
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    ok = ~np.isnan(expected)
    np.testing.assert_array_equal(actual[ok].view(np.uint32), expected[ok].view(np.uint32))


def gaussian(rng, *shape):
    return rng.standard_normal(shape, np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_sizes_are_ggml_s():
    for fmt in BY_ID.values():
        if fmt.name == "Q8_1":  # activations only, never in a file; gguf lists its older layout
            continue
        expected = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(fmt.type_id)]

        assert (fmt.block_len, fmt.block_bytes) == expected, fmt.name


@pytest.mark.parametrize("name", [*NATIVE, *FOREIGN])
@pytest.mark.parametrize("n_block", [1, 3, 700])
def test_random_bytes_decode_as_in_gguf(rng, name, n_block):
    # Random bytes contain every code, and float16 scales that are NaN, infinite and subnormal.
    fmt = BY_NAME[name]
    raw = rng.integers(0, 256, n_block * fmt.block_bytes, np.uint8)

    actual = dequantize(raw, fmt, (n_block * fmt.block_len,))

    assert_same_bits(actual, gguf_dequantize(raw, fmt))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q2_K", "IQ2_XXS"])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 0.0, -0.0, 6e-8, 65504])
def test_special_scales_decode_as_in_gguf(rng, name, scale):
    fmt = BY_NAME[name]
    raw = rng.integers(0, 256, 5 * fmt.block_bytes, np.uint8)
    offsets = {"Q8_0": [0], "Q4_K": [0, 2], "Q2_K": [80, 82], "IQ2_XXS": [0]}[name]
    for offset in offsets:
        raw.reshape(5, -1)[1, offset : offset + 2] = np.float16([scale]).view(np.uint8)

    actual = dequantize(raw, fmt, (5, fmt.block_len))

    assert_same_bits(actual.reshape(-1), gguf_dequantize(raw, fmt))
    if not np.isfinite(scale):
        assert not np.isfinite(actual[1]).all()


@pytest.mark.parametrize("exponent", [0, 1, 2, 127, 254, 255])
def test_mxfp4_exponents_decode_as_in_gguf(rng, exponent):
    fmt = BY_NAME["MXFP4"]
    raw = rng.integers(0, 256, 3 * fmt.block_bytes, np.uint8)
    raw[:: fmt.block_bytes] = exponent

    assert_same_bits(dequantize(raw, fmt, (96,)), gguf_dequantize(raw, fmt))


def test_codebook_is_gguf_s():
    quants.IQ2_XXS.init_grid()

    np.testing.assert_array_equal(GRID, quants.IQ2_XXS.grid.reshape(256, 8))
    masks = np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8)
    bits = np.unpackbits(masks[:, None], axis=1, bitorder="little")
    np.testing.assert_array_equal(SIGNS, np.where(bits, -1, 1))


def test_a_block_by_hand():
    q8 = np.concatenate(
        [np.float16([0.5]).view(np.uint8), np.arange(-16, 16, dtype=np.int8).view(np.uint8)]
    )
    # e = 129 doubles the halves: code 7 is 12 * 2 = 24, code 9 is -1 * 2.
    mx = np.array([129] + [0x97] * 16, np.uint8)

    np.testing.assert_array_equal(dequantize(q8, "Q8_0", (32,)), np.arange(-16, 16) / 2)
    np.testing.assert_array_equal(dequantize(mx, "MXFP4", (32,)), [24.0] * 16 + [-2.0] * 16)


@pytest.mark.parametrize(
    "name", ["F32", "F16", "BF16", "Q8_0", "MXFP4", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
)
@pytest.mark.parametrize("shape", [(1, 32), (7, 96), (65, 1056)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 9e3])
def test_encoders_equal_gguf_s(rng, name, shape, size):
    x = gaussian(rng, *shape) * np.float32(size)
    x[0, :32] = 0
    x[-1, -32:] = np.round(x[-1, -32:] * 4) / 8  # ties
    expected = quants.quantize(x, gguf.GGMLQuantizationType[name])

    actual = quantize(x, name)

    np.testing.assert_array_equal(actual, np.ascontiguousarray(expected).view(np.uint8).reshape(-1))


def test_half_formats_keep_infinity_and_nan():
    x = np.array([[np.inf, -np.inf, np.nan, 1e30]], np.float32)
    for name in ("F16", "BF16"):
        actual = dequantize(quantize(x, name), name, (4,))

        assert actual[0] == np.inf and actual[1] == -np.inf and np.isnan(actual[2])
    assert dequantize(quantize(x, "F16"), "F16", (4,))[3] == np.inf


def ggml_encoder():
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        pytest.skip("llama-cpp-python is not installed")
    folder = Path(spec.origin).parent / "lib"
    found = [p for p in folder.glob("*ggml-base*") if p.suffix in (".so", ".dylib", ".dll")]
    if not found:
        pytest.skip("llama-cpp-python has no ggml library of its own")
    lib = ctypes.CDLL(str(found[0]))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]

    def encode(x, fmt, importance):
        out = np.empty(len(x) * fmt.row_bytes(x.shape[1]), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        lib.ggml_quantize_init(fmt.type_id)
        n = lib.ggml_quantize_chunk(
            fmt.type_id, x.ctypes.data, out.ctypes.data, 0, len(x), x.shape[1], weights
        )
        assert n == out.nbytes
        return out

    return encode


DRAWS = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "student": lambda rng, shape: rng.standard_t(4, size=shape),
    "offset": lambda rng, shape: rng.standard_normal(shape) * 0.3 + 1,
}


@pytest.mark.peer
@pytest.mark.parametrize("name", ["Q4_K", "Q2_K", "IQ2_XXS"])
@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("weighted", [False, True])
def test_error_is_no_larger_than_llama_cpp_s(rng, name, draw, weighted):
    encode = ggml_encoder()
    fmt = BY_NAME[name]
    x = DRAWS[draw](rng, (64, 512)).astype(np.float32)
    importance = (rng.gamma(1, size=512) + 0.05).astype(np.float32)
    # llama.cpp refuses this format without importance; equal weights are the same as none.
    their_importance = importance if weighted else np.ones(512, np.float32) * (name == "IQ2_XXS")
    if not their_importance.any():
        their_importance = None

    theirs = dequantize(encode(x, fmt, their_importance), fmt, x.shape)
    ours = dequantize(quantize(x, fmt, importance if weighted else None), fmt, x.shape)

    weight = importance if weighted else 1
    error, bar = (np.sqrt((weight * (y - x) ** 2).mean()) for y in (ours, theirs))
    # Measured ratios are 0.84 to 0.99; 1 means that a search step has been lost.
    assert error < bar


@pytest.mark.parametrize(("name", "bound"), [("Q4_K", 0.072), ("Q2_K", 0.268), ("IQ2_XXS", 0.335)])
def test_error_on_normal_values(rng, name, bound):
    # Bounds: measured 0.0700, 0.262 and 0.328 of the standard deviation, plus 2 %.
    x = gaussian(rng, 64, 1024)

    error = dequantize(quantize(x, name), name, x.shape) - x

    assert np.sqrt((error**2).mean()) < bound


@pytest.mark.parametrize("name", ["Q4_K", "Q2_K", "IQ2_XXS"])
def test_importance_lowers_the_weighted_error(rng, name):
    x = gaussian(rng, 64, 512)
    importance = np.repeat(np.float32([0.01, 1, 8, 0.3]), 128)
    rng.shuffle(importance)

    def weighted_error(raw):
        return (importance * (dequantize(raw, name, x.shape) - x) ** 2).mean()

    plain, weighted = quantize(x, name), quantize(x, name, importance)

    # Half of the columns hardly matter; using that gains 7 (Q4_K) to 20 % here.
    assert weighted_error(weighted) < 0.96 * weighted_error(plain)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q2_K", "IQ2_XXS", "MXFP4"])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e-30, -1e-12, 1e4])
def test_constant_rows_stay_close(name, value):
    x = np.full((2, 512), value, np.float32)
    x[1, 256:] = 0

    actual = dequantize(quantize(x, name), name, x.shape)

    assert np.isfinite(actual).all()
    assert not actual[1, 256:].any()
    # Magnitudes 8, 25 and 43 have no row of eight equal ones near every scale; E2M1 steps by up
    # to a third. What is too small for a float16 scale becomes zero.
    rtol = {"IQ2_XXS": 0.75, "MXFP4": 0.19}.get(name, 0.01)
    np.testing.assert_allclose(actual, x, rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("name", ["Q4_K", "Q2_K", "IQ2_XXS"])
def test_pieces_and_row_counts_do_not_matter(rng, name):
    x = gaussian(rng, 300, 512)
    whole = quantize(x, name)

    parts = [quantize(x[i:j], name) for i, j in ((0, 1), (1, 200), (200, 300))]

    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_zero_importance_is_allowed(rng):
    x = gaussian(rng, 2, 512)
    importance = np.zeros(512, np.float32)
    importance[:8] = 1
    for name in ("Q4_K", "Q2_K", "IQ2_XXS"):
        assert np.isfinite(dequantize(quantize(x, name, importance), name, x.shape)).all()


def test_refusals():
    x = np.ones((2, 256), np.float32)
    with pytest.raises(LayoutError, match="expected a multiple of 256, found 128"):
        quantize(x[:, :128], "Q4_K")
    with pytest.raises(LayoutError, match="expected a multiple of 32, found 8"):
        dequantize(np.zeros(34, np.uint8), "Q8_0", (4, 8))
    with pytest.raises(LayoutError, match="expected 68 bytes, found 34"):
        dequantize(np.zeros(34, np.uint8), "Q8_0", (2, 32))
    with pytest.raises(LayoutError, match="found 'Q6_K'"):
        quantize(x, "Q6_K")
    with pytest.raises(LayoutError, match="found 'I32'"):
        dequantize(np.zeros(128, np.uint8), "I32", (32,))
    with pytest.raises(LayoutError, match="importance: expected 256 numbers"):
        quantize(x, "Q2_K", np.ones(255, np.float32))
    with pytest.raises(LayoutError, match="importance"):
        quantize(x, "Q2_K", np.full(256, np.nan, np.float32))
    x[1, 3] = np.inf
    with pytest.raises(LayoutError, match="expected finite"):
        quantize(x, "Q8_0")
