"""One target per reader of a format, for the fuzzer and for tests: bytes in, `EngineError` at most.

Journals are taken line by line and given good checksums, so that the fuzzer is not stopped where a
torn line would be; everything else is read as it comes. A target that a reader accepts goes on to
what looks into it first: set-ups, scores.
"""

from __future__ import annotations

import io
import json
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import EngineError

Target = Callable[[Path], None]
# Removed when the process ends.
_KEPT = tempfile.TemporaryDirectory(prefix="ds4-fuzz-")
FOLDER = Path(_KEPT.name)


@dataclass(frozen=True)
class Reader:
    """A reader under test: `write` puts the fuzzer's bytes into a file that `read` opens."""

    name: str
    file: str
    read: Target
    seeds: Callable[[], list[bytes]]
    write: Callable[[bytes], bytes] = bytes

    def one_input(self, data: bytes) -> bool:
        """One run: whether the reader accepted it. Any exception but an EngineError is a find."""
        path = FOLDER / self.file
        path.write_bytes(self.write(data))
        try:
            self.read(path)
        except EngineError:
            return False
        return True


def _checked_lines(data: bytes) -> bytes:
    """Each line that is a JSON object, as a line of a journal."""
    from engine.tooling.results.journal import encode

    lines = []
    for line in data.split(b"\n"):
        try:
            record = json.loads(line)
            if isinstance(record, dict):
                lines.append(encode(record))
        except (ValueError, RecursionError):
            continue
    return b"".join(lines)


def _lines(records: list[dict[str, Any]]) -> bytes:
    return b"\n".join(json.dumps(record, default=str).encode() for record in records)


def _rows_read(path: Path) -> None:
    from ds4bench.compare.samples import facts
    from ds4bench.records.files import bandwidth_rates as rates
    from ds4bench.records.files import bandwidth_text, machine_bandwidth, read_rows

    run = read_rows(path)
    facts(run.environment)
    machine_bandwidth(run.environment)
    if rates(run.environment):
        bandwidth_text(rates(run.environment))


def _journal_seeds() -> list[bytes]:
    from ds4bench.records.rows import SCHEMA, SCHEMA_VERSION
    from tests.ds4bench.speed_rows import ENVIRONMENT, sweep

    head = {"schema": SCHEMA, "version": SCHEMA_VERSION, "plan": {"sampling": {"temp": 0}},
            "fingerprint": {"prompt": "a"}}  # fmt: skip
    start = {"kind": "start", "at": 1.0, "environment": ENVIRONMENT}
    rows = [{"kind": "row", **row.to_record()} for row in sweep(runs=1)[:2]]
    return [_lines([head, start, *rows]), _lines([head, {**start, "environment": 3}])]


def _csv_seeds() -> list[bytes]:
    from ds4bench.records.csv_text import to_csv
    from tests.ds4bench.speed_rows import sweep

    rows = sweep(runs=1)[:2]
    return [to_csv(rows, False), to_csv(rows, True), to_csv(rows, True).replace(b",", b";")]


def _parquet_seeds() -> list[bytes]:
    from ds4bench.records.files import write_parquet
    from tests.ds4bench.speed_rows import ENVIRONMENT, sweep

    out = io.BytesIO()
    write_parquet(out, sweep(runs=1)[:2], ENVIRONMENT)
    return [out.getvalue()]


def _calibration_read(path: Path) -> None:
    from ds4bench.ab import noise

    noise.load("m", path.parent)


def _calibration_seeds() -> list[bytes]:
    from ds4bench.ab.noise import Calibration, Floor

    record = asdict(Calibration("m", 1.0, (Floor("decode", "plain", 0.02, 8, -0.1),), "x"))
    whole = {"schema": "ds4bench.calibration", "version": 1, **record}
    return [json.dumps(whole).encode(), json.dumps({**whole, "floors": [{"sigma": -1}]}).encode()]


def _facts_read(path: Path) -> None:
    from ds4bench.commands.doctor import load_facts
    from ds4bench.doctor.judge import judge

    judge(load_facts(path))


def _facts_seeds() -> list[bytes]:
    from ds4bench.commands.doctor import to_record
    from ds4bench.doctor.facts import Device, Facts, Processor

    facts = Facts("Linux", processor=Processor("x", 8), device=Device("y", memory_rates=(1.0, 2.0)))
    return [json.dumps(to_record(facts, [], "fit")).encode(), b"[]", b"{}"]


def _history_read(path: Path) -> None:
    from ds4bench.compare import history, trends

    with history.open_history(path) as database:
        for entry in trends.entries(database):
            history.series(database, entry.setup)
            trends.points(database, entry.id)


def _history_seeds() -> list[bytes]:
    from ds4bench.compare.history import open_history

    path = FOLDER / "seed.sqlite"
    path.unlink(missing_ok=True)
    with open_history(path) as database:
        database.execute(
            "INSERT INTO runs VALUES (1, 'd', 'ab', 'c', 0, 1.0, '{\"cpu\": \"x\"}', 's', 1.0)"
        )
        database.execute("INSERT INTO points VALUES (1, 'decode', 'plain', 2048, 2048, 9.5, 3)")
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    return [path.read_bytes()]


def _accepted_read(path: Path) -> None:
    from ds4bench.panel.summary import read_accepted

    read_accepted(path)


def _questions_read(path: Path) -> None:
    from ds4eval.questions.loaders import load_own

    load_own(path)


def _question_seeds() -> list[bytes]:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"id": "a", "question": "1+1?", "answer": "2", "kind": "integer"}
    choice = {"id": "b", "question": "?", "choices": ["x", "y"], "answer": "A"}
    lines = json.dumps(row).encode() + b"\n" + json.dumps(choice).encode()
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row, {**row, "id": "c"}]), out)
    csv = b"id,question,answer\na,1+1?,2\n"
    return [lines, json.dumps([row, choice]).encode(), csv, gzip.compress(lines), out.getvalue()]


def _trace_read(path: Path) -> None:
    from ds4eval.exchange.import_trace import samples_from
    from ds4eval.exchange.trace import read_trace

    samples_from(read_trace(path))


def _trace_seeds() -> list[bytes]:
    head = b"# ds4-eval trace\nmodel: m\nmax_tokens: 100\ntemperature: 0\n\n"
    fields = b"source: AIME2025\nid: aime2025-01\nexpected: 70\ngenerated_tokens: 3\n"
    blocks = b"QUESTION_PROMPT_BEGIN bytes=4\n1+1?\nQUESTION_PROMPT_END\n"
    output = b"MODEL_OUTPUT_BEGIN bytes=10\nAnswer: 70\nMODEL_OUTPUT_END\n"
    case = b"===== CASE 1/1 AIME2025/aime2025-01 =====\n" + fields + blocks + output
    return [head + case, head + case.replace(b"bytes=10", b"bytes=99")]


def _preset_read(path: Path) -> None:
    from ds4eval.questions.suites import read_preset

    read_preset(path)


def _preset_seeds() -> list[bytes]:
    from ds4eval.questions.presets import DS4_23, Preset
    from ds4eval.questions.suites import preset_text

    return [preset_text(Preset("x", "", DS4_23[:3])).encode()]


def _samples_read(path: Path) -> None:
    from ds4eval.compare.pairs import arm_of
    from ds4eval.records.replay import read_run
    from ds4eval.report.scores import scores_of

    arm = arm_of(read_run(path), "x")
    if arm.questions:
        scores_of(arm)


def _sample_seeds() -> list[bytes]:
    from ds4eval.records.record import SCHEMA, grade_record
    from tests.ds4eval.eval_runs import CONFIG, sample

    head = {"schema": SCHEMA, "version": 1, "run_id": "r", "config": CONFIG}
    samples = [sample("s", 1, "pass"), sample("s", 2, "none", stop="limit")]
    names = ("key", "source", "id", "repeat", "kind", "expected", "chance")
    asked = [{n: getattr(s, n) for n in names} for s in samples]
    records = [head, {"type": "selection", "questions": asked}]
    records += [s.record() for s in samples] + [grade_record(samples[0])]
    return [_lines(records)]


def _manifest_read(path: Path) -> None:
    from ds4eval.run.expect import expectation

    config = {"model": {"name": "m"}, "think": "high", "data": {"suite": "x"}}
    expectation(3, 100, "x", config, path.parent, 1).line()


def _manifest_seeds() -> list[bytes]:
    config = {"model": {"name": "m"}, "think": "high", "data": {"suite": "x"}}
    done = {"gen_tokens": 100, "seconds": 2.0, "counted": 4}
    return [json.dumps({"config": config, "progress": done}).encode(), b"[]"]


def _session_read(path: Path) -> None:
    from engine.cache import session_file

    with session_file._open(path) as file:
        session_file._read_trailer(path, file)


def _session_seeds() -> list[bytes]:
    from engine.cache.session_file import _SIZES, FORMAT, TAIL

    fields = {"format": FORMAT, "title": "t", "created": 1.0, "id": "i", "kv": "f32",
              "model": "ab", "header": "cd"}  # fmt: skip
    raw = json.dumps(fields).encode()
    return [b"snap" + raw + _SIZES.pack(4, len(raw)) + bytes(32) + TAIL]


def _steps_seeds() -> list[bytes]:
    return [b"1 0 2\n3", b"1 abc", b"9" * 5000]


def _ids_read(path: Path) -> None:
    from ds4eval.commands.data_options import split_ids
    from ds4eval.questions.practice import practice_datasets
    from ds4eval.questions.suites import select

    select(practice_datasets()[0].questions, split_ids(f"@{path}"))


READERS = (
    Reader("rows", "rows.jsonl", _rows_read, _journal_seeds, _checked_lines),
    Reader("csv", "rows.csv", _rows_read, _csv_seeds),
    Reader("parquet", "rows.parquet", _rows_read, _parquet_seeds),
    Reader("calibration", "m.json", _calibration_read, _calibration_seeds),
    Reader("facts", "facts.json", _facts_read, _facts_seeds),
    Reader("history", "history.sqlite", _history_read, _history_seeds),
    Reader("steps", "steps.txt", _accepted_read, _steps_seeds),
    Reader("questions", "questions.jsonl", _questions_read, _question_seeds),
    Reader("trace", "trace.txt", _trace_read, _trace_seeds),
    Reader("preset", "preset.json", _preset_read, _preset_seeds),
    Reader("ids", "ids.txt", _ids_read, lambda: [b"1-3,5", b"practice"]),
    Reader("samples", "samples.jsonl", _samples_read, _sample_seeds, _checked_lines),
    Reader("manifest", "manifest.json", _manifest_read, _manifest_seeds),
    Reader("session", "x.session", _session_read, _session_seeds),
)
BY_NAME = {reader.name: reader for reader in READERS}
