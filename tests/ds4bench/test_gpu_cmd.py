"""`ds4-bench gpu` without a GPU: what its options make it generate, measure and sweep."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from ds4bench.commands import gpu
from engine.tooling import exits

RESULT = {"facts": {"device_name": "made up", "launches": "graph", "shape": {"n_layer": 2}},
          "copy_bytes_per_s": 1e12, "load_s": 1.0, "records": [], "variants": []}  # fmt: skip


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs the command over a device that is made up; keeps what it did."""
    done = SimpleNamespace(written=[], measured=[], swept=[], code=0, cut=False)

    def write_model(path, shape, recipe, seed, *, draft, force, quick):
        assert force and quick
        path.write_bytes(b"GGUF")
        done.written.append((path, shape.n_layer, draft))
        return SimpleNamespace(n_bytes=4)

    def measure(model, contexts, say, keep, *, device):
        assert model.exists()
        done.measured.append((contexts, device))
        keep(RESULT)
        if done.cut:
            raise KeyboardInterrupt
        return RESULT

    def sweep(words):
        done.swept.append(words)
        return SimpleNamespace(returncode=done.code)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.ops.cuda.device_facts", lambda device: {"memory_bytes": 141 << 30})
    monkeypatch.setattr("engine.models.write.write_model", write_model)
    monkeypatch.setattr("engine.tooling.diagnose.gpu_speed.measure", measure)
    monkeypatch.setattr(subprocess, "run", sweep)

    def run(*arguments):
        result = CliRunner().invoke(gpu.gpu_command, list(arguments))
        done.exit_code, done.output = result.exit_code, result.output
        return done

    return run


def following(words, option):
    behind = words[words.index("ds4bench.cli") :]
    return behind[behind.index(option) + 1]


def test_files_of_the_named_size_are_made_in_the_work_folder_and_removed(command, tmp_path):
    done = command("--layers", "2", "--work", "scratch", "--out", "found")
    assert done.exit_code == 0, done.output
    folder = Path("scratch")
    names = [folder / "flash-2-layers.gguf", folder / "flash-2-layers-mtp.gguf"]
    assert done.written == [(names[0], 2, False), (names[1], 2, True)]
    assert list(folder.iterdir()) == [], "they are large and can be made again"
    assert json.loads(Path("found/steps.json").read_text()) == RESULT
    (words,) = done.swept
    assert following(words, "-m") == str(names[0]) and following(words, "--mtp") == str(names[1])
    assert following(words, "--mode") == "all"


def test_without_a_work_folder_files_are_made_beside_the_results(command):
    done = command("--layers", "1", "--out", "found")
    assert [path.parent for path, _, _ in done.written] == [Path("found")] * 2


def test_more_seconds_allow_more_layers(command):
    layers = []
    for seconds in ("60", "420", "36000"):
        done = command("--seconds", seconds, "--out", f"in-{seconds}-seconds")
        layers.append(done.written[-1][1])
    # By hand: (20 * 1.2e9 - 1.7e9) // 2.05e9 fit the time; half of the memory holds 36.
    assert layers == [10, 36, 36]


def test_skip_sweep_measures_steps_only(command):
    done = command("--layers", "1", "--skip-sweep")
    assert done.exit_code == 0, done.output
    assert done.swept == [] and len(done.measured) == 1
    assert done.output.startswith("[") and "# made up, 2 layers" in done.output


def test_contexts_and_device_reach_both_measurements(command):
    done = command("--layers", "1", "--ctx-max", "4096", "--device", "1")
    assert done.measured == [([2048], 1)]
    assert following(done.swept[0], "--ctx-max") == "4096"
    assert following(done.swept[0], "--device") == "1"


def test_a_named_model_needs_its_block_for_the_sweep_alone(command, tmp_path):
    model = tmp_path / "m.gguf"
    model.write_bytes(b"GGUF")
    done = command("-m", str(model))
    assert done.exit_code == exits.USAGE and "--mtp: expected a file" in done.output
    assert done.measured == []
    done = command("-m", str(model), "--skip-sweep")
    assert done.exit_code == 0 and done.written == [] and model.exists()


def test_a_sweep_that_fails_is_named_and_steps_are_kept(command):
    command("--layers", "1").code = 3
    done = command("--layers", "1", "--out", "found")
    assert done.exit_code == exits.ERROR
    assert "sweep: expected exit status 0, found 3" in done.output
    assert Path("found/steps.md").exists() and not list(Path("found").glob("*.gguf"))


def test_what_was_measured_before_a_run_was_cut_off_is_kept(command):
    command("--layers", "1").cut = True
    done = command("--layers", "1", "--out", "found")
    assert done.exit_code != 0
    assert json.loads(Path("found/steps.json").read_text()) == RESULT
    assert Path("found/steps.md").read_text().startswith("# made up, 2 layers")


def test_tables_name_launches_positions_and_variants():
    launch = {"kernel": "mm", "grid": [4, 1, 1], "seconds": 2e-6, "weight_bytes": 4000}
    record = {
        "n_ctx": 2048, "decode_s": 1e-3, "decode_bytes": 1e8, "prefill_s": [0.1],
        "prefill_tokens": 2048, "verify_s": {1: 1e-3, 3: 2e-3},
        "passes": {"trunk 1 True": {"pos0": 2110, "launches": [launch, launch]}},
    }  # fmt: skip
    variant = {"step": "early", "with_s": [1e-3], "without_s": [2e-3], "same_bits": False}
    text = gpu.summary({**RESULT, "records": [record], "variants": [variant]})
    assert "## 2048 tokens, pass trunk 1 True at position 2110: 0.004 ms by events" in text
    assert "| mm | 2 | 0.004 | 0.000 | 2 |" in text
    assert "| early | 1.000 | 2.000 | NO |" in text


def test_predict_prints_the_model_and_needs_no_device(tmp_path, monkeypatch):
    pytest.importorskip("numba_cuda")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(gpu.gpu_command, ["--predict", "gb10", "--ctx-max", "4096"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith("# Predicted: GB10, one row at position 4096")
    assert "| 43 | + branches | " in result.output
    assert "## A step of DSpark" in result.output and "| draft of five | " in result.output
    assert list(tmp_path.iterdir()) == []
    refused = CliRunner().invoke(gpu.gpu_command, ["--predict", "abacus"])
    assert refused.exit_code == exits.USAGE and "gb10" in refused.output
