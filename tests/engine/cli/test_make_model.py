"""`ds4 make-model` at its command line."""

import hashlib
import subprocess
import sys

import pytest
from click.testing import CliRunner

from engine.cli.make_model_cmd import make_model_command
from engine.gguf.reader import open_gguf
from engine.models import stream
from engine.models.make import trunk_specs
from engine.models.recipes import formats_of
from engine.models.shapes import micro


def run(*args):
    return CliRunner().invoke(make_model_command, [str(a) for a in args])


def test_writes_both_files_and_says_their_hashes(tmp_path):
    out, mtp = tmp_path / "a.gguf", tmp_path / "b.gguf"

    result = run("--shape", "micro", "--recipe", "q8_0", "--out", out, "--mtp", mtp)

    assert result.exit_code == 0, result.output
    for path in (out, mtp):
        assert f"{path.stat().st_size} bytes" in result.stdout
        assert hashlib.sha256(path.read_bytes()).hexdigest() in result.stdout


def test_layout_decides_which_names_and_formats_the_file_has(tmp_path):
    for layout in ("antirez", "llama"):
        result = run("--shape", "micro", "--recipe", "iq2", "--layout", layout,
                     "--out", tmp_path / layout)  # fmt: skip
        assert result.exit_code == 0, result.output
    found = {}
    for layout in ("antirez", "llama"):
        with open_gguf(tmp_path / layout) as file:
            found[layout] = {t.name: t.format.name for t in file.tensors.values()}
    for layout, formats in found.items():
        assert formats == {spec.name: formats_of("iq2", layout)[spec.kind]
                           for spec in trunk_specs(micro())}  # fmt: skip
    assert found["antirez"] != found["llama"]


def test_quick_repeats_data_and_computes_no_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "QUICK_VALUES", 1 << 12)
    args = ("--shape", "micro", "--recipe", "q8_0", "--out")
    whole = run(*args, tmp_path / "whole")
    quick = run(*args, tmp_path / "quick", "--quick")
    assert "sha256 not computed" in quick.stdout and "not computed" not in whole.stdout
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "quick")]
    assert sizes[0] == sizes[1]
    assert (tmp_path / "whole").read_bytes() != (tmp_path / "quick").read_bytes()


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
    from engine.models import container

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.os, "fsync", fail)

    result = run("--shape", "micro", "--recipe", "q8_0", "--out", tmp_path / "m.gguf")

    assert result.exit_code == 5
    path = tmp_path / "m.gguf"
    assert result.stderr == (
        f"make-model: error: {path}: expected to write it, found No space left on device\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("layout", "name"), [
    ("A", "mtp.2.markov_head.markov_w1.weight"), ("B", "dspark.markov_w1.weight"),
    ("C", "markov_w1.weight"),
])  # fmt: skip
def test_a_dspark_drafter_is_written_in_the_layout_that_is_asked_for(tmp_path, layout, name):
    out, spark = tmp_path / "a.gguf", tmp_path / "d.gguf"
    args = ("--shape", "micro", "--recipe", "q8_0", "--out", out, "--dspark", spark)
    result = run(*args, "--dspark-layout", layout)
    assert result.exit_code == 0, result.output
    assert f"{spark.stat().st_size} bytes" in result.stdout
    with open_gguf(spark) as file:
        assert name in file.tensors and "blk.0.attn_compressor_kv.weight" not in file.tensors


def test_combined_puts_the_trunk_into_the_drafters_file(tmp_path):
    out, spark = tmp_path / "a.gguf", tmp_path / "d.gguf"
    args = ("--shape", "micro", "--recipe", "q8_0", "--out", out, "--dspark", spark)
    assert run(*args, "--combined").exit_code == 0
    with open_gguf(out) as trunk, open_gguf(spark) as both:
        for name, tensor in trunk.tensors.items():
            assert both.tensors[name].data.tobytes() == tensor.data.tobytes()
        assert "mtp.0.main_proj.weight" in both.tensors
    refused = run(*args, "--combined", "--dspark-layout", "C", "--force")
    assert refused.exit_code == 2 and "expected A or B beside a trunk" in refused.stderr
    for option in (("--combined",), ("--dspark-layout", "B")):
        refused = run("--shape", "micro", "--out", tmp_path / "new", *option)
        assert refused.exit_code == 2 and f"{option[0]}: expected --dspark FILE" in refused.stderr
