"""`ds4 make-model` at its command line."""

import hashlib
import subprocess
import sys

import pytest
from click.testing import CliRunner

from engine.cli.make_model_cmd import make_model_command


def run(*args):
    return CliRunner().invoke(make_model_command, [str(a) for a in args])


def test_writes_both_files_and_says_their_hashes(tmp_path):
    out, mtp = tmp_path / "a.gguf", tmp_path / "b.gguf"

    result = run("--shape", "micro", "--recipe", "q8_0", "--out", out, "--mtp", mtp)

    assert result.exit_code == 0, result.output
    for path in (out, mtp):
        assert f"{path.stat().st_size} bytes" in result.stdout
        assert hashlib.sha256(path.read_bytes()).hexdigest() in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--shape", "mini"), "shape: expected one of nano"),
        (("--shape", "flash-44-layers"), "expected 1 to 43 flash layers, found 44"),
        (("--shape", "micro", "--recipe", "q5"), "q5"),
        (("--shape", "micro", "--seed", "-1"), "--seed"),
        (("--shape", "micro", "--seed", str(1 << 63)), "seed: expected 0 to"),
    ],
)
def test_bad_options_exit_2_and_write_nothing(tmp_path, args, message):
    result = run(*args, "--out", tmp_path / "m.gguf")

    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_neither_file_is_written_when_one_exists(tmp_path):
    mtp = tmp_path / "b.gguf"
    mtp.write_text("precious")
    args = ("--shape", "micro", "--recipe", "q8_0", "--out", tmp_path / "a.gguf", "--mtp", mtp)

    result = run(*args)

    assert result.exit_code == 2 and "expected a new file" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["b.gguf"] and mtp.read_text() == "precious"
    assert run(*args, "--force").exit_code == 0
    assert mtp.read_bytes()[:4] == b"GGUF"


def test_one_name_for_both_files_is_refused(tmp_path):
    out = tmp_path / "m.gguf"

    result = run("--shape", "micro", "--out", out, "--mtp", out)

    assert result.exit_code == 2 and "--mtp: expected another file" in result.stderr


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from engine.cli.make_model_cmd import make_model_command as m\n"
        "try: m(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'numba', 'tokenizers', 'gguf', 'rich'} & set(sys.modules)))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.strip().endswith("[]")


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    from engine.models import write

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", fail)

    result = run("--shape", "micro", "--recipe", "q8_0", "--out", tmp_path / "m.gguf")

    assert result.exit_code == 5
    path = tmp_path / "m.gguf"
    assert result.stderr == (
        f"make-model: error: {path}: expected to write it, found No space left on device\n"
    )
    assert not list(tmp_path.iterdir())
