"""`ds4-bench peer`: our engine and llama.cpp side by side on the same file and token ids."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol

import click
import numpy as np
import psutil

from ds4bench.peer.llamacpp import LlamaCpp, require_llama_cpp
from ds4bench.telemetry.roofline import read_bandwidth
from engine.engine import Engine, open_engine
from engine.errors import ContextError, OptionError
from engine.options import ACTIVATIONS, EngineOptions
from engine.session import Session
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.types import Whole
from engine.tooling.program import Command
from engine.tooling.results.publish import check_output, publish_bytes
from engine.weights.bind import bind_trunk
from engine.weights.traffic import INDEX_VALUE_BYTES, decode_traffic

CHUNK = 512  # tokens that one side prefills before it is the other's turn
BLOCK = 16  # tokens that one side decodes before it is the other's turn
PAUSE = 0.2  # seconds before each turn, so that spinning workers of the other side go to sleep
WARM_UP = 64  # tokens
SEED = 2026
BUSY = 0.1  # part of the cores used by others above which ratios are called unreliable


class Side(Protocol):
    """One engine under test. A turn's work must be finished when a method returns."""

    name: str

    def start(self, n_ctx: int) -> None: ...
    def prefill(self, ids: list[int]) -> None: ...
    def decode(self, token: int) -> None: ...
    def top(self) -> int: ...
    def close(self) -> None: ...


class Ours:
    """Our engine as a `Side`."""

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


@dataclass(frozen=True, slots=True)
class PeerRow:
    """Raw measurement of one side at one context; rates are derived when shown.

    Parameters
    ----------
    side : str
    ctx_tokens, gen_tokens : int
    prefill_s, decode_s : float
        Wall seconds.
    top1_equal : int
        Of the gen_tokens decoded tokens, after how many both sides' most likely token agreed.
    decode_bytes : int or None
        Weight and cache bytes that our engine reads per token here; None for the peer.
    bandwidth : float
        Measured sequential read bandwidth of this machine, bytes per second.
    others_cpu : float
        Part of all cores that other processes used in the second before; 0 to 1. llama.cpp's
        workers spin at barriers, so it loses far more than that part once cores are shared.
    """

    side: str
    ctx_tokens: int
    gen_tokens: int
    prefill_s: float
    decode_s: float
    top1_equal: int
    decode_bytes: int | None
    bandwidth: float
    others_cpu: float

    @property
    def prefill_tps(self) -> float:
        return self.ctx_tokens / self.prefill_s

    @property
    def decode_tps(self) -> float:
        return self.gen_tokens / self.decode_s

    @property
    def bandwidth_share(self) -> float | None:
        """Part of the measured bandwidth that decode reaches; None where bytes are unknown."""
        if self.decode_bytes is None:
            return None
        return self.decode_bytes * self.decode_tps / self.bandwidth


def others_cpu() -> float:
    """Part of this machine's cores in use during one second in which this process waits."""
    return psutil.cpu_percent(interval=1.0) / 100


def _turn(action: Callable[[], None]) -> float:
    time.sleep(PAUSE)
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _decode_all(side: Side, ids: Sequence[int], tops: list[int]) -> Callable[[], None]:
    def run() -> None:
        for token in ids:
            side.decode(token)
            tops.append(side.top())

    return run


def measure(
    sides: Sequence[Side], ids: Sequence[int], gen: int
) -> tuple[list[float], list[float], int]:
    """Prefill all but the last `gen` ids and decode those, all sides in turns.

    Sides alternate every `CHUNK` prefilled and every `BLOCK` decoded tokens and swap who goes
    first each time, so that a change of clock or load meets all of them. Decoded tokens are given
    (teacher forcing): every side evaluates the same ids.

    Returns
    -------
    prefill_s, decode_s : list of float
        Per side, in the order given.
    top1_equal : int
        Decoded tokens after which all sides had the same most likely token.
    """
    n_prompt = len(ids) - gen
    prefill, decode = [0.0] * len(sides), [0.0] * len(sides)
    tops: list[list[int]] = [[] for _ in sides]
    for side in sides:
        side.start(len(ids))
    order = list(range(len(sides)))
    for first in range(0, n_prompt, CHUNK):
        part = list(ids[first : min(first + CHUNK, n_prompt)])
        for i in order:
            prefill[i] += _turn(lambda side=sides[i], part=part: side.prefill(part))  # type: ignore[misc]
        order.reverse()
    for first in range(n_prompt, len(ids), BLOCK):
        part = list(ids[first : first + BLOCK])
        for i in order:
            decode[i] += _turn(_decode_all(sides[i], part, tops[i]))
        order.reverse()
    return prefill, decode, sum(len(set(row)) == 1 for row in zip(*tops))


def to_csv(rows: Sequence[PeerRow]) -> bytes:
    """Rows as CSV; an unknown value is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(PeerRow)], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: "" if v is None else v for k, v in asdict(row).items()})
    return text.getvalue().encode()


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


def compare(
    sides: Sequence[Side],
    n_vocab: int,
    contexts: Sequence[int],
    gen: int,
    bandwidth: float,
    bytes_at: Callable[[int], int],
    done: Callable[[list[PeerRow]], None],
    busy: Callable[[], float] = others_cpu,
) -> list[PeerRow]:
    """Measure ours (first) and a peer (second) at every context; `done` after each of them."""
    ids = np.random.default_rng(SEED).integers(0, n_vocab, max(contexts) + gen).tolist()
    measure(sides, ids[: WARM_UP + BLOCK], BLOCK)
    rows: list[PeerRow] = []
    for ctx in contexts:
        others = busy()
        prefill, decode, equal = measure(sides, ids[: ctx + gen], gen)
        for i, side in enumerate(sides):
            # Halfway through the decoded tokens: the mean, as bytes grow evenly with context.
            n_bytes = bytes_at(ctx + gen // 2) if i == 0 else None
            rows.append(
                PeerRow(
                    side.name,
                    ctx,
                    gen,
                    prefill[i],
                    decode[i],
                    equal,
                    n_bytes,
                    bandwidth,
                    others,
                )
            )
        done(rows)
    return rows


@click.command("peer", cls=Command)
@option(
    "-m",
    "--model",
    section="Model",
    type=click.Path(path_type=Path),
    required=True,
    help="GGUF file that both engines open.",
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
    model: Path,
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
