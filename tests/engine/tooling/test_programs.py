"""Three programs, one edge: the same options, sections in help, statuses, errors, versions."""

from __future__ import annotations

import re

import click
import pytest

import engine.errors as errors
from ds4bench.cli import main as ds4_bench
from ds4eval.cli import cli as ds4_eval
from engine.cli.main import cli as ds4
from engine.options import CUDA_FIELDS
from engine.tooling import exits
from engine.tooling.exits import run_program
from engine.tooling.options.group import Option
from engine.tooling.program import Command, Program
from tests.engine.tooling.options_that_differ import DIFFERENT, SHARED_DIFFERENT

PROGRAMS = {"ds4": ds4, "ds4-bench": ds4_bench, "ds4-eval": ds4_eval}
COMMANDS = {
    f"{name} {command}": program.get_command(None, command)
    for name, program in PROGRAMS.items()
    for command in program.list_commands(None)
}
MAIN = {"ds4": "ds4 run", "ds4-bench": "ds4-bench sweep", "ds4-eval": "ds4-eval run"}
# What a group brings to every program, wherever the default command of the program lists it.
SHARED = (
    *("--model", "--nano", "--chdir", "--warm-weights", "--check-values"),
    *("--backend", "--threads", "--activations", "--quality", "--kv", "--repack"),
    *(f"--{name.replace('_', '-')}" for name in CUDA_FIELDS),
    *("--mode", "--mtp", "--mtp-draft", "--mtp-adaptive", "--mtp-margin"),
    *("--draft-model", "--draft-max", "--draft-confidence", "--draft-adaptive", "--draft-force"),
    *("--temp", "--top-k", "--top-p", "--min-p", "--seed"),
)


def listed(command):
    """Options of a command by their last long spelling, as help shows them."""
    context = click.Context(command, info_name="x")
    found = {}
    for option in command.params:
        record = option.get_help_record(context)
        if isinstance(option, Option) and record is not None:
            found[option.spelling.split("/")[-1]] = option, record
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_lists_its_options_by_section(name, capsys):
    program, command = name.split()
    assert run_program(PROGRAMS[program], program, [command, "--help"]) == exits.OK
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: {name} ") and "\nOptions:\n" in out
    assert "x<=" not in out and "<=x" not in out and str(2**31 - 1) not in out
    assert "RANGE" not in out
    found = COMMANDS[name]
    assert isinstance(found, Command) and found.help
    options = [param for param in found.params if isinstance(param, click.Option)]
    for option in options:
        assert isinstance(option, Option), option.name
        assert option.help and option.help[0].isupper() and option.help.endswith((".", ")")), option
    if len(options) > 8:
        assert len({option.section for option in options}) >= 3, "nobody scans a flat list"


@pytest.mark.parametrize("name", MAIN)
def test_shared_options_are_in_every_program(name):
    found = listed(COMMANDS[MAIN[name]])
    assert not set(SHARED) - set(found)
    assert found["--mtp-draft"][0].aliases == ("--draft",)
    assert found["--backend"][0].flags == {"--cpu": "cpu", "--cuda": "cuda", "--metal": "metal"}


def test_an_option_is_the_same_wherever_it_stands():
    """Spelling, values, default and help; what differs is written down with its reason."""
    seen: dict[str, dict[tuple, list[str]]] = {}
    for name, command in COMMANDS.items():
        for option, (_, record) in listed(command).items():
            seen.setdefault(option, {}).setdefault(record, []).append(name)
    unlike = {option for option, records in seen.items() if len(records) > 1}
    assert unlike == set(DIFFERENT)
    assert unlike & set(SHARED) == set(SHARED_DIFFERENT)


@pytest.mark.parametrize("name", PROGRAMS)
def test_version(name, capsys):
    assert run_program(PROGRAMS[name], name, ["--version"]) == exits.OK
    out = capsys.readouterr().out
    assert re.fullmatch(
        rf"{name} \S+( \(commit [0-9a-f]{{12}}(, with changes)?\))?, "
        r"Python 3\.\d+\.\d+, numba \d+\.\d+\.\d+\n",
        out,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_holds_the_whole_table_of_statuses(name, capsys):
    assert run_program(PROGRAMS[name], name, ["--help"]) == exits.OK
    out = capsys.readouterr().out
    section = out[out.index("Exit status:") :]
    rows = re.findall(r"^  (\d+)  +(.*(?:\n {6,}.*)*)", section, re.MULTILINE)
    assert [(int(code), " ".join(text.split())) for code, text in rows] == list(exits.TABLE)


def test_statuses_are_unique_and_those_of_the_exceptions():
    codes = [code for code, _ in exits.TABLE]
    assert codes == sorted(set(codes))
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.EngineError)}
    assert raised == {exits.ERROR, exits.USAGE, exits.BAD_INPUT, exits.STORE, exits.DEVICE_LOST}
    assert errors.DEVICE_HUNG in codes and errors.ModelFileError.exit_code == exits.BAD_INPUT
    # What scripts rely on; 128 and more are a shell's for signals.
    assert (exits.PARTIAL, exits.STORE, exits.REGRESSION, exits.INCONCLUSIVE) == (4, 5, 6, 7)
    assert (exits.INCOMPARABLE, exits.NOT_LOSSLESS) == (8, 9)
    assert (exits.HANGUP, exits.INTERRUPTED, exits.PIPE, exits.TERMINATED) == (129, 130, 141, 143)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-t", "5000"], "-t/--threads: expected 1 to 1024, found 5000"),
        (["--mtp-draft", "9"], "--mtp-draft: expected 1 to 4, found 9"),
        (["--draft", "9"], "--mtp-draft: expected 1 to 4, found 9"),
        (["--temp", "nan"], "--temp: expected a number, found 'nan'"),
        (["--temp", "101"], "--temp: expected 0 to 100, found 101"),
        (["--min-p", "2"], "--min-p: expected 0 to 1, found 2"),
        (["--top-k", "x"], "--top-k: expected a whole number, found 'x'"),
        (["--kv", "q4"], "--kv: expected official or f32, found 'q4'"),
        (["--device", "64"], "--device: expected 0 to 63, found 64"),
        (["--chdir"], "--chdir: Option '--chdir' requires an argument."),
        (["--frobnicate"], "--frobnicate: no such option"),
        (["frobnicate"], "No such command 'frobnicate'."),
    ],
    ids=str,
)  # fmt: skip
def test_errors_have_one_form(name, arguments, said, capsys):
    """What is wrong is refused before anything else is looked at, with the option in front."""
    assert run_program(PROGRAMS[name], name, arguments) == exits.USAGE
    err = capsys.readouterr().err
    assert err.startswith(f"{name}: error: {said}") and err.count("\n") == 1
    assert err.endswith(" --help lists the options)\n")


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "x", "--nano", "iq2"], "--nano: expected without -m, found both"),
        (["--launch", "graph"], "--launch: expected with --backend cuda, found cpu"),
        (["--cuda", "--cpu", "--device", "1"], "--device: expected with --backend cuda, found cpu"),
        (["--quality", "--activations", "int8"], "--quality: expected --activations f32"),
        (["--mtp-draft", "2"], "--mtp-draft: expected a --mode that drafts, found plain"),
        (["--mtp", "x"], "--mtp: expected a --mode that drafts, found plain"),
        (["--mtp-adaptive"], "--mtp-adaptive: expected a --mode that drafts, found plain"),
        (["--chdir", "/nonexistent"], "--chdir: expected a folder, found '/nonexistent'"),
    ],
    ids=str,
)  # fmt: skip
def test_contradictions_are_refused_alike(name, arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompt = ["-p", "x"] if name == "ds4" else []
    assert run_program(PROGRAMS[name], name, [*prompt, *arguments]) == exits.USAGE
    assert capsys.readouterr().err.startswith(f"{name}: error: {said}")
    assert not list(tmp_path.iterdir())


def test_commands_are_found_where_their_program_says():
    for name, command in COMMANDS.items():
        assert command is not None and command.name == name.split()[1]
    assert all(isinstance(program, Program) for program in PROGRAMS.values())


def test_the_device_that_is_named_is_the_one_that_is_opened(tmp_path, monkeypatch):
    """From every command line to the ordinal that the driver gets."""
    from ds4bench.commands.sweep import build_request
    from ds4eval.answering.engine import engine_options
    from ds4eval.commands import run as eval_run
    from ds4eval.commands.run_options import MODEL
    from engine.cli import run_cmd

    pytest.importorskip("numba_cuda", reason="the CUDA driver's module needs the extra cuda")
    from engine.ops.cuda.device import driver

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "CudaDevice", lambda ordinal, **_: ordinal)
    cuda = ["-m", "x.gguf", "--cuda", "--device", "3"]

    def parsed(name, arguments):
        context = COMMANDS[MAIN[name]].make_context(name, list(arguments))
        return context, dict(context.params)

    _, values = parsed("ds4", ["-p", "x", *cuda])
    assert driver.open_device(run_cmd._plan(values).options) == 3
    context, values = parsed("ds4-bench", cuda)
    assert build_request(context, values).plan.device == 3
    context, values = parsed("ds4-eval", cuda)
    model = eval_run.parse(context, values, MODEL.take(values)).model
    assert driver.open_device(engine_options(model, [])) == 3


def test_command_lines_of_users_work_as_typed(tmp_path, monkeypatch):
    from ds4bench.commands.sweep import build_request
    from ds4eval.commands import run as eval_run
    from ds4eval.commands.run_options import MODEL

    monkeypatch.chdir(tmp_path)
    (tmp_path / "ds4flash.gguf").touch()
    arguments = ["--ctx-start", "2048", "--ctx-max", "65536", "--csv", "gb10.csv"]
    context = COMMANDS["ds4-bench sweep"].make_context("x", arguments)
    plan = build_request(context, dict(context.params)).plan
    assert (plan.ctx_start, plan.ctx_max, plan.frontiers[-1]) == (2048, 65536, 65536)
    assert plan.modes == ("plain",) and plan.upstream_only
    context = COMMANDS["ds4-eval run"].make_context("x", ["--temp", "3.0", "--min-p", "0.25"])
    values = dict(context.params)
    reply = eval_run.parse(context, values, MODEL.take(values)).reply
    assert (reply.temp, reply.min_p, reply.top_p, reply.seed) == (3.0, 0.25, 1.0, None)
