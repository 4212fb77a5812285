"""`ds4 -p`: which release's chat format is used, and what is said of it and of the memory."""

from __future__ import annotations

from engine.text.encoding import BEYOND_MAXIMUM, release_of
from tests.engine.cli.test_run import BOS, BOT, SYSTEM, USER, prompt_of
from tests.engine.models import model_file


def test_release_that_the_file_names(ds4, engine):
    engine.release = release_of({"general.version": "0731"})

    status, _, err = ds4("-m", "m", "-p", "Hi", "--temp", 0, "--think-max")

    assert status == 0
    assert "encoding: 0731 (general.version)" in err
    assert prompt_of(engine) == f"{BOS}{BEYOND_MAXIMUM}{SYSTEM}{USER}Hi{BOT}<think>"
    assert ds4("-m", "m", "-p", "Hi", "--temp", 0, "--encoding", "first")[0] == 0
    assert prompt_of(engine) == f"{BOS}{SYSTEM}{USER}Hi{BOT}<think>"


def test_release_that_a_file_leaves_open_is_said(ds4, engine):
    engine.release = release_of({"general.name": "DeepSeek V4 Flash"}, "ds4flash.gguf")

    _, _, err = ds4("-m", "m", "-p", "Hi", "--temp", 0)
    assert "encoding: first (assumed: the file does not name its release; --encoding 0731" in err
    _, _, err = ds4("-m", "m", "-p", "Hi", "--temp", 0, "--raw")
    assert "encoding" not in err


def test_mtp_file_beside_weights_that_have_none(ds4, engine, tmp_path):
    mtp = tmp_path / "mtp.gguf"
    engine.mtp = None  # decoding itself is not the matter here
    args = ["-m", "m", "-p", "Hi", "--temp", 0, "--mode", "mtp-strict", "--mtp", mtp]
    _, _, err = ds4(*args, "--encoding", "0731")

    assert "WARNING: --mtp: expected a trunk of the first release, found 0731" in err
    assert "WARNING: --mtp" not in ds4(*args)[2]


def test_memory_that_does_not_hold_the_model_is_warned_of(ds4, engine):
    engine.warning = "WARNING: memory: expected at most 1 GiB"

    status, _, err = ds4("-m", "m", "-p", "Hi", "--temp", 0)

    assert status == 0 and engine.warning in err.splitlines()


def test_effort_that_the_release_does_not_have(ds4, engine, tmp_path):
    status, _, err = ds4("-m", model_file(tmp_path, "micro"), "-p", "a", "--effort", "low")

    assert status == 2 and not engine.opened
    assert "--effort: expected one of none, high, max (encoding first), found 'low'" in err


def test_a_file_that_cannot_run_is_refused_by_one_line(ds4, tmp_path):
    from tests.standins.catalogue import standin

    status, out, err = ds4("-m", standin("early", tmp_path), "-p", "x")
    assert status == 3 and out == "" and err.count("\n") == 1
    assert "found the early naming" in err
