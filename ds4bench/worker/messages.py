"""What the sweep and its timed process say to each other, and how it becomes a line of JSON.

Each command is a record that names its wire word, carries its arguments, and knows which method of
the worker answers it; that method's return type is the type of the reply. One codec
(`ds4bench.worker.codec`) serves both directions. This module knows neither pipes nor models.

Both ends are always the same code, so the lines carry no version; nothing here is stored as it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar, cast, get_type_hints

from ds4bench.plan import SweepPlan
from ds4bench.worker.codec import built, plain, to_line
from ds4bench.worker.facts import Bandwidth, ModelFacts, PromptFacts
from ds4bench.worker.protocol import Warmup
from engine import errors
from engine.errors import EngineError

W = TypeVar("W")
R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an opened engine says of itself, as plain JSON values, and what it says to the user."""

    facts: dict[str, object]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Loaded:
    """Seconds that loading took, and the engine that came of it."""

    load_s: float
    engine: EngineFacts


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies from host to device within some time."""

    h2d_bytes: int
    h2d_copies: int


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """Copies of a device so far, and launches per recorded pass, by the pass's name."""

    copies: Copies
    launches: dict[str, int]


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """Discarded rounds; what a device copied and launched in them, None without a device."""

    rounds: tuple[Warmup, ...]
    first_touch: Copies | None = None
    launches: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A fresh timeline is there."""


@dataclass(frozen=True, slots=True)
class Prefilled:
    """Seconds and compilations inside the clock, tokens added, bytes of the snapshot behind."""

    prefill_s: float
    prefill_tokens: int
    kv_bytes: int
    copies: Copies | None = None
    compiled: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One decode window; fields of the same name are those of `ds4bench.worker.protocol.Decode`.

    Attributes
    ----------
    bytes_per_step : float
        Bytes that a step of this window had to read, on average.
    copies : Copies or None
        None without a device.
    compiled : int
        How often the compiler worked inside the clock, for compiling or for loading.
    """

    gen_tokens: int
    gen_s: float
    step_s: tuple[float, ...]
    step_tokens: tuple[int, ...]
    drafted: int
    accepted: int
    drafted_by_depth: tuple[int, ...]
    accepted_by_depth: tuple[int, ...]
    draft_s: float
    verify_s: float
    rollback_s: float
    token_hash: str
    bytes_per_step: float
    copies: Copies | None = None
    compiled: int = 0
    draft_context_s: float | None = None
    draft_block_s: float | None = None
    draft_head_s: float | None = None
    reliability: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of the worker: its type where it is one of ours, else '' and a trace."""

    kind: str
    message: str
    exit_code: int
    trace: str = ""

    def error(self) -> WorkerError | EngineError:
        """The exception to raise in the parent: of the same type where it is one of ours."""
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, EngineError):
            return kind(self.message)
        text = f"{self.kind}: {self.message}" if self.kind else self.message
        return WorkerError(text, self.exit_code, self.trace)


class WorkerError(EngineError):
    """An exception of the worker that is not one of ours: a bug, ours or a library's."""

    def __init__(self, message: str, exit_code: int, trace: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.worker_trace = trace


class Answering(Protocol):
    """The methods that answer the commands below."""

    def inspect(self, plan: SweepPlan) -> ModelFacts: ...
    def encode(self) -> PromptFacts: ...
    def load(self) -> Loaded: ...
    def bandwidth(self) -> Bandwidth: ...
    def warm_up(self, modes: Sequence[str]) -> WarmedUp: ...
    def begin(self, text_class: str) -> Begun: ...
    def prefill(self, frontier: int) -> Prefilled: ...
    def decode(self, mode: str) -> Decoded: ...


class Command(Generic[W, R]):
    """A request to a worker of type W that is answered by an R; subclasses are dataclasses."""

    __slots__ = ()
    word: ClassVar[str]

    def run(self, worker: W) -> R:
        """Let the worker answer. The subclass's return annotation is what the reply is read as."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Inspect(Command[Answering, ModelFacts]):
    """Read the headers of the plan's model files, no weights."""

    word = "inspect"
    plan: SweepPlan

    def run(self, worker: Answering) -> ModelFacts:
        return worker.inspect(self.plan)


@dataclass(frozen=True, slots=True)
class Encode(Command[Answering, PromptFacts]):
    """Tokenise the prompt."""

    word = "encode"

    def run(self, worker: Answering) -> PromptFacts:
        return worker.encode()


@dataclass(frozen=True, slots=True)
class Load(Command[Answering, Loaded]):
    """Open the engine with the weights."""

    word = "load"

    def run(self, worker: Answering) -> Loaded:
        return worker.load()


@dataclass(frozen=True, slots=True)
class MeasureBandwidth(Command[Answering, Bandwidth]):
    """Measure how fast memory is read."""

    word = "bandwidth"

    def run(self, worker: Answering) -> Bandwidth:
        return worker.bandwidth()


@dataclass(frozen=True, slots=True)
class WarmUp(Command[Answering, WarmedUp]):
    """Run discarded rounds in these modes until the rate is steady."""

    word = "warmup"
    modes: tuple[str, ...]

    def run(self, worker: Answering) -> WarmedUp:
        return worker.warm_up(self.modes)


@dataclass(frozen=True, slots=True)
class Begin(Command[Answering, Begun]):
    """Drop the timeline and make an empty one, for one kind of text of a prompt set."""

    word = "begin"
    text_class: str = ""

    def run(self, worker: Answering) -> Begun:
        return worker.begin(self.text_class)


@dataclass(frozen=True, slots=True)
class ExtendTo(Command[Answering, Prefilled]):
    """Prefill up to a frontier, timed, and take the snapshot that decode windows start from."""

    word = "prefill"
    frontier: int

    def run(self, worker: Answering) -> Prefilled:
        return worker.prefill(self.frontier)


@dataclass(frozen=True, slots=True)
class DecodeWindow(Command[Answering, Decoded]):
    """Decode the plan's number of tokens in a mode, timed, and go back to the snapshot."""

    word = "decode"
    mode: str

    def run(self, worker: Answering) -> Decoded:
        return worker.decode(self.mode)


COMMANDS: tuple[type[Command[Answering, object]], ...] = (
    Inspect,
    Encode,
    Load,
    MeasureBandwidth,
    WarmUp,
    Begin,
    ExtendTo,
    DecodeWindow,
)


def encode_command(command: Command[W, R]) -> bytes:
    """One line of JSON, LF included."""
    return to_line({"cmd": command.word, "arguments": plain(command)})


def decode_command(line: bytes, commands: Sequence[type[Command[W, object]]]) -> Command[W, object]:
    """The command of a line.

    Raises
    ------
    ValueError, TypeError, KeyError
        If it is none of `commands`, or its arguments are not what they must be.
    """
    message = json.loads(line)
    known = {kind.word: kind for kind in commands}
    return built(known[message["cmd"]], message["arguments"])


def encode_reply(reply: object) -> bytes:
    """One line of JSON, LF included, for a reply or a `Failure`."""
    return to_line({"ok": not isinstance(reply, Failure), "reply": plain(reply)})


def decode_reply(line: bytes, command: Command[W, R]) -> R | Failure:
    """The reply to `command`, or how it failed."""
    message = json.loads(line)
    if not message["ok"]:
        return built(Failure, message["reply"])
    return cast("R", built(reply_type(type(command)), message["reply"]))


def reply_type(command: type[Command[W, R]]) -> type[object]:
    """What a command is answered by."""
    return cast("type[object]", get_type_hints(command.run)["return"])
