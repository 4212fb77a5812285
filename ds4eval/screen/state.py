"""Holds what the screen shows, as a value that events and keys change.

It knows no terminal, no clock and no thread.

following --up, down--> selecting --enter--> following (the chosen question runs)
                        selecting --escape--> following
any --/--> typing --enter, escape--> as before, the list searched
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

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
from ds4eval.screen.filters import Filter, admitted, after
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
MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "pageup": -PAGE, "pagedown": PAGE}
# Lines of the reply; a page is as long as the screen, which only it knows.
SCROLLS = {"shift+up": -1, "shift+down": 1, "K": -1, "J": 1}
SCREENFULS = {"b": -1, "space": 1, "shift+pageup": -1, "shift+pagedown": 1}


@dataclass(slots=True)
class Live:
    """A question that is being answered."""

    phase: str = "FILL"
    worker: int = 0
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
    others : dict of int to Sample
        Those of a second run, by job number of the first.
    names : tuple of str
        Of the run or of both; empty while one goes on.
    live : dict of int to Live
        Running ones by job number.
    active : int
        Job that was started last, 0 before the first.
    selected : int or None
        Job under the cursor; None follows the running one.
    wanted : Filter
        What the list shows.
    typing : str or None
        Words of a search that is being typed.
    second : bool
        The right side shows the second run's reply.
    unfolded : bool
        Thinking of a finished reply is shown.
    top : int or None
        First line of the reply on the screen; None is the beginning of a finished reply and the
        end of a running one.
    fresh : int
        Replies that ended since the screen opened.
    """

    jobs: list[Job] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    samples: dict[int, Sample] = field(default_factory=dict)
    others: dict[int, Sample] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    live: dict[int, Live] = field(default_factory=dict)
    active: int = 0
    selected: int | None = None
    wanted: Filter = field(default_factory=Filter)
    typing: str | None = None
    second: bool = False
    unfolded: bool = False
    help: bool = False
    top: int | None = None
    fresh: int = 0
    fresh_tokens: int = 0
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

    @property
    def follows(self) -> bool:
        """Whether the end of the reply is what counts: it grows, or did until now."""
        return self.shown in self.live or not (self.selected or self.names or self.ended)

    @property
    def speed(self) -> float:
        """Tokens per second of all replies in progress together."""
        return sum(live.speed for live in self.live.values() if live.phase != "FILL")

    @property
    def left_s(self) -> float | None:
        """Seconds to the end at the pace so far; None before a reply ended."""
        if not self.fresh or not self.left or self.elapsed_s <= 0:
            return None
        return self.elapsed_s / self.fresh * self.left

    def listed(self) -> list[int]:
        """Numbers of the jobs in the list."""
        return admitted(self.wanted, self.jobs, self.states, self.samples, self.others)

    def scroll(self, by: int, rows: int, total: int) -> None:
        """Move the reply by lines; `rows` of `total` are on the screen."""
        most = max(total - rows, 0)
        home = most if self.follows else 0
        new = min(max((home if self.top is None else self.top) + by, 0), most)
        self.top = None if new == home else new

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
            self.live[event.n] = Live(worker=event.worker)
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
            self.fresh += 1
            self.fresh_tokens += event.sample.gen_tokens or 0
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

    def press(self, key: str, char: str | None = None) -> tuple[str, int] | None:
        """Move by a key; returns what the run must do: ('pause', 0), ('quit', 0), ('jump', n)."""
        if self.typing is not None:
            self._type(key, char)
            return None
        if key in ("p", "P") and not self.ended:
            self.paused = not self.paused
            return ("pause", 0)
        if key in ("q", "Q"):
            self.quitting, self.paused = True, False
            return ("quit", 0)
        if key in ("question_mark", "h", "?", "f1"):
            self.help = not self.help
        if not self.jobs:
            return None
        self._look(key)
        return self._move(key)

    def _move(self, key: str) -> tuple[str, int] | None:
        """Keys of the list."""
        listed = self.listed()
        if key in MOVES and listed:
            now = self.selected or self.active or 1
            # Of a list that leaves the present one out, its neighbour.
            place = sum(n < now for n in listed)
            step = MOVES[key] - (now not in listed and MOVES[key] > 0)
            self._select(listed[min(max(place + step, 0), len(listed) - 1)])
        elif key in ("home", "end") and listed:
            self._select(listed[0 if key == "home" else -1])
        elif key == "escape":
            self.help, self.top, self.wanted = False, None, Filter()
            if not self.names:
                self.selected = None
        elif key == "enter" and not self.ended:
            n, self.selected, self.top = self.selected, None, None
            if n is not None and n not in self.live:
                self.paused = False
                return ("jump", n)
        return None

    def _look(self, key: str) -> None:
        """Keys of the filter and of the right side."""
        if key == "slash":
            self.typing = self.wanted.words
        elif key == "s":
            there = list(dict.fromkeys(self.states))
            self._want(replace(self.wanted, state=after(self.wanted.state, there)))
        elif key == "o":
            sources = list(dict.fromkeys(job.question.source for job in self.jobs))
            self._want(replace(self.wanted, source=after(self.wanted.source, sources)))
        elif key == "f" and self.others:
            self._want(replace(self.wanted, flips=not self.wanted.flips))
        elif key == "tab" and self.others:
            self.second, self.top = not self.second, None
        elif key == "t":
            self.unfolded, self.top = not self.unfolded, None

    def _want(self, wanted: Filter) -> None:
        """Filter the list; of one under the cursor that is left out, the first takes its place."""
        self.wanted = wanted
        listed = self.listed()
        if listed and self.shown not in listed and (self.selected or self.names):
            self._select(listed[0])

    def _select(self, n: int) -> None:
        if n != self.selected:
            self.selected, self.top = n, None

    def _type(self, key: str, char: str | None) -> None:
        words = self.typing or ""
        if key == "enter":
            self.typing = None
        elif key == "escape":
            self.typing = None
            words = ""
        elif key == "backspace":
            self.typing = words = words[:-1]
        elif char is not None and char.isprintable() and len(words) < 200:
            self.typing = words = words + char
        self._want(replace(self.wanted, words=words))


def pieces_of(view: View) -> list[tuple[bool, str]]:
    """(thinking, text) of the running reply that the right side shows."""
    live = view.live.get(view.shown)
    return [] if live is None else list(live.pieces)
