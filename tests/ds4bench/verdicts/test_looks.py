"""The stopping rule of `ab`: what its looks may spend, and how often whole sessions are wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as sp

from ds4bench.ab.looks import Looks, spent_by
from ds4bench.ab.loop import SCHEMA, SCHEMA_VERSION, AbSession
from ds4bench.ab.plan import AbPlan, Setup
from ds4bench.compare import stats
from ds4bench.compare.stats import Verdict
from engine.tooling.results.journal import read_journal
from tests.ds4bench.speed_rows import sweep, write_journal
from tests.ds4bench.verdicts.sessions import (
    FRONTIERS,
    LINE,
    TOLERANCES,
    Machine,
    main,
    rates,
    session,
)

SIDE = Setup(("true",))
CTX = tuple(2048 * (k + 1) for k in range(FRONTIERS))


def most(rate: float, sessions: int) -> float:
    """Share of wrong sessions that a true `rate` exceeds once in a thousand such tests."""
    return float(sp.binom.isf(0.001, sessions, rate)) / sessions


def least(rate: float, sessions: int) -> float:
    return float(sp.binom.ppf(0.001, sessions, rate)) / sessions


@pytest.mark.parametrize(("first", "last"), [(6, 40), (2, 3), (5, 5), (9, 1000), (40, 41)])
def test_looks_never_spend_more_than_everything(first, last):
    looks, spent = Looks(first, last), 0.0
    for n in looks.schedule():
        assert looks.due(n)
        looks.take(n)
        spent += looks.share(n)
        assert not looks.due(n)
    assert spent == pytest.approx(spent_by(last)) and spent < 1
    assert looks.schedule() == sorted(set(looks.schedule())) and looks.taken[-1] == last


def test_an_early_end_and_a_longer_session_spend_from_the_same_purse():
    looks, spent = Looks(6, 12), 0.0
    for n in (6, 7, 8, 12):  # 7: out of time between two looks
        looks.take(n)
        spent += looks.share(n)
    longer = Looks(6, 40, list(looks.taken))
    for n in longer.schedule():
        if longer.due(n):
            longer.take(n)
            spent += longer.share(n)
    assert spent == pytest.approx(spent_by(40))
    assert longer.share(12) == pytest.approx(spent_by(12) - spent_by(8)), "seen again: the same"


@pytest.mark.parametrize(
    ("truth", "machine", "rate"),
    [
        (LINE, Machine(0.010, 0.005), 0.025),
        (LINE, Machine(0.030, 0.030, dip=0.08), 0.025),
        (LINE, Machine(0.010, 0.010, tails=True), 0.025),
        ((0.0, 0.0), Machine(0.015, 0.010), 0.005),
        ((0.0, 0.0), Machine(0.050, 0.050), 0.005),
    ],
)
def test_whole_sessions_cry_wolf_as_seldom_as_promised(truth, machine, rate):
    shares, _ = rates(machine, truth, 300, seed=2)
    assert shares[Verdict.REGRESSED] <= most(rate, 300)


def test_testing_after_every_pair_would_break_the_promise():
    """What `ab` did before, so that the test above is known to be able to fail."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(300):
        curve = rng.normal(LINE[1], 0.03, 40)
        for n in range(6, 41):
            judged = stats.judge([stats.paired(curve[:n])], TOLERANCES[1:])
            if stats.enough(judged):
                break
        wrong += judged[0].verdict is Verdict.REGRESSED
    assert wrong / 300 > most(0.025, 300)


@pytest.mark.parametrize(("noise", "pairs"), [(0.005, 15), (0.010, 40)])
def test_a_true_loss_of_three_per_cent_is_found_within_the_stated_pairs(noise, pairs):
    truth = (0.0, math.log(0.97))
    shares, _ = rates(Machine(noise, noise), truth, 300, seed=4, most=pairs)
    assert shares[Verdict.REGRESSED] >= least(0.95, 300)


def test_a_wrong_fine_is_as_rare():
    shares, _ = rates(Machine(0.005, 0.005), (0.0, LINE[1]), 300, seed=5)
    assert shares[Verdict.FINE] <= most(0.025, 300)


@pytest.mark.parametrize("loss", [0.0, 0.03, 0.06])
def test_real_sessions_end_as_the_simulated_ones_do(tmp_path, loss):
    """The same noise as rows in journals: same word, same number of pairs."""
    rng = np.random.default_rng(int(100 * loss))
    pairs = Machine(0.01, 0.01).pairs(rng, 13, (0.0, math.log1p(-loss)))
    slots: list[str] = []

    def measure(letter, folder):
        index = len(slots) // 2
        slots.append(letter)
        effect = pairs[index - 1] if letter == "b" and index else np.zeros(pairs.shape[1:])
        rows = sweep(runs=1, noise=0.0, ctx=CTX, modes=("plain",))
        rows = [
            replace(
                row,
                prefill_s=row.prefill_s * math.exp(-effect[0, place]),
                gen_s=row.gen_s * math.exp(-effect[1, place]),
            )
            for place, row in enumerate(rows)
        ]
        write_journal(folder, rows)

    run = AbSession(AbPlan(SIDE, SIDE, 3, max_pairs=13), tmp_path / "s", measure)
    result = run.run()

    assert (result.verdict, result.n_base) == session(pairs)
    records = read_journal(tmp_path / "s" / "pairs.jsonl", SCHEMA, SCHEMA_VERSION).records
    assert [r["pairs"] for r in records if r["kind"] == "look"] == run.looks.taken
    assert result.looks == len(run.looks.taken)


def test_a_resumed_session_remembers_its_looks(tmp_path):
    def measure(letter, folder):
        write_journal(folder, sweep(runs=1, noise=0.05, seed=len(list(folder.parent.iterdir()))))

    AbSession(AbPlan(SIDE, SIDE, 3, max_pairs=7), tmp_path / "s", measure).run()
    again = AbSession(AbPlan(SIDE, SIDE, 3, max_pairs=9), tmp_path / "s", measure)
    result = again.run(resume=True)

    assert again.looks.taken == [6, 7, 8, 9] and result.looks == 4
    assert any("judged at 6, 7, 8, 9 pairs" in note for note in result.notes)


def test_too_few_pairs_for_a_look_are_described_as_ever(tmp_path):
    def measure(letter, folder):
        write_journal(folder, sweep(runs=1, noise=0.01, seed=len(list(folder.parent.iterdir()))))

    plan = AbPlan(SIDE, SIDE, 3, min_pairs=3, max_pairs=3)
    result = AbSession(plan, tmp_path / "s", measure).run()

    assert result.verdict is Verdict.DESCRIBED
    curve = result.curves[0].judgement
    assert curve.interval == curve.estimate.interval(0.95)


@pytest.mark.slow
def test_the_printed_table_keeps_the_promises(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sessions", "--sessions", "2000"])
    main()
    lines = capsys.readouterr().out.splitlines()[2:]
    limits = {"every": most(0.025, 2000), "decode": most(0.025, 2000), "A/A": most(0.005, 2000)}
    for text in lines:
        for name, limit in limits.items():
            if text.startswith(name):
                assert float(text[49:].split()[0]) / 100 <= limit, text
