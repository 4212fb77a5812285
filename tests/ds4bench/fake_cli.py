"""`ds4-bench` with the fake worker, as a program: python -m tests.ds4bench.fake_cli OPTIONS."""

from __future__ import annotations

import functools

from ds4bench.cli import main
from ds4bench.sweep import circumstances, run
from tests.ds4bench.fakes import SPEC

if __name__ == "__main__":
    run.SweepRequest = functools.partial(run.SweepRequest, worker=SPEC)
    # Sources may change under a long test; what is tested is not their hash.
    run.timed_code = lambda: "code"
    # What else runs on this machine is no part of what tests say.
    circumstances.busy_pct = lambda wait_s: 0.0
    main()
