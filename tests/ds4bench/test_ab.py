"""Pairs, order, stopping, invalidation and resume of `ab`; calibration on top of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ds4bench.ab import noise as calibrate
from ds4bench.ab import validity as ab_valid
from ds4bench.ab.loop import SCHEMA, SCHEMA_VERSION, AbSession
from ds4bench.ab.plan import AbPlan, Setup, side
from ds4bench.ab.process import SessionSignals, Stopped, quiet_machine, sweep_runner
from ds4bench.commands.ab import ab_command, split_targets
from ds4bench.commands.calibrate import calibrate_command
from ds4bench.compare import stats
from ds4bench.compare.samples import Arm
from ds4bench.compare.stats import Verdict
from ds4bench.records.rows import SweepResult, Telemetry
from engine.errors import EngineError, OptionError, StoreError
from engine.tooling import exits
from engine.tooling.results.journal import read_journal
from tests.ds4bench.speed_rows import ENVIRONMENT, sweep, write_journal

FAKE = f"{sys.executable} {Path(__file__).with_name('fake_sweep.py')}"
SIDE = Setup(("true",))
ROOT = Path(__file__).resolve().parents[2]


class FakeSweeps:
    """Sweeps in no time: drift of 1 per cent a session, noise, and a loss of side B."""

    def __init__(self, loss=0.0, noise=0.004, drift=0.01, seed=0, change=None):
        self.rng = np.random.default_rng(seed)
        self.loss, self.noise, self.drift, self.change = loss, noise, drift, change
        self.calls: list[str] = []

    def __call__(self, letter, folder):
        slot = len(self.calls)
        self.calls.append(letter)
        slower = (1 - self.loss if letter == "b" else 1.0) * (1 - self.drift * slot / 24)
        seed = int(self.rng.integers(2**32))
        rows = sweep(runs=1, slower=slower, noise=self.noise, seed=seed, ctx=(2048, 4096))
        if self.change:
            rows = self.change(letter, slot, rows)
        write_journal(folder, rows)


def session(tmp_path, sweeps, **plan):
    return AbSession(AbPlan(SIDE, SIDE, plan.pop("seed", 3), **plan), tmp_path / "s", sweeps)


def test_order_is_abba_behind_one_discarded_pair(tmp_path):
    sweeps = FakeSweeps()
    run = session(tmp_path, sweeps, max_pairs=6)

    result = run.run()

    order = "".join(stats.abba(7, 3)).lower()
    assert "".join(sweeps.calls) == order
    assert order[2:6] in ("abba", "baab")
    assert len(run.valid) == result.n_base == 6
    assert any("1 warm-up pair discarded" in n for n in result.notes)


def test_stops_when_decided_not_before_and_not_long_after(tmp_path):
    fine = session(tmp_path / "1", FakeSweeps(noise=0.002))
    slow = session(tmp_path / "2", FakeSweeps(loss=0.10))
    line = session(tmp_path / "3", FakeSweeps(loss=0.02, noise=0.02), max_pairs=9)

    assert fine.run().verdict is Verdict.FINE and len(fine.valid) == 6
    assert slow.run().verdict is Verdict.REGRESSED and len(slow.valid) == 6
    line.run()
    assert len(line.valid) == 9


def test_budget_ends_sampling(tmp_path):
    now = iter(range(0, 10_000, 100))
    run = session(tmp_path, FakeSweeps(loss=0.02, noise=0.05), budget_s=450.0)
    run.clock = lambda: next(now)
    run.run()
    # The clock moves 100 s at every look: at start and before each pair.
    assert len(run.pairs) == 5


def test_disturbed_pairs_are_dropped_whole_and_the_order_goes_on(tmp_path):
    def throttled(letter, slot, rows):
        hot = Telemetry(gpu_throttle="hw-thermal" if slot == 5 else "")
        return [replace(r, telemetry=hot) for r in rows]

    sweeps = FakeSweeps(change=throttled)
    run = session(tmp_path, sweeps, max_pairs=6)
    result = run.run()

    assert [p.index for p in run.dropped] == [2]
    assert run.dropped[0].reasons == ("GPU throttled: hw-thermal",)
    assert len(run.valid) == 6 and len(sweeps.calls) == 16
    assert "".join(sweeps.calls) == "".join(stats.abba(8, 3)).lower()
    assert any("pair 2 dropped: GPU throttled" in n for n in result.notes)


def test_a_machine_that_is_mostly_disturbed_is_unfit(tmp_path):
    def hot(letter, slot, rows):
        return [replace(r, telemetry=Telemetry(gpu_throttle="sw-thermal")) for r in rows]

    result = session(tmp_path, FakeSweeps(change=hot)).run()

    assert result.verdict is None and result.exit_code() == exits.INCOMPARABLE
    assert result.unlike[0].name == "validity"


def test_other_load_before_a_sweep_drops_its_pair(tmp_path):
    run = session(tmp_path, FakeSweeps(), max_pairs=6)
    answers = iter([None] * 4 + ["other load 80 %"] + [None] * 99)
    run.quiet = lambda: next(answers)
    run.run()
    assert [(p.index, p.reasons) for p in run.dropped] == [(2, ("other load 80 %",))]


def arm(**telemetry):
    rows = [replace(r, telemetry=Telemetry(**telemetry)) for r in sweep(runs=1)]
    return Arm("x", (SweepResult(tuple(rows), ENVIRONMENT, Path("x")),))


@pytest.mark.parametrize(
    ("telemetry", "reason"),
    [
        ({}, None),
        ({"gpu_throttle": ""}, None),
        ({"gpu_throttle": "hw-thermal"}, "GPU throttled: hw-thermal"),
        ({"gpu_other_processes": 1}, "1 other process(es) on the GPU"),
        ({"suspended_s": 30.0}, "the machine slept"),
        ({"gpu_sm_mhz": 1880.0}, "GPU clock fell to 1880 MHz from 2000"),
        ({"gpu_sm_mhz": 1920.0}, None),
        ({"cpu_mhz": 2600.0}, "CPU clock fell to 2600 MHz from 3000"),
        ({"cpu_mhz": 2800.0}, None),
    ],
)
def test_reasons_to_drop_a_pair(telemetry, reason):
    earlier = [arm(gpu_sm_mhz=2000.0, cpu_mhz=3000.0)] * 3

    found = ab_valid.reasons([arm(gpu_sm_mhz=2000.0, cpu_mhz=3000.0), arm(**telemetry)], earlier)

    assert found == ([] if reason is None else [reason])


def test_growing_swap_drops_a_pair():
    first, later = arm(swap_used_bytes=1 << 20), arm(swap_used_bytes=200 << 20)
    assert ab_valid.reasons([first, later], []) == ["swap grew by 199 MiB"]
    assert ab_valid.reasons([later, first], []) == []


def test_unfit_needs_six_pairs_and_more_than_thirty_per_cent():
    assert not ab_valid.unfit(0, 5)
    assert not ab_valid.unfit(7, 3)
    assert ab_valid.unfit(6, 3)


def test_a_killed_session_resumes_without_redoing_pairs(tmp_path):
    class Killed(BaseException):
        pass

    class Mortal(FakeSweeps):
        def __call__(self, letter, folder):
            if len(self.calls) == 9:
                raise Killed
            super().__call__(letter, folder)

    plan = AbPlan(SIDE, SIDE, 3, max_pairs=6)
    with pytest.raises(Killed):
        AbSession(plan, tmp_path / "s", Mortal()).run()
    with pytest.raises(OptionError, match="expected a new folder"):
        AbSession(plan, tmp_path / "s", FakeSweeps()).run()

    again = FakeSweeps(seed=1)
    run = AbSession(plan, tmp_path / "s", again)
    run.run(resume=True)

    # Nine sweeps are four pairs and a half; the half is measured again.
    assert len(again.calls) == 14 - 8
    assert [p.index for p in run.pairs] == list(range(7))
    journal = read_journal(tmp_path / "s" / "pairs.jsonl", SCHEMA, SCHEMA_VERSION)
    assert [r["index"] for r in journal.records if r["kind"] == "pair"] == list(range(7))


def test_resume_refuses_other_commands(tmp_path):
    AbSession(AbPlan(SIDE, SIDE, 3, max_pairs=6), tmp_path, FakeSweeps()).run()
    other = AbPlan(SIDE, Setup(("false",)), 3, max_pairs=6)
    with pytest.raises(OptionError, match="--resume: expected b "):
        AbSession(other, tmp_path, FakeSweeps()).run(resume=True)


def test_unlike_models_end_a_session_early(tmp_path):
    class Unlike(FakeSweeps):
        def __call__(self, letter, folder):
            self.calls.append(letter)
            model = {"model": [{"sha256": letter * 64}]}
            write_journal(folder, sweep(runs=1, ctx=(2048,)), model)

    sweeps = Unlike()
    result = session(tmp_path, sweeps).run()

    assert [d.name for d in result.unlike] == ["model"]
    assert len(sweeps.calls) == 2


def test_options_under_test_may_differ(tmp_path):
    class Threads(FakeSweeps):
        def __call__(self, letter, folder):
            rows = sweep(runs=1, ctx=(2048,), seed=len(self.calls))
            self.calls.append(letter)
            write_journal(folder, rows, fingerprint={"threads": 1 if letter == "a" else 2})

    result = session(tmp_path, Threads(), max_pairs=6).run()

    assert result.verdict is Verdict.FINE
    assert [d.name for d in result.allowed] == ["threads"]


def test_drift_is_noted_and_cancelled(tmp_path):
    result = session(tmp_path, FakeSweeps(drift=0.2, noise=0.001), min_pairs=8).run()

    assert any(n.startswith("drift: decode of A falls") for n in result.notes)
    assert result.verdict is Verdict.FINE


def test_sides_are_checkouts_environments_or_commands(tmp_path):
    (tmp_path / "co" / "ds4bench").mkdir(parents=True)
    (tmp_path / "co" / "ds4bench" / "cli.py").touch()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").touch()

    checkout = side("a", str(tmp_path / "co"), None, None, "", ("--modes",))
    venv = side("b", str(tmp_path / "venv"), None, None, "-t 1", ("-n", "8"))
    own = side("b", None, "ssh 'a b' x", None, "", ())
    here = side("a", None, None, None, "", ())

    assert checkout.checkout == str(tmp_path / "co")
    assert checkout.environment()["PYTHONPATH"].startswith(str(tmp_path / "co"))
    assert checkout.command == (sys.executable, "-m", "ds4bench.cli")
    assert venv.command[0] == str(tmp_path / "venv" / "bin" / "python")
    assert venv.argv(Path("/o")) == [*venv.command, "-n", "8", "-t", "1", "--out", "/o"]
    assert own.command == ("ssh", "a b", "x") and own.checkout == ""
    assert here.checkout == str(ROOT)


def test_file_options_hold_in_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = side("a", None, "x", None, "", ("-m", "m.gguf", "--prompt-file=p.txt", "-n", "8"))
    assert found.arguments == (
        "-m",
        str(tmp_path / "m.gguf"),
        f"--prompt-file={tmp_path / 'p.txt'}",
        "-n",
        "8",
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere", None, None, "", ()), "expected a checkout"),
        (("x", "cmd", None, "", ()), "expected one of an argument"),
        ((None, "", None, "", ()), "--a: expected a command, found nothing"),
        ((None, "a 'b", None, "", ()), "expected shell-like text"),
        ((None, "x", None, "--out d", ()), "found one that ab sets"),
        ((None, "x", None, "", ("--resume",)), "found one that ab sets"),
    ],
)
def test_bad_sides_are_refused(tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=text):
        side("a", *arguments)


def test_targets_stand_in_front_of_sweep_options():
    assert split_targets(("x", "y", "-n", "8")) == (("x", "y"), ("-n", "8"))
    assert split_targets(("-n", "8")) == (None, ("-n", "8"))
    with pytest.raises(OptionError, match="expected two set-ups or none, found 1"):
        split_targets(("x", "-n"))


def test_quiet_machine_waits_and_then_says_how_busy():
    loads, now = iter([90.0, 50.0, 10.0]), iter(range(100))
    assert quiet_machine(25, 30, lambda: next(loads), lambda: next(now))() is None
    now = iter(range(0, 1000, 20))
    busy = quiet_machine(25, 30, lambda: 77.0, lambda: next(now))()
    assert busy == "other load 77 % of all cores before the sweep"


def ab(tmp_path, *arguments):
    options = ["--out", str(tmp_path / "s"), "--seed", "1", "--max-load", "100"]
    return CliRunner().invoke(ab_command, [*options, *arguments])


def test_command_judges_two_commands_in_fresh_processes(tmp_path):
    log = tmp_path / "log"
    result = ab(
        tmp_path,
        *("--a", f"{FAKE} --name a --log {log}", "--b", f"{FAKE} --name b --log {log}"),
        *("--b-args", "--slower 0.8", "--max-pairs", "6", "--markdown", str(tmp_path / "x.md")),
    )

    assert result.exit_code == exits.REGRESSION, result.output
    assert "REGRESSED: B (012345678) against A (012345678), 6 pairs" in result.output
    assert log.read_text() == "".join(stats.abba(7, 1)).lower()
    assert "REGRESSED" in (tmp_path / "x.md").read_text()


def test_command_reports_a_sweep_that_fails(tmp_path):
    result = ab(tmp_path, "--a", FAKE, "--b", FAKE, "--b-args", "--fail 3")

    assert result.exit_code == exits.ERROR
    assert "B: expected exit status 0" in result.output and "it broke" in result.output


@pytest.mark.parametrize(
    "arguments", [["--min-pairs", "9", "--max-pairs", "8"], ["only-one"], ["--tolerance", "x"]]
)
def test_command_refuses_bad_usage(tmp_path, arguments):
    result = ab(tmp_path, "--a", FAKE, "--b", FAKE, *arguments)
    assert result.exit_code == exits.USAGE
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_status_and_leave_no_sweep_behind(tmp_path, number, code):
    mark = f"--name=m{os.getpid()}x{int(number)}"
    command = [
        *(sys.executable, "-c", "from ds4bench.commands.ab import ab_command as c; c()"),
        *("--out", str(tmp_path / "s"), "--a", f"{FAKE} {mark}", "--b", f"{FAKE} {mark}"),
        *("--max-load", "100", "--", "--sleep", "60"),
    ]
    # Waits are long for a busy machine; an idle one takes half a second.
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        try:
            deadline = time.monotonic() + 120
            while not list(tmp_path.glob("s/*.log")) and time.monotonic() < deadline:
                time.sleep(0.05)
            child.send_signal(number)
            assert child.wait(60) == code
        finally:
            child.kill()
    running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in _read(p)]
    assert running == []


def test_a_signal_that_the_interpreter_forgot_ends_the_wait_all_the_same(tmp_path):
    signals = SessionSignals()
    signals.number = signal.SIGTERM  # as if the exception had been raised inside a fork hook
    at_its_end = tmp_path / "at its end"
    code = f"import time; time.sleep(60); open({str(at_its_end)!r}, 'w')"
    plan = AbPlan(Setup((sys.executable, "-c", code)), SIDE, 1)
    with pytest.raises(Stopped) as stopped:
        sweep_runner(plan, signals)("a", tmp_path / "x")
    assert stopped.value.exit_code == 143
    assert not at_its_end.exists(), "the sweep was waited for"


def test_a_sweep_that_hangs_is_ended(tmp_path):
    sleeper = Setup((sys.executable, "-c", "import time; time.sleep(60)"))
    plan = AbPlan(sleeper, SIDE, 1, sweep_timeout_s=0.3)
    with pytest.raises(EngineError, match=r"A: expected a sweep within 0\.3 s"):
        sweep_runner(plan)("a", tmp_path / "x")


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


# --- calibration --------------------------------------------------------------------------------


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "folder", lambda: tmp_path / "data")
    return tmp_path / "data"


def measured(tmp_path, noise=0.01, pairs=8):
    run = session(tmp_path, FakeSweeps(noise=noise), min_pairs=pairs, max_pairs=pairs)
    return run.run()


def test_calibration_is_the_scatter_of_a_against_a(tmp_path, data_folder):
    result = measured(tmp_path)
    stored = calibrate.from_comparison(result, calibrate.machine_id(ENVIRONMENT))
    calibrate.store(stored)

    again = calibrate.load(stored.machine)

    assert again == stored
    floor = again.floor("decode", "plain")
    # Two frontiers of 1 per cent noise, both arms: 0.01 * sqrt(2 / 2), eight pairs.
    assert floor.sigma == pytest.approx(0.01, rel=0.5)
    assert floor.pairs == 8


def test_a_tolerance_below_the_floor_is_refused(tmp_path, data_folder):
    floor = calibrate.Floor("decode", "plain", 0.02, 8, 0.0)
    machine = calibrate.machine_id(ENVIRONMENT)
    calibrate.store(calibrate.Calibration(machine, 0.0, (floor,)))
    here = Arm("x", (SweepResult(tuple(sweep(runs=1)), ENVIRONMENT, Path("x")),))

    calibrate.refuse_below_floor({"decode": 0.02}, here, 12)
    calibrate.refuse_below_floor({"decode_mtp": 0.001, "prefill": 0.001}, here, 12)
    calibrate.refuse_below_floor({}, here, 12)
    # A tolerance of decode is that of its speculative modes, too, unless they have their own.
    drafts = calibrate.Floor("decode", "mtp-combined", 0.05, 8, 0.0)
    calibrate.store(calibrate.Calibration(machine, 0.0, (drafts,)))
    with pytest.raises(OptionError):
        calibrate.refuse_below_floor({"decode": 0.02}, here, 12)
    calibrate.refuse_below_floor({"decode": 0.02, "decode_mtp": 0.1}, here, 12)
    calibrate.store(calibrate.Calibration(machine, 0.0, (floor,)))
    with pytest.raises(OptionError, match=r"expected at least 1\.78 % for decode plain"):
        calibrate.refuse_below_floor({"decode": 0.01}, here, 12)


def test_machines_are_told_apart_and_unknown_ones_have_no_floor():
    other = {**ENVIRONMENT, "memory_bytes": 1}
    assert calibrate.machine_id(ENVIRONMENT) != calibrate.machine_id(other)
    assert calibrate.machine_id({}) == "" and calibrate.load("") is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="expected to make the folder"):
        calibrate.store(calibrate.Calibration("m", 0.0, ()), tmp_path / "file" / "data")


def test_few_pairs_are_no_calibration(tmp_path):
    result = measured(tmp_path, pairs=4)
    with pytest.raises(EngineError, match="expected at least 5 pairs, found 4"):
        calibrate.from_comparison(result, "m")


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "ds4bench.calibration", "version": 9}'])
def test_a_damaged_calibration_is_named(data_folder, text):
    data_folder.mkdir()
    (data_folder / "m.json").write_text(text)
    with pytest.raises(EngineError, match=r"m\.json: expected (a calibration|JSON)"):
        calibrate.load("m")


def test_calibrate_command_stores_and_shows(tmp_path, data_folder, monkeypatch):
    from ds4bench.ab import process as ab_process

    monkeypatch.setattr(ab_process, "sweep_runner", lambda plan, signals: FakeSweeps())
    options = ["--out", str(tmp_path / "s"), "--pairs", "5", "--max-load", "100"]

    empty = CliRunner().invoke(calibrate_command, ["--show"])
    result = CliRunner().invoke(calibrate_command, [*options, "--", "-n", "8"])
    shown = CliRunner().invoke(calibrate_command, ["--show"])

    assert empty.exit_code == 1 and "no calibration" in empty.output
    assert result.exit_code == 0, result.output
    assert "decode plain" in result.output and "MDE 6" in result.output
    assert "options: -n 8" in shown.output
