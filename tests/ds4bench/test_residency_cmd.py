"""`ds4-bench residency`: plans of files on named machines, printed and as JSON."""

from __future__ import annotations

import json
import re
import sys

import pytest
from click.testing import CliRunner

from ds4bench import cli
from engine.gguf.reader import open_gguf
from engine.models.shapes import named_shape
from engine.models.write import write_model
from engine.models.write_dspark import write_dspark


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    trunk, draft = folder / "m.gguf", folder / "mtp.gguf"
    shape = named_shape("tiny")
    write_model(trunk, shape, "iq2", 1)
    write_model(draft, shape, "iq2", 1, draft=True)
    return trunk, draft


@pytest.fixture
def residency(files, monkeypatch):
    for name in ("NO_HBM_CACHE", "WEIGHT_CACHE_LIMIT_GB", "CACHE_ALL_TENSORS", "DIRECT_MODEL"):
        monkeypatch.delenv(f"DS4_CUDA_{name}", raising=False)
    trunk, draft = files

    def run(*arguments, mtp=False):
        command = ["residency", "-m", str(trunk), *map(str, arguments)]
        return CliRunner().invoke(cli.main, command + (["--mtp", str(draft)] if mtp else []))

    return run


def facts_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_small_model_is_copied_whole(residency, files):
    for machine in ("gb10", "h200", "h100"):
        facts = facts_of(residency("--machine", machine, "--json", mtp=True))
        assert facts["mode"] == "device" and facts["route"] == "none"
        assert facts["mapped_bytes"] == 0 and facts["mapped_runs"] == 0
        assert 0 < facts["copied_bytes"] <= sum(path.stat().st_size for path in files)
        assert facts["unified"] is (machine == "gb10")


def test_hybrid_leaves_experts_of_both_files_in_place_on_shared_memory(residency):
    alone = facts_of(residency("--machine", "gb10", "--residency", "hybrid", "--json"))
    facts = facts_of(residency("--machine", "gb10", "--residency", "hybrid", "--json", mtp=True))
    kinds = {entry["kind"]: entry for entry in facts["kinds"]}
    assert set(kinds) == {"dense", "head", "mtp", "embedding", "experts"}
    for kind, entry in kinds.items():
        assert entry["mapped"] == (entry["bytes"] if kind == "experts" else 0)
        assert entry["copied"] + entry["mapped"] == entry["bytes"]
    before = {entry["kind"]: entry for entry in alone["kinds"]}
    assert "mtp" not in before and before["experts"]["bytes"] < kinds["experts"]["bytes"]
    assert facts["route"] == "registered" and facts["mapped_runs"] >= 2


def test_a_dspark_drafter_is_counted_with_its_rows(residency, files, tmp_path):
    """Matrices that were cut from one in the file have no place there: they are always copied."""
    spark = tmp_path / "dspark.gguf"
    write_dspark(spark, named_shape("tiny"), recipe="iq2", seed=1)
    line = ("--machine", "gb10", "--residency", "hybrid", "--json")
    alone, facts = facts_of(residency(*line)), facts_of(residency(*line, "--draft-model", spark))
    kinds, before = ({e["kind"]: e for e in x["kinds"]} for x in (facts, alone))
    assert kinds["mtp"]["copied"] == kinds["mtp"]["bytes"] > 0 and "mtp" not in before
    assert kinds["experts"]["tensors"] == before["experts"]["tensors"] + 9
    assert kinds["experts"]["mapped"] > before["experts"]["mapped"]
    assert facts["context_bytes"] > alone["context_bytes"]
    mapped = facts_of(residency("--machine", "h200", "--residency-gib", 0, "--json",
                                "--draft-model", spark))  # fmt: skip
    with open_gguf(spark) as file:
        size = file.tensors["mtp.0.main_proj.weight"].n_bytes
    assert mapped["copied_bytes"] == size
    block = facts_of(residency(*line, "--draft-model", files[1]))
    assert block == facts_of(residency(*line, mtp=True))


def test_a_budget_of_nothing_maps_everything(residency):
    facts = facts_of(residency("--machine", "h200", "--residency-gib", 0, "--json"))
    assert facts["copied_bytes"] == 0 and facts["mode"] == "hybrid"
    assert facts["mapped_bytes"] == sum(entry["bytes"] for entry in facts["kinds"])


def test_a_longer_context_needs_more_of_the_memory(residency):
    short, long = (
        facts_of(residency("--machine", "gb10", "--ctx", ctx, "--json")) for ctx in (512, 65_536)
    )
    assert (short["context_tokens"], long["context_tokens"]) == (512, 65_536)
    assert 0 < short["context_bytes"] < long["context_bytes"]
    assert short["host_bytes"] == 115 << 30 and short["warning"] == ""


def test_a_model_beyond_the_memory_is_refused_or_warned_of(residency, monkeypatch):
    """The bundled shapes are small, so the machine is made small instead."""
    from engine.tooling.diagnose import residency as diagnosed
    from engine.weights.machine import Machine

    tiny = Machine(1 << 30, 1 << 20, unified=True, pageable=True)
    monkeypatch.setitem(diagnosed.MACHINES, "gb10", tiny)
    refused = residency("--machine", "gb10", "--residency", "hybrid")
    assert refused.exit_code == 1 and refused.stderr.count("\n") == 1
    assert "memory: expected at most 0.9 MiB of this host's to be needed, found" in refused.stderr
    warned = residency("--machine", "gb10", "--residency", "mapped")
    assert warned.exit_code == 0 and "WARNING: memory: expected at most" in warned.stdout
    assert "of context; 1.0 MiB of host memory" in warned.stdout


def test_upstreams_variable_counts(residency, monkeypatch):
    monkeypatch.setenv("DS4_CUDA_NO_HBM_CACHE", "1")
    facts = facts_of(residency("--machine", "h200", "--json"))
    assert facts["mode"] == "mapped" and "DS4_CUDA_NO_HBM_CACHE is set" in facts["reasons"]


def test_the_table_adds_up(residency):
    result = residency("--machine", "gb10", "--residency", "hybrid", mtp=True)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("gb10: 118.00 GiB of memory shared with the processor; hybrid")
    rows = [re.split(r" {2,}", line.strip()) for line in result.stdout.splitlines()]
    table = {row[0]: row[1:] for row in rows if len(row) == 5}
    assert table.pop("kind") == ["tensors", "size", "copied", "mapped"]
    total = table.pop("all")
    assert int(total[0]) == sum(int(row[0]) for row in table.values())
    assert "routed experts stay in the file's pages" in result.stdout


def test_without_the_cuda_packages_the_present_machine_is_refused(residency, monkeypatch):
    for name in ("device.driver", "build.kernel"):
        monkeypatch.delitem(sys.modules, f"engine.ops.cuda.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    result = residency()
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "ds4-bench: error: cuda backend: expected the package numba-cuda, found"
    )
    assert result.stderr.count("\n") == 1


def test_without_a_device_the_present_machine_is_refused(residency, monkeypatch):
    pytest.importorskip("numba_cuda")  # of the extra `cuda`
    import engine.ops.cuda.device.driver as driver
    from engine.errors import BackendError

    def none(*arguments, **options):
        raise BackendError("device: expected an NVIDIA GPU, found none")

    monkeypatch.setattr(driver, "CudaDevice", none)
    result = residency()
    assert result.exit_code == 1
    assert result.stderr == "ds4-bench: error: device: expected an NVIDIA GPU, found none\n"


def test_what_does_not_fit_is_refused_in_one_line(residency):
    result = residency("--machine", "h100", "--residency", "device", "--residency-gib", "0.00001")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("ds4-bench: error: --residency device: expected at most")


def test_a_file_that_is_no_model_is_refused(residency, tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(60))
    result = residency("-m", tmp_path / "x.gguf", "--machine", "gb10")
    assert result.exit_code == 3 and result.stderr.startswith("ds4-bench: error: ")
