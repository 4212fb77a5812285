"""Fixtures that several test packages share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Folder of generated models, filled on demand (see tests.engine.models)."""
    return tmp_path_factory.mktemp("models")
