"""The fuzz target itself: it runs over its seeds, and it notices a parser that is broken."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.gguf.corpus import valid_files
from tests.fuzz import fuzz_gguf


def test_seeds_pass(tmp_path):
    fuzz_gguf.write_seeds(tmp_path)
    seeds = list(tmp_path.iterdir())

    assert len(seeds) >= 120
    for seed in seeds:
        fuzz_gguf.one_input(seed.read_bytes())


def test_importing_the_target_needs_no_atheris():
    code = "import sys; import tests.fuzz.fuzz_gguf; assert 'atheris' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("broken", ["overlap", "outside", "exception"])
def test_a_broken_parser_is_found(monkeypatch, broken):
    from engine.gguf import parse

    sound = parse.parse

    def worse(data):
        if broken == "exception":
            raise IndexError("not a GGUFError")
        header = sound(data)
        shift = -32 if broken == "overlap" else 1 << 20
        moved = [
            dataclasses.replace(info, start=info.start + shift, end=info.end + shift)
            for info in header.tensors
        ]
        return dataclasses.replace(header, tensors=tuple(moved))

    monkeypatch.setattr(parse, "parse", worse)

    with pytest.raises((AssertionError, IndexError)):
        fuzz_gguf.one_input(valid_files()["arrays"])


def test_dictionary_is_libfuzzers_form(tmp_path):
    path = Path(tmp_path, "words")
    fuzz_gguf.write_dictionary(path)

    lines = path.read_text().splitlines()
    assert len(lines) == len(fuzz_gguf.WORDS)
    assert lines[0] == '"\\x47\\x47\\x55\\x46"'
