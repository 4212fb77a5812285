"""`ds4 inspect` as a user meets it: tables, JSON, problems, hostile names."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from engine.cli.inspect_cmd import inspect_command
from engine.gguf.reader import open_gguf
from engine.weights.bind import bind_trunk
from engine.weights.traffic import decode_traffic
from tests.engine.gguf.build import tiny_shape, write_mtp, write_trunk
from tests.engine.gguf.corpus import ARCH, F32, STR, build, kv, kv_array, text
from tests.standins.published import tokenizer


def runnable(path, matrix="F32", n_embd=32, **options):
    """A small trunk with a tokenizer, which `ds4` runs."""
    shape = tiny_shape(n_vocab=300, n_rot=32, n_embd=n_embd)
    return write_trunk(path, shape, matrix=matrix, vocabulary=tokenizer(), **options)


def run(*arguments):
    return CliRunner().invoke(inspect_command, [str(a) for a in arguments])


def test_json_holds_everything(tmp_path):
    path = runnable(tmp_path / "m.gguf", matrix="Q8_0")
    result = run(path, "--json", "--tensors", "--sha256")
    report = json.loads(result.stdout)

    assert result.exit_code == 0
    assert (report["kind"], report["problems"]) == ("trunk", [])
    assert report["shape"]["n_embd"] == 32 and report["shape"]["compress_ratios"] == [0, 4, 128]
    assert report["metadata"]["deepseek4.block_count"] == {"type": "u32", "value": 3}
    assert report["metadata"]["tokenizer.ggml.tokens"]["value"]["length"] == 266
    assert report["tokenizer"] == {
        "tokens": 266, "control_tokens": 8, "bos": 0, "ends_a_reply": [1], "chat_template": False
    }  # fmt: skip
    assert report["backends"] == {"cpu": [], "cuda": [], "reference": []}
    assert len(report["sha256"]) == len(report["header_sha256"]) == 64
    assert sum(t["bytes"] for t in report["tensors"]) == sum(
        t["bytes"] for t in report["tensor_types"]
    )
    with open_gguf(path) as file:
        assert report["sampled_sha256"] == file.identity.sampled_sha256()
        shape, weights = bind_trunk(file)
        expected = decode_traffic(shape, weights, 2048)
    first = report["bytes_per_token"][0]
    assert (first["n_ctx"], first["total"]) == (2048, round(expected.total))


def test_plain_text_when_not_a_terminal(tmp_path):
    result = run(runnable(tmp_path / "m.gguf"), "--tensors", "--sha256")

    assert result.exit_code == 0
    assert result.stdout.replace("\n", "").isprintable()
    assert "  deepseek4.block_count " in result.stdout
    assert "  blk.2.ffn_down_exps.weight " in result.stdout
    assert "Read per decoded token" in result.stdout
    assert not any(line.endswith(" ") for line in result.stdout.split("\n"))


def test_tables_on_a_terminal(tmp_path):
    if sys.platform == "win32":
        pytest.skip("no pseudo-terminals")
    import pty

    path = runnable(tmp_path / "m.gguf", name="[bold]\x1b[2Jname[/bold]")
    parent, child = pty.openpty()
    code = "from engine.cli.inspect_cmd import inspect_command as c; import sys; c(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=child,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(child)
    out = b""
    while True:
        try:
            chunk = os.read(parent, 65_536)
        except OSError:
            break
        if not chunk:
            break
        out += chunk
    os.close(parent)
    shown = out.decode()

    assert process.wait() == 0
    assert "┃" in shown and "deepseek4.block_count" in shown
    assert "\x1b[2J" not in shown and "[bold]\\x1b[2Jname[/bold]" in shown


@pytest.mark.parametrize("kind", ["antirez", "llama"])
def test_mtp_file(tmp_path, kind):
    report = json.loads(run(write_mtp(tmp_path / "d.gguf", kind=kind), "--json").stdout)

    assert (report["kind"], report["problems"]) == ("mtp", [])
    assert (report["shape"] is None) == (kind == "antirez")


def test_problems_are_listed_and_turn_the_exit_status(tmp_path):
    wrong = tiny_shape(n_embd=64)
    path = write_trunk(tmp_path / "m.gguf", wrong)
    data = path.read_bytes()
    old = kv("deepseek4.attention.q_lora_rank", 4, (32).to_bytes(4, "little"))
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, old[:-4] + (64).to_bytes(4, "little")))
    result = run(path)

    assert result.exit_code == 3
    problems = [line for line in result.stdout.split("\n") if line.startswith("problem: ")]
    assert (
        "problem: blk.0.attn_q_a.weight: expected a matrix format [64, 64], found F32 [32, 64]"
        in (problems)
    )
    assert len(problems) == 10  # q_a, its norm and q_b of three layers, one indexer's q_b


def test_file_of_another_architecture(tmp_path):
    path = tmp_path / "m.gguf"
    floats = kv_array("f", F32, 2, b"\0\0\xc0\x7f\0\0\x80\x3f")
    path.write_bytes(
        build((kv("general.architecture", STR, text("llama")), floats,
               kv("long", STR, text("x" * 500)), kv("nan", F32, b"\0\0\xc0\x7f")))
    )  # fmt: skip
    result = run(path)
    report = json.loads(run(path, "--json").stdout)

    assert result.exit_code == 3
    assert (
        "problem: m.gguf: general.architecture: expected 'deepseek4', found 'llama'"
        in result.stdout
    )
    assert "x" * 117 + "..." in result.stdout and "x" * 118 not in result.stdout
    assert (report["metadata"]["nan"]["value"], report["kind"]) == ("nan", "unknown")
    assert report["metadata"]["f"]["value"] == ["nan", 1.0]


def test_control_characters_never_reach_the_terminal(tmp_path):
    path = tmp_path / "\x1b]0;owned\x07.gguf"
    path.write_bytes(build((ARCH, kv("general.name", STR, text("\x1b]0;owned\x07\r\n\x9b2J")))))
    result = run(path)

    assert not set(result.stdout + result.stderr) & set("\x1b\x07\r\x9b")
    assert "\\x1b]0;owned\\x07" in result.stdout


@pytest.mark.parametrize("name", ["missing.gguf", "."])
def test_no_file(tmp_path, name):
    result = run(tmp_path / name)

    assert result.exit_code == 3
    assert result.stderr.startswith("inspect: error: ") and result.stderr.count("\n") == 1
    assert result.stdout == ""
