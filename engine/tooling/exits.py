"""How a program ends: one table of exit statuses, and one line on stderr for every failure.

The table holds for ds4, ds4-bench and ds4-eval alike. Its numbers are a contract with scripts and
CI services. A judgement (6 to 9 and 12) and a failure (1 to 5) never share a number, or a broken
download would read as a regression.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from engine.errors import DEVICE_HUNG, EngineError
from engine.tooling.results.redact import scrubbed

OK = 0
ERROR = 1
USAGE = 2
BAD_INPUT = 3
PARTIAL = 4
STORE = 5
REGRESSION = 6
INCONCLUSIVE = 7
INCOMPARABLE = 8
NOT_LOSSLESS = 9
DEVICE_LOST = 10
OUTPUTS_DIFFER = 12  # 11 is DEVICE_HUNG
HANGUP = 129
INTERRUPTED = 130
PIPE = 141
TERMINATED = 143

TABLE = (
    (OK, "done, and within every threshold that was set"),
    (ERROR, "runtime error"),
    (USAGE, "bad option or input, refused before anything was loaded or overwritten"),
    (BAD_INPUT, "a model file or a data set that is missing, damaged or not supported"),
    (PARTIAL, "the work ended incomplete: rows failed, or questions have no final answer"),
    (STORE, "results cannot be written: busy, full or read-only; earlier results are safe"),
    (REGRESSION, "judged worse than a threshold or a baseline allows"),
    (INCONCLUSIVE, "no verdict, where --strict asks for one"),
    (INCOMPARABLE, "the runs differ in more than what is compared, or the machine is unfit"),
    (NOT_LOSSLESS, "a decode mode emitted other tokens than plain decoding"),
    (DEVICE_LOST, "the CUDA device failed, and this process cannot use it again"),
    (DEVICE_HUNG, "the CUDA device did not answer in time"),
    (OUTPUTS_DIFFER, "head emitted other tokens than base: speed alone says nothing"),
    (HANGUP, "the terminal went away; finished work is saved"),
    (INTERRUPTED, "Ctrl-C; finished work is saved"),
    (PIPE, "the reader of the output went away"),
    (TERMINATED, "SIGTERM; finished work is saved"),
)


def run_program(command: click.Command, name: str, args: Sequence[str] | None = None) -> int:
    """Run a click command and turn its end into an exit status.

    Parameters
    ----------
    command : click.Command
        Its callback may return an int, which becomes the status.
    name : str
        Program name that messages begin with.
    args : sequence of str, optional
        Default: the command line's.

    Returns
    -------
    int
        A status of `TABLE`.
    """
    _open_closed_streams()
    try:
        # Not `click.Command.main`, which has endings of its own for Ctrl-C and closed pipes.
        words = list(sys.argv[1:] if args is None else args)
        with command.make_context(name, words, max_content_width=100) as ctx:
            status = command.invoke(ctx)
        sys.stdout.flush()
        return status if isinstance(status, int) else OK
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        return _fail(name, f"{_usage_text(error)} ({path} --help lists the options)", USAGE)
    except click.ClickException as error:
        return _fail(name, error.format_message(), error.exit_code)
    except EngineError as error:
        return _fail(name, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        status = getattr(stop, "exit_code", INTERRUPTED)
        say(f"{name}: interrupted")
        return status
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; it must not meet the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except MemoryError:
        return _fail(name, "memory: expected enough for the request, found none left", ERROR)
    except OSError as error:
        subject = error.filename if error.filename is not None else "system"
        return _fail(name, f"{subject}: {error.strerror or error}", ERROR)


def _usage_text(error: click.UsageError) -> str:
    """What is wrong with a command line, beginning with the option."""
    if isinstance(error, click.MissingParameter):
        return f"{_subject(error)}: expected a value, found none"
    if isinstance(error, click.BadParameter):
        return f"{_subject(error)}: {error.message}"
    if isinstance(error, click.NoSuchOption):
        near = (
            f"; is {' or '.join(sorted(error.possibilities))} meant?" if error.possibilities else ""
        )
        return f"{error.option_name}: no such option{near}"
    if isinstance(error, click.BadOptionUsage):
        return f"{error.option_name}: {error.message}"
    return error.format_message()


def _subject(error: click.BadParameter) -> str:
    """The option or argument as help shows it."""
    if error.param is None:
        return str(error.param_hint or "command line")
    spelling: Any = getattr(error.param, "spelling", None)
    return spelling or error.param.human_readable_name


def _open_closed_streams() -> None:
    """Give a process whose caller closed its standard streams empty ones.

    Python sets a closed stream to None, and the next file that is opened takes its number: a
    results file could then receive what somebody prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest free number is this stream's own, unless something opened it meanwhile.
            fd = os.open(os.devnull, os.O_RDWR)
            stream = open(fd, "r" if number == 0 else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def printable(text: str) -> str:
    """Text whose control characters cannot steer a terminal; line ends and tabs stay."""
    return "".join(
        char
        if char.isprintable() or char in "\n\t"
        else char.encode("unicode_escape", "backslashreplace").decode("ascii")
        for char in text
    )


def say(line: str) -> None:
    """One line for the user on stderr; stdout is for results."""
    click.echo(printable(scrubbed(line)), err=True)


def error_line(name: str, message: str) -> str:
    """The line in which a program reports a failure: `PROGRAM: error: MESSAGE`."""
    return f"{name}: error: {message}"


def _fail(name: str, message: str, status: int) -> int:
    say(error_line(name, message))
    return status
