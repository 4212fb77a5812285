"""The program as a whole: help, how it ends, what it imports, bad model files."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from engine.cli.main import COMMANDS, cli
from engine.errors import EngineError, GGUFError, OptionError, SnapshotError, StoreError
from engine.tooling.exits import printable, run_program


def test_help_lists_options_and_commands(ds4):
    status, out, err = ds4("--help")

    assert (status, err) == (0, "")
    for name in (*COMMANDS, "--prompt-file", "--top-k", "--nothink", "--chdir", "--session"):
        assert name in out


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_every_command(ds4, name):
    status, out, err = ds4(name, "--help")

    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: ds4 {name}")


def test_help_imports_little():
    code = (
        "import sys; sys.argv = ['ds4', '--help']\n"
        "from engine.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'numpy', 'tokenizers', 'psutil', 'rich', 'jinja2'} & set(sys.modules)\n"
        "print(heavy, len(sys.modules) < 240, file=sys.stderr)"  # 201 on Python 3.11
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == "set() True\n"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (EngineError("a: expected b, found c"), 1, "a: expected b, found c"),
        (OptionError("x"), 2, "x"),
        (GGUFError("x"), 3, "x"),
        (StoreError("x"), 5, "x"),
        (SnapshotError("a \x1b[31m\x07 \u202e\x9b"), 1, "a \\x1b[31m\\x07 \\u202e\\x9b"),
        (click.UsageError("no"), 2, "no (prog --help lists the options)"),
        (click.ClickException("no"), 1, "no"),
        (MemoryError(), 1, "memory: expected enough for the request, found none left"),
        (FileNotFoundError(2, "No such file", "f"), 1, "f: No such file"),
        (OSError("odd"), 1, "system: odd"),
    ],
)  # fmt: skip
def test_every_end_is_one_line_and_a_status(capsys, error, status, line):
    @click.command()
    def command():
        raise error

    assert run_program(command, "prog", []) == status
    assert capsys.readouterr().err == f"prog: error: {line}\n"


@pytest.mark.parametrize("end", [click.Abort(), KeyboardInterrupt()])
def test_an_interrupt_is_no_error(capsys, end):
    @click.command()
    def command():
        raise end

    assert run_program(command, "prog", []) == 130
    assert capsys.readouterr().err == "prog: interrupted\n"


def test_our_own_mistakes_are_not_hidden():
    @click.command()
    def command():
        raise AssertionError("bug")

    with pytest.raises(AssertionError):
        run_program(command, "prog", [])


def test_status_from_the_command():
    for value, status in ((None, 0), (0, 0), (7, 7)):

        @click.command()
        def command(value=value):
            return value

        assert run_program(command, "prog", []) == status


def test_reader_that_goes_away():
    code = (
        "import sys, click\n"
        "from engine.tooling.exits import run_program\n"
        "@click.command()\n"
        "def command():\n"
        "    for _ in range(100000): print('x' * 100)\n"
        "sys.exit(run_program(command, 'prog', []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdout.read(10)
        child.stdout.close()
        err = child.stderr.read()
        assert (child.wait(), err) == (141, b"")


def test_output_is_utf8_in_any_locale():
    code = (
        "import engine.engine, sys\n"
        "from tests.engine.cli.fakes import FakeEngine\n"
        "fake = FakeEngine('h\\u00e9\\u6f22')\n"
        "engine.engine.open_engine = fake.open\n"
        "engine.engine.check_opening = lambda *_: ''\n"
        "import engine.cli.prompt\n"
        "engine.cli.prompt.read_header = fake.header\n"
        "sys.argv = ['ds4', '-m', 'm', '-p', 'x', '--temp', '0']\n"
        "from engine.cli.main import main\n"
        "main()"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "hé漢\n".encode()


def test_printable():
    assert printable("é漢\t\n\x1b\x7f\x00\ud800\u2066") == "é漢\t\n\\x1b\\x7f\\x00\\ud800\\u2066"


def bad_models(folder):
    (folder / "empty.gguf").touch()
    (folder / "text.gguf").write_text("this is not a model, although it is long enough")
    (folder / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x01" * 20)
    (folder / "dir.gguf").mkdir()
    os.mkfifo(folder / "fifo.gguf")
    return ["none.gguf", "empty.gguf", "text.gguf", "cut.gguf", "dir.gguf", "fifo.gguf"]


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("command", ["run", "logits"])
def test_bad_model_files(ds4, tmp_path, index, command):
    path = tmp_path / bad_models(tmp_path)[index]
    out, ids = tmp_path / "out", tmp_path / "ids"
    out.write_text("old")
    ids.write_text("1 2")
    args = {
        "run": ("-p", "x", "--temp", 0),
        "logits": ("--tokens", ids, "--out", out),
    }[command]

    status, stdout, err = ds4(command, "-m", path, *args)

    # What no command can read is a bad option; what only a model must be is a bad file.
    assert (status, stdout) == (2 if path.name == "fifo.gguf" else 3, "")
    assert len(err.splitlines()) == 1
    assert path.name in err
    assert out.read_text() == "old"


def test_group_has_no_second_list_of_commands():
    assert cli.list_commands(None) == list(COMMANDS)
