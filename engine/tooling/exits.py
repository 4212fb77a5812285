"""How a program ends: every foreseen failure is one line on stderr and a documented status.

Statuses: 0 done; 1 runtime error; 2 bad option or input, refused before anything was loaded or
overwritten; 3 not a model file that can be run; 5 output cannot be written; 10 the device failed
and its context is lost; 11 the device did not answer in time; 130 interrupted; 141 the reader of
our output went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from engine.errors import EngineError

INTERRUPTED = 130
PIPE = 141


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
    """
    _open_closed_streams()
    try:
        # Not `command.main`, which has endings of its own for Ctrl-C and closed pipes.
        with command.make_context(name, list(sys.argv[1:] if args is None else args)) as ctx:
            status = command.invoke(ctx)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else name
        return _fail(path, f"{error.format_message()} ({path} --help lists the options)", 2)
    except click.ClickException as error:
        return _fail(name, error.format_message(), error.exit_code)
    except EngineError as error:
        return _fail(name, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit; it must not meet the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except MemoryError:
        return _fail(name, "memory: expected enough for the request, found none left", 1)
    except OSError as error:
        subject = error.filename if error.filename is not None else "system"
        return _fail(name, f"{subject}: {error.strerror or error}", 1)


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
    click.echo(printable(line), err=True)


def _fail(name: str, message: str, status: int) -> int:
    say(f"{name}: {message}")
    return status
