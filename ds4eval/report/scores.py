"""One run to scores: per group and over all, with intervals, chance, repeats and what was cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ds4eval.compare.pairs import (
    Answered,
    AnsweredRun,
    budget_tokens,
    check_by,
    given_of,
    verdict_of,
)
from ds4eval.documents import section
from ds4eval.grading.grade import GRADERS, PASS
from ds4eval.records.record import HARD, LIMIT, NATURAL, SKIPPED, SOFT
from ds4eval.report.budget import BudgetCurve, budget_curve
from ds4eval.stats import scores as stats
from engine.tooling.report.intervals import Interval
from engine.tooling.report.labels import clean_label

ALL = "all"
NO_GROUP = "(none)"


@dataclass(frozen=True, slots=True)
class Score:
    """Scores of one group of questions. Shares are fractions of 1.

    Attributes
    ----------
    name : str
    n, answers : int
        Questions, and answers that count.
    passed : int
        Answers graded as right.
    interval : Interval
        Avg@k over questions: one question is one observation however often it was asked.
    graders : dict of str to float
        Avg@k by every grader.
    pass_at : dict of int to float
        Unbiased pass@k for each k in 1, 2, 4, ... up to the fewest repeats of a question.
    majority : float or None
        Maj@k; None without repeats.
    decoding_se : float or None
        Standard error from sampling alone; None without repeats.
    chance : float
        Expected score of blind guessing.
    guess_p : float or None
        Probability that guessing does as well; None with repeats, which are not independent.
    cut, closed, skipped, no_answer, missed : int
        Answers ended by the token limit, with thinking closed by force, too long to be asked,
        without an answer, and right but in another form than asked for (lenient, not strict).
    without_cut : tuple of (float, int) or None
        Score and number of answers that no budget touched.
    tokens, median_tokens : float or None
        Generated tokens per answer.
    seconds : float or None
        Time of all answers.
    """

    name: str
    n: int
    answers: int
    passed: int
    interval: Interval
    graders: dict[str, float]
    pass_at: dict[int, float]
    majority: float | None
    decoding_se: float | None
    chance: float
    guess_p: float | None
    cut: int
    closed: int
    skipped: int
    no_answer: int
    missed: int
    without_cut: tuple[float, int] | None
    tokens: float | None
    median_tokens: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class RunScores:
    """Everything that a report says of one run.

    Attributes
    ----------
    arm : AnsweredRun
    grader, by : str
    groups : list of Score
    overall : Score
    macro : Interval or None
        Mean of the groups' scores; None for a single group.
    whole : tuple of (Interval, int) or None
        Estimate for the data set that the questions are a stratified sample of, and its size.
    low, high : float
        Score if every unfinished or cut answer were wrong, and if it were right.
    budget : BudgetCurve
        Score over smaller budgets.
    closes : dict of str to int
        How thinking closed, by kind.
    facts : list of (str, str)
        What a reader must know of where the numbers come from.
    """

    arm: AnsweredRun
    grader: str
    by: str
    groups: list[Score]
    overall: Score
    macro: Interval | None
    whole: tuple[Interval, int] | None
    low: float
    high: float
    budget: BudgetCurve
    closes: dict[str, int] = field(default_factory=dict)
    facts: list[tuple[str, str]] = field(default_factory=list)


def score_of(name: str, questions: Sequence[Answered], grader: str) -> Score:
    """Score one group of questions.

    Raises
    ------
    ValueError
        If it is empty.
    """
    samples = [s for q in questions for s in q.samples]
    counts = [len(q.samples) for q in questions]
    passed = [q.passed(grader) for q in questions]
    fewest = min(counts, default=0)
    untouched = [s for s in samples if not s.truncated and s.stop != SKIPPED]
    right = sum(verdict_of(s, grader) == PASS for s in untouched)
    tokens = [s.gen_tokens for s in samples if s.gen_tokens is not None]
    seconds = [s.decode_s + (s.prefill_s or 0.0) for s in samples if s.decode_s is not None]
    chances = [q.chance for q in questions]
    repeated = max(counts, default=0) > 1
    return Score(
        name=name,
        n=len(questions),
        answers=len(samples),
        passed=sum(passed),
        interval=stats.clustered([q.mean(grader) for q in questions]),
        graders={g: math.fsum(q.mean(g) for q in questions) / len(questions) for g in GRADERS},
        pass_at={
            k: math.fsum(stats.pass_at_k(n, c, k) for n, c in zip(counts, passed)) / len(questions)
            for k in _powers(fewest)
        },
        majority=math.fsum(_majority(q, grader) for q in questions) / len(questions)
        if repeated
        else None,
        decoding_se=stats.decoding_se(passed, counts),
        chance=math.fsum(chances) / len(questions),
        guess_p=None if repeated else stats.guess_tail(chances, sum(passed)),
        cut=sum(s.stop == LIMIT for s in samples),
        closed=sum(s.close == HARD for s in samples),
        skipped=sum(s.stop == SKIPPED for s in samples),
        no_answer=sum(verdict_of(s, grader) not in ("pass", "fail") for s in samples),
        missed=sum(s.other_form for s in samples),
        without_cut=(right / len(untouched), len(untouched)) if untouched else None,
        tokens=math.fsum(tokens) / len(tokens) if tokens else None,
        median_tokens=median(tokens) if tokens else None,
        seconds=math.fsum(seconds) if seconds else None,
    )


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    found = [1 << i for i in range(most.bit_length()) if 1 << i <= most]
    return found if not most or found[-1] == most else [*found, most]


def _majority(question: Answered, grader: str) -> float:
    right = [verdict_of(s, grader) == PASS for s in question.samples]
    # Words and LaTeX have many spellings of the key, which are one answer.
    open_form = question.samples[0].kind in ("text", "latex")
    answers = [
        s.expected if open_form and passed else given_of(s, grader)
        for s, passed in zip(question.samples, right)
    ]
    return stats.majority(answers, right)


def scores_of(arm: AnsweredRun, grader: str = "strict", by: str = "source") -> RunScores:
    """Scores of a run, by `by` ('source', 'domain', 'kind' or a stratum) and over all.

    Raises
    ------
    OptionError
        If the run knows nothing by the name of `by`.
    """
    check_by(arm, by)
    parts: dict[str, list[Answered]] = {}
    for question in arm.questions:
        parts.setdefault(question.group(by) or NO_GROUP, []).append(question)
    groups = [score_of(name, part, grader) for name, part in parts.items()]
    overall = score_of(ALL, arm.questions, grader)
    macro = None
    if len(parts) > 1:
        macro = stats.macro([[q.mean(grader) for q in part] for part in parts.values()])
    doubtful = sum(s.truncated and verdict_of(s, grader) != PASS for s in arm.samples)
    cut_right = sum(s.truncated and verdict_of(s, grader) == PASS for s in arm.samples)
    total = max(arm.selected, overall.answers)
    closes = {kind: sum(s.close == kind for s in arm.samples) for kind in (NATURAL, SOFT, HARD)}
    return RunScores(
        arm=arm,
        grader=grader,
        by=by,
        groups=groups,
        overall=overall,
        macro=macro,
        whole=_whole(arm, grader),
        low=(overall.passed - cut_right) / total,
        high=(overall.passed + doubtful + arm.unfinished) / total,
        budget=budget_curve(
            [[(s, verdict_of(s, grader) == PASS) for s in q.samples] for q in arm.questions]
        ),
        closes={kind: count for kind, count in closes.items() if count},
        facts=facts_of(arm),
    )


def _whole(arm: AnsweredRun, grader: str) -> tuple[Interval, int] | None:
    """Estimate for the whole data set; None unless every stratum of it was asked of."""
    data = arm.run.manifest.get("data")
    data = data if isinstance(data, dict) else {}
    names, sizes = data.get("strata"), data.get("population")
    if not (isinstance(names, list) and names and isinstance(sizes, dict)):
        return None
    groups: dict[str, list[float]] = {}
    for question in arm.questions:
        # The manifest's spelling: values joined, a dash for none.
        stratum = " / ".join(question.group(str(name)) or "-" for name in names)
        groups.setdefault(stratum, []).append(question.mean(grader))
    known = [name for name, size in sizes.items() if isinstance(size, int)]
    if set(groups) != set(known) or any(len(groups[name]) > sizes[name] for name in known):
        return None
    interval = stats.stratified([groups[name] for name in known], [sizes[name] for name in known])
    return interval, sum(sizes[name] for name in known)


def facts_of(arm: AnsweredRun) -> list[tuple[str, str]]:
    """Circumstances of a run out of its configuration and manifest, as harmless text."""
    run = arm.run
    rows: list[tuple[str, Any]] = [("Run", run.run_id), ("Folder", run.folder.name)]
    for name in ("model", "data", "sampling", "budget"):
        rows += [(f"{name} {field}", text) for field, text in _flat(_settings(arm, name))]
    rows += [("thinking", run.config.get("think")), ("mode", run.config.get("mode"))]
    rows.append(("prompt version", run.config.get("prompt_version")))
    rows += [(f"recipe {field}", text) for field, text in _flat(run.manifest.get("recipe"))]
    rows.append(("headline", run.manifest.get("headline")))
    environment = run.manifest.get("environment")
    if isinstance(environment, dict):
        code, cpu, gpu = (environment.get(part) for part in ("code", "cpu", "gpu"))
        if isinstance(code, dict):
            dirty = " with uncommitted changes" if code.get("dirty") else ""
            rows.append(("commit", f"{code['commit']}{dirty}" if code.get("commit") else None))
        # Of a run over a server, an earlier release wrote down the machine that only asked.
        if section(run.config, "model").get("backend") != "remote":
            for label, part in (("processor", cpu), ("GPU", gpu)):
                rows.append((label, part.get("name") if isinstance(part, dict) else None))
            rows.append(("system", environment.get("system")))
    graders = sorted({s.grader_version for s in arm.samples if s.grader_version})
    rows.append(("grader version", ", ".join(graders)))
    if run.dropped_bytes:
        rows.append(("unreadable", f"{run.dropped_bytes} bytes at the end of the journal"))
    shown = [(clean_label(name, 60), clean_label(str(text), 160)) for name, text in rows
             if text not in (None, "", [], {})]  # fmt: skip
    return shown[:60]


def _settings(arm: AnsweredRun, name: str) -> Any:
    """A part of the configuration; a budget as it acted."""
    value = arm.run.config.get(name)
    if name != "budget" or not isinstance(value, dict):
        return value
    if section(arm.run.config, "model").get("backend") == "remote":
        value = {"tokens": None}  # limits of thinking, which no server obeys
    return {**value, "tokens": budget_tokens(arm)}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Leaves of nested settings with dotted names; lists as they are."""
    if isinstance(value, dict):
        return [
            leaf for name in value for leaf in _flat(value[name], f"{prefix}.{name}".strip("."))
        ]
    return [(prefix, value)] if prefix else []
