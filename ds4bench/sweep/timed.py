"""Which sources run in the timed process; a journal whose rows came of others is not continued.

It does not know what a row is.
"""

from __future__ import annotations

from pathlib import Path

from engine.tooling.results.environment import sources_sha256

ROOT = Path(__file__).resolve().parents[2]  # the folder of the packages
# Of ds4bench, what the timed process imports beside `ds4bench.worker`.
WORKER_NEEDS = (
    *("__init__.py", "plan.py", "telemetry/__init__.py", "telemetry/roofline.py"),
    *("panel/__init__.py", "panel/texts.py", "records/__init__.py", "records/derived.py"),
)


def timed_code() -> str:
    """Hash of the sources that run in the timed process: rows of another code never mix."""
    return sources_sha256(timed_sources(), ROOT)


def timed_sources() -> list[Path]:
    """The files that `timed_code` hashes: all of the engine, and what the worker needs of ours."""
    package = ROOT / "ds4bench"
    ours = [*package.joinpath("worker").rglob("*.py"), *(package / name for name in WORKER_NEEDS)]
    return [*sorted((ROOT / "engine").rglob("*.py")), *sorted(ours)]
