"""What one run a side can say, and the words of verdicts (FAULTS.md)."""

from __future__ import annotations

from click.testing import CliRunner

from ds4bench.ab import noise
from ds4bench.commands.report import report_command, worst
from ds4bench.compare import view
from ds4bench.compare.stats import Verdict
from engine.tooling import exits
from tests.ds4bench.speed_rows import ENVIRONMENT, sweep, write_journal

LONG = (2048, 4096, 8192, 16384)


# --- 13: one run each ---------------------------------------------------------------------------


def gate(tmp_path, slower):
    for name, factor in (("base", 1.0), ("head", slower)):
        rows = sweep(runs=1, slower=factor, modes=("plain",))
        write_journal(tmp_path / f"{name}{slower}", rows)
    options = ["--base", str(tmp_path / f"base{slower}"), "--out", str(tmp_path / "out"), "--force"]
    return (
        CliRunner()
        .invoke(report_command, [str(tmp_path / f"head{slower}"), *options, "--gate"])
        .exit_code
    )


def test_a_lone_run_far_slower_fails_every_gate(judged, tmp_path):
    base, head = sweep(runs=1), sweep(runs=1, slower=0.5)

    result = judged(base, head)

    assert result.exit_code == judged(base, head, "--strict").exit_code == exits.REGRESSION
    assert result.output.startswith("FAR SLOWER (one run each: no interval)")
    assert "more than 10 times" in result.output.replace("\n  ", " ")
    assert gate(tmp_path, 0.5) == exits.REGRESSION
    assert 'failure message="-50' in (tmp_path / "out" / "junit.xml").read_text()


def test_a_lone_run_is_no_pass_of_a_gate(judged, tmp_path):
    base, head = sweep(runs=1), sweep(runs=1, slower=0.9)

    result = judged(base, head)

    assert result.exit_code == exits.OK
    assert result.output.startswith("no verdict (one run each: no interval)")
    assert judged(base, head, "--strict").exit_code == exits.INCONCLUSIVE
    assert gate(tmp_path, 0.9) == gate(tmp_path, 1.0) == exits.INCONCLUSIVE


def test_far_is_measured_in_this_machines_noise(judged):
    machine = noise.machine_id(ENVIRONMENT)
    floors = (noise.Floor("decode", "plain", 0.004, 8, 0.0),)
    noise.store(noise.Calibration(machine, 0.0, floors))
    base, head = (sweep(runs=1, slower=s, modes=("plain",)) for s in (1.0, 0.9))
    # 4 % tolerance without pairs, and ten times 0.4 %.
    assert judged(base, head).exit_code == exits.REGRESSION
    noisy = (noise.Floor("decode", "plain", 0.02, 8, 0.0),)
    noise.store(noise.Calibration(machine, 0.0, noisy))
    assert judged(base, head).exit_code == exits.OK


def test_one_runs_lack_of_data_hides_no_regression_of_another():
    assert worst([exits.INCONCLUSIVE, exits.REGRESSION, exits.INCOMPARABLE]) == exits.REGRESSION
    assert worst([]) == exits.OK


# --- 31: words ----------------------------------------------------------------------------------


def test_a_loss_that_was_shown_is_not_called_fine(judged):
    loss = judged(sweep(), sweep(seed=2, slower=0.967))
    gain = judged(sweep(), sweep(seed=2, slower=1.1))

    assert loss.exit_code == exits.OK
    assert loss.output.startswith("slower, within tolerance: ")
    assert "slower, within tolerance (tolerance 4 %)" in loss.output
    assert gain.output.startswith("fine: ") and "faster (tolerance" in gain.output


def test_every_verdict_has_words_and_a_tone():
    assert set(view.WORDS) == set(view.TONES) == {*Verdict, None}
