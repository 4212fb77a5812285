"""A sweep as its owner can post it: rows and what a figure depends on, nobody and no place.

What is kept of the circumstances is listed here; a field that a later release adds is left out
until somebody has looked at it. Texts that stay lose paths, addresses, credentials and names
(`engine.tooling.results.redact`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ds4bench.records.rows import SpeedRow, SweepResult
from engine.tooling.results.redact import public, public_text

# Parts that are kept whole once `public` has gone over them.
KEPT = (
    *("code", "packages", "python", "implementation", "system", "machine", "memory_bytes"),
    *("cpu", "bandwidth", "engine", "memory", "model_name", "prompt_tokens_sha256"),
    *("fingerprint", "starts", "started_at", "limits", "doctor"),
)
KEPT_OF = {
    "gpu": ("name", "driver", "cuda", "count", "memory_bytes", "vbios", "power_default_w",
            "power_limit_w", "max_sm_mhz", "mig"),
    "server": ("counted_by", "rtt_s", "fields_changed", "software", "owned_by", "max_model_len",
               "quantization"),
}  # fmt: skip
# Of a plan, the user's own words are left out: a system prompt, a prompt that is repeated.
PRIVATE_OF_PROMPT = ("path", "system", "text", "source", "repeat_prompt")
PRIVATE_OF_PLAN = ("server",)


def public_sweep(run: SweepResult) -> SweepResult:
    """The sweep without what says who measured it and where."""
    environment = public_environment(run.environment)
    return replace(
        run, rows=tuple(_row(row) for row in run.rows), environment=environment, warmups=()
    )


def public_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """The circumstances of a sweep, of them what is listed above."""
    found = {name: environment[name] for name in KEPT if name in environment}
    for name, fields in KEPT_OF.items():
        part = environment.get(name)
        if isinstance(part, dict) and part:
            found[name] = {field: part[field] for field in fields if field in part}
    if isinstance(environment.get("model"), list):
        found["model"] = environment["model"]
    plan = environment.get("plan")
    if isinstance(plan, dict):
        found["plan"] = _without(plan, PRIVATE_OF_PLAN)
        if isinstance(plan.get("prompt"), dict):
            found["plan"]["prompt"] = _without(plan["prompt"], PRIVATE_OF_PROMPT)
    cleaned: dict[str, Any] = public(found)
    return cleaned


def _without(part: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}


def _row(row: SpeedRow) -> SpeedRow:
    return replace(row, message=public_text(row.message))
