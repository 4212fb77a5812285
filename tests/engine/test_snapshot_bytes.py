"""The snapshot's byte count against ds4's published `kvcache_bytes`, and our own against it."""

from __future__ import annotations

import pytest

from engine.cache.snapshot import snapshot_bytes
from engine.models.shapes import flash


# ds4 speed-bench CSVs, the same on GB10, M2 Ultra and M4 Max.
@pytest.mark.parametrize(
    ("n_tokens", "published"), [(2048, 52_184_460), (65536, 926_033_292), (4096, 80_373_132)]
)
def test_flash_snapshot_has_the_published_size(n_tokens, published):
    assert snapshot_bytes(flash(), n_tokens) == published


def test_flash_snapshot_is_affine_in_whole_windows():
    for n_tokens in range(128, 20_000, 128):
        assert snapshot_bytes(flash(), n_tokens) == 23_995_788 + 13_764 * n_tokens
