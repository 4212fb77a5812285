"""`ds4-eval export`: writes a run in the formats that other harnesses read."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ds4eval.commands.data_options import readable
from ds4eval.records.record import read_run
from engine.errors import OptionError
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.options.types import OneOf
from engine.tooling.program import Command
from engine.tooling.results.publish import check_output, publish_bytes


@click.command("export", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@option(
    "--format",
    "form",
    type=OneOf(("inspect", "lm-eval")),
    default="inspect",
    help="Write inspect_ai's log (one JSON file) or lm-evaluation-harness' samples (JSONL per "
    "task).",
)
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="PATH",
    help="What to write: for inspect a file ending in .json, for lm-eval a folder.",
)
@option(
    "--with-text",
    is_flag=True,
    help="Include questions, keys and replies. Some data sets forbid showing them: keep it local.",
)
@option("--force", is_flag=True, help="Replace existing files.")
def export_command(run: Path, form: str, output: Path, with_text: bool, force: bool) -> int:
    """Write RUN in another harness's format; without --with-text only ids, grades and counts."""
    from ds4eval.exchange import export

    if form == "inspect" and output.suffix != ".json":
        raise OptionError(f"--output: expected a name ending in .json, found {str(output)!r}")
    read = readable(lambda: read_run(run))
    if not read.samples:
        raise OptionError(f"{run}: expected a run with samples, found none")
    files: dict[Path, bytes] = {}
    if form == "inspect":
        log = export.inspect_log(read, with_text)
        files[output] = json.dumps(log, ensure_ascii=False, allow_nan=False).encode(
            "utf-8", "replace"
        )
    else:
        output.mkdir(parents=True, exist_ok=True)
        for task, records in export.lm_eval_tasks(read, with_text).items():
            files[output / f"samples_{task}.jsonl"] = export.jsonl(records)
    for path in files:
        check_output(path, "--output", replace=force)
    for path, data in files.items():
        publish_bytes(path, data)
        say(f"wrote {path}")
    return 0
