"""Identity of a file: what it hashes, and that any change of the file is seen."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess

import pytest

from engine.errors import GGUFError
from engine.gguf import identity, remembered
from engine.gguf.reader import open_gguf
from tests.engine.gguf.build import write_trunk
from tests.engine.gguf.corpus import valid_files


@pytest.fixture
def path(tmp_path):
    return write_trunk(tmp_path / "m.gguf")


def identify(path):
    with open_gguf(path) as file:
        return file.identity


def test_identity_is_the_stat_and_the_hashes(path):
    data, info = path.read_bytes(), os.stat(path)
    found = identify(path)

    assert found.key == (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    assert found.sha256() == hashlib.sha256(data).hexdigest()
    assert any(
        hashlib.sha256(data[:n]).hexdigest() == found.header_sha256 for n in range(len(data))
    )
    assert found.unchanged()


def test_weights_do_not_touch_the_header_hash_but_metadata_does(tmp_path):
    path = tmp_path / "m.gguf"
    data = valid_files()["scalars"]
    path.write_bytes(data)
    first = identify(path)
    path.write_bytes(data[:-1] + b"\x77")
    weights = identify(path)
    path.write_bytes(data.replace(b"deepseek4", b"deepseek5"))
    metadata = identify(path)

    assert first.header_sha256 == weights.header_sha256 != metadata.header_sha256
    assert len({first.sha256() if first.unchanged() else "", metadata.sha256()}) == 2


@pytest.mark.parametrize("change", ["touch", "append", "truncate", "replace", "delete"])
def test_changes_are_seen(path, change):
    found = identify(path)
    if change == "touch":
        os.utime(path, ns=(1, 1))
    elif change == "append":
        with open(path, "ab") as file:
            file.write(b"x")
    elif change == "truncate":
        os.truncate(path, 100)
    elif change == "replace":
        other = path.with_name("other")
        other.write_bytes(path.read_bytes())
        os.utime(other, ns=(found.mtime_ns, found.mtime_ns))
        os.replace(other, path)
    else:
        path.unlink()

    assert not found.unchanged()
    with pytest.raises(GGUFError, match="changed"):
        found.sha256()


def test_whole_file_is_hashed_once(path, monkeypatch):
    found = identify(path)
    expected = found.sha256()
    monkeypatch.setattr("builtins.open", None)

    assert identify_again(found).sha256() == expected


def identify_again(found):
    return identity.FileIdentity(
        found.path, found.size, found.mtime_ns, found.dev, found.ino, found.header_sha256
    )


def test_a_file_that_changes_while_it_is_hashed(path, monkeypatch):
    found = identify(path)
    answers = iter([True, False])
    monkeypatch.setattr(identity.FileIdentity, "unchanged", lambda self: next(answers))

    with pytest.raises(GGUFError, match="changed"):
        found.sha256()


def test_a_file_that_cannot_be_read_any_more(path, monkeypatch):
    def fail(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    found = identify(path)
    monkeypatch.setattr("builtins.open", fail)

    with pytest.raises(GGUFError, match="Permission denied"):
        found.sha256()


@pytest.fixture
def pair(tmp_path):
    """A file of 200 MiB, mostly holes, and a maker of twins that differ in one byte."""
    path = write_standin(tmp_path / "a.gguf", tensors=40, size=5 << 20)

    def other(tensor, at):
        copy = path.with_name("b.gguf")
        copy.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", path, copy], check=True)
        start, end = identify(path).spans[tensor]
        with open(copy, "r+b") as file:
            file.seek(start + at if at >= 0 else end + at)
            file.write(b"\x77")
        return identify(copy)

    return identify(path), other


def write_standin(path, tensors, size, name="t"):
    """A file of F32 tensors that are holes; the header is written by hand, from the format."""
    header = b"GGUF" + struct.pack("<IQQ", 3, tensors, 0)
    for i in range(tensors):
        text = f"{name}{i}".encode()
        header += struct.pack("<Q", len(text)) + text
        header += struct.pack("<IQIQ", 1, size // 4, 0, i * size)
    path.write_bytes(header)
    os.truncate(path, -len(header) % 32 + len(header) + tensors * size)
    return path


@pytest.mark.parametrize("at", [0, (5 << 20) // 2, -1])
@pytest.mark.parametrize("tensor", [0, 17, 39])
def test_start_middle_and_end_of_every_tensor_are_part_of_the_identity(pair, tensor, at):
    ours, other = pair
    theirs = other(tensor, at)
    assert ours.header_sha256 == theirs.header_sha256
    assert ours.sampled_sha256() != theirs.sampled_sha256()


def test_between_the_pieces_a_large_file_is_not_read(pair):
    ours, other = pair
    assert ours.sampled_sha256() == other(3, 1 << 20).sampled_sha256()


def test_small_files_are_read_whole(tmp_path):
    path = write_standin(tmp_path / "a.gguf", tensors=3, size=4 << 20)
    ours = identify(path)
    first = ours.sampled_sha256()
    with open(path, "r+b") as file:
        file.seek(ours.spans[1][0] + (1 << 20))
        file.write(b"\x77")
    assert identify(path).sampled_sha256() != first


def test_identity_follows_the_header_too(tmp_path):
    names = [write_standin(tmp_path / f"{n}.gguf", 2, 1 << 10, n) for n in "ab"]
    assert len({identify(path).sampled_sha256() for path in names}) == 2


def test_cost_of_the_identity_of_a_published_trunk(tmp_path, monkeypatch):
    """1,328 tensors: 15 MB at most, each piece in one read, and nothing at the second time."""
    path = write_standin(tmp_path / "a.gguf", tensors=1328, size=1 << 20)
    read, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: read.append(n) or pread(fd, n, at))
    first = identify(path).sampled_sha256()

    assert len(read) == 3 * 1328 and sum(read) <= 15_000_000
    assert identify(path).sampled_sha256() == first and len(read) == 3 * 1328
    identity._SAMPLED.clear()  # another process: the user's cache knows it
    assert identify(path).sampled_sha256() == first and len(read) == 3 * 1328


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"stamp": 1}', b'{"facts": 7}', None])
def test_a_damaged_cache_is_as_good_as_none(tmp_path, damage):
    path = write_standin(tmp_path / "a.gguf", tensors=3, size=100 << 20)
    expected = identify(path).sampled_sha256()
    [entry] = remembered.folder().iterdir()
    if damage is None:
        entry.unlink()
        entry.mkdir()
    else:
        entry.write_bytes(damage)
    identity._SAMPLED.clear()
    assert identify(path).sampled_sha256() == expected


def test_the_cache_forgets_a_file_that_was_written_since(tmp_path):
    path = write_standin(tmp_path / "a.gguf", tensors=3, size=100 << 20)
    first = identify(path)
    before = first.sampled_sha256()
    with open(path, "r+b") as file:
        file.seek(first.spans[0][0])
        file.write(b"\x77")
    os.utime(path, ns=(first.mtime_ns, first.mtime_ns))  # as a careless copy does
    assert identify(path).sampled_sha256() != before


def test_an_identity_outlives_its_file(path):
    found = identify(path)
    first = found.sampled_sha256()
    path.unlink()
    assert found.sampled_sha256() == first


def test_a_file_that_changed_has_no_identity(path):
    found = identify(path)
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(GGUFError, match="changed"):
        found.sampled_sha256()
