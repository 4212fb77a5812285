"""Folders that kernels are read from: who could have written there decides, not who did."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.files import private

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
NOBODY = 65534


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(private.ENVIRONMENT, str(tmp_path / "a" / "b"))
    return tmp_path


def test_missing_folders_are_made_for_this_user_alone(place):
    old = os.umask(0)
    try:
        found = private.kernel_folder("k")
    finally:
        os.umask(old)
    assert found == private.PrivateFolder(place / "a" / "b" / "k")
    for folder in (place / "a", place / "a" / "b", place / "a" / "b" / "k"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o775])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_every_folder_on_the_way_is_looked_at(place, mode, depth, monkeypatch):
    path = private.kernel_folder("k").path
    monkeypatch.setattr(private, "_is_own_group", lambda gid: False)
    opened = [path, *path.parents][depth]
    opened.chmod(mode)

    found = private.kernel_folder("k")

    assert not found.lasts and found.path != path
    assert f"{opened}, which others can write" in found.notice
    assert private.ENVIRONMENT in found.notice


def test_a_group_of_this_user_alone_may_write(place, monkeypatch):
    path = private.kernel_folder("k").path
    path.chmod(0o770)
    monkeypatch.setattr(private, "_is_own_group", lambda gid: gid == path.stat().st_gid)
    assert private.kernel_folder("k").path == path


def test_the_sticky_bit_keeps_others_from_renaming(place):
    path = private.kernel_folder("k").path
    (place / "a").chmod(0o1777)
    assert private.kernel_folder("k").path == path


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root gives files away")
@pytest.mark.parametrize("depth", [0, 1])
def test_folders_of_another_user_are_refused(place, depth):
    path = private.kernel_folder("k").path
    given = [path, *path.parents][depth]
    os.chown(given, NOBODY, NOBODY)
    assert f"{given}, which belongs to user {NOBODY}" in private.kernel_folder("k").notice


def test_links_are_followed_and_checked_where_they_lie(place):
    real = place / "real"
    real.mkdir(mode=0o700)
    open_place = place / "open"
    open_place.mkdir()
    (open_place / "link").symlink_to(real)
    (place / "a").symlink_to(open_place / "link")
    private.check_trusted(place / "a")
    open_place.chmod(0o777)  # whoever writes there points the link elsewhere
    with pytest.raises(StoreError, match="which others can write"):
        private.check_trusted(place / "a")
    (place / "c").symlink_to("c")
    with pytest.raises((StoreError, OSError)):
        private.check_trusted(place / "c")


def test_a_relative_link_and_a_step_up_are_understood(place):
    (place / "x" / "y").mkdir(parents=True, mode=0o700)
    (place / "link").symlink_to("x/y/../y")
    private.check_trusted(place / "link")


def test_a_place_that_cannot_be_written_costs_a_notice(place, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private.tempfile, "TemporaryFile", full)
    found = private.kernel_folder("k")
    assert found.path is None and not found.lasts
    assert "No space left on device" in found.notice


def test_without_a_home_folder_there_is_a_notice(place, monkeypatch):
    monkeypatch.delenv(private.ENVIRONMENT)

    def none(*args):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(private.platformdirs, "user_cache_dir", none)
    found = private.kernel_folder("k")
    assert isinstance(found.path, Path) and not found.lasts
    assert "home directory" in found.notice
