"""`ds4-bench` with the fake worker, as a program: python -m tests.ds4bench.fake_cli OPTIONS."""

from __future__ import annotations

import functools

import ds4bench.sweep
from ds4bench.cli import main
from tests.ds4bench.fakes import SPEC

if __name__ == "__main__":
    ds4bench.sweep.Request = functools.partial(ds4bench.sweep.Request, worker=SPEC)
    # Sources may change under a long test; what is tested is not their hash.
    ds4bench.sweep.timed_code = lambda: "code"
    main()
