"""The reader against the `gguf` package on good files, and against things that are no files."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import gguf
import numpy as np
import pytest

from engine.errors import GGUFError
from engine.gguf.parse import parse
from engine.gguf.reader import open_gguf
from engine.gguf.values import escape
from engine.quant.formats import BY_ID, BY_NAME
from tests.counting import lines_run
from tests.engine.gguf.build import write_mtp, write_trunk
from tests.engine.gguf.corpus import valid_files


@pytest.fixture
def trunk(tmp_path):
    return write_trunk(tmp_path / "m.gguf", matrix="Q8_0", tokens=["<s>", "grüß", "a b"])


def test_format_table_agrees_with_the_gguf_package():
    for fmt in BY_ID.values():
        kind = gguf.GGMLQuantizationType(fmt.type_id)
        assert kind.name == fmt.name
        if fmt.name == "Q8_1":
            continue  # the package says 40; test_fields.py asks ggml, whose block has 36
        assert gguf.GGML_QUANT_SIZES[kind] == (fmt.block_len, fmt.block_bytes)


def test_agrees_with_the_gguf_reader(trunk):
    theirs = gguf.GGUFReader(trunk)
    with open_gguf(trunk) as ours:
        assert list(ours.tensors) == [t.name for t in theirs.tensors]
        for other in theirs.tensors:
            tensor = ours.tensors[other.name]
            assert tensor.format.name == other.tensor_type.name
            assert tensor.shape == tuple(reversed(other.shape.tolist()))
            assert tensor.data.tobytes() == other.data.tobytes()
            assert not tensor.data.flags.writeable
            # The file's 32-byte alignment on a page-aligned mapping.
            assert tensor.data.ctypes.data % 32 == 0
        names = {k for k in theirs.fields if not k.startswith("GGUF.")}
        assert set(ours.metadata) == names
        for key in names:
            expected = theirs.fields[key].contents()
            found = ours.metadata[key]
            if isinstance(expected, list):
                found = [v.item() if isinstance(v, np.generic) else v for v in found]
            assert found == expected, key


def test_every_value_type_is_read():
    scalars = parse(valid_files()["scalars"])
    arrays = parse(valid_files()["arrays"])

    assert scalars.values["k.i8"] == -1 and scalars.values["k.i16"] == -2
    assert scalars.values["k.i32"] == -1 and scalars.values["k.u64"] == 2**63
    assert scalars.values["k.bool"] is True and scalars.values["k.str"] == "grüß"
    assert scalars.values["k.f32"] == 0.5 and scalars.values["k.f64"] == 0.25
    assert arrays.values["a.i32"].tolist() == [-1, 0, 1]
    assert arrays.values["a.bool"].tolist() == [False, True]
    assert arrays.types["a.str"] == "str[]"
    strings = arrays.values["a.str"]
    assert (list(strings), strings[-1], strings[0:2]) == (["", "a", "ö"], "ö", ["", "a"])
    with pytest.raises(IndexError):
        strings[3]


def test_views_outlive_close(trunk):
    with open_gguf(trunk) as file:
        tensor = file.tensors["output.weight"]
        tokens = file.metadata.get_strings("tokenizer.ggml.tokens")
        expected = bytes(tensor.data)
    assert file.closed and not file.tensors and len(file.metadata) == 0

    assert bytes(tensor.data) == expected
    assert list(tokens) == ["<s>", "grüß", "a b"]


def test_mapping_ends_with_its_last_view(trunk):
    def mapped() -> bool:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return any(str(trunk) in line for line in maps)

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("no /proc")
    with open_gguf(trunk):
        assert mapped()
    assert not mapped()


def test_a_vocabulary_of_152000_tokens_is_cheap(tmp_path):
    """A few lines of Python per string, bytes that are not copied, and nothing heavy imported."""
    path = tmp_path / "vocab.gguf"
    writer = gguf.GGUFWriter(path, "deepseek4")
    writer.add_token_list([f"{'tök' if i % 5 else 'ab'}{i}" for i in range(152_000)])
    writer.add_token_types([1] * 152_000)
    writer.add_token_scores([0.0] * 152_000)
    writer.add_token_merges([f"a{i} b{i}" for i in range(151_000)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    code = (
        "import sys, psutil\n"
        "from engine.gguf.reader import open_gguf\n"
        "rss = psutil.Process().memory_info().rss\n"
        "file = open_gguf(sys.argv[1])\n"
        "grown = psutil.Process().memory_info().rss - rss\n"
        "assert len(file.metadata.get_strings('tokenizer.ggml.tokens')) == 152000\n"
        "print(grown, 'numba' in sys.modules)\n"
    )

    out = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    grown, numba = out.stdout.split()
    assert int(grown) <= 60e6
    assert numba == "False"
    # 303 000 strings, read by a loop of seven lines each.
    assert lines_run(lambda: open_gguf(path)) <= 303_000 * 8


def refuse(path) -> str:
    with pytest.raises(GGUFError) as caught:
        open_gguf(path)
    return str(caught.value)


def test_opening_waits_for_nobody(tmp_path, monkeypatch):
    """A FIFO without a writer would block an ordinary open for ever."""
    from engine.gguf import reader

    asked = []
    monkeypatch.setattr(reader.os, "open", lambda path, flags: asked.append(flags) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_gguf(tmp_path / "m.gguf")
    assert asked[0] & os.O_NONBLOCK


def test_things_that_are_no_regular_files(tmp_path):
    fifo = tmp_path / "fifo.gguf"
    os.mkfifo(fifo)
    dangling = tmp_path / "dangling.gguf"
    dangling.symlink_to(tmp_path / "nowhere")
    loop = tmp_path / "loop.gguf"
    loop.symlink_to(loop)
    empty = tmp_path / "empty.gguf"
    empty.touch()

    assert "found a FIFO" in refuse(fifo)
    assert "found a directory" in refuse(tmp_path)
    assert "found a character device" in refuse("/dev/zero")
    assert "found a character device" in refuse("/dev/null")
    assert "no such file" in refuse(tmp_path / "missing.gguf")
    assert "no such file" in refuse(dangling)
    assert "symbolic links" in refuse(loop)
    assert "found 0 bytes" in refuse(empty)
    assert "null byte" in refuse("a\0b")
    assert "name too long" in refuse(tmp_path / ("n" * 300))


def test_sockets_and_block_devices_are_named(tmp_path, monkeypatch):
    import stat

    from engine.files.regular import kind_of

    assert kind_of(stat.S_IFBLK) == "a block device"
    assert kind_of(stat.S_IFSOCK) == "a socket"
    assert kind_of(0) == "a special file"
    monkeypatch.chdir(tmp_path)  # a socket's path may have only 108 bytes
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("s.gguf")
        refuse("s.gguf")


def test_unreadable_file(trunk, monkeypatch):
    trunk.chmod(0)
    if os.geteuid() == 0:  # root reads everything, so the answer of open is made up

        def deny(*args):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", deny)

    assert "permission denied" in refuse(trunk)


def test_symlink_to_a_model_is_followed(trunk, tmp_path):
    link = tmp_path / "link.gguf"
    link.symlink_to(trunk)

    with open_gguf(link) as file:
        assert "output.weight" in file.tensors


def test_file_that_cannot_be_mapped(trunk, monkeypatch):
    from engine.gguf import reader

    def refuse_map(*args, **kwargs):
        raise OSError("cannot allocate memory")

    monkeypatch.setattr(reader.mmap, "mmap", refuse_map)

    assert "cannot allocate memory" in refuse(trunk)


def test_control_characters_are_escaped_in_messages(tmp_path):
    path = tmp_path / "\x1b]0;owned\x07.gguf"
    path.write_bytes(b"no model" * 8)

    message = refuse(path)

    assert message.isprintable() and "\\x1b]0;owned\\x07.gguf" in message
    assert escape("a\u202eb\nc") == "a\\u202eb\\nc"


def test_sparse_file_larger_than_memory_is_refused_at_once(trunk, tmp_path):
    big = tmp_path / "big.gguf"
    with open(big, "wb") as file:
        file.truncate(1 << 42)

    assert "magic" in refuse(big)


def test_both_layouts_open(tmp_path):
    for kind in ("antirez", "llama"):
        for write in (write_trunk, write_mtp):
            with open_gguf(write(tmp_path / "m.gguf", kind=kind)) as file:
                assert file.tensors and file.version == 3 and file.alignment == 32
    assert BY_NAME["F32"].native
