"""`ds4 drift` at its command line: what each option changes in the findings of a small model."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from tests.engine.models import model_file

SIDES = ("threads=1,repack=off,rows=1", "threads=1,repack=off,activations=f32,rows=3")


@pytest.fixture(scope="module")
def path(model_folder):
    return model_file(model_folder, "micro", "q8_0")


@pytest.fixture
def drift(ds4, path, tmp_path):
    """The JSON findings of a command line, and what it printed."""

    def run(*args):
        found = tmp_path / "found.json"
        status, out, err = ds4("drift", *SIDES, "-m", path, "--json", found, *args)
        assert status == 0, err
        return json.loads(found.read_text()), out

    return run


def test_length_text_and_token_ids_of_the_comparison(drift, tmp_path):
    (tmp_path / "ids").write_text("5 6 7 8 9 10")
    (tmp_path / "text").write_text("One and two and three and four.")
    generated, _ = drift("-n", "5")
    ids, _ = drift("-n", "5", "--tokens", tmp_path / "ids")
    text, _ = drift("-n", "5", "--prompt-file", tmp_path / "text")
    assert generated["n_tokens"] == ids["n_tokens"] == text["n_tokens"] == 5
    rms = [found["logits_rms"] for found in (generated, ids, text)]
    assert rms[0] != rms[1] != rms[2] != rms[0]


def test_no_force_leaves_the_causal_test_out(drift):
    forced, shown = drift("-n", "4")
    assert forced["forced_rms"] is not None and "A's experts on B" in shown
    free, shown = drift("-n", "4", "--no-force")
    assert free["forced_rms"] is None and "A's experts on B" not in shown
    assert free["logits_rms"] == forced["logits_rms"]


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plot_is_drawn_in_the_format_of_its_name(drift, tmp_path, suffix):
    plot = tmp_path / f"growth.{suffix}"
    drift("-n", "4", "--plot", plot)
    if suffix == "svg":
        assert ET.fromstring(plot.read_bytes()).tag.endswith("svg")
    else:
        assert plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_plot_of_another_kind_is_refused_before_the_model_is_opened(ds4, engine, tmp_path):
    status, _, err = ds4("drift", *SIDES, "-m", "m", "--plot", tmp_path / "growth.pdf")
    assert status == 2
    assert err.startswith("ds4: error: --plot: expected a name ending in .svg or .png, found ")
    assert engine.opened == [] and list(tmp_path.iterdir()) == []
