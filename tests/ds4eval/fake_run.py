"""A run to be killed, told through a pipe: each key is sent once its record is durable."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ds4eval.control import Control
from ds4eval.events import Finished
from ds4eval.records.store import RunStore
from ds4eval.run.runner import Recorder, run_serial
from tests.ds4eval.fakes import CONFIG, SETTINGS, FakeBackend, jobs


def work(folder: str, n: int, tell: Callable[[str], None], pause_s: float = 0.0) -> None:
    todo = jobs(n)
    with RunStore.open(Path(folder), CONFIG) as store:
        store.begin(todo, {})
        tell("begun")
        recorder = Recorder(store, SETTINGS, len(todo))
        for event in run_serial(todo, FakeBackend(), recorder, Control(), 99):
            if isinstance(event, Finished):
                tell(event.sample.key)
                time.sleep(pause_s)
        store.publish(force=True)
        tell("end")


def child(folder: str, n: int, conn: Connection) -> None:
    """What a process of the kill test does."""
    work(folder, n, conn.send, 0.001)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), lambda word: print(word, flush=True))
