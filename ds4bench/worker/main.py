"""The timed process: opens the model and measures what it is told, one JSON line per command.

Run as ``python -m ds4bench.worker.main MODULE:FUNCTION PARENT_PID``, where the function returns a
`Worker`. Commands come on stdin, replies go to the
descriptor that was stdout; whatever a library prints goes to stderr. When stdin ends, it exits.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ds4bench.worker.protocol import hash_tokens, timed_decode, timed_prefill, warm_up
from engine.errors import EngineError, OptionError

DEFAULT = "ds4bench.worker.model:open_worker"
_PR_SET_PDEATHSIG = 1
WARM_DECODE = 16
WARM_CHUNK = 512


class Worker:
    """State of the timed process: a model, a prompt, one timeline and the last snapshot."""

    def __init__(self, model: Any, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.model = model
        self.clock = clock
        self.tokens: list[int] = []
        self.settings: dict[str, Any] = {}
        self.session: Any = None
        self.snapshot: Any = None

    def inspect(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Facts about the model files, without reading weights.

        Raises
        ------
        EngineError
            If a file is not a model.
        """
        self.settings = settings
        return self.model.inspect(settings)

    def encode(self) -> dict[str, Any]:
        """Tokenise the prompt; its cost grows with the context, so `inspect` comes first.

        Raises
        ------
        EngineError
            If the prompt cannot be encoded.
        """
        prompt, last = self.settings["prompt"], self.settings["frontiers"][-1]
        tokens = self.model.encode_prompt(prompt, last)
        have = len(tokens)
        if prompt["repeat"] and have:
            tokens = tokens * -(-last // have)
        self.tokens = tokens[:last]
        return {
            "n_prompt_tokens": len(tokens),
            "n_prompt_tokens_once": have,
            "prompt_tokens_sha256": hash_tokens(self.tokens),
        }

    def load(self) -> dict[str, Any]:
        """Open the weights."""
        start = self.clock()
        facts = self.model.load(self.settings)
        return {"load_s": (self.clock() - start) * 1e-9, "facts": facts}

    def bandwidth(self) -> dict[str, Any]:
        """Read rate of this machine on the threads that the model will use."""
        return self.model.bandwidth(self.settings)

    def warmup(self, modes: list[str]) -> dict[str, Any]:
        """Discarded rounds in some modes until the rate is steady."""
        settings = self.settings
        before = self._copied()
        n = min(WARM_CHUNK, settings["frontiers"][0])
        n_decode = min(WARM_DECODE, settings["gen_tokens"])
        rounds = warm_up(
            lambda: self.model.session(n + n_decode + 1),
            self._decoder,
            self.tokens[:n],
            modes,
            self.clock,
            n_decode=n_decode,
        )
        # What is there now stays; collections between windows need not walk it again.
        gc.collect()
        gc.freeze()
        return {
            "rounds": [asdict(r) for r in rounds],
            "first_touch": self._copies_since(before, ""),
            "launches": self.model.counters().get("launches"),
        }

    def begin(self) -> dict[str, Any]:
        """A fresh timeline."""
        # Drop the old one first: two contexts may not fit.
        self.session = self.snapshot = None
        self.session = self.model.session(self.settings["context"])
        return {}

    def prefill(self, frontier: int) -> dict[str, Any]:
        """Extend the timeline to a frontier and take the snapshot that decode starts from."""
        before = self.session.n_past
        self.snapshot = None
        copied = self._copied()
        prefill_s = timed_prefill(self.session, self.tokens[:frontier], self.clock)
        copies = self._copies_since(copied, "prefill_")
        if self.session.n_past != frontier:
            raise EngineError(
                f"prefill: expected {frontier} tokens in the timeline, found {self.session.n_past}"
            )
        self.snapshot = self.session.save()
        return {
            "prefill_s": prefill_s,
            "prefill_tokens": frontier - before,
            "kv_bytes": self.snapshot.n_bytes,
            **copies,
        }

    def decode(self, mode: str) -> dict[str, Any]:
        """One decode window from the snapshot, and back to it."""
        settings = self.settings
        frontier = self.session.n_past
        decoder = self._decoder(self.session, mode)
        copied = self._copied()
        try:
            result = timed_decode(decoder, settings["gen_tokens"], self.clock, self.model.forbidden)
            copies = self._copies_since(copied, "gen_")
        finally:
            self.session.restore(self.snapshot)
        reply = {**asdict(result), **copies}
        reply["gen_tokens"] = result.gen_tokens
        reply["bytes_per_step"] = self.model.step_bytes(
            mode, frontier + result.gen_tokens // 2, result.step_tokens, result.step_drafted
        )
        del reply["step_drafted"]
        return reply

    def _copied(self) -> dict[str, int]:
        """Copies between host and device so far; empty without a device."""
        return self.model.counters().get("transfers", {})

    def _copies_since(self, before: dict[str, int], phase: str) -> dict[str, int]:
        """Bytes and number of copies to the device since then, under names of the phase."""
        now = self._copied()
        return {
            phase + name: now[name] - before[name]
            for name in ("h2d_bytes", "h2d_copies")
            if name in now
        }

    def _decoder(self, session: Any, mode: str) -> Any:
        return self.model.decoder(session, mode, self.settings)


def handle(worker: Worker, command: dict[str, Any]) -> dict[str, Any]:
    """Reply to one command; an exception becomes an error reply."""
    arguments = dict(command)
    name = arguments.pop("cmd")
    try:
        return {"ok": True, **getattr(worker, name)(**arguments)}
    except EngineError as error:
        return _failure(type(error).__name__, str(error), error.exit_code)
    except MemoryError:
        return _failure("MemoryBudgetError", "memory: expected enough, found none left", 1)
    except Exception as error:
        # A bug, ours or a library's: the parent shows where.
        return {
            **_failure("", f"{type(error).__name__}: {error}", 1),
            "trace": traceback.format_exc(),
        }


def _failure(kind: str, message: str, exit_code: int) -> dict[str, Any]:
    return {"ok": False, "kind": kind, "message": message, "exit_code": exit_code}


def load_function(spec: str) -> Any:
    """The function that 'module:name' names."""
    module, _, name = spec.partition(":")
    if not name:
        raise OptionError(f"worker model: expected 'module:function', found {spec!r}")
    return getattr(importlib.import_module(module), name)


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends, however it ends (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Serve commands until stdin ends."""
    die_with_parent(int(sys.argv[2]))
    # Ctrl-C goes to the whole terminal group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.dup(1)
    os.dup2(2, 1)
    worker = load_function(sys.argv[1])()
    for line in sys.stdin.buffer:
        reply = handle(worker, json.loads(line))
        os_write_all(replies, json.dumps(reply, allow_nan=False).encode() + b"\n")


def os_write_all(fd: int, data: bytes) -> None:
    """Write all of it; a pipe takes large replies in parts."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


if __name__ == "__main__":
    main()
