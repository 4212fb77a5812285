"""The bundled model: there, whole, and what its record says."""

import hashlib
import json

import pytest

from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.models import bundled
from engine.models.bundled import DATA, FACTS, RECIPES, bundled_model
from engine.models.shapes import nano
from engine.weights.bind import bind_mtp, bind_trunk
from tests.engine.generator import as_stored


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_files_of_a_recipe_bind(recipe):
    base, draft = bundled_model("base", recipe), bundled_model("mtp", recipe)

    assert str(base.path) in base.notice and "trained" in base.notice
    with open_gguf(base.path) as trunk, open_gguf(draft.path) as block:
        shape, _ = bind_trunk(trunk)
        bind_mtp(block, shape)
    assert shape == as_stored(nano())


def test_files_are_those_that_the_record_names():
    record = json.loads(FACTS.read_text())["files"]

    assert sorted(record) == sorted(p.name for p in DATA.glob("*.gguf"))
    for name, facts in record.items():
        data = (DATA / name).read_bytes()
        assert len(data) == facts["bytes"]
        assert hashlib.sha256(data).hexdigest() == facts["sha256"]
    assert sum(facts["bytes"] for facts in record.values()) <= 32e6


def test_iq2_is_the_default():
    assert bundled_model() == bundled_model("base", "iq2")


def test_unknown_recipes_and_missing_files_are_one_error(monkeypatch, tmp_path):
    with pytest.raises(OptionError, match="--nano: expected one of iq2, q8, found 'q4'"):
        bundled_model("base", "q4")
    monkeypatch.setattr(bundled, "DATA", tmp_path)
    with pytest.raises(OptionError, match=r"bundled model: expected .*nano-iq2-base\.gguf"):
        bundled_model()
