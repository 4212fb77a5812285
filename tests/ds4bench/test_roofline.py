"""Bytes per step against a count of our own over a generated file; bandwidth; machines."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from ds4bench.plan import SweepPlan
from ds4bench.records.rows import SpeedRow
from ds4bench.sweep.findings import findings, kv_affine, least_seconds, prediction_text
from ds4bench.telemetry import machines, roofline
from ds4bench.telemetry.roofline import DecodeBytes, largest_cache, read_bandwidth
from ds4bench.worker.facts import MemoryNeed, ModelFacts
from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.models.shapes import named_shape
from engine.models.write import write_model
from engine.weights.bind import bind_mtp, bind_trunk
from engine.weights.files import ModelWeights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for draft in (False, True):
        write_model(folder / f"{draft}.gguf", named_shape("nano"), "q8_0", 1, draft=draft)
    return open_gguf(folder / "False.gguf"), open_gguf(folder / "True.gguf")


@pytest.fixture(scope="module")
def counted(files):
    trunk, draft = files
    shape, weights = bind_trunk(trunk)
    return DecodeBytes(ModelWeights(shape, weights, bind_mtp(draft, shape))), shape, trunk


def test_plain_step_against_the_tensor_table(counted):
    """Counted by hand from tensor names: used experts, one row of what is looked up by token."""
    bytes_of, shape, file = counted
    ctx = 64  # so few compressed rows that the indexer's query does not run
    assert ctx // 4 <= shape.idx_top_k
    total = 0.0
    for tensor in file.tensors.values():
        if tensor.name.endswith("_exps.weight"):
            total += tensor.n_bytes * shape.n_expert_used / shape.n_expert
        elif tensor.name == "token_embd.weight" or "tid2eid" in tensor.name:
            total += tensor.n_bytes / tensor.shape[0]
        elif ".indexer.attn_q_b" in tensor.name or ".indexer.proj" in tensor.name:
            continue
        else:
            total += tensor.n_bytes
    row = shape.head_dim * 4
    total += shape.n_layer * min(shape.n_swa, ctx) * row
    total += sum(r == 4 for r in shape.compress_ratios) * (ctx // 4) * row

    assert bytes_of.per_step("plain", ctx, [1] * 5, [0] * 5) == pytest.approx(total, rel=1e-9)


def test_modes_read_what_their_passes_read(counted):
    bytes_of, _, _ = counted
    one, three = bytes_of.row_pass(500, 1), bytes_of.row_pass(500, 3)
    draft = bytes_of.draft_bytes
    assert one < three < 3 * one, "a pass over three rows shares the dense weights"
    assert 0 < draft < one
    tokens, drafted = [3, 1, 2], [2, 2, 0]

    assert bytes_of.per_step("mtp-combined", 500, tokens, drafted) == pytest.approx(
        (2 * three + one + 4 * draft) / 3
    )
    assert bytes_of.per_step("mtp-batched", 500, tokens, drafted) == pytest.approx(
        (3 * one + 2 * three + 4 * draft) / 3
    )
    assert bytes_of.per_step("mtp-strict", 500, tokens, drafted) == pytest.approx(
        (6 * one + 4 * draft) / 3
    )


def test_bandwidth_is_bytes_over_the_best_pass():
    times = iter([0, 9_000, 10_000, 14_000, 20_000, 22_000, 30_000, 33_000])
    # passes take 9, 4, 2 and 3 us; the first is not counted
    rate = read_bandwidth(2, n_bytes=8_000, passes=3, clock=lambda: next(times))
    assert rate == pytest.approx(8_000 / 2e-6)


def test_bandwidth_of_this_machine_is_plausible():
    """Between a memory card's and an accelerator's; whatever the load beside it."""
    looks = []

    def clock():
        looks.append(None)
        return time.perf_counter_ns()

    rate = read_bandwidth(1, n_bytes=64 << 20, passes=2, clock=clock)
    assert 1e8 < rate < 1e13
    assert len(looks) == 2 * (1 + 2), "one pass to touch the pages, two that count"


def test_a_clock_that_stands_still_gives_no_rate():
    assert read_bandwidth(1, n_bytes=800, passes=2, clock=lambda: 5) == 0.0


def test_largest_cache(monkeypatch):
    assert largest_cache() >= 0
    monkeypatch.setattr(os, "listdir", lambda path: ["index0", "other"])
    monkeypatch.setattr(roofline, "open", lambda *a, **k: __import__("io").StringIO("32M\n"),
                        raising=False)  # fmt: skip
    assert largest_cache() == 32 << 20


def test_machines_have_sources_and_sane_figures():
    assert machines.machine("GB10").nominal == 273e9
    assert machines.machine("gb10").measured == 236e9
    assert machines.machine("m4_max").name == "m4-max"
    for one in machines.MACHINES.values():
        assert one.source and 1e11 < one.nominal < 1e13
        assert one.measured is None or one.measured < one.nominal
    with pytest.raises(OptionError, match="gb10, h100"):
        machines.machine("cray")


def row(ctx, **more):
    return SpeedRow(ctx_tokens=ctx, prefill_tokens=1, prefill_s=1.0, gen_tokens=10, **more)


def test_prediction_agrees_with_the_published_roofline():
    """9.23 GB per token at 2048 give 29.6 t/s at 273 GB/s and 25.6 at 236."""
    rows = [row(2048, gen_s=1.0, steps=10, bytes_per_step=9.23e9)]
    text = prediction_text(rows, [machines.machine("gb10")])
    assert "at most 29.6 t/s" in text and "25.6 t/s (236 GB/s measured)" in text


def test_least_time_is_bytes_over_rate():
    plan = SweepPlan(model="m", ctx_start=100, ctx_max=200, step_incr=100, gen_tokens=10)
    memory = MemoryNeed(mapped=4 * 10**9, context=0, scratch=0, snapshot=0)
    facts = ModelFacts(
        name="m", n_ctx_train=1000, n_vocab=10, n_layer=1, has_mtp=False, implemented_modes=(),
        model_id="m", mtp_id=None, files=(), decode_bytes={100: 1e9, 200: 3e9}, memory=memory,
        weight_bytes=0, free_device_bytes=None,
    )  # fmt: skip
    assert least_seconds(plan, facts, 1e9) == 2 * 10 * 2 + 1 * 4
    assert least_seconds(plan, replace(facts, decode_bytes={}), 1e9) is None


@pytest.mark.parametrize(
    ("points", "affine"),
    [
        ([(2048, 52184460), (4096, 80373132), (65536, 926033292)], True),  # Flash, published
        ([(2048, 52184460), (4096, 80373133), (65536, 926033292)], False),
        ([(2048, 5), (2048, 6)], False),
        ([(2048, 5)], True),
        ([], True),
        ([(100, 1), (2048, 5), (4096, 6)], True),  # 100 is no multiple of 128
    ],
)
def test_kv_bytes_must_be_exactly_affine(points, affine):
    rows = [row(ctx, kv_bytes=kv, gen_s=1.0) for ctx, kv in points]
    assert kv_affine(rows) is affine
    plan = SweepPlan(model="m")
    assert any("kvcache_bytes" in text for text in findings(rows, plan)) is not affine


def test_slower_than_plain_is_said():
    plan = SweepPlan(model="m", modes=("plain", "mtp-strict"))
    rows = [row(64, gen_s=1.0), row(64, gen_s=1.1, mode="mtp-strict", accepted=3, drafted=9)]
    assert list(findings(rows, plan)) == ["mtp-strict: slower than plain at 64"]


@pytest.mark.parametrize(("kept", "said"), [(19, True), (20, False), (150, False)])
def test_a_drafter_whose_drafts_are_hardly_kept_is_said_with_the_figure(kept, said):
    plan = SweepPlan(model="m", modes=("plain", "mtp-strict"))
    counts = {"drafted_by_depth": (200, 100), "accepted_by_depth": (kept, 0)}
    rows = [row(64, gen_s=1.0), row(64, gen_s=0.9, mode="mtp-strict", accepted=kept, **counts)]
    found = list(findings(rows, plan))
    assert len(found) == said
    assert all("19 of 200 first drafts were kept (9.5 %)" in line for line in found)


@pytest.mark.parametrize(("seconds", "said"), [((0.8, 0.9, 5.0), False), ((0.5, 1.3, 1.4), True)])
def test_slower_than_plain_goes_by_the_median_of_runs(seconds, said):
    plan = SweepPlan(model="m", modes=("plain", "mtp-strict"), repeats=3)
    rows = [row(64, gen_s=s, run=i) for i, s in enumerate((0.7, 1.0, 1.2))]
    rows += [row(64, gen_s=s, run=i, mode="mtp-strict", accepted=3) for i, s in enumerate(seconds)]
    assert list(findings(rows, plan)) == ["mtp-strict: slower than plain at 64"] * said
