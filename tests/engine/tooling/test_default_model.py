"""Which model a command line without -m means, in every program the same."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.errors import OptionError
from engine.models.bundled import bundled_model
from engine.tooling.options.model import DEFAULT_MODEL, default_model, uses_bundled


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("recipe", [None, "iq2", "q8"])
@pytest.mark.parametrize("present", [False, True])
def test_the_local_file_counts_unless_a_recipe_is_named(here, recipe, present):
    if present:
        DEFAULT_MODEL.touch()
    said = []

    path = default_model(said.append, recipe)

    bundled = recipe is not None or not present
    assert uses_bundled(None, recipe) == uses_bundled(None, recipe, here) == bundled
    assert path == (bundled_model("base", recipe or "iq2").path if bundled else DEFAULT_MODEL)
    assert len(said) == bundled
    assert all(line.startswith("model: " if recipe else "no -m and no ./") for line in said)


def test_a_named_model_is_never_the_bundled_one():
    assert not uses_bundled(Path("m.gguf"), None)


@pytest.mark.parametrize("present", [False, True])
def test_drift_opens_it_on_both_sides(here, monkeypatch, present):
    from engine.cli.drift_cmd import drift_command

    opened = []

    def refuse(options):
        opened.append(options.path)
        raise OptionError("stop here")

    monkeypatch.setattr("engine.engine.open_engine", refuse)
    if present:
        DEFAULT_MODEL.touch()

    assert CliRunner().invoke(drift_command, ["kv=f32", "rows=1"]).exit_code == 2
    assert opened == [DEFAULT_MODEL if present else bundled_model().path]
