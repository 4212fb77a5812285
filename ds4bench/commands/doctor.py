"""`ds4-bench doctor`: what figures of a machine depend on, a verdict for each, and what to do."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click

from ds4bench.commands.force import FORCE
from engine.errors import EngineError, OptionError
from engine.tooling import exits
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.model import DEFAULT_MODEL, MODEL, default_model
from engine.tooling.options.types import Number, OneOf
from engine.tooling.program import Command

if TYPE_CHECKING:
    from ds4bench.doctor.facts import Facts
    from ds4bench.doctor.judge import Finding

MOST_BYTES = 4 << 20  # of a file of facts
# Those of `ds4bench.doctor.known`; help must not import it.
MACHINES = (
    *("gb10", "h100", "h200", "b200", "rtx-pro-6000", "ai-max-395"),
    *("m1-max", "m1-ultra", "m2-max", "m2-ultra", "m3-max", "m3-ultra", "m4-max"),
)
STYLES = {"good": "green", "not known": "dim", "suspect": "yellow", "unfit": "bold red"}


@click.command("doctor", cls=Command)
@MODEL.only("model", "nano")
@kernel_options(backends=("cpu", "cuda")).only("backend", "threads", "device")
@option(
    "--seconds",
    section="Load",
    type=Number(0),
    default=60.0,
    help="Length of the load under which clocks, temperature and memory are watched; 0: none.",
)
@option(
    "--machine",
    section="Judging",
    type=OneOf(MACHINES),
    help="Expect what is known of this kind of machine.",
    default_text="told by the names of its parts",
)
@option(
    "--facts",
    "facts_file",
    section="Judging",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Judge facts that --json printed, or those of a sweep's folder, instead of reading any.",
)
@option("--json", "as_json", section="Output", is_flag=True, help="Print facts and verdicts.")
@option(
    "-o",
    "--record",
    "record_file",
    section="Output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write facts and verdicts to this JSON file too.",
)
@FORCE
def doctor_command(
    model: Path | None,
    nano: str | None,
    backend: str,
    threads: int | None,
    device: int | None,
    seconds: float,
    machine: str | None,
    facts_file: Path | None,
    as_json: bool,
    record_file: Path | None,
    force: bool,
) -> int:
    """Read and judge what a figure depends on: firmware, limits, clocks, memory, heat, other work.

    Each line is good, suspect or unfit, with what to do; an unfit machine ends with status 8.
    Every sweep stores the same facts, and `ds4-bench compare` asks for them.
    """
    from ds4bench.doctor.judge import Verdict, judge, worst
    from ds4bench.records.outputs import check_new, set_aside
    from engine.tooling.results.publish import publish_bytes

    check_new([("--record", record_file)], force=force)
    if facts_file is not None:
        facts = load_facts(facts_file)
    else:
        if model is None and (nano is not None or DEFAULT_MODEL.exists()):
            model = default_model(lambda line: click.echo(line, err=True), nano)
        if model is not None and not model.is_file():
            raise OptionError(f"-m: expected a file, found none at {str(model)!r}")
        facts = examined(model, seconds, backend, threads, device or 0)
    findings = judge(facts, machine)
    record = to_record(facts, findings, str(worst(findings)))
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    if record_file is not None:
        set_aside([record_file])
        publish_bytes(record_file, text.encode())
    click.echo(text if as_json else "", nl=False)
    if not as_json:
        show(findings, str(worst(findings)))
    return exits.INCOMPARABLE if worst(findings) is Verdict.UNFIT else exits.OK


def to_record(facts: Facts, findings: Sequence[Finding], verdict: str) -> dict[str, Any]:
    """What --json prints and --facts reads."""
    from ds4bench.doctor.facts import SCHEMA, VERSION

    return {
        "schema": SCHEMA,
        "version": VERSION,
        "at": time.time(),
        "verdict": verdict,
        "findings": [finding.to_record() for finding in findings],
        "facts": facts.to_record(),
    }


def load_facts(path: Path) -> Facts:
    """Facts that --json printed, or those that a sweep stored.

    Raises
    ------
    EngineError
        If it is neither.
    """
    from ds4bench.doctor.facts import SCHEMA, VERSION, Facts
    from ds4bench.records.files import read_rows
    from engine.files.regular import open_regular
    from engine.tooling.results.journal import is_journal
    from engine.tooling.results.typed import read_object

    source = path / "rows.jsonl" if path.is_dir() else path
    with open_regular(source, error=EngineError) as file:
        head = file.read(10) or b""
    if head[:4] == b"PAR1" or is_journal(head):
        record = read_rows(source).environment.get("doctor")
        if not isinstance(record, dict):
            raise EngineError(f"{path}: expected a sweep with the doctor's facts, found none in it")
        return Facts.from_record(object_in(record, "facts", path), str(path))
    record = read_object(source, MOST_BYTES, EngineError)
    if record.get("schema") != SCHEMA:
        raise EngineError(f"{path}: expected schema {SCHEMA!r}, found another file")
    if record.get("version") != VERSION:
        raise EngineError(f"{path}: expected version {VERSION}, found {record.get('version')!r}")
    return Facts.from_record(object_in(record, "facts", path), str(path))


def object_in(record: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    """An object that a record may lack."""
    found = record.get(name, {})
    if not isinstance(found, dict):
        raise EngineError(f"{path}: {name}: expected an object, found {type(found).__name__}")
    return found


def examined(
    model: Path | None, seconds: float, backend: str, threads: int | None, ordinal: int
) -> Facts:
    """This machine's facts, with a load of some seconds."""
    from ds4bench.doctor import probe
    from ds4bench.telemetry.nvml import Gpu
    from engine.tooling.results.environment import usable_cores

    gpu = Gpu(ordinal=ordinal)
    busy = probe.busy_pct()
    facts = probe.read_facts(gpu, model)
    facts = replace(facts, load=replace(facts.load, busy_pct=busy))
    if backend == "cuda" and facts.device is None:
        raise OptionError("--backend: expected a GPU that NVML shows, found none")
    if seconds <= 0:
        return facts if backend == "cuda" else replace(facts, device=None)
    click.echo(f"loading memory for {seconds:g} s; --seconds 0 only reads", err=True)
    if backend == "cuda":
        return device_under_load(facts, gpu, seconds, ordinal)
    threads = threads or usable_cores()
    stretch = probe.Stretch(seconds, probe.read_passes(threads))
    clocks = stretch.clocks
    return replace(
        facts,
        device=None,
        processor=replace(facts.processor, loaded_mhz=fmean(clocks) if clocks else None),
        memory=replace(facts.memory, threads=threads, rates=tuple(stretch.rates)),
        warming=stretch.warming,
    )


def device_under_load(facts: Facts, gpu: Any, seconds: float, ordinal: int) -> Facts:
    """The same facts with what a device shows while it copies within its memory."""
    from ds4bench.doctor import probe
    from engine.ops.cuda import open_ops
    from engine.options import EngineOptions
    from engine.tooling.diagnose.gpu_speed import copy_bandwidth

    ops = open_ops(EngineOptions(path=DEFAULT_MODEL, backend="cuda", device=ordinal))
    stretch = probe.Stretch(seconds, lambda: [copy_bandwidth(ops, repeats=40)], gpu)
    assert facts.device is not None
    return replace(
        facts,
        device=replace(
            facts.device,
            loaded_sm_mhz=stretch.over("sm_mhz"),
            loaded_power_w=stretch.over("power_w"),
            temp_c=stretch.over("temp_c"),
            throttle=stretch.throttle,
            memory_rates=tuple(stretch.rates),
        ),
        warming=stretch.warming,
    )


def show(findings: Sequence[Finding], verdict: str) -> None:
    """The table for people: a line each, what to do under it."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    for finding in findings:
        word = str(finding.verdict)
        line = Text(f"{word:9} ", style=STYLES[word])
        line.append(f"{finding.name:19} ", style="bold")
        line.append(finding.found, style="default")
        console.print(line)
        detail = [f"expected {finding.expected}"] if finding.expected else []
        detail += [finding.advice] if finding.advice else []
        detail += [f"source: {finding.source}"] if finding.source else []
        for text in detail:
            console.print(Padding(Text(text, style="dim"), (0, 0, 0, 30), expand=False))
    console.print(Text(f"this machine: {verdict}", style=STYLES[verdict]))
