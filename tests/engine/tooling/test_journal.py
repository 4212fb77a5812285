"""The journal: nothing acknowledged is lost, whatever is torn, full, foreign or contended."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import StoreError
from engine.tooling.results import journal as module
from engine.tooling.results import locks
from engine.tooling.results.journal import (
    Journal,
    decode,
    encode,
    encode_plain,
    is_journal,
    read_journal,
    scan,
)
from tests.counting import CountedBytes, lines_run

SCHEMA, VERSION = "test.rows", 2
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def opened(path, **header):
    return Journal.open(path, SCHEMA, VERSION, header)


def filled(path, n=3):
    """A closed journal of n records; returns its bytes."""
    with opened(path, made="here") as journal:
        for i in range(n):
            journal.append({"kind": "row", "i": i, "text": "é\n\x00 "})
    return path.read_bytes()


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_line_round_trip_is_one_line_with_standard_crc(record):
    line = encode(record)

    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert int(line[:8], 16) == zlib.crc32(line[9:-1])
    assert json.loads(line[9:]) == record
    assert decode(line[:-1]) == record


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4))
def test_a_plain_line_is_json_with_its_checksum_as_a_field(record):
    line = encode_plain(record)
    crc = (fields := json.loads(line)).pop("crc32")
    if "crc32" not in record:
        assert fields == record
        body = json.dumps(fields, separators=(",", ":")).encode()
        assert int(crc, 16) == zlib.crc32(body)
    assert line.count(b"\n") == 1 and decode(line[:-1]) == record and is_journal(line[:16])
    for at in (12, len(line) // 2, len(line) - 2):
        damaged = line[:at] + bytes([line[at] ^ 1]) + line[at + 1 : -1]
        assert decode(damaged) is None


def test_a_file_keeps_the_form_of_its_first_line(tmp_path):
    for plain in (False, True):
        path = tmp_path / str(plain)
        with Journal.open(path, SCHEMA, VERSION, {}, plain=plain) as journal:
            journal.append({"i": 1})
        with Journal.open(path, SCHEMA, VERSION, {}, plain=not plain) as journal:
            assert journal.records == [{"i": 1}]
            journal.append({"i": 2})
        assert {line[:1] == b"{" for line in path.read_bytes().splitlines()} == {plain}
        assert read_journal(path, SCHEMA, VERSION).records == [{"i": 1}, {"i": 2}]
        path.write_bytes(path.read_bytes() + b'{"crc32":"0000')
        with Journal.open(path, SCHEMA, VERSION, {}) as journal:
            assert len(journal.records) == 2 and journal.moved_aside is not None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_refused(value):
    with pytest.raises(ValueError):
        encode({"x": value})


def test_reopening_gives_header_and_records(tmp_path):
    path = tmp_path / "rows.jsonl"
    filled(path)

    with opened(path) as journal:
        assert journal.header == {"schema": SCHEMA, "version": VERSION, "made": "here"}
        assert [r["i"] for r in journal.records] == [0, 1, 2]
        assert journal.moved_aside is None
    assert read_journal(path, SCHEMA, VERSION).records[2]["text"] == "é\n\x00 "
    assert not locks.owner_path(path).exists()


@pytest.fixture
def no_sync(monkeypatch):
    """For tests of content, not of durability: a busy disk would take most of their time."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_cut_at_every_byte_keeps_whole_lines_and_moves_the_rest(tmp_path, no_sync):
    path = tmp_path / "rows.jsonl"
    whole = filled(path)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for size in range(len(whole) + 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        torn = folder / "rows.jsonl"
        torn.write_bytes(whole[:size])
        good = max([end for end in ends if end <= size], default=0)

        with opened(torn) as journal:
            assert len(journal.records) == max(0, sum(end <= size for end in ends) - 1)
            journal.append({"kind": "row", "i": "after"})

        records, used = scan(torn.read_bytes())
        assert used == torn.stat().st_size
        assert records[-1]["i"] == "after"
        bad = sorted(folder.glob("rows.jsonl.bad-*"))
        assert b"".join(b.read_bytes() for b in bad) == whole[good:size]


def test_every_flipped_byte_is_noticed(tmp_path):
    whole = filled(tmp_path / "rows.jsonl")
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        records, good = scan(bytes(damaged))
        # Everything before the damaged line is kept, nothing from it on.
        assert good <= place
        assert all(r == s for r, s in zip(records, scan(whole)[0]))


def test_zero_filled_tail_is_moved_aside(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = filled(path)
    path.write_bytes(whole + bytes(4096))

    with opened(path) as journal:
        assert len(journal.records) == 3
        assert journal.moved_aside.read_bytes() == bytes(4096)


def test_a_foreign_file_is_not_cut(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"dear diary,\nnothing happened\n")

    with pytest.raises(StoreError, match="expected a journal"):
        opened(path)
    assert path.read_bytes() == b"dear diary,\nnothing happened\n"


@pytest.mark.parametrize(
    ("schema", "version", "pattern"),
    [("other", 1, "schema"), (SCHEMA, 3, "version"), (SCHEMA, True, "version"),
     (SCHEMA, "1", "version"), (SCHEMA, None, "version")],
)  # fmt: skip
def test_other_schema_or_newer_version_is_refused(tmp_path, schema, version, pattern):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(encode({"schema": schema, "version": version}))
    before = path.read_bytes()

    with pytest.raises(StoreError, match=pattern):
        opened(path)
    with pytest.raises(StoreError, match=pattern):
        read_journal(path, SCHEMA, VERSION)
    assert path.read_bytes() == before


def test_second_writer_is_refused_at_once_and_told_who(tmp_path):
    path = tmp_path / "rows.jsonl"
    with opened(path):
        code = (
            "from engine.tooling.results.journal import Journal\nimport sys, pathlib\n"
            f"Journal.open(pathlib.Path(sys.argv[1]), {SCHEMA!r}, {VERSION})"
        )
        # A second writer that waited for the lock would wait for ever.
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 1
        assert f"pid {os.getpid()} on" in done.stderr
    with opened(path) as journal:
        assert journal.header["schema"] == SCHEMA


def test_a_stale_owner_note_does_not_lock(tmp_path):
    path = tmp_path / "rows.jsonl"
    locks.owner_path(path).write_text("{broken")
    assert locks.describe_owner(path) == "a process that left no note"

    with opened(path) as journal:
        journal.append({"i": 1})


def test_fifo_folder_and_closed_journal_are_refused(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(StoreError, match="regular file"):
        opened(fifo)
    with pytest.raises(StoreError):
        opened(tmp_path)
    journal = opened(tmp_path / "rows.jsonl")
    journal.close()
    journal.close()
    with pytest.raises(StoreError, match="closed"):
        journal.append({})


def test_deleting_the_file_under_a_writer_is_noticed(tmp_path):
    path = tmp_path / "rows.jsonl"
    with opened(path) as journal:
        path.unlink()
        with pytest.raises(StoreError, match="deleted"):
            journal.append({"i": 1})


@pytest.mark.parametrize("network", ["nfs4", "cifs", "fuse.sshfs"])
def test_network_file_systems_need_leave(tmp_path, monkeypatch, network):
    monkeypatch.setattr(locks, "file_system", lambda path: network)
    path = tmp_path / "rows.jsonl"

    with pytest.raises(StoreError, match=network):
        opened(path)
    Journal.open(path, SCHEMA, VERSION, allow_network_fs=True).close()


def test_file_system_of_known_mounts():
    assert locks.file_system("/proc/self/status") == "proc"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("short", [0, 1, 20])
@pytest.mark.parametrize("at", range(1, 5))
def test_failed_write_leaves_no_torn_line(tmp_path, monkeypatch, error, short, at):
    """The at-th write stores `short` bytes and fails; earlier records stay, later ones work."""
    path = tmp_path / "rows.jsonl"
    journal = opened(path)
    real = os.write
    calls = 0

    def write(fd, data):
        nonlocal calls
        calls += 1
        if calls != at:
            return real(fd, data)
        real(fd, data[:short])
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(module.os, "write", write)
    acknowledged = []
    for i in range(5):
        try:
            journal.append({"i": i})
            acknowledged.append(i)
        except StoreError as failure:
            assert str(path) in str(failure) and "bytes free" in str(failure)
    monkeypatch.undo()
    journal.close()

    records, good = scan(path.read_bytes())
    assert good == path.stat().st_size
    assert [r["i"] for r in records[1:]] == acknowledged
    assert len(acknowledged) == 4


def test_short_write_counts_as_failure(tmp_path, monkeypatch):
    journal = opened(tmp_path / "rows.jsonl")
    real = os.write
    monkeypatch.setattr(module.os, "write", lambda fd, data: real(fd, data[:7]))
    with pytest.raises(StoreError, match="7 of"):
        journal.append({"i": 1})
    monkeypatch.undo()
    journal.append({"i": 2})
    assert scan(journal.path.read_bytes())[0][1:] == [{"i": 2}]
    journal.close()


FULL_DISK = """
import resource, sys, pathlib
from engine.errors import StoreError
from engine.tooling.results.journal import Journal
path = pathlib.Path(sys.argv[1])
journal = Journal.open(path, "test.rows", 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
n = 0
try:
    for n in range(10000):
        journal.append({"i": n, "pad": "x" * 50})
except StoreError as error:
    print(n)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit", [500, 4096, 4100])
def test_file_size_limit_stops_cleanly_and_resumes(tmp_path, limit):
    path = tmp_path / "rows.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(limit)], capture_output=True, text=True
    )

    assert done.returncode == 5, done.stderr
    n = int(done.stdout)
    assert n > 0
    with opened(path) as journal:
        assert journal.moved_aside is None
        assert [r["i"] for r in journal.records] == list(range(n))
        journal.append({"i": n})


def test_every_acknowledgement_follows_an_fsync(tmp_path, monkeypatch):
    """The file is synced behind each append, its folder behind its creation."""
    events = []
    real_write, real_sync = os.write, os.fsync

    def write(fd, data):
        events.append(("write", os.fstat(fd).st_ino))
        return real_write(fd, data)

    def sync(fd):
        events.append(("sync", os.fstat(fd).st_ino))
        real_sync(fd)

    monkeypatch.setattr(module.os, "write", write)
    monkeypatch.setattr(os, "fsync", sync)
    with opened(tmp_path / "rows.jsonl") as journal:
        inode = journal.path.stat().st_ino
        assert events == [("write", inode), ("sync", inode), ("sync", tmp_path.stat().st_ino)]
        for i in range(3):
            events.clear()
            journal.append({"i": i})
            assert events == [("write", inode), ("sync", inode)]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_power_loss_keeps_what_was_synced(tmp_path_factory, no_sync, data):
    """Bytes behind the last fsync may be lost, short or zero; everything before must survive."""
    folder = tmp_path_factory.mktemp("power")
    whole = filled(folder / "rows.jsonl", 4)
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    synced = data.draw(st.sampled_from(ends))
    unsynced = whole[synced : next((e for e in ends if e > synced), synced)]
    keep = data.draw(st.integers(0, len(unsynced)))
    tail = unsynced[:keep] + bytes(data.draw(st.sampled_from([0, len(unsynced) - keep])))
    path = folder / "after.jsonl"
    path.write_bytes(whole[:synced] + tail)

    with opened(path) as journal:
        expected = scan(whole[:synced])[0][1:]
        assert journal.records[: len(expected)] == expected
        assert len(journal.records) - len(expected) in (0, 1)


def test_append_is_cheap(tmp_path, monkeypatch):
    """One write of the row's own bytes, one fsync, and as many lines for row 50 as for row 1."""
    writes, syncs, lines = [], [], []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(len(data)) or write(fd, data))
    monkeypatch.setattr(os, "fsync", syncs.append)
    with opened(tmp_path / "rows.jsonl") as journal:
        del writes[:], syncs[:]
        for i in range(50):
            row = {"i": i % 10, "step_s": [0.1] * 128}
            lines.append(lines_run(lambda row=row: journal.append(row)))
    assert writes == [len(encode(row))] * 50
    assert len(syncs) == 50
    assert lines[-1] <= lines[0]


def test_opening_many_rows_is_linear(tmp_path):
    """A few lines of Python for each row, and every byte copied once."""
    data = CountedBytes(b"".join(encode({"i": i}) for i in range(20_000)))
    found = []

    lines = lines_run(lambda: found.append(scan(data)))

    assert len(found[0][0]) == 20_000
    assert data.copied <= len(data)
    # 12 of ours, the rest in the standard library's decoder.
    assert lines <= 60 * 20_000
