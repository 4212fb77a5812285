"""Joining, refusing and judging two runs; every view of the outcome; the command's statuses."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats as sp

from ds4bench.commands.compare import ALLOWABLE, compare_command, parse_tolerances
from ds4bench.compare import stats
from ds4bench.compare import view as compare_view
from ds4bench.compare.conditions import CONDITIONS
from ds4bench.compare.judge import compare, compare_pairs
from ds4bench.compare.samples import FIELDS, SHAPE_FIELDS, Arm, load_arm, unlike
from ds4bench.compare.stats import Verdict
from ds4bench.records import csv_text as records_csv
from ds4bench.records.rows import SweepResult
from engine.errors import EngineError, OptionError
from engine.tooling import exits
from engine.tooling.report.labels import escape_markdown
from tests.ds4bench.speed_rows import CTX, ENVIRONMENT, FINGERPRINT, sweep, write_journal


def arm(rows, label="base", environment=None, fingerprint=None, **kw):
    record = {
        **ENVIRONMENT,
        **(environment or {}),
        "fingerprint": {**FINGERPRINT, **(fingerprint or {})},
    }
    return Arm(label, (SweepResult(tuple(rows), record, "memory", **kw),))


def pairs(n, slower, seed=0, **kw):
    sides = [
        [arm(sweep(runs=1, slower=s, seed=seed + 1000 * k + i, **kw)) for i in range(n)]
        for k, s in enumerate((1.0, slower))
    ]
    return compare_pairs(*sides)


def line(result, metric, mode, ctx=None):
    lines = result.curves if ctx is None else result.cells
    [found] = [x for x in lines if (x.metric, x.mode, x.ctx_tokens) == (metric, mode, ctx)]
    return found


def test_effects_are_welchs_on_logs_of_the_files_rates():
    base, head = sweep(seed=1), sweep(slower=0.97, seed=2)

    result = compare(arm(base), arm(head, "head"))

    found = line(result, "decode", "plain", 4096)
    a, b = (
        np.log([r.gen_tps for r in rows if (r.mode, r.ctx_tokens) == ("plain", 4096)])
        for rows in (base, head)
    )
    bounds = sp.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert found.judgement.interval.low == pytest.approx(bounds.low)
    assert found.judgement.interval.high == pytest.approx(bounds.high)
    assert found.base_rate == pytest.approx(math.exp(a.mean()))
    assert found.judgement.tolerance == 2 * stats.TOLERANCES["decode"]


def test_a_curve_is_the_mean_of_its_frontiers_per_run():
    base, head = sweep(seed=1), sweep(slower=0.97, seed=2)

    found = line(compare(arm(base), arm(head)), "decode", "plain")

    def per_run(rows):
        return [
            np.mean([math.log(r.gen_tps) for r in rows if r.run == run and r.mode == "plain"])
            for run in range(1, 7)
        ]

    assert found.judgement.estimate == stats.unpaired(per_run(base), per_run(head))
    assert found.frontiers == len(CTX)


def test_paired_finds_a_small_loss_and_clears_equal_code():
    assert pairs(8, 0.95).verdict is Verdict.REGRESSED
    same = pairs(8, 1.0)
    assert same.verdict is Verdict.FINE
    assert same.exit_code(strict=True) == exits.OK
    assert all(c.hodges_lehmann is not None and c.bca is None for c in same.curves)
    assert all(c.bca is not None for c in pairs(20, 1.0).curves)


def test_paired_tolerances_are_the_defaults():
    found = {(c.metric, c.mode): c.judgement.tolerance for c in pairs(6, 1.0).curves}
    assert found == {
        ("prefill", "plain"): 0.03,
        ("decode", "plain"): 0.02,
        ("decode", "mtp-combined"): 0.05,
        ("steps", "mtp-combined"): 0.02,
    }


def test_speculative_decode_is_split_into_steps_and_tokens_per_step():
    base = sweep(seed=1, noise=0.0)
    head = [
        replace(r, steps=r.steps - 4, gen_s=r.gen_s) if r.mode != "plain" else r
        for r in sweep(seed=2, noise=0.0)
    ]

    result = compare(arm(base), arm(head))

    # Same seconds in fewer steps: decode as before, steps slower, content changed.
    assert line(result, "decode", "mtp-combined").judgement.estimate.mean == pytest.approx(0.0)
    assert line(result, "steps", "mtp-combined").judgement.estimate.mean < -0.1
    assert [t.same for t in result.tokens] == [False] * len(CTX)
    assert result.tokens[0].base == pytest.approx(64 / 36)
    assert any("tokens per step differ in 3 of 3 cells" in n for n in result.notes)
    assert all(t.same and t.deterministic for t in compare(arm(base), arm(base)).tokens)


def test_single_samples_are_described_only():
    result = compare(arm(sweep(runs=1)), arm(sweep(runs=1, slower=0.9)))

    assert result.verdict is Verdict.DESCRIBED
    assert (result.exit_code(), result.exit_code(strict=True)) == (0, exits.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("name", "environment", "fingerprint"),
    [
        ("cpu", {"cpu": {"name": "Other", "usable_cores": 8}}, {}),
        ("cores", {"cpu": {"name": "Fake 9000", "usable_cores": 4}}, {}),
        ("gpu", {"gpu": {"name": "H100"}}, {}),
        ("model", {"model": [{"sha256": "cd" * 32}]}, {}),
        ("prompt", {}, {"prompt": "generated:1"}),
        ("sampling", {}, {"sampling": {"temp": 0.7, "seed": 1}}),
        ("threads", {}, {"threads": 2}),
        ("activations", {}, {"activations": "f32"}),
        ("kv", {}, {"kv": "f32"}),
        ("mtp_draft", {}, {"mtp_draft": 2}),
        ("draft_max", {}, {"draft_max": 3}),
        ("draft_confidence", {}, {"draft_confidence": 0.5}),
        ("draft_adaptive", {}, {"draft_adaptive": True}),
        ("repack", {"engine": {"repacked_bytes": 5}}, {"repack": "auto"}),
        ("switches", {}, {"switches": {"DS4_CPU_ISA": "avx2"}}),
        ("gpu", {"engine": {"device_name": "Stub H100"}}, {}),
        ("backend", {}, {"backend": "cuda"}),
        ("launch", {}, {"launch": "prepared"}),
        ("residency", {}, {"residency": "mapped"}),
        ("residency_route", {"engine": {"residency_route": "pageable"}}, {}),
    ],
)
def test_unlike_circumstances_are_refused_by_name(name, environment, fingerprint):
    base, head = arm(sweep()), arm(sweep(), "head", environment, fingerprint)

    result = compare(base, head)
    allowed = compare(base, head, allow=[name])

    assert [d.name for d in result.unlike] == [name]
    assert result.verdict is None and result.exit_code() == exits.INCOMPARABLE
    assert f"unlike in {name}:" in compare_view.to_markdown(result).replace("\\", "")
    assert allowed.verdict is Verdict.FINE and [d.name for d in allowed.allowed] == [name]


def test_settings_of_dspark_are_no_matter_where_it_did_not_draft():
    """A plan has their defaults; one of an earlier release has none."""
    plan = {"draft_max": None, "draft_confidence": 0.0, "draft_adaptive": False}
    assert unlike(arm(sweep()), arm(sweep(), environment={"plan": plan})) == []


def test_a_touched_copy_of_a_large_model_is_the_same_model():
    base, head = (
        arm(
            sweep(),
            environment={"model": [{"sha256": None, "header_sha256": "ee", "size": 9, "id": i}]},
        )
        for i in ("header:1", "header:2")
    )
    assert unlike(base, head) == []


def test_another_shape_of_sweep_is_refused_by_name():
    base = sweep()
    cases = {
        "modes": sweep(modes=("plain",)),
        "sweep": sweep(ctx=(2048, 8192)),
        "prefill_tokens": [replace(r, prefill_tokens=99) for r in base],
        "gen_tokens": [replace(r, gen_tokens=128) for r in base],
    }
    for name, rows in cases.items():
        assert name in [d.name for d in compare(arm(base), arm(rows)).unlike], name
    more_modes = compare(arm(sweep(modes=("plain",))), arm(base))
    assert more_modes.unlike == []


def test_rows_of_other_prefill_are_never_joined_even_when_allowed():
    head = [replace(r, prefill_tokens=99) if r.ctx_tokens == 4096 else r for r in sweep()]

    result = compare(arm(sweep()), arm(head), allow=["prefill_tokens"])

    assert {c.ctx_tokens for c in result.cells} == {2048, 8192}
    assert result.verdict is Verdict.FINE

    nothing = [replace(r, prefill_tokens=99) for r in sweep()]
    result = compare(arm(sweep()), arm(nothing), allow=["prefill_tokens"])
    assert result.exit_code() == exits.INCOMPARABLE


def test_every_field_can_be_allowed():
    assert set(ALLOWABLE) == {*FIELDS, *SHAPE_FIELDS, *CONDITIONS, "outputs", "validity"}


def test_bare_files_are_taken_to_be_alike_and_said_so(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_bytes(records_csv.to_csv(sweep(), False))

    bare = [load_arm(tmp_path / f"{name}.csv") for name in ("a", "b")]
    result = compare(*bare)

    assert result.verdict is Verdict.FINE
    assert any("neither file says machine" in n for n in result.notes)
    assert any("rounded" in n for n in result.notes)
    known = arm(sweep())
    assert {d.name for d in compare(known, bare[0]).unlike} >= {"cpu", "model", "prompt"}


def test_a_cell_that_fails_or_lies_in_head_is_a_regression():
    rows = sweep()
    failed = [
        replace(r, status="crashed_segv") if (r.ctx_tokens, r.run) == (4096, 2) else r for r in rows
    ]
    lossy = [replace(r, lossless=False) if r.mode != "plain" else r for r in rows]

    crash, lie = compare(arm(rows), arm(failed)), compare(arm(rows), arm(lossy))

    assert crash.verdict is lie.verdict is Verdict.REGRESSED
    assert "plain at 4096: crashed_segv in head, ok in base" in crash.broken
    assert "tokens differ from plain's" in lie.broken[0]
    assert not compare(arm(lossy), arm(lossy)).broken
    # The frontier that one sample lacks is judged over the others, and that is said.
    counts = {c.ctx_tokens: c.judgement.estimate.n for c in crash.cells if c.mode == "plain"}
    assert counts == {2048: 6, 4096: 5, 8192: 6}
    assert any("decode plain at 4096 (base 6 of 6, base 5 of 6)" in n for n in crash.notes)


def test_a_cell_that_fails_on_both_sides_is_not_heads_fault():
    rows = sweep()
    failed = [
        replace(r, status="crashed_segv") if (r.ctx_tokens, r.run) == (4096, 2) else r for r in rows
    ]
    assert not compare(arm(failed), arm(failed, "head")).broken


def test_a_session_of_pairs_is_no_arm(tmp_path):
    write_journal(tmp_path / "session" / "001-base", sweep())
    (tmp_path / "session" / "pairs.jsonl").touch()
    with pytest.raises(EngineError, match="found an ab session"):
        load_arm(tmp_path / "session")


def test_several_processes_are_the_samples(tmp_path):
    for arm_name, slower in (("base", 1.0), ("head", 1.0)):
        for i in range(5):
            rows = sweep(runs=2, slower=slower, seed=i)
            write_journal(tmp_path / arm_name / f"run{i}", rows)

    base, head = load_arm(tmp_path / "base"), load_arm(tmp_path / "head")
    result = compare(base, head)

    assert (result.unit, result.n_base, base.label) == ("process", 5, "base")
    shutil.rmtree(tmp_path / "head" / "run4")
    write_journal(tmp_path / "head" / "run4", sweep(), {"cpu": {"name": "Other"}})
    with pytest.raises(EngineError, match="expected a repeat of"):
        load_arm(tmp_path / "head")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match=r"expected rows\.jsonl or folders"):
        load_arm(tmp_path / "empty")


def test_load_refuses_a_run_without_a_good_row(tmp_path):
    folder = write_journal(tmp_path / "r", [replace(r, status="error") for r in sweep(runs=1)])
    with pytest.raises(EngineError, match="expected at least one finished row"):
        load_arm(folder)


def test_strict_json_even_with_unbounded_numbers():
    for runs in (1, 6):
        text = compare_view.json_text(compare(arm(sweep(runs=runs)), arm(sweep(runs=runs))))
        record = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
        assert record["curves"][0]["interval_95"] is None or runs > 1


@pytest.mark.parametrize(
    "text",
    ["a|b", "<img src=x onerror=1>", "@someone", "[x](http://e)", "`code`", "**b**", "#12", "a\nb"],
)
def test_markdown_shows_labels_as_they_are(text):
    shown = escape_markdown(text)

    for bad in ("<img", "@s", "x](", "://e", "\n"):
        assert bad not in shown
    for mark in "|`*#[":
        assert shown.count(mark) == shown.count("\\" + mark)


def test_markdown_table_has_as_many_cells_in_every_row():
    result = compare(arm(sweep(), "b|ad"), arm(sweep(slower=0.8), "<he@d>"))

    table = [x for x in compare_view.to_markdown(result).splitlines() if x.startswith("|")]

    assert {len(x.replace("\\|", "").split("|")) for x in table} == {11}
    assert len(table) > 6


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["decode=1"], {"decode": 0.01}),
        (["4%", "steps=1"], {"prefill": 0.04, "decode": 0.04, "decode_mtp": 0.04, "steps": 0.01}),
        ([], {}),
    ],
)
def test_tolerances(given, expected):
    assert parse_tolerances(given) == pytest.approx(expected)


@pytest.mark.parametrize("bad", ["x", "0", "-1", "nan", "inf", "100", "speed=2", "=2", ""])
def test_bad_tolerances_are_refused(bad):
    with pytest.raises(OptionError, match="--tolerance: expected"):
        parse_tolerances([bad])


@pytest.mark.parametrize(
    ("head", "options", "code"),
    [
        (sweep(seed=5), [], exits.OK),
        (sweep(seed=5, slower=0.8), [], exits.REGRESSION),
        (sweep(seed=5, slower=0.96), ["--strict"], exits.INCONCLUSIVE),
        (sweep(seed=5, slower=0.96), [], exits.OK),
        (sweep(seed=5, slower=0.99), ["--tolerance", "0.1"], exits.REGRESSION),
        (sweep(seed=5, ctx=(2048,)), [], exits.INCOMPARABLE),
        (sweep(seed=5, ctx=(2048,)), ["--allow", "sweep"], exits.OK),
        (sweep(seed=5), ["--allow", "weather"], exits.USAGE),
        (sweep(seed=5), ["--json", "missing/x.json"], exits.USAGE),
        ([replace(r, status="error") for r in sweep()], [], exits.ERROR),
    ],
)
def test_exit_statuses(tmp_path, monkeypatch, head, options, code):
    monkeypatch.chdir(tmp_path)
    write_journal(tmp_path / "base", sweep())
    write_journal(tmp_path / "head", head)

    result = CliRunner().invoke(compare_command, ["base", "head", *options])

    assert result.exit_code == code, result.output


def test_command_prints_and_writes_every_form(tmp_path):
    write_journal(tmp_path / "base", sweep())
    write_journal(tmp_path / "head", sweep(seed=3, slower=0.85))
    md, js = tmp_path / "a.md", tmp_path / "a.json"
    arguments = [str(tmp_path / "base"), str(tmp_path / "head")]

    table = CliRunner().invoke(compare_command, [*arguments, "--markdown", str(md)])
    printed = CliRunner().invoke(compare_command, [*arguments, "--format", "json", "--all"])
    CliRunner().invoke(compare_command, [*arguments, "--json", str(js)])

    assert "REGRESSED: head against base, 6 and 6 repeats" in table.output
    assert "MDE" in table.output
    assert md.read_text().startswith("### ❌ REGRESSED")
    assert json.loads(printed.output)["verdict"] == "regressed"
    assert json.loads(js.read_text())["samples"] == {"base": 6, "head": 6}
