"""What a sweep records of its surroundings when it starts, and what of it a user must hear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from ds4bench.doctor.judge import Verdict, judge
from ds4bench.doctor.probe import busy_pct, read_facts
from ds4bench.plan import SweepPlan
from ds4bench.telemetry.nvml import Gpu
from ds4bench.telemetry.powercap import PowerCap
from ds4bench.telemetry.sampler import TelemetrySampler
from ds4bench.worker.facts import Bandwidth, ModelFacts, PromptFacts
from engine.tooling.results.environment import command_line, environment

LOOK_S = 0.1  # at other work, while nothing of ours runs


def sampler_of(plan: SweepPlan, gpu: Gpu, interval_s: float) -> TelemetrySampler:
    """Sensors of what computes: the device's, or the processor's with its energy."""
    if plan.backend == "cuda":
        return TelemetrySampler(gpu, interval_s=interval_s)
    power = PowerCap()
    return TelemetrySampler(None, interval_s=interval_s, power=power if power.present else None)


def other_work() -> float | None:
    """Share of all cores that others use, in per cent; asked before our own work begins."""
    return busy_pct(LOOK_S)


def start_record(
    plan: SweepPlan,
    facts: ModelFacts,
    prompt: PromptFacts,
    engine: dict[str, Any],
    bandwidth: Bandwidth,
    gpu: Gpu,
    busy: float | None,
) -> dict[str, Any]:
    """Everything about code, machine, model and prompt that a row does not say."""
    return {
        **environment(),
        "gpu": gpu.facts(),
        "bandwidth": asdict(bandwidth),
        "engine": engine,
        "model": [asdict(file) for file in facts.files],
        "model_name": facts.name,
        "prompt_tokens_sha256": prompt.tokens_sha256,
        "memory": asdict(facts.memory),
        "command": command_line(),
        "doctor": doctor_record(plan, gpu, bandwidth, busy),
    }


def doctor_record(
    plan: SweepPlan, gpu: Gpu, bandwidth: Bandwidth, busy: float | None
) -> dict[str, Any]:
    """The doctor's facts without a load of its own, and its findings."""
    found = read_facts(gpu, plan.model)
    on_device = plan.backend == "cuda"
    rates = bandwidth.passes_bytes_per_s
    if on_device and found.device is not None:
        found = replace(found, device=replace(found.device, memory_rates=rates))
    else:
        # A GPU that idles beside the processor has no part in its figures.
        memory = replace(found.memory, threads=bandwidth.threads, rates=rates)
        found = replace(found, device=None, memory=memory)
    found = replace(found, load=replace(found.load, busy_pct=busy))
    return {
        "facts": found.to_record(),
        "findings": [finding.to_record() for finding in judge(found)],
    }


def doctor_warnings(record: dict[str, Any]) -> Iterator[str]:
    """One line for each finding that a user must know before the rows."""
    for finding in record["doctor"]["findings"]:
        if finding["verdict"] == str(Verdict.UNFIT):
            advice = f"; {finding['advice']}" if "advice" in finding else ""
            yield f"doctor: {finding['name']}: {finding['found']}{advice}"
