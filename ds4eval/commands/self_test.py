"""`ds4-eval self-test`: the graders against the golden table, without a model."""

from __future__ import annotations

import click

from ds4eval.grading.golden import check, golden_cases
from ds4eval.grading.grade import GRADER_VERSION, GRADERS
from engine.tooling import exits
from engine.tooling.exits import printable
from engine.tooling.options.group import option
from engine.tooling.program import Command


@click.command("self-test", cls=Command)
@option("--verbose", is_flag=True, help="Print every case, not only those that differ.")
def self_test_command(verbose: bool) -> int:
    """Run the graders on replies that have misled graders before.

    The exit status is 1 if any grade differs.
    """
    cases = golden_cases()
    wrong = check(cases)
    names = {(mismatch.case.name, mismatch.grader) for mismatch in wrong}
    if verbose:
        for case in cases:
            verdicts = "  ".join(
                f"{grader}={given}{' (DIFFERS)' if (case.name, grader) in names else ''}"
                for grader, (_, given) in zip(GRADERS, case.expected)
            )
            click.echo(f"{case.name:44} key={case.question.answer}  {verdicts}")
    for mismatch in wrong:
        click.echo(
            f"{mismatch.case.name}: {mismatch.grader} expected {' '.join(mismatch.expected)}, "
            f"found {' '.join(mismatch.found)}, reply {printable(mismatch.case.reply)!r}"
        )
    good = len(cases) - len({mismatch.case.name for mismatch in wrong})
    click.echo(
        f"self-test: {good} of {len(cases)} replies graded as expected by "
        f"{', '.join(GRADERS)} (graders version {GRADER_VERSION})"
    )
    return exits.ERROR if wrong else exits.OK
