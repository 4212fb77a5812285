"""Everything that only a GPU can confirm, as a list of claims and the commands that test them.

    python -m tests.cuda.confirm --list         what would be run, and what each answers
    python -m tests.cuda.confirm --out FOLDER   run it; `make confirm-gpu` does

What a simulation can prove is proved by `make test-cuda` without a GPU: results, bits, orders that
a graph allows, machine code. Here is the rest. Steps are run in the order of what is needed most;
each leaves its output in a file and its verdict in `confirm.json` as soon as it ends, and one that
fails does not keep the next from running. What was measured before a machine goes away is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
BENCH = (sys.executable, "-m", "ds4bench.cli", "gpu")


@dataclass(frozen=True)
class Step:
    """One command.

    Parameters
    ----------
    name : str
        Also of the file that keeps its output.
    claim : str
        What is not known before it has run.
    command : tuple of str
        ``{out}`` stands for the folder of results.
    minutes : float
        After which it is ended; what it wrote stays.
    """

    name: str
    claim: str
    command: tuple[str, ...]
    minutes: float


STEPS = (
    Step(
        "bits",
        "graphs with branches and early launches, and each without, give the bits of single "
        "launches; a run repeats itself; another thread may use the device",
        (*PYTEST, "-m", "gpu", "tests/cuda/test_gpu.py", "-k", "not 65536"),
        4,
    ),
    Step(
        "steps",
        "seconds of a step at 2,048 and 65,536 tokens, every launch at its true position, and each "
        "switch of DS4_CUDA_VARIANT on and off in turns",
        (*BENCH, "--layers", "8", "--skip-sweep", "--out", "{out}/steps"),
        8,
    ),
    Step(
        "drafts",
        "a DSpark drafter's recorded passes give plain's tokens; seconds of its parts",
        (
            *(sys.executable, "-m", "ds4bench.cli", "--nano", "q8", "--cuda"),
            *("--mode", "plain", "--mode", "dspark", "--mode", "dspark-strict"),
            *("--ctx-start", "2048", "--ctx-max", "2048", "--gen-tokens", "512"),
            *("--force", "--csv", "{out}/drafts.csv"),
        ),
        4,
    ),
    Step("predicted-h100", "what the model expects of an H100", (*BENCH, "--predict", "h100"), 2),
    Step("predicted-h200", "what the model expects of an H200", (*BENCH, "--predict", "h200"), 2),
    Step("predicted-gb10", "what the model expects of a GB10", (*BENCH, "--predict", "gb10"), 2),
    Step(
        "sanitizer",
        "no access outside of memory, no race between threads of a block",
        (*PYTEST, "tests/cuda/test_sanitizer.py"),
        6,
    ),
    Step(
        "kernels",
        "every kernel computes on the device what it does in simulation",
        (*PYTEST, "-m", "cuda and not slow", "tests/cuda"),
        30,
    ),
    Step(
        "long",
        "65,536 tokens of the bundled model, whatever the chunk",
        (*PYTEST, "-m", "gpu", "tests/cuda/test_gpu.py", "-k", "65536"),
        10,
    ),
    Step(
        "sweep",
        "all decode modes over context lengths, with as many layers as fit",
        (*BENCH, "--out", "{out}/sweep"),
        30,
    ),
)


def run(steps: Sequence[Step], out: Path) -> list[dict[str, Any]]:
    """Run the steps; returns, and keeps in `confirm.json`, what became of each."""
    out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for step in steps:
        command = [word.replace("{out}", str(out)) for word in step.command]
        print(f"{step.name}: {step.claim}", flush=True)
        result: dict[str, Any] = {"step": step.name, "claim": step.claim, "command": command}
        result["began"] = _now()
        results.append(result | {"status": None, "ended": None})
        _keep(out, results)
        with open(out / f"{step.name}.txt", "wb") as file:
            try:
                environment = {**os.environ, "DS4_TEST_DEVICE": "gpu"}
                status: int | None = subprocess.run(
                    command, env=environment, stdout=file, stderr=subprocess.STDOUT,
                    timeout=60 * step.minutes, check=False,
                ).returncode  # fmt: skip
            except subprocess.TimeoutExpired:
                status = None
        results[-1] = result | {"status": status, "ended": _now()}
        _keep(out, results)
        said = {0: "passed", None: "ran out of time"}.get(status, f"FAILED ({status})")
        print(f"  {said}; see {out / step.name}.txt", flush=True)
    return results


def _now() -> str:
    """Time of day, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _keep(out: Path, results: list[dict[str, Any]]) -> None:
    """Whole file or none: the machine may go away at any moment."""
    part = out / "confirm.json.part"
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(out / "confirm.json")


def main(argv: Sequence[str] | None = None, steps: Sequence[Step] = STEPS) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.confirm", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the steps and run none")
    parser.add_argument("--out", type=Path, default=Path("confirm"))
    parser.add_argument("names", nargs="*", help="steps to run; all by default")
    options = parser.parse_args(argv)
    unknown = set(options.names) - {step.name for step in steps}
    if unknown:
        parser.error(f"expected names of steps, found {', '.join(sorted(unknown))}")
    chosen = [step for step in steps if not options.names or step.name in options.names]
    if options.list:
        for step in chosen:
            print(f"{step.name}: {step.claim}\n    {' '.join(step.command)}")
        return 0
    return int(any(result["status"] != 0 for result in run(chosen, options.out)))


if __name__ == "__main__":
    sys.exit(main())
