"""Chooses the questions of a run: the suite, named or implied by the data at hand, and its part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec

from ds4eval.documents import Document
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.loaders import LOADER_VERSION, local_paths
from ds4eval.questions.long import VERSION as LONG_VERSION
from ds4eval.questions.nano import GENERATOR_VERSION
from ds4eval.questions.presets import PRESETS
from ds4eval.questions.question import Question
from ds4eval.questions.suites import Suite, load_suite, select
from ds4eval.request import DataOptions
from engine.errors import OptionError
from engine.tooling.exits import say

HINT = (
    "the real exams: `ds4-eval fetch aime25`, `fetch gpqa-diamond`, `fetch supergpqa`, "
    "then --suite NAME; `ds4-eval list` shows all"
)
# What a data set that was named alone stands for; all 26,529 of SuperGPQA would take weeks.
_ALONE = {"supergpqa": "supergpqa-500"}


@dataclass(frozen=True, slots=True)
class Source:
    """Chosen questions and where they come from."""

    suite: str
    questions: tuple[Question, ...]
    whole: Suite
    choice_seed: int
    errata: bool

    def asked(self, form: str) -> Source:
        """The same questions, their answers asked for in this form."""
        if form == "line":
            return self
        return replace(self, questions=tuple(replace(q, form=form) for q in self.questions))

    def config(self) -> Document:
        """The data's part of a run's configuration."""
        long = self.suite == "long"
        generated = {"nano": GENERATOR_VERSION, "long": f"{GENERATOR_VERSION}.{LONG_VERSION}"}
        return {
            "suite": self.suite,
            "datasets": {part.name: part.sha256 for part in self.whole.datasets},
            "choice_seed": self.choice_seed if self.whole.datasets or long else 0,
            "errata": self.errata,
            "loader": LOADER_VERSION,
            "generator": generated.get(self.suite, ""),
        }

    def provenance(self) -> Document:
        """Files, hashes, counts and findings, for the manifest. No question text."""
        return {
            "suite": self.suite,
            "questions": len(self.questions),
            "of": len(self.whole.questions),
            "files": [
                {"dataset": part.name, "path": str(f.path), "sha256": f.sha256, "rows": f.rows}
                for part in self.whole.datasets
                for f in part.files
            ],
            "findings": [str(finding) for finding in self.whole.findings],
            "strata": list(self.whole.strata),
            "population": dict(self.whole.population),
        }


# Compares answers in LaTeX; of the extra 'latex'.
MATH_PACKAGE = "math_verify"
# Questions of the nano suite: 1.5 s of drawing; 1 draw in 50 of aime repeats a text by then.
MOST_DRAWN = 3000


def choose_source(data: DataOptions, bundled: bool) -> Source:
    """Load the suite and take the part that was asked for; what is odd in it is said.

    Parameters
    ----------
    data : DataOptions
    bundled : bool
        The bundled model answers, which was trained for the nano suite.

    Raises
    ------
    OptionError, DatasetError
    """
    name = data.suite or _default_suite(data, bundled)
    whole = load_suite(
        name,
        data.datasets,
        data.choice_seed,
        errata=data.errata,
        nano_per_family=_per_family(data),
    )
    unused = set(data.datasets) - {part.name for part in whole.datasets}
    if unused:
        raise OptionError(
            f"--dataset: expected data that suite {name} uses, found {sorted(unused)[0]}"
        )
    for finding in whole.findings:
        if finding.level != "note":
            say(str(finding))
    questions = select(whole.questions, data.ids, data.filters, data.offset, data.limit)
    if data.questions is not None:
        if data.questions > len(questions):
            raise OptionError(
                f"--questions: expected at most {len(questions)}, found {data.questions}"
            )
        questions = questions[: data.questions]
    require_graders({question.kind for question in questions}, f"suite {whole.name}")
    return Source(whole.name, tuple(questions), whole, data.choice_seed, data.errata)


def require_graders(kinds: Iterable[str], what: str) -> None:
    """Refuse kinds of answers that this installation cannot grade.

    Asked before a model is loaded and before replies are graded again: no verdict may hang on
    what a machine happens to have.

    Parameters
    ----------
    kinds : iterable of str
        Of the questions.
    what : str
        Subject of the message: a suite, a run folder.

    Raises
    ------
    DatasetError
        Naming the extra that is missing.
    """
    if "latex" in kinds and find_spec(MATH_PACKAGE) is None:
        raise DatasetError(
            f"{what}: expected the package 'math-verify' for answers in LaTeX, found none "
            "installed (pip install 'ds4bench[latex]')"
        )


def _per_family(data: DataOptions) -> int:
    """Length of the nano suite, which is drawn, so it reaches as far as is asked for."""
    count = data.questions or data.limit
    if data.ids or (data.filters and count):
        wanted = MOST_DRAWN  # how far the chosen ones lie apart is known once they are drawn
    else:
        wanted = data.offset + count if count else 0
    return max(20, -(-min(wanted, MOST_DRAWN) // 3))  # the three families take turns


def _default_suite(data: DataOptions, bundled: bool) -> str:
    named = set(data.datasets)
    if len(named) == 1:
        name = next(iter(named))
        return _ALONE.get(name, name)
    if named:
        if named == set(PRESETS["ds4-23"].datasets):
            return "ds4-23"
        raise OptionError("--suite: expected one with several data sets, found none")
    if bundled:
        say(f"suite nano (no --suite, no data set, bundled model); {HINT}")
        return "nano"
    try:
        for name in PRESETS["ds4-23"].datasets:
            local_paths(name)
    except DatasetError:
        say(f"suite practice (no --suite, no data set); {HINT}")
        return "practice"
    say("suite ds4-23 (no --suite; its data sets are here)")
    return "ds4-23"
