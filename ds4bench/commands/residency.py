"""`ds4-bench residency`: which weights a CUDA device copies, and which it reads from the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from engine.options import RESIDENCY
from engine.tooling.diagnose.residency import DEFAULT_CTX
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.model import MODEL, default_model
from engine.tooling.options.speculation import drafters, spec_options
from engine.tooling.options.types import OneOf, Whole
from engine.tooling.program import Command
from engine.weights.residency import gib

MACHINES = ("gb10", "h200", "h100", "present")
NEEDS = (("mapped_bytes", "mapped"), ("copied_bytes", "copied"), ("context_bytes", "of context"))
HEADINGS = ("kind", "tensors", "size", "copied", "mapped")


@click.command("residency", cls=Command)
@MODEL.only("model")
@spec_options(several=True).only("mtp", "draft_model")
@kernel_options(backends=("cpu", "cuda")).only("residency", "residency_gib")
@option(
    "--machine",
    type=OneOf(MACHINES),
    default="present",
    help="Whose memory to plan for; present means the CUDA device of this machine.",
)
@option(
    "-c",
    "--ctx",
    type=Whole(1, 2**31 - 1),
    default=DEFAULT_CTX,
    help="Tokens of context that are to fit beside the weights.",
)
@option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
def residency_command(
    model: Path | None,
    mtp: Path | None,
    draft_model: Path | None,
    residency: str | None,
    residency_gib: float | None,
    machine: str,
    ctx: int,
    as_json: bool,
) -> None:
    """Print the plan for weights in device memory; reads headers only.

    DS4_CUDA_NO_HBM_CACHE, DS4_CUDA_WEIGHT_CACHE_LIMIT_GB, DS4_CUDA_CACHE_ALL_TENSORS and
    DS4_CUDA_DIRECT_MODEL count as they do when a model is opened.
    """
    from engine.tooling.diagnose.residency import planned

    if model is None:
        model = default_model(lambda line: click.echo(line, err=True))
    found = drafters((), mtp, draft_model, None, None, every=True)
    facts = planned(
        model,
        found.mtp,
        machine,
        residency or RESIDENCY[0],
        residency_gib,
        ctx=ctx,
        dspark=found.dspark,
    )
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    from rich.console import Console

    print_plan(facts, Console(highlight=False))


def cells_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """One table row under `HEADINGS`."""
    sizes = (gib(entry[name]) for name in ("bytes", "copied", "mapped"))
    return (entry["kind"], str(entry["tensors"]), *sizes)


def print_plan(facts: dict[str, Any], console: Any) -> None:
    """The plan for people."""
    from rich.table import Table
    from rich.text import Text

    memory = "shared with the processor" if facts["unified"] else "of its own"
    how = "" if facts["route"] == "none" else f", the rest {facts['route']}"
    console.print(
        Text(
            f"{facts['machine']}: {gib(facts['device_bytes'])} of memory {memory}; "
            f"{facts['mode']}, {gib(facts['copied_bytes'])} copied{how}"
        ),
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, show_edge=False)
    for place, name in enumerate(HEADINGS):
        table.add_column(name, justify="right" if place else "left")
    total: dict[str, Any] = {"kind": "all"}
    for name in ("tensors", "bytes", "copied", "mapped"):
        total[name] = sum(entry[name] for entry in facts["kinds"])
    for entry in [*facts["kinds"], total]:
        table.add_row(*map(Text, cells_of(entry)))
    console.print(table)
    runs = f"{facts['copied_runs']} runs copied, {facts['mapped_runs']} runs mapped"
    console.print(Text(f"budget {gib(facts['budget_bytes'])}; {runs}"), soft_wrap=True)
    for reason in facts["reasons"]:
        console.print(Text(f"  {reason}"), soft_wrap=True)
    needs = (f"{gib(facts[key])} {word}" for key, word in NEEDS)
    host = f"{gib(facts['host_bytes'])} of host memory"
    console.print(Text(f"{', '.join(needs)}; {host}"), soft_wrap=True)
    if facts["warning"]:
        console.print(Text(facts["warning"]), soft_wrap=True)
