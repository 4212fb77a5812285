"""Exports that CI services read: JUnit XML, github-action-benchmark JSON, a spreadsheet's CSV."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from ds4bench.compare.judge import Comparison, Line
from ds4bench.compare.stats import Verdict
from ds4bench.compare.view import headline, interval_text, percent
from ds4bench.records.csv_text import COLUMNS
from ds4bench.records.files import machine_bandwidth
from ds4bench.report import curves as plot_data
from ds4bench.report.curves import Source
from engine.tooling.report.labels import clean_label, safe_cell


def to_junit(comparisons: Sequence[Comparison], sources: Sequence[Source]) -> bytes:
    """A suite per comparison (a case per judged effect) and per run (a case per row)."""
    root = ET.Element("testsuites", name="ds4-bench")
    for comparison in comparisons:
        _comparison_suite(root, comparison)
    for source in sources:
        _run_suite(root, source)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _comparison_suite(root: ET.Element, comparison: Comparison) -> None:
    name = clean_label(f"{comparison.head} against {comparison.base}", 120)
    suite = ET.SubElement(root, "testsuite", name=name)
    if comparison.unlike:
        case = ET.SubElement(suite, "testcase", classname="ds4bench.compare", name="comparable")
        for difference in comparison.unlike:
            _child(case, "error", f"unlike in {difference}")
    else:
        for line in [*comparison.curves, *comparison.cells]:
            case = ET.SubElement(
                suite, "testcase", classname=f"ds4bench.compare.{line.metric}", name=line.name
            )
            if line.judgement.verdict in (Verdict.REGRESSED, Verdict.FAR_SLOWER):
                _child(case, "failure", _sentence(line))
            elif line.judgement.verdict is not Verdict.FINE:
                _child(case, "skipped", f"{line.judgement.verdict}: {_sentence(line)}")
    for kind, texts in (("broken", comparison.broken), ("outputs", comparison.outputs)):
        for text in texts:
            case = ET.SubElement(suite, "testcase", classname=f"ds4bench.compare.{kind}", name=text)
            _child(case, "failure", text)
    ET.SubElement(suite, "system-out").text = clean_label(headline(comparison), 300)
    _count(suite)


def _run_suite(root: ET.Element, source: Source) -> None:
    suite = ET.SubElement(root, "testsuite", name=clean_label(source.label))
    for row in source.run.rows:
        # Modes of a frontier share one prefill: it took its time once.
        prefill_s = None if row.prefill_shared else row.prefill_s
        seconds = (prefill_s or 0.0) + (row.gen_s or 0.0)
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"ds4bench.sweep.{row.series}",
            name=f"{row.ctx_tokens} tokens, run {row.run}",
            time=f"{seconds:.6f}",
        )
        if not row.ok:
            _child(case, "error", f"{row.status}: {row.message}")
        elif row.lossless is False:
            _child(case, "failure", "emitted other tokens than plain")
    _count(suite)


def _child(case: ET.Element, kind: str, text: str) -> None:
    # XML 1.0 has no way to write most control characters.
    ET.SubElement(case, kind, message=clean_label(text, 500))


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for name, kind in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))


def _sentence(line: Line) -> str:
    return (
        f"{percent(line.judgement.estimate.mean)}, "
        f"95 % interval {interval_text(line.judgement.interval)}, "
        f"tolerance {100 * line.judgement.tolerance:.3g} %"
    )


def bigger_is_better(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Entries of github-action-benchmark's `customBiggerIsBetter`.

    A name is a series there, so no two entries share one: of several runs, each carries its label.
    """
    entries = []
    for source in sources:
        of = f" ({clean_label(source.label)})" if len(sources) > 1 else ""
        for metric, read in (("prefill", plot_data.prefill), ("decode", plot_data.decode)):
            for curve in plot_data.curves(source, read):
                for place, ctx in enumerate(curve.ctx):
                    low, mid, high = (float(v[place]) for v in (curve.low, curve.mid, curve.high))
                    entry: dict[str, Any] = {
                        "name": clean_label(f"{metric} {curve.mode} at {ctx}") + of,
                        "unit": "tokens/s",
                        "value": round(mid, 4),
                        "extra": f"runs: {curve.repeats}; source: {clean_label(source.label)}",
                    }
                    if curve.repeats > 1:
                        entry["range"] = f"± {(high - low) / 2:.4g}"
                    entries.append(entry)
    return entries


def benchmark_json(sources: Sequence[Source]) -> bytes:
    """`bigger_is_better` as strict JSON."""
    text = json.dumps(bigger_is_better(sources), indent=1, allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def rows_csv(sources: Sequence[Source]) -> bytes:
    """Every row of every run with its label in front, for spreadsheets."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    names = [name for name in COLUMNS if name != "message"]
    writer.writerow(["label", *names, "message"])
    for source in sources:
        bandwidth = machine_bandwidth(source.run.environment)
        for row in source.run.rows:
            cells = [COLUMNS[name](row, bandwidth) for name in names]
            writer.writerow(
                [safe_cell(source.label), *cells, safe_cell(clean_label(row.message, 300))]
            )
    return out.getvalue().encode()
