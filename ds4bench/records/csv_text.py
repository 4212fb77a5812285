"""Writes rows as CSV and reads them back: upstream's six columns first, ours behind them.

"Upstream" is ds4_bench.c, whose file a single plain run reproduces to the byte. What a CSV cannot
hold (raw seconds, the environment) is in the journal and in the Parquet file.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ds4bench.records.limits import checked
from ds4bench.records.rows import SpeedRow, SweepResult, in_order, latest
from ds4bench.records.words import RULES
from engine.errors import EngineError
from engine.files.regular import read_regular
from engine.tooling.report.labels import clean_label, safe_cell
from engine.tooling.results.typed import held

MOST_BYTES = 512 << 20
MOST_LINES = 2_000_000  # a sweep of a day has some thousands
MOST_CELLS = 500

# Names, order and two decimals as ds4_bench.c prints them.
UPSTREAM = (
    "ctx_tokens",
    "prefill_tokens",
    "prefill_tps",
    "gen_tokens",
    "gen_tps",
    "kvcache_bytes",
)


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _fixed(value: float | None, digits: int, scale: float = 1.0) -> str:
    return "" if value is None else f"{value * scale:.{digits}f}"


def _whole(value: int | None) -> str:
    return "" if value is None else str(value)


def _flag(value: bool | None) -> str:
    return "" if value is None else str(int(value))


def _pairs(kept: tuple[int, ...], of: tuple[int, ...]) -> str:
    padded = kept + (0,) * (len(of) - len(kept))
    return " ".join(f"{a}/{b}" for a, b in zip(padded, of))


def _message(text: str) -> str:
    """One line of ASCII, which every terminal and every table takes, quoted where it must be."""
    line = clean_label(text, 300).encode("ascii", "backslashreplace").decode()
    quoted = safe_cell(line).replace('"', '""')
    return f'"{quoted}"' if set(quoted) & set(',;"') else quoted


def _share(row: SpeedRow, machine_bytes_per_s: float | None) -> float | None:
    if row.bandwidth is None or not machine_bytes_per_s:
        return None
    return 100 * row.bandwidth / machine_bytes_per_s


# Column name -> text of a cell; the second argument is the machine's bandwidth in bytes/s.
CellText = Callable[[SpeedRow, "float | None"], str]
COLUMNS: dict[str, CellText] = {
    "ctx_tokens": lambda r, _: str(r.ctx_tokens),
    "prefill_tokens": lambda r, _: str(r.prefill_tokens),
    "prefill_tps": lambda r, _: _rate(r.prefill_tps),
    "gen_tokens": lambda r, _: str(r.gen_tokens),
    "gen_tps": lambda r, _: _rate(r.gen_tps),
    "kvcache_bytes": lambda r, _: str(r.kv_bytes or 0),
    "mode": lambda r, _: r.mode,
    "run": lambda r, _: str(r.run),
    "status": lambda r, _: r.status,
    "steps": lambda r, _: _whole(r.steps),
    "drafted": lambda r, _: _whole(r.drafted),
    "accepted": lambda r, _: _whole(r.accepted),
    # Kept of proposed drafts at depth 1, 2, ...
    "accepted_by_depth": lambda r, _: _pairs(r.accepted_by_depth, r.drafted_by_depth),
    "tokens_per_step": lambda r, _: _fixed(r.tokens_per_step, 4),
    "first_token_ms": lambda r, _: _fixed(r.first_token_s, 3, 1e3),
    "steady_tps": lambda r, _: _rate(r.steady_tps),
    "itl_p50_ms": lambda r, _: _fixed(r.itl_s(50), 3, 1e3),
    "itl_p90_ms": lambda r, _: _fixed(r.itl_s(90), 3, 1e3),
    "itl_p99_ms": lambda r, _: _fixed(r.itl_s(99), 3, 1e3),
    "draft_ms": lambda r, _: _fixed(r.draft_s, 3, 1e3),
    "verify_ms": lambda r, _: _fixed(r.verify_s, 3, 1e3),
    "rollback_ms": lambda r, _: _fixed(r.rollback_s, 3, 1e3),
    "token_hash": lambda r, _: (r.token_hash or "")[:16],
    "lossless": lambda r, _: _flag(r.lossless),
    "prefill_shared": lambda r, _: _flag(r.prefill_shared),
    "bytes_per_step": lambda r, _: _fixed(r.bytes_per_step, 0),
    "pct_bandwidth": lambda r, b: _fixed(_share(r, b), 2),
    "gen_j_per_token": lambda r, _: _fixed(r.gen_joules_per_token, 4),
    "cpu_load_pct": lambda r, _: _fixed(r.telemetry.cpu_load_pct, 1),
    "gpu_temp_c": lambda r, _: _fixed(r.telemetry.gpu_temp_c, 0),
    "gpu_sm_mhz": lambda r, _: _fixed(r.telemetry.gpu_sm_mhz, 0),
    "gpu_power_w": lambda r, _: _fixed(r.telemetry.gpu_power_w, 1),
    "gpu_throttle": lambda r, _: r.telemetry.gpu_throttle or "",
    "prefill_h2d_bytes": lambda r, _: _whole(r.prefill_h2d_bytes),
    "prefill_h2d_copies": lambda r, _: _whole(r.prefill_h2d_copies),
    "gen_h2d_bytes": lambda r, _: _whole(r.gen_h2d_bytes),
    "gen_h2d_copies": lambda r, _: _whole(r.gen_h2d_copies),
    "resumed": lambda r, _: _flag(r.resumed),
    "message": lambda r, _: _message(r.message),
    "text_class": lambda r, _: r.text_class,
    "users": lambda r, _: str(r.users),
    "prefix": lambda r, _: r.prefix,
    "cached_tokens": lambda r, _: _whole(r.cached_tokens),
    "ttft_p50_ms": lambda r, _: _fixed(r.ttft(50), 3, 1e3),
    "ttft_p90_ms": lambda r, _: _fixed(r.ttft(90), 3, 1e3),
    "ttft_p99_ms": lambda r, _: _fixed(r.ttft(99), 3, 1e3),
    "user_tps": lambda r, _: _rate(r.user_tps),
    "draft_context_ms": lambda r, _: _fixed(r.draft_context_s, 3, 1e3),
    "draft_block_ms": lambda r, _: _fixed(r.draft_block_s, 3, 1e3),
    "draft_head_ms": lambda r, _: _fixed(r.draft_head_s, 3, 1e3),
    "confidence_ece": lambda r, _: _fixed(r.confidence_ece, 4),
    "confidence_brier": lambda r, _: _fixed(r.confidence_brier, 4),
}


def header(upstream_only: bool) -> str:
    """The first line, with LF."""
    return ",".join(UPSTREAM if upstream_only else COLUMNS) + "\n"


def line(row: SpeedRow, upstream_only: bool, machine_bytes_per_s: float | None = None) -> str:
    """One row as CSV text with LF."""
    names = UPSTREAM if upstream_only else tuple(COLUMNS)
    # Every cell but the last is a number, an enumerated word or hex, which need no quoting.
    return ",".join(COLUMNS[name](row, machine_bytes_per_s) for name in names) + "\n"


def to_csv(
    rows: Iterable[SpeedRow], upstream_only: bool, machine_bytes_per_s: float | None = None
) -> bytes:
    """A whole CSV file.

    Parameters
    ----------
    upstream_only : bool
        True for a single plain run: exactly upstream's file. Failed rows do not appear in it,
        since it has no column that could say so.
    machine_bytes_per_s : float or None
        Measured read bandwidth, for pct_bandwidth.
    """
    kept = [row for row in in_order(list(rows)) if row.ok or not upstream_only]
    text = header(upstream_only)
    text += "".join(line(row, upstream_only, machine_bytes_per_s) for row in kept)
    return text.encode("ascii")


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A header and the lines under it, each with its number in the file."""

    names: tuple[str, ...]
    decimal: str
    lines: list[tuple[int, list[str]]]


def from_csv(path: Path) -> SweepResult:
    """Read upstream's 6 or 9 columns or ours, as ds4_bench.c or a spreadsheet writes them.

    Understood are UTF-8 and UTF-16, byte order marks, CRLF, commas, semicolons or tabs between
    cells, decimal commas where cells are not divided by them, kvcache_bytes 0, and several files
    one behind the other. Where there is no column `run`, each repetition of a context in a mode is
    a further run. Seconds are derived from rates of two decimals, so the run is not exact.

    Raises
    ------
    EngineError
        If it is not such a file: the message names line and column.
    """
    rows: list[SpeedRow] = []
    for sheet in _sheets(path):
        rows += _rows(sheet, path, max((row.run for row in rows), default=0))
    kept = latest(rows)
    return SweepResult(tuple(kept), {}, path, exact=False, dropped=len(rows) - len(kept))


def _text(path: Path) -> str:
    data = read_regular(path, MOST_BYTES, error=EngineError)
    wide = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-16" if wide else "UTF-8"
        raise EngineError(f"{path}: expected {name}, found bad byte at {error.start}") from error


def _sheets(path: Path) -> list[_Sheet]:
    """The parts of a file: each begins with a line of column names."""
    text = _text(path)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if not first:
        raise EngineError(f"{path}: expected a header line, found an empty file")
    divider = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=divider, strict=True)
    n_lines = 0
    sheets: list[_Sheet] = []
    try:
        for cells in reader:
            names = tuple(name.strip().lstrip("\ufeff") for name in cells)
            if not any(names):
                continue
            n_lines += 1
            if n_lines > MOST_LINES or len(cells) > MOST_CELLS:
                raise EngineError(
                    f"{path}:{reader.line_num}: expected at most {MOST_LINES} lines of "
                    f"{MOST_CELLS} cells, found more"
                )
            if not sheets or UPSTREAM[0] in names:
                _check_names(names, path)
                sheets.append(_Sheet(names, "." if divider == "," else ",", []))
            else:
                sheets[-1].lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise EngineError(f"{path}: expected CSV, found {error}") from error
    return sheets


def _check_names(names: Sequence[str], path: Path) -> None:
    shown = ", ".join(names)[:200]
    missing = [name for name in UPSTREAM[:5] if name not in names]
    if missing:
        raise EngineError(f"{path}: expected column {missing[0]!r}, found {shown!r}")
    if len(set(names)) != len(names):
        raise EngineError(f"{path}: expected unique column names, found {shown!r}")


def _rows(sheet: _Sheet, path: Path, before: int) -> list[SpeedRow]:
    """Rows of one part; their runs are counted on from `before`."""
    seen: Counter[tuple[str, int]] = Counter()
    rows = []
    for number, cells in sheet.lines:
        where = f"{path}:{number}"
        if len(cells) != len(sheet.names):
            raise EngineError(
                f"{where}: expected {len(sheet.names)} cells, found {len(cells)}"
                + (" (decimal commas?)" if len(cells) > len(sheet.names) else "")
            )
        row = _row(dict(zip(sheet.names, cells)), where, sheet.decimal)
        run = row.run
        if "run" not in sheet.names:
            seen[row.mode, row.ctx_tokens] += 1
            run = seen[row.mode, row.ctx_tokens]
        row = checked(replace(row, run=before + run), where)
        rows.append(held(row, RULES, where, EngineError))
    return rows


def _depths(text: str, where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Drafts accepted and proposed by depth, of a cell like '12/40 3/12'."""
    pairs = [pair.split("/") for pair in text.split()]
    if not all(len(d) == 2 and d[0].isdecimal() and d[1].isdecimal() for d in pairs):
        raise EngineError(f"{where}: expected pairs like 12/40 in accepted_by_depth")
    accepted = [int(kept) for kept, _ in pairs]
    while accepted and not accepted[-1]:
        accepted.pop()
    return tuple(accepted), tuple(int(of) for _, of in pairs)


def _row(cell: dict[str, str], where: str, decimal: str) -> SpeedRow:
    def number(name: str, scale: float = 1.0) -> float | None:
        text = cell.get(name, "").strip()
        if not text:
            return None
        try:
            value = float(text.replace(decimal, "."))
        except ValueError:
            raise EngineError(
                f"{where}: expected a number in {name}, found {text[:40]!r}"
            ) from None
        if not math.isfinite(value) or value < 0:
            raise EngineError(f"{where}: expected a finite {name} >= 0, found {text[:40]!r}")
        return value * scale

    def whole(name: str) -> int | None:
        value = number(name)
        if value is not None and not value.is_integer():
            raise EngineError(f"{where}: expected a whole {name}, found {cell[name][:40]!r}")
        return None if value is None else int(value)

    ctx, prefill = whole("ctx_tokens"), whole("prefill_tokens")
    if ctx is None or prefill is None:
        raise EngineError(f"{where}: expected ctx_tokens and prefill_tokens, found empty cells")
    gen = whole("gen_tokens") or 0
    prefill_tps, gen_tps = number("prefill_tps"), number("gen_tps")
    mode, status, text_class, prefix = _words(cell, where)
    users = whole("users") or 1
    accepted_by_depth, drafted_by_depth = _depths(cell.get("accepted_by_depth") or "", where)
    steps = whole("steps")
    first = number("gen_first_ms", 1e-3)
    if first is None:
        first = number("first_token_ms", 1e-3)
    return SpeedRow(
        ctx_tokens=ctx,
        prefill_tokens=prefill,
        prefill_s=prefill * users / prefill_tps if prefill_tps else None,
        gen_tokens=gen,
        gen_s=gen / gen_tps if gen_tps else None,
        kv_bytes=whole("kvcache_bytes") or None,
        mode=mode,
        run=whole("run") or 1,
        status=status,
        message=cell.get("message") or "",
        resumed=bool(whole("resumed")),
        steps=gen if steps is None and mode == "plain" and gen else steps,
        drafted=whole("drafted"),
        accepted=whole("accepted"),
        drafted_by_depth=drafted_by_depth,
        accepted_by_depth=accepted_by_depth,
        draft_s=number("draft_ms", 1e-3),
        verify_s=number("verify_ms", 1e-3),
        rollback_s=number("rollback_ms", 1e-3),
        draft_context_s=number("draft_context_ms", 1e-3),
        draft_block_s=number("draft_block_ms", 1e-3),
        draft_head_s=number("draft_head_ms", 1e-3),
        step_s=(first,) if first else (),
        step_tokens=(1,) if first else (),
        token_hash=cell.get("token_hash") or None,
        lossless=None if not cell.get("lossless") else bool(whole("lossless")),
        prefill_shared=bool(whole("prefill_shared")),
        bytes_per_step=number("bytes_per_step"),
        prefill_h2d_bytes=whole("prefill_h2d_bytes"),
        prefill_h2d_copies=whole("prefill_h2d_copies"),
        gen_h2d_bytes=whole("gen_h2d_bytes"),
        gen_h2d_copies=whole("gen_h2d_copies"),
        text_class=text_class,
        users=users,
        prefix=prefix,
        cached_tokens=whole("cached_tokens"),
    )


def _words(cell: dict[str, str], where: str) -> list[str]:
    """Mode, status, kind of text and prefix: what a file without such a column has, or words."""
    words = []
    for name, usual in (("mode", "plain"), ("status", "ok"), ("text_class", ""), ("prefix", "")):
        word = cell.get(name, "") or usual
        if word and not re.fullmatch(r"[a-z0-9_-]{1,40}", word):
            raise EngineError(f"{where}: expected a word in {name}, found {word[:40]!r}")
        words.append(word)
    return words
