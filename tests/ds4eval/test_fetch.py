"""`ds4-eval fetch` with a hub that is not there: what it leaves behind, what errors say."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
import json
import types

import pytest

from ds4eval.commands.fetch import fetch_command
from ds4eval.questions import fetch
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.fetch import explain, fetch_dataset, read_provenance
from ds4eval.questions.known import PUBLISHED
from engine.errors import StoreError
from engine.tooling.exits import run_program
from tests.ds4eval import published

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """The two calls that are used, over files of a folder."""

    def __init__(self, folder, files):
        self.folder = folder
        self.asked = []
        for name, raw in files.items():
            (folder / name).write_bytes(raw)

    def HfApi(self):
        def dataset_info(repo, revision):
            self.asked.append((repo, revision))
            return types.SimpleNamespace(sha=COMMIT)

        return types.SimpleNamespace(dataset_info=dataset_info)

    def hf_hub_download(self, repo, file, repo_type, revision):
        assert repo_type == "dataset" and revision == COMMIT
        return str(self.folder / file)


@pytest.fixture()
def hub(tmp_path, monkeypatch):
    rows = [{"question": r["problem"], "answer": r["answer"]} for r in published.aime_rows()]
    rows[19]["answer"] += r"^\circ"  # as published
    cache = tmp_path / "cache"
    cache.mkdir()
    fake = FakeHub(
        cache,
        {
            "aime2025-I.jsonl": published.jsonl_bytes(rows[:15]),
            "aime2025-II.jsonl": published.jsonl_bytes(rows[15:]),
            "SuperGPQA-all.jsonl": published.jsonl_bytes(published.super_rows()),
        },
    )
    monkeypatch.setattr(fetch, "_hub", lambda: fake)
    return fake


def test_fetched_data_is_complete_and_says_where_it_came_from(hub, tmp_path):
    root = tmp_path / "data"

    fetched = fetch_dataset("aime25", root)

    assert [q.id for q in fetched.dataset.questions] == [f"aime2025-{n:02d}" for n in range(1, 31)]
    assert hub.asked == [("opencompass/AIME2025", PUBLISHED["aime25"].revision)]
    assert fetched.dataset.questions[19].answer == "336"
    origin = read_provenance(root / "aime25")
    assert (origin["repo"], origin["revision"]) == ("opencompass/AIME2025", COMMIT)
    assert set(origin["files"]) == {"aime2025-I.jsonl", "aime2025-II.jsonl"}
    assert sorted(path.name for path in root.iterdir()) == ["aime25"]


def test_other_bytes_at_the_pinned_revision_are_refused(hub, tmp_path, monkeypatch):
    known = PUBLISHED["aime25"]
    monkeypatch.setattr(f"{__name__}.COMMIT", known.revision)
    with pytest.raises(DatasetError, match=r"aime2025-I.jsonl: expected SHA-256 b91b3c96\.\.\."):
        fetch_dataset("aime25", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []

    own = tuple(
        (name, digest[:8], digest[-5:])
        for name in known.files
        for digest in [hashlib.sha256((hub.folder / name).read_bytes()).hexdigest()]
    )
    monkeypatch.setitem(PUBLISHED, "aime25", dataclasses.replace(known, hashes=own))
    assert len(fetch_dataset("aime25", tmp_path / "data").dataset.questions) == 30


def test_pinned_revision_is_asked_for(hub, tmp_path):
    fetch_dataset("supergpqa", tmp_path / "a")
    fetch_dataset("supergpqa", tmp_path / "b", revision="main")

    assert [revision for _, revision in hub.asked] == [PUBLISHED["supergpqa"].revision, "main"]
    assert len(PUBLISHED["supergpqa"].revision) == 40


def test_a_copy_is_kept_unless_forced(hub, tmp_path):
    (tmp_path / "supergpqa").mkdir()
    mine = tmp_path / "supergpqa" / "mine.jsonl"
    mine.write_text("mine")

    with pytest.raises(StoreError, match="expected no copy yet"):
        fetch_dataset("supergpqa", tmp_path)
    assert mine.read_text() == "mine" and hub.asked == []

    fetch_dataset("supergpqa", tmp_path, force=True)
    assert not mine.exists() and (tmp_path / "supergpqa" / "SuperGPQA-all.jsonl").exists()


def test_damaged_download_leaves_nothing(hub, tmp_path):
    (hub.folder / "SuperGPQA-all.jsonl").write_bytes(b"<html>Log in</html>")
    root = tmp_path / "data"

    with pytest.raises(DatasetError, match="a web page"):
        fetch_dataset("supergpqa", root)

    assert list(root.iterdir()) == []


def test_folder_that_cannot_be_made(hub, tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(StoreError, match="expected to write"):
        fetch_dataset("supergpqa", tmp_path / "file" / "data")


def test_without_the_package(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DatasetError, match=r"pip install 'ds4bench\[hub\]'"):
        fetch_dataset("aime25", tmp_path)


def test_unknown_name(tmp_path):
    with pytest.raises(DatasetError, match="expected one of aime25"):
        fetch_dataset("mmlu", tmp_path)


def named(*names, status=None, base=Exception):
    """An error whose class and its bases have these names, as the hub's own classes do."""
    for name in reversed(names):
        base = type(name, (base,), {})
    error = base("first line\nsecond line")
    if status is not None:
        error.response = types.SimpleNamespace(status_code=status)
    return error


ERRORS = [
    (named("GatedRepoError", "RepositoryNotFoundError", "HfHubHTTPError", status=403), "gated"),
    (named("GatedRepoError", "RepositoryNotFoundError", "HfHubHTTPError", status=401), "gated"),
    (named("HfHubHTTPError", status=403), "gated"),
    (named("RepositoryNotFoundError", "HfHubHTTPError", status=401), "expected the data set at"),
    (named("HfHubHTTPError", status=401), "expected a valid token"),
    (named("LocalTokenNotFoundError"), "expected a valid token"),
    (named("RevisionNotFoundError", "HfHubHTTPError", status=404), "expected the revision 'v9'"),
    (named("RemoteEntryNotFoundError", "EntryNotFoundError", status=404), "expected the files"),
    (named("LocalEntryNotFoundError", "EntryNotFoundError"), "a network or a cached copy"),
    (named("OfflineModeIsEnabled", base=ConnectionError), "unset HF_HUB_OFFLINE"),
    (named("HfHubHTTPError", status=429), "too many requests"),
    (named("HfHubHTTPError", status=503), "HTTP 503"),
    (named("ConnectError", "TransportError"), "no connection"),
    (named("ConnectTimeout", "TimeoutException"), "no connection"),
    (OSError(28, "No space left on device"), "disk full"),
    (ValueError("odd\nthing"), "found ValueError: odd"),
]


@pytest.mark.parametrize("error, message", ERRORS, ids=[message for _, message in ERRORS])
def test_every_refusal_is_one_helpful_line(error, message):
    text = explain(error, PUBLISHED["gpqa-diamond"], "v9")

    assert message in text and "\n" not in text and text.startswith("expected")


def test_names_are_those_of_the_installed_hub():
    """The classes that are told by name exist in the package, with the bases relied upon."""
    errors = pytest.importorskip("huggingface_hub.errors")

    assert issubclass(errors.GatedRepoError, errors.RepositoryNotFoundError)
    assert issubclass(errors.LocalEntryNotFoundError, errors.EntryNotFoundError)
    for name in ("RevisionNotFoundError", "OfflineModeIsEnabled", "LocalTokenNotFoundError"):
        assert issubclass(getattr(errors, name), Exception)


def test_offline_hub_really_refuses(monkeypatch, tmp_path):
    """The installed package in its offline mode: no network is touched, one line comes back."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match="opencompass/AIME2025: expected a network") as caught:
        fetch_dataset("aime25", tmp_path)

    assert "\n" not in str(caught.value)


def test_error_of_the_hub_is_a_data_error(hub, tmp_path, monkeypatch):
    def refuse(*_):
        raise named("GatedRepoError", status=403)

    monkeypatch.setattr(fetch, "_download", refuse)
    with pytest.raises(DatasetError, match="m-a-p/SuperGPQA: expected access") as caught:
        fetch_dataset("supergpqa", tmp_path)

    assert caught.value.exit_code == 3


def run(capsys, *args):
    status = run_program(fetch_command, "fetch", list(map(str, args)))
    out, err = capsys.readouterr()
    return status, out, err


def test_command(hub, capsys, tmp_path):
    status, out, err = run(capsys, "supergpqa", "--to", tmp_path / "d")

    assert status == 0
    assert "supergpqa: 8 questions in" in out and COMMIT[:12] in out
    assert "licence ODC-BY" in err


def test_command_asks_for_the_revision_that_is_named(hub, capsys, tmp_path):
    run(capsys, "supergpqa", "--to", tmp_path / "pinned")
    status, _, _ = run(capsys, "supergpqa", "--to", tmp_path / "d", "--revision", "v2")

    assert status == 0
    assert [asked[1] for asked in hub.asked] == [PUBLISHED["supergpqa"].revision, "v2"]


def test_command_without_names_lists(capsys, tmp_path):
    status, out, _ = run(capsys, "--to", tmp_path)

    assert status == 0 and f"folder: {tmp_path}" in out
    assert [line.split()[0] for line in out.splitlines()[:3]] == list(PUBLISHED)
    assert "gated" in out and "not fetched" in out


@pytest.mark.parametrize("args", [["mmlu"], ["aime25", "supergpqa", "--revision", "x"]])
def test_command_refuses(capsys, args):
    status, _, err = run(capsys, *args)

    assert status == 2 and "expected" in err


def test_provenance_that_is_none(tmp_path):
    assert read_provenance(tmp_path) == {}
    (tmp_path / fetch.PROVENANCE).write_text(json.dumps([1]))
    assert read_provenance(tmp_path) == {}
