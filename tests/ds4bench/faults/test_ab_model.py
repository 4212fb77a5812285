"""Which model the sweeps of `ab` measure, and that the user is told."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ds4bench.ab.plan import AbPlan, side
from ds4bench.commands.ab import ab_command
from engine.errors import OptionError


def test_a_sweep_of_ab_sees_the_users_default_model(tmp_path, monkeypatch):
    """Fault 8: it runs in the checkout's folder, where the user's ./ds4flash.gguf is not."""
    monkeypatch.chdir(tmp_path)
    bundled = side("a", None, None, None, "", ("-n", "8"))
    assert bundled.arguments == ("-n", "8") and bundled.model.endswith("the bundled model")

    mine = tmp_path / "ds4flash.gguf"
    mine.touch()
    assert side("a", None, None, None, "", ("-n", "8")).arguments == ("-m", str(mine), "-n", "8")
    assert side("a", None, None, None, "", ()).model == str(mine)
    for named in (("-m", "x.gguf"), ("-mx.gguf",), ("--model=x.gguf",)):
        assert side("a", None, None, None, "", named).model == str(tmp_path / "x.gguf")
    assert side("a", None, None, None, "--nano nano", ()).arguments == ("--nano", "nano")
    # A command of the user's own runs in the user's folder and looks for itself.
    assert side("a", None, "x", None, "", ()).arguments == ()

    other = tmp_path / "other"
    other.mkdir()
    (other / "ds4flash.gguf").touch()
    found = side("a", None, None, None, "", ("--chdir", "other", "--mtp=d.gguf"))
    assert found.model == str(other / "ds4flash.gguf")
    assert found.arguments[2:] == ("--chdir", str(other), f"--mtp={other / 'd.gguf'}")


def test_the_model_that_ab_measures_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds4flash.gguf").touch()
    plan = AbPlan(side("a", None, None, None, "", ()), side("b", None, None, None, "-mo", ()), 1)
    assert plan.model_lines() == [
        f"model of A: {tmp_path / 'ds4flash.gguf'}", f"model of B: {tmp_path / 'o'}",
    ]  # fmt: skip
    words = ["--out", "s", "--a", "false", "--b", "false", "--", "-m", "m.gguf"]
    ran = CliRunner().invoke(ab_command, words)
    assert f"model: {tmp_path / 'm.gguf'}\n" in ran.stderr


@pytest.mark.parametrize("option", ["--plot", "--plot=p.svg"])
def test_a_figure_of_each_sweep_is_refused_at_once(option):
    """Fault 23: the second sweep found the first one's file and died."""
    with pytest.raises(OptionError, match="found one that ab sets"):
        side("a", None, "x", None, "", (option, "p.svg"))
