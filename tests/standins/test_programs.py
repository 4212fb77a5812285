"""Every program refuses a file without kernels in the same line, dry runs included."""

from __future__ import annotations

import pytest

from ds4bench.cli import main as ds4_bench
from ds4eval.cli import cli as ds4_eval
from engine.cli.main import cli as ds4
from engine.tooling.exits import run_program
from tests.standins.catalogue import standin

RUNS = {
    "ds4": (ds4, ("-p", "Hello")),
    "ds4-bench": (ds4_bench, ("sweep", "--dry-run", "--ctx-max", "2048")),
    "ds4-eval": (ds4_eval, ("--suite", "practice", "--dry-run")),
}
CASES = {
    "pro-q2": ("cuda", "expert_count: expected at most 256 with --backend cuda, found 384"),
    "early": ("cpu", "found the early naming"),
    "nvfp4": ("cuda", "found NVFP4 (129 tensors, "),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("program", RUNS)
def test_one_line_before_anything_is_loaded(tmp_path, capfd, program, name):
    # CUDA is refused without a device: the check comes before one is opened.
    backend, words = CASES[name]
    command, arguments = RUNS[program]
    path = standin(name, tmp_path)
    status = run_program(command, program, [*arguments, "-m", str(path), "--backend", backend])
    printed = capfd.readouterr().err
    errors = [line for line in printed.splitlines() if line.startswith(f"{program}: error: ")]

    assert status == 3, printed
    assert len(errors) == 1 and errors[0] == printed.splitlines()[-1] and words in errors[0]
