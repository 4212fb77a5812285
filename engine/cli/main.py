"""The `ds4` command: its subcommands, loaded when called; without one it runs a prompt."""

from __future__ import annotations

import importlib
import sys

import click

_COMMANDS = {
    "run": ("engine.cli.run_cmd:run_command", "Answer one prompt (the default command)."),
    "logits": ("engine.cli.logits_cmd:logits_command", "Write the logits of a token sequence."),
    "drift": ("engine.cli.drift_cmd:drift_command", "Show where two runs of a model part."),
    "inspect": ("engine.cli.inspect_cmd:inspect_command", "Show what a model file holds."),
    "make-model": (
        "engine.cli.make_model_cmd:make_model_command",
        "Write a model with random weights.",
    ),
}


class _Ds4(click.Group):
    """Group whose first argument may be an option of `run`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "-p TEXT [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND [OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        run = self.get_command(ctx, "run")
        assert run is not None
        run.format_options(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(
    cls=_Ds4,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 runtime error, 2 bad option or input, 3 bad model file, "
    "5 output cannot be written, 130 interrupted.",
)
def cli() -> None:
    """DeepSeek V4 Flash on this machine: one prompt, one answer, and tools for model files."""


def main() -> None:
    """Entry point of the installed program."""
    from engine.tooling.exits import run_program

    sys.exit(run_program(cli, "ds4"))


if __name__ == "__main__":
    main()
