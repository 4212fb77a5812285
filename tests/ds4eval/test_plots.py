"""Figures: what is drawn is what was counted, in both themes, also for awkward runs."""

from __future__ import annotations

import numpy as np
import pytest

from ds4eval.compare.judge import compare
from ds4eval.compare.pairs import arm_of, load_arms
from ds4eval.records.replay import Run
from ds4eval.report import plots
from ds4eval.report.scores import scores_of
from engine.tooling.report import figures
from tests.ds4eval.eval_runs import paired_samples, sample, write_run


def runs_of(tmp_path, *lists):
    paths = [write_run(tmp_path / f"run{i}", samples) for i, samples in enumerate(lists)]
    return load_arms(paths)


@pytest.fixture
def arms(tmp_path):
    first, second = paired_samples("GPQA", 15, 3, 2, 5)
    more, other = paired_samples("AIME", 8, 0, 1, 1)
    return runs_of(tmp_path, [*first, *more], [*second, *other])


def test_scores_are_drawn_where_they_are(arms):
    runs = [scores_of(arm) for arm in arms]
    [axes] = plots.score_figure(runs).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["GPQA", "AIME", "all"]
    for run, container in zip(runs, axes.containers):
        drawn = container.lines[0].get_xdata()
        assert list(drawn) == [s.interval.estimate for s in [*run.groups, run.overall]]
        ends = container.lines[1]
        assert list(ends[0].get_xdata()) == pytest.approx(
            [s.interval.low for s in [*run.groups, run.overall]]
        )
        assert list(ends[1].get_xdata()) == pytest.approx(
            [s.interval.high for s in [*run.groups, run.overall]]
        )
    assert axes.get_xlim()[0] < 0 and axes.get_xlim()[1] > 1  # never a cut axis


def test_every_reply_is_a_dot_and_every_bin_holds_its_share(arms):
    run = scores_of(arms[0])
    strip, share = plots.token_figure(run).axes
    dots = {c.get_label(): np.asarray(c.get_offsets()) for c in strip.collections}
    assert len(dots["right"]) == run.overall.passed
    assert len(dots["wrong"]) == run.overall.answers - run.overall.passed
    assert sorted(dots["right"][:, 0]) == sorted(
        s.gen_tokens for s in run.arm.samples if s.verdict == "pass"
    )
    shares = share.containers[0].lines[0].get_ydata()
    sizes = [len(p) for p in np.array_split(range(35), 7)]
    assert np.dot(shares, sizes) == pytest.approx(run.overall.passed)


def test_flips_are_drawn_with_their_counts(arms):
    result = compare(*arms)
    bars, forest = plots.flip_figure(result).axes
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == [-3, 0, -3, 2, 1, 3]  # A only to the left, B only to the right
    assert [t.get_text() for t in bars.get_yticklabels()] == ["GPQA (25)", "AIME (10)", "all (35)"]
    middles = forest.containers[0].lines[0].get_xdata()
    assert list(middles) == pytest.approx([100 * line.interval.estimate for line in result.lines])


@pytest.mark.parametrize("theme", figures.THEMES)
def test_files_in_both_themes_repeat(arms, theme):
    run = scores_of(arms[0])
    for draw in (
        lambda: plots.score_figure([run], theme),
        lambda: plots.token_figure(run, theme),
        lambda: plots.flip_figure(compare(*arms), theme),
    ):
        first, second = (figures.render(draw(), "svg", theme) for _ in range(2))
        assert first == second


def test_awkward_runs_can_be_drawn(tmp_path):
    label = "_" + "x" * 300 + "<&\N{CJK UNIFIED IDEOGRAPH-6DF1}$_$"
    many = [sample(f"{label}{i}", i, "pass") for i in range(40)]
    alone = [sample("s", 0, "fail", gen_tokens=1)]
    silent = [sample("s", 0, "pass", gen_tokens=None)]
    for i, samples in enumerate((many, alone, silent)):
        [arm] = runs_of(tmp_path / str(i), samples)
        run = scores_of(arm)
        figures.render(plots.score_figure([run]), "svg")
        drawn = plots.token_figure(run)
        assert (drawn is None) == (samples is silent)
        if drawn is not None:
            figures.render(drawn, "svg")
        figures.render(plots.flip_figure(compare(arm, arm)), "svg")


def test_unlike_runs_have_no_figure(tmp_path):
    first, second = runs_of(tmp_path, [sample("a", 0, "pass")], [sample("b", 0, "pass")])
    with pytest.raises(ValueError, match="found unlike runs"):
        plots.flip_figure(compare(first, second))


def test_thousands_of_replies_stay_a_light_page(tmp_path):
    samples = [
        sample("s", i % 50, "pass", i // 50, gen_tokens=100 + i, output="") for i in range(3500)
    ]
    arm = arm_of(Run(tmp_path, "r", {}, [], samples, {}, 0), "many")
    drawn = plots.token_figure(scores_of(arm))
    assert sum(len(c.get_offsets()) for c in drawn.axes[0].collections) == 3000
    assert drawn.axes[0].get_title(loc="left") == "Length of 3000 of 3500 replies"
