"""`ds4-eval validate`: reads a data set to its end and reports everything odd about it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import click

from ds4eval.questions.fetch import read_provenance
from ds4eval.questions.known import DATASETS
from ds4eval.questions.loaders import OWN, Dataset, load_dataset, local_paths
from engine.tooling import exits
from engine.tooling.exits import printable
from engine.tooling.options.group import option
from engine.tooling.options.types import OneOf
from engine.tooling.program import Command

# Findings shown of one level; the rest are counted.
SHOWN = 50


@click.command("validate", cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NAME|FILE...")
@option(
    "--as",
    "name",
    type=OneOf((*DATASETS, OWN)),
    help="Read files as this data set, not by columns; 'own' is a set of your own.",
)
@option("--json", "as_json", is_flag=True, help="Print one JSON object for each data set.")
def validate_command(names: tuple[str, ...], name: str | None, as_json: bool) -> int:
    """Check data sets: files, or names, which are looked for where `run` looks.

    The exit status is 3 if one is unfit.
    """
    status = exits.OK
    for given in names:
        if given in DATASETS and not Path(given).exists():
            paths, wanted = local_paths(given), given
        else:
            paths, wanted = (Path(given),), name or ""
        dataset = load_dataset(paths, wanted, keep_going=True)
        levels = Counter(finding.level for finding in dataset.findings)
        if levels["error"]:
            status = exits.BAD_INPUT
        if as_json:
            click.echo(json.dumps(_report(dataset, levels)))
        else:
            _print(dataset, levels)
    return status


def _report(dataset: Dataset, levels: Counter[str]) -> dict[str, object]:
    return {
        "dataset": dataset.name,
        "questions": len(dataset.questions),
        "sha256": dataset.sha256,
        "files": [
            {"path": str(file.path), "form": file.form, "sha256": file.sha256, "rows": file.rows}
            for file in dataset.files
        ],
        "levels": dict(levels),
        "findings": [
            {"level": one.level, "record": one.record, "id": one.id, "message": one.message}
            for one in dataset.findings
        ],
    }


def _print(dataset: Dataset, levels: Counter[str]) -> None:
    for file in dataset.files:
        click.echo(
            printable(f"{file.path}: {file.form}, {file.rows} records, sha256 {file.sha256}")
        )
    origin = read_provenance(dataset.files[0].path.parent) if dataset.files else {}
    if origin:
        click.echo(printable(f"  fetched from {origin.get('repo')} at {origin.get('revision')}"))
    kinds = Counter(question.kind for question in dataset.questions)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    click.echo(f"{dataset.name}: {len(dataset.questions)} questions ({counts})")
    if any(question.choices for question in dataset.questions):
        choices = Counter(len(q.choices) for q in dataset.questions if q.choices)
        letters = Counter(question.answer for question in dataset.questions if question.choices)
        shown = ", ".join(f"{count} with {n}" for n, count in sorted(choices.items()))
        click.echo(f"  choices: {shown}")
        click.echo(f"  keys: {', '.join(f'{key} {n}' for key, n in sorted(letters.items()))}")
    changed = sum(bool(question.notes) for question in dataset.questions)
    if changed:
        click.echo(f"  corrected or flagged: {changed}")
    for level in ("error", "warning", "note"):
        some = [finding for finding in dataset.findings if finding.level == level]
        for finding in some[:SHOWN]:
            click.echo(printable(f"  {finding}"))
        if len(some) > SHOWN:
            click.echo(f"  {level}: {len(some) - SHOWN} more")
    verdict = "unfit" if levels["error"] else "fit for use"
    click.echo(f"{dataset.name}: {verdict}, {levels['error']} errors, {levels['warning']} warnings")
