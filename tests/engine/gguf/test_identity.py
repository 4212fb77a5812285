"""Identity of a file: what it hashes, and that any change of the file is seen."""

from __future__ import annotations

import hashlib
import os

import pytest

from engine.errors import GGUFError
from engine.gguf import identity
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
