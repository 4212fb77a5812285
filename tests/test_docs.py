"""Every command that a document shows is run, with tiny arguments; so are its Python and its links.

It runs the sources as programs in a folder that has stand-ins for model files, runs and data sets.
What needs a GPU, a network or an account is in `docs_commands.NOT_HERE`, with the reason; the
options of those commands are parsed as they stand.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from itertools import chain
from pathlib import Path

import click
import pytest

from engine.models.bundled import bundled_model
from tests import docs_commands as docs
from tests.docs_commands import ROOT, Command
from tests.ds4eval import published

COMMANDS = docs.all_commands()
OURS = [c for c in COMMANDS if c.program in docs.OURS]
RUN = [c for c in OURS if c.bare not in docs.NOT_HERE]
# Statuses that say "measured, no verdict": pairs of tiny sweeps on a busy machine.
# A tiny sweep has fewer samples than a gate takes, and shorter ones than a verdict needs.
# Two pairs of tiny cells on a busy machine: any verdict may come out.
NO_VERDICT = {"ab": {0, 6, 7, 8}, "calibrate": {0, 8}, "compare": {0, 7, 8}, "report": {0, 7},
              "doctor": {0, 8}}  # fmt: skip


def _id(command: Command) -> str:
    return f"{command.document}: {command.bare}"


def _environment(folder: Path) -> dict[str, str]:
    """The user's, with our sources first and everything that is stored under `folder`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DS4_CPU")}
    data = {name: str(folder / name) for name in ("XDG_DATA_HOME", "XDG_STATE_HOME")}
    return environment | data | {
        "PYTHONPATH": str(ROOT), "DS4_EVAL_DATA": str(folder / "data"), "COLUMNS": "100"
    }  # fmt: skip


def run(program: str, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A program of ours in `folder`; 300 s are a limit against hanging, not a measurement."""
    line = [sys.executable, "-m", docs.OURS[program], *arguments]
    return subprocess.run(
        line, cwd=folder, env=_environment(folder), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=300, check=False,
    )  # fmt: skip


def _ok(result: subprocess.CompletedProcess[str], allowed: frozenset[int] | set[int]) -> None:
    assert result.returncode in allowed, (result.args, result.returncode, result.stderr[-2000:])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with a stand-in for everything that documents name."""
    folder = tmp_path_factory.mktemp("docs")
    trunk, mtp = (bundled_model(kind, "q8").path for kind in ("base", "mtp"))
    for name in ("DeepSeek-V4-Flash.gguf", "MODEL"):
        (folder / name).symlink_to(trunk)
    for name in ("MTP.gguf", "FILE"):
        (folder / name).symlink_to(mtp)
    data = folder / "data"
    data.mkdir()
    ids = [f"{i:032x}" for i in range(600)]  # enough for the sample of 500
    rows = {"aime25": published.aime_rows(), "supergpqa": published.super_rows(ids)}
    for name, of in rows.items():
        published.write(data, f"{name}.jsonl", published.jsonl_bytes(of))
    gpqa = published.csv_bytes(published.gpqa_rows())
    published.write(data, "gpqa-diamond.csv", gpqa)
    published.write(folder, "gpqa_diamond.csv", gpqa)
    own = [{"question": f"What is {i} + 2?", "answer": i + 2} for i in range(3)]
    published.write(folder, "mine.jsonl", published.jsonl_bytes(own))
    sweep = ["--nano", "q8", "--mode", "all", "--mtp-draft", "2", "--out", "runs/mine"]
    _ok(run("ds4-bench", [*sweep, *docs.SWEEP], folder), {0})
    for name in ("runs/gb10", "runs/old", "runs/new", "runs/server", "base", "head"):
        shutil.copytree(folder / "runs/mine", folder / name)
    kept = run("ds4-bench", ["report", "head", "--history", "history.db", "--out", "r"], folder)
    _ok(kept, {0})
    _two_commits(folder / "history.db")
    for suite, names in {
        "aime25": ("aime", "a", "b"),
        "gpqa-diamond": ("gpqa",),
        "nano": ("nano",),
        "long": ("long",),
    }.items():
        exam = ["--suite", suite, "--nano", "q8", "--limit", "2", "--out", f"runs/{names[0]}"]
        trace = ["--trace", "trace.txt"] if suite == "aime25" else []
        _ok(run("ds4-eval", [*exam, *trace, *docs.EXAM], folder), {0})
        for name in names[1:]:
            shutil.copytree(folder / "runs" / names[0], folder / "runs" / name)
    return folder


def _two_commits(path: Path) -> None:
    """Store the only run of a history once more, a day later, as that of another commit."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE runs SET dirty = 0")
        database.execute(
            "INSERT INTO runs (digest, setup, commit_id, dirty, at, facts, source) "
            "SELECT 'other', setup, 'other', 0, at + 86400, facts, source FROM runs"
        )
        database.execute(
            "INSERT INTO points SELECT (SELECT max(id) FROM runs), metric, mode, ctx_tokens, "
            "prefill_tokens, rate, samples FROM points"
        )


@pytest.fixture
def sandbox(prepared, tmp_path) -> Path:
    """A copy of `prepared` of a test's own."""
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    return folder


def _clear_target(command: Command, folder: Path) -> None:
    """Remove the run that a command is going to make; the stand-in of its name is for others."""
    words = command.words
    measures = len(words) > 1 and words[1].startswith("-")
    if measures and "--out" in words:
        shutil.rmtree(folder / words[words.index("--out") + 1], ignore_errors=True)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, id=_id(c), marks=pytest.mark.slow if "calibrate" in c.text else ())
        for c in RUN
    ],
)
def test_command_runs(command, sandbox):
    arguments = docs.tiny(command)
    _clear_target(command, sandbox)
    if "--resume" in arguments:
        first = [word for word in arguments if word != "--resume"]
        _ok(run(command.program, first, sandbox), {0})
    result = run(command.program, arguments, sandbox)
    _ok(result, NO_VERDICT.get(arguments[0], {0}))
    assert result.stdout or result.stderr


@pytest.mark.parametrize("command", OURS, ids=_id)
def test_options_parse_as_they_stand(command, sandbox, monkeypatch):
    """The documented values themselves, which the tiny run replaces."""
    monkeypatch.chdir(sandbox)
    monkeypatch.setenv("DS4_EVAL_DATA", str(sandbox / "data"))
    program, *words = command.words
    if "--help" in words:
        pytest.skip("run as it stands")
    module = importlib.import_module(docs.OURS[program])
    group = module.cli if hasattr(module, "cli") else module.main
    # Without a command the program's default runs.
    default = getattr(group, "default", "run")
    name = default if words[0].startswith("-") else words.pop(0)
    named = group.get_command(click.Context(group), name) or group
    assert named is not group or name == default, command.text
    context = named.make_context(name, words)
    assert context.params


def test_commands_that_cannot_run_are_still_shown():
    shown = {c.bare for c in COMMANDS}
    assert set(docs.NOT_HERE) <= shown
    assert all(reason for reason in docs.NOT_HERE.values())


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.program == "make"], ids=_id)
def test_make_targets_exist(command):
    subprocess.run(
        ["make", "-n", *command.words[1:]], cwd=ROOT, check=True, capture_output=True, timeout=60
    )


def test_make_bench_sweeps_and_compares_modes(sandbox):
    """The two commands of the recipe, made tiny, leave what the README promises."""
    lines = subprocess.run(
        ["make", "-n", "bench"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    ).stdout.replace("\\\n", " ")
    recipe = [line for line in lines.splitlines() if ".venv/bin/ds4-bench" in line]
    assert len(recipe) == 2
    (sandbox / "out").mkdir()
    for line in recipe:
        _ok(run("ds4-bench", docs.tiny(Command("Makefile", line.strip())), sandbox), {0})
    made = {path.name for path in (sandbox / "out").iterdir()}
    assert {f"{a}.{b}" for a in ("bench", "modes") for b in ("csv", "parquet", "svg")} <= made
    plot = (sandbox / "out/modes.svg").read_text(encoding="utf-8")
    assert all(mode in plot for mode in ("plain", "mtp-strict", "mtp-batched", "mtp-combined"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.program == "pip"], ids=_id)
def test_extras_exist(command):
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\[(\w[\w-]*)\]", command.words[-1]):
        assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c.program.startswith("python") and "-m" in c.words], ids=_id
)
def test_modules_exist(command):
    name = command.words[command.words.index("-m") + 1]
    assert importlib.util.find_spec(name) is not None, name


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.program == "pytest"], ids=_id)
def test_tests_exist(command):
    line = [sys.executable, "-m", "pytest", "--collect-only", *command.words[1:]]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, timeout=120)


def test_every_program_is_covered():
    covered = {*docs.OURS, "make", "pip", "python", "python3", "pytest"}
    left = {c.bare for c in COMMANDS if c.program not in covered}
    # A look at the files of a sweep that is tested whole.
    assert left - set(docs.NOT_HERE) == {"head -3 sweep.csv"}


def test_blocks_have_a_known_kind():
    """A block of no kind could hide a command; so could one that is indented."""
    for document in docs.DOCUMENTS:
        for block in docs.blocks(document):
            assert block.kind in ("sh", "console", "python", "text", "make"), (document, block.text)
            if block.kind == "sh":
                for line in filter(str.strip, block.text.splitlines()):
                    assert Command(document, line).program in docs.PROGRAMS, line
        text = (ROOT / document).read_text(encoding="utf-8")
        indented = re.findall(rf"^    (?:{'|'.join(docs.PROGRAMS)}) .*$", text, re.MULTILINE)
        assert not indented, (document, indented)


def _shown_output(document: str, start: str) -> list[str]:
    """Lines of the output that a `console` block shows below a command."""
    for block in docs.blocks(document, "console"):
        lines = block.text.splitlines()
        for i, line in enumerate(lines):
            if line.startswith(f"$ {start}"):
                rest = lines[i + 1 :]
                end = next((j for j, text in enumerate(rest) if text.startswith("$ ")), len(rest))
                return rest[:end]
    raise AssertionError(f"{document}: expected a console block with {start!r}")


def test_readme_shows_the_answer_that_the_model_gives(tmp_path):
    [command] = [c for c in COMMANDS if "317 + 268" in c.text]
    result = run(command.program, command.words[1:], tmp_path)
    _ok(result, {0})
    assert result.stdout.splitlines() == _shown_output("README.md", "ds4 --nano")
    assert result.stdout.endswith("Answer: 585\n")


def test_readme_shows_the_scores_of_the_exam(tmp_path):
    """Thirty questions as they stand: items and scores to the letter, only seconds may differ."""
    [command] = [c for c in COMMANDS if "--questions 30 --plain" in c.text]
    result = run(command.program, command.words[1:], tmp_path)
    _ok(result, {0})
    shown = _shown_output("README.md", "ds4-eval --suite nano")

    def timeless(line: str) -> str:
        return re.sub(r"\d+\.\ds ", "", line).rstrip()

    printed = {timeless(line) for line in result.stdout.splitlines()}
    assert [line for line in shown if line != "..." and timeless(line) not in printed] == []


def test_readme_shows_a_sweep_as_it_is_printed(sandbox):
    [command] = [c for c in COMMANDS if "--csv sweep.csv" in c.text]
    result = run(command.program, docs.tiny(command), sandbox)
    _ok(result, {0})
    shown = [line for line in _shown_output("README.md", "ds4-bench --ctx-start") if line != "..."]

    def form(line: str) -> str:
        line = re.sub(r"\S*nano-iq2-base.gguf", "FILE", line)
        return re.sub(r"\s+", " ", re.sub(r"[\d.]+", "0", line))

    printed = {form(line) for line in (result.stderr + result.stdout).splitlines()}
    assert {form(line) for line in shown} <= printed
    header, *rows = _shown_output("README.md", "head -3")
    written = (sandbox / "sweep.csv").read_text(encoding="utf-8").splitlines()
    assert header == written[0]
    assert all(row.count(",") == header.count(",") for row in rows)


def test_readme_python_prints_what_it_says(tmp_path):
    [block] = docs.blocks("README.md", "python")
    line = [sys.executable, "-c", block.text]
    result = subprocess.run(
        line, cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True,
        timeout=300, check=True,
    )  # fmt: skip
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^prints `([^`]*)`", text, re.MULTILINE)[1] == result.stdout


def test_readme_says_what_python_needs_to_draft():
    """The sentence behind the block: its additions give the same tokens in fewer steps."""
    from engine import EngineOptions, generate, open_engine

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [prompt] = re.findall(r'^text = "(.*)"$', text, re.MULTILINE)
    names = {"bundled_model": bundled_model, "dict": dict}
    block, mode = (eval(f"dict({part})", names)
                   for part in re.findall(r"`((?:mtp_path|mode)=[^`]*)`", text))  # fmt: skip
    steps = []
    for more, how in (({}, {}), (block, mode)):
        with open_engine(EngineOptions(bundled_model("base", "q8").path, **more)) as engine:
            ids = engine.tokenizer.encode(prompt).ids
            session = engine.session(ctx=256)
            steps.append([step.tokens for step in generate(session, ids, limit=10, **how)])
    plain, drafted = steps
    assert list(chain.from_iterable(plain)) == list(chain.from_iterable(drafted))
    assert len(drafted) < len(plain) and 1 < max(map(len, drafted)) <= 5


# In a process of its own: the example's kernel would otherwise join the table of all kernels.
PORTER = """
import importlib, sys
for name in ("reference", "cpu", "cuda.rows"):
    package = importlib.import_module(f"engine.ops.{name}")
    package.__path__.append(f"{sys.argv[1]}/engine/ops/{name.replace('.', '/')}")
sys.path.insert(0, f"{sys.argv[1]}/tests/cuda")
import test_scale
from engine.ops.cuda.device.context import Context
from tests.cuda.natsim import NatsimDevice
for reverse in (False, True):
    test_scale.test_sets_agree(Context(NatsimDevice(reverse=reverse)))
test_scale.test_rows_do_not_see_each_other()
print("ported")
"""


def test_porters_op_works_on_all_three_sets(tmp_path):
    """The code of docs/porting.md, put where it says and run as its test does."""
    pytest.importorskip("numba_cuda")
    for block in docs.blocks("docs/porting.md", "python"):
        path = re.match(r"# (\S+\.py)\n", block.text)
        if path:
            file = tmp_path / path[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")
        else:
            compile(block.text, "docs/porting.md", "exec")
    line = [sys.executable, "-c", PORTER, str(tmp_path)]
    result = subprocess.run(
        line, cwd=tmp_path, env=_environment(tmp_path), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert result.stdout == "ported\n", result.stderr[-2000:]


def test_files_that_documents_name_exist():
    """Paths in backquotes, except placeholders in capitals and what a command makes."""
    made = re.compile(r"^(out|runs|gpu|\.venv)/|[A-Z]{3,}|<|\*|^report/")
    for document in docs.DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w./-]+/[\w./-]+\.(?:py|md|toml|json|sh|yml|svg))`", text):
            if not made.search(name):
                places = (ROOT, (ROOT / document).parent)
                found = any((place / name).exists() for place in places)
                assert found, (document, name)


@pytest.mark.parametrize("document", docs.DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), (document, target)


def test_pictures_of_decode_modes_are_as_drawn(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs/images"))
    drawing = importlib.import_module("decode_modes")
    from engine.options import MODES

    assert tuple(drawing.MODES) == MODES
    for mode in drawing.MODES:
        path = ROOT / f"docs/images/{mode}.svg"
        assert path.read_text(encoding="utf-8") == drawing.draw(mode), mode
