"""The final report as text: the table of the C program ds4-eval, then what its table lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ds4eval.questions.known import exam_of
from ds4eval.records.entries import Entry
from ds4eval.records.record import Sample


def clock_text(seconds: float) -> str:
    """Hours and minutes as the C program shows them."""
    minutes = int(seconds) // 60
    return f"{minutes // 60:02d}h:{minutes % 60:02d}m"


@dataclass(slots=True)
class Tally:
    """Counts of one source (or of all of them).

    `answered` are those with a final record: what the score is of. Skipped questions are wrong
    in it; what was stopped or broken is not in it and makes the run incomplete. `doubtful` are
    those that the budget cut before a right answer: with more tokens they might have had one.
    """

    selected: int = 0
    answered: int = 0
    graded: int = 0
    passed: int = 0
    failed: int = 0
    lenient: int = 0
    classic: int = 0
    other_form: int = 0
    truncated: int = 0
    doubtful: int = 0
    chance: float = 0.0
    think_tokens: int = 0
    gen_tokens: int = 0
    means: dict[str, list[int]] = field(default_factory=dict)

    @property
    def open(self) -> int:
        """Selected questions without a final record."""
        return self.selected - self.answered

    def add(self, entry: Entry, sample: Sample | None) -> None:
        self.selected += 1
        if sample is None or not sample.final:
            return
        self.answered += 1
        self.graded += sample.graded
        self.passed += sample.passed
        self.failed += sample.state == "FAILED"
        self.lenient += sample.lenient_verdict == "pass"
        self.classic += sample.classic_verdict == "pass"
        self.other_form += sample.other_form
        self.truncated += sample.truncated
        self.doubtful += sample.truncated and not sample.passed
        self.chance += entry.chance
        self.think_tokens += sample.think_tokens or 0
        self.gen_tokens += sample.gen_tokens or 0
        self.means.setdefault(entry.key, []).append(int(sample.passed))

    def question_means(self) -> list[float]:
        """Share of right repeats of every answered question."""
        return [sum(results) / len(results) for results in self.means.values()]


def tallies(entries: Sequence[Entry], samples: dict[int, Sample]) -> tuple[Tally, dict[str, Tally]]:
    """Counts of the whole selection and of each exam, in order of first appearance."""
    whole = Tally()
    parts: dict[str, Tally] = {}
    for entry in entries:
        sample = samples.get(entry.n)
        whole.add(entry, sample)
        parts.setdefault(exam_of(entry.source), Tally()).add(entry, sample)
    return whole, parts


def table(entries: Sequence[Entry], samples: dict[int, Sample]) -> str:
    """One row per question: `# state prompt gen total given correct test`."""
    states = [samples[entry.n].state if entry.n in samples else "PENDING" for entry in entries]
    wide = max(8, *(len(state) for state in states)) if states else 8
    head = ("#", "state", "prompt", "gen", "total", "given", "correct", "test")
    lines = [_row(head, wide)]
    for entry, state in zip(entries, states):
        sample = samples.get(entry.n)
        prompt, made, both = _counts(sample)
        given = sample.given if sample and sample.given not in ("", "?") else "-"
        cells = (entry.n, state, prompt, made, both, given, entry.expected, entry.name)
        lines.append(_row(cells, wide))
    return "\n".join(lines)


def _counts(sample: Sample | None) -> tuple[object, object, object]:
    """Tokens of prompt, reply and both; '-' where a server did not say, 0 where nobody asked."""
    if sample is None:
        return 0, 0, 0
    prompt, made = sample.prompt_tokens, sample.gen_tokens
    both = "-" if prompt is None or made is None else prompt + made
    return "-" if prompt is None else prompt, "-" if made is None else made, both


def _row(cells: Sequence[object], wide: int) -> str:
    n, state, prompt, made, total, given, correct, test = (str(cell) for cell in cells)
    return f"{n:>3} {state:<{wide}} {prompt:>8} {made:>8} {total:>8} {given:<8} {correct:<8} {test}"


def summary(entries: Sequence[Entry], samples: dict[int, Sample], repeats: int = 1) -> str:
    """Counts, the share that the budget cut, and scores by source with intervals."""
    whole, parts = tallies(entries, samples)
    states = [samples[entry.n].state for entry in entries if entry.n in samples]
    lines = [f"graded {whole.graded} of {whole.selected} selected"]
    counted = {state: states.count(state) for state in dict.fromkeys(states)}
    counted["PENDING"] = whole.selected - len(states)
    others = [
        f"{number} {state.lower()}"
        for state, number in counted.items()
        if number and state not in ("PASSED", "FAILED")
    ]
    if others:
        lines[0] += f"; {', '.join(others)}"
    if whole.answered:
        share = 100 * whole.truncated / whole.answered
        lines.append(
            f"budget: {whole.truncated} of {whole.answered} replies were cut or had their "
            f"thinking closed ({share:.1f} %)"
        )
    if not whole.answered:
        return "\n".join(lines)
    width = max(len(name) for name in [*parts, "all"])
    title = "score" if repeats == 1 else f"avg@{repeats}"
    named = next((one.headline for one in samples.values() if one.headline), "strict")
    lines += ["", f"{'source':<{width}} {'n':>5} {title:>7}  {'95 % interval':<15} "
              f"{'guess':>6} {'lenient':>8} {'classic':>8} {'cut':>5}"]  # fmt: skip
    if len(parts) > 1:
        parts = {**parts, "all": whole}
    lines += [_score(name, tally, width) for name, tally in parts.items() if tally.answered]
    lines.append(
        f"right, but in another form than asked for: {whole.other_form} of {whole.answered}"
        + ("" if named == "strict" else f" (the score is that of the {named} grader)")
    )
    if whole.doubtful:
        low = whole.passed / whole.answered
        high = (whole.passed + whole.doubtful) / whole.answered
        lines.append(
            f"a score at this budget: with the {whole.doubtful} cut replies that have no right "
            f"answer all wrong {100 * low:.1f} %, all right {100 * high:.1f} %"
        )
    lines += _curve(entries, samples)
    if whole.open:
        low = whole.passed / whole.selected
        high = (whole.passed + whole.open) / whole.selected
        lines.append(
            f"with the {whole.open} open questions all wrong {100 * low:.1f} %, "
            f"all right {100 * high:.1f} %"
        )
    return "\n".join(lines)


def _curve(entries: Sequence[Entry], samples: dict[int, Sample]) -> list[str]:
    """Score over budget, where replies are long enough for a budget to matter."""
    from ds4eval.report.budget import budget_curve, curve_line

    questions: dict[str, list[tuple[Sample, bool]]] = {}
    for entry in entries:
        sample = samples.get(entry.n)
        if sample is not None and sample.final:
            questions.setdefault(entry.key, []).append((sample, sample.passed))
    curve = budget_curve(list(questions.values()))
    return [curve_line(curve)] if curve.notable else []


def _score(name: str, tally: Tally, width: int) -> str:
    from ds4eval.stats.scores import clustered

    interval = clustered(tally.question_means())
    n = tally.answered
    bounds = f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return (
        f"{name:<{width}} {len(tally.means):>5} {100 * interval.estimate:>6.1f}%  {bounds:<15} "
        f"{100 * tally.chance / n:>5.1f}% {100 * tally.lenient / n:>7.1f}% "
        f"{100 * tally.classic / n:>7.1f}% {100 * tally.truncated / n:>4.0f}%"
    )


def report(entries: Sequence[Entry], samples: dict[int, Sample], repeats: int = 1) -> str:
    """The whole report, ending with a line feed. Runtime is the time spent on the replies shown."""
    whole, _ = tallies(entries, samples)
    head = f"ds4-eval: {whole.passed}/{whole.selected} passed"
    wrong = whole.answered - whole.passed
    if wrong:
        head += f", {wrong} failed"
    seconds = sum((s.prefill_s or 0.0) + (s.decode_s or 0.0) for s in samples.values())
    head += f", runtime {clock_text(seconds)}"
    return "\n".join([head, table(entries, samples), "", summary(entries, samples, repeats)]) + "\n"
