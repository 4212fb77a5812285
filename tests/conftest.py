"""Fixtures that several test packages share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of generated models, filled on demand (see tests.engine.models)."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def file_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes what this user's cache remembers of model files."""
    monkeypatch.setenv("DS4_FILE_CACHE", str(tmp_path_factory.mktemp("files")))
