"""The `ds4` command: its subcommands are loaded when called; without one it runs a prompt."""

from __future__ import annotations

from engine.tooling.program import Program

COMMANDS = {
    "run": ("engine.cli.run_cmd:run_command", "Answer one prompt (the default command)."),
    "logits": ("engine.cli.logits_cmd:logits_command", "Write the logits of a token sequence."),
    "drift": ("engine.cli.drift_cmd:drift_command", "Show where two runs of a model part."),
    "inspect": ("engine.cli.inspect_cmd:inspect_command", "Show what a model file holds."),
    "make-model": (
        "engine.cli.make_model_cmd:make_model_command",
        "Write a model with random weights.",
    ),
}

cli = Program(
    "ds4",
    lazy=COMMANDS,
    default="run",
    help="Run DeepSeek V4 Flash on this machine: one prompt, one answer, and tools for model "
    "files.",
)


def main() -> None:
    """Entry point of the installed program."""
    cli.main()


if __name__ == "__main__":
    main()
