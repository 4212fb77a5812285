"""A run to be killed: `python fake_run.py FOLDER N [slow]`; prints each key once it is durable."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ds4eval.events import Finished
from ds4eval.runner import Control, Recorder, run_serial
from ds4eval.store import RunStore
from tests.ds4eval.fakes import CONFIG, SETTINGS, FakeBackend, jobs


def main(folder: str, n: str, pause: str = "0") -> None:
    todo = jobs(int(n))
    with RunStore.open(Path(folder), CONFIG) as store:
        store.begin(todo, {})
        print("begun", flush=True)
        recorder = Recorder(store, SETTINGS, len(todo))
        for event in run_serial(todo, FakeBackend(), recorder, Control(), 99):
            if isinstance(event, Finished):
                print(event.sample.key, flush=True)
                time.sleep(float(pause))
        store.publish(force=True)
        print("end", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
