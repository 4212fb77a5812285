"""Commands and programs of one make: sections in help, commands loaded when called, --version.

Nothing here imports numba, numpy or the engine; --help and bad options must not pay for them.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import click

from engine.errors import OptionError
from engine.files.regular import kind_of
from engine.tooling.exits import TABLE, run_program
from engine.tooling.options.group import GENERAL, Option

HELP_NAMES = ("-h", "--help")
_LEFT = 30  # columns of help in which options stand; longer ones get a line of their own
_DISTRIBUTION = "ds4bench"


class StatusCommand(click.Command):
    """What `Command` and `Program` share: both end through `run_program`, whoever calls them."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit with a status of the table in `engine.tooling.exits`."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        sys.exit(run_program(self, prog_name or self.name or "ds4", args))


class Command(StatusCommand):
    """A command whose help lists options by section, in the order in which they are declared."""

    def __init__(self, *args: Any, **attrs: Any) -> None:
        attrs.setdefault("context_settings", {"help_option_names": list(HELP_NAMES)})
        super().__init__(*args, **attrs)

    def invoke(self, ctx: click.Context) -> Any:
        refuse_special_files(self, ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.write_sections(ctx, formatter, [])

    def write_sections(
        self,
        ctx: click.Context,
        formatter: click.HelpFormatter,
        more: Sequence[tuple[str, str]],
    ) -> None:
        """Every section; rows of `more` end the last one, which is the general one."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                section = param.section if isinstance(param, Option) else GENERAL
                sections.setdefault(section, []).append(record)
        general = sections.pop(GENERAL, [])
        for title, rows in [*sections.items(), (GENERAL, [*general, *more])]:
            _write(formatter, title, rows)


def refuse_special_files(command: click.Command, ctx: click.Context) -> None:
    """Refuse FIFOs, devices and sockets in every parameter that takes a path.

    A FIFO would block whoever opens it, in either direction, and a device may never end. What is
    missing, or a folder, is the command's own business.

    Raises
    ------
    OptionError
        Naming the parameter, the kind and the path.
    """
    for parameter in command.params:
        if not isinstance(parameter.type, click.Path):
            continue
        given = ctx.params.get(str(parameter.name))
        for path in given if isinstance(given, (tuple, list)) else (given,):
            try:
                mode = os.stat(path).st_mode if path else 0
            except (OSError, ValueError):
                continue
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                option = isinstance(parameter, click.Option)
                name = parameter.opts[-1] if option else str(parameter.name).upper()
                raise OptionError(
                    f"{name}: expected a file or a folder, found {kind_of(mode)}: {str(path)!r}"
                )


class Program(StatusCommand, click.Group):
    """A program with commands that are imported when they are called.

    Parameters
    ----------
    lazy : mapping of str to (str, str)
        Command to 'module:attribute' and to its line in help.
    default : str
        Command that is meant where the command line begins with an option or is empty.
    renamed : mapping of str to str, optional
        Former names of commands.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, tuple[str, str]],
        default: str,
        renamed: Mapping[str, str] | None = None,
        **attrs: Any,
    ) -> None:
        attrs.setdefault("context_settings", {"help_option_names": list(HELP_NAMES)})
        super().__init__(*args, **attrs)
        self.lazy, self.default, self.renamed = lazy, default, renamed or {}
        self.params.append(_version_option())

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self.renamed.get(cmd_name, cmd_name)
        if name not in self.lazy:
            return None
        module, _, attribute = self.lazy[name][0].partition(":")
        try:
            found: click.Command = getattr(importlib.import_module(module), attribute)
        except ImportError as error:
            raise click.ClickException(
                f"{name}: expected the package {error.name or str(error)!r}, found none installed"
            ) from error
        return found

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = (*HELP_NAMES, "--version")
        if not args or (args[0].startswith("-") and args[0] not in own):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands, then the options of the default one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])
        version = [param.get_help_record(ctx) for param in self.params]
        general = [row for row in version if row is not None]
        try:
            default = self.get_command(ctx, self.default)
        except click.ClickException as error:
            # A command that cannot be loaded must not take the help of all others with it.
            _write(formatter, GENERAL, [("(none)", error.message), *general])
        else:
            assert isinstance(default, Command)
            default.write_sections(ctx, formatter, general)
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code), meaning) for code, meaning in TABLE])


def _write(formatter: click.HelpFormatter, title: str, rows: list[tuple[str, str]]) -> None:
    """One section; its right column begins where every section's does."""
    if rows:
        left, right = rows[0]
        with formatter.section(title):
            # The formatter aligns a section by its widest entry; blanks make that one constant.
            formatter.write_dl([(left.ljust(_LEFT), right), *rows[1:]], col_max=_LEFT)


def version_text(program: str) -> str:
    """Program, version, commit where the code is a git checkout, Python, numba."""
    from engine.tooling.results.environment import code

    try:
        version = metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        version = "of unknown version"
    try:
        numba = metadata.version("numba")
    except metadata.PackageNotFoundError:
        numba = "not installed"
    found = code()
    commit = ""
    if found["commit"]:
        commit = f" (commit {found['commit'][:12]}{', with changes' if found['dirty'] else ''})"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{program} {version}{commit}, Python {python}, numba {numba}"


def _version_option() -> Option:
    def show(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
        if asked:
            click.echo(version_text(ctx.info_name or "ds4"))
            ctx.exit()

    return Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show the versions and exit.",
    )
