"""What must hold of every file that the parser accepts, whatever the bytes were."""

from __future__ import annotations

import math

import gguf


def check_accepted(header, size: int) -> None:
    """Every tensor inside the file, aligned, disjoint and as long as its type and shape say."""
    assert header.version in (2, 3)
    assert header.alignment & (header.alignment - 1) == 0
    assert header.end <= size
    assert len({info.name for info in header.tensors}) == len(header.tensors)
    before = header.end
    for info in header.tensors:
        kind = gguf.GGMLQuantizationType(info.format.type_id)
        # The package says 40 bytes for Q8_1, ggml (whose size a peer test asks for) 36.
        sizes = gguf.GGML_QUANT_SIZES[kind] if kind.name != "Q8_1" else (32, 36)
        block_len, block_bytes = sizes
        assert all(n >= 1 for n in info.shape) and 1 <= len(info.shape) <= 4
        assert info.shape[-1] % block_len == 0
        assert info.start % header.alignment == 0
        assert before <= info.start < info.end <= size
        assert info.end - info.start == math.prod(info.shape) // block_len * block_bytes
        before = info.end
    for value in header.values.values():
        if not isinstance(value, (bool, int, float, str)):
            assert len(list(value)) == len(value)
