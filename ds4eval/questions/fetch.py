"""Downloads published data sets through huggingface_hub and notes beside them what came.

The only module that goes to the network, and only when its function is called.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from ds4eval.documents import Document
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.known import PUBLISHED, Published
from ds4eval.questions.loaders import LOADER_VERSION, Dataset, load_dataset
from engine.errors import StoreError
from engine.tooling.results.typed import read_object

PROVENANCE = ".provenance.json"
MOST_PROVENANCE = 1 << 20  # bytes
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A data set as fetched: its folder, the commit it came from, and what it holds."""

    folder: Path
    commit: str
    dataset: Dataset


def fetch_dataset(name: str, root: Path, revision: str = "", force: bool = False) -> Fetched:
    """Fetch a data set into `root/name`, check it, and write its provenance.

    Files arrive complete or not at all: they are checked in a temporary folder that is renamed.

    Parameters
    ----------
    name : str
        A name of `PUBLISHED`.
    root : Path
        Folder of data sets, made if it is not there.
    revision : str
        Commit, branch or tag; '' for the pinned one.
    force : bool
        Replace a copy that is there.

    Raises
    ------
    DatasetError
        If huggingface_hub is not installed, the hub refuses, or the data is damaged.
    StoreError
        If the folder cannot be written, or a copy is there already.
    """
    known = PUBLISHED.get(name)
    if known is None:
        raise DatasetError(f"fetch: expected one of {', '.join(PUBLISHED)}, found {name!r}")
    folder = root / name
    if folder.exists() and not force:
        raise StoreError(f"{folder}: expected no copy yet, found one (--force replaces it)")
    hub = _hub()
    wanted = revision or known.revision
    commit = _asked(
        known, wanted, lambda: hub.HfApi().dataset_info(known.repo, revision=wanted)
    ).sha
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as temporary:
            fresh = Path(temporary) / name
            fresh.mkdir()
            for file in known.files:
                path = _asked(known, wanted, partial(_download, hub, known, file, commit))
                shutil.copyfile(path, fresh / Path(file).name)
            dataset = load_dataset(fresh, name)
            if commit == known.revision:
                _check_hashes(known, dataset)
            (fresh / PROVENANCE).write_text(_provenance(known, commit, dataset), encoding="utf-8")
            if folder.exists():
                os.rename(folder, Path(temporary) / "old")
            os.rename(fresh, folder)
    except OSError as error:
        raise StoreError(f"{folder}: expected to write, found {error.strerror or error}") from error
    return Fetched(folder, commit, load_dataset(folder, name))


def _check_hashes(known: Published, dataset: Dataset) -> None:
    """At the pinned revision, every byte is known.

    Raises
    ------
    DatasetError
        If a file is another than the published one.
    """
    found = {file.path.name: file.sha256 for file in dataset.files}
    for name, first, last in known.hashes:
        sha256 = found.get(name, "")
        if not (sha256.startswith(first) and sha256.endswith(last)):
            raise DatasetError(
                f"{known.repo}, {name}: expected SHA-256 {first}...{last} at the pinned revision, "
                f"found {sha256 or 'no such file'}"
            )


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise DatasetError(
            "fetch: expected the package 'huggingface_hub', found none installed "
            "(pip install 'ds4bench[hub]')"
        ) from None
    return huggingface_hub


def _download(hub: ModuleType, known: Published, file: str, commit: str) -> str:
    return str(hub.hf_hub_download(known.repo, file, repo_type="dataset", revision=commit))


def _provenance(known: Published, commit: str, dataset: Dataset) -> str:
    files = {file.path.name: {"sha256": file.sha256, "rows": file.rows} for file in dataset.files}
    return (
        json.dumps(
            {
                "dataset": known.name,
                "repo": known.repo,
                "revision": commit,
                "licence": known.licence,
                "loader_version": LOADER_VERSION,
                "files": files,
            },
            indent=1,
        )
        + "\n"
    )


def read_provenance(folder: Path) -> Document:
    """What `fetch` wrote beside a data set; empty when the user put the files there."""
    try:
        return read_object(folder / PROVENANCE, MOST_PROVENANCE)
    except StoreError:
        return {}


def _asked(known: Published, revision: str, ask: Callable[[], Found]) -> Found:
    """The hub's answer; each way it refuses becomes one line that says what to do."""
    try:
        return ask()
    except (DatasetError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise DatasetError(f"{known.repo}: {explain(error, known, revision)}") from error


def explain(error: BaseException, known: Published, revision: str) -> str:
    """One line for an error of huggingface_hub, told by its class names and HTTP status.

    Names instead of classes: they have moved between modules and releases.
    """
    names = {one.__name__ for one in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    page = f"https://huggingface.co/datasets/{known.repo}"
    if "GatedRepoError" in names or status == 403:
        return (
            f"expected access, found the data set gated: accept its terms at {page}, "
            "then `hf auth login`"
        )
    if "LocalEntryNotFoundError" in names:
        return "expected a network or a cached copy, found neither"
    if "OfflineModeIsEnabled" in names:
        return "expected a network, found offline mode (unset HF_HUB_OFFLINE)"
    if "RevisionNotFoundError" in names:
        return f"expected the revision {revision!r}, found none of that name (--revision)"
    if "EntryNotFoundError" in names:
        return f"expected the files {', '.join(known.files)}, found not all of them (--revision)"
    if "RepositoryNotFoundError" in names:
        return f"expected the data set at {page}, found none (moved, or log in to see it)"
    if status == 401 or "LocalTokenNotFoundError" in names:
        return "expected a valid token, found none: `hf auth login`, or set HF_TOKEN"
    if status == 429:
        return "expected an answer, found too many requests: wait some minutes and try again"
    if status is not None and status >= 500:
        return f"expected an answer, found the hub failing (HTTP {status}): try again later"
    if isinstance(error, OSError) and error.errno == 28:
        return "expected room for the download, found the disk full"
    connection = {"ConnectionError", "ConnectError", "Timeout", "TimeoutException", "ProxyError"}
    if names & connection:
        return "expected a network, found no connection to huggingface.co"
    first = str(error).strip().split("\n")[0][:160]
    return f"expected an answer, found {type(error).__name__}: {first}"
