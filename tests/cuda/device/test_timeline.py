"""The timeline model: its arithmetic by hand, and its stated error against recorded tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.tooling.timeline.costs import EVENT, TABLE_GAP, cost_of
from engine.tooling.timeline.drafting import predict_drafting, record_draft, report_drafting
from engine.tooling.timeline.machines import MACHINES
from engine.tooling.timeline.predict import HOST, STATED_ERROR, Switches, predict
from engine.tooling.timeline.record import record_step
from engine.tooling.timeline.simulate import Node, simulate

TABLES = Path(__file__).resolve().parents[3] / "speed-bench" / "h100-8-layers-steps.json"
H100 = MACHINES["h100"]


def test_launches_wait_and_share_the_memory():
    nodes = [
        Node("a", 2.0, 0.0, 4.0, ()),
        Node("b", 1.0, 8.0, 4.0, (0,)),  # begins to stream at 1 + 2 + 1 + 1 = 5
        Node("c", 1.0, 2.0, 1.0, (0,)),  # slow: leaves 3 of 4 to the other
        Node("d", 1.0, 0.0, 4.0, (1, 2)),
    ]
    found = simulate(nodes, read=4.0, gap=1.0, join=0.5)
    # b: 2 us at 3, then 2 MB at 4; d: a gap, a join and its fixed part behind it
    assert found.ends == pytest.approx((3.0, 7.5, 7.0, 10.0))
    assert found.critical == (0, 1, 3) and found.total == pytest.approx(10.0)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_recorded_steps_are_predicted_within_the_stated_error(rows):
    """Costs are those of one row; bytes alone tell the passes of more rows apart."""
    record = json.loads(TABLES.read_text())["records"][1]
    times = HOST
    for table in (record["passes"][f"trunk {rows} True"], record["passes"][f"verify {rows}"]):
        for row in table:
            n, kernel = row["launches"], row["kernel"]
            cost = cost_of(kernel, deep=True, recorded=True)
            times += n * (H100.gap + cost.fixed) + row["bytes"] / 1e6 / (cost.rate or H100.read)
    measured = record["verify_s"][str(rows)] * 1e6
    assert abs(times / measured - 1) < STATED_ERROR, (times, measured)


def test_costs_are_the_tables():
    """A kernel that the table has, and no estimate: seconds less events, gap and streaming."""
    (row,) = (
        row
        for row in json.loads(TABLES.read_text())["records"][1]["passes"]["trunk 1 True"]
        if row["kernel"] == "mm_q8_0_tiled_8"
    )
    each, size = row["seconds"] * 1e6 / row["launches"], row["bytes"] / 1e6 / row["launches"]
    fixed = each - EVENT - TABLE_GAP - size / H100.read
    assert cost_of("mm_q8_0_tiled_8").fixed == pytest.approx(fixed, abs=0.1)


def test_a_step_has_the_launches_of_its_layers():
    launches = record_step(4, 65536)
    names = [launch.kernel for launch in launches]
    assert names.count("moe_in_iq2_xxs_tiled_few") == 4
    assert names.count("indexer_scores_bf16") == 1  # the third layer's ratio is 4
    assert names[0] == "embed_f16" and names[-1].startswith("mm_q8_0")
    # The shared expert's product waits for the sublayer's entry, not for the router.
    shared = next(
        launch for launch, before in zip(launches[1:], launches)
        if before.kernel.startswith("moe_in") and launch.kernel.startswith("mm_q8_0")
    )  # fmt: skip
    (waited,) = shared.before
    assert names[waited].startswith("hc_enter")
    # Router, shared and routed experts of a layer: 25 launches a layer at most on average.
    assert len(record_step(43, 65536)) <= 30 * 43


def test_predictions_of_all_layers_hold_what_the_log_says():
    """Goals and figures of docs/gpu.md; a change that moves them belongs into the log."""
    serial = predict(H100, 43, 65536, Switches(False, False, False))
    best = predict(H100, 43, 65536)
    assert serial.weight_bytes == best.weight_bytes == pytest.approx(9.55e9, rel=0.01)
    assert best.seconds < 0.78 * serial.seconds
    assert 1 / predict(MACHINES["gb10"], 43, 2048).seconds > 22.5
    # Twice the context costs the indexer's rows, in a session that has room for far more.
    deep = predict(H100, 43, 131072, ctx=1 << 20)
    assert best.seconds < deep.seconds < 1.15 * best.seconds


def test_a_draft_has_the_launches_of_its_passes():
    """Rows from three taps, three stages whose block attends at once, five slots, one report."""
    launches = record_draft(4, 2048, 3, 5)
    names = [launch.kernel for launch in launches]
    assert names.count("ring_means") == names.count("attention_f16_part_16") == 3
    assert names.count("store_rows_f16") == 3 and names.count("moe_in_iq2_xxs_tiled_few") == 3
    assert names.count("embed_q8_0") == names.count("argmax_join") == 5
    assert names[-1] == "draft_reports"
    # Five rows of 64 heads, 16 in a block, over five chunks of 133 rows.
    part = next(launch for launch in launches if launch.kernel == "attention_f16_part_16")
    assert part.blocks == 5 * (5 * 64 // 16)
    # Each slot waits for the choice of the one before it.
    second = [at for at, name in enumerate(names) if name == "embed_q8_0"][1]
    assert names[max(launches[second].before)] == "argmax_join"
    fewer = [launch.kernel for launch in record_draft(4, 2048, 3, 2)]
    assert fewer.count("embed_q8_0") == 2 and fewer.count("ring_means") == 3


def test_a_drafting_step_is_predicted():
    """Three stages of five rows, main_proj, the output matrix and five times the Markov head's."""
    step = predict_drafting(H100, 43, 2048)
    assert step.draft.weight_bytes == pytest.approx(1.84e9, rel=0.01)
    assert step.plain.weight_bytes < step.verify.weight_bytes < 2 * step.plain.weight_bytes
    assert 1.5 < step.even < 2.5
    assert f"from {step.even:.2f} tokens a step on" in report_drafting(H100, 2048)
