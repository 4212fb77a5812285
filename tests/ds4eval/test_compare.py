"""`compare`: published figures from run folders, refusals, repeats, flips, outputs, statuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ds4eval.commands import compare as compare_cmd
from ds4eval.commands.compare import compare_command
from ds4eval.commands.report import report_command
from ds4eval.compare import pairs
from ds4eval.compare import view as compare_view
from ds4eval.compare.judge import compare
from ds4eval.compare.pairs import FIELDS, check_by, common_prefix, first_divergence, load_arms
from ds4eval.compare.result import RunVerdict
from ds4eval.grading.grade import GRADERS
from engine.errors import EngineError, OptionError, StoreError
from engine.text.encoding import FIRST
from tests.ds4eval.eval_runs import digest, paired_samples, sample, verdicts, write_run
from tests.ds4eval.test_stats_paired import PUBLISHED

SOURCES = ("GPQA", "SuperGPQA", "AIME", "COMPSEC")


def published_runs(folder: Path) -> list[Path]:
    """The two published runs as folders; the second argument of `compare` is the published A."""
    first, second = [], []
    for name in SOURCES:
        n, right_a, _, a_only, b_only, *_ = PUBLISHED[name]
        both = right_a - a_only
        theirs, ours = paired_samples(name, both, b_only, a_only, n - both - a_only - b_only)
        first += theirs
        second += ours
    return [write_run(folder / "other", first), write_run(folder / "imatrix", second)]


@pytest.fixture
def published(tmp_path):
    return published_runs(tmp_path)


def both(paths, **options):
    return compare(*load_arms(paths), **options)


def test_reproduces_the_published_comparison(published):
    result = both(published)
    names = [line.name for line in result.lines]
    assert names == [*SOURCES, "all"]
    for line, name in zip(result.lines, [*SOURCES, "All"]):
        n, right_b, right_a, b_only, a_only, p, diff, low, high, se, apart, r = PUBLISHED[name]
        assert (line.n, line.a_only, line.b_only) == (n, a_only, b_only)
        assert (round(line.mean_a * n), round(line.mean_b * n)) == (right_a, right_b)
        assert line.test == "McNemar exact"
        assert line.p_value == pytest.approx(p, abs=0.00051)
        interval = line.interval
        figures = [100 * v for v in (interval.estimate, interval.low, interval.high)]
        assert figures == pytest.approx([diff, low, high], abs=0.051)  # printed to one decimal
        # 3.448 was printed as 3.5, rounded twice: hence a little more than one rounding.
        assert 100 * line.se_paired == pytest.approx(se, abs=0.053)
        assert 100 * line.se_unpaired == pytest.approx(apart, abs=0.051)
        assert line.correlation == (None if r is None else pytest.approx(r, abs=0.0051))
    assert result.overall.verdict is RunVerdict.UNDECIDED
    assert min(line.p_holm for line in result.lines[:-1]) == 1.0
    assert len(result.flips) == 10
    assert [f.change for f in result.flips] == [-1.0] * 4 + [1.0] * 6


def test_holm_counts_the_groups(tmp_path):
    first, second = [], []
    for name, a_only, b_only in (("x", 0, 9), ("y", 1, 9), ("z", 5, 5)):
        ours, theirs = paired_samples(name, 20, a_only, b_only, 5)
        first += ours
        second += theirs
    result = both([write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)])
    p = [line.p_value for line in result.lines]
    assert [line.p_holm for line in result.lines[:3]] == pytest.approx([3 * p[0], 2 * p[1], 1.0])
    assert [line.verdict for line in result.lines[:2]] == [RunVerdict.BETTER, RunVerdict.BETTER]
    assert result.lines[3].p_holm == p[3]  # one test: nothing to adjust for


def run_pair(tmp_path, changes=(), config=None, **common):
    """Two runs of eight equal samples; `changes` go to every sample of the second."""
    ours = [sample("s", i, v, **common) for i, v in enumerate(verdicts([1, 1, 1, 1, 1, 0, 0, 1]))]
    theirs = [dataclasses.replace(s, **dict(changes)) for s in ours]
    return [write_run(tmp_path / "a", ours), write_run(tmp_path / "b", theirs, config)]


@pytest.mark.parametrize(
    "field,changes,config,detail",
    [
        ("question", {"question_sha256": digest("other")}, None, "question of s/q000: expected "),
        (
            "permutation",
            {"permutation": [1, 0], "question_sha256": digest("x")},
            None,
            "found [1, 0]",
        ),
        ("prompt_version", {}, {"prompt_version": "2"}, "prompt_version: expected 1, found 2"),
        ("sampling", {}, {"sampling": {"temp": 1.0}}, "sampling.temp: expected 0.0, found 1.0"),
        ("think", {}, {"think": "none"}, "think: expected high, found none"),
        (
            "encoding",
            {},
            {"model": {"name": "model-a", "encoding": "0731"}},
            "encoding: expected first, found 0731",
        ),
        ("budget", {}, {"budget": {"tokens": 9}}, "budget.tokens: expected 16000, found 9"),
        ("grader", {"grader_version": "2"}, None, "grader: expected 1, found 2"),
        ("questions", {"source": "t"}, None, "questions (8 only in a, 8 only in b)"),
    ],
)
def test_unlike_runs_are_refused_by_name(tmp_path, field, changes, config, detail):
    paths = run_pair(tmp_path, changes, config)
    result = both(paths)
    assert [d.name for d in result.unlike] == [field]
    assert detail in str(result.unlike[0])
    assert result.verdict is None and not result.lines and result.exit_code() == 8
    done = CliRunner().invoke(compare_command, [str(p) for p in paths])
    assert done.exit_code == 8
    assert "INCOMPARABLE" in done.output and f"--allow {field}" in done.output
    if field != "questions":
        allowed = both(paths, allow=[field])
        assert [d.name for d in allowed.allowed] == [field]
        assert allowed.lines and allowed.exit_code() == 0


def test_other_repeats_are_refused(tmp_path):
    one = [sample("s", i, "pass") for i in range(4)]
    two = [sample("s", i, "pass", r) for r in range(2) for i in range(4)]
    paths = [write_run(tmp_path / "a", one), write_run(tmp_path / "b", two)]
    assert [str(d) for d in both(paths).unlike] == ["repeats: expected 1, found 2"]
    assert both(paths, allow=["repeats"]).overall.n == 4


def test_every_field_can_be_allowed_and_every_grader_named():
    assert compare_cmd.ALLOWABLE == FIELDS
    assert compare_cmd.GRADERS == GRADERS
    assert FIRST.name == pairs._FIRST_ENCODING


def test_model_mode_and_seed_are_what_is_compared(tmp_path):
    config = {"model": {"name": "model-b", "sha256": "bb"}, "mode": "batched",
              "sampling": {"temp": 0.0, "seed": 2}}  # fmt: skip
    result = both(run_pair(tmp_path, config=config))
    assert not result.unlike
    assert result.treatment == [
        "model.name: model-a against model-b",
        "mode: any against batched",
        "seed: unknown against 2",
    ]


def test_no_common_question_is_an_error(tmp_path):
    paths = run_pair(tmp_path, {"source": "t"})
    with pytest.raises(EngineError, match="b: expected questions answered by a too, found none"):
        both(paths, allow=["questions"])


def test_an_unknown_grader_is_refused(tmp_path):
    with pytest.raises(OptionError, match="--grader: expected one of strict"):
        both(run_pair(tmp_path), grader="kind")


def test_other_graders_are_read_from_their_own_fields(tmp_path):
    changes = {"lenient_verdict": "fail", "classic_verdict": "none", "classic_given": "?"}
    paths = run_pair(tmp_path, changes)
    assert both(paths).overall.b_only == both(paths).overall.a_only == 0
    for grader in ("lenient", "ds4-classic"):
        line = both(paths, grader=grader).overall
        assert (line.mean_a, line.mean_b, line.a_only) == (0.75, 0.0, 6)


def test_identical_runs_are_no_proof_of_equivalence_when_small(tmp_path):
    result = both(run_pair(tmp_path))
    line = result.overall
    assert line.p_value == line.least_p == 1.0 and not result.flips
    assert line.detectable is None and line.verdict is RunVerdict.UNDECIDED
    assert result.same_replies == result.same_answers == result.answers == 8
    assert result.median_divergence is None
    shown = CliRunner().invoke(compare_command, [str(tmp_path / "a"), str(tmp_path / "b")])
    assert "questions that differ: 0; no split of so few can reach p < 0.05" in shown.output


@pytest.mark.parametrize("passes", [[1], [0], [1] * 5, [0] * 5])
def test_degenerate_runs_have_finite_numbers_or_none(tmp_path, passes):
    samples = [sample("s", i, v) for i, v in enumerate(verdicts(passes))]
    paths = [write_run(tmp_path / name, samples) for name in "ab"]
    result = both(paths)
    json.loads(compare_view.json_text(result))  # strict: raises on NaN
    assert -1 <= result.overall.interval.low < 0 < result.overall.interval.high <= 1
    assert "nan" not in compare_view.to_markdown(result).lower()


def repeated(tmp_path, shares_a, shares_b, k=4):
    """Runs with k repeats whose question i passes shares[i] of them."""
    runs = []
    for name, shares in (("a", shares_a), ("b", shares_b)):
        samples = [
            sample("s", i, "pass" if r < c else "fail", r)
            for r in range(k)
            for i, c in enumerate(shares)
        ]
        runs.append(write_run(tmp_path / name, samples))
    return runs


def test_repeats_use_the_permutation_of_question_means(tmp_path):
    result = both(repeated(tmp_path, [4, 2, 0, 4, 1, 3, 2, 4], [4, 3, 1, 4, 2, 4, 3, 4]))
    line = result.overall
    assert line.test == "permutation exact" and result.repeats == 4
    # Five questions gain a quarter each: of 2^5 sign patterns the two one-sided are as far out.
    assert (line.a_only, line.b_only) == (0, 5)
    assert line.p_value == pytest.approx(2 / 2**5)
    assert line.interval.estimate == pytest.approx(5 / 32)
    assert line.student is not None and line.bootstrap is not None
    assert line.student.low > line.interval.low  # the headline is the careful one
    assert {f.repeats_a for f in result.flips} == {4}


def test_flips_name_the_telling_repeat(tmp_path):
    first = [sample("s", 0, "pass", r, output=f"same start {r}") for r in range(3)]
    second = [*first[:2], dataclasses.replace(first[2], verdict="fail", given="C",
                                              output="same starX")]  # fmt: skip
    paths = [write_run(tmp_path / "a", first), write_run(tmp_path / "b", second)]
    [flip] = both(paths).flips
    assert (flip.passed_a, flip.passed_b, flip.given_a, flip.given_b) == (3, 2, "A", "C")
    assert flip.diverges == 9
    assert both(paths).median_divergence == 9
    assert both(paths).same_replies == 2


def test_first_divergence():
    a = sample("s", 0, "pass")
    assert first_divergence(a, a) == -1
    for text, place in (("", None), ("thought 0 1", 10), ("X", 0)):
        assert first_divergence(a, dataclasses.replace(a, output=text)) == place
    silent = dataclasses.replace(a, output="", gen_tokens=0)
    assert first_divergence(a, silent) == 0 and first_divergence(silent, silent) == -1
    lost = dataclasses.replace(a, output="")  # an imported table without texts
    assert first_divergence(lost, lost) is None
    assert common_prefix("x" * 1_000_000 + "a", "x" * 1_000_000 + "b") == 1_000_000


def test_unfinished_runs_are_compared_and_reported(tmp_path):
    samples = [sample("s", i, "pass") for i in range(10)]
    stopped = [*samples[:6], sample("s", 6, "", stop="stopped")]
    paths = [write_run(tmp_path / "a", samples), write_run(tmp_path / "b", stopped, None, samples)]
    result = both(paths)
    assert (result.unfinished_a, result.unfinished_b, result.overall.n) == (0, 4, 6)
    assert result.left_out == 4 and result.exit_code() == 4
    done = CliRunner().invoke(compare_command, [str(p) for p in paths])
    assert done.exit_code == 4 and "b is unfinished: 4 answers are missing" in done.output


def test_cut_and_skipped_answers_count_as_wrong(tmp_path):
    samples = [sample("s", i, "pass") for i in range(3)]
    worse = [samples[0], sample("s", 1, "none", stop="limit"), sample("s", 2, "", stop="skipped")]
    paths = [write_run(tmp_path / "a", samples), write_run(tmp_path / "b", worse)]
    line = both(paths).overall
    assert (line.n, line.mean_a, line.mean_b) == (3, 1.0, pytest.approx(1 / 3))
    costs = {c.name: (c.mean_a, c.mean_b) for c in both(paths).costs}
    assert costs["cut by the budget"] == (0.0, pytest.approx(1 / 3))
    assert costs["without an answer"] == (0.0, pytest.approx(2 / 3))


def lossy(tmp_path, losses, n=60):
    first = [sample("s", i, "pass") for i in range(n)]
    second = [sample("s", i, "fail" if i < losses else "pass") for i in range(n)]
    return [str(write_run(tmp_path / "a", first)), str(write_run(tmp_path / "b", second))]


@pytest.mark.parametrize(
    "losses,options,status",
    [
        pytest.param(9, [], 0, id="without a gate nothing fails"),
        pytest.param(9, ["--max-regression", "3"], 6, id="a proven loss beyond the limit"),
        pytest.param(9, ["--max-regression", "20"], 0, id="a loss within the limit"),
        pytest.param(5, ["--max-regression", "3"], 0, id="a loss within noise"),
        pytest.param(5, ["--max-regression", "3", "--strict"], 7, id="strict: noise is no proof"),
        pytest.param(0, ["--strict", "--margin", "10"], 0, id="strict, and shown not worse"),
        pytest.param(0, ["--margin", "0"], 2, id="no margin at all"),
        pytest.param(0, ["--allow", "model"], 2, id="a field that never refuses"),
        pytest.param(0, ["--grader", "kind"], 2, id="no such grader"),
    ],
)
def test_exit_status(tmp_path, losses, options, status):
    done = CliRunner().invoke(compare_command, [*lossy(tmp_path, losses), *options])
    assert done.exit_code == status, done.output


def test_missing_and_empty_runs_are_missing_data(tmp_path):
    whole = lossy(tmp_path, 0)
    done = CliRunner().invoke(compare_command, [whole[0], str(tmp_path / "none")])
    assert done.exit_code == 3 and "expected a readable file" in done.output
    empty = write_run(tmp_path / "empty", [], None, [sample("s", 0, "pass")])
    with pytest.raises(StoreError, match="expected at least one answered question, found none"):
        load_arms([empty])
    done = CliRunner().invoke(compare_command, [whole[0], str(empty)])
    assert done.exit_code == 3


def test_json_is_strict_and_complete(published):
    done = CliRunner().invoke(compare_command, [*map(str, published), "--format", "json"])
    found = json.loads(done.output, parse_constant=lambda name: pytest.fail(name))
    assert (found["schema"], found["version"], found["verdict"]) == (
        "ds4eval.comparison",
        1,
        "undecided",
    )
    assert len(found["lines"]) == 5 and len(found["flips"]) == 10
    assert found["lines"][-1]["equivalence"]["equivalent"] is False


HOSTILE = "<script>alert(1)</script>|`x`\x1b[31m\u202e@everyone"


def test_hostile_labels_and_ids_cannot_act(tmp_path):
    name = "<b>|\x1b[31m\u202e"
    samples = [sample("<i>|x", i, "pass", id=f"q{i}|<u>\x1b]0;t\x07@me") for i in range(3)]
    other = [dataclasses.replace(s, verdict="fail", given=HOSTILE) for s in samples]
    paths = [write_run(tmp_path / name, samples), write_run(tmp_path / "b", other)]
    result = both(paths)
    text = compare_view.to_markdown(result)
    assert "<" not in text and "@me" not in text and "\x1b" not in text and "\u202e" not in text
    widths = {line.count("|") - line.count("\\|") for line in text.splitlines() if line[:1] == "|"}
    assert widths == {13, 7}  # no cell broke a row
    done = CliRunner().invoke(compare_command, [str(p) for p in paths])
    assert "\x1b" not in done.output and "\u202e" not in done.output and "\x07" not in done.output


def test_breakdown_by_domain_and_by_a_stratum_nobody_has(published):
    lines = both(published, by="domain").lines
    assert sorted(line.name for line in lines[:-1]) == ["domain x", "domain y", "domain z"]
    assert sum(line.n for line in lines[:-1]) == lines[-1].n == 92
    said = "--by: expected one of source, domain, kind, which the answers of .* have, found 'diffi"
    with pytest.raises(OptionError, match=said):
        both(published, by="difficulty")


def test_a_breakdown_by_domain_names_what_a_run_without_domains_has(tmp_path):
    bare = [dataclasses.replace(s, domain="") for s in paired_samples("fake", 1, 1, 1, 1)[0]]
    (arm,) = load_arms([write_run(tmp_path / "bare", bare)])
    with pytest.raises(OptionError) as refused:
        check_by(arm, "domain")
    assert str(refused.value) == (
        "--by: expected one of source, kind, which the answers of bare have, found 'domain'"
    )


@pytest.mark.parametrize("command", [compare_command, report_command], ids=["compare", "report"])
def test_options_of_judging_reach_the_comparison(tmp_path, command):
    first, second = lossy(tmp_path, 9)
    form = [dataclasses.replace(s, lenient_verdict="pass", lenient_given="A")
            for s in load_arms([Path(second)])[0].samples]  # fmt: skip
    lenient = str(write_run(tmp_path / "lenient", form))
    other = str(write_run(tmp_path / "other", form, {"think": "none"}))

    def judged(run, *options):
        done = CliRunner().invoke(command, [first, run, "--format", "json", *options])
        found = json.loads(done.output)
        return found["comparisons"][0] if "comparisons" in found else found

    assert [judged(second)["verdict"], judged(lenient)["verdict"]] == ["worse", "worse"]
    assert judged(lenient, "--grader", "lenient")["verdict"] == "undecided"
    assert judged(lenient, "--grader", "lenient", "--margin", "10")["verdict"] == "equivalent"
    lines = judged(second, "--by", "domain")["lines"]
    assert [line["name"] for line in lines] == ["domain x", "domain y", "domain z", "all"]
    assert [one["name"] for one in judged(other)["unlike"]] == ["think"]
    allowed = judged(other, "--allow", "think")
    assert allowed["unlike"] == [] and allowed["lines"]


def test_terminal_output_fits_and_says_the_verdict(published):
    done = CliRunner().invoke(compare_command, [str(p) for p in published])
    assert done.exit_code == 0
    said = "undecided (too few questions to tell): imatrix (B) against other (A), +2.2 points"
    assert done.output.startswith(said)
    assert max(map(len, done.output.splitlines())) <= compare_cmd.WIDE
    for word in ("too few", "0.754", "detectable", "equivalence within 3 points", "flips: 10"):
        assert word in done.output
