"""The `ds4-eval` command: its subcommands are loaded when called; without one it asks a suite."""

from __future__ import annotations

from engine.tooling.program import Program

COMMANDS = {
    "run": (
        "ds4eval.commands.run:run_command",
        "Ask the questions of a suite (the default command).",
    ),
    "report": (
        "ds4eval.commands.report:report_command",
        "Show scores, intervals and plots of runs.",
    ),
    "view": ("ds4eval.commands.view:view_command", "Read the replies of a run, or of two."),
    "compare": ("ds4eval.commands.compare:compare_command", "Judge run B against run A, paired."),
    "regrade": (
        "ds4eval.commands.regrade:regrade_command",
        "Grade saved replies again, without a model.",
    ),
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

cli = Program(
    "ds4-eval",
    lazy=COMMANDS,
    default="run",
    renamed={"resume": "run"},
    help="Ask a model exam questions and grade the answers: AIME, GPQA, SuperGPQA and your own.",
)


def main() -> None:
    """Entry point of the installed program."""
    cli.main()


if __name__ == "__main__":
    main()
