"""Every reader takes its own files, and of a damaged one says so with the one kind of error.

The damage is drawn, from a seed: bits, cuts, copies, and JSON values in the place of others. The
coverage-guided fuzzer (`make fuzz`) goes over the same targets for longer.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from engine.errors import EngineError
from tests.fuzz.readers import BY_NAME, READERS, Reader

TRIES = 150
ODD = [
    None, True, -1, 0, 2**63, 2**64, 1e308, -0.5, "", "x" * 600, "\x1b[31m\u202e", "=1+1", [], {},
    [[]], {"a": {"b": []}}, ["x"], [None], "nan", "<b>",
]  # fmt: skip


@pytest.fixture(params=[reader.name for reader in READERS])
def reader(request):
    return BY_NAME[request.param]


def test_a_reader_takes_what_its_writer_wrote(reader):
    assert reader.one_input(reader.seeds()[0])


def test_damage_is_the_one_kind_of_error(reader):
    rng = random.Random(reader.name)
    seeds = reader.seeds()
    for _ in range(TRIES):
        reader.one_input(_damaged(rng, rng.choice(seeds)))


def test_values_in_the_place_of_others_are_the_one_kind_of_error(reader):
    rng = random.Random(reader.name)
    texts = [seed for seed in reader.seeds() if _records(seed)]
    if not texts:
        pytest.skip("not JSON")
    for _ in range(TRIES):
        records = _records(rng.choice(texts))
        assert records
        _place(rng, records[rng.randrange(len(records))], rng.choice(ODD))
        reader.one_input(b"\n".join(json.dumps(record).encode() for record in records))


@pytest.mark.parametrize("data", [b"", b"\0", b"[" * 100_000, b"{" * 10, b"PAR1", b"\xff" * 99])
def test_what_is_no_file_of_ours_is_the_one_kind_of_error(reader, data):
    reader.one_input(data)


@pytest.mark.parametrize(("error", "found"), [(KeyError, True), (EngineError, False)])
def test_any_other_error_is_a_find(error, found):
    def broken(path):
        raise error("x")

    target = Reader("x", "x", broken, list)
    if found:
        with pytest.raises(error):
            target.one_input(b"")
    else:
        assert not target.one_input(b"")


def test_importing_the_targets_needs_no_fuzzer():
    code = "import sys; import tests.fuzz.fuzz_readers; assert 'atheris' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def _records(seed: bytes):
    try:
        return [json.loads(line) for line in seed.split(b"\n")]
    except ValueError:
        try:
            return [json.loads(seed)]
        except ValueError:
            return None


def _place(rng: random.Random, value, odd) -> None:
    """Put `odd` somewhere into a JSON value."""
    while True:
        if isinstance(value, dict) and value:
            key = rng.choice(list(value))
        elif isinstance(value, list) and value:
            key = rng.randrange(len(value))
        else:
            return
        if not isinstance(value[key], (dict, list)) or not value[key] or rng.random() < 0.4:
            value[key] = odd
            return
        value = value[key]


def _damaged(rng: random.Random, seed: bytes) -> bytes:
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:to]
        elif kind == 2:
            data[at:at] = data[at:to]
        elif kind == 3:
            data[at:at] = rng.choice([b"9" * 400, b"-", b"1e999", b"\0", b'"', b"\xff", b"[" * 50])
        elif at < len(data):
            data[at] = rng.randrange(256)
    return bytes(data)
