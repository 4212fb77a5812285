"""Writes made-up results of any size: what the views of both programs are measured against.

    python -m tests.tools.large bench FOLDER --rows 200000
    python -m tests.tools.large eval FOLDER --rows 200000

A sweep gets as many runs as `--contexts` context lengths in two modes leave; an exam has two
repeats a question. Lines are encoded as the journals encode theirs, but not synced one by one.
Equal arguments give equal bytes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

from ds4bench.records import rows as sweeps
from ds4bench.records.files import publish_views, read_rows
from ds4eval.records import record as exams
from engine.tooling.results.journal import Record, encode, encode_plain
from tests.ds4bench.speed_rows import ENVIRONMENT, FINGERPRINT
from tests.ds4eval.eval_runs import CONFIG, sample

MODES = ("plain", "mtp-combined")
VERDICTS = ("pass", "pass", "fail", "none")


def sweep_records(n_rows: int, n_contexts: int, n_steps: int, seed: int) -> Iterator[Record]:
    """Header, start and rows of a sweep."""
    rng = random.Random(seed)
    yield {
        "schema": sweeps.SCHEMA,
        "version": sweeps.SCHEMA_VERSION,
        "plan": {"contexts": n_contexts},
        "fingerprint": FINGERPRINT,
    }
    yield {"kind": "start", "at": 1.0, "environment": ENVIRONMENT}
    n_contexts = max(1, min(n_contexts, n_rows // len(MODES)))
    for n in range(n_rows):
        cell, mode = divmod(n, len(MODES))
        run, place = divmod(cell, n_contexts)
        steps = tuple(round(rng.uniform(0.05, 0.07), 9) for _ in range(n_steps))
        plain = mode == 0
        row = sweeps.SpeedRow(
            ctx_tokens=64 * (place + 1),
            prefill_tokens=64,
            prefill_s=rng.uniform(0.1, 0.11),
            gen_tokens=n_steps,
            gen_s=sum(steps),
            mode=MODES[mode],
            run=run + 1,
            key=f"{n:032x}",
            steps=n_steps,
            drafted=None if plain else n_steps,
            accepted=None if plain else 0,
            prefill_shared=not plain,
            step_s=steps,
            step_tokens=(1,) * n_steps,
            token_hash=f"{place:064x}",
            started_at=1.0 + n,
            telemetry=sweeps.Telemetry(cpu_load_pct=40.0, cpu_mhz=3000.0),
        )
        yield {"kind": "row", **row.to_record()}


def exam_records(n_samples: int, n_reply: int, seed: int) -> Iterator[Record]:
    """Header, selection and samples of an exam of two repeats."""
    rng = random.Random(seed)
    yield {
        "schema": exams.SCHEMA,
        "version": exams.SCHEMA_VERSION,
        "run_id": f"large-{seed}",
        "config": CONFIG,
    }
    sources = [f"source-{n}" for n in range(5)]
    places = [(sources[n % 5], n // 2, n % 2) for n in range(n_samples)]
    names = ("key", "source", "id", "repeat", "kind", "expected", "chance")
    asked = []
    for source, number, repeat in places:
        one = sample(source, number, "pass", repeat)
        asked.append({name: getattr(one, name) for name in names})
    yield {"type": "selection", "questions": asked}
    for source, number, repeat in places:
        text = f"thought {number} {repeat} " + "because " * (n_reply // 8)
        verdict = rng.choice(VERDICTS)
        one = sample(
            source,
            number,
            verdict,
            repeat,
            gen_tokens=rng.randrange(20, 16000),
            output=f"{text}</think>\nAnswer: A",
            question={"text": f"What is {number} and {number}?", "choices": ["one", "two"]},
        )
        yield one.record()


def write_sweep(
    folder: Path, n_rows: int, n_contexts: int = 1000, n_steps: int = 16, seed: int = 1
) -> Path:
    """The run folder of a sweep with this many rows."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "rows.jsonl").open("wb") as file:
        file.writelines(map(encode, sweep_records(n_rows, n_contexts, n_steps, seed)))
    return folder


def write_exam(folder: Path, n_samples: int, n_reply: int = 200, seed: int = 1) -> Path:
    """The run folder of an exam with this many samples."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / exams.JOURNAL).open("wb") as file:
        file.writelines(map(encode_plain, exam_records(n_samples, n_reply, seed)))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("bench", "eval"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--contexts", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=16, help="decode steps of a row")
    parser.add_argument("--reply", type=int, default=200, help="characters of a reply")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--views", action="store_true", help="rows.csv and rows.parquet too")
    args = parser.parse_args()
    if args.kind == "eval":
        write_exam(args.folder, args.rows, args.reply, args.seed)
        return
    write_sweep(args.folder, args.rows, args.contexts, args.steps, args.seed)
    if args.views:
        found = read_rows(args.folder)
        publish_views(
            list(found.rows),
            found.environment,
            csv_path=args.folder / "rows.csv",
            parquet_path=args.folder / "rows.parquet",
            upstream_only=False,
        )


if __name__ == "__main__":
    main()
