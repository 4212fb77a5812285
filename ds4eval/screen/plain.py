"""Prints a run as lines of text, for logs, pipes and small terminals.

Model text is printed so that it cannot steer the terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TextIO

from ds4eval.events import Ended, Event, Finished, Notice, Opened, Started, Text
from ds4eval.plan import Job
from ds4eval.records.record import Sample
from engine.tooling.exits import printable

DIM, RESET = "\x1b[90m", "\x1b[0m"
GREEN, RED, YELLOW = "\x1b[32m", "\x1b[31m", "\x1b[33m"


def wants_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal and colour is not declined (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Plain:
    """Prints events.

    Parameters
    ----------
    sink : text stream
    stream : bool
        Print replies as they are made; False where several are made at once.
    """

    def __init__(self, sink: TextIO, stream: bool = True) -> None:
        self.sink = sink
        self.stream = stream
        self.colour = wants_colour(sink)
        self.jobs: list[Job] = []
        self.passed = self.finished = 0
        self._dim = False
        self._at_line_start = True

    def show(self, events: Iterable[Event]) -> Ended:
        """Print all events; returns the last one."""
        for event in events:
            self.take(event)
            if isinstance(event, Ended):
                return event
        return Ended("failed", "the run ended without saying why")

    def take(self, event: Event) -> None:
        if isinstance(event, Opened):
            self.jobs = event.jobs
            self.finished = len(event.done)
            self.passed = sum(sample.passed for sample in event.done.values())
            if event.done:
                self._say(f"{len(event.done)} of {len(event.jobs)} are answered; going on")
        elif isinstance(event, Started) and self.stream:
            job = self.jobs[event.n - 1]
            q = job.question
            about = f"{q.source}/{q.domain}" if q.domain else q.source
            self._say(f"[{event.n}/{len(self.jobs)}] {about} {q.id} {q.title}".rstrip())
        elif isinstance(event, Text) and self.stream:
            self._write(event.text, event.thinking)
        elif isinstance(event, Finished):
            self._finished(event.n, event.sample)
        elif isinstance(event, Notice):
            self._say(event.line)
        elif isinstance(event, Ended) and event.message:
            self._say(event.message)

    def _finished(self, n: int, sample: Sample) -> None:
        self.finished += 1
        self.passed += sample.passed
        seconds = (sample.prefill_s or 0.0) + (sample.decode_s or 0.0)
        tokens = "-" if sample.gen_tokens is None else sample.gen_tokens
        state = sample.state
        if self.colour:
            tint = {"PASSED": GREEN, "FAILED": RED}.get(state, YELLOW)
            state = f"{tint}{state}{RESET}"
        place = "" if self.stream else f"[{n}/{len(self.jobs)}] {sample.source}/{sample.id} "
        line = (
            f"{place}{state} given={sample.given or '-'} expected={sample.expected} "
            f"{seconds:.1f}s {tokens} tokens  "
            f"({self.passed}/{self.finished} passed)"
        )
        if sample.error:
            line += f"  {printable(sample.error)}"
        self._end_reply()
        self.sink.write(line + "\n")
        self.sink.flush()

    def _say(self, line: str) -> None:
        self._end_reply()
        self.sink.write(printable(line) + "\n")
        self.sink.flush()

    def _write(self, text: str, dim: bool) -> None:
        if not text:
            return
        shown = printable(text.replace("\r", ""))
        if self.colour and dim != self._dim:
            self.sink.write(DIM if dim else RESET)
            self._dim = dim
        self.sink.write(shown)
        self._at_line_start = shown.endswith("\n")
        self.sink.flush()

    def _end_reply(self) -> None:
        if self._dim:
            self.sink.write(RESET)
            self._dim = False
        if not self._at_line_start:
            self.sink.write("\n")
            self._at_line_start = True
