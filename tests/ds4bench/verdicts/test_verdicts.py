"""Faults that once gave a wrong verdict, one test each (FAULTS.md), mostly through commands."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from ds4bench.ab import noise
from ds4bench.ab.loop import AbSession
from ds4bench.ab.plan import AbPlan, Setup
from ds4bench.commands.ab import ab_command
from ds4bench.commands.calibrate import calibrate_command
from ds4bench.compare import grid
from ds4bench.compare.judge import compare
from ds4bench.compare.outputs import compare_outputs
from ds4bench.compare.samples import load_arm
from ds4bench.compare.stats import Verdict
from ds4bench.records.csv_text import to_csv
from ds4bench.records.rows import Telemetry
from engine.tooling import exits
from tests.ds4bench.speed_rows import ENVIRONMENT, sweep, write_journal
from tests.ds4bench.test_ab import FAKE, FakeSweeps
from tests.ds4bench.test_compare import arm
from tests.ds4bench.verdicts.rows import hashed, slow

SIDE = Setup(("true",))
LONG = (2048, 4096, 8192, 16384)


def session(tmp_path, change, allow=(), **plan):
    sweeps = FakeSweeps(noise=0.002)

    def measure(letter, folder):
        slot = len(sweeps.calls)
        sweeps.calls.append(letter)
        rows = sweep(runs=1, noise=0.002, seed=slot, ctx=LONG, modes=("plain",))
        write_journal(folder, change(letter, slot, rows))

    run = AbSession(AbPlan(SIDE, SIDE, 3, **plan), tmp_path / "s", measure, allow=allow)
    return run, run.run()


# --- 3: one missing cell ------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--strict"]])
def test_a_repeat_that_stopped_early_hides_no_loss(judged, options):
    base = sweep(runs=5, ctx=LONG, modes=("plain",))
    head = slow(
        sweep(runs=5, ctx=LONG, modes=("plain",), seed=9), 0.5, lambda r: r.ctx_tokens > 2048
    )
    head = [r for r in head if r.run < 5 or r.ctx_tokens == 2048]

    result = judged(base, head, *options)

    assert result.exit_code == exits.REGRESSION, result.output
    where = "decode plain at 4096, 8192, 16384 (0-base 5 of 5, 1-head 4 of 5)"
    assert where in " ".join(result.output.split())


@pytest.mark.parametrize(("loss", "word"), [(0.5, Verdict.REGRESSED), (0.0, Verdict.FINE)])
def test_a_timeout_of_a_hides_no_loss_of_b_and_makes_none(tmp_path, loss, word):
    def change(letter, slot, rows):
        if letter == "b" and loss:
            rows = slow(rows, 1 - loss, lambda r: r.ctx_tokens == 16384)
        if letter == "a" and slot in (4, 5):
            rows = [replace(r, status="timeout") if r.ctx_tokens == 16384 else r for r in rows]
        return rows

    _, result = session(tmp_path, change)

    assert result.verdict is word
    [cell] = [c for c in result.cells if (c.metric, c.ctx_tokens) == ("decode", 16384)]
    assert cell.judgement.estimate.n == result.n_base - 1
    assert any("decode plain at 16384 (A" in note and "5 of 6" in note for note in result.notes)


def test_gaps_are_filled_as_two_way_least_squares_would():
    rng = np.random.default_rng(0)
    whole = rng.normal(0, 0.01, (6, 1)) + np.linspace(3, 1, 4) + rng.normal(0, 0.003, (6, 4))
    holes = whole.copy()
    holes[0, 3] = holes[2, 0] = holes[2, 1] = np.nan
    known = ~np.isnan(holes)
    rows, columns = np.nonzero(known)
    design = np.zeros((known.sum(), 10))
    design[np.arange(known.sum()), rows] = design[np.arange(known.sum()), 6 + columns] = 1
    fit = np.linalg.lstsq(design, holes[known], rcond=None)[0]
    filled = np.where(known, holes, fit[:6, None] + fit[6:])

    assert grid.means(holes) == pytest.approx(filled.mean(axis=1), abs=1e-10)
    assert grid.means(whole) == pytest.approx(whole.mean(axis=1), abs=1e-15)
    # A row without its slowest column must not look fast.
    assert (
        abs(grid.means(holes)[0] - whole[0].mean()) < 0.01 < np.nanmean(holes[0]) - whole[0].mean()
    )


def test_a_frontier_that_few_samples_have_does_not_stand_for_the_curve():
    rows = sweep(runs=6, ctx=LONG, modes=("plain",))
    rare = [r for r in rows if r.ctx_tokens < 16384 or r.run <= 2]
    result = compare(arm(rows), arm(rare, "head"))
    assert {c.frontiers for c in result.curves} == {3}
    assert any("head 2 of 6" in note for note in result.notes)


# --- 4: outputs ---------------------------------------------------------------------------------


def test_other_tokens_are_a_status_of_their_own(judged):
    base, head = hashed(sweep()), hashed(sweep(seed=2, slower=1.2), "b")

    refused = judged(base, head)
    allowed = judged(base, head, "--allow", "outputs")
    same = judged(base, hashed(sweep(seed=2)), "--format", "json")

    assert refused.exit_code == exits.OUTPUTS_DIFFER
    assert refused.output.startswith("OUTPUTS DIFFER")
    assert "other tokens in 6 of 6 cells: plain at 2048" in refused.output
    assert "--allow outputs would" in refused.output
    assert allowed.exit_code == exits.OK and "allowed to differ in outputs" in allowed.output
    assert same.exit_code == exits.OK and json.loads(same.output)["outputs"] == []


def test_tokens_are_compared_only_where_they_can_be():
    base, head = sweep(modes=("plain",)), hashed(sweep(modes=("plain",)))
    unknown = compare(arm(base), arm(head))
    assert unknown.verdict is Verdict.FINE
    assert any("not recorded on both sides" in n for n in unknown.notes)

    flaky = [replace(r, token_hash=f"{r.ctx_tokens} {r.run % 2}") for r in base]
    result = compare(arm(flaky), arm(head))
    assert result.verdict is Verdict.FINE
    assert any("does not repeat its own tokens: plain at 2048" in n for n in result.notes)
    # The other way round head has lost something: base always said the same.
    assert compare(arm(head), arm(flaky)).verdict is Verdict.OUTPUTS

    sampled = {"sampling": {"temp": 0.7, "seed": 1}}
    by_run = [replace(r, token_hash=f"{r.ctx_tokens} {r.run}") for r in base]
    again = compare(*(arm(by_run, fingerprint=sampled) for _ in range(2)))
    other = [replace(r, token_hash=f"{r.ctx_tokens} {r.run + 1}") for r in base]
    assert again.verdict is Verdict.FINE and not again.outputs
    changed = compare(arm(by_run, fingerprint=sampled), arm(other, fingerprint=sampled))
    assert changed.verdict is Verdict.OUTPUTS

    longer = [replace(r, gen_tokens=65) for r in hashed(base, "c")]
    result = compare(arm(head), arm(longer), allow=["gen_tokens"])
    assert not result.outputs


def test_a_csv_emitted_what_its_journal_says(tmp_path):
    rows = [replace(r, token_hash=f"{r.ctx_tokens:04x}" * 16) for r in sweep(modes=("plain",))]
    journal = load_arm(write_journal(tmp_path / "run", rows))
    (tmp_path / "run.csv").write_bytes(to_csv(rows, False))
    csv = load_arm(tmp_path / "run.csv")

    found = compare_outputs(journal, csv)

    assert (found.compared, found.differing) == (3, [])
    assert {len(r.token_hash) for r in csv.rows} == {16}, "a CSV holds the beginning"


def test_a_session_with_other_tokens_ends_early_with_that_status(tmp_path):
    run, result = session(tmp_path, lambda letter, slot, rows: hashed(rows, letter), max_pairs=20)
    assert (result.verdict, len(run.pairs)) == (Verdict.OUTPUTS, 1), "the warm-up shows it"
    assert result.exit_code() == exits.OUTPUTS_DIFFER

    def late(letter, slot, rows):
        return hashed(rows, "b" if letter == "b" and slot > 3 else "a")

    run, result = session(tmp_path / "late", late, max_pairs=20)
    assert (result.verdict, len(run.valid)) == (Verdict.OUTPUTS, 6)

    run, result = session(
        tmp_path / "2", lambda letter, slot, rows: hashed(rows, letter), allow=["outputs"]
    )
    assert result.verdict is Verdict.FINE


def test_rows_that_the_machine_spoiled_are_no_fault_of_heads():
    rows = sweep()
    spoiled, crashed = (
        [replace(r, status=s) if (r.ctx_tokens, r.run) == (4096, 2) else r for r in rows]
        for s in ("stalled", "crashed_segv")
    )
    assert compare(arm(rows), arm(spoiled)).verdict is Verdict.FINE
    assert compare(arm(rows), arm(crashed)).verdict is Verdict.REGRESSED


def test_code_that_does_not_repeat_its_tokens_is_no_calibration(tmp_path, monkeypatch):
    from ds4bench.ab import process

    monkeypatch.setattr(noise, "folder", lambda: tmp_path / "data")
    unsteady = FakeSweeps(change=lambda letter, slot, rows: hashed(rows, str(slot)))
    monkeypatch.setattr(process, "sweep_runner", lambda plan, signals: unsteady)

    options = ["--out", str(tmp_path / "s"), "--pairs", "5", "--max-load", "100"]
    result = CliRunner().invoke(calibrate_command, options)

    assert result.exit_code == exits.OUTPUTS_DIFFER
    assert "the same code emitted other tokens in 4 of 4 cells" in result.output
    assert not (tmp_path / "data").exists()


# --- 9: a power cap -----------------------------------------------------------------------------


def test_a_power_cap_of_both_sides_drops_no_pair(tmp_path):
    def capped(letter, slot, rows):
        return [replace(r, telemetry=Telemetry(gpu_throttle="sw-power-cap")) for r in rows]

    run, result = session(tmp_path, capped)
    assert result.verdict is Verdict.FINE and not run.dropped


def test_a_power_cap_of_one_side_or_heat_drops_the_pair(tmp_path):
    def uneven(letter, slot, rows):
        why = "sw-power-cap" if letter == "b" and slot in (2, 3) else ""
        why = "sw-power-cap+hw-thermal" if slot in (4, 5) else why
        return [replace(r, telemetry=Telemetry(gpu_throttle=why)) for r in rows]

    run, _ = session(tmp_path, uneven)
    assert [p.reasons for p in run.dropped] == [
        ("GPU throttled unevenly: sw-power-cap in 0 of 4 and 4 of 4 rows",),
        ("GPU throttled: hw-thermal",),
    ]


def test_the_hint_on_disturbed_pairs_works(tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "folder", lambda: tmp_path / "data")
    from ds4bench.ab import process

    def hot(letter, slot, rows):
        return [replace(r, telemetry=Telemetry(gpu_throttle="sw-thermal")) for r in rows]

    monkeypatch.setattr(process, "sweep_runner", lambda plan, signals: FakeSweeps(change=hot))
    options = ["--out", str(tmp_path / "s"), "--max-load", "100", "--seed", "1", "--max-pairs", "8"]
    options += ["--a", FAKE, "--b", FAKE]

    unfit = CliRunner().invoke(ab_command, options)
    again = CliRunner().invoke(ab_command, [*options, "--resume", "--allow", "validity"])

    assert unfit.exit_code == exits.INCOMPARABLE
    assert "--allow validity would" in unfit.output
    assert again.exit_code == exits.OK, again.output
    assert "counted though disturbed: GPU throttled: sw-thermal" in again.output


# --- 11, 12, 24: refusals -----------------------------------------------------------------------


def test_default_threads_are_the_same_as_their_number(judged):
    rows = sweep()
    same = judged(rows, rows, fingerprint={"threads": 8})
    other = judged(rows, rows, fingerprint={"threads": 4})
    recorded = arm(rows, environment={"engine": {"threads": 6}})

    assert same.exit_code == exits.OK, same.output
    assert other.exit_code == exits.INCOMPARABLE and "threads: expected 8, found 4" in other.output
    assert compare(recorded, arm(rows, fingerprint={"threads": 6})).verdict is Verdict.FINE


def test_repacking_is_compared_as_it_came_out():
    rows = sweep()

    def repacked(asked, size):
        return arm(rows, environment={"engine": {"repacked_bytes": size}}, fingerprint=asked)

    off, on = repacked({"repack": "off"}, 0), repacked({"repack": "on"}, 9)
    assert [d.name for d in compare(off, on).unlike] == ["repack"]
    assert compare(repacked({"repack": "auto"}, 9), on).verdict is Verdict.FINE
    assert compare(repacked({"repack": "auto"}, 0), off).verdict is Verdict.FINE
    # A backend that older records do not name is the processor.
    assert compare(arm(rows), arm(rows, fingerprint={"backend": "cpu"})).verdict is Verdict.FINE


def test_plain_rows_of_a_sweep_of_all_modes_are_a_plain_sweep(judged):
    model = [*ENVIRONMENT["model"], {"path": "/mtp.gguf", "size": 5, "sha256": "cd" * 32}]
    drafts = {"mtp_draft": 3, "mtp_adaptive": True, "mtp_margin": 0.5}

    plain = sweep(modes=("plain",))
    result = judged(plain, sweep(), environment={"model": model}, fingerprint=drafts)
    slower = judged(plain, sweep(slower=0.8), environment={"model": model}, fingerprint=drafts)
    both = judged(sweep(), sweep(), environment={"model": model}, fingerprint=drafts)

    assert result.exit_code == exits.OK, result.output
    assert slower.exit_code == exits.REGRESSION
    assert both.exit_code == exits.INCOMPARABLE and "mtp_draft" in both.output


def test_all_words_that_are_needed_are_named_at_once(judged):
    model = {"model": [{"sha256": "ee" * 32}]}
    base, head = hashed(sweep()), hashed(sweep(ctx=(2048, 4096)), "b")

    refused = judged(base, head, environment=model)
    words = ["--allow", "model", "--allow", "sweep", "--allow", "outputs"]
    allowed = judged(base, head, *words, environment=model)

    assert " ".join(words) in refused.output
    assert allowed.exit_code == exits.OK, allowed.output


def test_an_option_that_was_given_is_not_advised(judged):
    result = judged(sweep(ctx=(2048,)), sweep(ctx=(4096,)), "--allow", "sweep")
    assert result.exit_code == exits.INCOMPARABLE
    assert "no option can compare these" in result.output
    assert "--allow" not in result.output
