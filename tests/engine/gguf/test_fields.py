"""Structure-aware fuzzing with hypothesis: valid files with edge values written over fields."""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import GGUFError
from engine.gguf.parse import parse
from engine.quant.formats import BY_ID
from tests.engine.gguf.corpus import ARCH, BAD, U32, build, info, kv, kv_array, text, u32
from tests.engine.gguf.oracle import check_accepted

EDGES = st.sampled_from(
    [0, 1, 2, 3, 4, 7, 8, 13, 31, 32, 33, 63, 64, 255, 256, 65_535, 65_536, 2**24, 2**31 - 1,
     2**31, 2**32 - 1, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 3, 2**64 - 1]
)  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
TYPES = {0: (1, 4), 1: (1, 2), 8: (32, 34), 12: (256, 144), 39: (32, 17)}


@st.composite
def keys(draw):
    out = [ARCH]
    if draw(st.booleans()):
        out.append(kv("general.alignment", U32, u32(draw(st.sampled_from([8, 16, 32, 64, 7, 0])))))
    for i in range(draw(st.integers(0, 4))):
        name = draw(NAMES) or f"k{i}"
        kind = draw(st.sampled_from([*SCALAR_BYTES, 8, 9]))
        if kind == 8:
            out.append(kv(name, 8, text(draw(st.binary(max_size=6)))))
        elif kind == 9:
            element = draw(st.sampled_from([*SCALAR_BYTES, 8]))
            n = draw(st.integers(0, 4))
            size = SCALAR_BYTES.get(element)
            one = NAMES.map(text) if size is None else st.binary(min_size=size, max_size=size)
            values = [draw(one) for _ in range(n)]
            out.append(kv_array(name, element, n, b"".join(values)))
        else:
            size = SCALAR_BYTES[kind]
            out.append(kv(name, kind, draw(st.binary(min_size=size, max_size=size))))
    return tuple(out)


@st.composite
def files(draw):
    """A file that is mostly right, then up to three fields overwritten and perhaps a tail cut."""
    infos, offset = [], 0
    for i in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(list(TYPES)))
        block_len, block_bytes = TYPES[kind]
        dims = [block_len * draw(st.integers(1, 3))]
        dims += [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 3)))]
        infos.append(info(f"t{i}", tuple(dims), kind, offset))
        n = block_bytes
        for size in (dims[0] // block_len, *dims[1:]):
            n *= size
        offset += -(-n // 32) * 32
    data = bytearray(build(draw(keys()), tuple(infos), bytes(offset)))
    for _ in range(draw(st.integers(0, 3))):
        width = draw(st.sampled_from([1, 4, 8]))
        at = draw(st.integers(4, max(4, len(data) - width)))
        raw = struct.pack("<Q", draw(EDGES))[:width]
        data[at : at + width] = raw
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    return bytes(data)


RUNS = settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))


@RUNS
@given(files())
def test_refused_or_sound(data):
    try:
        header = parse(data)
    except GGUFError:
        return
    check_accepted(header, len(data))


@pytest.fixture(scope="module")
def library():
    """ggml, from llama-cpp-python."""
    pytest.importorskip("llama_cpp")
    import llama_cpp

    path = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    if not path.exists():
        pytest.skip("no libggml-base.so")
    lib = ctypes.CDLL(str(path))
    if not hasattr(lib, "gguf_init_from_buffer"):
        pytest.skip("this ggml cannot parse a buffer")
    return lib


@pytest.fixture(scope="module")
def ggml(library):
    """Whether ggml's own parser accepts a file."""

    class Params(ctypes.Structure):
        _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

    log_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    silent = log_type(lambda level, message, data: None)
    library.ggml_log_set.argtypes = [log_type, ctypes.c_void_p]
    library.ggml_log_set(silent, None)
    library.gguf_init_from_buffer.restype = ctypes.c_void_p
    library.gguf_init_from_buffer.argtypes = [ctypes.c_char_p, ctypes.c_size_t, Params]
    library.gguf_free.argtypes = [ctypes.c_void_p]

    def accepts(data: bytes) -> bool:
        context = library.gguf_init_from_buffer(data, len(data), Params(True, None))
        if context:
            library.gguf_free(context)
        return bool(context)

    yield accepts
    library.ggml_log_set(log_type(), None)
    del silent


def has_gaps(header) -> bool:
    """Whether more than padding lies between two tensors, or in front of the first."""
    ends = [header.end, *(tensor.end for tensor in header.tensors)]
    padded = [-(-end // header.alignment) * header.alignment for end in ends]
    return any(t.start != start for t, start in zip(header.tensors, padded))


@pytest.mark.peer
def test_nothing_is_accepted_that_ggml_refuses(ggml):
    both = 0

    @RUNS
    @given(files())
    def run(data):
        nonlocal both
        try:
            header = parse(data)
        except GGUFError:
            return
        if has_gaps(header):
            return  # files in circulation have them, and ggml's own parser refuses them
        assert ggml(data)
        both += 1

    run()
    assert both > 30


@pytest.mark.peer
def test_where_ggml_is_laxer(ggml):
    """What we refuse and ggml's header parser takes, in classes; anything else would be news."""
    classes = {
        "tensor data past the end of the file": r"tensor .* bytes at offset .* left in the file",
        "text that is not UTF-8": r"expected UTF-8",
        "names that are empty or cannot be printed": r"expected a name of printable characters",
        "dimensions of zero length": r"expected dimensions of at least 1",
        "tensors without dimensions": r"expected 1 to 4 dimensions, found 0",
        "alignments below 8 or above 1 MiB": r"expected a power of two",
        "bools other than 0 and 1": r"expected (a bool|bools), 0 or 1",
        "types that this reader cannot size": r"expected a tensor type that can be read",
        "keys above 65535 bytes": r"expected at most 65535 bytes",
    }
    seen = set()
    for name, data in BAD.items():
        if not ggml(data):
            continue
        with pytest.raises(GGUFError) as caught:
            parse(data)
        hits = [c for c, pattern in classes.items() if re.search(pattern, str(caught.value))]
        assert len(hits) == 1, (name, caught.value)
        seen.update(hits)
    assert seen == set(classes)


@pytest.mark.peer
def test_block_sizes_are_ggmls(library):
    library.ggml_type_size.restype = ctypes.c_size_t
    library.ggml_blck_size.restype = ctypes.c_int64
    for fmt in BY_ID.values():
        assert library.ggml_type_size(fmt.type_id) == fmt.block_bytes, fmt.name
        assert library.ggml_blck_size(fmt.type_id) == fmt.block_len, fmt.name
