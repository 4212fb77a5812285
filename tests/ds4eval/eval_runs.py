"""Run folders written for tests through the same journal that runs write."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds4eval.records import record as records
from ds4eval.records.record import Sample, state_of
from engine.tooling.results.journal import Journal

CONFIG: dict[str, Any] = {
    "data": {"suite": "test"},
    "prompt_version": "1",
    "model": {"name": "model-a", "sha256": "aa"},
    "sampling": {"temp": 0.0},
    "think": "high",
    "budget": {"tokens": 16000, "soft": 1024, "hard": 512, "rank": 3, "cue": ""},
    "mode": "any",
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sample(source: str, number: int, verdict: str, repeat: int = 0, **changes: Any) -> Sample:
    """A sample whose key says which it is; `verdict` is 'pass', 'fail', 'none' or ''."""
    stop = changes.pop("stop", "eos")
    given = {"pass": "A", "fail": "B"}.get(verdict, "?")
    fields: dict[str, Any] = {
        "key": f"{source}-{number}-{repeat}",
        "n": number,
        "source": source,
        "id": f"q{number:03d}",
        "domain": "domain " + "xyz"[number % 3],
        "kind": "letter",
        "chance": 0.25,
        "repeat": repeat,
        "stop": stop,
        "state": state_of(stop, verdict),
        "expected": "A",
        "question_sha256": digest(f"{source}{number}"),
        "prompt_tokens": 100,
        "gen_tokens": 200 + 10 * number + repeat,
        "think_tokens": 150,
        "limit_tokens": 16000,
        "close": "natural",
        "given": given,
        "verdict": verdict,
        "lenient_given": given,
        "lenient_verdict": verdict,
        "classic_given": given,
        "classic_verdict": verdict,
        "grader_version": "1",
        "output_sha256": digest(f"{given}{number}"),
        "output": f"thought {number} {repeat}</think>\nAnswer: {given}",
        "prefill_s": 0.5,
        "decode_s": 2.0 + number / 10,
    }
    return Sample(**{**fields, **changes})


def write_run(
    folder: Path,
    samples: Sequence[Sample],
    config: dict[str, Any] | None = None,
    selected: Sequence[Sample] | None = None,
) -> Path:
    """A run folder that holds these samples; `selected` are those asked for (default: the same)."""
    folder.mkdir(parents=True)
    header = {"run_id": folder.name, "config": {**CONFIG, **(config or {})}}
    with Journal.open(folder / records.JOURNAL, records.SCHEMA, 1, header) as journal:
        names = ("key", "source", "id", "repeat", "kind", "expected", "chance")
        asked = [{n: getattr(s, n) for n in names} for s in selected or samples]
        journal.append({"type": "selection", "questions": asked})
        for item in samples:
            journal.append(item.record())
    return folder


def verdicts(passes: Sequence[int]) -> list[str]:
    return ["pass" if p else "fail" for p in passes]


def paired_samples(
    source: str, both: int, a_only: int, b_only: int, neither: int
) -> tuple[list[Sample], list[Sample]]:
    """Two runs' samples of one source with these four counts."""
    a = [1] * (both + a_only) + [0] * (b_only + neither)
    b = [1] * both + [0] * a_only + [1] * b_only + [0] * neither
    return (
        [sample(source, i, v) for i, v in enumerate(verdicts(a))],
        [sample(source, i, v) for i, v in enumerate(verdicts(b))],
    )
