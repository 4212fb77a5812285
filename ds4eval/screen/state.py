"""Holds what the screen shows, as a value that events and keys change.

It knows no terminal, no clock and no thread.

following --up, down--> selecting --enter--> following (the chosen question runs)
                        selecting --escape--> following
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ds4eval.events import (
    Dropped,
    Ended,
    Event,
    Finished,
    Notice,
    Opened,
    Prefill,
    Started,
    Text,
)
from ds4eval.plan import Job
from ds4eval.records.record import Sample
from engine.tooling.exits import printable

# Text kept of a running reply: more than any screen shows, little enough to wrap every frame.
STREAM_CHARS = 24_000
PAGE = 10
TAGS = ("<think>", "</think>")
# Four-letter labels of the list, as the C program has them where it has the state.
LABELS = {
    "PENDING": "PEND",
    "PREFILL": "FILL",
    "RUNNING": "RUN",
    "PASSED": "PASS",
    "FAILED": "FAIL",
    "TRUNCATED": "CUT",
    "INCOMPLETE": "NONE",
    "SKIPPED": "SKIP",
    "STOPPED": "STOP",
    "ERROR": "ERR",
    "FILTERED": "FILT",
    "TOOL_CALL": "TOOL",
}


@dataclass(slots=True)
class Live:
    """A question that is being answered."""

    phase: str = "FILL"
    done: int = 0
    total: int = 0
    generated: int = 0
    limit: int = 0
    answer_from: int = 0
    tokens: int = 0
    seconds: float = 0.0
    pieces: deque[tuple[bool, str]] = field(default_factory=deque)
    chars: int = 0

    @property
    def speed(self) -> float:
        """Tokens per second of the present phase."""
        done = self.done if self.phase == "FILL" else self.tokens
        return done / self.seconds if self.seconds > 0 else 0.0

    def add(self, text: str, thinking: bool) -> None:
        """Text with tags taken out and control characters made visible."""
        for tag in TAGS:
            text = text.replace(tag, "\n" if tag == "</think>" else "")
        text = printable(text.replace("\r", "").replace("\t", "    "))
        if not text:
            return
        if self.pieces and self.pieces[-1][0] == thinking and len(self.pieces[-1][1]) < 512:
            self.pieces[-1] = (thinking, self.pieces[-1][1] + text)
        else:
            self.pieces.append((thinking, text))
        self.chars += len(text)
        while self.chars > STREAM_CHARS and len(self.pieces) > 1:
            self.chars -= len(self.pieces.popleft()[1])


@dataclass(slots=True)
class View:
    """State of the screen.

    Attributes
    ----------
    jobs : list of Job
    states : list of str
        Per job; see LABELS.
    samples : dict of int to Sample
        Finished ones by job number.
    live : dict of int to Live
        Running ones by job number.
    active : int
        Job that was started last, 0 before the first.
    selected : int or None
        Job under the cursor; None follows the running one.
    """

    jobs: list[Job] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    samples: dict[int, Sample] = field(default_factory=dict)
    live: dict[int, Live] = field(default_factory=dict)
    active: int = 0
    selected: int | None = None
    paused: bool = False
    quitting: bool = False
    notice: str = ""
    ended: str = ""
    elapsed_s: float = 0.0

    @property
    def passed(self) -> int:
        return sum(sample.passed for sample in self.samples.values())

    @property
    def failed(self) -> int:
        """Final answers that did not pass."""
        return sum(s.final and not s.passed for s in self.samples.values())

    @property
    def left(self) -> int:
        return sum(state in ("PENDING", "PREFILL", "RUNNING") for state in self.states)

    @property
    def shown(self) -> int:
        """Job number that the right side is about; 0 before there is any."""
        return self.selected or self.active or (1 if self.jobs else 0)

    def take(self, event: Event) -> None:
        """Move by an event of the run."""
        if isinstance(event, Opened):
            self.jobs = event.jobs
            self.samples = dict(event.done)
            self.states = ["PENDING"] * len(event.jobs)
            for n, sample in event.done.items():
                self.states[n - 1] = sample.state
        elif isinstance(event, Started):
            self.states[event.n - 1] = "PREFILL"
            self.live[event.n] = Live()
            self.active = event.n
            self.notice = ""
        elif isinstance(event, Prefill):
            live = self.live.setdefault(event.n, Live())
            live.phase, live.done, live.total = "FILL", event.done, event.total
            live.seconds = event.seconds
        elif isinstance(event, Text):
            self._text(event)
        elif isinstance(event, Finished):
            self.states[event.n - 1] = event.sample.state
            self.samples[event.n] = event.sample
            self.live.pop(event.n, None)
        elif isinstance(event, Dropped):
            before = self.samples.get(event.n)
            self.states[event.n - 1] = before.state if before else "PENDING"
            self.live.pop(event.n, None)
        elif isinstance(event, Notice):
            self.notice = event.line
        elif isinstance(event, Ended):
            self.ended = event.why

    def _text(self, event: Text) -> None:
        live = self.live.setdefault(event.n, Live())
        if live.phase == "FILL":
            live.tokens, live.seconds = 0, 0.0
        self.states[event.n - 1] = "RUNNING"
        live.phase = "THINK" if event.thinking else "ANS"
        live.generated, live.limit = event.generated, event.limit
        live.answer_from = event.answer_from
        live.tokens += event.tokens
        live.seconds += event.seconds
        live.add(event.text, event.thinking)

    def press(self, key: str) -> tuple[str, int] | None:
        """Move by a key; returns what the run must do: ('pause', 0), ('quit', 0), ('jump', n)."""
        if key in ("p", "P"):
            self.paused = not self.paused
            return ("pause", 0)
        if key in ("q", "Q"):
            self.quitting, self.paused = True, False
            return ("quit", 0)
        if not self.jobs:
            return None
        moves = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -PAGE, "pagedown": PAGE}
        if key in moves:
            place = (self.selected or self.active or 1) + moves[key]
            self.selected = min(max(place, 1), len(self.jobs))
        elif key == "home":
            self.selected = 1
        elif key == "end":
            self.selected = len(self.jobs)
        elif key == "escape":
            self.selected = None
        elif key == "enter":
            n, self.selected = self.selected, None
            if n is not None and n not in self.live:
                self.paused = False
                return ("jump", n)
        return None


def pieces_of(view: View) -> list[tuple[bool, str]]:
    """(thinking, text) of what the right side shows: a running reply, or a finished one."""
    n = view.shown
    if n in view.live:
        return list(view.live[n].pieces)
    sample = view.samples.get(n)
    if sample is None:
        return []
    live = Live()
    opened = bool(sample.question.get("opened"))
    inside, rest = opened, sample.output
    while rest:
        tag = "</think>" if inside else "<think>"
        text, found, rest = rest.partition(tag)
        live.add(text + ("\n" if found and inside else ""), inside)
        inside = inside != bool(found)
    if sample.error:
        live.add("\n" + sample.error, False)
    return list(live.pieces)
