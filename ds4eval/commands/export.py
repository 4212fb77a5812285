"""`ds4-eval export`: writes a run in the formats that other programs read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ds4eval.commands.data_options import readable
from ds4eval.records.record import AskedText
from ds4eval.records.replay import read_run
from engine.errors import OptionError
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.options.types import OneOf
from engine.tooling.program import Command
from engine.tooling.results.publish import check_output, publish_bytes

if TYPE_CHECKING:
    from ds4eval.records.replay import Run

# Ending of the file by format; lm-eval writes a folder.
ENDINGS = {
    "inspect": ".json",
    "lm-eval": "",
    "junit": ".xml",
    "eval-results": ".yaml",
    "every-eval-ever": ".json",
}
WITHOUT_TEXT = ("eval-results", "every-eval-ever")


@click.command("export", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@option(
    "--format",
    "form",
    type=OneOf(tuple(ENDINGS)),
    default="inspect",
    help="Write inspect_ai's log (JSON), lm-evaluation-harness' samples (JSONL per task), JUnit "
    "(XML), a Hugging Face model's .eval_results (YAML), or Every Eval Ever's document (JSON).",
)
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="What to write: a file with the format's ending, for lm-eval a folder.",
)
@option(
    "--with-text",
    is_flag=True,
    help="Include questions, keys and replies. Some data sets forbid showing them: keep it local.",
)
@option(
    "--public",
    is_flag=True,
    help="Write what you can post: no user, host, path, address, serial number, key, command line "
    "or text of the exam.",
)
@option("--force", is_flag=True, help="Replace existing files.")
def export_command(
    run: Path, form: str, output: Path, with_text: bool, public: bool, force: bool
) -> int:
    """Write RUN in another program's format; without --with-text only ids, grades and counts."""
    if public and with_text:
        raise OptionError("--public: expected without --with-text, found both")
    ending = ENDINGS[form]
    if ending and output.suffix != ending:
        raise OptionError(f"--output: expected a name ending in {ending}, found {str(output)!r}")
    if with_text and form in WITHOUT_TEXT:
        raise OptionError(f"--with-text: expected another --format, found {form}, which has scores")
    read = readable(lambda: read_run(run))
    if not read.samples:
        raise OptionError(f"{run}: expected a run with samples, found none")
    if public:
        read = _public(read)
    files = readable(lambda: _files(read, form, output, with_text))
    if form == "lm-eval":
        output.parent.mkdir(parents=True, exist_ok=True)
        output.mkdir(mode=0o700 if with_text else 0o777, exist_ok=True)
    for path in files:
        check_output(path, "--output", replace=force)
    for path, data in files.items():
        publish_bytes(path, data, private=with_text)
        say(f"wrote {path}")
    return 0


def _public(run: Run) -> Run:
    """The run without what says who made it and where, and without question and reply texts."""
    from engine.tooling.results.redact import public, public_text

    samples = [
        replace(
            sample,
            question=AskedText(),
            output="",
            error=public_text(sample.error),
            notes=[public_text(note) for note in sample.notes],
        )
        for sample in run.samples
    ]
    folder = run.folder.with_name(public_text(run.folder.resolve().name))
    return replace(
        run,
        folder=folder,
        run_id=public_text(run.run_id),
        config=public(run.config),
        manifest=public(run.manifest),
        samples=samples,
        earlier={},
    )


def _files(run: Run, form: str, output: Path, text: bool) -> dict[Path, bytes]:
    """Contents by path."""
    from ds4eval.exchange import export

    if form == "lm-eval":
        tasks = export.lm_eval_tasks(run, text)
        return {
            output / f"samples_{task}.jsonl": export.jsonl(records)
            for task, records in tasks.items()
        }
    if form == "inspect":
        return {output: _json(export.inspect_log(run, text))}
    from ds4eval.compare.pairs import arm_of
    from ds4eval.report import public
    from engine.tooling.report.labels import clean_label

    arm = readable(lambda: arm_of(run, clean_label(run.folder.resolve().name)))
    if form == "junit":
        return {output: public.junit(arm, text)}
    if form == "eval-results":
        return {output: public.hub_results(arm)}
    return {output: _json(public.every_eval_ever(arm))}


def _json(document: object) -> bytes:
    # ASCII: what a reply held stays, and steers no terminal that shows the file.
    return json.dumps(document, allow_nan=False).encode()
