"""Which weights are copied to a device and which are read from the mapped file: a pure plan.

The plan knows sizes and the machine's facts, never memory itself; `residency` of the CUDA set's
device carries it out. Hot tensors (dense matrices, output head) come first, routed experts last:
of a layer's experts a token reads 6 in 256, so that they cost least where they are slow to reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.errors import MemoryBudgetError, OptionError
from engine.weights import names
from engine.weights.machine import GIB, HostNeed, Machine, gib

__all__ = ["GIB", "Machine", "gib"]
MODES = ("auto", "device", "hybrid", "mapped")
# Tensors are copied in this order while room lasts. An embedding is read one row per token.
KINDS = ("dense", "head", "mtp", "embedding", "experts")
HOT = KINDS[:4]
# Shared memory holds the file's pages too: where not everything can be copied, experts stay there.
UNIFIED_BUDGET = 24 * GIB
# Left free on a device of its own for KV rows, activations and code.
RESERVE = 4 * GIB
RESERVE_SHARE = 0.05
GAP = 1 << 16  # spans that lie closer are merged
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor's bytes.

    Parameters
    ----------
    name : str
    file : int
        Number of the mapping it lies in; -1 for a tensor that lies in memory of its own, which
        cannot be left mapped.
    offset : int
        Byte in that mapping.
    n_bytes : int
    kind : str
        One of `KINDS`.
    device_bytes : int
        What a copy takes on the device; 0 means as many as in the file.
    """

    name: str
    file: int
    offset: int
    n_bytes: int
    kind: str
    device_bytes: int = 0

    @property
    def copied_bytes(self) -> int:
        return self.device_bytes or self.n_bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user asked for, from options and environment.

    Parameters
    ----------
    mode : {'auto', 'device', 'hybrid', 'mapped'}
    budget : int or None
        Most bytes copied; None leaves it to the plan.
    experts_too : bool
        Routed experts may be copied even where memory is shared.
    direct : bool
        Mapped tensors are read at their host addresses, without registration.
    verbose : bool
        Report each span.
    notes : tuple of str
        Which variable said what.
    """

    mode: str = "auto"
    budget: int | None = None
    experts_too: bool = False
    direct: bool = False
    verbose: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one tensor goes.

    Parameters
    ----------
    span : Span
    place : {'device', 'staged', 'mapped'}
        'staged' is a copy too, made because the file cannot be read in place.
    """

    span: Span
    place: str

    @property
    def copied(self) -> bool:
        return self.place != "mapped"


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tensors of one mapping: [start, stop), page-rounded where registered."""

    file: int
    start: int
    stop: int
    n_tensors: int

    @property
    def n_bytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions of all tensors, in the order they were given.

    Parameters
    ----------
    mode : str
        As resolved: 'device', 'hybrid' or 'mapped'.
    decisions : tuple of Decision
    mapped_runs, copied_runs : tuple of Run
        Merged spans of either kind; mapped ones are rounded outwards to pages.
    route : {'none', 'registered', 'pageable', 'staged'}
        How mapped tensors are reached; 'staged' means they had to be copied.
    budget : int
        Bytes that copies might take.
    reasons : tuple of str
        Why, one sentence each.
    pinnable : int
        Most bytes of mapped runs that may be registered.
    warning : str
        What the user must know before he waits; '' for nothing.
    """

    mode: str
    decisions: tuple[Decision, ...]
    mapped_runs: tuple[Run, ...]
    copied_runs: tuple[Run, ...]
    route: str
    budget: int
    reasons: tuple[str, ...] = field(default=())
    pinnable: int = 0
    warning: str = ""

    def bytes_of(self, place: str, kind: str | None = None) -> int:
        """File bytes with a place, of one kind or of all."""
        return sum(
            d.span.n_bytes
            for d in self.decisions
            if d.place == place and kind in (None, d.span.kind)
        )

    @property
    def copied_bytes(self) -> int:
        """What copies take on the device."""
        return sum(d.span.copied_bytes for d in self.decisions if d.copied)

    @property
    def mapped_bytes(self) -> int:
        return self.bytes_of("mapped")


def kind_of(name: str, mtp: bool = False) -> str:
    """Kind of a tensor by its name; of an MTP block's, experts apart, always 'mtp'."""
    if "_exps." in name:
        return "experts"
    if mtp or name.startswith(names.MTP_PREFIX):
        return "mtp"
    if name == names.TRUNK["token_embd"]:
        return "embedding"
    if name == names.TRUNK["output"]:
        return "head"
    return "dense"


def settings_from(
    mode: str = "auto",
    budget_gib: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Settings from options and from the names that upstream's engine reads.

    An option that was given wins over a variable. DS4_CUDA_NO_HBM_CACHE leaves everything mapped;
    DS4_CUDA_WEIGHT_CACHE_LIMIT_GB is a budget in GiB; DS4_CUDA_CACHE_ALL_TENSORS lets experts be
    copied; DS4_CUDA_DIRECT_MODEL reads the mapping without registering it;
    DS4_CUDA_WEIGHT_CACHE_VERBOSE reports spans.

    Raises
    ------
    OptionError
        If a value is none.
    """
    if mode not in MODES:
        raise OptionError(f"residency: expected one of {', '.join(MODES)}, found {mode!r}")
    known = environment or {}
    notes = []

    def flag(name: str) -> bool:
        on = known.get(name, "") not in ("", "0")
        if on:
            notes.append(f"{name} is set")
        return on

    if flag("DS4_CUDA_NO_HBM_CACHE") and mode == "auto":
        mode = "mapped"
    limit = known.get("DS4_CUDA_WEIGHT_CACHE_LIMIT_GB", "")
    if limit and budget_gib is None:
        try:
            budget_gib = float(limit)
        except ValueError:
            budget_gib = -1.0
        if not 0 <= budget_gib < 1 << 20:
            raise OptionError(
                f"DS4_CUDA_WEIGHT_CACHE_LIMIT_GB: expected GiB of 0 or more, found {limit[:40]!r}"
            )
        notes.append("DS4_CUDA_WEIGHT_CACHE_LIMIT_GB is set")
    return Settings(
        mode=mode,
        budget=None if budget_gib is None else int(budget_gib * GIB),
        experts_too=flag("DS4_CUDA_CACHE_ALL_TENSORS"),
        direct=flag("DS4_CUDA_DIRECT_MODEL"),
        verbose=flag("DS4_CUDA_WEIGHT_CACHE_VERBOSE"),
        notes=tuple(notes),
    )


def plan(spans: Sequence[Span], machine: Machine, settings: Settings, context: int = 0) -> Plan:
    """Decide for every tensor.

    'device' copies everything or refuses. 'mapped' copies nothing that can be read in place.
    'hybrid' copies hot tensors, then experts, within the budget; where memory is shared experts
    stay mapped unless asked for. 'auto' is 'device' where everything fits in the budget, else
    'hybrid'. The budget is what the user said; else all of the device's memory but a reserve. Where
    memory is shared it is that for a model that fits whole, and else 24 GiB. `context` is what a
    session will take on the device, where that is known.

    Raises
    ------
    MemoryBudgetError
        If what must be copied does not fit, or the host cannot hold what stays mapped; nothing
        was allocated.
    """
    reasons = list(settings.notes)
    free = machine.device_bytes - max(RESERVE, int(machine.device_bytes * RESERVE_SHARE))
    # On a small device the reserve would leave nothing: keep half for it then.
    room = max(free, machine.device_bytes // 2)
    budget, said = room, "the device's free memory but a reserve"
    if settings.budget is not None:
        budget, said = min(settings.budget, room), "what was asked for"
        if settings.budget > room:
            reasons.append(f"asked for {gib(settings.budget)}, of which {gib(room)} can be had")
    total = sum(span.copied_bytes for span in spans)
    mode = settings.mode
    if machine.unified and settings.budget is None and settings.direct:
        budget, said = _shared_budget(room)
    elif machine.unified and settings.budget is None:
        shared = min(room, machine.host_room - context)
        if mode == "auto" and total <= shared:
            # Kernels read copies better than the file's blocks, and a copy's pages are given back.
            budget, said = shared, "what is free beside a session, if pages of the file are dropped"
        else:
            budget, said = _shared_budget(room)
            if mode == "auto":
                needed = f"{gib(total)} exceed {gib(shared)} that are free"
                reasons.append(f"not everything is copied, since {needed}")
    if mode == "auto":
        mode = "device" if total <= budget else "hybrid"
        compared = "fit in" if total <= budget else "exceed"
        reasons.append(f"{gib(total)} of weights {compared} {gib(budget)}, {said}")
    if mode == "device" and settings.mode == "device":
        budget = room if settings.budget is None else budget
        if total > budget:
            raise MemoryBudgetError(
                f"--residency device: expected at most {gib(budget)} of weights, found "
                f"{gib(total)} (--residency hybrid copies a part)"
            )
    route, why = _route(machine, settings)
    chosen = _chosen(spans, machine, settings, mode, budget)
    decisions = []
    for i, span in enumerate(spans):
        place = "device" if mode == "device" or i in chosen or span.file < 0 else "mapped"
        if place == "mapped" and route == "staged":
            place = "staged"
        decisions.append(Decision(span, place))
    left = [d.span for d in decisions if not d.copied]
    if all(d.place == "device" for d in decisions):
        route = "none"
    else:
        reasons.append(why)
    if mode == "hybrid" and machine.unified and not settings.experts_too and left:
        reasons.append("routed experts stay in the file's pages, which this memory holds anyway")
    made = Plan(
        mode,
        tuple(decisions),
        tuple(merged(left, rounded=True)),
        tuple(merged([d.span for d in decisions if d.copied and d.span.file >= 0])),
        route,
        budget,
        tuple(reasons),
    )
    if made.copied_bytes > room:
        raise MemoryBudgetError(
            f"weights: expected at most {gib(room)} to be copied to the device, found "
            f"{gib(made.copied_bytes)}"
            + (" (this device cannot read the file in place)" if route == "staged" else "")
        )
    need = HostNeed(made.mapped_bytes, made.copied_bytes, context)
    warning = need.check(machine, settings.mode == "mapped")
    return replace(made, pinnable=need.pinnable(machine), warning=warning)


def _shared_budget(room: int) -> tuple[int, str]:
    """Bytes that are copied where memory is shared and not everything is, and why so many."""
    return min(UNIFIED_BUDGET, room), "the default where memory is shared"


def _route(machine: Machine, settings: Settings) -> tuple[str, str]:
    """How the device reaches bytes that are not copied, and why so."""
    if settings.direct and machine.pageable:
        return "pageable", "the device reads unregistered memory, as asked for"
    if machine.register:
        if machine.read_only_register:
            return "registered", "the mapping is registered for the device, read-only"
        # A file's mapping is read-only and shared; drivers without the flag may refuse to pin it.
        instead = "the device reads it unregistered" if machine.pageable else "everything is copied"
        return (
            "registered",
            "the mapping is offered to the driver without the read-only flag; where it refuses, "
            + instead,
        )
    if machine.pageable:
        return "pageable", "the driver registers no memory, but the device reads it unregistered"
    return "staged", "the device cannot read the file in place, so everything is copied"


def _chosen(
    spans: Sequence[Span], machine: Machine, settings: Settings, mode: str, budget: int
) -> set[int]:
    """Numbers of the spans that a hybrid plan copies: by kind, then in the order given."""
    if mode != "hybrid":
        return set()
    kinds = KINDS if not machine.unified or settings.experts_too else HOT
    # What lies in memory of its own is copied whatever the plan says.
    used = sum(span.copied_bytes for span in spans if span.file < 0)
    chosen = set()
    for kind in kinds:
        for i, span in enumerate(spans):
            if span.kind == kind and span.file >= 0 and used + span.copied_bytes <= budget:
                chosen.add(i)
                used += span.copied_bytes
    return chosen


def merged(spans: Iterable[Span], gap: int = GAP, rounded: bool = False) -> list[Run]:
    """Runs of spans of one mapping that lie closer than `gap` bytes, in file order.

    Parameters
    ----------
    rounded : bool
        Round runs outwards to pages; runs that then share a page become one.
    """
    runs: list[Run] = []
    for span in sorted(spans, key=lambda s: (s.file, s.offset)):
        start, stop = span.offset, span.offset + span.n_bytes
        if rounded:
            start, stop = start // PAGE * PAGE, -(-stop // PAGE) * PAGE
        last = runs[-1] if runs else None
        if last is not None and last.file == span.file and start - last.stop <= gap:
            runs[-1] = Run(last.file, last.start, max(last.stop, stop), last.n_tensors + 1)
        else:
            runs.append(Run(span.file, start, stop, 1))
    return runs
