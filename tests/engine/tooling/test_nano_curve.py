"""The drawing of a training log."""

from __future__ import annotations

import json

import pytest
from matplotlib.figure import Figure

from engine.models.bundled import DATA
from engine.training import curve as nano_curve
from engine.training.stages import STAGES

LOG = DATA / "nano-train.jsonl"


def test_curves_are_the_log_and_lines_the_stages(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, out: (drawn.append(f), save(f, out)))

    assert nano_curve.main([str(LOG), str(tmp_path / "curve.svg")]) == 0

    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    (axes,) = drawn[0].axes
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    curves = {x.get_label(): x.get_xydata() for x in axes.lines if x.get_label()[0] != "_"}
    assert len(axes.lines) - len(curves) == len(STAGES) - 1
    assert set(curves) == {
        "trunk, completion", "trunk, recall", "trunk, prose", "trunk, prompt", "draft, completion",
    }  # fmt: skip
    expected = [
        [x["tokens"] / 1e6, x["trunk_recall"]] for x in lines if x.get("trunk_recall") is not None
    ]
    assert curves["trunk, recall"].tolist() == expected


@pytest.mark.parametrize("text", ["", "[1]\n", '{"a": 1}\n{"a"', None])
def test_other_files_are_one_line(tmp_path, capsys, text):
    path = tmp_path / "log.jsonl"
    if text is not None:
        path.write_text(text)

    assert nano_curve.main([str(path), str(tmp_path / "curve.svg")]) == 2
    assert capsys.readouterr().err.startswith("error: log: expected JSON")
    assert not (tmp_path / "curve.svg").exists()
