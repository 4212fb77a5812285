"""The drafter's way into the package, and the packaged one."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest

from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.models.bundled import DATA, FACTS, bundled_model
from engine.models.dspark import dspark_specs, nano_dspark
from engine.models.make import draw
from engine.models.shapes import nano
from engine.training.checkpoint import save_parts
from engine.training.dspark import export
from engine.weights.bind import bind_trunk
from engine.weights.dspark.bind import bind_dspark


@pytest.fixture
def folder(tmp_path):
    """A run's folder, and one with the record of the packaged trunks."""
    run, out = tmp_path / "run", tmp_path / "package"
    run.mkdir()
    out.mkdir()
    weights = {s.name: draw(s, 3) for s in dspark_specs(nano(), nano_dspark())}
    save_parts(run, weights)
    (run / "meta.json").write_text('{"steps": 9}')
    (run / "log.jsonl").write_text('{"step": 9}\n')
    shutil.copy(FACTS, out / FACTS.name)
    return run


def test_a_run_becomes_a_file_a_log_and_a_record(folder):
    out = folder.parent / "package"
    assert export.main([str(folder), "--out", str(out)]) == 0
    record = json.loads((out / FACTS.name).read_text())
    data = (out / "nano-q8-dspark.gguf").read_bytes()
    facts = record["files"]["nano-q8-dspark.gguf"]
    assert facts["sha256"] == hashlib.sha256(data).hexdigest() and facts["recipe"] == "q8_0"
    assert record["dspark_training"] == {"steps": 9}
    assert record["training"] == json.loads(FACTS.read_text())["training"]
    assert (out / export.LOG).read_text() == '{"step": 9}\n'
    assert {p.name for p in out.iterdir()} == {FACTS.name, export.LOG, "nano-q8-dspark.gguf"}


def test_other_weights_are_refused(folder):
    save_parts(folder, {"mtp.0.main_norm.weight": np.ones(256, np.float32)})
    with pytest.raises(OptionError, match="expected those of the nano drafter"):
        export.load(folder)
    weights = {s.name: draw(s, 3) for s in dspark_specs(nano(), nano_dspark())}
    weights["mtp.0.main_norm.weight"][0] = np.nan
    save_parts(folder, weights)
    with pytest.raises(OptionError, match=r"main_norm\.weight: expected finite values"):
        export.load(folder)


@pytest.mark.parametrize("recipe", ["iq2", "q8"])
def test_the_packaged_drafter_fits_both_trunks(recipe):
    path = bundled_model("dspark", "q8").path
    with open_gguf(bundled_model("base", recipe).path) as trunk, open_gguf(path) as file:
        shape, _ = bind_trunk(trunk)
        bound = bind_dspark(file, shape)
    assert (bound.spark, bound.layout) == (nano_dspark(), "A")
    assert (DATA / export.LOG).is_file()
