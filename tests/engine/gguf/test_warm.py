"""Warming a file reads all of it, and stops at its end."""

from __future__ import annotations

import io

import pytest

from engine.gguf import warm


@pytest.mark.parametrize("size", [0, 63, 64, 1000])
def test_reading_through_a_file_reads_every_byte(tmp_path, monkeypatch, size):
    (tmp_path / "a").write_bytes(bytes(size))
    counts = []

    class Counting(io.FileIO):
        def readinto(self, buffer):
            counts.append(super().readinto(buffer))
            return counts[-1]

    monkeypatch.setattr(
        warm, "open", lambda path, mode, buffering: Counting(path, mode), raising=False
    )
    assert warm.read_through(tmp_path / "a", chunk=64) == size
    assert sum(counts) == size and counts[-1] == 0, "up to the end of the file"
