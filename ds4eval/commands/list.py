"""`ds4-eval list`: prints suites and the ids of their questions, never a question's text."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ds4eval.commands.data_options import (
    dataset_option,
    parse_datasets,
    selection_options,
    split_ids,
)
from ds4eval.exchange.preset import preset_from_trace
from ds4eval.questions.presets import Preset
from ds4eval.questions.question import Question
from ds4eval.questions.suites import load_suite, preset_text, select, suite_names
from engine.errors import OptionError, StoreError
from engine.tooling.exits import printable, say
from engine.tooling.options.group import option
from engine.tooling.options.sampling import MAX_SEED
from engine.tooling.options.types import Whole
from engine.tooling.program import Command


@click.command("list", cls=Command)
@option(
    "--suite",
    section="Questions",
    metavar="NAME|FILE",
    help="List its questions; without it, list suites.",
)
@dataset_option
@selection_options
@option(
    "--choice-seed",
    section="Questions",
    type=Whole(0, MAX_SEED),
    default=0,
    help="Seed of the order in which GPQA's choices are shown.",
)
@option("--keys", section="Output", is_flag=True, help="Print the answer keys too.")
@option(
    "--from-trace",
    "trace",
    section="Trace",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="List ids and keys of a trace that the C program ds4-eval wrote.",
)
@option(
    "--save",
    section="Trace",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="With --from-trace: write them as a preset that --suite FILE.json reads.",
)
@option("--json", "as_json", section="Output", is_flag=True, help="Print one JSON object a line.")
def list_command(
    suite: str | None,
    datasets: tuple[str, ...],
    ids: str | None,
    filters: tuple[str, ...],
    offset: int,
    limit: int | None,
    choice_seed: int,
    keys: bool,
    trace: Path | None,
    save: Path | None,
    as_json: bool,
) -> int:
    """List suites, or the questions of one by number, source, id and domain."""
    if save is not None and trace is None:
        raise OptionError("--save: expected with --from-trace, found alone")
    if trace is not None:
        if suite is not None:
            raise OptionError("--from-trace: expected without --suite, found both")
        return _from_trace(trace, save, as_json)
    if suite is None:
        for name, summary in suite_names().items():
            line = json.dumps({"suite": name, "summary": summary}) if as_json else None
            click.echo(line or f"{name:16} {summary}")
        return 0
    loaded = load_suite(suite, parse_datasets(datasets), choice_seed)
    chosen = select(loaded.questions, split_ids(ids), filters, offset, limit)
    numbers = {question.key: i for i, question in enumerate(loaded.questions, 1)}
    for question in chosen:
        click.echo(_line(numbers[question.key], question, keys, as_json))
    for finding in loaded.findings:
        if finding.level != "note":
            say(f"{suite}: {finding}")
    return 0


def _line(number: int, question: Question, keys: bool, as_json: bool) -> str:
    if as_json:
        row: dict[str, object] = {
            "n": number,
            "source": question.source,
            "id": question.id,
            "kind": question.kind,
            "choices": len(question.choices),
            "domain": question.domain,
            "strata": dict(question.strata),
            "permutation": list(question.permutation),
            "notes": list(question.notes),
        }
        return json.dumps(row | ({"key": question.answer} if keys else {}))
    kind = f"{len(question.choices)} choices" if question.choices else question.kind
    key = f" {question.answer:6}" if keys else ""
    return printable(f"{number:5}{key} {kind:10} {question.key:48} {question.domain}").rstrip()


def _from_trace(trace: Path, save: Path | None, as_json: bool) -> int:
    preset, problems = preset_from_trace(trace)
    for problem in problems:
        say(f"{trace}: {problem}")
    if save is not None:
        _save(save, preset)
    for number, item in enumerate(preset.items, 1):
        if as_json:
            row = {"n": number, "dataset": item.dataset, "id": item.id, "key": item.key}
            click.echo(json.dumps(row))
        else:
            click.echo(printable(f"{number:5} {item.key:6} {item.dataset:13} {item.id}"))
    return 0


def _save(path: Path, preset: Preset) -> None:
    if path.suffix != ".json":
        raise OptionError(f"--save: expected a name that ends in .json, found {str(path)!r}")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(preset_text(preset))
    except FileExistsError:
        raise OptionError(f"--save: expected a new file, found {str(path)!r}") from None
    except OSError as error:
        raise StoreError(f"{path}: expected to write, found {error.strerror}") from None
