"""What `ds4 inspect` promises: exit status 0 is a file that runs, anything else says why not."""

from __future__ import annotations

import json

import gguf
import pytest
from click.testing import CliRunner

from engine.cli.inspect_cmd import MAX_PROBLEMS, inspect_command
from engine.engine import open_engine
from engine.errors import EngineError
from engine.options import EngineOptions
from engine.weights.files import open_files
from tests.engine.gguf.build import metadata, tiny_shape, trunk_specs, write_file, write_mtp
from tests.engine.weights.test_bind import rewrite
from tests.standins.catalogue import standin
from tests.standins.published import antirez_keys, mtp, tokenizer, trunk
from tests.standins.write import Entry, Key, write

SHAPE = tiny_shape(n_vocab=300)


def run(*arguments):
    return CliRunner().invoke(inspect_command, [str(a) for a in arguments])


def report(path, *options):
    return json.loads(run(path, "--json", *options).stdout)


def keys_with(**changes):
    """The tokenizer's keys, some replaced by short name; None removes one."""
    kept = [k for k in tokenizer() if k.name.rpartition(".")[2] not in changes]
    old = {k.name.rpartition(".")[2]: k for k in tokenizer()}
    return kept + [
        Key(old[name].name, old[name].kind, value)
        for name, value in changes.items()
        if value is not None
    ]


# Small trunks that differ in one thing each.
TRUNKS = {
    "whole": {},
    "Q8_0": {"matrix": "Q8_0"},
    "Q4_0": {"matrix": "Q4_0"},
    "no tokens": {"vocabulary": keys_with(tokens=None)},
    "no tokenizer": {"vocabulary": ()},
    "another tokenizer": {"vocabulary": keys_with(model="llama")},
    "merge of an unknown token": {"vocabulary": keys_with(merges=["t h", "h e"])},
    "eos of none": {"vocabulary": keys_with(eos_token_id=2**32 - 1)},
    "eos out of range": {"vocabulary": keys_with(eos_token_id=5000)},
    "nine streams": {"shape": tiny_shape(n_vocab=300, n_hc=9)},
    "heads of 88": {"shape": tiny_shape(n_vocab=300, head_dim=88, n_rot=24)},
    "300 experts": {"shape": tiny_shape(n_vocab=300, n_expert=300)},
}
REFUSED = {
    "cpu": ("no tokens", "no tokenizer", "another tokenizer", "merge of an unknown token",
            "eos out of range", "nine streams", "heads of 88"),
    "reference": ("no tokens", "no tokenizer", "another tokenizer", "merge of an unknown token",
                  "eos out of range", "heads of 88"),
}  # fmt: skip


def trunk_file(path, shape=SHAPE, **options):
    options = {"vocabulary": tokenizer(), "n_expert": shape.n_expert, **options}
    return write_file(path, metadata(shape), trunk_specs(shape), **options)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("name", TRUNKS)
def test_status_0_is_a_file_that_the_engine_opens(tmp_path, name, backend):
    path = trunk_file(tmp_path / "m.gguf", **TRUNKS[name])
    try:
        with open_engine(EngineOptions(path, backend=backend, threads=1)) as engine:
            engine.tokenizer.encode("the")
        opens = True
    except EngineError:
        opens = False
    result = run(path, "--backend", backend)

    assert result.exit_code == (0 if opens else 3)
    assert opens == (name not in REFUSED[backend])
    assert ("problem: " in result.stdout) is not opens


def test_cuda_is_asked_without_a_device(tmp_path):
    path = trunk_file(tmp_path / "m.gguf", **TRUNKS["300 experts"])

    assert run(path).exit_code == 0
    result = run(path, "--backend", "cuda")
    line = "expert_count: expected at most 256 with --backend cuda, found 300"
    assert result.exit_code == 3
    assert f"cuda: {line}" in result.stdout and f"problem: {line}" in result.stdout


# Exit status on the CPU and on CUDA, and what a line of the output says.
STANDINS = {
    "q2": (0, 0, "cuda: runs this file"),
    "q4": (0, 0, "memory: the file and a short session take 165,1"),
    "split-mxfp4": (0, 0, "cpu: runs this file"),
    "vision": (0, 0, "notice: vision.gguf: 40 tensors exp_probs_b_vl.bias are ignored"),
    "mtp": (0, 0, "cpu: runs this file"),
    "pro-q2": (0, 3, "cuda: expert_count: expected at most 256 with --backend cuda, found 384"),
    "ud-iq3": (0, 0, "cuda: runs this file"),
    "nvfp4": (0, 3, "found NVFP4 (129 tensors, blk.0.ffn_gate_exps.weight first)"),
    "early": (3, 3, "found the early naming"),
    "v41": (3, 3, "DeepSeek V4.1"),
    "dspark": (3, 3, "mtp.0.hc_head_scale.weight: expected a tensor of the DSpark drafter"),
}


@pytest.mark.parametrize("name", STANDINS)
def test_a_published_file(tmp_path, name):
    path = standin(name, tmp_path)
    *status, words = STANDINS[name]
    results = [run(path, "--backend", backend) for backend in ("cpu", "cuda")]

    assert [result.exit_code for result in results] == status
    assert words in results[0].stdout
    assert all("Traceback" not in result.output for result in results)


@pytest.mark.parametrize("name", ["fp8", "ik"])
def test_a_type_that_cannot_be_read_is_named_in_one_line(tmp_path, name):
    result = run(standin(name, tmp_path))

    assert result.exit_code == 3 and result.stdout == "" and result.stderr.count("\n") == 1
    assert {"fp8": "found 42 (FP8", "ik": "found 139 (IQ4_K"}[name] in result.stderr


def test_a_long_list_is_cut_and_json_is_not(tmp_path):
    path = rewrite(tmp_path / "m.gguf", SHAPE, lambda name, spec: None)
    lines = run(path).stdout.splitlines()
    n = len(report(path)["problems"])

    assert n == len(trunk_specs(SHAPE))
    assert sum(line.startswith("problem: ") for line in lines) == MAX_PROBLEMS
    assert lines[-1] == f"... and {n - MAX_PROBLEMS} more"


def test_a_machine_that_cannot_hold_the_file_is_said(tmp_path, monkeypatch):
    path = trunk_file(tmp_path / "m.gguf")
    needed = report(path)["machine"]["needed_bytes"]
    for memory, holds in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr("psutil.virtual_memory", lambda m=memory: type("M", (), {
            "total": m, "available": m})())  # fmt: skip
        assert report(path)["machine"] == {
            "memory_bytes": memory, "needed_bytes": needed, "holds": holds
        }  # fmt: skip
        assert ("again and again" in run(path).stdout) is not holds


def mtp_problem(path):
    found = report(path)
    assert found["kind"] == "mtp" and run(path).exit_code == 3
    (problem,) = found["problems"]
    return problem


def test_an_mtp_file_of_two_tensors_is_refused(tmp_path):
    path = tmp_path / "d.gguf"
    keys = [Key("general.architecture", "str", "deepseek4_mtp_support")]
    write(path, keys, [Entry(f"mtp.0.{n}_proj.weight", "F32", (32, 32)) for n in "eh"])

    problem = mtp_problem(path)
    assert problem.startswith("d.gguf: 30 tensors do not fit: mtp.0.enorm.weight: expected a ten")
    assert problem.endswith("; ... and 25 more")


def test_a_trunk_that_carries_its_mtp_block_is_a_trunk(tmp_path):
    both = tmp_path / "both.gguf"
    write(both, antirez_keys(), trunk() + mtp())
    with open_files(both, both, "cpu") as files:
        assert files.weights.mtp is not None
    found = report(both)

    assert (found["kind"], found["problems"]) == ("trunk", [])


def test_the_reference_set_promises_nothing_that_memory_cannot_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.cli.inspect_cmd._memory_bytes", lambda: 1 << 40)
    result = run(standin("q4", tmp_path), "--backend", "reference")

    # The 284.3 billion values of the trunk as float64.
    assert result.exit_code == 3
    assert "1024.0 GiB with --backend reference (float64), found 2118.5 GiB" in result.stdout


def test_every_tensor_of_an_mtp_file_counts(tmp_path):
    whole = write_mtp(tmp_path / "whole.gguf", SHAPE)
    assert run(whole).exit_code == 0
    entries = [
        Entry(t.name, t.tensor_type.name, tuple(int(n) for n in t.shape))
        for t in gguf.GGUFReader(whole).tensors
    ]
    keys = [Key("general.architecture", "str", "deepseek4_mtp_support")]
    for i, entry in enumerate(entries):
        others = entries[:i] + entries[i + 1 :]
        longer = Entry(entry.name, entry.kind, (*entry.dims[:-1], entry.dims[-1] + 1))
        for damaged in (others, [*others, longer]):
            write(tmp_path / "d.gguf", keys, damaged)
            assert "d.gguf" in mtp_problem(tmp_path / "d.gguf")


def test_a_drafter_is_checked_against_the_trunk_that_is_named(tmp_path, model_folder):
    from tests.engine.models import dspark_file, model_file

    trunk, other = model_file(model_folder, "micro"), model_file(model_folder, "tiny")
    drafters = (
        model_file(model_folder, "micro", draft=True),
        dspark_file(model_folder, "micro"),
    )
    for drafter in drafters:
        for arguments in ((drafter, "--trunk", trunk), (trunk, "--draft-model", drafter)):
            result = run(*arguments)
            assert result.exit_code == 0 and "pair: opens together" in result.stdout
        for arguments in ((drafter, "--trunk", other), (other, "--draft-model", drafter)):
            result = run(*arguments)
            assert result.exit_code == 3 and "problem: " in result.stdout
            assert "opens together" not in result.stdout
    assert run(trunk, "--draft-model", tmp_path / "none.gguf").exit_code == 3
    pair = report(drafters[1], "--trunk", trunk)["pair"]
    assert (pair["pairing"], pair["problems"]) == ("not stated", [])
    cuda = run(drafters[1], "--trunk", trunk, "--backend", "cuda")
    assert cuda.exit_code == 0 and "pair: opens together" in cuda.stdout


def test_a_pair_of_two_checkpoints_is_refused_unless_forced(tmp_path):
    from engine.models.shapes import named_shape
    from engine.models.write import write_model
    from tests.engine.models import dspark_file

    folder = tmp_path / "0731"
    folder.mkdir()
    trunk = tmp_path / "Flash-0731.gguf"
    write_model(trunk, named_shape("micro"), "f32", 7)
    drafter = dspark_file(folder, "micro").rename(folder / "dspark-vision-exp.gguf")

    refused = run(drafter, "--trunk", trunk)
    assert refused.exit_code == 3 and "its drafts would be kept less often" in refused.stdout
    forced = run(drafter, "--trunk", trunk, "--draft-force")
    assert forced.exit_code == 0 and "checkpoint: forced" in forced.stdout
    block = tmp_path / "mtp.gguf"
    write_model(block, named_shape("micro"), "f32", 7, draft=True)
    warned = run(trunk, "--draft-model", block)
    assert warned.exit_code == 0 and "notice: WARNING: --mtp: expected a trunk" in warned.stdout


def test_options_of_a_pair_exclude_each_other(tmp_path):
    path = trunk_file(tmp_path / "m.gguf")
    for arguments, words in (
        (["--trunk", path, "--draft-model", path], "--trunk: expected without --draft-model"),
        (["--draft-force"], "--draft-force: expected --trunk or --draft-model, found neither"),
    ):
        result = run(path, *arguments)
        assert result.exit_code == 2 and words in result.stderr
