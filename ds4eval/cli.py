"""The command line of `ds4-eval`: its subcommands, each loaded when it is called.

Nothing here imports numba, numpy or the engine; --help and bad options must not pay for them.
"""

from __future__ import annotations

import importlib
import sys

import click

from ds4eval.commands.run_options import EPILOG
from engine.errors import EngineError

# Subcommand -> module:attribute, summary.
COMMANDS = {
    "run": (
        "ds4eval.commands.run:run_command",
        "Ask the questions of a suite (the default command).",
    ),
    "report": ("ds4eval.commands.report:report_command", "Scores, intervals and plots of runs."),
    "compare": ("ds4eval.commands.compare:compare_command", "Judge run B against run A, paired."),
    "regrade": ("ds4eval.commands.regrade:regrade_command", "Grade saved replies again, no model."),
    "list": ("ds4eval.commands.list:list_command", "List suites or the questions of one."),
    "validate": ("ds4eval.commands.validate:validate_command", "Check data set files."),
    "fetch": ("ds4eval.commands.fetch:fetch_command", "Download a data set at a pinned revision."),
    "export": (
        "ds4eval.commands.export:export_command",
        "Write a run as inspect_ai or lm-eval logs.",
    ),
    "import-trace": (
        "ds4eval.commands.import_trace:import_trace_command",
        "Make a run folder out of a trace of ds4-eval.",
    ),
    "self-test": (
        "ds4eval.commands.self_test:self_test_command",
        "Check graders against known replies.",
    ),
}
ALIASES = {"resume": "run"}


class EngineFailed(click.ClickException):
    """An error of the engine that is none of options, data or results."""

    exit_code = 4


class Ds4Eval(click.Group):
    """Group whose first argument may be an option of `run`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{cmd_name}: expected the package {error.name!r}, found none installed"
            ) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EngineError as error:
            if error.exit_code != 1:
                raise
            raise EngineFailed(str(error)) from error

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        run = self.get_command(ctx, "run")
        assert run is not None
        run.format_options(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=Ds4Eval, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
def cli() -> None:
    """Ask a model exam questions and grade the answers: AIME, GPQA, SuperGPQA and your own."""


def main() -> None:
    """Entry point of the installed program."""
    from engine.tooling.exits import run_program

    sys.exit(run_program(cli, "ds4-eval"))


if __name__ == "__main__":
    main()
