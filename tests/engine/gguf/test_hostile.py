"""Files made to break parsers: one error type, at once, without memory; nothing else, ever."""

from __future__ import annotations

import tracemalloc

import pytest

from engine.errors import GGUFError
from engine.gguf.parse import parse
from engine.gguf.reader import open_gguf
from tests.counting import lines_run
from tests.engine.gguf.corpus import BAD, ODD, valid_files
from tests.engine.gguf.oracle import check_accepted


def lines_allowed(n_bytes: int) -> int:
    """Lines of Python that opening a file may run: some for any file, three for each byte.

    336 is what the emptiest legal file takes; a key of 17 bytes takes 38 lines.
    """
    return 500 + 3 * n_bytes


def test_the_corpus_is_large_enough():
    assert len(BAD) >= 120


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused_at_once(name, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(BAD[name])

    def refuse():
        with pytest.raises(GGUFError) as caught:
            open_gguf(path)
        message = str(caught.value)
        assert message.startswith(str(path)) and ": expected " in message and ", found " in message
        assert message.isprintable()

    refuse()  # what is imported on first use is not counted below
    assert lines_run(refuse) <= lines_allowed(len(BAD[name]))


def test_refusing_allocates_no_more_than_the_file_holds():
    for name, data in BAD.items():
        tracemalloc.start()
        with pytest.raises(GGUFError):
            parse(data)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Offsets of strings and one decoded string; 256 KiB covers the first use of modules.
        assert peak <= 262_144 + 4 * len(data), (name, peak)


@pytest.mark.parametrize("name", ODD)
def test_odd_but_legal_file_is_read(name, tmp_path):
    path = tmp_path / "odd.gguf"
    path.write_bytes(ODD[name])

    open_gguf(path).close()

    check_accepted(parse(ODD[name]), len(ODD[name]))
    assert lines_run(lambda: open_gguf(path).close()) <= lines_allowed(len(ODD[name]))


@pytest.mark.parametrize("name", valid_files())
def test_truncation_at_every_byte(name):
    data = valid_files()[name]
    header = parse(data)
    needed = max((info.end for info in header.tensors), default=header.end)

    for n in range(len(data)):
        try:
            cut = parse(data[:n])
        except GGUFError:
            assert n < needed, f"refused with all {needed} bytes there: {n}"
        else:
            assert n >= needed, f"accepted {n} of {needed} bytes"
            check_accepted(cut, n)


@pytest.mark.parametrize("name", valid_files())
def test_every_bit_flip(name):
    data = bytearray(valid_files()[name])
    refused = 0
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        try:
            header = parse(data)
        except GGUFError:
            refused += 1
        else:
            check_accepted(header, len(data))
        data[bit // 8] ^= 1 << bit % 8

    # Magic, version, counts and lengths alone are more bits than this.
    assert refused > 200


def test_every_byte_replaced_by_an_edge_value():
    for data in valid_files().values():
        for i in range(len(data)):
            for value in (0, 1, 0x7F, 0x80, 0xFF):
                changed = data[:i] + bytes([value]) + data[i + 1 :]
                try:
                    header = parse(changed)
                except GGUFError:
                    continue
                check_accepted(header, len(changed))
