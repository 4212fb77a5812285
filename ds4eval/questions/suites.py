"""Loads suites, which are named selections of questions, and takes a part of one.

A part is told by ids, filters, or a count.
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4eval.questions.errors import DatasetError, Finding
from ds4eval.questions.files import is_data_name
from ds4eval.questions.known import DATASETS
from ds4eval.questions.loaders import Dataset, load_dataset, load_own, local_paths, placed
from ds4eval.questions.long import long_suite
from ds4eval.questions.nano import nano_suite
from ds4eval.questions.practice import practice_datasets
from ds4eval.questions.presets import PRESETS, Item, Preset, choice_hash
from ds4eval.questions.question import (
    Question,
    QuestionError,
    canonical_answer,
    permuted,
    stable_hash,
)
from engine.errors import OptionError
from engine.tooling.results.typed import HEX, Rules, read_object, typed

BUILT_IN = {
    "nano": "generated arithmetic and look-up, for small models",
    "practice": "90 questions written for this project, in the form of the three exams",
    "long": "generated: facts at known depths of texts of 4k to 256k tokens",
}
PRESET_FILE_VERSION = 1
MOST_PRESET_BYTES = 64 << 20
ITEM_RULES = Rules(words={"dataset": tuple(DATASETS)}, patterns={"choices": HEX})
FILTER_FIELDS = ("id", "source", "kind", "domain", "answer")


@dataclass(frozen=True, slots=True)
class Suite:
    """Questions in the order of a run.

    `population` counts, for a stratified sample, the questions of each stratum in the whole data
    set (keys are the values of `strata` joined by ' / '); empty otherwise.
    """

    name: str
    questions: tuple[Question, ...]
    datasets: tuple[Dataset, ...] = ()
    findings: tuple[Finding, ...] = ()
    strata: tuple[str, ...] = ()
    population: tuple[tuple[str, int], ...] = ()


def suite_names() -> dict[str, str]:
    """Every suite's name and one line about it, those that need no data first."""
    sets = {name: f"all of the data set {name}" for name in DATASETS if name not in PRESETS}
    presets = {name: preset.summary for name, preset in PRESETS.items()}
    return BUILT_IN | presets | sets


def load_suite(
    name: str,
    data: Mapping[str, Sequence[Path]] | None = None,
    seed: int = 0,
    errata: bool = True,
    nano_per_family: int = 20,
) -> Suite:
    """Questions of a suite, read from the user's copies where it needs any.

    Parameters
    ----------
    name : str
        A name of `suite_names()`, a preset file as `list --from-trace` writes it, or a data file
        in the format of `ds4eval.questions.layouts.own`.
    data : mapping of str to paths, optional
        Data sets that the user named (--dataset NAME=PATH); others are looked for.
    seed : int
        Seed of GPQA's order of choices, and of the texts of 'long'.
    errata : bool
        Apply known corrections.
    nano_per_family : int
        Questions of each family in 'nano'.

    Raises
    ------
    OptionError
        If there is no such suite.
    DatasetError
        If data is missing or damaged, or lacks a question that the suite names.
    """
    data = data or {}
    if name == "nano":
        return Suite(name, tuple(nano_suite(nano_per_family)))
    if name == "long":
        return Suite(name, tuple(long_suite(seed)))
    if name == "practice":
        parts = practice_datasets()
        rows = zip(*(part.questions for part in parts))
        return Suite(name, tuple(question for row in rows for question in row), parts)
    preset = PRESETS.get(name)
    if preset is None and name in DATASETS:
        preset = Preset(name, "", dataset=name)
    if preset is None and name.endswith(".json") and Path(name).exists():
        preset = read_preset(Path(name))
    if preset is None and is_data_name(Path(name).name):
        own = load_own(Path(name).expanduser())
        return Suite(own.name, own.questions, (own,), own.findings)
    if preset is None:
        known = ", ".join(suite_names())
        raise OptionError(
            f"suite: expected one of {known}, a preset file or a data file, found {name!r}"
        )
    sets = {
        part: load_dataset(local_paths(part, data.get(part, ())), part, seed, errata)
        for part in preset.datasets
    }
    return build(preset, sets, seed)


def build(preset: Preset, sets: Mapping[str, Dataset], seed: int = 0) -> Suite:
    """A preset's questions from loaded data sets.

    Raises
    ------
    DatasetError
        If a question is not there, or a key that must hold differs.
    """
    datasets = tuple(sets.values())
    findings = tuple(finding for part in datasets for finding in part.findings)
    if preset.items:
        questions = tuple(_item(item, sets[item.dataset], seed) for item in preset.items)
        return Suite(preset.name, questions, datasets, findings)
    whole = sets[preset.dataset].questions
    if not preset.size:
        return Suite(preset.name, whole, datasets, findings)
    counts = Counter(_stratum(question, preset.strata) for question in whole)
    questions = sample(whole, preset.size, preset.strata, preset.seed)
    population = tuple(sorted(counts.items()))
    return Suite(preset.name, questions, datasets, findings, preset.strata, population)


def _item(item: Item, dataset: Dataset, seed: int) -> Question:
    question = next((one for one in dataset.questions if one.id == item.id), None)
    if question is None:
        where = dataset.files[0].path if dataset.files else dataset.name
        raise DatasetError(f"{where}: expected the question {item.id!r}, found none of that id")
    if item.choices and question.choices:
        question = _in_order(item, question)
    if not item.key or question.answer == item.key or _same_lines(item.key, question):
        return question
    if dataset.name == "gpqa-diamond":
        return placed(question, item.key, seed)
    raise DatasetError(
        f"{question.key}: expected the key {item.key!r}, found {question.answer!r} in this copy"
    )


def _in_order(item: Item, question: Question) -> Question:
    """The question with its choices as the preset shows them; as it is when texts differ."""
    hashes = [choice_hash(choice) for choice in question.choices]
    if len(set(hashes)) < len(hashes) or sorted(hashes) != sorted(item.choices):
        return question
    return permuted(question, [hashes.index(one) for one in item.choices])


def _same_lines(key: str, question: Question) -> bool:
    try:
        return canonical_answer(key, question.kind, len(question.choices)) == question.answer
    except QuestionError:
        return False


def _stratum(question: Question, strata: Sequence[str]) -> str:
    return " / ".join(question.stratum(name) or "-" for name in strata)


def sample(
    questions: Sequence[Question], size: int, strata: Sequence[str], seed: int
) -> tuple[Question, ...]:
    """Stratified sample without replacement, each stratum in proportion (largest remainders).

    What is drawn and its order depend on ids and seed alone, not on the order of rows; the order
    mixes strata, so that the first questions are a fair sample too.

    Raises
    ------
    DatasetError
        If there are fewer questions than asked for.
    """
    if size > len(questions):
        raise DatasetError(f"sample: expected at least {size} questions, found {len(questions)}")
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(_stratum(question, strata), []).append(question)
    exact = {name: size * len(group) / len(questions) for name, group in groups.items()}
    counts = {name: int(share) for name, share in exact.items()}
    rest = sorted(groups, key=lambda name: (counts[name] - exact[name], name))
    for name in rest[: size - sum(counts.values())]:
        counts[name] += 1

    def rank(question: Question) -> tuple[int, str]:
        return stable_hash("sample", seed, question.id), question.id

    drawn = [
        one for name, group in groups.items() for one in sorted(group, key=rank)[: counts[name]]
    ]
    return tuple(sorted(drawn, key=rank))


def select(
    questions: Sequence[Question],
    ids: Sequence[str] = (),
    filters: Sequence[str] = (),
    offset: int = 0,
    limit: int | None = None,
) -> tuple[Question, ...]:
    """Part of a suite, in its order.

    Parameters
    ----------
    ids : sequence of str
        Ids, `source/id` keys, numbers from 1, or ranges of numbers as 3-7; empty for all.
    filters : sequence of str
        FIELD=PATTERN (shell wildcards, no case) or FIELD!=PATTERN, all of which must hold; FIELD
        is id, source, kind, domain, answer or the name of a stratum.
    offset, limit : int
        Applied last.

    Raises
    ------
    OptionError
        If an id is not there, a filter is malformed, or nothing is left.
    """
    chosen = list(questions)
    if ids:
        wanted = _indices(questions, ids)
        chosen = [question for i, question in enumerate(questions) if i in wanted]
    for text in filters:
        chosen = [question for question in chosen if _passes(question, text)]
    chosen = chosen[offset:] if limit is None else chosen[offset : offset + limit]
    if not chosen:
        raise OptionError("selection: expected at least one question, found none that fits")
    return tuple(chosen)


def _indices(questions: Sequence[Question], ids: Sequence[str]) -> set[int]:
    names = {question.id: i for i, question in enumerate(questions)}
    names |= {question.key: i for i, question in enumerate(questions)}
    wanted: set[int] = set()
    for text in ids:
        first, dash, last = text.partition("-")
        if text in names:
            wanted.add(names[text])
        elif text.isascii() and first.isdigit() and (last.isdigit() if dash else not last):
            low, high = int(first), int(last or first)
            if not 1 <= low <= high <= len(questions):
                raise OptionError(f"ids: expected numbers 1 to {len(questions)}, found {text!r}")
            wanted.update(range(low - 1, high))
        else:
            raise OptionError(f"ids: expected a question of the suite, found {text!r}")
    return wanted


def _passes(question: Question, text: str) -> bool:
    field, equals, pattern = text.partition("=")
    negate = field.endswith("!")
    field = field.rstrip("!").strip()
    if not equals or not field:
        raise OptionError(f"filter: expected FIELD=PATTERN, found {text!r}")
    if field in FILTER_FIELDS:
        value = str(getattr(question, field))
    else:
        value = question.stratum(field)
    return fnmatch.fnmatchcase(value.casefold(), pattern.strip().casefold()) != negate


def read_preset(path: Path) -> Preset:
    """A preset from a file of ids and keys.

    Raises
    ------
    DatasetError
        If it is no such file.
    """
    document = read_object(path, MOST_PRESET_BYTES, DatasetError)
    rows = document.get("items")
    if not isinstance(rows, list) or document.get("ds4eval_preset") != PRESET_FILE_VERSION:
        raise DatasetError(
            f"{path}: expected a preset file of version {PRESET_FILE_VERSION}, found another form"
        )
    items = []
    for number, row in enumerate(rows, 1):
        items.append(typed(Item, row, ITEM_RULES, f"{path}, record {number}", DatasetError))
    if not items:
        raise DatasetError(f"{path}: expected at least one question, found none")
    return Preset(path.stem, f"read from {path.name}", tuple(items))


def preset_text(preset: Preset) -> str:
    """Text of a preset file: ids and keys only."""
    rows: list[dict[str, object]] = []
    for item in preset.items:
        row: dict[str, object] = {"dataset": item.dataset, "id": item.id, "key": item.key}
        rows.append(row | ({"choices": list(item.choices)} if item.choices else {}))
    document = {"ds4eval_preset": PRESET_FILE_VERSION, "name": preset.name, "items": rows}
    return json.dumps(document, indent=1) + "\n"
