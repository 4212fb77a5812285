"""One row per (run, context frontier, mode) and what surrounds it: plain data with raw values.

Unknown is None, never 0, NaN or infinity. Rates are derived here and stored nowhere but in CSV.

SCHEMA_VERSION history:
    1  first version
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ds4bench.records.derived import brier, ece, percentile, ratio, series_of
from ds4bench.records.derived import mode_of as mode_of
from ds4bench.records.derived import mode_rank as mode_rank
from ds4bench.records.statuses import DISTURBED as DISTURBED
from ds4bench.records.statuses import STATUSES as STATUSES
from ds4bench.records.words import RULES
from engine.tooling.results.typed import typed

SCHEMA = "ds4bench.sweep"
SCHEMA_VERSION = 1

# Fields of a row that hold one value per step or depth.
LISTS = (
    "step_s",
    "step_tokens",
    "drafted_by_depth",
    "accepted_by_depth",
    "ttft_s",
    "user_gen_s",
    "user_tokens",
    "server_prefill_s",
    "server_prefill_tokens",
    "server_gen_s",
    "server_gen_tokens",
    "reliability",
)


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Machine state around one row, sampled outside the timed process; None where nobody says."""

    n_samples: int | None = None
    cpu_load_pct: float | None = None  # mean over all cores
    cpu_mhz: float | None = None  # mean of the cores' current clock
    cpu_temp_c: float | None = None  # highest sensor, highest sample
    mem_available_bytes: int | None = None  # lowest sample
    swap_used_bytes: int | None = None  # highest sample
    child_rss_bytes: int | None = None  # highest sample, resident size of the timed process
    gpu_temp_c: float | None = None
    gpu_sm_mhz: float | None = None  # median
    gpu_mem_mhz: float | None = None
    gpu_util_pct: float | None = None
    gpu_power_w: float | None = None  # mean
    gpu_mem_used_bytes: int | None = None
    gpu_throttle: str | None = None  # reasons joined by '+'; '' means none seen
    gpu_other_processes: int | None = None
    prefill_energy_j: float | None = None
    gen_energy_j: float | None = None
    energy_source: str | None = None  # nvml-counter, nvml-power, rapl (packages and memory)
    suspended_s: float | None = None  # seconds that the machine slept during the row
    stopped_s: float | None = None  # seconds that a process of the sweep was seen not to run


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """What was measured at one frontier, in one mode, in one run.

    Attributes
    ----------
    ctx_tokens : int
        Context length after this row's prefill.
    prefill_tokens : int
        Tokens the prefill added; never compare rows in which it differs.
    prefill_s, gen_s : float or None
        Seconds inside the clock.
    gen_tokens : int
        Tokens committed inside the decode window; the same in every mode.
    kv_bytes : int or None
        Size of the session's snapshot at the frontier.
    steps, drafted, accepted : int or None
        Decode steps, draft tokens proposed and kept. In plain mode steps = gen_tokens.
    drafted_by_depth, accepted_by_depth : tuple of int
        Drafts at depth 1, 2, ... that were proposed, and those of them that were kept; the second
        may be shorter.
    draft_s, verify_s, rollback_s : float or None
        Parts of gen_s, in speculative modes.
    draft_context_s, draft_block_s, draft_head_s : float or None
        Parts of draft_s: the drafter's rows, its layers, and the choice of its tokens.
    reliability : tuple of float
        For each depth and each tenth of confidence four numbers, of the drafts that were judged:
        how many, how many were kept, the sum of their confidences, and of squared differences
        between confidence and outcome (see `engine.spec.protocol.SpecStats`).
    step_s, step_tokens : tuple
        Seconds and committed tokens of each decode step, in order.
    token_hash : str or None
        SHA-256 over the emitted ids, each as four bytes little endian.
    lossless : bool or None
        Whether token_hash equals plain's at the same frontier and run; None if not comparable.
    prefill_shared : bool
        True when prefill_s is the same measurement as another row's of this (run, frontier).
    resumed : bool
        True when the context in front of this row was rebuilt outside the clock.
    bytes_per_step : float or None
        Bytes that a decode step must read from memory, from the tensor table and mode.
    prefill_h2d_bytes, prefill_h2d_copies, gen_h2d_bytes, gen_h2d_copies : int or None
        Copies from host to device within either clock; None without a device. What loading and
        the warm-up copied is in the environment.
    text_class : str
        Kind of text of a prompt set (`ds4bench.panel.texts`); '' for any other prompt.
    users : int
        Requests to a server that were under way side by side. prefill_s then ends with the last
        first token, prefill_tokens are those of one user, gen_tokens those of all, and gen_s runs
        from the first first token to the last token.
    prefix : {'', 'cold', 'warm'}
        Whether a server had to evaluate the whole prompt, or had the last frontier's in its cache.
    cached_tokens : int or None
        Prompt tokens that the server says it had in its cache, of all users.
    ttft_s, user_gen_s, user_tokens : tuple
        Of each user of a server: seconds from request to first token, seconds from there to the
        last one, and tokens within these.
    server_prefill_s, server_prefill_tokens, server_gen_s, server_gen_tokens : tuple
        What the server itself says of each user, where it does.
    """

    ctx_tokens: int
    prefill_tokens: int
    prefill_s: float | None = None
    gen_tokens: int = 0
    gen_s: float | None = None
    kv_bytes: int | None = None
    mode: str = "plain"
    run: int = 1
    status: str = "ok"
    message: str = ""
    steps: int | None = None
    drafted: int | None = None
    accepted: int | None = None
    drafted_by_depth: tuple[int, ...] = ()
    accepted_by_depth: tuple[int, ...] = ()
    draft_s: float | None = None
    verify_s: float | None = None
    rollback_s: float | None = None
    step_s: tuple[float, ...] = ()
    step_tokens: tuple[int, ...] = ()
    token_hash: str | None = None
    lossless: bool | None = None
    prefill_shared: bool = False
    resumed: bool = False
    bytes_per_step: float | None = None
    prefill_h2d_bytes: int | None = None
    prefill_h2d_copies: int | None = None
    gen_h2d_bytes: int | None = None
    gen_h2d_copies: int | None = None
    started_at: float | None = None  # seconds since 1970, UTC
    key: str = ""
    text_class: str = ""
    users: int = 1
    prefix: str = ""
    cached_tokens: int | None = None
    ttft_s: tuple[float, ...] = ()
    user_gen_s: tuple[float, ...] = ()
    user_tokens: tuple[int, ...] = ()
    server_prefill_s: tuple[float, ...] = ()
    server_prefill_tokens: tuple[int, ...] = ()
    server_gen_s: tuple[float, ...] = ()
    server_gen_tokens: tuple[int, ...] = ()
    telemetry: Telemetry = field(default_factory=Telemetry)
    draft_context_s: float | None = None
    draft_block_s: float | None = None
    draft_head_s: float | None = None
    reliability: tuple[float, ...] = ()

    @property
    def confidence_ece(self) -> float | None:
        """Distance of confidences from shares kept, by bin; None where no draft was judged."""
        return ece(self.reliability)

    @property
    def confidence_brier(self) -> float | None:
        """Mean squared difference of a confidence and what became of its draft."""
        return brier(self.reliability)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def series(self) -> str:
        """What is drawn as one curve and compared as one: the mode, with what else tells apart."""
        return series_of(self.mode, self.text_class, self.prefix, self.users)

    @property
    def place(self) -> tuple[int, str, int]:
        """Which cell of a sweep a row fills: its run, series and context."""
        return self.run, self.series, self.ctx_tokens

    @property
    def scene(self) -> tuple[int, str, str, int, int]:
        """What rows of several modes have in common: the prompt and how it came to be cached."""
        return self.run, self.text_class, self.prefix, self.users, self.ctx_tokens

    @property
    def prefill_tps(self) -> float | None:
        """Prompt tokens per second, of all users together."""
        return ratio(self.prefill_tokens * self.users, self.prefill_s)

    @property
    def gen_tps(self) -> float | None:
        return ratio(self.gen_tokens, self.gen_s) if self.gen_tokens else None

    @property
    def steps_per_s(self) -> float | None:
        return ratio(self.steps, self.gen_s)

    @property
    def tokens_per_step(self) -> float | None:
        return ratio(self.gen_tokens, self.steps)

    @property
    def acceptance(self) -> float | None:
        """Kept share of drafted tokens; None when nothing was drafted."""
        return ratio(self.accepted, self.drafted)

    @property
    def first_token_s(self) -> float | None:
        """Seconds of the first decode step (cold caches, first touch)."""
        return self.step_s[0] if self.step_s else None

    @property
    def steady_tps(self) -> float | None:
        """Tokens per second behind the first step; None without two steps, or with users."""
        if len(self.step_s) < 2 or len(self.step_tokens) != len(self.step_s) or self.users > 1:
            return None
        return ratio(sum(self.step_tokens[1:]), math.fsum(self.step_s[1:]))

    def itl_s(self, percent: float) -> float | None:
        """Percentile of inter-token latency in seconds, first step excluded where others exist.

        Tokens of one speculative step share its time evenly. Linear interpolation between order
        statistics (numpy's default). None where not every step is known, as in a CSV.
        """
        if sum(self.step_tokens) != self.gen_tokens:
            return None
        skip = 1 if len(self.step_s) > 1 else 0
        return percentile(
            [
                seconds / n
                for seconds, n in zip(self.step_s[skip:], self.step_tokens[skip:])
                for _ in range(n)
            ],
            percent,
        )

    def ttft(self, percent: float) -> float | None:
        """Percentile over users of the seconds from a request to its first token."""
        return percentile(self.ttft_s, percent)

    @property
    def user_tps(self) -> float | None:
        """Decode rate of the median user of a server."""
        rates = [n / s for n, s in zip(self.user_tokens, self.user_gen_s) if n and s > 0]
        return percentile(rates, 50)

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second that decode read by the traffic model."""
        rate = self.steps_per_s
        if rate is None or self.bytes_per_step is None:
            return None
        return self.bytes_per_step * rate

    @property
    def gen_joules_per_token(self) -> float | None:
        return ratio(self.telemetry.gen_energy_j, self.gen_tokens)

    def to_record(self) -> dict[str, object]:
        """JSON-ready mapping without empty fields; `from_record` reads it back."""
        flat: dict[str, object] = asdict(self)
        state = asdict(self.telemetry)
        flat["telemetry"] = {k: v for k, v in state.items() if v is not None}
        # What only a server or a prompt set gives to a row is in their rows only.
        for name, usual in (("text_class", ""), ("users", 1), ("prefix", "")):
            if flat[name] == usual:
                del flat[name]
        return {k: v for k, v in flat.items() if v is not None and v != () and v != {}}

    @classmethod
    def from_record(cls, record: Mapping[str, object], where: str = "row") -> SpeedRow:
        """The row of a journal record; unknown fields of later minor versions are ignored.

        Parameters
        ----------
        record : mapping
        where : str
            File and record, for the message.

        Raises
        ------
        StoreError
            If a field is missing, or a value is not of its type, range or vocabulary.
        """
        return typed(cls, record, RULES, where)


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The rows of one sweep and its circumstances, wherever they were read from.

    Attributes
    ----------
    rows : tuple of SpeedRow
        Finished rows, failed ones included, in (run, frontier, mode) order; the last one wins
        where a key was retried. Warm-up rows are not among them.
    environment : dict
        Facts about code, machine, model, prompt and options; empty for a CSV.
    source : Path
    exact : bool
        False when seconds were derived from rates that had been rounded for CSV.
    warmups : tuple of dict
        Discarded measurements, as recorded.
    dropped : int
        Bytes (journal) or lines (CSV) that could not be read.
    """

    rows: tuple[SpeedRow, ...]
    environment: dict[str, Any]
    source: Path
    exact: bool = True
    warmups: tuple[dict[str, Any], ...] = ()
    dropped: int = 0

    @property
    def good(self) -> tuple[SpeedRow, ...]:
        return tuple(row for row in self.rows if row.ok)


def in_order(rows: list[SpeedRow] | tuple[SpeedRow, ...]) -> list[SpeedRow]:
    """Rows sorted by run, frontier and mode."""
    return sorted(rows, key=lambda row: (row.run, row.ctx_tokens, mode_rank(row.mode), row.series))


def latest(rows: list[SpeedRow] | tuple[SpeedRow, ...]) -> list[SpeedRow]:
    """One row per (run, frontier, series): the last written."""
    kept = {row.place: row for row in rows}
    return in_order(list(kept.values()))


def stamped(rows: list[SpeedRow] | tuple[SpeedRow, ...], greedy: bool) -> list[SpeedRow]:
    """The latest rows with what only all of them together can say.

    Parameters
    ----------
    greedy : bool
        Whether tokens were chosen at temperature 0, where every mode must emit plain's tokens and
        every run must repeat them; otherwise `lossless` stays None.

    Returns
    -------
    list of SpeedRow
        `prefill_shared` is False for exactly one row per (run, frontier) and prefill, a finished
        one where there is one, since failed rows are drawn and compared by nobody; `lossless`
        compares with the first plain row at the frontier.
    """
    kept = latest(rows)
    reference: dict[tuple[object, ...], str] = {}
    for row in kept:
        if row.ok and row.mode == "plain" and row.token_hash:
            reference.setdefault(row.scene[1:], row.token_hash)
    owners: dict[tuple[object, ...], SpeedRow] = {}
    for row in sorted(kept, key=lambda row: not row.ok):
        owners.setdefault((row.scene, row.prefill_s), row)
    result = []
    for row in kept:
        owner = owners[row.scene, row.prefill_s]
        shared = row.prefill_s is not None and owner is not row
        expected = reference.get(row.scene[1:])
        same = None
        if greedy and row.ok and row.token_hash and expected:
            same = row.token_hash == expected
        changed = shared != row.prefill_shared or same != row.lossless
        result.append(replace(row, prefill_shared=shared, lossless=same) if changed else row)
    return result
