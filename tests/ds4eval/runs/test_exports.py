"""Exports for other people's systems: held by their own packages where these are installed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest

from ds4eval.cli import cli
from ds4eval.questions.known import PUBLISHED
from engine.tooling.exits import run_program
from tests.ds4eval.eval_runs import sample, write_run

FORMS = {
    "inspect": "a.json",
    "junit": "a.xml",
    "eval-results": "a.yaml",
    "every-eval-ever": "b.json",
}
KNOWN = PUBLISHED["aime25"]
SECRETS = ("exam text", "secret reply", "424242")
HEADER = {
    "created": "2026-11-01T10:00:00Z",
    "environment": {"packages": {"numpy": "2.4"}},
}


def call(*arguments) -> int:
    return run_program(cli, "ds4-eval", [str(one) for one in arguments])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A whole AIME, twice, with one reply of each end."""
    monkeypatch.chdir(tmp_path)
    question = {"title": "t", "text": "exam text", "choices": [], "opened": True}
    common = {"kind": "integer", "chance": 0.001, "question": question, "expected": "424242",
              "output": "hm</think>\nsecret reply\nAnswer: 7\n"}  # fmt: skip
    rows = [
        sample(KNOWN.label, n, "pass" if n % 3 else "fail", repeat, **common)
        for repeat in (0, 1)
        for n in range(KNOWN.rows)
    ]
    rows[3] = sample(KNOWN.label, 3, "none", stop="limit", **common)
    rows[4] = sample(
        KNOWN.label, 4, "", stop="skipped", error="does not fit \x00 \x1b[31m", **common
    )
    folder = write_run(tmp_path / "run", rows, {"data": {"suite": "aime25"}})
    (folder / "manifest.json").write_text(json.dumps(HEADER))
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_no_export_holds_text_unless_asked(run, form):
    assert call("export", run, "--format", form, "-o", FORMS[form]) == 0
    text = (run.parent / FORMS[form]).read_text()
    assert not [secret for secret in SECRETS if secret in text]


def test_junit_has_a_case_for_every_answer(run):
    assert call("export", run, "--format", "junit", "-o", "a.xml") == 0
    root = ET.parse(run.parent / "a.xml").getroot()
    [suite] = root
    assert (suite.get("tests"), suite.get("errors"), suite.get("skipped")) == ("60", "0", "1")
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == 20
    cut = next(case for case in suite if case.get("name") == "q003")
    assert cut.find("failure").get("message") == "truncated"
    assert suite.findall("testcase")[-1].get("name") == "q029 #2"
    assert float(suite.get("time")) > 100
    assert call("export", run, "--format", "junit", "-o", "b.xml", "--with-text") == 0
    assert "expected 424242, found B" in (run.parent / "b.xml").read_text()


def test_results_for_the_hub_are_of_whole_sets_with_their_conditions(run, tmp_path, capsys):
    assert call("export", run, "--format", "eval-results", "-o", "a.yaml") == 0
    text = (run.parent / "a.yaml").read_text()
    assert f'id: "{KNOWN.repo}"' in text and KNOWN.revision in text
    assert "value: 66.67" not in text and "30 questions, 2 replies each" in text
    part = write_run(tmp_path / "part", [sample(KNOWN.label, n, "pass") for n in range(5)])
    assert call("export", part, "--format", "eval-results", "-o", "b.yaml") == 2
    assert "expected a finished run over a whole published data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "junit", "-o", "a.json"], "--output: expected a name ending in .xml"),
        (["--format", "eval-results", "-o", "a.yml"], "expected a name ending in .yaml"),
        (["--format", "every-eval-ever", "-o", "a.json", "--with-text"], "--with-text: expected"),
    ],
)
def test_bad_options_of_export_are_refused(run, options, message, capsys):
    assert call("export", run, *options) == 2
    assert message in capsys.readouterr().err


def test_every_eval_ever_holds_score_interval_and_conditions(run):
    assert call("export", run, "--format", "every-eval-ever", "-o", "b.json") == 0
    found = json.loads((run.parent / "b.json").read_text())
    [result] = found["evaluation_results"]
    spread = result["score_details"]["uncertainty"]["confidence_interval"]
    assert spread["lower"] < result["score_details"]["score"] < spread["upper"]
    assert result["metric_config"]["metric_id"] == "avg@2"
    assert result["source_data"]["hf_repo"] == KNOWN.repo
    assert result["generation_config"]["generation_args"] == {
        "temperature": 0.0,
        "max_tokens": 16000,
        "reasoning": True,
    }
    details = [found["model_info"]["additional_details"], result["score_details"]["details"]]
    assert all(isinstance(value, str) for part in details for value in part.values())


@pytest.mark.oracle
def test_every_eval_ever_reads_its_document(run):
    types = pytest.importorskip("every_eval_ever.eval_types")
    from every_eval_ever.validator.validation_core import check_score_metadata

    assert call("export", run, "--format", "every-eval-ever", "-o", "b.json") == 0
    data = json.loads((run.parent / "b.json").read_text())
    log = types.EvaluationLog.model_validate(data)
    assert log.evaluation_results[0].evaluation_name == KNOWN.label
    assert check_score_metadata(data) == []


@pytest.mark.oracle
def test_the_hub_reads_its_results(run):
    hub = pytest.importorskip("huggingface_hub")
    yaml = pytest.importorskip("yaml")
    assert call("export", run, "--format", "eval-results", "-o", "a.yaml") == 0
    data = yaml.safe_load((run.parent / "a.yaml").read_text())
    [entry] = hub.parse_eval_result_entries(data)
    assert (entry.dataset_id, entry.task_id) == (KNOWN.repo, "default")
    assert entry.dataset_revision == KNOWN.revision and 0 < entry.value < 100
    assert hub.eval_result_entries_to_yaml([entry]) == data


@pytest.mark.oracle
def test_inspect_ai_reads_its_log(run):
    log = pytest.importorskip("inspect_ai.log")
    assert call("export", run, "-o", "a.json", "--with-text") == 0
    read = log.read_eval_log(str(run.parent / "a.json"))
    assert read.status == "success" and len(read.samples) == 60
    shown = {score.name: score.metrics["accuracy"].value for score in read.results.scores}
    assert shown["strict"] == pytest.approx(39 / 60)
    assert read.samples[0].scores["strict"].value in ("C", "I")


@pytest.mark.oracle
def test_lm_eval_reads_its_samples(run):
    utils = pytest.importorskip("lm_eval.utils")
    assert call("export", run, "--format", "lm-eval", "-o", "lm") == 0
    [path] = (run.parent / "lm").iterdir()
    # Its own way from a file's name to the task, and its own hash of what was asked.
    assert utils.get_sample_results_filenames([str(path)]) == [str(path)]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 59 and {row["filter"] for row in rows} == {"strict-match"}
    assert {row["doc_id"] for row in rows} == set(range(30))
