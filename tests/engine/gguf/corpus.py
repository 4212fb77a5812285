"""Hostile GGUF files, built from bytes: what published parser bugs have in common, and more.

`BAD` must be refused with GGUFError; `ODD` is legal but nasty and must be read. Each entry names
the mistake that it tempts a parser into.
"""

from __future__ import annotations

import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STR, ARR, U64, I64, F64 = range(13)
T_F32, T_F16, T_Q4_0, T_Q8_0, T_Q4_K, T_MXFP4 = 0, 1, 2, 8, 12, 39
BIG = (2**31, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 16, 2**64 - 3, 2**64 - 1)


def u32(n: int) -> bytes:
    return struct.pack("<I", n)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n)


def text(value: str | bytes, length: int | None = None) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw) if length is None else length) + raw


def kv(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + u32(kind) + value


def kv_array(key: str, kind: int, n: int, values: bytes) -> bytes:
    return kv(key, ARR, u32(kind) + u64(n) + values)


def info(name: str | bytes, dims: tuple[int, ...], kind: int = T_F32, offset: int = 0,
         n_dims: int | None = None) -> bytes:  # fmt: skip
    count = len(dims) if n_dims is None else n_dims
    return text(name) + u32(count) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def build(keys: tuple[bytes, ...] = (), infos: tuple[bytes, ...] = (), data: bytes = b"",
          *, magic: bytes = b"GGUF", version: bytes | None = None, n_keys: int | None = None,
          n_tensors: int | None = None, alignment: int = 32) -> bytes:  # fmt: skip
    head = magic + (u32(3) if version is None else version)
    head += u64(len(infos) if n_tensors is None else n_tensors)
    head += u64(len(keys) if n_keys is None else n_keys)
    head += b"".join(keys) + b"".join(infos)
    if infos:
        head += b"\0" * (-len(head) % alignment)
    return head + data


ARCH = kv("general.architecture", STR, text("deepseek4"))
ONE = (info("a", (8,)),)
DATA = bytes(range(32))


def valid_files() -> dict[str, bytes]:
    """Three small correct files of different make-up."""
    scalars = [
        kv("k.u8", U8, b"\x01"), kv("k.i8", I8, b"\xff"), kv("k.u16", U16, b"\1\0"),
        kv("k.i16", I16, b"\xfe\xff"), kv("k.u32", U32, u32(7)), kv("k.i32", I32, b"\xff" * 4),
        kv("k.f32", F32, struct.pack("<f", 0.5)), kv("k.bool", BOOL, b"\x01"),
        kv("k.str", STR, text("grüß")), kv("k.u64", U64, u64(2**63)), kv("k.i64", I64, u64(1)),
        kv("k.f64", F64, struct.pack("<d", 0.25)),
    ]  # fmt: skip
    arrays = [
        kv_array("a.i32", I32, 3, struct.pack("<3i", -1, 0, 1)),
        kv_array("a.bool", BOOL, 2, b"\0\1"),
        kv_array("a.str", STR, 3, text("") + text("a") + text("ö")),
        kv_array("a.empty", F32, 0, b""),
    ]
    two = (info("a", (4, 2)), info("b.weight", (32, 2, 2), T_Q8_0, 32))
    aligned = (kv("general.alignment", U32, u32(64)), ARCH)
    padded = (info("x", (3,)), info("y", (256,), T_Q4_K, 64))
    return {
        "scalars": build((ARCH, *scalars), ONE, DATA),
        "arrays": build((ARCH, *arrays), two, DATA + bytes(136)),
        "aligned": build(aligned, padded, bytes(64) + bytes(144), alignment=64),
    }


def big_endian() -> bytes:
    key = struct.pack(">Q", 5) + b"k.u32" + struct.pack(">II", U32, 7)
    return b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + key


def _headers() -> dict[str, bytes]:
    good = build((ARCH,), ONE, DATA)
    bad = {
        "empty file": b"",
        "one byte": b"G",
        "magic only": b"GGUF",
        "23 bytes": build()[:23],
        "wrong magic": build(magic=b"GGML"),
        "magic of another case": build(magic=b"gguf"),
        "reversed magic": build(magic=b"FUGG"),
        "zip archive": b"PK\3\4" + bytes(60),
        "safetensors": u64(64) + b'{"a":{"dtype":"F32"}}' + bytes(60),
        "pickle": b"\x80\x04\x95" + bytes(60),
        "html error page": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
        "big endian": big_endian(),
        "endianness mixed: version": build(version=struct.pack(">I", 3)),
        "endianness mixed: counts": b"GGUF" + u32(3) + struct.pack(">QQ", 1, 1) + good[24:],
        "only zeros": bytes(64),
        "only ones": b"\xff" * 64,
    }
    for version in (0, 1, 4, 2**31, 2**32 - 1):
        bad[f"version {version}"] = build(version=u32(version))
    for n in (2, 65_537, 10**9, *BIG):
        bad[f"key count {n}"] = build((ARCH,), n_keys=n)
        bad[f"tensor count {n}"] = build((ARCH,), ONE, DATA, n_tensors=n)
    return bad


def _keys() -> dict[str, bytes]:
    bad = {
        "empty key": build((kv("", U8, b"\1"),)),
        "key with NUL": build((kv("a\0b", U8, b"\1"),)),
        "key with escape sequence": build((kv("a\x1b]0;x\x07", U8, b"\1"),)),
        "key with newline": build((kv("a\nb", U8, b"\1"),)),
        "key with C1 control": build((kv("a\x9bb", U8, b"\1"),)),
        "key with bidi override": build((kv("a\u202eb", U8, b"\1"),)),
        "key not UTF-8": build((kv(b"a\xff\xfe", U8, b"\1"),)),
        "key truncated UTF-8": build((kv(b"a\xe2\x82", U8, b"\1"),)),
        "key overlong UTF-8": build((kv(b"\xc0\xaf", U8, b"\1"),)),
        "key surrogate": build((kv(b"\xed\xa0\x80", U8, b"\1"),)),
        "key of 65536 bytes": build((kv("k" * 65_536, U8, b"\1"),)),
        "duplicate key": build((kv("a", U8, b"\1"), kv("a", U8, b"\2"))),
        "duplicate key, other type": build((kv("a", U8, b"\1"), kv("a", U32, u32(2)))),
        "string value not UTF-8": build((kv("a", STR, text(b"\xff")),)),
        "bool 2": build((kv("a", BOOL, b"\2"),)),
        "bool 255 in array": build((kv_array("a", BOOL, 2, b"\1\xff"),)),
        "u64 value cut": build((kv("a", U64, u64(1)[:5]),)),
        "f64 value cut": build((kv("a", F64, b"\0" * 7),)),
        "type missing": build((text("a") + b"\0\0\0",), n_keys=1),
        "array type missing": build((kv("a", ARR, b"\0\0"),)),
        "array count missing": build((kv("a", ARR, u32(U8)),)),
    }
    for kind in (13, 14, 255, 2**31, 2**32 - 1):
        bad[f"value type {kind}"] = build((kv("a", kind, u64(1)),))
        bad[f"element type {kind}"] = build((kv_array("a", kind, 1, u64(1)),))
    for n in (100, 65_536, *BIG):
        bad[f"key length {n}"] = build((text("a", n) + u32(U8) + b"\1",))
        bad[f"string length {n}"] = build((kv("a", STR, text("abc", n)),))
        bad[f"u8 array of {n}"] = build((kv_array("a", U8, n, b"abc"),))
        bad[f"f64 array of {n}"] = build((kv_array("a", F64, n, b"abc"),))
        bad[f"string array of {n}"] = build((kv_array("a", STR, n, text("a")),))
        bad[f"string in array of {n}"] = build((kv_array("a", STR, 2, text("x") + text("a", n)),))
    return bad


def _arrays() -> dict[str, bytes]:
    nested = u32(ARR) + u64(1)
    return {
        "f64 array whose bytes wrap": build((kv_array("a", F64, 2**61, u64(0)),)),
        "u16 array whose bytes wrap": build((kv_array("a", U16, 2**63, b""),)),
        "array one element short": build((kv_array("a", U32, 3, u32(1) * 2),)),
        "array above the limit": build((kv_array("a", U8, 2**24 + 1, b""),)),
        "string array one short": build((kv_array("a", STR, 2, text("a" * 20)),)),
        "string array cut in a length": build((kv_array("a", STR, 2, text("a" * 8) + b"\1\0"),)),
        "string array not UTF-8": build((kv_array("a", STR, 2, text("a") + text(b"\xff")),)),
        "UTF-8 split over strings": build((kv_array("a", STR, 2, text(b"\xc3") + text(b"\xb6")),)),
        "nested array": build((kv("a", ARR, nested + u32(U8) + u64(1) + b"\1"),)),
        "nested arrays, depth 3": build((kv("a", ARR, nested * 2 + u32(U8) + u64(1) + b"\1"),)),
        "nested arrays, depth 100000": build((kv("a", ARR, nested * 100_000),)),
        "scalar where an array stands": build((kv("a", ARR, u32(U8)), kv("b", U8, b"\1"))),
    }  # fmt: skip


def _alignments() -> dict[str, bytes]:
    bad = {}
    for n in (0, 1, 2, 3, 4, 24, 33, 2**20 + 1, 2**21, 2**31, 2**32 - 1):
        bad[f"alignment {n}"] = build((kv("general.alignment", U32, u32(n)),), ONE, DATA)
    bad["alignment as u64"] = build((kv("general.alignment", U64, u64(32)),), ONE, DATA)
    bad["alignment as i32"] = build((kv("general.alignment", I32, u32(32)),), ONE, DATA)
    bad["alignment as array"] = build((kv_array("general.alignment", U32, 1, u32(32)),), ONE, DATA)
    bad["alignment as string"] = build((kv("general.alignment", STR, text("32")),), ONE, DATA)
    bad["data placed for another alignment"] = build(
        (kv("general.alignment", U32, u32(1024)),), ONE, DATA
    )
    return bad


def _tensors() -> dict[str, bytes]:
    two = DATA + DATA
    bad = {
        "empty name": build((), (info("", (8,)),), DATA),
        "name of 64 bytes": build((), (info("n" * 64, (8,)),), DATA),
        "name with NUL": build((), (info("a\0b", (8,)),), DATA),
        "name with escape sequence": build((), (info("\x1b[2J", (8,)),), DATA),
        "name not UTF-8": build((), (info(b"\xff\xfe", (8,)),), DATA),
        "duplicate tensor": build((), (info("a", (8,)), info("a", (8,), offset=32)), two),
        "same tensor twice": build((), (info("a", (8,)), info("a", (8,))), two),
        "no dimensions": build((), (info("a", ()),), DATA),
        "dimension 0": build((), (info("a", (0,)),), DATA),
        "second dimension 0": build((), (info("a", (8, 0)),), DATA),
        "third dimension 0": build((), (info("a", (8, 1, 0)),), DATA),
        "one dimension too few": build((), (info("a", (8,), n_dims=2),), DATA),
        "row not whole blocks, Q8_0": build((), (info("a", (33,), T_Q8_0),), bytes(68)),
        "row not whole blocks, Q4_K": build((), (info("a", (128, 2), T_Q4_K),), bytes(144)),
        "product wraps to 4": build((), (info("a", (4194305, 4194305, 211106198978564)),), DATA),
        "product wraps to 0": build((), (info("a", (2**32, 2**32)),), DATA),
        "four dimensions wrap to 0": build((), (info("a", (2**16,) * 4),), DATA),
        "product fits, bytes wrap": build((), (info("a", (2**62,)),), DATA),
        "bytes near 2^63": build((), (info("a", (2**61 - 1,)),), DATA),
        "bytes wrap for blocks": build((), (info("a", (2**63 - 2**63 % 32, 1), T_Q8_0),), DATA),
        "Q4_0 bytes wrap": build((), (info("a", (32, 2**60), T_Q4_0),), DATA),
        "padding wraps": build((), (info("a", (2**62 - 1,), T_F32),), DATA),
        "sum of sizes wraps": build(
            (), (info("a", (2**61 - 8,)), info("b", (2**61,), offset=2**63 - 32)), two
        ),
        "header and sum wrap": build(
            (), (info("a", (8,)), info("b", (2**62 - 16,), offset=32)), two
        ),
        "last byte missing": build((), ONE, DATA[:-1]),
        "data missing": build((), ONE),
        "padding before data missing": build((), ONE)[:-1],
        "second data missing": build((), (info("a", (8,)), info("b", (8,), offset=32)), DATA),
        "one row more than the data": build((), (info("a", (8, 2)),), DATA),
        "gap whose end is missing": build((), (info("a", (8,)), info("b", (8,), offset=64)), two),
        "gap to an odd offset": build((), (info("a", (8,)), info("b", (8,), offset=68)), two + two),
        "full overlap": build((), (info("a", (8,)), info("b", (8,))), two),
        "partial overlap": build((), (info("a", (16,)), info("b", (8,), offset=32)), two),
        "order of offsets reversed": build((), (info("a", (8,), offset=32), info("b", (8,))), two),
        "offset not aligned": build((), (info("a", (1,)), info("b", (1,), offset=4)), DATA),
        "offset outside": build((), (info("a", (8,), offset=10**6),), DATA),
        "offset wraps onto the header": build((), (info("a", (8,), offset=2**64 - 64),), DATA),
        "name length past the end": build((), (text("a", 60),), n_tensors=1),
        "type missing": build((), (text("a") + u32(1) + u64(8),), n_tensors=1),
        "offset missing": build((), (text("a") + u32(1) + u64(8) + u32(0),), n_tensors=1),
    }  # fmt: skip
    for n in (5, 8, 10**6, 2**31, 2**32 - 1):
        bad[f"{n} dimensions"] = build((), (info("a", (8,) * min(n, 8), n_dims=n),), DATA)
    for kind in (4, 5, 31, 32, 33, 36, 37, 38, 41, 42, 144, 158, 1000, 9999, 2**31, 2**32 - 1):
        bad[f"tensor type {kind}"] = build((), (info("a", (256,), kind),), bytes(1024))
    for n in BIG:
        bad[f"dimension {n}"] = build((), (info("a", (n,)),), DATA)
        bad[f"block type dimension {n}"] = build((), (info("a", (n, 32), T_Q8_0),), DATA)
        bad[f"offset {n}"] = build((), (info("a", (8,), offset=n),), DATA)
        bad[f"name length {n}"] = build((), (text("a", n) + bytes(40),), n_tensors=1)
    return bad


BAD = {
    f"{group}: {name}": data
    for group, files in (
        ("header", _headers()),
        ("key", _keys()),
        ("array", _arrays()),
        ("alignment", _alignments()),
        ("tensor", _tensors()),
    )
    for name, data in files.items()
}

ODD = {
    "no keys, no tensors": build(),
    "version 2": build(version=u32(2)),
    "hostile general.name": build((kv("general.name", STR, text("\x1b]0;owned\x07\n")),)),
    "empty string": build((kv("a", STR, text("")),)),
    "empty string array": build((kv_array("a", STR, 0, b""),)),
    "empty number array": build((kv_array("a", F64, 0, b""),)),
    "NaN and infinity": build((kv_array("a", F32, 2, b"\0\0\xc0\x7f\0\0\x80\x7f"),)),
    "bytes after the data": build((), ONE, DATA + b"trailing"),
    "gap between tensors": build(
        (), (info("a", (8,)), info("b", (8,), offset=4096)), DATA + bytes(4064) + DATA
    ),
    "gap before the first": build((), (info("a", (8,), offset=32),), DATA + DATA),
    "last padding missing": build((), (info("a", (3,)),), DATA[:12]),
    "name of 63 bytes": build((), (info("n" * 63, (8,)),), DATA),
    "key of 65535 bytes": build((kv("k" * 65_535, U8, b"\1"),)),
    "four dimensions": build((), (info("a", (2, 2, 2, 1)),), DATA),
    "alignment 8": build((kv("general.alignment", U32, u32(8)),), ONE, DATA, alignment=8),
    "alignment 1 MiB": build(
        (kv("general.alignment", U32, u32(2**20)),), ONE, DATA, alignment=2**20
    ),
    "a million bytes in an array": build((kv_array("a", U8, 10**6, bytes(10**6)),)),
    "20000 empty strings": build((kv_array("a", STR, 20_000, u64(0) * 20_000),)),
    "2000 keys": build(tuple(kv(f"k{i}", U8, b"\1") for i in range(2000))),
}  # fmt: skip
