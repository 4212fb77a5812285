"""Files in the layouts of the published data sets, with invented contents, in every format."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ds4eval.questions.aime import KEYS

AIME_KEYS = [KEYS[f"aime2025-{n:02d}"] for n in range(1, 31)]

GPQA_EXTRA = ("Pre-Revision Question", "Canary String", "Writer's Difficulty Estimate",
              "Feedback_EV_1", "Extra Revised Question")  # fmt: skip
CANARY = "this benchmark's canary 26b5c67b"


def aime_rows():
    return [
        {"problem": f"Invented problem {i}: find $x_{{{i}}}$.", "answer": key, "id": str(i)}
        for i, key in enumerate(AIME_KEYS)
    ]


def gpqa_rows(ids=None):
    ids = ids or [f"recInvented{i:05d}" for i in range(6)]
    rows = []
    for i, id_ in enumerate(ids):
        rows.append(
            {
                "Pre-Revision Question": "draft",
                "Question": f'Invented question {i}, with "quotes",\nand a second line?',
                "Correct Answer": f" right, {i}\n",
                "Incorrect Answer 1": f"wrong one {i}",
                "Incorrect Answer 2": f"wrong two {i}",
                "Incorrect Answer 3": f"wrong three {i}",
                "Explanation": "because",
                "Extra Revised Question": "",
                "High-level domain": "Physics",
                "Subdomain": "Optics",
                "Record ID": id_,
                "Canary String": CANARY,
                "Writer's Difficulty Estimate": "Hard graduate level",
                "Feedback_EV_1": "fine",
            }
        )
    return rows


def super_rows(ids=None, letters=None):
    ids = ids or [f"{i:032x}" for i in range(8)]
    rows = []
    for i, id_ in enumerate(ids):
        place = "ABCDEFGHIJ".index(letters[i]) if letters else i % 4
        options = [f"option {i}.{j}" for j in range(10 if i % 3 or letters else 4)]
        rows.append(
            {
                "uuid": id_,
                "question": f"Invented question {i}?",
                "options": options,
                "answer": options[place],
                "answer_letter": "ABCDEFGHIJ"[place],
                "discipline": ("Science", "Law")[i % 2],
                "field": "field",
                "subfield": "subfield",
                "difficulty": ("easy", "middle", "hard")[i % 3],
                "is_calculation": bool(i % 2),
            }
        )
    return rows


def line_rows():
    code = "\n".join(f"{n}  int v{n};" for n in range(1, 21))
    return [
        {"id": f"compsec-{i:03d}", "title": f"case {i}", "question": f"{code}", "answer": key}
        for i, key in enumerate(("3", "4-6", "7, 9-10"), 1)
    ]


def csv_bytes(rows):
    out = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns)
    writer.writeheader()
    for row in rows:
        plain = {k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()}
        writer.writerow(plain)
    return out.getvalue().encode("utf-8")


def jsonl_bytes(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def json_bytes(rows):
    return json.dumps(rows, indent=1).encode("utf-8")


def columns_bytes(rows):
    return json.dumps({name: [row[name] for row in rows] for name in rows[0]}).encode("utf-8")


def parquet_bytes(rows):
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue().to_pybytes()


def zstd(raw):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as file:
        file.write(raw)
    return out.getvalue().to_pybytes()


FORMATS = {
    "csv": csv_bytes,
    "jsonl": jsonl_bytes,
    "json": json_bytes,
    "columns.json": columns_bytes,
    "parquet": parquet_bytes,
    "csv.gz": lambda rows: gzip.compress(csv_bytes(rows)),
    "jsonl.gz": lambda rows: gzip.compress(jsonl_bytes(rows)),
    "jsonl.zst": lambda rows: zstd(jsonl_bytes(rows)),
    "csv.zst": lambda rows: zstd(csv_bytes(rows)),
    "parquet.gz": lambda rows: gzip.compress(parquet_bytes(rows)),
}


def write(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path
