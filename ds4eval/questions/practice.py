"""Loads the practice suite: 90 questions written for this project and packed with it.

The files have the layouts of the published sets (AIME as JSON lines of id, problem, answer; GPQA
as CSV with its column names; SuperGPQA as JSON lines) and are read by the same loaders. A further
field, `check`, records how each key was confirmed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from ds4eval.questions.loaders import Dataset, load_dataset

FOLDER = Path(__file__).parents[1] / "data" / "practice"
FILES = {
    "aime": ("aime25", "aime.jsonl"),
    "gpqa": ("gpqa-diamond", "gpqa.csv"),
    "supergpqa": ("supergpqa", "supergpqa.jsonl"),
}


@lru_cache(maxsize=1)
def practice_datasets() -> tuple[Dataset, ...]:
    """The three parts in order AIME, GPQA, SuperGPQA; sources are practice/aime and so on.

    The order of choices is that of seed 0, whatever seed a run has: a key is part of the suite.
    """
    parts = []
    for family, (name, file) in FILES.items():
        dataset = load_dataset(FOLDER / file, name, seed=0, published=False)
        questions = []
        for number, question in enumerate(dataset.questions, 1):
            id_ = f"practice-{family}-{number:02d}"
            questions.append(replace(question, id=id_, source=f"practice/{family}"))
        parts.append(replace(dataset, name=f"practice-{family}", questions=tuple(questions),
                             findings=()))  # fmt: skip
    return tuple(parts)
