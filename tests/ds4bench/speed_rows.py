"""Made-up sweeps with known ratios, for tests of everything behind the records."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from ds4bench.records.rows import SCHEMA, SCHEMA_VERSION, SpeedRow, Telemetry
from engine.tooling.results.journal import Journal

MODES = ("plain", "mtp-combined")
CTX = (2048, 4096, 8192)
ENVIRONMENT = {
    "cpu": {"name": "Fake 9000", "usable_cores": 8},
    "gpu": {},
    "memory_bytes": 1 << 34,
    "model": [{"path": "/m.gguf", "size": 10, "sha256": "ab" * 32}],
    "code": {"commit": "0123456789ab" * 3, "dirty": False},
}
FINGERPRINT = {
    "prompt": "generated:1234",
    "chat": False,
    "sampling": {"temp": 0.0, "seed": 1234},
    "threads": None,
    "activations": "int8",
    "kv": "official",
    "mtp_draft": 1,
}


def sweep(
    runs: int = 6,
    slower: float = 1.0,
    noise: float = 0.004,
    seed: int = 0,
    ctx: tuple[int, ...] = CTX,
    modes: tuple[str, ...] = MODES,
    **changed,
) -> list[SpeedRow]:
    """Rows whose decode rate is `slower` times a smooth curve, with log-normal noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for run in range(1, runs + 1):
        before = 0
        for place, c in enumerate(ctx):
            prefill_s = (c - before) / (400 * rng.lognormal(0, noise))
            for mode in modes:
                plain = mode == "plain"
                steps = 64 if plain else 36 + place
                rate = 15 * slower * (1.0 if plain else 1.3) / (1 + 0.02 * math.log2(c))
                fields = {
                    "ctx_tokens": c,
                    "prefill_tokens": c - before,
                    "prefill_s": prefill_s,
                    "gen_tokens": 64,
                    "gen_s": 64 / (rate * rng.lognormal(0, noise)),
                    "kv_bytes": 1000 + 10 * c,
                    "mode": mode,
                    "run": run,
                    "steps": steps,
                    "drafted": None if plain else steps,
                    "accepted": None if plain else 64 - steps,
                    "prefill_shared": not plain,
                    "telemetry": Telemetry(cpu_load_pct=40.0),
                }
                rows.append(SpeedRow(**{**fields, **changed}))
            before = c
    return rows


def write_journal(
    folder: Path,
    rows: list[SpeedRow],
    environment: dict | None = None,
    fingerprint: dict | None = None,
) -> Path:
    """A run folder with a journal of these rows, as a finished sweep leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"gen_tokens": rows[0].gen_tokens} if rows else {}
    header = {"plan": plan, "fingerprint": {**FINGERPRINT, **(fingerprint or {})}}
    with Journal.open(folder / "rows.jsonl", SCHEMA, SCHEMA_VERSION, header) as journal:
        journal.append({"kind": "start", "environment": {**ENVIRONMENT, **(environment or {})}})
        for row in rows:
            journal.append({"kind": "row", **json.loads(json.dumps(row.to_record()))})
    return folder
