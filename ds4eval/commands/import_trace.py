"""`ds4-eval import-trace`: a run folder out of a trace, for reports and comparisons."""

from __future__ import annotations

from pathlib import Path

import click

from ds4eval.report import text as report_text
from engine.errors import OptionError
from engine.tooling import exits
from engine.tooling.exits import say
from engine.tooling.options.group import option
from engine.tooling.program import Command


@click.command("import-trace", cls=Command)
@click.argument("trace", type=click.Path(path_type=Path))
@option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="New run folder."
)
def import_trace_command(trace: Path, out: Path) -> int:
    """Read TRACE, written by ds4-eval --trace (the C program's or this one's), into a run folder.

    Every reply is graded by this program's rules; what the trace says of passing is not used.
    The exit status is 4 if a case could not be read.
    """
    from ds4eval.exchange.import_trace import samples_from
    from ds4eval.exchange.trace import read_trace
    from ds4eval.records.entries import entry_of
    from ds4eval.records.record import JOURNAL
    from ds4eval.records.store import RunStore

    if (out / JOURNAL).exists():
        raise OptionError(f"--out: expected a new run folder, found a run in {str(out)!r}")
    config, jobs, samples, problems = samples_from(read_trace(trace))
    for problem in problems:
        say(problem)
    with RunStore.open(out, config) as store:
        store.begin(jobs, {"imported_from": trace.name})
        for sample in samples:
            store.append(sample)
        entries = [entry_of(job) for job in jobs]
        text = report_text.report(entries, dict(enumerate(samples, 1)))
        store.publish(force=True, report=text)
    click.echo(text, nl=False)
    return exits.PARTIAL if problems else exits.OK
