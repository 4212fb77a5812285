"""`ds4-bench gpu`: everything that a GPU can show about this project, in one command.

Makes a file of DeepSeek V4 Flash's full shape with as many layers as memory and time allow,
measures steps and kernels, sweeps all decode modes, and leaves files. Without a GPU it ends with
the reason before anything is made; `--predict` needs none.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import click

from ds4bench.commands.force import FORCE
from ds4bench.records.outputs import check_new, set_aside
from engine.errors import EngineError, OptionError
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.types import Whole
from engine.tooling.program import Command
from engine.tooling.results.publish import check_folder, publish_bytes
from engine.tooling.timeline.machines import MACHINES

LAYER_BYTES = 2_050_000_000  # one layer of the iq2 recipe, experts included
FIXED_BYTES = 1_700_000_000  # embedding and output matrix
BYTES_PER_S = 1.2e9  # making, reading and copying a file, end to end; slow machines set --layers
CONTEXTS = (2048, 65536)
STEPS = ("steps.json", "steps.md")
SWEEP = ("sweep/rows.jsonl", "sweep/sweep.csv", "sweep/sweep.parquet", "sweep.svg")


@click.command("gpu", cls=Command)
@option(
    "--predict",
    section="Prediction",
    type=click.Choice(sorted(MACHINES)),
    metavar="MACHINE",
    help="Measure nothing: print what the timeline model expects of a machine. Needs no GPU.",
)
@option(
    "-m",
    "--model",
    section="Model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="GGUF file.",
    default_text="one that this command generates",
)
@option(
    "--mtp",
    section="Model",
    type=click.Path(path_type=Path, dir_okay=False),
    help="GGUF file of the block that drafts tokens (multi-token prediction).",
    default_text="one that this command generates",
)
@option(
    "--layers",
    section="Model",
    type=Whole(1, 43),
    help="Layers of the generated file.",
    default_text="what fits",
)
@option(
    "--seconds",
    section="Model",
    type=Whole(60, 36000),
    default=420,
    help="Generate as many layers as can be measured in this time.",
)
@option(
    "--work",
    section="Model",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the generated file, best in memory.",
    default_text="that of --out",
)
@option(
    "--ctx-max",
    section="Sweep",
    type=Whole(2048, 1 << 20),
    default=65536,
    help="Last context length.",
)
@option("--skip-sweep", section="Sweep", is_flag=True, help="Measure steps and kernels only.")
@option(
    "--out",
    section="Results",
    type=click.Path(path_type=Path),
    default=Path("gpu"),
    metavar="DIR",
    help="Folder of the results.",
)
@FORCE
@kernel_options(backends=("cuda",)).only("device")
def gpu_command(
    predict: str | None,
    out: Path,
    force: bool,
    work: Path | None,
    model: Path | None,
    mtp: Path | None,
    layers: int | None,
    seconds: int,
    ctx_max: int,
    skip_sweep: bool,
    device: int | None,
) -> None:
    """Measure the CUDA backend at full size: steps, bytes, kernels, all decode modes."""
    if predict is not None:
        from engine.tooling.timeline.drafting import report_drafting
        from engine.tooling.timeline.predict import report

        click.echo(report(MACHINES[predict], ctx_max))
        click.echo(report_drafting(MACHINES[predict], ctx_max))
        return
    files = [out / name for name in (*STEPS, *(() if skip_sweep else SWEEP))]
    check_folder(out, "--out")
    if out.is_dir():
        there = [path for path in files if path.parent.is_dir()]
        check_new([("--out", path) for path in there], force=force)
    _run(out, work or out, model, mtp, layers, seconds, ctx_max, skip_sweep, device or 0)


def _say(text: str) -> None:
    click.echo(f"[{time.strftime('%H:%M:%SZ', time.gmtime())}] {text}", err=True)


def _run(
    out: Path,
    work: Path,
    model: Path | None,
    mtp: Path | None,
    layers: int | None,
    seconds: int,
    ctx_max: int,
    skip_sweep: bool,
    device: int,
) -> None:
    from engine.ops.cuda import device_facts
    from engine.tooling.diagnose.gpu_speed import measure
    from engine.tooling.results.publish import make_folder

    facts = device_facts(device)
    make_folder(out)
    made: list[Path] = []
    try:
        if model is None:
            model, mtp = _make(work, layers or _layers(facts, seconds), made)
        elif mtp is None and not skip_sweep:
            raise OptionError("--mtp: expected a file for the speculative modes, found none")
        contexts = [n for n in CONTEXTS if n <= ctx_max] or [ctx_max]
        set_aside(out / name for name in STEPS)

        def keep(result: dict[str, Any]) -> None:
            contents = (json.dumps(result, indent=1) + "\n", summary(result))
            for name, content in zip(STEPS, contents):
                publish_bytes(out / name, content.encode())

        result = measure(model, contexts, _say, keep, device=device)
        click.echo(summary(result))
        if not skip_sweep:
            _sweep(model, mtp, ctx_max, out, device)
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _layers(facts: dict[str, Any], seconds: int) -> int:
    """Layers whose file fits in half of the device's memory and a third of the time."""
    by_memory = (facts["memory_bytes"] // 2 - FIXED_BYTES) // LAYER_BYTES
    by_time = int((seconds / 3 * BYTES_PER_S - FIXED_BYTES) // LAYER_BYTES)
    return int(max(4, min(43, by_memory, by_time)))


def _make(work: Path, layers: int, made: list[Path]) -> tuple[Path, Path]:
    from engine.models.shapes import flash
    from engine.models.write import write_model
    from engine.tooling.results.publish import make_folder

    make_folder(work)
    shape = flash(layers)
    paths = work / f"{shape.name}.gguf", work / f"{shape.name}-mtp.gguf"
    for path, draft in zip(paths, (False, True)):
        start = time.perf_counter()
        made.append(path)
        written = write_model(path, shape, "iq2", 1, draft=draft, force=True, quick=True)
        _say(f"{path.name}: {written.n_bytes / 1e9:.1f} GB in {time.perf_counter() - start:.0f} s")
    return paths


def _sweep(model: Path, mtp: Path | None, ctx_max: int, out: Path, device: int) -> None:
    """The sweep in every mode by this program itself, as a user would type it."""
    import subprocess

    command = [sys.executable, "-m", "ds4bench.cli", "-m", str(model), "--backend", "cuda"]
    command += ["--device", str(device)]
    if mtp is not None:
        command += ["--mtp", str(mtp), "--mode", "all", "--mtp-draft", "2"]
    command += ["--ctx-start", "2048", "--ctx-max", str(ctx_max), "--step-mul", "2", "--force"]
    command += ["--out", str(out / "sweep"), "--plot", str(out / "sweep.svg")]
    _say("sweep: " + " ".join(command[3:]))
    code = subprocess.run(command).returncode
    if code:
        raise EngineError(f"sweep: expected exit status 0, found {code}; see {out / 'sweep'}")


def summary(result: dict[str, Any]) -> str:
    """Markdown: rates, bytes, shares of measured bandwidth, and a table of kernels per context."""
    facts, bandwidth = result["facts"], result["copy_bytes_per_s"]
    shape = facts["shape"]
    lines = [
        f"# {facts.get('device_name', 'CUDA device')}, {shape['n_layer']} layers",
        "",
        f"Copy bandwidth {bandwidth / 1e9:.0f} GB/s (read + written); "
        f"load {result['load_s']:.1f} s; launches {facts.get('launches')}.",
        "",
        "| context | prefill t/s | decode ms | t/s | GB/token | % of copy bandwidth "
        "| verify 3 rows / 1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in result["records"]:
        decode, chunks = r["decode_s"], r["prefill_s"]
        tokens = r["prefill_tokens"] / len(chunks) if chunks else 0
        rate = f"{tokens / chunks[-1]:.0f}" if chunks else ""
        share = r["decode_bytes"] / decode / bandwidth
        verify = r["verify_s"]
        lines.append(
            f"| {r['n_ctx']} | {rate} | {decode * 1e3:.3f} | {1 / decode:.1f} "
            f"| {r['decode_bytes'] / 1e9:.3f} | {share:.1%} | {verify[3] / verify[1]:.2f} |"
        )
    lines += _variants(result["variants"])
    for r in result["records"]:
        for name, found in r["passes"].items():
            lines += _kernels(r["n_ctx"], name, found)
    return "\n".join(lines) + "\n"


def _variants(records: list[dict[str, Any]]) -> list[str]:
    """A table of each step of decoding with and without it."""
    if not records:
        return []
    lines = ["", "| step | ms with | ms without | same bits |", "|---|---|---|---|"]
    for record in records:
        with_s, without_s = (statistics.median(record[arm]) for arm in ("with_s", "without_s"))
        same = "yes" if record["same_bits"] else "NO"
        lines.append(f"| {record['step']} | {with_s * 1e3:.3f} | {without_s * 1e3:.3f} | {same} |")
    return lines


def _kernels(n_ctx: int, name: str, found: dict[str, Any]) -> list[str]:
    """A table of a pass by kernel, the longest first; steps.json has its launches in order."""
    sums: dict[str, list[float]] = {}
    for launch in found["launches"]:
        row = sums.setdefault(launch["kernel"], [0, 0.0, 0])
        row[0] += 1
        row[1] += launch["seconds"]
        row[2] += launch["weight_bytes"]
    total = sum(row[1] for row in sums.values())
    title = f"## {n_ctx} tokens, pass {name} at position {found['pos0']}"
    lines = ["", f"{title}: {total * 1e3:.3f} ms by events", ""]
    lines += ["| kernel | launches | ms | GB | GB/s |", "|---|---|---|---|---|"]
    for kernel, (n, seconds, size) in sorted(sums.items(), key=lambda row: -row[1][1])[:24]:
        rate = f"| {size / 1e9:.3f} | {size / seconds / 1e9:.0f} |" if size and seconds else "| | |"
        lines.append(f"| {kernel} | {n} | {seconds * 1e3:.3f} {rate}")
    return lines
