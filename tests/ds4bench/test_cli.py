"""The command line: fast help, one line per error, exit 2 before anything is loaded or written."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import ds4bench.sweep.run as sweep_module
from ds4bench import cli
from ds4bench.commands.sweep import sweep_command
from engine.options import MODES
from engine.tooling import exits
from tests.ds4bench.fakes import SPEC


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Runs the command in an empty folder with a model file; returns the result."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DS4_FAKE", raising=False)
    (tmp_path / "m.gguf").touch()
    real = sweep_module.SweepRequest

    def request(*arguments, **options):
        return real(*arguments, worker=SPEC, **options)

    monkeypatch.setattr(sweep_module, "SweepRequest", request)

    def run(*arguments, model=True):
        options = ["-m", "m.gguf"] if model else []
        return CliRunner().invoke(cli.main, [*options, *map(str, arguments)])

    run.folder = tmp_path
    return run


SHORT = ("--ctx-start", 64, "--ctx-max", 128, "--step-incr", 64, "-n", 4)


def test_help_imports_little_and_no_numbers():
    code = (
        "import sys\nfrom ds4bench.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "heavy = {'numba', 'numpy', 'scipy', 'pyarrow', 'matplotlib', 'rich', 'psutil'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert len(sys.modules) < 200, sorted(sys.modules)\n"  # 140 on Python 3.11
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("--ctx-start", "--step-mul", "compare", "Exit status"):
        assert word in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ctx-start", "0"], ["--ctx-start", "-1"], ["--ctx-start", "x"], ["--ctx-start", "1e3"],
        ["--ctx-start", "99999999999999999999"], ["--ctx-start"], ["--step-mul", "nan"],
        ["--step-mul", "inf"], ["--step-mul", "0.5"], ["--step-mul", "1e999"], ["--step-incr", "0"],
        ["--step-incr", "-3"], ["--gen-tokens", "0"], ["-n", "-1"], ["--tokens", "2147483648"],
        ["--ctx-start", "4096", "--ctx-max", "2048"], ["--ctx-alloc", "5"], ["--threads", "0"],
        ["--mode", "fast"], ["--mode", "plain", "--mode", "plain"], ["--mode", "all", "--mode",
        "plain"], ["--temp", "nan"], ["--temp", "-1"], ["--temp", "inf"], ["--top-p", "2"],
        ["--min-p", "nan"], ["--seed", "-1"], ["--top-k", "-1"], ["--mtp-draft", "0"],
        ["--mtp", "x.gguf"], ["--backend", "tpu"], ["--metal"], ["--launch", "graph"],
        ["--cuda", "--launch", "fast"], ["--residency", "mapped"], ["--residency-gib", "1"],
        ["--cuda", "--residency-gib", "-1"], ["--device", "0"], ["--cuda", "--device", "64"],
        ["--quality", "--activations", "int8"], ["--row-timeout", "nan"], ["--row-timeout", "0"],
        ["--unknown"], ["nocommand"], ["--predict", "cray"], ["--resume"], ["--retry-failed"],
        ["--resume", "--force", "--csv", "a.csv"], ["--csv", ""], ["--plot", "a.pdf"],
        ["--csv", "a.csv", "--parquet", "a.csv"], ["--csv", "a.jsonl"],
        ["--csv", "-", "--out", "o"], ["--csv", "/nonexistent/a.csv"], ["--csv", "."],
        ["--csv", "/dev/full"], ["--csv", "/sys/kernel/a.csv"], ["--out", "m.gguf"],
        ["--out", "m.gguf/b/c"], ["--out", "/sys/kernel/b/c"], ["--repeats", "0"],
        ["--repeat-prompt"],
        ["--prompt-file", "missing.txt"], ["--prompt-file", "."], ["--prompt-file", "empty.txt"],
        ["--prompt-file", "latin.txt"], ["--prompt-file", "short.txt"],
        ["--prompt-file", "short.txt", "--chat-prompt-file", "short.txt"],
        ["--ctx-max", "900000000", "--step-mul", "2"], ["--ctx-max", "900000", "--step-incr", "1"],
        ["--csv", "a.csv", "plot"], ["--mode", "all", "--mtp-margin", "nan"],
        ["--mode", "all", "--mtp-margin", "inf"], ["--cuda", "--residency-gib", "nan"],
        ["--system", "Be brief"], ["--mtp-draft", "2"], ["--mtp-adaptive"], ["--mtp-margin", "1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_usage_is_exit_2_or_1_with_one_line_and_no_files(bench, arguments):
    (bench.folder / "empty.txt").touch()
    (bench.folder / "short.txt").write_text("only a few words")
    (bench.folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1") * 100)
    before = sorted(os.listdir(bench.folder))

    result = bench(*arguments)

    # A context beyond the model and text that is not UTF-8 are runtime errors of the engine.
    assert result.exit_code in (exits.USAGE, exits.ERROR), result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert sorted(os.listdir(bench.folder)) == before


@pytest.mark.parametrize(
    "arguments",
    [("residency", "--residency-gib", "nan"), ("ab", "--budget", "nan"),
     ("ab", "--patience", "inf"), ("ab", "--max-load", "nan"),
     ("calibrate", "--sweep-timeout", "inf")],
)  # fmt: skip
def test_no_number_is_no_option_of_a_subcommand(bench, arguments):
    result = bench(*arguments, model=False)
    assert result.exit_code == exits.USAGE and "expected a number" in result.stderr


@pytest.mark.parametrize("command", [(), ("compare", "a", "b")])
def test_ctrl_c_outside_a_sweep_is_130(bench, monkeypatch, command):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("ds4bench.commands.sweep.build_request", interrupt)
    monkeypatch.setattr("ds4bench.compare.samples.load_arm", interrupt)
    result = bench(*command, model=False)
    assert result.exit_code == exits.INTERRUPTED and "Traceback" not in result.output


def test_errors_name_the_option_and_the_remedy(bench):
    (bench.folder / "short.txt").write_text("only a few words")
    result = bench("--prompt-file", "short.txt")
    assert result.exit_code == 2
    assert "found 16 (32752 short; --repeat-prompt repeats the text)" in result.stderr
    assert "--backend: expected cpu or cuda, found 'metal'" in bench("--metal").stderr
    assert "--launch: expected with --backend cuda" in bench("--launch", "graph").stderr
    (bench.folder / "latin.txt").write_bytes(b"caf\xe9")
    assert "0xE9 at offset 3" in bench("--prompt-file", "latin.txt").stderr


def test_fifo_prompt_does_not_block(bench):
    os.mkfifo(bench.folder / "fifo")
    result = bench("--prompt-file", "fifo")
    assert result.exit_code == 2 and "found a FIFO" in result.stderr


@pytest.mark.parametrize(
    "content", ["word " * 40, "\ufeff" + "word " * 40, "nul\0 " * 40, "weiß 東京 " * 40]
)
def test_unusual_prompts_are_text(bench, content):
    path = bench.folder / "prömpt \u2028.txt"
    path.write_text(content, encoding="utf-8")
    assert bench("--prompt-file", path, *SHORT).exit_code == 0


def test_repeat_prompt_makes_a_short_text_long_enough(bench):
    (bench.folder / "short.txt").write_text("only a few words")
    assert bench("--prompt-file", "short.txt", "--repeat-prompt", *SHORT).exit_code == 0


def test_missing_model_is_one_line(bench):
    result = bench("-m", "no.gguf", *SHORT, model=False)
    assert result.exit_code == 1
    assert "no.gguf: expected a model" in result.stderr


def test_model_in_the_folder_is_taken_without_m(bench):
    (bench.folder / "ds4flash.gguf").touch()
    result = bench(*SHORT, model=False)
    assert result.exit_code == 0
    assert "bundled" not in result.stderr


def test_bundled_model_is_named_in_one_line(bench, monkeypatch):
    from engine.models.bundled import BundledModel

    model = BundledModel(bench.folder / "m.gguf", "bundled nano model")
    monkeypatch.setattr("engine.tooling.options.model.bundled_model", lambda kind, recipe: model)
    result = bench(*SHORT, model=False)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[:2] == [
        "prompt: generated text, seed 1234",
        "no -m and no ./ds4flash.gguf: bundled nano model",
    ]


def test_modes_without_engine_code_are_refused(bench, monkeypatch):
    faults = bench.folder / "faults.json"
    faults.write_text('{"modes": ["plain"]}')
    monkeypatch.setenv("DS4_FAKE", str(faults))
    result = bench("--mode", "all", *SHORT)
    assert result.exit_code == 2
    assert "--mode: expected one of plain, which this engine implements" in result.stderr


def test_too_large_a_context_is_refused_before_loading(bench, monkeypatch):
    faults = bench.folder / "faults.json"
    monkeypatch.setenv("DS4_FAKE", str(faults))
    faults.write_text('{"context_bytes": 1000000000000000}')
    result = bench(*SHORT)
    assert result.exit_code == 1 and "--ctx-max: expected a context that fits" in result.stderr
    faults.write_text('{"n_ctx_train": 100}')
    result = bench(*SHORT)
    assert result.exit_code == 1 and "within the model's 100 tokens" in result.stderr


def test_stdout_is_upstreams_csv_and_talk_goes_to_stderr(bench):
    result = bench(*SHORT)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "ctx_tokens,prefill_tokens,prefill_tps,gen_tokens,gen_tps,kvcache_bytes"
    assert [line.split(",")[0] for line in lines[1:]] == ["64", "128"]
    assert sorted(os.listdir(bench.folder)) == ["m.gguf"]


def test_folders_above_that_of_the_results_are_made_when_a_sweep_starts(bench):
    assert bench(*SHORT, "--out", "runs/today/a", "--dry-run").exit_code == 0
    assert not (bench.folder / "runs").exists()
    result = bench(*SHORT, "--out", "runs/today/a")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (bench.folder / "runs" / "today" / "a").iterdir())
    assert names == ["rows.jsonl", "sweep.csv", "sweep.parquet"]
    result = bench(*SHORT, "--out", "m.gguf/today/a")
    assert result.exit_code == exits.USAGE
    assert "--out: expected a folder, found a file 'm.gguf'" in result.stderr.replace(
        f"{bench.folder}/", ""
    )


def test_dry_run_says_plan_memory_time_and_writes_nothing(bench):
    result = bench("--dry-run", "--predict", "gb10", "--mode", "all", "--out", "new")
    assert result.exit_code == 0
    for word in (
        "frontiers 16: 2048",
        "64 rows",
        "context",
        "at least",
        "236 GB/s measured",
        "copies of weights 0 MiB",
    ):
        assert word in result.stdout
    assert sorted(os.listdir(bench.folder)) == ["m.gguf"]


def test_dry_run_warns_of_a_model_that_the_memory_does_not_hold(bench, monkeypatch):
    faults = bench.folder / "faults.json"
    monkeypatch.setenv("DS4_FAKE", str(faults))
    faults.write_text('{"mapped_bytes": 1000000000000000}')
    result = bench("--dry-run")
    assert result.exit_code == 0, "the system reads from the disk what does not fit"
    assert "WARNING: memory: expected at most" in result.stdout
    assert "found 931322.57 GiB of mapped files + " in result.stdout


def test_predict_prints_bounds_for_each_row(bench):
    result = bench(*SHORT, "--predict", "gb10", "--predict", "h200")
    # 273e9 / (1e8 + 66) bytes per step, one token each
    assert "gb10 plain at 64: at most 2730.0 t/s (273 GB/s nominal), 2360.0 t/s" in result.stderr
    assert "h200 plain at 128: at most 47999.9 t/s" in result.stderr


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_a_broken_subcommand_breaks_only_itself(bench, monkeypatch, command):
    monkeypatch.setitem(cli.COMMANDS, command, ("ds4bench.not_there:x", "Not there."))
    result = bench(command, model=False)
    assert result.exit_code == 1 and "not_there" in result.output
    assert bench("--help", model=False).exit_code == 0
    assert (bench(*SHORT).exit_code == 0) == (command != "sweep")


def test_exit_table_is_unique_and_in_help(bench):
    codes = [code for code, _ in exits.TABLE]
    assert len(set(codes)) == len(codes)
    assert "9 a decode mode emitted other" in " ".join(bench("--help", model=False).output.split())


def test_every_mode_is_offered():
    option = next(o for o in sweep_command.params if o.name == "mode")
    assert tuple(option.type.choices) == (*MODES, "all")
