"""Plans of residency for machines as data; copied bytes against what upstream's engine logged."""

from __future__ import annotations

import dataclasses

import pytest

from engine.errors import MemoryBudgetError, OptionError
from engine.weights.residency import (
    GAP,
    GIB,
    PAGE,
    Machine,
    Settings,
    Span,
    gib,
    kind_of,
    merged,
    plan,
    settings_from,
)
from tests.engine.weights import flash

MIB = 1 << 20
# Free bytes as a fresh process sees them.
GB10 = Machine(118 * GIB, 115 * GIB, unified=True, register=True, pageable=True)
H200 = Machine(139 * GIB, 120 * GIB, register=True, read_only_register=True)
H100 = Machine(78 * GIB, 120 * GIB, register=True, read_only_register=True)
CARD_24 = Machine(int(23.5 * GIB), 100 * GIB, register=True)


def spans_of(tensors, file: int, mtp: bool) -> list[Span]:
    """Tensors laid out one behind the other, as in a file."""
    spans, offset = [], 5 * MIB
    for tensor in tensors.values():
        spans.append(Span(tensor.name, file, offset, tensor.n_bytes, kind_of(tensor.name, mtp)))
        offset += -(-tensor.n_bytes // 32) * 32
    return spans


@pytest.fixture(scope="module")
def trunk() -> list[Span]:
    return spans_of(flash.trunk(), 0, False)


@pytest.fixture(scope="module")
def both(trunk) -> list[Span]:
    return trunk + spans_of(flash.mtp(), 1, True)


def test_shared_memory_copies_what_upstream_copied(both):
    made = plan(both, GB10, Settings(mode="hybrid"))
    assert made.mode == "hybrid" and made.route == "registered" and made.budget == 24 * GIB
    # "startup model cache prepared 8.20 GiB of tensor spans", then 0.17 GiB for the MTP file
    # (upstream's log on this machine with these files).
    base = sum(d.span.n_bytes for d in made.decisions if d.copied and d.span.file == 0)
    draft = sum(d.span.n_bytes for d in made.decisions if d.copied and d.span.file == 1)
    assert base / GIB == pytest.approx(8.20, abs=0.005)
    assert draft / GIB == pytest.approx(0.17, abs=0.005)
    for decision in made.decisions:
        assert decision.place == ("mapped" if decision.span.kind == "experts" else "device")
    assert made.mapped_bytes + made.bytes_of("device") == sum(s.n_bytes for s in both)
    assert any("routed experts stay" in reason for reason in made.reasons)


def test_shared_memory_copies_everything_that_fits_and_says_why_not_otherwise(both):
    whole = plan(both, GB10, Settings())
    assert whole.mode == "device" and whole.route == "none" and not whole.mapped_runs
    assert "pages of the file are dropped" in whole.reasons[0]
    # The same where other programs have half of the device's share.
    part = plan(both, dataclasses.replace(GB10, device_bytes=60 * GIB), Settings())
    assert part.mode == "hybrid" and part.budget == 24 * GIB
    assert part.reasons[0].startswith("not everything is copied, since ")


def test_a_device_that_holds_everything_copies_everything(both):
    made = plan(both, H200, Settings())
    assert made.mode == "device" and made.route == "none" and not made.mapped_runs
    assert all(d.place == "device" for d in made.decisions)
    assert made.copied_bytes == sum(s.n_bytes for s in both)


@pytest.mark.parametrize("machine", [H100, CARD_24], ids=["h100", "24 GiB"])
def test_a_smaller_device_keeps_hot_tensors_and_some_experts(both, machine):
    made = plan(both, machine, Settings())
    assert made.mode == "hybrid"
    assert made.copied_bytes <= made.budget <= machine.device_bytes - 4 * GIB
    assert all(d.copied for d in made.decisions if d.span.kind != "experts")
    left = [d.span.n_bytes for d in made.decisions if not d.copied]
    assert left and made.budget - made.copied_bytes < min(left)


def test_small_models_are_copied_whole_even_where_memory_is_shared(trunk):
    small = [s for s in trunk if s.name.startswith(("blk.0.", "blk.1."))]
    assert plan(small, GB10, Settings()).mode == "device"


def test_experts_may_be_copied_where_memory_is_shared_if_asked(trunk):
    made = plan(trunk, GB10, Settings(mode="hybrid", experts_too=True))
    assert 8.2 * GIB < made.bytes_of("device") <= 24 * GIB
    assert made.bytes_of("device", "experts") > 0


@pytest.mark.parametrize("budget", [0, 1, 10 * MIB, GIB, 7 * GIB + 3, 9 * GIB, 200 * GIB])
@pytest.mark.parametrize("machine", [GB10, H200, H100, CARD_24])
@pytest.mark.parametrize("mode", ["auto", "hybrid", "mapped"])
def test_any_budget(both, budget, machine, mode):
    made = plan(both, machine, Settings(mode=mode, budget=budget))
    assert len(made.decisions) == len(both)
    assert made.copied_bytes <= budget
    if mode == "mapped" or budget == 0:
        assert made.copied_bytes == 0
    # Experts get room only after everything hot that fits has its own.
    if made.bytes_of("device", "experts") and made.mode == "hybrid":
        assert not [d for d in made.decisions if not d.copied and d.span.kind != "experts"]
    covered = 0
    for run in made.mapped_runs:
        assert run.start % PAGE == 0 and run.stop % PAGE == 0
        covered += run.n_tensors
    assert covered == sum(not d.copied for d in made.decisions)
    for a, b in zip(made.mapped_runs, made.mapped_runs[1:]):
        assert (a.file, a.stop + GAP) < (b.file, b.start) or a.file < b.file
    for decision in made.decisions:
        if not decision.copied:
            span = decision.span
            assert any(
                run.file == span.file
                and run.start <= span.offset
                and span.offset + span.n_bytes <= run.stop
                for run in made.mapped_runs
            )


def test_asking_for_device_beyond_memory_is_refused(both):
    with pytest.raises(MemoryBudgetError, match=r"--residency device: expected at most .* found"):
        plan(both, H100, Settings(mode="device"))
    with pytest.raises(MemoryBudgetError, match=r"expected at most 80.00 GiB"):
        plan(both, H200, Settings(mode="device", budget=80 * GIB))
    assert plan(both, H200, Settings(mode="device")).mode == "device"


def test_without_registration_a_device_reads_pages_or_copies(both):
    blind, hybrid = dataclasses.replace(GB10, register=False), Settings(mode="hybrid")
    assert plan(both, blind, hybrid).route == "pageable"
    made = plan(both, dataclasses.replace(blind, pageable=False), hybrid)
    assert made.route == "staged" and not made.mapped_runs
    assert made.bytes_of("staged", "experts") == made.bytes_of("staged") > 70 * GIB
    with pytest.raises(MemoryBudgetError, match="cannot read the file in place"):
        plan(both, dataclasses.replace(CARD_24, register=False), Settings())


def test_direct_reading_needs_a_device_that_can(both):
    assert plan(both, GB10, Settings(direct=True)).route == "pageable"
    assert plan(both, CARD_24, Settings(direct=True)).route == "registered"


Q4 = 164_633_502_304  # bytes of the published Q4 trunk
PRO = 430 * 10**9  # about what Pro takes at 2 bits


def big(n_bytes: int) -> list[Span]:
    """A model of so many bytes, a tenth of them hot."""
    hot = min(n_bytes // 10, 8 * GIB)
    return [Span("hot", 0, 0, hot, "dense"), Span("x_exps.", 0, hot, n_bytes - hot, "experts")]


@pytest.mark.parametrize(
    ("n_bytes", "machine"),
    [
        (Q4, GB10),
        (PRO, GB10),
        (PRO, Machine(24 * GIB, 24 * GIB, unified=True, pageable=True)),
        (PRO, Machine(24 * GIB, 24 * GIB)),
        (Q4, H200),
        (PRO, H100),
    ],
)
def test_a_file_that_the_host_cannot_hold_is_refused_with_the_numbers(n_bytes, machine):
    """Pinned whole, such files froze a machine until its power was cut."""
    with pytest.raises(MemoryBudgetError, match="memory: expected at most") as refusal:
        plan(big(n_bytes), machine, Settings(mode="hybrid"), 2 * GIB)
    line = str(refusal.value)
    assert gib(machine.host_room) in line and "2.00 GiB of context" in line
    assert "of copies" in line and "of mapped weights" in line


def test_reading_from_the_disk_is_for_those_who_ask_and_is_warned_of():
    made = plan(big(Q4), GB10, Settings(mode="mapped"), 2 * GIB)
    assert made.warning.startswith("WARNING: memory: expected at most 111.00 GiB")
    assert made.pinnable == 109 * GIB, "all but the reserve, the context and no copies"
    with pytest.raises(MemoryBudgetError):  # nothing but pinned pages can be read there
        plan(big(PRO), H200, Settings(mode="mapped"))


def test_what_fits_is_said_nothing_of(both):
    for machine in (GB10, H200, H100, CARD_24):
        assert plan(both, machine, Settings()).warning == ""
    # Copies and context are the host's only where memory is shared.
    tight = Machine(139 * GIB, 60 * GIB)
    assert plan(big(56 * GIB), tight, Settings(mode="mapped"), 20 * GIB).warning == ""
    with pytest.raises(MemoryBudgetError):
        shared = dataclasses.replace(tight, unified=True)
        plan(big(56 * GIB), shared, Settings(mode="mapped"), 20 * GIB)


def test_the_plan_says_what_follows_a_refusal_of_the_driver(both):
    mapped = Settings(mode="mapped")
    assert any("device reads it unregistered" in r for r in plan(both, GB10, mapped).reasons)
    assert any("everything is copied" in r for r in plan(both, CARD_24, mapped).reasons)
    assert not any("refuses" in r for r in plan(both, H200, mapped).reasons)
    unable = dataclasses.replace(GB10, register=False)
    assert any("registers no memory" in r for r in plan(both, unable, mapped).reasons)


def test_tensors_in_memory_of_their_own_are_always_copied():
    spans = [
        Span("a", 0, 0, 10 * GIB, "experts"),
        Span("converted", -1, 0, GIB, "experts"),
        Span("b", 0, 10 * GIB, 10 * GIB, "dense"),
    ]
    for mode in ("hybrid", "mapped"):
        made = plan(spans, H200, Settings(mode=mode, budget=5 * GIB))
        assert [d.place for d in made.decisions] == ["mapped", "device", "mapped"]


def test_sizes_on_the_device_decide_what_fits():
    spans = [Span("a", 0, 0, 6 * GIB, "dense", device_bytes=9 * GIB)]
    assert plan(spans, H200, Settings(budget=8 * GIB)).mode == "hybrid"
    assert plan(spans, H200, Settings(budget=9 * GIB)).mode == "device"


def test_runs_merge_across_small_gaps_only():
    spans = [
        Span("c", 0, 400_000, 100, "dense"),
        Span("a", 0, 0, 1000, "dense"),
        Span("b", 0, 1000 + GAP, 1000, "dense"),
        Span("other file", 1, 2000, 10, "dense"),
    ]
    assert [(r.file, r.start, r.stop, r.n_tensors) for r in merged(spans)] == [
        (0, 0, 2000 + GAP, 2),
        (0, 400_000, 400_100, 1),
        (1, 2000, 2010, 1),
    ]
    near = dataclasses.replace(spans[2], offset=1001 + GAP)
    assert len(merged([spans[1], near])) == 2


@pytest.mark.parametrize(
    ("name", "mtp", "kind"),
    [
        ("token_embd.weight", False, "embedding"),
        ("output.weight", False, "head"),
        ("output_norm.weight", False, "dense"),
        ("blk.3.ffn_up_exps.weight", False, "experts"),
        ("blk.3.ffn_up_shexp.weight", False, "dense"),
        ("mtp.0.e_proj.weight", False, "mtp"),
        ("mtp.0.ffn_up_exps.weight", False, "experts"),
        ("blk.43.nextn.eh_proj.weight", True, "mtp"),
    ],
)
def test_kinds(name, mtp, kind):
    assert kind_of(name, mtp) == kind


@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ((), {}, Settings()),
        (("hybrid", 1.5), {}, Settings("hybrid", 3 * GIB // 2)),
        (
            (),
            {"DS4_CUDA_NO_HBM_CACHE": "1"},
            Settings("mapped", notes=("DS4_CUDA_NO_HBM_CACHE is set",)),
        ),
        (
            ("device",),
            {"DS4_CUDA_NO_HBM_CACHE": "1"},
            Settings("device", notes=("DS4_CUDA_NO_HBM_CACHE is set",)),
        ),
        (
            (),
            {"DS4_CUDA_WEIGHT_CACHE_LIMIT_GB": "24"},
            Settings(budget=24 * GIB, notes=("DS4_CUDA_WEIGHT_CACHE_LIMIT_GB is set",)),
        ),
        (("auto", 3.0), {"DS4_CUDA_WEIGHT_CACHE_LIMIT_GB": "24"}, Settings(budget=3 * GIB)),
        (
            (),
            {
                "DS4_CUDA_CACHE_ALL_TENSORS": "1",
                "DS4_CUDA_DIRECT_MODEL": "1",
                "DS4_CUDA_WEIGHT_CACHE_VERBOSE": "yes",
            },
            Settings(
                experts_too=True,
                direct=True,
                verbose=True,
                notes=(
                    "DS4_CUDA_CACHE_ALL_TENSORS is set",
                    "DS4_CUDA_DIRECT_MODEL is set",
                    "DS4_CUDA_WEIGHT_CACHE_VERBOSE is set",
                ),
            ),
        ),
        ((), {"DS4_CUDA_CACHE_ALL_TENSORS": "0", "DS4_CUDA_DIRECT_MODEL": ""}, Settings()),
    ],
)
def test_settings(options, environment, expected):
    assert settings_from(*options, environment=environment) == expected


@pytest.mark.parametrize("text", ["much", "-1", "nan", "1e9"])
def test_a_bad_limit_is_refused(text):
    with pytest.raises(OptionError, match="DS4_CUDA_WEIGHT_CACHE_LIMIT_GB: expected GiB"):
        settings_from(environment={"DS4_CUDA_WEIGHT_CACHE_LIMIT_GB": text})


def test_a_bad_mode_is_refused():
    with pytest.raises(OptionError, match="residency: expected one of auto"):
        settings_from("all")
