"""Turns a finished run into an exit status: completeness, thresholds, regression."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ds4eval.records.entries import Entry
from ds4eval.records.record import Sample
from ds4eval.records.replay import Run, read_run
from ds4eval.report.text import tallies
from ds4eval.request import GateOptions
from engine.errors import OptionError, StoreError
from engine.tooling.exits import OK, PARTIAL, REGRESSION, say


def check_baseline(path: Path | None) -> Run | None:
    """The baseline, read before anything is computed.

    Raises
    ------
    OptionError
        If there is no run.
    """
    if path is None:
        return None
    try:
        return read_run(path)
    except StoreError as error:
        raise OptionError(f"--baseline: {error}") from None


def check_headline(samples: Iterable[Sample], headline: str, folder: Path) -> None:
    """Refuse to go on with a run whose score another grader decides.

    Raises
    ------
    OptionError
        Naming both graders and the command that changes a run's.
    """
    found = {sample.headline or "strict" for sample in samples if sample.graded}
    if found - {headline}:
        raise OptionError(
            f"--headline: expected the run's own {sorted(found - {headline})[0]}, found {headline} "
            f"(`ds4-eval regrade {folder} --headline {headline} --write` changes the run's)"
        )


def judge(
    entries: Sequence[Entry], samples: dict[int, Sample], gates: GateOptions, baseline: Run | None
) -> int:
    """Exit status of a run that was not interrupted; reasons are said on stderr.

    An incomplete run is told as such before any threshold: its score is not the suite's.
    """
    whole, _ = tallies(entries, samples)
    if whole.open:
        say(f"incomplete: {whole.open} of {whole.selected} questions have no final answer")
        return PARTIAL
    score = 100 * whole.passed / whole.selected
    cut = 100 * whole.truncated / whole.selected
    if gates.max_truncated is not None and cut > gates.max_truncated:
        say(f"--max-truncated: expected at most {gates.max_truncated:g} %, found {cut:.1f} %")
        return PARTIAL
    status = OK
    if gates.fail_under is not None and score < gates.fail_under:
        say(f"--fail-under: expected at least {gates.fail_under:g} %, found {score:.1f} %")
        status = REGRESSION
    if baseline is not None and _regressed(entries, samples, gates, baseline):
        status = REGRESSION
    if gates.strict_exit and whole.passed < whole.selected:
        say(f"--strict-exit: {whole.selected - whole.passed} answers are wrong")
        status = REGRESSION
    return status


def _regressed(
    entries: Sequence[Entry], samples: dict[int, Sample], gates: GateOptions, baseline: Run
) -> bool:
    """Whether the score on shared questions fell by more than is allowed."""
    before = {(s.source, s.id, s.repeat): s for s in baseline.samples if s.final}
    pairs = []
    for entry in entries:
        old = before.get((entry.source, entry.id, entry.repeat))
        if old is not None:
            pairs.append((old, samples[entry.n]))
    if not pairs:
        say(f"--baseline: expected shared questions, found none in {baseline.folder}")
        return True
    other = [old.id for old, new in pairs if old.question_sha256 != new.question_sha256]
    if other:
        say(f"--baseline: expected the same questions, found {len(other)} that differ: {other[0]}")
        return True
    fell = sum(old.passed for old, _ in pairs) - sum(new.passed for _, new in pairs)
    points = 100 * fell / len(pairs)
    allowed = gates.max_regression or 0.0
    worse = sum(old.passed and not new.passed for old, new in pairs)
    better = sum(new.passed and not old.passed for old, new in pairs)
    say(
        f"baseline: {-points:+.1f} points on {len(pairs)} shared questions "
        f"({better} better, {worse} worse; `ds4-eval compare` judges whether that is noise)"
    )
    return points > allowed
