"""Kinds of text, costs of steps and what is computed from them, from sweeps to figures."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from ds4bench import cli
from ds4bench.panel import texts
from ds4bench.panel.chart import panel_figure
from ds4bench.panel.costs import replayed, step_costs, with_acceptance
from ds4bench.panel.summary import position_text, read_accepted, summary
from ds4bench.records.files import read_rows
from ds4bench.records.rows import SpeedRow
from engine.errors import EngineError
from engine.tooling import exits
from engine.tooling.results.journal import read_journal

SIZE = ("--ctx-start", "100", "--ctx-max", "200", "--step-incr", "100", "-n", "8")
COST = {1: 0.020, 2: 0.022, 3: 0.025}
PLAIN_S = 0.016
HASHES = {
    "prose": "f8bc10de",
    "code": "041fd7d0",
    "tables": "a2beae0c",
    "mathematics": "20debd84",
    "repetition": "5962dffe",
    "translation": "cb2ce6e7",
    "chat": "ebf5ef81",
    "reasoning": "2aaa28b7",
}


def drafting(kind="code", accepted=(2, 0, 1, 2, 2, 0, 1, 0, 2, 1), mode="mtp-combined"):
    """A row whose steps cost exactly COST, with a cold first step and a short last one."""
    steps = [(0.5, 1), *((COST[a + 1], a + 1) for a in accepted), (0.018, 1)]
    return SpeedRow(
        ctx_tokens=1024, prefill_tokens=1024, prefill_s=1.0, mode=mode, text_class=kind,
        gen_tokens=sum(n for _, n in steps), gen_s=sum(s for s, _ in steps), steps=len(steps),
        drafted=2 * len(steps), accepted=sum(accepted),
        drafted_by_depth=(len(steps), len(steps)),
        accepted_by_depth=(sum(a > 0 for a in accepted), sum(a > 1 for a in accepted)),
        draft_s=0.003 * len(steps), verify_s=0.017 * len(steps), rollback_s=0.0,
        step_s=tuple(s for s, _ in steps), step_tokens=tuple(n for _, n in steps),
    )  # fmt: skip


def plain(kind="code"):
    return SpeedRow(
        ctx_tokens=1024, prefill_tokens=1024, prefill_s=1.0, text_class=kind, gen_tokens=100,
        gen_s=100 * PLAIN_S, steps=100, step_s=(PLAIN_S,) * 100, step_tokens=(1,) * 100,
    )  # fmt: skip


@pytest.mark.parametrize("kind", texts.CLASSES)
def test_texts_are_the_same_everywhere_and_grow_at_their_end(kind):
    short, long = texts.generated(kind, 7, 2000), texts.generated(kind, 7, 9000)
    assert len(short) >= 2000 and long.startswith(short)
    assert texts.generated(kind, 7, 2000) == short
    if kind != "repetition":
        assert texts.generated(kind, 8, 2000) != short
    # Written by one Python, read by all others: a record of another text would not compare.
    assert hashlib.sha256(short.encode()).hexdigest()[:8] == HASHES[kind]


def test_kinds_differ_in_how_much_they_repeat():
    """By how far a general compressor gets, which knows nothing of how they were made."""
    import zlib

    sizes = {k: len(zlib.compress(texts.generated(k, 1, 20000)[:20000].encode(), 9))
             for k in texts.CLASSES}  # fmt: skip
    assert sizes["repetition"] < min(sizes["code"], sizes["tables"]) / 3
    assert max(sizes, key=lambda kind: sizes[kind]) in ("prose", "mathematics", "tables")


def test_costs_are_medians_by_tokens_without_cold_and_cut_steps():
    [costs] = step_costs([plain(), drafting(), drafting("prose", (0, 0, 1))])
    assert costs.by_tokens == pytest.approx(COST)
    assert costs.depth == 2 and costs.plain_s == pytest.approx(PLAIN_S)
    # Where the broken line of costs meets plain's, by NumPy's interpolation.
    x = np.linspace(1, 3, 200_001)
    pays = x[np.interp(x, list(COST), list(COST.values())) <= x * PLAIN_S]
    assert costs.break_even == pytest.approx(pays[0], abs=1e-4)
    assert replace(costs, plain_s=0.001).break_even is None
    assert replace(costs, plain_s=0.5).break_even == 1
    assert costs.draft_s == pytest.approx(0.003) and costs.verify_s == pytest.approx(0.017)
    assert step_costs([drafting()]) == [], "without plain rows nothing breaks even"


@pytest.mark.parametrize("shares", [(0.9, 0.7), (0.5, 0.0), (0.0,), (1.0, 1.0), (0.8,)])
def test_computed_rates_are_those_of_a_simulation(shares):
    [costs] = step_costs([plain(), drafting()])
    found = with_acceptance(costs, shares)
    rng = np.random.default_rng(3)
    n = 400_000
    draws = rng.random((n, len(shares))) < np.array(shares)
    tokens = 1 + np.cumprod(draws, axis=1).sum(axis=1)
    seconds = np.array([COST[t] for t in (1, 2, 3)])[tokens - 1].sum()
    # Three standard errors of 400,000 steps are below 0.4 %.
    assert found.tokens_per_step == pytest.approx(tokens.mean(), rel=4e-3)
    assert found.tps == pytest.approx(tokens.sum() / seconds, rel=4e-3)
    assert found.speedup == pytest.approx(found.tps * PLAIN_S)


def test_replaying_a_trace_gives_the_rate_that_it_was_measured_at():
    accepted = (2, 0, 1, 2, 2, 0, 1, 0, 2, 1)
    [costs] = step_costs([plain(), drafting(accepted=accepted)])
    found = replayed(costs, accepted, "own")
    seconds = sum(COST[a + 1] for a in accepted)
    assert found.tps == pytest.approx((len(accepted) + sum(accepted)) / seconds)
    assert replayed(costs, (9, 9), "deep").tokens_per_step == 3, "no deeper than was drafted"


def test_a_cost_that_was_not_measured_is_said():
    [costs] = step_costs([plain(), drafting(accepted=(0, 2, 0, 2))])
    found = with_acceptance(costs, (0.5, 0.5))
    assert found.unseen == (2,)
    assert costs.cost(2) == pytest.approx((COST[1] + COST[3]) / 2)
    assert "no step of 2 measured" in summary([plain(), drafting()], [found])


def test_the_summary_tells_computed_from_measured():
    rows = [plain(), drafting(), plain("prose"), drafting("prose", (0, 0, 0, 1))]
    text = summary(rows, [with_acceptance(step_costs(rows)[0], (0.9,))])
    measured, _, computed = text.partition("COMPUTED")
    assert "p = 0.9" in computed and "p = 0.9" not in measured
    assert "code" in measured and "prose" in measured and "tok/step" in measured
    assert all(len(line) <= 100 for line in text.splitlines())


def test_break_even_compares_means_with_means():
    """One step in ten that other work makes 11 times as long doubles a mean, and no median."""

    def noisy(row):
        steps = (took * (11 if n % 10 == 5 else 1) for n, took in enumerate(row.step_s))
        return replace(row, gen_s=2 * row.gen_s, step_s=tuple(steps))

    quiet = [plain(), drafting(accepted=(0, 1) * 50)]
    [before] = step_costs(quiet)
    [after] = step_costs([noisy(row) for row in quiet])
    assert after.break_even == pytest.approx(before.break_even, rel=0.05)


def test_numbers_of_the_figure_lie_on_no_point_and_tell_drafters_apart():
    other = replace(drafting("prose", (0, 0, 0, 1)), mode="dspark")
    same = replace(drafting("prose"), mode="mtp-batched")
    rows = [plain("prose"), drafting("prose"), same, other]
    fig = panel_figure(rows, title="T")
    left = fig.axes[0]
    assert not left.texts
    [beside] = left.child_axes
    [text] = [t.get_text() for t in beside.get_yticklabels()]
    first, second = text.split(" | ")
    assert first == position_text([rows[1]]) and second == position_text([other])
    note = fig.legends[0].get_title().get_text()
    assert "kept by position in %, mtp-batched | dspark" in note


def test_a_long_name_of_what_is_computed_stays_in_the_figure():
    rows = [plain(), drafting(), plain("prose"), drafting("prose", (0, 0, 0, 1))]
    [costs] = step_costs(rows)
    fig = panel_figure(rows, [with_acceptance(costs, (0.91, 0.52 + n / 100)) for n in range(4)])
    fig.canvas.draw()
    boxes = [fig.legends[0], *(axes.title for axes in fig.axes), *(a._left_title for a in fig.axes)]
    assert all(part.get_window_extent().x1 <= fig.bbox.x1 for part in boxes)


def test_the_figure_names_what_is_computed_and_where_it_breaks_even():
    rows = [plain(), drafting(), plain("prose"), drafting("prose", (0, 0, 0, 1))]
    [costs] = step_costs(rows)
    fig = panel_figure(rows, [with_acceptance(costs, (0.9, 0.5))])
    left, right = fig.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["prose", "code"]
    assert f"{costs.break_even:.2f}" in [t.get_text() for t in right.texts]
    # A dot for each mode of a kind, where its rate lies.
    dots = {(line.get_label(), *line.get_xydata()[0]) for line in left.lines
            if line.get_marker() != "None" and len(line.get_xdata()) == 1}  # fmt: skip
    assert {(row.mode, row.gen_tps) for row in rows} == {dot[:2] for dot in dots}
    labels = [t.get_text() for t in fig.legends[0].get_texts()]
    assert any(label.startswith("computed: mtp-combined") for label in labels)
    # The curve of a mode goes through the rates that its steps give.
    [curve] = [line for line in right.lines if len(line.get_xdata()) == 60]
    x = np.array(curve.get_xdata())
    expected = x / np.interp(x, list(COST), list(COST.values()))
    assert np.allclose(np.array(curve.get_ydata()), expected)


def test_a_panel_of_plain_rows_alone_is_drawn_too():
    assert panel_figure([plain(), plain("prose")]).axes
    with pytest.raises(EngineError, match="finished row of a panel"):
        panel_figure([replace(plain(), status="error")])


def test_a_sweep_of_a_prompt_set_has_rows_of_each_kind_and_goes_on(bench):
    modes = ("--mode", "plain", "--mode", "mtp-combined", "--mtp", "m.gguf")
    line = (*SIZE, *modes, "--prompt-set", "panel", "--out", "o")
    result = bench(*line, "--plot", "o.svg")
    assert result.exit_code == exits.OK, result.stderr
    run = read_rows(bench.folder / "o")
    cells = {(row.text_class, row.ctx_tokens, row.mode) for row in run.good}
    assert len(cells) == len(run.good) == 8 * 2 * 2
    assert all(row.lossless for row in run.good)
    # A kind has a timeline of its own: each prefill is counted once, and from its own start.
    own = [row for row in run.good if not row.prefill_shared]
    assert len(own) == 16 and {row.prefill_tokens for row in own} == {100}
    for name in ("sweep.csv", "sweep.parquet"):
        assert {r.text_class for r in read_rows(bench.folder / "o" / name).rows} == set(
            texts.CLASSES
        )
    assert set(pd.read_csv(bench.folder / "o" / "sweep.csv").text_class) == set(texts.CLASSES)
    before = (bench.folder / "o" / "rows.jsonl").read_bytes()
    again = bench(*line, "--resume")
    assert "every row is there already" in again.stderr
    assert (bench.folder / "o" / "rows.jsonl").read_bytes() == before


@pytest.fixture
def two_kinds(monkeypatch):
    """A smaller set: what is under test is not how many kinds there are."""
    monkeypatch.setattr(texts, "SETS", {"panel": ("prose", "code")})


def test_kinds_are_compared_with_their_own_only(bench, two_kinds):
    for out in ("a", "b"):
        assert bench(*SIZE, "--prompt-set", "panel", "--out", out).exit_code == exits.OK
    result = CliRunner().invoke(cli.main, ["compare", "a", "b"])
    assert "plain code" in result.output and "plain prose" in result.output
    assert bench(*SIZE, "--out", "c").exit_code == exits.OK
    other = CliRunner().invoke(cli.main, ["compare", "a", "c"])
    assert other.exit_code == exits.INCOMPARABLE and "prompt" in other.output


def test_every_kind_is_other_tokens_of_a_real_model():
    from ds4bench.plan import Prompt, SweepPlan
    from ds4bench.worker.model import FileModel
    from engine.models.bundled import bundled_model

    model = FileModel()
    prompt = Prompt(seed=1, classes=texts.CLASSES)
    model.inspect(SweepPlan(bundled_model("base", "iq2").path, prompt, ctx_start=64, ctx_max=64))
    found = {kind: tuple(model.encode_prompt(prompt, 64, kind)[:64]) for kind in texts.CLASSES}
    assert len(set(found.values())) == 8 and {len(ids) for ids in found.values()} == {64}


@pytest.fixture
def panel(bench, two_kinds):
    """A measured panel and the command that explains it."""
    modes = ("--mode", "plain", "--mode", "mtp-combined", "--mtp", "m.gguf")
    assert bench(*SIZE, *modes, "--prompt-set", "panel", "--out", "o").exit_code == exits.OK

    def call(*arguments):
        return CliRunner().invoke(cli.main, ["panel", "o", *arguments])

    call.folder = bench.folder
    return call


def test_the_command_explains_and_draws_and_leaves_the_rows_alone(panel):
    before = (panel.folder / "o" / "rows.jsonl").read_bytes()
    (panel.folder / "trace").write_text("1\n0\n1\n1\n")
    result = panel(
        "--accept", "0.5", "--accept-replay", "trace", "-o", "p.svg", "--title", "A title", "--dark"
    )
    assert result.exit_code == exits.OK, result.output
    computed = result.stdout.partition("COMPUTED")[2]
    assert "p = 0.5" in computed and "1.50 tok/step" in computed
    assert "trace, 4 steps" in computed and "1.75 tok/step" in computed
    assert (panel.folder / "p.svg").read_bytes().startswith(b"<?xml")
    assert panel("-o", "q.svg").exit_code == exits.OK
    dark, light = ((panel.folder / name).read_text() for name in ("p.svg", "q.svg"))
    assert dark != light and "COMPUTED" not in panel().stdout
    assert panel("-o", "r.svg", "--title", "A title").exit_code == exits.OK
    assert (panel.folder / "r.svg").read_text() != light
    assert (panel.folder / "o" / "rows.jsonl").read_bytes() == before


def test_a_results_file_is_a_trace_too(panel):
    steps = read_accepted(panel.folder / "o")
    assert set(steps) == {1} and len(steps) == 4 * 3  # four steps of two tokens, the last left out
    assert panel("--accept-replay", "o").exit_code == exits.OK


def test_a_sweep_says_what_another_acceptance_would_give(bench):
    modes = ("--mode", "plain", "--mode", "mtp-combined", "--mtp", "m.gguf")
    (bench.folder / "trace").write_text("1 0")
    result = bench(*SIZE, *modes, "--out", "o", "--accept", "0.25", "--accept-replay", "trace")
    assert result.exit_code == exits.OK
    computed = result.stderr.partition("COMPUTED")[2]
    assert "p = 0.25: 1.25 tok/step" in computed and "1.50 tok/step" in computed
    records = read_journal(bench.folder / "o" / "rows.jsonl", "ds4bench.sweep", 1).records
    assert sum(r["kind"] == "row" for r in records) == 4


BAD = {
    "--accept 1.5": (exits.USAGE, "--accept: expected shares of 0 to 1"),
    "--accept nan": (exits.USAGE, "--accept: expected shares of 0 to 1"),
    "--accept 0.5,x": (exits.USAGE, "found 'x'"),
    f"--accept {','.join(['1'] * 17)}": (exits.USAGE, "at most 16 positions"),
    "--accept-replay none": (exits.ERROR, "--accept-replay: expected a readable file"),
    "--accept-replay words": (exits.ERROR, "found 'abc' as number 2"),
    "--accept-replay empty": (exits.ERROR, "expected accepted drafts of each step, found none"),
    "-o p.txt": (exits.USAGE, "--out: expected a name ending in .svg or .png"),
}


@pytest.mark.parametrize("line", BAD)
def test_bad_acceptance_is_refused(panel, line):
    (panel.folder / "words").write_text("1 abc")
    (panel.folder / "empty").write_text("")
    status, words = BAD[line]
    result = panel(*line.split())
    assert result.exit_code == status and words in result.stderr


def test_without_steps_that_draft_nothing_is_computed(bench):
    assert bench(*SIZE, "--out", "o").exit_code == exits.OK
    result = CliRunner().invoke(cli.main, ["panel", "o", "--accept", "0.5"])
    assert result.exit_code == exits.USAGE and "found no step to compute from" in result.stderr
    refused = bench(*SIZE, "--accept", "0.5")
    assert refused.exit_code == exits.USAGE and "--accept: expected --csv" in refused.stderr
