"""A command line becomes one frozen request, which reaches the run as it was parsed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ds4eval.answering.engine import engine_options
from ds4eval.cli import cli
from ds4eval.plan import NANO_BUDGET, Budget, budget_of
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
from engine.errors import OptionError
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
