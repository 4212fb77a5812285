"""Plan arithmetic against upstream's rule, every validation error, keys and order."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.plan import (
    Prompt,
    Sampling,
    SweepPlan,
    frontiers,
)
from ds4bench.sweep.checks import (
    check_model,
    check_prompt,
    check_same,
    digest,
    fingerprint,
    row_key,
)
from ds4bench.worker.facts import MemoryNeed, ModelFacts
from ds4bench.worker.messages import Failure, WorkerError
from engine.errors import ContextError, LayoutError, MemoryBudgetError, OptionError
from engine.options import MODES

MODEL = Path("m.gguf")
FACTS = ModelFacts(
    name="m",
    n_ctx_train=65536,
    n_vocab=100,
    n_layer=2,
    has_mtp=False,
    implemented_modes=MODES,
    model_id="m",
    mtp_id=None,
    files=(),
    decode_bytes={},
    memory=MemoryNeed(mapped=1 << 40, context=1 << 20, scratch=1 << 20, snapshot=1 << 20),
    weight_bytes=0,
    free_device_bytes=None,
)


def plan(**options):
    return SweepPlan(model=MODEL, **options)


def upstream(start, stop, incr, mul):
    """ds4_bench.c's loop as its description gives it: step, then clamp to the last context."""
    result, cur = [], start
    while True:
        result.append(cur)
        if cur >= stop:
            return result
        cur = max(cur + 1, math.ceil(cur * mul)) if mul > 1 else cur + incr
        cur = min(cur, stop)


@given(
    st.integers(1, 5000), st.integers(0, 20000), st.integers(1, 9000),
    st.just(1.0) | st.floats(1.01, 50, allow_nan=False),
)  # fmt: skip
def test_frontiers_are_upstreams(start, more, incr, mul):
    stop = start + more
    assert list(frontiers(start, stop, incr, mul)) == upstream(start, stop, incr, mul)


@pytest.mark.parametrize(
    ("start", "stop", "incr", "mul", "expected"),
    [
        (2048, 8192, 2048, 1.0, [2048, 4096, 6144, 8192]),
        (2048, 8192, 1, 2.0, [2048, 4096, 8192]),
        (2048, 7000, 2048, 1.0, [2048, 4096, 6144, 7000]),
        (5, 5, 7, 1.0, [5]),
        (1, 4, 1, 1.0001, [1, 2, 3, 4]),
        (1, 2**30, 1, 1e308, [1, 2**30]),
    ],
)
def test_frontiers_by_hand(start, stop, incr, mul, expected):
    assert list(frontiers(start, stop, incr, mul)) == expected


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(ctx_start=0), "--ctx-start"),
        (dict(ctx_start=-5), "--ctx-start"),
        (dict(ctx_max=2**31), "--ctx-max"),
        (dict(gen_tokens=0), "--gen-tokens"),
        (dict(repeats=0), "--repeats"),
        (dict(ctx_start=4096, ctx_max=2048), "--ctx-start: expected at most --ctx-max 2048"),
        (dict(step_mul=0.5), "--step-mul"),
        (dict(step_mul=float("nan")), "--step-mul"),
        (dict(step_mul=float("inf")), "--step-mul"),
        (dict(step_incr=0), "--step-incr"),
        (dict(step_incr=-2048), "--step-incr"),
        (dict(ctx_max=2**31 - 100), "--ctx-max and --gen-tokens"),
        (dict(ctx_alloc=32896), "--ctx-alloc"),
        (dict(ctx_alloc=1), "--ctx-alloc"),
        (dict(modes=()), "--mode"),
        (dict(modes=("plain", "fast")), "--mode"),
        (dict(modes=("plain", "plain")), "--mode: expected each mode once"),
        (dict(ctx_start=1, ctx_max=10**6, step_incr=1), "frontiers"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(OptionError, match=words):
        plan(**options)


@pytest.mark.parametrize(
    "options",
    [dict(temp=float("nan")), dict(temp=-1), dict(top_p=1.1), dict(top_p=float("nan")),
     dict(min_p=-0.1), dict(temp=float("inf"))],
)  # fmt: skip
def test_bad_sampling_is_named(options):
    with pytest.raises(OptionError, match=f"--{next(iter(options)).replace('_', '-')}"):
        Sampling(**options)


def test_upstreams_defaults_and_allocation():
    default = plan()
    assert (default.ctx_start, default.ctx_max, default.step_incr) == (2048, 32768, 2048)
    assert (default.gen_tokens, default.step_mul) == (128, 1.0)
    assert default.context == 32768 + 128 + 1
    assert plan(ctx_alloc=32897).context == 32897
    assert plan(step_mul=2.0, step_incr=0).step_incr == 0, "unused with --step-mul"


@pytest.mark.parametrize("n_modes", [1, 2, 3, 4])
def test_modes_rotate_so_that_each_comes_equally_often_at_each_place(n_modes):
    one = plan(modes=MODES[:n_modes], ctx_max=2048 * n_modes, repeats=n_modes)
    places = Counter()
    cells = list(one.cells())
    assert len(cells) == one.n_rows == n_modes**3
    for i, cell in enumerate(cells):
        places[i % n_modes, cell.mode] += 1
    assert set(places.values()) == {n_modes}


def test_cells_carry_the_new_suffix():
    cells = list(plan(ctx_start=100, ctx_max=250, step_incr=100).cells())
    assert [(c.ctx_tokens, c.prefill_tokens) for c in cells] == [(100, 100), (200, 100), (250, 50)]


def test_keys_differ_in_every_cell_and_option():
    base = plan(modes=MODES, repeats=3)
    prints = digest(fingerprint(base, FACTS, {}, "c"))
    keys = {row_key(prints, cell) for cell in base.cells()}
    assert len(keys) == base.n_rows
    for options in (dict(gen_tokens=64), dict(threads=1), dict(kv="f32"), dict(mtp_draft=2),
                    dict(sampling=Sampling(temp=1)), dict(prompt=Prompt(seed=9))):  # fmt: skip
        assert digest(fingerprint(plan(**options), FACTS, {}, "c")) != prints
    assert digest(fingerprint(base, replace(FACTS, model_id="n"), {}, "c")) != prints
    assert digest(fingerprint(base, FACTS, {}, "d")) != prints
    wider = plan(modes=("plain",), ctx_max=65536, repeats=9)
    assert digest(fingerprint(wider, FACTS, {}, "c")) == prints, "extent may grow on resume"


def test_resume_names_what_differs():
    with pytest.raises(OptionError, match="gen_tokens 128, found 64"):
        check_same({"model": "a", "gen_tokens": 64}, {"model": "a", "gen_tokens": 128}, "j")


@pytest.mark.parametrize(
    ("options", "facts", "kind", "words"),
    [
        (dict(), dict(implemented_modes=("mtp-strict",)), OptionError, "--mode"),
        (dict(modes=("mtp-strict",)), {}, OptionError, "--mtp FILE"),
        (dict(ctx_max=65536), {}, ContextError, "65536 tokens"),
        (
            dict(),
            dict(memory=MemoryNeed(mapped=0, context=1 << 40, scratch=0, snapshot=0)),
            MemoryBudgetError,
            "--ctx-max",
        ),
    ],
)
def test_what_the_model_or_memory_does_not_allow(options, facts, kind, words):
    with pytest.raises(kind, match=words):
        check_model(plan(**options), replace(FACTS, **facts), 1 << 30)


@pytest.mark.parametrize("part", ["context", "scratch", "snapshot", "weight_bytes"])
def test_every_part_of_the_memory_counts(part):
    """4 MiB are needed; a byte more of any part is one too many."""
    fitting = replace(FACTS, weight_bytes=1 << 20)
    check_model(plan(), fitting, 4 << 20)
    more = (1 << 20) + 1
    if part == "weight_bytes":
        facts = replace(fitting, weight_bytes=more)
    else:
        facts = replace(fitting, memory=replace(fitting.memory, **{part: more}))
    with pytest.raises(MemoryBudgetError, match="4 MiB of free memory, found 4 MiB"):
        check_model(plan(), facts, 4 << 20)


def test_a_device_s_need_is_held_against_the_device():
    """Its 3 MiB of weights and session do not count on the host, where the snapshot lies."""
    on_device = replace(FACTS, weight_bytes=1 << 20, free_device_bytes=3 << 20)
    check_model(plan(), on_device, 1 << 20)
    with pytest.raises(MemoryBudgetError, match="2 MiB of the device's free memory, found 3 MiB"):
        check_model(plan(), replace(on_device, free_device_bytes=(3 << 20) - 1), 1 << 40)
    with pytest.raises(MemoryBudgetError, match="0 MiB of free memory, found 1 MiB"):
        check_model(plan(), on_device, (1 << 20) - 1)


def test_a_fitting_sweep_passes():
    check_model(plan(), FACTS, 1 << 30)
    check_prompt(plan(), 32768)


@pytest.mark.parametrize("n", [0, 1, 32767])
def test_short_prompts_are_told_how_short(n):
    with pytest.raises(OptionError, match=f"found {n} .{32768 - n} short; --repeat-prompt"):
        check_prompt(plan(), n)


def test_worker_errors_come_back_as_ours():
    assert type(Failure("LayoutError", "x", 3).error()) is LayoutError
    assert Failure("LayoutError", "x", 3).error().exit_code == 3
    foreign = Failure("", "KeyError: x", 1, "Traceback").error()
    assert isinstance(foreign, WorkerError) and str(foreign) == "KeyError: x"
    assert (foreign.exit_code, foreign.worker_trace) == (1, "Traceback")


@pytest.mark.parametrize("part", ["context", "scratch", "snapshot", "weights"])
def test_each_part_of_the_memory_counts_and_exactly_enough_is_enough(part):
    """A check that leaves one part out, or that refuses an exact fit, is wrong by this test."""
    parts = {"context": 0, "scratch": 0, "snapshot": 0, "weights": 0, part: 1 << 30}
    weights = parts.pop("weights")
    facts = replace(FACTS, memory=MemoryNeed(mapped=1 << 40, **parts), weight_bytes=weights)
    check_model(plan(), facts, 1 << 30)
    with pytest.raises(MemoryBudgetError, match="1023 MiB of free memory"):
        check_model(plan(), facts, (1 << 30) - 1)


@pytest.mark.parametrize("part", ["context", "scratch", "weights"])
def test_a_device_holds_weights_and_session_and_the_host_the_snapshot(part):
    parts = {"context": 0, "scratch": 0, "weights": 0, part: 1 << 30}
    weights = parts.pop("weights")
    memory = MemoryNeed(mapped=1 << 40, snapshot=1 << 20, **parts)
    facts = replace(FACTS, memory=memory, weight_bytes=weights, free_device_bytes=1 << 30)
    check_model(plan(), facts, 1 << 20)
    with pytest.raises(MemoryBudgetError, match="1023 MiB of the device's free memory"):
        check_model(plan(), replace(facts, free_device_bytes=(1 << 30) - 1), 1 << 20)
    with pytest.raises(MemoryBudgetError, match="of free memory"):
        check_model(plan(), facts, (1 << 20) - 1)
