"""Small files with big insides: refused by one error within two gigabytes of address space.

Each is read in a process of its own whose memory is limited, so that a reader which takes more ends
in another way than with its error.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[3]
READ = """
import resource, sys
from pathlib import Path
from engine.errors import EngineError
import numpy, pandas, pyarrow.parquet, pyarrow.compute  # these take room before it begins
from {module} import {name} as read
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + {most}, size + {most}))
try:
    read(Path(sys.argv[1]))
except EngineError as error:
    print(f"refused: {{error}}")
"""
EXAM, ROWS = ("ds4eval.questions.files", "read_records"), ("ds4bench.records.files", "read_rows")
GIB = 1 << 30


def zeros(n: int) -> bytes:
    """`n` bytes that gzip made small, made without having them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b"a" * (1 << 20)) for _ in range(n >> 20)) + packer.flush()


def repeated(head: bytes, piece: bytes, times: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    many = piece * 100_000
    parts = [packer.compress(head)]
    parts += [packer.compress(many) for _ in range(times // 100_000)]
    return b"".join(parts) + packer.flush()


def table(rows: int, text: str = "x") -> bytes:
    out = io.BytesIO()
    column = pa.DictionaryArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array([text], pa.string())
    )
    pq.write_table(pa.table({"question": column}), out, compression="zstd")
    return out.getvalue()


BOMBS = {
    "field of 600 MiB": (EXAM, lambda: zeros(600 << 20), "at most 512 MiB unpacked"),
    "63 million objects": (EXAM, lambda: repeated(b"[{}", b",{}", 63_000_000), "JSON values"),
    "a million lines and more": (
        EXAM,
        lambda: repeated(b"", b"{}\n", 1_200_000),
        "1000000 records",
    ),
    "lists in lists": (EXAM, lambda: gzip.compress(b"[" * 900_000), "nested too deep"),
    "cells": (EXAM, lambda: repeated(b"a,b,c,d,e,f\n", b",,,,,\n", 1_200_000), "at most"),
    "numbers in one line": (EXAM, lambda: repeated(b'{"a":[1', b",1.5", 12_000_000), "JSON values"),
    "20 million rows": (EXAM, lambda: table(20_000_000), "at most 1000000 rows"),
    "one text in each row": (EXAM, lambda: table(900_000, "y" * 5000), "bytes unpacked"),
    "20 million rows of speed": (ROWS, lambda: table(20_000_000), "at most 2000000 rows"),
    "packed twice": (EXAM, lambda: gzip.compress(zeros(600 << 20)), "at most 512 MiB unpacked"),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory by RLIMIT_AS")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_memory(tmp_path, name):
    (module, reader), make, words = BOMBS[name]
    path = tmp_path / "bomb"
    path.write_bytes(make())
    assert path.stat().st_size < 4 << 20
    code = READ.format(module=module, name=reader, most=2 * GIB)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          timeout=300, cwd=ROOT)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("refused: ") and words in done.stdout, done.stdout


def test_marks_inside_of_texts_are_no_values(tmp_path, monkeypatch):
    from ds4eval.questions import files

    monkeypatch.setattr(files, "MAX_VALUES", 50)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"id": "a", "text": '{[,:"\\' * 100}]))
    assert len(files.read_records(path).records) == 1


def test_a_footer_that_lies_is_stopped_while_rows_are_read(monkeypatch):
    from engine.errors import EngineError
    from engine.tooling.results.columnar import BoundedParquet, Bounds

    data = table(1000, "z" * 2000)
    assert len(list(BoundedParquet(data, Bounds(1000, 3_000_000), "x").rows())) == 1000
    with pytest.raises(EngineError, match="x: expected at most 1000000 bytes unpacked, found more"):
        list(BoundedParquet(data, Bounds(1000, 1_000_000), "x").rows())
    with pytest.raises(EngineError, match="x: expected at most 999 rows, found 1000"):
        BoundedParquet(data, Bounds(999, 3_000_000), "x")
    with pytest.raises(EngineError, match="found a damaged one"):
        BoundedParquet(data[:-9] + bytes(9), Bounds(1000, 3_000_000), "x")
