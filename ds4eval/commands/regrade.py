"""`ds4-eval regrade`: grades saved replies again by the present rules, without a model."""

from __future__ import annotations

from pathlib import Path

import click

from ds4eval.commands.data_options import HEADLINES, readable
from ds4eval.grading.grade import GRADER_VERSION
from ds4eval.questions.question import QuestionError
from ds4eval.questions.source import require_graders
from ds4eval.records import record as records
from ds4eval.records import replay
from ds4eval.records.entries import entries_of
from ds4eval.records.record import Sample
from ds4eval.records.samples import regraded
from ds4eval.report import text as report_text
from engine.errors import EngineError
from engine.tooling import exits
from engine.tooling.exits import printable, say
from engine.tooling.options.group import option
from engine.tooling.options.types import OneOf
from engine.tooling.program import Command


@click.command("regrade", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@option("--write", is_flag=True, help="Keep the new grades in the run folder.")
@option(
    "--headline",
    type=OneOf(HEADLINES),
    help="Let this grader decide the score from now on.",
    default_text="the run's own",
)
def regrade_command(run: Path, write: bool, headline: str | None) -> int:
    """Grade the replies of RUN again and list what changes.

    Without --write nothing is changed. The exit status is 4 if a record cannot be graded, and 3
    if there is nothing to grade.
    """
    read = readable(lambda: replay.read_run(run))
    graded = [sample for sample in read.samples if sample.graded]
    if not graded:
        say(f"{run}: expected graded samples, found none")
        return exits.BAD_INPUT
    require_graders({sample.kind for sample in graded}, str(run))
    new: list[Sample] = []
    broken = changed = 0
    for sample in graded:
        try:
            after = regraded(sample, headline or "")
        except QuestionError as error:
            broken += 1
            say(f"{sample.source}/{sample.id}: cannot be graded: {error}")
            continue
        if _grades(after) != _grades(sample):
            changed += 1
            click.echo(printable(_change(sample, after)))
        if after != sample:
            new.append(after)  # grades of another version are written down as of this one
    click.echo(
        f"{len(graded)} graded again (version {GRADER_VERSION}): {changed} changed, "
        f"passed {sum(s.passed for s in graded)} -> "
        f"{sum(s.passed for s in graded) + _gain(graded, new)}"
    )
    if write and new:
        _write(read.folder, new)
    return exits.PARTIAL if broken else exits.OK


def _grades(sample: Sample) -> tuple[object, ...]:
    names = (name for name in records.GRADE_FIELDS if name != "grader_version")
    return tuple(getattr(sample, name) for name in names)


def _change(before: Sample, after: Sample) -> str:
    parts = []
    for label, prefix in (("strict", ""), ("lenient", "lenient_"), ("classic", "classic_")):
        old = [getattr(before, prefix + name) for name in ("verdict", "given")]
        new = [getattr(after, prefix + name) for name in ("verdict", "given")]
        if old != new:
            parts.append(f"{label} {old[0]} {old[1]} -> {new[0]} {new[1]}")
    what = "; ".join(parts) or "how the answer was found"
    return f"{before.source}/{before.id}: {what} (expected {before.expected})"


def _gain(before: list[Sample], new: list[Sample]) -> int:
    old = {sample.key: sample.passed for sample in before}
    return sum(sample.passed - old[sample.key] for sample in new)


def _write(folder: Path, new: list[Sample]) -> None:
    from ds4eval.records.store import RunStore, peek_config

    config = peek_config(folder)
    if config is None:
        raise EngineError(f"{folder}: expected a run folder, found none")
    with RunStore.open(folder, config) as store:
        for sample in new:
            store.add_grade(sample)
        entries, numbers = entries_of(store.selected)
        samples = {numbers[k]: s for k, s in store.samples.items() if k in numbers}
        repeats = max((entry.repeat for entry in entries), default=0) + 1
        store.publish(force=True, report=report_text.report(entries, samples, repeats))
