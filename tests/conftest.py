"""Fixtures that several test packages share."""

from __future__ import annotations

import signal

import pytest

# A shell's background job starts with SIGINT ignored, and what we start inherits that; programs
# respect it, and tests that interrupt them would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of generated models, filled on demand (see tests.engine.models)."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def file_cache(tmp_path_factory, monkeypatch):
    """No test reads or writes what this user's cache remembers of model files."""
    monkeypatch.setenv("DS4_FILE_CACHE", str(tmp_path_factory.mktemp("files")))
