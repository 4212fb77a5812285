"""`ds4-bench export`: a sweep in another form of file, on request as one that can be posted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds4bench.commands.force import FORCE
from engine.errors import OptionError
from engine.tooling import exits
from engine.tooling.options.group import option
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4bench.records.rows import SweepResult

ENDINGS = (".jsonl", ".parquet", ".csv")


@click.command("export", cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
@option(
    "-o",
    "--output",
    section="Output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="What to write: a .jsonl (every figure and the circumstances), .parquet or .csv file.",
)
@option(
    "--public",
    section="Output",
    is_flag=True,
    help="Write what you can post: no user, host, path, address, serial number, key, command line "
    "or prompt.",
)
@FORCE
def export_command(run: Path, output: Path, public: bool, force: bool) -> int:
    """Write RUN (journal, CSV, Parquet, or the folder of a run) as another file."""
    if output.suffix not in ENDINGS:
        raise OptionError(
            f"--output: expected a name ending in {', '.join(ENDINGS)}, found {str(output)!r}"
        )
    from ds4bench.records.files import read_rows
    from ds4bench.records.outputs import check_new, set_aside
    from ds4bench.records.public import public_sweep

    check_new([("--output", output)], force=force)
    found = read_rows(run)
    if public:
        found = public_sweep(found)
    set_aside([output])
    _write(found, output)
    click.echo(f"wrote {output}", err=True)
    return exits.OK


def _write(run: SweepResult, output: Path) -> None:
    from ds4bench.records.csv_text import to_csv
    from ds4bench.records.files import machine_bandwidth, write_parquet
    from ds4bench.records.rows import SCHEMA, SCHEMA_VERSION
    from engine.tooling.results.journal import encode
    from engine.tooling.results.publish import publish, publish_bytes

    environment = dict(run.environment)
    if output.suffix == ".csv":
        publish_bytes(output, to_csv(run.rows, False, machine_bandwidth(environment)))
        return
    if output.suffix == ".parquet":
        publish(output, lambda file: write_parquet(file, list(run.rows), environment))
        return
    header: dict[str, Any] = {"schema": SCHEMA, "version": SCHEMA_VERSION}
    header |= {n: environment.pop(n) for n in ("plan", "fingerprint") if n in environment}
    start: dict[str, Any] = {"kind": "start", "environment": environment}
    if "started_at" in environment:
        start["at"] = environment.pop("started_at")
    records = [header, start, *({"kind": "row", **row.to_record()} for row in run.rows)]
    publish_bytes(output, b"".join(encode(record) for record in records))
