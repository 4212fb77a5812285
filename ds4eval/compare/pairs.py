"""Reads runs as answers per question, and pairs the questions of two runs.

It decides which answers count and what two runs must have in common to be compared; the
statistics are elsewhere (`ds4eval.stats.paired`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ds4eval.documents import section
from ds4eval.grading.grade import GRADERS, PASS
from ds4eval.plan import header_only, is_header_only
from ds4eval.questions.known import exam_of
from ds4eval.records.conditions import difference
from ds4eval.records.record import HARD, SOFT, UNFINISHED, Sample
from ds4eval.records.replay import Run, read_run
from engine.errors import OptionError, StoreError
from engine.tooling.report.labels import clean_label, unique_labels

# What must agree, or a difference is not the model's: what was asked, how it was answered, how it
# was graded. Model, engine and seed may differ: they are what is compared.
FIELDS = (
    "questions",
    "question",
    "permutation",
    "repeats",
    "prompt_version",
    "sampling",
    "think",
    "encoding",
    "budget",
    "grader",
)
_CONFIG_FIELDS = ("prompt_version", "sampling", "think", "encoding", "budget")
_FIRST_ENCODING = "first"  # of `engine.text.encoding`, as a test checks
# Limits of thinking; where they closed none, another value had changed no reply.
_CLOSING = ("soft", "hard", "rank", "cue")
# What each grader said of a sample, and the answer that it read.
_VERDICTS: dict[str, Callable[[Sample], tuple[str, str]]] = {
    "strict": lambda s: (s.verdict, s.given),
    "lenient": lambda s: (s.lenient_verdict, s.lenient_given),
    "ds4-classic": lambda s: (s.classic_verdict, s.classic_given),
}

Key = tuple[str, str]


def verdict_of(sample: Sample, grader: str) -> str:
    """'pass', 'fail', 'none' or '' (never graded) by one of the graders."""
    return _VERDICTS[grader](sample)[0]


def given_of(sample: Sample, grader: str) -> str:
    """Answer that a grader read out of the reply."""
    return _VERDICTS[grader](sample)[1]


def counts(sample: Sample) -> bool:
    """Whether a sample enters scores: answered, cut by its budget, or too long to be asked.

    Silently leaving out what was cut or skipped would raise a score. What the user stopped and
    what the machine broke says nothing of the model and is reported as unfinished.
    """
    return sample.stop not in UNFINISHED


@dataclass(frozen=True, slots=True)
class Answered:
    """One question with the samples that count, by repeat."""

    source: str
    id: str
    samples: tuple[Sample, ...]

    @property
    def key(self) -> Key:
        return self.source, self.id

    @property
    def chance(self) -> float:
        return self.samples[0].chance

    def passed(self, grader: str) -> int:
        return sum(verdict_of(s, grader) == PASS for s in self.samples)

    def mean(self, grader: str) -> float:
        return self.passed(grader) / len(self.samples)

    def group(self, by: str) -> str:
        """Value of what scores are broken down by: 'source', 'domain', 'kind' or a stratum.

        A question whose erratum was applied counts with its exam: as a source of its own, one
        question would weigh as much as 197 in a mean of sources.
        """
        sample = self.samples[0]
        named = {"source": exam_of(sample.source), "domain": sample.domain, "kind": sample.kind}
        return named[by] if by in named else sample.strata.get(by, "")


@dataclass(frozen=True, slots=True)
class AnsweredRun:
    """One run as the answers to its questions.

    Attributes
    ----------
    label : str
        Untrusted text without control characters.
    run : Run
    questions : tuple of Answered
        In the run's order; only those with a sample that counts.
    selected : int
        Answers that were asked for, repeats counted.
    """

    label: str
    run: Run
    questions: tuple[Answered, ...]
    selected: int

    @property
    def samples(self) -> list[Sample]:
        return [s for q in self.questions for s in q.samples]

    @property
    def unfinished(self) -> int:
        """Answers asked for that do not count yet."""
        return self.selected - len(self.samples)

    @property
    def repeats(self) -> int:
        """Largest number of answers to one question."""
        return max(len(q.samples) for q in self.questions)


def load_arms(paths: Sequence[Path]) -> list[AnsweredRun]:
    """Arms of several run folders or journals, labelled apart.

    Raises
    ------
    StoreError
        If one cannot be read, or holds no answer that counts.
    """
    labels = []
    for path in paths:
        folder = path if path.is_dir() else path.parent
        labels.append(clean_label(folder.resolve().name or str(path)))
    return [arm_of(read_run(path), label) for path, label in zip(paths, unique_labels(labels))]


def arm_of(run: Run, label: str) -> AnsweredRun:
    """A run as an arm.

    Raises
    ------
    StoreError
        If it holds no answer that counts.
    """
    if not isinstance(run.manifest, dict):  # a file for people, which people may edit
        run = replace(run, manifest={})
    by_question: dict[Key, dict[int, Sample]] = {}
    for sample in run.samples:
        if counts(sample):
            by_question.setdefault((sample.source, sample.id), {})[sample.repeat] = sample
    if not by_question:
        raise StoreError(f"{run.folder}: expected at least one answered question, found none")
    questions = tuple(
        Answered(source, id, tuple(repeats[r] for r in sorted(repeats)))
        for (source, id), repeats in by_question.items()
    )
    asked = {(s["source"], s["id"], s["repeat"]) for s in run.selected}
    asked |= {(s.source, s.id, s.repeat) for s in run.samples}
    return AnsweredRun(label, run, questions, len(asked))


@dataclass(frozen=True, slots=True)
class Unlike:
    """A field in which two runs differ although they should not."""

    name: str
    detail: str
    a: object
    b: object

    def __str__(self) -> str:
        subject = clean_label(self.detail, 160)
        return f"{subject}: expected {_shown(self.a)}, found {_shown(self.b)}"


def _shown(value: object) -> str:
    text = "unknown" if value is None else value if isinstance(value, str) else repr(value)
    return clean_label(text, 160)


def check_by(arm: AnsweredRun, by: str) -> None:
    """Refuse a breakdown that the run knows nothing of.

    Raises
    ------
    OptionError
        Naming the fields there are.
    """
    if by == "source" or any(q.group(by) for q in arm.questions):
        return
    strata = sorted({name for s in arm.samples for name, value in s.strata.items() if value})
    named = [name for name in ("domain", "kind") if any(q.group(name) for q in arm.questions)]
    known = ["source", *named, *(clean_label(name) for name in strata)]
    raise OptionError(
        f"--by: expected one of {', '.join(known[:20])}, which the answers of {arm.label} have, "
        f"found {by!r}"
    )


def unlike(a: AnsweredRun, b: AnsweredRun, grader: str) -> list[Unlike]:
    """Fields that make two runs incomparable, each at its first difference."""
    found = []
    ours, theirs = _asked(a), _asked(b)
    if ours != theirs:
        only = f"{len(ours - theirs)} only in {a.label}, {len(theirs - ours)} only in {b.label}"
        detail = f"questions ({only})"
        found.append(Unlike("questions", detail, f"{len(ours)} asked", f"{len(theirs)} asked"))
    first, second = _by_key(a), _by_key(b)
    common = [key for key in first if key in second]
    for name, field in (("permutation", "permutation"), ("question", "question_sha256")):
        for key in common:
            x, y = getattr(first[key], field), getattr(second[key], field)
            # A trace does not say how choices were shuffled; the question's hash covers it.
            same = first[key].question_sha256 == second[key].question_sha256
            unknown = name == "permutation" and not (x and y) and same
            if x != y and not unknown:
                shown = [str(v)[:12] if name == "question" else v for v in (x, y)]
                found.append(Unlike(name, f"{name} of {'/'.join(key)}", *shown))
                break
        if found and found[-1].name == "permutation":
            break  # the hash covers the order of choices: one cause, one line
    if a.repeats != b.repeats:
        found.append(Unlike("repeats", "repeats", a.repeats, b.repeats))
    acted = any(s.close in (SOFT, HARD) for arm in (a, b) for s in arm.samples)
    for name in _CONFIG_FIELDS:
        changed = difference(_condition(a, name, acted), _condition(b, name, acted), name)
        if changed is not None:
            found.append(Unlike(name, *changed))
    graders = [sorted({s.grader_version for s in arm.samples}) for arm in (a, b)]
    if grader not in GRADERS:
        raise OptionError(f"--grader: expected one of {', '.join(GRADERS)}, found {grader!r}")
    if graders[0] != graders[1]:
        found.append(Unlike("grader", "grader", *(", ".join(g) for g in graders)))
    return found


def _asked(arm: AnsweredRun) -> set[Key]:
    """Questions selected in a run; a run that was stopped asked the same ones."""
    asked = {(s["source"], s["id"]) for s in arm.run.selected}
    return asked or {q.key for q in arm.questions}


def _by_key(arm: AnsweredRun) -> dict[Key, Sample]:
    return {q.key: q.samples[0] for q in arm.questions}


def _condition(arm: AnsweredRun, name: str, acted: bool) -> object:
    """A field of the configuration without what changes no reply or is compared on purpose."""
    if name == "encoding":
        # Records from before there was a choice are of the first release.
        return section(arm.run.config, "model").get("encoding", _FIRST_ENCODING)
    value = arm.run.config.get(name)
    if name == "sampling" and isinstance(value, dict):
        return {k: v for k, v in value.items() if k != "seed"}
    if name == "budget" and isinstance(value, dict):
        kept = {k: v for k, v in value.items() if acted or k not in _CLOSING}
        return {**kept, "tokens": budget_tokens(arm)}
    return value


def budget_tokens(arm: AnsweredRun) -> int | str | None:
    """Budget of a run, also after --retry-cut; words where replies were cut at several.

    What no budget touched is the same under every larger one: a run whose cut replies were all
    asked for again at a larger budget is a run of that budget.
    """
    own = section(arm.run.config, "budget").get("tokens")
    tokens = {s.budget_tokens or own for s in arm.samples if s.touched}
    largest = max((s.budget_tokens or 0 for s in arm.samples), default=0)
    if not largest:
        return own if isinstance(own, int) else None
    if tokens <= {largest}:
        return largest
    return " and ".join(sorted(map(str, tokens | {largest}), key=lambda text: (len(text), text)))


def treatment(a: AnsweredRun, b: AnsweredRun) -> list[str]:
    """What the two runs differ in on purpose: first difference of model, mode and seed."""
    lines = []
    ours, theirs = a.run.config, b.run.config
    known = [is_header_only(config) for config in (ours, theirs)]
    if any(known) and not all(known):
        # All that an earlier release wrote down is all that can be compared.
        ours, theirs = header_only(ours), header_only(theirs)
    for name in ("model", "mode"):
        changed = difference(ours.get(name), theirs.get(name), name)
        if changed is not None:
            field, x, y = changed
            lines.append(f"{clean_label(field, 80)}: {_shown(x)} against {_shown(y)}")
    seeds = [section(arm.run.config, "sampling").get("seed") for arm in (a, b)]
    if seeds[0] != seeds[1]:
        lines.append(f"seed: {_shown(seeds[0])} against {_shown(seeds[1])}")
    return lines


def weights_unknown(a: AnsweredRun, b: AnsweredRun) -> list[str]:
    """A line where a run of an earlier release knows its model file by the header alone."""
    named = [arm.label for arm in (a, b) if is_header_only(arm.run.config)]
    if not named:
        return []
    return [
        f"header only: {' and '.join(named)}: an earlier release did not tell model files with "
        "equal headers and other weights apart"
    ]


@dataclass(frozen=True, slots=True)
class Pair:
    """One question answered in both runs."""

    a: Answered
    b: Answered

    def common(self) -> list[tuple[Sample, Sample]]:
        """Samples of the repeats that both runs have."""
        other = {s.repeat: s for s in self.b.samples}
        return [(s, other[s.repeat]) for s in self.a.samples if s.repeat in other]


def first_divergence(a: Sample, b: Sample) -> int | None:
    """Characters that two replies share from their beginning; -1 when the replies are equal.

    None where a reply's text was not kept.
    """
    if a.output == b.output:
        return (
            -1 if a.output or (a.output_sha256 == b.output_sha256 and a.gen_tokens == 0) else None
        )
    if not a.output or not b.output:
        return 0 if 0 in (a.gen_tokens, b.gen_tokens) else None
    return common_prefix(a.output, b.output)


def common_prefix(a: str, b: str) -> int:
    """Length of the text that both begin with, found by halving: replies may be megabytes."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def pairs_of(a: AnsweredRun, b: AnsweredRun) -> list[Pair]:
    """Questions that both runs answered, in A's order."""
    other = {q.key: q for q in b.questions}
    return [Pair(q, other[q.key]) for q in a.questions if q.key in other]
