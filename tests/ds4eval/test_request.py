"""A command line becomes one frozen request, which reaches the run as it was parsed."""

from __future__ import annotations

import dataclasses
import operator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ds4eval.answering import engine as answering
from ds4eval.answering.engine import engine_options
from ds4eval.cli import cli
from ds4eval.plan import NANO_BUDGET, Budget, ReplySettings, budget_of
from ds4eval.request import (
    DataOptions,
    GateOptions,
    ModelOptions,
    OutputOptions,
    ReplyOptions,
    Request,
    ServerOptions,
    check_request,
)
from ds4eval.run.execute import settings_of
from engine.errors import OptionError
from engine.models.bundled import bundled_model
from engine.options import EngineOptions
from engine.tooling.exits import run_program


@pytest.fixture
def request_of(monkeypatch):
    """What the run gets of a command line."""
    got: list[Request] = []

    def take(request: Request) -> int:
        got.append(request)
        return 0

    monkeypatch.setattr("ds4eval.run.execute.execute", take)

    def parsed(*arguments: str) -> Request:
        assert run_program(cli, "ds4-eval", list(arguments)) == 0
        return got.pop()

    return parsed


def test_a_bare_command_line_is_the_default_request(request_of):
    assert request_of() == Request()


def test_each_part_gets_its_own_options(request_of):
    found = request_of(
        *("--suite", "practice", "--dataset", "aime25=a.jsonl", "--dataset", "aime25=b.jsonl"),
        *("--ids", "1,2", "--ids", "7-9", "--filter", "kind=letter", "--offset", "1"),
        *("--questions", "4", "--repeats", "3", "--choice-seed", "5", "--no-errata"),
        *("-n", "700", "--nothink", "--close-cue", "So", "--temp", "0.5", "--top-k", "9"),
        *("--seed", "11", "--soft-limit-reply-budget", "30", "--hard-limit-reply-budget", "20"),
        *("--fail-under", "50", "--baseline", "old", "--max-regression", "2", "--strict-exit"),
        *("--out", "run", "--force", "--trace", "t.txt", "--plain", "--pause-ms", "20"),
    )
    assert found.data == DataOptions(
        suite="practice",
        datasets={"aime25": (Path("a.jsonl"), Path("b.jsonl"))},
        choice_seed=5,
        errata=False,
        ids=("1", "2", "7-9"),
        filters=("kind=letter",),
        offset=1,
        questions=4,
        repeats=3,
    )
    assert found.reply == ReplyOptions(
        think="none", tokens=700, soft=30, hard=20, cue="So", temp=0.5, top_k=9, seed=11
    )
    assert found.gates == GateOptions(50.0, Path("old"), 2.0, None, True)
    assert found.output == OutputOptions(
        Path("run"), force=True, trace=Path("t.txt"), plain=True, pause_s=0.02
    )
    assert found.model == ModelOptions()


def test_values_are_checked_as_often_as_asked(request_of):
    found = request_of("--check-values", "never").model
    assert found.check_values == "never"
    assert (
        engine_options(dataclasses.replace(found, path=Path("m.gguf")), []).check_values == "never"
    )


def test_a_server_is_a_part_of_the_model(request_of):
    found = request_of("--base-url", "http://127.0.0.1:9/v1/", "--api-model", "m", "--jobs", "4")
    assert found.model.server == ServerOptions("http://127.0.0.1:9/v1", model="m")
    assert found.model.jobs == 4


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--backend reference", "backend", "reference"),
        ("--cuda", "backend", "cuda"),
        ("--threads 3", "threads", 3),
        ("--activations f32", "activations", "f32"),
        ("--quality", "activations", "f32"),
        ("--kv f32", "kv", "f32"),
        ("--repack off", "repack", "off"),
        ("--cuda --launch numba", "launch", "numba"),
        ("--cuda --residency mapped", "residency", "mapped"),
        ("--cuda --residency-gib 1.5", "residency_gib", 1.5),
        ("--cuda --device 3", "device", 3),
        ("--mode mtp-strict --mtp mtp.gguf", "mtp_path", Path("mtp.gguf")),
    ],
)
def test_an_option_of_the_model_reaches_the_engine(request_of, line, field, value):
    def options(line: str) -> EngineOptions:
        return engine_options(request_of("-m", "m.gguf", *line.split()).model, [])

    assert getattr(options(line), field) == value
    # Without the last option of the line another value stands there.
    assert getattr(options(""), field) != value


def test_cpu_takes_the_choice_of_cuda_back(request_of):
    assert request_of("--cuda", "--cpu").model.backend == "cpu"


@pytest.mark.parametrize("recipe", ["q8", "iq2"])
def test_nano_chooses_a_bundled_model(request_of, recipe):
    options = engine_options(request_of("--nano", recipe).model, [])
    assert options.path == bundled_model("base", recipe).path


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--mode mtp-batched --mtp-draft 3", "draft", 3),
        ("--mode mtp-batched --mtp-adaptive", "adaptive", True),
        ("--mode mtp-batched --mtp-margin 2.5", "margin", 2.5),
        ("--mode dspark --draft-max 3", "draft", 3),
        ("--mode dspark --draft-adaptive", "adaptive", True),
        ("--mode dspark --draft-confidence 0.5", "confidence", 0.5),
        ("--top-k 9", "sampling.top_k", 9),
        ("--top-p 0.5", "sampling.top_p", 0.5),
        ("--min-p 0.25", "sampling.min_p", 0.25),
        ("--soft-limit-think-close-rank 7", "budget.rank", 7),
    ],
)
def test_an_option_of_decoding_reaches_the_settings(request_of, line, field, value):
    read = operator.attrgetter(field)

    def settings(line: str) -> ReplySettings:
        request = request_of(*line.split())
        return settings_of(request.reply, request.model, "practice")

    assert read(settings(line)) == value
    assert read(settings("")) != value


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("--warm-weights", "model.warm_weights", True),
        ("--mode dspark --draft-model d.gguf", "model.draft_model", Path("d.gguf")),
        ("--mode dspark --draft-force", "model.draft_force", True),
        ("--ray local", "model.ray", "local"),
        ("--allow-network-fs", "output.allow_network_fs", True),
        ("--record-paths", "output.record_paths", True),
        ("--base-url http://a --reply-timeout 9", "model.server.reply_timeout_s", 9.0),
        ("--base-url http://a --api-key-env KEY", "model.server.key_env", "KEY"),
    ],
)
def test_an_option_reaches_the_request(request_of, line, field, value):
    read = operator.attrgetter(field)
    assert read(request_of(*line.split())) == value
    assert read(request_of(*line.split()[: 2 if "--base-url" in line else 0])) != value


@pytest.mark.parametrize("warm", [False, True])
def test_warm_weights_reads_both_files_before_they_are_opened(monkeypatch, warm):
    events = []
    monkeypatch.setattr(answering, "read_through", lambda path: events.append(path.name))

    def opened(spec):
        events.append("open")
        raise OptionError("stop here")

    monkeypatch.setattr(answering, "open_backend", opened)
    monkeypatch.setattr(answering, "check_values", lambda options: options)
    options = EngineOptions(Path("m.gguf"), mtp_path=Path("mtp.gguf"))
    facts = SimpleNamespace(ctx_max=9, ctx=9, think="none", encoding=None)
    model = ModelOptions(warm_weights=warm)
    answerer = answering.EngineAnswerer(options, facts, model)
    with pytest.raises(OptionError), answerer.opened(ReplySettings(), []):
        pytest.fail("nothing was opened")
    assert events == [*(("m.gguf", "mtp.gguf") if warm else ()), "open"]


def test_chdir_is_entered_before_files_are_looked_up(request_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    request_of("--chdir", "there")
    assert Path.cwd() == tmp_path / "there"
    (tmp_path / "there" / "ds4flash.gguf").touch()
    request = request_of()
    assert engine_options(request.model, []).path == Path("ds4flash.gguf")


@pytest.mark.parametrize("part", [f.name for f in dataclasses.fields(Request)])
def test_no_part_can_be_changed(part):
    request = Request()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(request, part, None)
    inner = getattr(request, part)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(inner, dataclasses.fields(inner)[0].name, None)


@pytest.mark.parametrize(
    "request_, said",
    [
        (Request(gates=GateOptions(max_regression=1.0)), "--max-regression: expected --baseline"),
        (Request(data=DataOptions(questions=1, limit=1)), "--questions: expected without --limit"),
        (Request(ModelOptions(server=ServerOptions("ftp://x"))), "--base-url: expected http://"),
        (
            Request(ModelOptions(server=ServerOptions("http://x"), ray="local")),
            "--ray: expected without --base-url",
        ),
    ],
)
def test_parts_that_contradict_each_other_are_refused(request_, said):
    with pytest.raises(OptionError, match=said):
        check_request(request_)


def test_budgets_are_completed_by_the_suite():
    assert budget_of(ReplyOptions(), "nano") == NANO_BUDGET
    assert budget_of(ReplyOptions(), "practice") == Budget()
    named = budget_of(ReplyOptions(tokens=NANO_BUDGET.tokens, hard=32), "nano")
    assert (named.tokens, named.soft, named.hard) == (256, NANO_BUDGET.soft, 32)
    # A nano reply with more room gets the limits that other suites have.
    large = budget_of(ReplyOptions(tokens=NANO_BUDGET.tokens + 1024), "nano")
    assert (large.soft, large.hard) == (Budget().soft, Budget().hard)
