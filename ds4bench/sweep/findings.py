"""Text around a sweep: the plan of a dry run, warnings about its rows, predicted rates.

Everything here is computed from a plan, facts and rows; nothing is measured or printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from ds4bench.plan import SweepPlan
from ds4bench.records.files import bandwidth_text
from ds4bench.records.rows import DISTURBED, SpeedRow
from ds4bench.telemetry.machines import KnownMachine
from ds4bench.worker.facts import Bandwidth, ModelFacts, PromptFacts
from engine.tooling.options.speculation import FIRST_DRAFTS, HARDLY_KEPT
from engine.weights.machine import host_warning

MIB = 1 << 20
CHUNK = 512


def dry_run_text(
    plan: SweepPlan,
    facts: ModelFacts,
    prompt: PromptFacts,
    bandwidth: Bandwidth,
    machines: Sequence[KnownMachine] = (),
    free_bytes: int | None = None,
) -> str:
    """The plan, its memory, and the least time that this machine's memory allows for it.

    Parameters
    ----------
    free_bytes : int, optional
        Of the host's memory, for a warning of a model that it does not hold.
    """
    frontiers = plan.frontiers
    memory = facts.memory
    rate = bandwidth.read_bytes_per_s
    lines = [
        f"model     {plan.model} ({memory.mapped / MIB:.0f} MiB)",
        f"frontiers {len(frontiers)}: {_short(frontiers)}",
        f"modes     {', '.join(plan.modes)}; {plan.repeats} run(s); {plan.n_rows} rows of "
        f"{plan.gen_tokens} tokens",
        f"prompt    {plan.prompt.source}, {min(prompt.n_tokens, plan.ctx_max)} tokens used",
        f"memory    context {memory.context / MIB:.0f} MiB ({plan.context} tokens), scratch "
        f"{memory.scratch / MIB:.0f} MiB, snapshot {memory.snapshot / MIB:.0f} MiB, "
        f"copies of weights {facts.weight_bytes / MIB:.0f} MiB",
        f"bandwidth {bandwidth_text(bandwidth.passes_bytes_per_s or [rate])}",
    ]
    if free_bytes is not None:
        lines += filter(None, [memory_warning(facts, free_bytes)])
    seconds = least_seconds(plan, facts, rate)
    if seconds is not None:
        lines.append(f"time      at least {_duration(seconds)}, if memory were the only limit")
    for machine in machines:
        for frontier, n_bytes in _ends(facts.decode_bytes):
            lines.append(f"predicted {bounds_text(machine, frontier, 'plain', n_bytes, 1.0)}")
    return "\n".join(lines)


def memory_warning(facts: ModelFacts, free_bytes: int) -> str:
    """A line with three numbers for a model that the host's memory does not hold; '' otherwise.

    A device's memory is judged by its own plan of residency.
    """
    if facts.free_device_bytes is not None:
        return ""
    memory = facts.memory
    session = memory.context + memory.scratch + memory.snapshot
    return host_warning(memory.mapped, facts.weight_bytes, session, free_bytes)


def least_seconds(plan: SweepPlan, facts: ModelFacts, bytes_per_s: float) -> float | None:
    """Lower bound of a sweep's time: every decode step and prefill chunk at memory speed."""
    per_token = facts.decode_bytes
    if not per_token or bytes_per_s <= 0:
        return None
    typical = float(median(per_token.values()))
    steps = len(plan.frontiers) * plan.gen_tokens * len(plan.modes)
    chunks = -(-plan.ctx_max // CHUNK)
    n_bytes = steps * typical + chunks * facts.memory.mapped
    return plan.repeats * n_bytes / bytes_per_s


def findings(rows: Sequence[SpeedRow], plan: SweepPlan) -> Iterator[str]:
    """What a reader of the rows must not overlook."""
    good = [row for row in rows if row.ok]
    for row in good:
        if row.lossless is False:
            yield (
                f"{row.series} at {row.ctx_tokens} (run {row.run}): emitted other tokens than "
                "plain; its speed does not count"
            )
    for mode in plan.modes:
        mine = [row for row in good if row.mode == mode]
        if mode == "plain" or not mine:
            continue
        # Of a step's drafts the first is judged: deeper ones fail more often by nature.
        drafted = sum(sum(row.drafted_by_depth[:1]) for row in mine)
        kept = sum(sum(row.accepted_by_depth[:1]) for row in mine)
        if not sum(row.accepted or 0 for row in mine):
            yield f"{mode}: not one drafted token was kept; the drafter is off or does not fit"
        elif drafted >= FIRST_DRAFTS and kept < HARDLY_KEPT * drafted:
            yield (
                f"{mode}: {kept} of {drafted} first drafts were kept "
                f"({100 * kept / drafted:.1f} %); is this the MTP block of this model and release?"
            )
        slower = [
            ctx for ctx in sorted({row.ctx_tokens for row in mine}) if _slower(mode, ctx, good)
        ]
        if slower:
            yield f"{mode}: slower than plain at {_short(slower)}"
    disturbed = [row for row in rows if row.status in DISTURBED]
    for row in disturbed:
        yield (
            f"{row.series} at {row.ctx_tokens} (run {row.run}): {row.status}, {row.message}; its "
            "speed does not count (--resume --retry-failed measures it again)"
        )
    failed = [row for row in rows if not row.ok and row.status not in DISTURBED]
    if failed:
        yield f"{len(failed)} row(s) failed: {', '.join(sorted({r.status for r in failed}))}"
    if not kv_affine(good):
        yield "kvcache_bytes: expected to grow by the same bytes per token, found otherwise"


def _slower(mode: str, ctx: int, good: Sequence[SpeedRow]) -> bool:
    """By the medians over runs: one disturbed run of several is no finding."""
    plain, mine = (
        [row.gen_s for row in good if row.mode == m and row.ctx_tokens == ctx and row.gen_s]
        for m in ("plain", mode)
    )
    return bool(plain and mine and median(mine) > median(plain))


def kv_affine(rows: Sequence[SpeedRow]) -> bool:
    """Whether snapshot bytes are exactly affine in context, at multiples of 128 tokens.

    That is what the cache's layout gives (constant rings, rows per 4 and per 128 tokens), so any
    residual is a defect of the cache.
    """
    points = sorted(
        {
            (row.ctx_tokens, row.kv_bytes)
            for row in rows
            if row.kv_bytes and row.ctx_tokens >= 128 and row.ctx_tokens % 128 == 0
        }
    )
    if len(points) < 3:
        return len({ctx for ctx, _ in points}) == len(points)
    (x0, y0), (x1, y1) = points[0], points[-1]
    return all((y - y0) * (x1 - x0) == (y1 - y0) * (x - x0) for x, y in points) and x1 > x0


def prediction_text(rows: Sequence[SpeedRow], machines: Sequence[KnownMachine]) -> str:
    """Upper bounds of decode on other machines, from the bytes that these rows had to read."""
    lines = []
    for machine in machines:
        for row in rows:
            if row.ok and row.run == 1 and row.bytes_per_step:
                per_step = row.tokens_per_step or 1.0
                lines.append(
                    bounds_text(machine, row.ctx_tokens, row.mode, row.bytes_per_step, per_step)
                )
    return "\n".join(lines) or "predict: no row with a byte count"


def bounds_text(
    machine: KnownMachine, frontier: int, mode: str, n_bytes: float, tokens_per_step: float
) -> str:
    """One line: at most so many tokens per second on a machine."""
    nominal = machine.nominal / n_bytes * tokens_per_step
    text = f"{machine.name} {mode} at {frontier}: at most {nominal:.1f} t/s"
    text += f" ({machine.nominal / 1e9:.0f} GB/s nominal)"
    if machine.measured is not None:
        measured = machine.measured / n_bytes * tokens_per_step
        text += f", {measured:.1f} t/s ({machine.measured / 1e9:.0f} GB/s measured)"
    return text


def _ends(per_token: Mapping[int, float]) -> list[tuple[int, float]]:
    points = sorted(per_token.items())
    return points if len(points) <= 2 else [points[0], points[-1]]


def _short(values: Sequence[int]) -> str:
    if len(values) <= 6:
        return ", ".join(map(str, values))
    return f"{', '.join(map(str, values[:3]))}, ... {values[-1]}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
