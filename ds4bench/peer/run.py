"""`ds4-bench peer`: our engine and llama.cpp side by side on the same file and token ids.

Each engine runs in a process of its own; here they are opened, and what they took is shown and
kept. Without a model file the command makes one of middle size and keeps it in the user's cache.
"""

from __future__ import annotations

from pathlib import Path

import click
import platformdirs

from ds4bench.peer import ours, table, theirs
from ds4bench.peer.llamacpp import require_llama_cpp
from ds4bench.peer.measure import PeerRow, compare, to_csv
from ds4bench.peer.side import Process
from ds4bench.telemetry.roofline import read_bandwidth
from engine import models
from engine.errors import ContextError, OptionError, StoreError
from engine.models.shapes import mid
from engine.models.write import write_model
from engine.options import ACTIVATIONS
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.types import Whole
from engine.tooling.program import Command
from engine.tooling.results.environment import sources_sha256
from engine.tooling.results.publish import check_output, publish_bytes

BUSY = 0.1  # part of the cores used by others above which ratios are called unreliable
RECIPE, SEED = "iq2", 1  # of the model that is made where none is named
# What makes the worker of each side's process.
OURS, THEIRS = f"{ours.__name__}:open_worker", f"{theirs.__name__}:open_worker"


def parse_contexts(text: str) -> list[int]:
    """Comma-separated positive token counts, in rising order without repeats.

    Raises
    ------
    OptionError
        If one of them is not a positive whole number.
    """
    contexts = set()
    for item in text.split(","):
        if not (item.strip().isascii() and item.strip().isdigit() and int(item)):
            raise OptionError(f"--contexts: expected positive whole numbers, found {item!r}")
        contexts.add(int(item))
    return sorted(contexts)


def middle_model(folder: Path | None = None) -> Path:
    """The model of middle size, made in the user's cache unless it is there already.

    Its name holds a hash of the code that makes it, so that another version makes its own.

    Raises
    ------
    StoreError
        If the cache cannot be written.
    """
    folder = folder or Path(platformdirs.user_cache_dir("ds4bench")) / "models"
    sources = Path(models.__file__).parent
    version = sources_sha256(sorted(sources.glob("*.py")), sources)[:8]
    path = folder / f"mid-{RECIPE}-{version}.gguf"
    if path.exists():
        click.echo(f"model: {path}, made earlier", err=True)
        return path
    click.echo(f"model: none named; making one of middle size once, {path}", err=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder}: expected to make the folder, found {error.strerror}"
        ) from error
    write_model(path, mid(), RECIPE, SEED)
    return path


@click.command("peer", cls=Command)
@option(
    "-m",
    "--model",
    section="Model",
    type=click.Path(path_type=Path),
    help="GGUF file that both engines open.",
    default_text="one of middle size, made once",
)
@kernel_options(backends=("cpu", "cuda")).only("threads", "activations", "kv")
@option("--contexts", section="Measuring", default="512,2048,8192", help="Prompt lengths, tokens.")
@option("--gen", section="Measuring", type=Whole(1, 65536), default=64, help="Tokens to decode.")
@option(
    "--repeats",
    section="Measuring",
    type=Whole(1, 1000),
    default=5,
    help="Fresh timelines at each context; five enclose a median with 94 %.",
)
@option(
    "--csv",
    "csv_path",
    section="Results",
    type=click.Path(path_type=Path),
    help="Write raw rows to this file.",
)
def peer_command(
    model: Path | None,
    threads: int | None,
    activations: str | None,
    kv: str,
    contexts: str,
    gen: int,
    repeats: int,
    csv_path: Path | None,
) -> None:
    """Compare speed with llama.cpp: same file, token ids and threads, in turns within one run.

    Needs llama-cpp-python (pip install 'ds4bench[peer]'). Each engine runs in a process of its
    own. Token ids are random and decoded tokens are given, so both engines do the same work.
    Ratios are taken within each repeat. "of memory" is the part of the read bandwidth, measured
    just before, that our decode reaches; "top-1" counts decoded tokens after which both engines'
    most likely token agreed.
    """
    activations = activations or ACTIVATIONS[0]
    lengths = parse_contexts(contexts)
    if csv_path is not None:
        if csv_path.exists():
            raise OptionError(f"--csv: expected a new file, found {str(csv_path)!r}")
        check_output(csv_path, "--csv", replace=True)
    require_llama_cpp()
    if model is None:
        model = middle_model()
    sides = Process(OURS, ours.NAME), Process(THEIRS, theirs.NAME)
    try:
        first = sides[0].open(model, threads, activations, kv)
        most = first.n_ctx_most
        if most is not None and lengths[-1] + gen > most:
            raise ContextError(
                f"--contexts: expected at most {most - gen} tokens for this model, "
                f"found {lengths[-1]}"
            )
        sides[1].open(model, first.threads, activations, kv)
        _compare(sides, lengths, gen, repeats, csv_path)
    finally:
        for side in sides:
            side.close()


def _compare(
    sides: tuple[Process, Process],
    lengths: list[int],
    gen: int,
    repeats: int,
    csv_path: Path | None,
) -> None:
    """Measure, show a context when it is done, and keep the rows after each repeat."""
    for side in sides:
        said = side.opened
        click.echo(f"{said.name}: {said.threads} threads, {', '.join(said.notes)}")
    click.echo(table.legend(repeats))
    click.echo(table.header(*(side.name for side in sides)))

    def done(rows: list[PeerRow], last: bool) -> None:
        # After every repeat, so that a later failure loses nothing.
        if csv_path is not None:
            publish_bytes(csv_path, to_csv(rows))
        if rows[-1].others_cpu > BUSY:
            click.echo(
                f"warning: other processes used {100 * rows[-1].others_cpu:.0f} % of the "
                "cores; llama.cpp spins at barriers and suffers most: a flattering ratio",
                err=True,
            )
        if last:
            for line in table.lines(rows, rows[-1].ctx_tokens):
                click.echo(line)

    n_threads = sides[0].threads
    compare(
        sides,
        sides[0].opened.n_vocab,
        lengths,
        gen,
        repeats,
        lambda: read_bandwidth(n_threads),
        done,
    )
