"""`ds4-bench history`: what a history file holds, and how speed changed over it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ds4bench.commands.force import FORCE
from engine.errors import OptionError
from engine.options import MODES
from engine.tooling import exits
from engine.tooling.options.group import option
from engine.tooling.options.types import OneOf, Whole
from engine.tooling.program import Command

if TYPE_CHECKING:
    import sqlite3

    from ds4bench.compare.history import Series

ACTIONS = ("list", "show", "prune", "trend")
METRICS = ("prefill", "decode", "steps", "first_token", "itl_p99")
# Options that mean something to some actions only.
BELONGS = {
    "runs": ("show", "prune"),
    "keep": ("prune",),
    "before": ("prune",),
    "dry_run": ("prune",),
    "setup": ("trend",),
    "metrics": ("trend",),
    "modes": ("trend",),
    "contexts": ("trend",),
    "plot": ("trend",),
    "dark": ("trend",),
    "bencher": ("trend",),
    "otava": ("trend",),
    "gate": ("trend",),
    "force": ("trend",),
}


@click.command("history", cls=Command)
@click.argument("action", type=OneOf(ACTIONS), metavar="list|show|prune|trend")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="DB")
@option(
    "--run",
    "runs",
    section="Runs",
    type=Whole(1, 2**31),
    multiple=True,
    metavar="N",
    help="Show or remove the run of this number. May be given again.",
)
@option(
    "--keep",
    section="Runs",
    type=Whole(1, 2**31),
    metavar="N",
    help="Remove all but the latest N runs of each set-up.",
)
@option(
    "--before",
    section="Runs",
    metavar="YYYY-MM-DD",
    help="Remove runs that began before this day (UTC).",
)
@option("--dry-run", section="Runs", is_flag=True, help="Say what would be removed.")
@option(
    "--setup",
    section="Trend",
    metavar="NAME",
    help="Machine, model and options to look at, by the beginning of its name in the list.",
    default_text="that of the latest run",
)
@option(
    "--metric",
    "metrics",
    section="Trend",
    type=OneOf(METRICS),
    multiple=True,
    help="Only this one. May be given again.",
    default_text="all",
)
@option(
    "--mode",
    "modes",
    section="Trend",
    type=OneOf(MODES),
    multiple=True,
    help="Only this one. May be given again.",
    default_text="all",
)
@option(
    "--ctx",
    "contexts",
    section="Trend",
    type=Whole(1, 2**31),
    multiple=True,
    help="Only this context length. May be given again.",
    default_text="all",
)
@option(
    "--gate",
    section="Trend",
    is_flag=True,
    help="End with status 6 where the latest level of a series is a loss.",
)
@option(
    "--plot",
    section="Output",
    type=click.Path(path_type=Path),
    help="SVG or PNG file with a panel for each series.",
)
@option("--dark", section="Output", is_flag=True, help="Draw light on dark.")
@option(
    "--bencher",
    section="Output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the latest points as Bencher Metric Format (JSON).",
)
@option(
    "--otava",
    section="Output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the series as CSV for Apache Otava, its configuration beside it (.yaml).",
)
@option("--json", "as_json", section="Output", is_flag=True, help="Print JSON.")
@FORCE
@click.pass_context
def history_command(ctx: click.Context, /, action: str, file: Path, **values: Any) -> int:
    """Look into a history that `ds4-bench report --history DB` keeps.

    list: its runs. show: one of them. prune: remove some. trend: every series with the commits at
    which its level changed.
    """
    for name, owners in BELONGS.items():
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and action not in owners:
            raise OptionError(f"--{_spelled(name)}: expected history {owners[0]}, found {action}")
    if not file.exists():
        raise OptionError(f"history: expected a file, found none at {str(file)!r}")
    outputs = _outputs(values)
    from ds4bench.compare.history import open_history
    from ds4bench.records.outputs import check_new

    check_new([(f"--{name}", path) for name, path in outputs], force=values["force"])
    actions: dict[str, Callable[[sqlite3.Connection, dict[str, Any]], int]] = {
        "list": _list, "show": _show, "prune": _prune, "trend": _trend,
    }  # fmt: skip
    with open_history(file) as database:
        return actions[action](database, values)


def _spelled(name: str) -> str:
    words = {"runs": "run", "metrics": "metric", "modes": "mode", "contexts": "ctx"}
    return words.get(name, name).replace("_", "-")


def _outputs(values: dict[str, Any]) -> list[tuple[str, Path]]:
    plot, otava = values["plot"], values["otava"]
    if plot is not None and plot.suffix.lower() not in (".svg", ".png"):
        raise OptionError(f"--plot: expected a name ending in .svg or .png, found {str(plot)!r}")
    pairs = [("plot", plot), ("bencher", values["bencher"]), ("otava", otava)]
    if otava is not None:
        pairs.append(("otava", otava.with_suffix(".yaml")))
    return [(name, path) for name, path in pairs if path is not None]


def _list(database: sqlite3.Connection, values: dict[str, Any]) -> int:
    from ds4bench.compare.trends import entries

    found = entries(database)
    if values["as_json"]:
        rows = [{**_record(e), "cells": e.cells, "source": e.source} for e in found]
        click.echo(json.dumps(rows, indent=1))
        return exits.OK
    click.echo(f"{'run':>5} {'began (UTC)':16} {'commit':12} {'set-up':8} {'cells':>5}  machine")
    for e in found:
        commit = (e.commit[:9] or "unknown") + ("+" if e.dirty else "")
        click.echo(f"{e.id:5} {e.day:16} {commit:12} {e.setup[:8]} {e.cells:5}  {e.machine}")
    if any(e.dirty for e in found):
        click.echo("+: with uncommitted changes, which no series counts")
    return exits.OK


def _record(e: Any) -> dict[str, Any]:
    return {"run": e.id, "at": e.at, "commit": e.commit, "dirty": e.dirty, "setup": e.setup}


def _show(database: sqlite3.Connection, values: dict[str, Any]) -> int:
    from ds4bench.compare.trends import entry, points, shown

    if len(values["runs"]) != 1:
        raise OptionError(f"--run: expected one number, found {len(values['runs'])}")
    e = entry(database, values["runs"][0])
    cells = points(database, e.id)
    if values["as_json"]:
        names = ("metric", "mode", "ctx_tokens", "samples", "rate")
        record = {**_record(e), "facts": e.facts, "points": [dict(zip(names, c)) for c in cells]}
        click.echo(json.dumps(record, indent=1))
        return exits.OK
    click.echo(f"run {e.id}, {e.day} UTC, commit {e.commit or 'unknown'}, set-up {e.setup}")
    for name, value in e.facts.items():
        click.echo(f"  {name:16} {value}")
    click.echo(f"{'metric':12} {'mode':14} {'context':>8} {'runs':>5} {'median':>12}")
    for metric, mode, ctx, samples, rate in cells:
        value, unit = shown(metric, rate)
        click.echo(f"{metric:12} {mode:14} {ctx:8} {samples:5} {value:12.2f} {unit}")
    return exits.OK


def _prune(database: sqlite3.Connection, values: dict[str, Any]) -> int:
    from ds4bench.compare import trends

    if not (values["runs"] or values["keep"] or values["before"]):
        raise OptionError("history prune: expected --run, --keep or --before, found none")
    before = None if values["before"] is None else _day(values["before"])
    gone = trends.chosen_to_prune(trends.entries(database), values["runs"], before, values["keep"])
    if not values["dry_run"]:
        trends.prune(database, gone)
    word = "would remove" if values["dry_run"] else "removed"
    click.echo(f"{word} {len(gone)} runs: {', '.join(str(e.id) for e in gone) or 'none'}")
    return exits.OK


def _day(text: str) -> float:
    import calendar

    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%d")))
    except ValueError:
        raise OptionError(f"--before: expected a day like 2026-12-01, found {text!r}") from None


def _trend(database: sqlite3.Connection, values: dict[str, Any]) -> int:
    from ds4bench.compare import trends

    found = trends.entries(database)
    setup = trends.setup_named(found, values["setup"])
    chosen = trends.wanted(
        database, setup, values["metrics"], values["modes"], values["contexts"]
    )  # fmt: skip
    if not chosen:
        raise OptionError("history trend: expected a series of that choice, found none")
    latest = [e for e in found if e.setup == setup][-1]
    _write(chosen, values, f"{latest.machine}; set-up {setup[:8]}")
    if values["as_json"]:
        click.echo(json.dumps([_series_record(one) for one in chosen], indent=1))
    else:
        click.echo(f"{latest.machine}; set-up {setup}")
        for one in chosen:
            click.echo(_line(one))
    lost = [one for one in chosen if one.changes and one.changes[-1].effect < 0]
    return exits.REGRESSION if values["gate"] and lost else exits.OK


def _line(one: Series) -> str:
    from ds4bench.compare.trends import change_text, name_of, shown

    value, unit = shown(one.key.metric, one.points[-1].rate)
    changes = "; ".join(
        f"{change_text(one.key.metric, c)} from "
        f"{one.points[c.index].commit[:9] or 'unknown commit'} on"
        for c in one.changes
    )
    return (
        f"{name_of(one):36} {len(one.points):4} points, latest {value:10.2f} {unit:9} "
        f"{changes or 'level'}"
    )


def _series_record(one: Series) -> dict[str, Any]:
    from ds4bench.compare.trends import shown

    return {
        "metric": one.key.metric,
        "mode": one.key.mode,
        "ctx_tokens": one.key.ctx_tokens,
        "prefill_tokens": one.key.prefill_tokens,
        "unit": shown(one.key.metric, 1.0)[1],
        "points": [
            {"commit": p.commit, "at": p.at, "value": shown(one.key.metric, p.rate)[0]}
            for p in one.points
        ],
        "changes": [
            {"commit": one.points[c.index].commit, "effect": c.effect, "p_value": c.p_value}
            for c in one.changes
        ],
    }


def _write(chosen: list[Series], values: dict[str, Any], title: str) -> None:
    """The files that were asked for, earlier ones set aside."""
    from ds4bench.compare import trends
    from ds4bench.records.outputs import set_aside
    from engine.tooling.results.publish import publish_bytes

    contents: list[tuple[Path, bytes]] = []
    if values["plot"] is not None:
        from ds4bench.report import trends as drawing
        from engine.tooling.report import figures

        theme, path = "dark" if values["dark"] else "light", values["plot"]
        fig = drawing.figure(chosen, theme, title)
        kind = path.suffix.lower()[1:]
        contents.append((path, figures.render(fig, kind, theme, program="ds4-bench")))
    if values["bencher"] is not None:
        text = json.dumps(trends.bencher(chosen), indent=1, allow_nan=False) + "\n"
        contents.append((values["bencher"], text.encode()))
    if values["otava"] is not None:
        path = values["otava"]
        table, config = trends.otava(chosen, str(path))
        contents += [(path, table.encode()), (path.with_suffix(".yaml"), config.encode())]
    set_aside([path for path, _ in contents])
    for path, content in contents:
        publish_bytes(path, content)
        click.echo(f"wrote {path}", err=True)
