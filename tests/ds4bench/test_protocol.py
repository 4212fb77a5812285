"""What is inside the clock, shown by a clock that charges 1000 s for everything that is not."""

from __future__ import annotations

import gc
import hashlib
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest

from ds4bench.plan import SweepPlan
from ds4bench.worker.protocol import (
    Warmup,
    hash_tokens,
    quiet,
    settled,
    timed_decode,
    timed_prefill,
    warm_up,
)
from engine.errors import EngineError
from engine.options import MODES
from tests.ds4bench.fakes import SAVE_S, FakeDecoder, FakeModel, FakeSession, open_worker


@pytest.fixture
def worker(tmp_path, monkeypatch):
    monkeypatch.delenv("DS4_FAKE", raising=False)
    (tmp_path / "m").touch()
    worker = open_worker()
    worker.inspect(
        SweepPlan(tmp_path / "m", ctx_start=100, ctx_max=300, step_incr=100, gen_tokens=8)
    )
    worker.encode()
    worker.begin()
    return worker


def test_prefill_is_incremental_and_snapshots_stand_outside(worker):
    replies = [worker.prefill(f) for f in (100, 200, 300)]

    assert [r.prefill_tokens for r in replies] == [100, 100, 100]
    # 1 ms a token and 1e-8 s per token then there: what FakeSession.sync charges.
    expected = [0.1 + 100 * f * 1e-8 for f in (100, 200, 300)]
    assert [r.prefill_s for r in replies] == pytest.approx(expected, rel=1e-9)
    assert worker.model.clock.now > 3 * SAVE_S * 1e9, "the fake did charge for its snapshots"
    assert [r.kv_bytes for r in replies] == [1000 + 64 * f for f in (100, 200, 300)]


@pytest.mark.parametrize("mode", MODES)
def test_decode_window_holds_steps_only_and_the_context_comes_back(worker, mode):
    worker.prefill(100)
    before = list(worker.session.tokens)
    reply = worker.decode(mode)

    assert reply.gen_s == pytest.approx(sum(reply.step_s))
    assert reply.gen_s < 2 < SAVE_S
    assert sum(reply.step_tokens) == reply.gen_tokens == 8
    assert worker.session.tokens == before
    assert reply.step_s[0] > 1.5 * reply.step_s[1], "first step apart from steady state"


def test_all_modes_emit_the_same_tokens(worker):
    worker.prefill(100)
    assert len({worker.decode(mode).token_hash for mode in MODES}) == 1


def test_odd_counts_do_not_overshoot(worker):
    worker.plan = replace(worker.plan, gen_tokens=7)
    worker.prefill(100)
    assert worker.decode("mtp-strict").step_tokens == (2, 2, 2, 1)


def test_failed_decode_still_restores(worker):
    worker.prefill(100)
    worker.model.faults = {"error": {"mode": "plain"}}
    with pytest.raises(EngineError):
        worker.decode("plain")
    assert worker.session.n_past == 100
    worker.model.faults = {}
    assert worker.decode("plain").gen_tokens == 8


def step_decoder(*batches):
    results = iter(batches)
    return SimpleNamespace(
        start=lambda: 5,
        step=lambda first, budget: SimpleNamespace(
            drafts=None,
            tokens=next(results), next=6, drafted=0, accepted=0,
            draft_s=0.0, verify_s=0.0, rollback_s=0.0,
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([[5], []], "found 0"),
        ([[5, 6, 7, 8, 9]], "found 5"),
        ([[5, 1], [7, 8]], "end-of-text token, found 1"),
    ],
)
def test_steps_that_break_the_rule_are_errors(batches, words):
    with pytest.raises(EngineError, match=words):
        timed_decode(step_decoder(*batches), 4, lambda: 0, forbidden={1})


def test_zero_elapsed_time_is_no_crash():
    result = timed_decode(step_decoder([5], [6]), 2, lambda: 7)
    assert (result.gen_s, result.step_s) == (0.0, (0.0, 0.0))


def test_garbage_is_collected_before_the_window_and_not_inside():
    runs = []
    gc.callbacks.append(lambda phase, info: runs.append((phase, info["generation"])))
    try:
        with quiet():
            collected = len(runs)
            assert collected, "a full collection on entry"
            assert not gc.isenabled()
            keep = [[i] for i in range(10_000)]
            for a, b in pairwise(keep):
                a.append(b)
            assert len(runs) == collected
    finally:
        gc.callbacks.pop()
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), quiet():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_hash_is_of_little_endian_ids():
    assert hash_tokens([1, 258]) == hashlib.sha256(b"\1\0\0\0\2\1\0\0").hexdigest()


def warm(costs):
    """Warm-up with given prefill costs; returns the rounds."""
    model = FakeModel()
    costs = iter(costs)

    def session():
        one = FakeSession(model, 1000)
        cost = next(costs)
        one.sync = lambda tokens: (model.clock.charge(cost), one.tokens.extend(tokens))
        return one

    return warm_up(session, FakeDecoder, [10] * 50, ["plain"], model.clock)


@pytest.mark.parametrize(
    ("costs", "rounds"),
    [
        pytest.param([9.0, 1.0, 1.04, 1.0], 3, id="cold, then two that agree"),
        pytest.param([1.0, 1.0], 2, id="warm from the start"),
        pytest.param([5.0, 4.0, 3.0, 2.0, 1.0, 1.0], 5, id="never agrees"),
        pytest.param([300.0, 9.0, 8.0, 8.0], 4, id="minutes of compiling do not count"),
        pytest.param([90.0, 50.0, 40.0], 2, id="too slow for a third round"),
    ],
)
def test_warm_up_ends(costs, rounds):
    # The snapshots' 1000 s must not count as time spent: free saving here.
    import tests.ds4bench.fakes as fakes

    old, fakes.SAVE_S = fakes.SAVE_S, 0
    try:
        done = warm(costs)
    finally:
        fakes.SAVE_S = old
    assert [r.prefill_s for r in done] == pytest.approx(costs[:rounds])
    assert all(set(r.gen_s) == {"plain"} and r.gen_s["plain"] > 0 for r in done)


def test_settled_needs_two_rounds_within_five_per_cent():
    def rounds(*times):
        return [Warmup(1, t, {}) for t in times]

    assert not settled(rounds(1.0))
    assert settled(rounds(1.0, 1.05))
    assert not settled(rounds(1.0, 1.06))


def test_prefill_of_the_wrong_length_is_an_error(worker):
    worker.session.sync = lambda tokens: None
    with pytest.raises(EngineError, match="expected 100 tokens"):
        worker.prefill(100)
    assert timed_prefill(worker.session, [1], lambda: 3) == 0.0
