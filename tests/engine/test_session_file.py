"""Session files: whose they are, what is read of them first, and that no turn is lost."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import struct
import threading

import numpy as np
import pytest

from engine.cache import session_file
from engine.cache.session_file import (
    SessionIdentity,
    new_identity,
    read_session,
    write_session,
)
from engine.cache.snapshot import HEADER_WORDS, MAGIC, VERSION, Snapshot
from engine.engine import open_engine
from engine.errors import SnapshotError
from engine.gguf.reader import open_gguf
from engine.options import EngineOptions
from tests.engine.gguf.build import write_trunk
from tests.twins import bundled_copy, twin

BLOCK = struct.pack(f"<{HEADER_WORDS}I", MAGIC, VERSION, *[1] * (HEADER_WORDS - 2)) + b"rows"
SNAPSHOT = Snapshot(memoryview(BLOCK), "official")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    with open_gguf(write_trunk(tmp_path_factory.mktemp("model") / "m.gguf")) as file:
        return file.identity


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.session"


def assemble(trailer, block=BLOCK):
    """A session file by the layout that the module documents, with any trailer."""
    raw = trailer if isinstance(trailer, bytes) else json.dumps(trailer).encode()
    body = block + raw + struct.pack("<QI", len(block), len(raw))
    return body + hashlib.sha256(body).digest() + b"DS4SESS1"


def assemble_with(owner, values, **changes):
    """A session file of format 3; `changes` are of what its trailer says of the outputs."""
    said = {"layers": [1, 3], "rows": 2, "n_hc": 2, "n_embd": 3, **changes}
    raw = json.dumps(trailer_of(owner, format=3, outputs=said)).encode()
    body = BLOCK + np.asarray(values, "<f4").tobytes() + raw
    body += struct.pack("<QI", len(BLOCK), len(raw))
    return body + hashlib.sha256(body).digest() + b"DS4SESS1"


def trailer_of(owner, **changes):
    return {"format": 2, "title": "t", "created": 1.5, "id": "ab", "kv": "official",
            "model": owner.sampled_sha256(), "header": owner.header_sha256, **changes}  # fmt: skip


def test_what_is_written_is_the_documented_layout(path, model):
    identity = new_identity("first – title")
    digest = write_session(path, SNAPSHOT, identity, model)

    data = path.read_bytes()
    assert data == assemble(
        trailer_of(model, title=identity.title, created=identity.created, id=identity.id)
    )
    found = read_session(path, model)
    assert (bytes(found.snapshot.data), found.snapshot.kv) == (BLOCK, "official")
    assert (found.identity, found.digest, found.header_only) == (identity, digest, False)
    assert os.listdir(path.parent) == [path.name]


VALUES = np.arange(24, dtype=np.float32)


def test_outputs_stand_between_snapshot_and_trailer(path, model):
    kept = dict(zip((1, 3), VALUES.reshape(2, 2, 2, 3)))
    identity = SessionIdentity("t", 1.5, "ab")
    write_session(path, dataclasses.replace(SNAPSHOT, outputs=kept), identity, model)
    assert path.read_bytes() == assemble_with(model, VALUES)
    found = read_session(path, model).snapshot
    assert bytes(found.data) == BLOCK and sorted(found.outputs) == [1, 3]
    for layer, values in kept.items():
        np.testing.assert_array_equal(found.outputs[layer], values)
    # One row serves no drafter: such a session is one that earlier releases read, too.
    alone = {1: VALUES[:6].reshape(1, 2, 3)}
    write_session(path, dataclasses.replace(SNAPSHOT, outputs=alone), identity, model, new=False,
                  seen=read_session(path, model).digest)  # fmt: skip
    assert path.read_bytes() == assemble(trailer_of(model))


@pytest.mark.parametrize(
    ("values", "changes", "message"),
    [
        (VALUES, {"rows": 3}, "expected sizes that add up"),
        (VALUES[:-1], {}, "expected sizes that add up"),
        (VALUES, {"layers": [3, 1]}, "readable trailer, found outputs of layers"),
        (VALUES, {"layers": [1, 1]}, "readable trailer, found outputs of layers"),
        (VALUES, {"layers": [-1, 1]}, "readable trailer, found outputs of layers"),
        (VALUES, {"layers": []}, "readable trailer, found outputs of layers"),
        (VALUES, {"layers": [True, 3]}, "readable trailer, found outputs of layers"),
        (VALUES, {"layers": "13"}, "readable trailer, found outputs of layers"),
        (VALUES, {"rows": 0}, "readable trailer, found outputs with rows 0"),
        (VALUES, {"n_hc": 2.0}, "readable trailer, found outputs with n_hc 2.0"),
        (VALUES, {"n_embd": 1 << 40}, "readable trailer, found outputs with n_embd"),
        (np.full(24, np.nan), {}, "expected finite outputs"),
    ],
)
def test_outputs_that_are_refused(path, model, values, changes, message):
    path.write_bytes(assemble_with(model, values, **changes))
    with pytest.raises(SnapshotError, match=message):
        read_session(path, model)


def test_a_changed_byte_of_outputs_is_seen(path, model):
    data = bytearray(assemble_with(model, VALUES))
    data[len(BLOCK) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(SnapshotError, match="expected an intact file"):
        read_session(path, model)


def test_a_session_of_an_earlier_release_is_read_and_called_header_only(path, model):
    old = {"format": 1, "title": "t", "created": 1.5, "id": "ab", "kv": "official"}
    path.write_bytes(assemble({**old, "model": model.header_sha256}))
    found = read_session(path, model)
    assert found.header_only and found.identity.id == "ab"

    path.write_bytes(assemble({**old, "model": "cd" * 32}))
    with pytest.raises(SnapshotError, match=r"this model \(header only .*header only cdcdcdcdcdcd"):
        read_session(path, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 4}, "expected a session of format 1 to 3, found format 4"),
        ({"format": True}, "found format True"),
        ({"format": None}, "found format None"),
        ({"created": "soon"}, "readable trailer"),
        ({"created": float("nan")}, "readable trailer, found created nan"),
        ({"model": "ef" * 32}, "found one of efefefefefef, which has the same header and other"),
        ({"model": "ef" * 32, "header": "00"}, "found one of efefefefefef$"),
    ],
)
def test_trailers_that_are_refused(path, model, changes, message):
    path.write_bytes(assemble(trailer_of(model, **changes)))
    with pytest.raises(SnapshotError, match=message):
        read_session(path, model)


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"[" * 60_000, b"\xff", b"{}"])
def test_trailers_that_are_no_trailer(path, model, raw):
    path.write_bytes(assemble(raw))
    with pytest.raises(SnapshotError, match="readable trailer"):
        read_session(path, model)


def test_the_end_is_looked_at_before_the_rest(path, model, monkeypatch):
    """A file of another model is refused without memory for its rows."""
    path.write_bytes(assemble(trailer_of(model, model="ef" * 32)))
    monkeypatch.setattr(session_file, "_read_snapshot", None)
    with pytest.raises(SnapshotError, match="efefefefefef"):
        read_session(path, model)
    # 1 TiB of holes, and no session.
    os.truncate(path, 1 << 40)
    with pytest.raises(SnapshotError, match="expected a session file, found 1099511627776 other"):
        read_session(path, model)


def test_what_is_no_file_does_not_block(path, model):
    os.mkfifo(path)
    with pytest.raises(SnapshotError, match="not a regular file"):
        read_session(path, model)
    with pytest.raises(SnapshotError, match="cannot be read: No such file"):
        read_session(path.with_name("none"), model)


def test_a_session_that_another_program_continued_is_not_overwritten(path, model):
    seen = write_session(path, SNAPSHOT, new_identity("one"), model)
    theirs = write_session(path, SNAPSHOT, new_identity("theirs"), model, seen=seen)
    kept = path.read_bytes()

    with pytest.raises(SnapshotError, match=r"last saw, found one .* saved as a\.session\.2$"):
        write_session(path, SNAPSHOT, new_identity("ours"), model, seen=seen)
    with pytest.raises(SnapshotError, match=r"was to make, found one .* saved as a\.session\.3$"):
        write_session(path, SNAPSHOT, new_identity("new"), model, new=True)

    assert path.read_bytes() == kept
    titles = [read_session(p, model).identity.title for p in sorted(path.parent.iterdir())]
    assert titles == ["theirs", "ours", "new"]
    write_session(path, SNAPSHOT, new_identity("next"), model, seen=theirs)
    assert read_session(path, model).identity.title == "next"


def test_a_file_that_is_no_session_is_not_overwritten_either(path, model):
    seen = write_session(path, SNAPSHOT, new_identity("one"), model)
    path.write_bytes(b"notes")
    with pytest.raises(SnapshotError, match=r"saved as a\.session\.2"):
        write_session(path, SNAPSHOT, new_identity("ours"), model, seen=seen)
    assert path.read_bytes() == b"notes"


def test_writers_wait_for_one_another(path, model, monkeypatch):
    monkeypatch.setattr(session_file, "_LOCK_WAIT_S", 0.05)
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(SnapshotError, match="only writer of sessions in its folder"):
        write_session(path, SNAPSHOT, new_identity("one"), model)
    assert not path.exists()
    monkeypatch.setattr(session_file, "_LOCK_WAIT_S", 60.0)
    writer = threading.Thread(
        target=write_session, args=(path, SNAPSHOT, new_identity("two"), model)
    )
    writer.start()
    os.close(folder)
    writer.join()
    assert read_session(path, model).identity.title == "two"


def test_a_file_system_without_locks(path, model, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    seen = write_session(path, SNAPSHOT, new_identity("one"), model)
    path.write_bytes(b"notes")
    with pytest.raises(SnapshotError, match=r"saved as a\.session\.2"):
        write_session(path, SNAPSHOT, new_identity("ours"), model, seen=seen)


def test_the_folder_is_synced_behind_the_rename(path, model, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(os.path.isdir(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), replace(*a)))
    write_session(path, SNAPSHOT, new_identity("one"), model)
    assert calls == [False, "rename", True]


def test_a_leftover_of_a_killed_process_and_a_long_title(path, model):
    leftover = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    leftover.write_bytes(b"half")
    longest = new_identity("\U0001f600" * session_file.MAX_TITLE)
    write_session(path, SNAPSHOT, longest, model)
    assert read_session(path, model).identity == longest and not leftover.exists()
    with pytest.raises(SnapshotError, match="title: expected at most 4096 characters, found 4097"):
        new_identity("x" * 4097)


def test_a_session_is_saved_whatever_became_of_the_model_file(tmp_path):
    path = bundled_copy(tmp_path)
    with open_engine(EngineOptions(path)) as engine:
        session = engine.session(64)
        session.sync([5, 6, 7])
        path.unlink()
        session.save_file(tmp_path / "a.session", "kept")
        assert engine.load_session(tmp_path / "a.session").tokens == [5, 6, 7]


def test_sessions_of_models_with_equal_headers_are_told_apart(tmp_path):
    ours = bundled_copy(tmp_path)
    theirs = twin(ours)
    path = tmp_path / "a.session"
    with open_engine(EngineOptions(ours)) as engine:
        session = engine.session(64)
        session.sync([5, 6, 7])
        session.save_file(path, "ours")
        names = [engine.identity.sampled_sha256()[:12]]
        assert engine.facts()["model_sampled_sha256"] == engine.identity.sampled_sha256()
        header = engine.identity.header_sha256
    with open_engine(EngineOptions(theirs)) as other:
        assert other.identity.header_sha256 == header
        names.insert(0, other.identity.sampled_sha256()[:12])
        with pytest.raises(
            SnapshotError, match=r"\({}\), found one of {}, .* same he".format(*names)
        ):
            other.load_session(path)

        # An earlier release knew no better; the user hears of it.
        saved = read_session(path, dataclasses.replace(engine.identity))
        old = {"format": 1, **dataclasses.asdict(saved.identity), "kv": "official"}
        path.write_bytes(assemble({**old, "model": header}, bytes(saved.snapshot.data)))
        session = other.load_session(path)
        [notice] = session.place.notices
        assert "header only" in notice and session.tokens == [5, 6, 7]
        session.save_file(path)
        assert not read_session(path, other.identity).header_only
