"""Loads data sets from the user's files: finds, reads, checks and corrects them.

`load_dataset` is the one way in. What it returns is ready to be put to a model: GPQA's choices
are in a seeded order that is stored with each question, errata are applied and noted.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ds4eval.questions.aime import KEYS, dataset_of
from ds4eval.questions.errors import DatasetError, Finding
from ds4eval.questions.fields import Fields, plain_name
from ds4eval.questions.files import PACKED, SUFFIXES, Records, data_files, read_records
from ds4eval.questions.known import (
    AIME_YEARS,
    DAMAGES,
    DATASETS,
    ERRATA,
    OWN_COPIES,
    PUBLISHED,
    ROWS,
    normalise,
)
from ds4eval.questions.layouts.others import OtherReader
from ds4eval.questions.layouts.own import OwnReader
from ds4eval.questions.layouts.published import CHOICES, Reader, detect, relabelled
from ds4eval.questions.presets import KNOWN_KEYS
from ds4eval.questions.question import LETTERS, Question, permuted, seeded_order

# Part of a run's manifest: changes whenever the same file would give other questions.
LOADER_VERSION = "1"
# GPQA's other parts share Diamond's columns; only their size tells them.
GPQA_PARTS = {448: "GPQA main", 546: "GPQA extended"}
ENVIRONMENT = "DS4_EVAL_DATA"
# The name under which a set of the user's own is read.
OWN = "own"
# No published layout has these.
_OWN_COLUMNS = {"kind", "group", "label"}
# Sets whose columns are those of the AIME: what they are, the user says.
_LIKE_AIME = {*AIME_YEARS, "compsec", "hmmt", "math-500", "gsm8k"}
# Keys of another year in so many of the places of 2025's are 2025's keys.
_TWINS = 5


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that was read: path, form (csv, json, jsonl, parquet), SHA-256, records."""

    path: Path
    form: str
    sha256: str
    rows: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """Questions of one data set with where they came from and what was odd about them."""

    name: str
    questions: tuple[Question, ...]
    files: tuple[SourceFile, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def sha256(self) -> str:
        """Hash of the file, or of the files' hashes in order when there are several."""
        if len(self.files) == 1:
            return self.files[0].sha256
        joined = "".join(file.sha256 for file in self.files)
        return hashlib.sha256(joined.encode("ascii")).hexdigest()


def load_dataset(
    path: Path | Sequence[Path],
    name: str = "",
    seed: int = 0,
    errata: bool = True,
    keep_going: bool = False,
    published: bool = True,
) -> Dataset:
    """Read a data set as it is published.

    Parameters
    ----------
    path : Path or sequence of Path
        Data files, or a folder of them; several only for a data set published in parts.
    name : str
        One of `DATASETS`, 'own' for a set in the generic format, '' to judge by columns.
    seed : int
        Seed of the order of GPQA's choices: SHA-256 of seed and record id, so that neither the
        order of rows nor other questions matter.
    errata : bool
        Apply known corrections; each one is noted in its question.
    keep_going : bool
        Turn refused records into findings of level 'error' and read on.
    published : bool
        False for questions of this project in the form of an exam, which have keys of their own.

    Raises
    ------
    DatasetError
        If a file is missing or damaged, columns tell another data set, a field is wrong, or two
        records share an id.
    """
    if name and name not in (*DATASETS, OWN):
        raise DatasetError(f"data set: expected one of {', '.join(DATASETS)}, found {name!r}")
    paths = [path] if isinstance(path, Path) else list(path)
    files = [file for one in paths for file in data_files(one)]
    questions: list[Question] = []
    findings: list[Finding] = []
    sources: list[SourceFile] = []
    first = ""
    for file in files:
        records = read_records(file)
        fields = Fields(records)
        first = wanted = _wanted(file, records, detect(fields), name or first)
        reader = _reader(wanted, records, fields)
        questions += reader.read(own_name(file) if wanted == OWN else wanted, keep_going)
        findings += reader.findings
        sources.append(SourceFile(file, records.form, records.sha256, len(records.records)))
    if len(files) > 1 and first not in AIME_YEARS:
        raise DatasetError(f"{paths[0]}: expected one data file, found {len(files)}")
    checks = (_refuse_doubles, _refuse_other_keys) if published else (_refuse_doubles,)
    for check in checks:
        try:
            check(files, questions)
        except DatasetError as error:
            if not keep_going:
                raise
            findings.append(Finding("error", 0, "", str(error)))
    if first in AIME_YEARS and questions:
        first = _of_year(files, questions, name)
    questions = [corrected(question, first) for question in questions] if errata else questions
    if first == "gpqa-diamond":
        label = GPQA_PARTS.get(len(questions))
        questions = [relabelled(question, label) if label else question for question in questions]
        questions = [shuffled(question, seed) for question in questions]
    findings += _check_texts(questions)
    findings += _check_count(first, len(questions))
    if first == OWN:
        first = own_name(files[0])
    return Dataset(first, tuple(questions), tuple(sources), tuple(findings))


def _wanted(file: Path, records: Records, told: str, wanted: str) -> str:
    """Data set that a file is read as: the one named, if its columns allow that.

    Raises
    ------
    DatasetError
        If they tell none, or another.
    """
    plain = {plain_name(column) for column in records.columns}
    if wanted == OWN or (not wanted and plain & _OWN_COLUMNS):
        return OWN
    columns = ", ".join(repr(column) for column in records.columns[:8])
    if told == CHOICES:
        if wanted in ("gpqa-diamond", "supergpqa", "mmlu-pro"):
            return wanted  # the user says so
        raise DatasetError(
            f"{file}: expected the columns of {', '.join(DATASETS)}, found questions with choices "
            f"of some exam ({columns}); --dataset gpqa-diamond=FILE or `validate --as` names it, "
            "--suite FILE asks a set of your own"
        )
    if not told:
        raise DatasetError(
            f"{file}: expected the columns of {', '.join(DATASETS)}, found {columns}"
        )
    both = {told, wanted}
    alike = both <= _LIKE_AIME or both == {"mmlu-pro", "gpqa-diamond"}
    if wanted and told != wanted and not alike:
        raise DatasetError(f"{file}: expected {wanted}, found columns of {told}")
    return wanted or told


def _reader(wanted: str, records: Records, fields: Fields) -> Reader | OtherReader | OwnReader:
    if wanted == OWN:
        return OwnReader(records, fields)
    if wanted in OWN_COPIES and wanted not in ("compsec", *AIME_YEARS):
        return OtherReader(records, fields)
    return Reader(records, fields, AIME_YEARS.get(wanted, 2025))


def load_own(path: Path, keep_going: bool = False) -> Dataset:
    """Read a set of the user's own (`ds4eval.questions.layouts.own`).

    The name of the file without suffixes is the set's, and the label of questions that have none.

    Raises
    ------
    DatasetError
        If the file is missing or damaged, a field is wrong, or two records share an id.
    """
    return load_dataset(path, OWN, keep_going=keep_going)


def own_name(path: Path) -> str:
    """Name of a set of the user's own: that of its file, fit for folders and reports."""
    stem = path.name
    for suffix in (*PACKED, *SUFFIXES):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^0-9A-Za-z_.-]+", "-", stem).strip("-.") or OWN


def _of_year(files: Sequence[Path], questions: Sequence[Question], name: str) -> str:
    """Name of the data set of these years.

    Raises
    ------
    DatasetError
        If a year goes by the name of another.
    """
    years = {int(question.source.removeprefix("AIME")) for question in questions}
    wanted = AIME_YEARS.get(name)
    if wanted and years != {wanted}:
        found = ", ".join(map(str, sorted(years)[:4]))
        raise DatasetError(f"{files[0]}: expected the AIME of {wanted}, found that of {found}")
    twins = sum(
        KEYS.get(f"aime2025-{question.id[-2:]}") == question.answer
        for question in questions
        if question.source != "AIME2025"
    )
    if twins >= _TWINS:
        raise DatasetError(
            f"{files[0]}: expected the AIME of {wanted or 'one year'}, found {twins} keys of 2025 "
            "in their places"
        )
    return dataset_of(years)


def shuffled(question: Question, seed: int) -> Question:
    """The question with its choices in the order of (seed, id); stored in `permutation`."""
    return permuted(question, seeded_order(len(question.choices), "choices", seed, question.id))


def placed(question: Question, key: str, seed: int = 0) -> Question:
    """The question with the correct choice at letter `key`, the others in a seeded order.

    Raises
    ------
    DatasetError
        If there is no such letter.
    """
    if key not in LETTERS[: len(question.choices)]:
        last = LETTERS[len(question.choices) - 1]
        raise DatasetError(f"{question.key}: expected a key A to {last}, found {key!r}")
    order = list(seeded_order(len(question.choices), "choices", seed, question.id))
    correct = LETTERS.index(question.answer)
    # The drawn order is over published choices; bring it to the present ones first.
    present = question.permutation or tuple(range(len(question.choices)))
    order = [present.index(i) for i in order if present.index(i) != correct]
    order.insert(LETTERS.index(key), correct)
    return permuted(question, order)


def corrected(question: Question, dataset: str) -> Question:
    """The question with its erratum applied, if there is one."""
    for erratum in ERRATA:
        if erratum.dataset == dataset and erratum.id == question.id and question.choices:
            right = LETTERS.index(question.answer)
            if question.choices[right] == erratum.value:
                return relabelled(question, erratum.label)
            choices = list(question.choices)
            choices[right] = erratum.value
            changed = replace(question, choices=tuple(choices), source=erratum.label)
            return changed.noted(f"{erratum.field} corrected: {erratum.provenance}")
    return question


def _refuse_doubles(files: Sequence[Path], questions: Iterable[Question]) -> None:
    seen: dict[str, int] = {}
    for number, question in enumerate(questions, 1):
        if question.id in seen:
            raise DatasetError(
                f"{files[-1]}, record {number}, field 'id': expected each id once, "
                f"found {question.id!r} as in record {seen[question.id]}"
            )
        seen[question.id] = number


def _refuse_other_keys(files: Sequence[Path], questions: Iterable[Question]) -> None:
    """A copy that contradicts a key which is known is damaged, or is another exam."""
    for number, question in enumerate(questions, 1):
        known = KNOWN_KEYS.get(question.id)
        if known is not None and known != question.answer:
            raise DatasetError(
                f"{files[-1]}, record {number}: expected the known key {known} of {question.id}, "
                f"found {question.answer} (a damaged copy, or another exam or year: ids or a "
                "column 'year' tell the AIME's)"
            )


def _check_texts(questions: Sequence[Question]) -> list[Finding]:
    findings = []
    texts: dict[str, str] = {}
    for number, question in enumerate(questions, 1):
        twin = texts.setdefault(question.text, question.id)
        if twin != question.id:
            findings.append(
                Finding("note", number, question.id, f"the question's text is that of {twin}")
            )
        damage = DAMAGES.get(question.id)
        if damage is None:
            continue
        text = normalise(question.text)
        if any(mark.is_in(text) for mark in damage.bad):
            message = f"damaged copy: {damage.what} ({damage.provenance})"
            findings.append(Finding("warning", number, question.id, message))
        elif damage.good and not any(mark.is_in(text) for mark in damage.good):
            message = f"not a wording known to be sound; in some copies {damage.what}"
            findings.append(
                Finding("warning", number, question.id, f"{message} ({damage.provenance})")
            )
    return findings


def _check_count(name: str, count: int) -> list[Finding]:
    rows = ROWS.get(name)
    if rows is None or count == rows:
        return []
    return [Finding("note", 0, "", f"expected {rows} questions, found {count}")]


def local_paths(name: str, given: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Where a data set lies: what the user named, else under $DS4_EVAL_DATA, else the data folder.

    In a folder, a sub-folder or a file whose name begins with the data set's name.

    Raises
    ------
    DatasetError
        If it lies nowhere; the message says how to get it.
    """
    if given:
        return tuple(given)
    for root in data_roots():
        for place in (root / name, *sorted(root.glob(f"{name}.*"))):
            if place.exists():
                return (place,)
    raise DatasetError(f"{name}: expected a local copy, found none ({how_to_get(name)})")


def data_roots() -> tuple[Path, ...]:
    """Folders searched for data sets, first one first."""
    import platformdirs  # only where no folder was named

    named = os.environ.get(ENVIRONMENT, "")
    roots = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    return (*roots, Path(platformdirs.user_data_dir("ds4-eval")))


def how_to_get(name: str) -> str:
    """One line: the command that fetches a data set, or what file it wants."""
    if name in PUBLISHED:
        return f"`ds4-eval fetch {name}`, or --dataset {name}=FILE"
    if name == "compsec":
        return f"--dataset {name}=FILE with JSON lines of id, title, question, answer"
    return f"--dataset {name}=FILE, a copy of your own"
