r"""Tells whether two answers in LaTeX have one value, by the package math-verify.

Computer algebra on text that a model wrote can take for ever: it is done in a process of its own,
one for all questions, which is ended when a pair takes longer than `LIMIT_S`. Equal texts and
plain numbers are told without it. A run that has LaTeX answers needs the package from its start
(`ds4eval.questions.source`), so that no verdict depends on what happens to be installed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import queue
import subprocess
import sys
import threading
from typing import Any

from ds4eval.grading.numbers import same_number

# A pair takes some hundredths of a second, the first one a second or two for the imports.
LIMIT_S = 20.0
# Longer answers are no answers, and what takes a parser's memory.
LONGEST = 400


# Ctrl-C is for this program: a process that it ended would turn a right answer into a wrong one.
_PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from {} import serve; serve()"
)


class MathVerifyMissing(RuntimeError):
    """The package is not installed, or its process does not begin."""


def same_value(key: str, given: str) -> bool:
    """Whether an answer has the key's value; False where computer algebra cannot tell.

    Raises
    ------
    MathVerifyMissing
        If the pair needs math-verify and it is not installed.
    """
    plain = "".join(given.split())
    if plain == "".join(key.split()) or same_number(key, given):
        return True
    if not plain or len(given) > LONGEST:
        return False
    return _judge.ask(key, given)


class _Judge:
    """The process that compares, begun when it is first needed and again after a timeout."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.Queue[str] = queue.Queue()
        self._lock = threading.Lock()
        self._reader = threading.Thread()

    def ask(self, key: str, given: str) -> bool:
        with self._lock:
            process = self._process or self._begin()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([key, given]) + "\n")
                process.stdin.flush()
                reply = self._replies.get(timeout=LIMIT_S)
            except (OSError, queue.Empty):
                self.end()
                return False
            if not reply:
                self.end()  # out of memory, or killed
                return False
            return bool(json.loads(reply))

    def _begin(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM.format(__name__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        replies: queue.Queue[str] = queue.Queue()
        assert process.stdout is not None
        lines = process.stdout
        if lines.readline().strip() != "ready":
            _close(process)
            raise MathVerifyMissing(
                "LaTeX answers: expected the package 'math-verify', found none installed "
                "(pip install 'ds4bench[latex]')"
            )

        def read() -> None:
            for line in lines:
                replies.put(line)
            replies.put("")

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        self._process, self._replies = process, replies
        return process

    def end(self) -> None:
        """End the process; the next pair begins another."""
        if self._process is not None:
            self._process.kill()
            self._reader.join()
            _close(self._process)
            self._process = None


def _close(process: subprocess.Popen[str]) -> None:
    """End a process and give back its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        # What was not written has nobody to read it.
        with contextlib.suppress(OSError):
            if pipe is not None:
                pipe.close()


_judge = _Judge()
atexit.register(_judge.end)


def serve() -> None:
    """Compare pairs from standard input until it ends: what the process of its own does."""
    _limit_memory()
    try:
        import math_verify
    except ImportError:
        print("missing", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        key, given = json.loads(line)
        try:
            found = _same(math_verify, key, given)
        except Exception:  # whatever computer algebra stumbles over is no equality
            found = False
        print(json.dumps(found), flush=True)


def _same(math_verify: Any, key: str, given: str) -> bool:
    def parsed(text: str) -> list[Any]:
        # Without a time limit of its own, which would need signals of the main thread.
        return list(math_verify.parse(f"${text}$", parsing_timeout=None))

    left, right = parsed(key), parsed(given)
    return bool(left and right and math_verify.verify(left, right, timeout_seconds=None))


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return  # Windows; the time limit holds there too
    most = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
