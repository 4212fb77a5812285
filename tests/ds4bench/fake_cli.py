"""`ds4-bench` with the fake worker, as a program: python -m tests.ds4bench.fake_cli OPTIONS."""

from __future__ import annotations

import functools

import ds4bench.sweep.run
from ds4bench.cli import main
from tests.ds4bench.fakes import SPEC

if __name__ == "__main__":
    ds4bench.sweep.run.Request = functools.partial(ds4bench.sweep.run.Request, worker=SPEC)
    # Sources may change under a long test; what is tested is not their hash.
    ds4bench.sweep.run.timed_code = lambda: "code"
    main()
