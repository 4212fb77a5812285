"""Weights in fragment order, against the documented layout written out in NumPy."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from engine.ops.cuda import sizes
from engine.ops.cuda.products import pack
from engine.ops.cuda.rows import embed
from engine.quant.formats import BY_NAME, NATIVE
from tests.cuda.rows import poisoned
from tests.engine.ops.blocks import dequantised, random_blocks, random_tensor, tensor

LANE = np.arange(32)
G, T = LANE // 4, LANE % 4


def bytes_at(ctx, address, size):
    from engine.ops.cuda.device.array import DeviceArray

    return np.asarray(DeviceArray(ctx, address, (size,), np.uint8))


def padded_blocks(t):
    """uint8 (row tiles * 16, blocks of a row, bytes of a block): the file's, zeros below."""
    rows = t.shape[0]
    size = sizes.SIZES[t.format.name].block
    width = t.format.row_bytes(size)
    raw = t.data.reshape(rows, -1, width)
    return np.concatenate([raw, np.zeros((-rows % 16, *raw.shape[1:]), np.uint8)])


def codes_of(t):
    """Stored codes as numbers: (tiles, 16 rows, units, 32 values), by the formats' own rules."""
    raw, name = padded_blocks(t), t.format.name
    if name == "Q8_0":
        codes = raw[:, :, None, 2:]
    elif name == "MXFP4":
        codes = np.concatenate([raw[..., 1:] & 15, raw[..., 1:] >> 4], -1)[:, :, None]
    elif name == "Q4_K":
        q = raw[..., 16:].reshape(*raw.shape[:2], 4, 1, 32)
        codes = np.concatenate([q & 15, q >> 4], 3).reshape(*raw.shape[:2], 8, 32)
    elif name == "Q2_K":
        q = raw[..., 16:80].reshape(*raw.shape[:2], 2, 1, 32)
        codes = np.concatenate([q >> s & 3 for s in (0, 2, 4, 6)], 3)
        codes = codes.reshape(*raw.shape[:2], 8, 32)
    return codes.reshape(len(raw) // 16, 16, -1, 32)


def fragment(codes):
    """(tile, unit, lane, register 0..3, byte): what mma takes for rows g, g + 8 and k of a lane."""
    parts = []
    for r in range(4):
        k = 8 * T[:, None] + 4 * (r >> 1) + np.arange(4)
        parts.append(codes[:, (G + 8 * (r & 1))[:, None], :, k])  # (lane, 4, tile, unit)
    return np.stack(parts).transpose(3, 4, 1, 0, 2)


def expected_layout(t):
    """(codes, scales, factors) as bytes."""
    raw, name = padded_blocks(t), t.format.name
    tiles, blocks = len(raw) // 16, raw.shape[1]
    by_tile = raw.reshape(tiles, 16, blocks, -1).transpose(0, 2, 1, 3)  # (tile, block, row, byte)
    none = np.empty(0, np.uint8)
    if name == "Q8_0":
        return fragment(codes_of(t)), by_tile[..., :2], none
    if name == "MXFP4":
        a = fragment(codes_of(t))  # nibble i of word r % 2 is value i
        values = np.concatenate([a[..., :2, :], a[..., 2:, :]], -1)
        return values[..., 0::2] | values[..., 1::2] << 4, by_tile[..., :1], none
    if name == "Q4_K":
        a = fragment(codes_of(t))
        scales = np.zeros((tiles, blocks, 16, 16), np.uint8)
        x = by_tile[..., 4:16]
        scales[..., :4], scales[..., 8:12] = x[..., :4] & 63, x[..., 4:8] & 63
        scales[..., 4:8] = x[..., 8:] & 15 | x[..., :4] >> 6 << 4
        scales[..., 12:] = x[..., 8:] >> 4 | x[..., 4:8] >> 6 << 4
        return a[..., :2, :] | a[..., 2:, :] << 4, scales, by_tile[..., :4]
    if name == "Q2_K":
        a = fragment(codes_of(t)).reshape(tiles, blocks, 8, 32, 4, 4)
        word = a[..., 0, :] | a[..., 1, :] << 2 | a[..., 2, :] << 4 | a[..., 3, :] << 6
        scales = by_tile[..., :16].reshape(tiles, blocks, 16, 8, 2).swapaxes(3, 4)
        return word.transpose(0, 1, 3, 2, 4), scales, by_tile[..., 80:]
    if name == "IQ2_XXS":
        q = by_tile[..., 2:].reshape(tiles, blocks, 16, 8, 8)
        rows, signs = q[..., :4], np.ascontiguousarray(q[..., 4:]).view("<u4")[..., 0]
        words = np.zeros((tiles, blocks, 2, 32, 4), np.uint32)
        for v, k in np.ndindex(4, 4):
            row, unit, at = G + 8 * (k & 1), 2 * v + (k >> 1), 2 * (v & 1)
            group = rows[:, :, row, unit, T].astype(np.uint32)
            words[:, :, v >> 1, :, at] |= group << np.uint32(8 * k)
            group = signs[:, :, row, unit]
            for i in range(7):
                bit = group >> (7 * T + i).astype(np.uint32) & np.uint32(1)
                words[:, :, v >> 1, :, at + 1] |= bit << np.uint32(4 * i + k)
            scale = np.where(k == T, group >> np.uint32(28) << np.uint32(28), np.uint32(0))
            words[:, :, v >> 1, :, at + 1] |= scale
        return words, none, by_tile[..., :2]
    if name in ("F16", "BF16"):
        q = by_tile.reshape(tiles, blocks, 16, 4, 16)
        rows = np.stack([q[:, :, G, T], q[:, :, G + 8, T]], 3)
        return rows, none, none
    return t.data, none, none


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("piece", [pack.PIECE, 1], ids=["whole", "in pieces"])
@pytest.mark.parametrize(("rows", "cols"), [(16, 256), (37, 768)])
def test_tiles(ctx, monkeypatch, name, piece, rows, cols):
    """Every byte where the layout says, whole or uploaded a tile at a time."""
    monkeypatch.setattr(pack, "PIECE", piece)
    t = random_tensor(name, np.random.default_rng(rows), rows, cols)
    w = pack.prepare(ctx, t)
    places = (w.codes, w.scales, w.factors)
    for part, place in zip(expected_layout(t), places):
        part = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
        np.testing.assert_array_equal(bytes_at(ctx, place, part.size), part)
    assert (w.rows, w.cols, w.n_expert, w.tiled) == (rows, cols, 1, True)
    assert w.file_bytes == t.n_bytes
    assert sizes.repack_bytes(t) == w.n_bytes == w.owner.nbytes


@pytest.mark.parametrize("name", NATIVE)
def test_experts_lie_one_stride_apart(ctx, name):
    rng = np.random.default_rng(2)
    t = random_tensor(name, rng, 3, 20, 256)
    w = pack.prepare(ctx, t)
    assert (w.n_expert, w.rows, w.cols) == (3, 20, 256)
    assert w.n_bytes == sizes.repack_bytes(t)
    for e in range(3):
        one = tensor(name, t.data.reshape(3, -1)[e], 20, 256)
        for part, place, stride in zip(
            expected_layout(one), (w.codes, w.scales, w.factors), w.strides
        ):
            part = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
            assert part.size <= stride
            np.testing.assert_array_equal(bytes_at(ctx, place + e * stride, part.size), part)


def test_a_mapped_tensor_stays_where_it_is(ctx):
    t = random_tensor("Q4_K", np.random.default_rng(3), 2, 16, 256)
    data = ctx.put(t.data)
    place = SimpleNamespace(place=lambda t: SimpleNamespace(kind="mapped", address=data.address))
    w = pack.prepare(ctx, t, place=place)
    assert not w.tiled and w.codes == data.address and w.n_bytes == 0
    assert w.strides[0] == t.n_bytes // 2


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("n", [1, 3])
def test_rows_of_a_table(ctx, name, n):
    """Embedding rows, to the bit: products and differences are rounded where gguf rounds them."""
    form, d = BY_NAME[name], 512
    raw = random_blocks(name, 7 * d, np.random.default_rng(4))
    t = dataclasses.replace(tensor(name, raw, 7, d), name="token_embd.weight")
    w = pack.prepare(ctx, t)
    assert not w.tiled and form.name == w.format
    tokens = np.array([6, 0, 3][:n], np.int32)
    state = poisoned(ctx, (n, 4, d))
    embed.embed_hc(ctx, state, ctx.put(tokens), w)
    expected = dequantised(t)[tokens][:, None].repeat(4, 1)
    np.testing.assert_array_equal(np.asarray(state), expected)
