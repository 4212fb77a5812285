"""A `ds4-bench` that measures nothing: writes a made-up run folder, as fast as a process starts.

Run as ``python fake_sweep.py --slower 0.97 --noise 0.004 --log FILE ... --out DIR``.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slower", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=0.004)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--fail", type=int, default=0)
    parser.add_argument("--sleep", type=float, default=0.0)
    parser.add_argument("--name", default="x")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.log:
        with options.log.open("a") as log:
            log.write(options.name)
    time.sleep(options.sleep)
    if options.fail:
        print("it broke")
        return options.fail
    from tests.ds4bench.speed_rows import sweep, write_journal

    seed = time.monotonic_ns() % 2**32
    rows = sweep(runs=1, slower=options.slower, noise=options.noise, seed=seed, ctx=(2048, 4096))
    write_journal(options.out, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
