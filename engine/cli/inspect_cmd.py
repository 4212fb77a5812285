"""`ds4 inspect`: what a model file holds, whether it fits together, what a decoded token reads."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from engine.errors import ModelFileError, OptionError
from engine.options import BACKENDS
from engine.tooling.options.group import option
from engine.tooling.options.types import OneOf
from engine.tooling.program import Command

if TYPE_CHECKING:
    from engine.gguf.reader import GGUFFile
    from engine.shape import Shape
    from engine.weights.bind import TrunkWeights
    from engine.weights.tensor import Tensor

CONTEXTS = (2048, 8192, 32_768, 65_536)
LONG_ARRAY = 16  # elements printed of a longer array: the first eight
LONG_TEXT = 120
MAX_PROBLEMS = 20  # printed; JSON holds all


@click.command("inspect", cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@option("--tensors", is_flag=True, help="List every tensor, not only totals per type.")
@option("--sha256", "hash_file", is_flag=True, help="Hash the whole file too.")
@option("--backend", type=OneOf(BACKENDS), default="cpu", help="What is to run the model.")
@option("--trunk", type=click.Path(path_type=Path), help="MODEL is a drafter for this trunk.")
@option("--draft-model", type=click.Path(path_type=Path), help="Drafter for MODEL, MTP or DSpark.")
@option(
    "--draft-force",
    is_flag=True,
    help="Take a DSpark drafter that states another checkpoint than the model.",
)
def inspect_command(
    model: Path,
    as_json: bool,
    tensors: bool,
    hash_file: bool,
    backend: str,
    trunk: Path | None,
    draft_model: Path | None,
    draft_force: bool,
) -> int:
    """Show metadata, shape, tensor types and bytes read per decoded token of a GGUF file.

    The exit status is 0 for a model that --backend runs, or an MTP block that fits together; 3 for
    anything else. With --trunk or --draft-model the two must open together, too. Values are not
    looked at: a model is opened to scan them.
    """
    if trunk is not None and draft_model is not None:
        raise OptionError("--trunk: expected without --draft-model, found both")
    if draft_force and trunk is None and draft_model is None:
        raise OptionError("--draft-force: expected --trunk or --draft-model, found neither")
    from engine.cli.inspect_pair import pair_part
    from engine.gguf.reader import open_gguf

    with open_gguf(model) as file:
        report = build_report(file, tensors, hash_file, backend)
    if trunk is not None or draft_model is not None:
        pair = pair_part(trunk or model, draft_model or model, backend, draft_force)
        report["pair"] = pair
        report["problems"] += [p for p in pair["problems"] if p not in report["problems"]]
    if as_json:
        click.echo(json.dumps(report, indent=2, allow_nan=False))
    else:
        _print(report)
    return ModelFileError.exit_code if report["problems"] else 0


def build_report(
    file: Any, tensors: bool = False, hash_file: bool = False, backend: str = "cpu"
) -> dict[str, Any]:
    """Everything that the command shows, as plain data; strings are not escaped.

    Parameters
    ----------
    file : GGUFFile
    tensors : bool
        With a row for every tensor.
    hash_file : bool
        With the SHA-256 of the whole file.
    backend : {'cpu', 'cuda', 'reference'}
        Whose reasons not to run the file are problems.

    Raises
    ------
    GGUFError
        If the file changed while it was hashed.
    """
    identity = file.identity
    report: dict[str, Any] = {
        "path": str(file.path),
        "gguf_version": file.version,
        "size_bytes": identity.size,
        "parts": len(identity.parts) or 1,
        "header_sha256": identity.header_sha256,
        "sampled_sha256": identity.sampled_sha256(),
        "metadata": {
            key: {"type": file.metadata.types[key], "value": summary(value)}
            for key, value in file.metadata.items()
        },
        "tensor_types": _tensor_types(file),
        **_model_part(file, backend),
    }
    if hash_file:
        report["sha256"] = identity.sha256()
    if tensors:
        report["tensors"] = [
            {"name": t.name, "type": t.format.name, "shape": list(t.shape), "bytes": t.n_bytes}
            for t in file.tensors.values()
        ]
    return report


def summary(value: Any) -> Any:
    """A metadata value as JSON can hold it; long arrays as their length and first elements."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (bool, int, float, str)):
        return value
    first = [summary(v.item() if isinstance(v, np.generic) else v) for v in value[:8]]
    if len(value) > LONG_ARRAY:
        return {"length": len(value), "first": first}
    return first + [summary(v.item() if isinstance(v, np.generic) else v) for v in value[8:]]


def _tensor_types(file: Any) -> list[dict[str, Any]]:
    totals: dict[str, list[int]] = {}
    for tensor in file.tensors.values():
        total = totals.setdefault(tensor.format.name, [0, 0])
        total[0] += 1
        total[1] += tensor.n_bytes
    return [{"type": k, "tensors": n, "bytes": b} for k, (n, b) in totals.items()]


def _model_part(file: GGUFFile, backend: str) -> dict[str, Any]:
    """Kind of file, shape, what keeps it from running, traffic and memory."""
    from engine.weights import bind, foreign, metadata

    part: dict[str, Any] = {
        "kind": "unknown", "shape": None, "problems": [], "notices": foreign.notices(file),
        "backends": {}, "tokenizer": None, "bytes_per_token": [], "memory": [], "machine": None,
    }  # fmt: skip
    try:
        foreign.check_known(file)
        if bind.holds_only_dspark(file):
            part["kind"] = "dspark"
            _dspark_part(file, part)
        elif metadata.is_mtp_file(file):
            part["kind"] = "mtp"
            _mtp_part(file, part)
        else:
            _trunk_part(file, part)
    except ModelFileError as error:
        part["problems"].append(str(error))
    part["problems"] += part["backends"].get(backend, [])
    return part


def _dspark_part(file: GGUFFile, part: dict[str, Any]) -> None:
    """Check a DSpark drafter to its last tensor, against what it shows of its trunk."""
    from engine.weights.dspark.bind import bind_dspark
    from engine.weights.dspark.shown import shown_shape

    shape = shown_shape(file)
    bound = bind_dspark(file, shape)
    part["drafter"] = {**dataclasses.asdict(bound.spark), "layout": bound.layout}
    part["backends"] = _backends(shape, bound.tensors, "f32")


def _mtp_part(file: GGUFFile, part: dict[str, Any]) -> None:
    """Check a draft block to its last tensor, against the trunk's shape as far as it tells it."""
    from engine.weights import bind, metadata, mtp_shape

    if metadata.has_antirez_mtp(file):
        shape = mtp_shape.mtp_shape(file)
    else:
        shape = metadata.shape_from_metadata(file)
        part["shape"] = dataclasses.asdict(shape)
    block = bind.bind_mtp(file, shape)
    # How rows of keys and values are stored is the trunk's business: 'f32' asks nothing of it.
    part["backends"] = _backends(shape, list(bind.iter_tensors(block)), "f32")


def _trunk_part(file: GGUFFile, part: dict[str, Any]) -> None:
    """Check all that opening a trunk checks, and fill in what it costs to run."""
    from engine.weights import bind, metadata, traffic

    shape = metadata.shape_from_metadata(file)
    part["kind"] = "trunk"
    part["shape"] = dataclasses.asdict(shape)
    part["problems"] += [str(m) for m in bind.trunk_mismatches(file, shape)]
    if part["problems"]:
        return
    _, weights = bind.bind_trunk(file)
    part["backends"] = _backends(shape, list(bind.iter_tensors(weights)))
    contexts = [n for n in CONTEXTS if n <= shape.n_ctx_train] or [shape.n_ctx_train]
    for n_ctx in contexts:
        row = traffic.decode_traffic(shape, weights, n_ctx)
        parts = {f.name: round(getattr(row, f.name)) for f in dataclasses.fields(row)}
        part["bytes_per_token"].append({"n_ctx": n_ctx, "total": round(row.total), **parts})
        part["memory"].append({"n_ctx": n_ctx, **_memory(file, shape, weights, n_ctx)})
    part["machine"] = _machine(part["memory"][0])
    part["tokenizer"] = _tokenizer(file)


def _backends(shape: Shape, tensors: list[Tensor], kv: str = "official") -> dict[str, list[str]]:
    """What keeps each kernel set from running the file; nothing for one that runs it."""
    from engine.options import BACKENDS
    from engine.weights.support import unsupported

    found = {backend: unsupported(shape, tensors, backend, kv) for backend in BACKENDS}
    needed, memory = sum(8 * math.prod(t.shape) for t in tensors), _memory_bytes()
    if needed > memory:
        found["reference"].append(
            f"weights: expected at most this machine's {memory / 2**30:.1f} GiB with --backend "
            f"reference (float64), found {needed / 2**30:.1f} GiB"
        )
    return found


def _tokenizer(file: GGUFFile) -> dict[str, Any]:
    """The file's tokenizer, built with all its merges.

    Raises
    ------
    LayoutError
        If the vocabulary is missing or malformed.
    """
    from engine.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_metadata(file.metadata)
    tokenizer.encode("a")  # merges are compiled, and so checked, on first use
    return {
        "tokens": tokenizer.n_vocab,
        "control_tokens": len(tokenizer.special_ids),
        "bos": tokenizer.bos_id,
        "ends_a_reply": sorted(tokenizer.eos_ids),
        "chat_template": tokenizer.chat_template is not None,
    }


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _machine(memory: dict[str, int]) -> dict[str, int | bool]:
    """Whether this machine's memory holds the file's pages and a session beside them."""
    total = _memory_bytes()
    needed = sum(n for name, n in memory.items() if name != "n_ctx")
    return {"memory_bytes": total, "needed_bytes": needed, "holds": needed <= total}


def _memory(file: GGUFFile, shape: Shape, trunk: TrunkWeights, n_ctx: int) -> dict[str, int]:
    """Bytes by purpose for a session on the CPU without repacked weights and drafting."""
    from engine.memory import plan_memory
    from engine.options import EngineOptions
    from engine.weights.files import ModelFiles, ModelWeights

    files = ModelFiles(file, None, ModelWeights(shape, trunk))
    plan = plan_memory(files, EngineOptions(file.path, repack="off"), n_ctx)
    return {
        "mapped": plan.mapped,
        "weights": plan.weights,
        "context": plan.context,
        "activations": plan.activations,
        "working": plan.working,
    }


def _print(report: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    lines = [
        ("file", report["path"]),
        ("kind", report["kind"]),
        ("GGUF version", report["gguf_version"]),
        ("size", _bytes(report["size_bytes"])),
        ("parts", report["parts"]),
        ("header SHA-256", report["header_sha256"]),
        ("identity", report["sampled_sha256"]),
    ]
    if "sha256" in report:
        lines.append(("file SHA-256", report["sha256"]))
    _table(console, "File", (), lines)
    metadata = [(k, v["type"], _words(v["value"])) for k, v in report["metadata"].items()]
    _table(console, "Metadata", ("key", "type", "value"), metadata)
    if report["shape"] is not None:
        shape = [(key, _words(value)) for key, value in report["shape"].items()]
        _table(console, "Shape", ("dimension", "value"), shape)
    types = [(t["type"], t["tensors"], _bytes(t["bytes"])) for t in report["tensor_types"]]
    _table(console, "Tensor types", ("type", "tensors", "bytes"), types)
    if "tensors" in report:
        listed = [(t["name"], t["type"], t["shape"], t["bytes"]) for t in report["tensors"]]
        _table(console, "Tensors", ("name", "type", "shape", "bytes"), listed)
    if report["tokenizer"] is not None:
        words = [(key, _words(value)) for key, value in report["tokenizer"].items()]
        _table(console, "Tokenizer", ("of the vocabulary", "value"), words)
    if report["bytes_per_token"]:
        columns = tuple(report["bytes_per_token"][0])
        rows = [
            (f"{row['n_ctx']:,}", *(f"{row[c] / 1e6:,.3f}" for c in columns[1:]))
            for row in report["bytes_per_token"]
        ]
        _table(console, "Read per decoded token, MB (cached rows as float32)", columns, rows)
    if report["memory"]:
        columns = tuple(report["memory"][0])
        rows = [
            (f"{row['n_ctx']:,}", *(f"{row[c] / 2**20:,.2f}" for c in columns[1:]))
            for row in report["memory"]
        ]
        title = (
            "Memory of a session, MiB (cpu backend; a repacked copy of the weights comes on top)"
        )
        _table(console, title, columns, rows)
    _print_verdict(report)


def _print_verdict(report: dict[str, Any]) -> None:
    """What of the file is not used, which backend runs it, and what is wrong with it."""
    from engine.gguf.values import escape

    machine = report["machine"]
    if machine is not None:
        told = "" if machine["holds"] else ", so that it reads parts of the file again and again"
        click.echo(
            f"memory: the file and a short session take {_bytes(machine['needed_bytes'])} bytes; "
            f"this machine has {_bytes(machine['memory_bytes'])}{told}"
        )
    for backend, reasons in report["backends"].items():
        click.echo(f"{backend}: " + (escape("; ".join(reasons)) or "runs this file"))
    for notice in report["notices"]:
        click.echo(f"notice: {escape(notice)}")
    if "pair" in report:
        from engine.cli.inspect_pair import pair_lines

        for line in pair_lines(report["pair"]):
            click.echo(escape(line))
    problems = report["problems"]
    for problem in problems[:MAX_PROBLEMS]:
        click.echo(f"problem: {escape(problem)}")
    if len(problems) > MAX_PROBLEMS:
        click.echo(f"... and {len(problems) - MAX_PROBLEMS} more")


def _table(console: Any, title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
    """A rich table on a terminal; aligned columns of plain text elsewhere."""
    from rich.table import Table
    from rich.text import Text

    from engine.gguf.values import escape

    cells = [tuple(escape(str(cell)) for cell in row) for row in rows]
    if console.is_terminal:
        table = Table(title=title, title_justify="left", show_header=bool(columns))
        for column in columns or ("", ""):
            table.add_column(column, overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        return
    click.echo(title)
    lines = [columns, *cells] if columns else cells
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        click.echo("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip())
    click.echo()


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['length']} elements: {', '.join(map(_words, value['first']))}, ..."
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONG_TEXT else text[: LONG_TEXT - 3] + "..."


def _bytes(n: int) -> str:
    return f"{n:,} ({n / 2**30:.3f} GiB)" if n >= 2**27 else f"{n:,}"
