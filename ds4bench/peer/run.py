"""`ds4-bench peer`: our engine and llama.cpp side by side on the same file and token ids.

Without a model file the command makes one of middle size and keeps it in the user's cache.
"""

from __future__ import annotations

from pathlib import Path

import click
import platformdirs

from ds4bench.peer.llamacpp import LlamaCpp, require_llama_cpp
from ds4bench.peer.measure import CHUNK, PeerRow, compare, to_csv
from ds4bench.telemetry.roofline import read_bandwidth
from engine import models
from engine.engine import Engine, open_engine
from engine.errors import ContextError, OptionError, StoreError
from engine.models.shapes import mid
from engine.models.write import write_model
from engine.options import ACTIVATIONS, EngineOptions
from engine.session import Session
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.types import Whole
from engine.tooling.program import Command
from engine.tooling.results.environment import sources_sha256
from engine.tooling.results.publish import check_output, publish_bytes
from engine.weights.bind import bind_trunk
from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic

BUSY = 0.1  # part of the cores used by others above which ratios are called unreliable
RECIPE, SEED = "iq2", 1  # of the model that is made where none is named


class Ours:
    """Our engine as a `PeerEngine`."""

    name = "ds4"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session: Session | None = None
        self._ids: list[int] = []

    @property
    def _live(self) -> Session:
        assert self._session is not None, "start was not called"
        return self._session

    def start(self, n_ctx: int) -> None:
        self._session = None  # its rows go before the new ones come
        self._session = self._engine.session(n_ctx)
        self._ids = []

    def prefill(self, ids: list[int]) -> None:
        self._ids += ids
        self._live.sync(self._ids)

    def decode(self, token: int) -> None:
        self._live.eval(token)
        self._ids.append(token)

    def top(self) -> int:
        return int(self._live.logits.argmax())

    def close(self) -> None:
        self._session = None
        self._engine.close()


def _line(ours: PeerRow, theirs: PeerRow) -> str:
    share = ours.bandwidth_share
    return (
        f"{ours.ctx_tokens:>8} {ours.prefill_tps:>9.1f} {theirs.prefill_tps:>9.1f} "
        f"{ours.prefill_tps / theirs.prefill_tps:>6.2f}x {ours.decode_tps:>9.2f} "
        f"{theirs.decode_tps:>9.2f} {ours.decode_tps / theirs.decode_tps:>6.2f}x "
        f"{'' if share is None else f'{100 * share:.0f} %':>10} "
        f"{ours.top1_equal:>5}/{ours.gen_tokens}"
    )


HEADER = (
    f"{'context':>8} {'prefill':>9} {'llama.cpp':>9} {'ratio':>7} {'decode':>9} "
    f"{'llama.cpp':>9} {'ratio':>7} {'of memory':>10} {'top-1':>7}"
)


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
    csv_path: Path | None,
) -> None:
    """Compare speed with llama.cpp: same file, token ids and threads, in turns within one run.

    Needs llama-cpp-python (pip install 'ds4bench[peer]'). Token ids are random and decoded tokens
    are given, so both engines do the same work. "of memory" is the part of this machine's
    measured read bandwidth that our decode reaches; "top-1" counts decoded tokens after which both
    engines' most likely token agreed.
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
    engine = open_engine(EngineOptions(path=model, threads=threads, activations=activations, kv=kv))
    ours = Ours(engine)
    threads = engine.threads
    try:
        shape = engine.shape
        need = lengths[-1] + gen
        if need > shape.n_ctx_train:
            raise ContextError(
                f"--contexts: expected at most {shape.n_ctx_train - gen} tokens for this model, "
                f"found {lengths[-1]}"
            )
        theirs = LlamaCpp(model, threads)
        try:
            bandwidth = read_bandwidth(threads)
            _, weights = bind_trunk(engine.file)
            click.echo(
                f"{threads} threads; ds4: activations {activations}, kv {kv}; llama.cpp: KV f16, "
                f"flash attention off, {'AMX and repacking off, ' if theirs.amx_off else ''}"
                f"batch {CHUNK}; read bandwidth {bandwidth / 1e9:.1f} GB/s"
            )
            click.echo(HEADER)

            def done(rows: list[PeerRow]) -> None:
                # After every context, so that a later failure loses nothing.
                if csv_path is not None:
                    publish_bytes(csv_path, to_csv(rows))
                click.echo(_line(rows[-2], rows[-1]))
                if rows[-1].others_cpu > BUSY:
                    click.echo(
                        f"warning: other processes used {100 * rows[-1].others_cpu:.0f} % of the "
                        "cores; llama.cpp spins at barriers and suffers most: a flattering ratio",
                        err=True,
                    )

            compare(
                (ours, theirs),
                shape.n_vocab,
                lengths,
                gen,
                bandwidth,
                lambda n: round(
                    decode_traffic(shape, weights, n, idx_value_bytes=INDEX_VALUE_BYTES[kv]).total
                ),
                done,
            )
        finally:
            theirs.close()
    finally:
        ours.close()
