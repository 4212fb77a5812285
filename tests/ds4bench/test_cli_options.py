"""Every option of a sweep reaches the request that is measured; refusals are in test_cli.py."""

from __future__ import annotations

import operator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.sweep import run as sweep_module
from engine.models.bundled import bundled_model

SPARK = bundled_model("dspark", "q8").path


@pytest.fixture
def request_of(tmp_path, monkeypatch):
    """The request that a command line makes, in a folder with a model and a prompt."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").touch()
    (tmp_path / "mtp.gguf").touch()
    (tmp_path / "prompt.txt").write_text("Some words.")
    requests = []
    monkeypatch.setattr(sweep_module, "execute", lambda request: requests.append(request) or 0)

    def make(line, model="-m m.gguf"):
        result = CliRunner().invoke(cli.main, [*model.split(), *line.split()])
        assert result.exit_code == 0, result.output
        return requests[-1]

    return make


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--top-k 5", "plan.sampling.top_k", 5),
        ("--top-p 0.5", "plan.sampling.top_p", 0.5),
        ("--min-p 0.25", "plan.sampling.min_p", 0.25),
        ("--temp 0.5", "plan.sampling.temp", 0.5),
        ("--mode mtp-batched --mtp mtp.gguf --mtp-adaptive", "plan.mtp_adaptive", True),
        ("--mode mtp-batched --mtp mtp.gguf --mtp-margin 2.5", "plan.mtp_margin", 2.5),
        ("--mode mtp-batched --mtp mtp.gguf --mtp-draft 3", "plan.mtp_draft", 3),
        (f"--mode dspark --draft-model {SPARK}", "plan.dspark", SPARK),
        ("--mode dspark --draft-max 3", "plan.draft_max", 3),
        ("--mode dspark --draft-confidence 0.5", "plan.draft_confidence", 0.5),
        ("--mode dspark --draft-adaptive", "plan.draft_adaptive", True),
        ("--mode dspark --draft-force", "plan.draft_force", True),
        ("--chat-prompt-file prompt.txt", "plan.prompt.chat", True),
        ("--chat-prompt-file prompt.txt -sys Briefly.", "plan.prompt.system", "Briefly."),
        ("--activations f32", "plan.activations", "f32"),
        ("--quality", "plan.activations", "f32"),
        ("--kv f32", "plan.kv", "f32"),
        ("--repack off", "plan.repack", "off"),
        ("--warm-weights", "plan.warm_weights", True),
        ("--check-values never", "plan.check_values", "never"),
        ("--ctx-alloc 70000", "plan.ctx_alloc", 70000),
        ("--threads 1", "plan.threads", 1),
        ("--cuda --launch numba", "plan.launch", "numba"),
        ("--cuda", "plan.backend", "cuda"),
        ("--cuda --device 3", "plan.device", 3),
        ("--cuda --residency mapped", "plan.residency", "mapped"),
        ("--cuda --residency-gib 1.5", "plan.residency_gib", 1.5),
        ("--row-timeout 9", "row_timeout_s", 9.0),
        ("--allow-network-fs", "allow_network_fs", True),
        ("--record-paths", "record_paths", True),
    ],
)
def test_an_option_reaches_the_request(request_of, line, field, value):
    read = operator.attrgetter(field)
    assert read(request_of(line)) == value
    # Without the last option of the line another value stands there.
    assert read(request_of("")) != value


def test_chdir_is_entered_before_files_are_looked_up(request_of, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "words.txt").write_text("Other words.")
    request = request_of("--chdir there --prompt-file words.txt --csv found.csv")
    assert Path.cwd() == tmp_path / "there"
    assert request.plan.prompt.text == "Other words."


def test_cpu_takes_the_choice_of_cuda_back(request_of):
    assert request_of("--cuda --cpu").plan.backend == "cpu"


def test_nano_chooses_a_bundled_model(request_of):
    assert request_of("--nano q8", model="").plan.model == bundled_model("base", "q8").path
    assert request_of("--nano iq2", model="").plan.model == bundled_model("base", "iq2").path
