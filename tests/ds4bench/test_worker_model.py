"""The worker over a real file: facts from headers alone, then a sweep in which all modes agree."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ds4bench.plan import Prompt, SweepPlan
from ds4bench.records.rows import read_rows
from ds4bench.worker.messages import Failure, Inspect
from ds4bench.worker.model import FileModel, open_worker, read_through
from ds4bench.worker.worker import answer
from engine.models.shapes import named_shape
from engine.models.write import write_model
from engine.nano import prose
from engine.options import MODES


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    for name, draft in (("base.gguf", False), ("mtp.gguf", True)):
        write_model(folder / name, named_shape("nano"), "q8_0", 1, draft=draft)
    return folder


def plan(folder, **more):
    options = {
        "model": folder / "base.gguf", "mtp": folder / "mtp.gguf", "threads": 1,
        "ctx_start": 64, "ctx_max": 256, "step_mul": 2.0, "gen_tokens": 4, "ctx_alloc": 300,
        "prompt": Prompt(seed=3), **more,
    }  # fmt: skip
    return SweepPlan(**options)


def test_inspect_reads_headers_and_hashes_small_files(files):
    facts = FileModel().inspect(plan(files))

    digest = hashlib.sha256((files / "base.gguf").read_bytes()).hexdigest()
    assert facts.model_id == f"sha256:{digest}"
    assert facts.has_mtp and tuple(facts.implemented_modes) == MODES
    assert set(facts.decode_bytes) == {64, 128, 256}
    assert facts.memory.context > 0 and facts.memory.snapshot > 0
    info = os.stat(files / "base.gguf")
    assert facts.files[0].stat[0][1:] == (
        info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns,
    )  # fmt: skip


def test_inspect_does_not_import_numba(files):
    code = (
        "import sys\nfrom tests.ds4bench.test_worker_model import plan, open_worker\n"
        "from pathlib import Path\n"
        "w = open_worker(); w.inspect(plan(Path(sys.argv[1]))); w.encode()\n"
        "assert 'numba' not in sys.modules\n"
    )
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code, str(files)], check=True, env=env)


def test_generated_prompt_is_long_enough_and_repeats_itself(files):
    worker = open_worker()
    worker.inspect(plan(files, ctx_max=5000, step_mul=100.0, ctx_alloc=None))
    first = worker.encode()
    tokens = worker.tokens
    assert len(tokens) == 5000 <= first.n_tokens
    assert worker.encode() == first and worker.tokens == tokens
    text = prose.text(3, 40_000)
    assert worker.model._tokenizer.encode(text).ids[:5000] == tokens


def test_chat_prompt_is_wrapped_and_a_short_text_repeated(files):
    worker = open_worker()
    prompt = Prompt(Path("a.txt"), "Say A.", chat=True, system="Be brief")
    worker.inspect(plan(files, prompt=prompt))
    chat = worker.encode().n_tokens
    plain = replace(prompt, chat=False, repeat=True)
    worker.inspect(plan(files, prompt=plain))
    facts = worker.encode()
    assert facts.n_tokens_once < chat
    assert facts.n_tokens >= 256 == len(worker.tokens)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 10])
def test_bad_files_are_exit_3(files, content):
    path = files / "bad.gguf"
    path.write_bytes(content)
    worker = open_worker()
    reply = answer(worker, Inspect(plan(files, model=path)))
    assert isinstance(reply, Failure) and reply.exit_code == 3, reply


def test_an_mtp_file_alone_is_no_model(files):
    other = plan(files, model=files / "mtp.gguf", mtp=None)
    assert answer(open_worker(), Inspect(other)).exit_code == 3


def test_reading_through_a_file(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    read_through(tmp_path / "a", chunk=64)


def test_a_real_sweep_in_all_modes_is_lossless(files, tmp_path):
    """The whole program on a real file: same tokens in every mode, bytes and rates present."""
    done = subprocess.run(
        [sys.executable, "-m", "ds4bench.cli", "-m", files / "base.gguf", "--mtp",
         files / "mtp.gguf", "--mode", "all", "--mtp-draft", "2", "--ctx-start", "128",
         "--ctx-max", "384", "--step-incr", "128", "-n", "9", "--out", tmp_path / "o", "-t", "1"],
        env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "o").rows
    assert len(rows) == 12 and all(row.ok and row.lossless for row in rows)
    assert {row.gen_tokens for row in rows} == {9}
    assert all(row.bytes_per_step > 0 and row.gen_s > 0 and row.kv_bytes for row in rows)
    kv = {row.ctx_tokens: row.kv_bytes for row in rows}
    assert kv[384] - kv[256] == kv[256] - kv[128]
    assert read_rows(tmp_path / "o").environment["engine"]["activations"] == "int8"
