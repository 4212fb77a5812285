"""Prints the collected figures as a table; writes them as JSON where DS4_ORACLE_JSON says."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.oracle.compare import RESULTS


def pytest_terminal_summary(terminalreporter):
    if not RESULTS:
        return
    terminalreporter.section("distance of logits")
    width = max(len(str(r["comparison"])) for r in RESULTS)
    head = f"{'comparison':{width}}  tokens    max abs        rms    top-1       KL"
    terminalreporter.write_line(head)
    for r in RESULTS:
        terminalreporter.write_line(
            f"{r['comparison']:{width}}  {r['tokens']:>6} {r['max_abs']:>10.3g} {r['rms']:>10.3g} "
            f"{100 * r['top1']:>7.1f}% {r['kl']:>8.2g}"
        )
    target = os.environ.get("DS4_ORACLE_JSON")
    if target:
        Path(target).write_text(json.dumps(RESULTS, indent=1) + "\n")
