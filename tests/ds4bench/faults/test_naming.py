"""One name means one thing, and times are UTC wherever they are written."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.ab import noise
from ds4bench.commands import calibrate
from ds4bench.records.csv_text import to_csv
from tests.ds4bench.speed_rows import sweep

SOURCES = Path(cli.__file__).parent


@pytest.mark.parametrize("option", ["-o", "--figure", "--out"])
def test_the_file_of_plot_has_a_name_of_its_own_and_the_old_one_works(tmp_path, option):
    (tmp_path / "a.csv").write_bytes(to_csv(sweep(runs=1), upstream_only=False))
    out = tmp_path / "x.svg"
    result = CliRunner().invoke(cli.main, ["plot", str(tmp_path / "a.csv"), option, str(out)])
    assert result.exit_code == 0, result.output
    ET.fromstring(out.read_bytes())
    help_text = CliRunner().invoke(cli.main, ["plot", "--help"]).output
    assert "--figure" in help_text and "--out" not in help_text


def test_local_time_is_written_nowhere():
    """`time.strftime` without a time means the user's zone; so does `localtime`."""
    for path in SOURCES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "localtime" not in text, path
        for call in re.findall(r"time\.strftime\(([^()]*(?:\([^()]*\))?[^()]*)\)", text):
            assert "," in call, (path, call)


def test_a_stored_calibration_says_utc(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setattr(noise, "folder", lambda: tmp_path)
    floor = noise.Floor("decode", "plain", 0.01, 8, 0.0)
    noise.store(noise.Calibration("ab12", 1764547200.0, (floor,)), tmp_path)
    calibrate.show_stored()
    monkeypatch.undo()
    time.tzset()
    assert "2025-12-01 00:00 UTC" in capsys.readouterr().out
