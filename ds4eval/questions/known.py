"""Facts about published data sets: addresses, pinned revisions, known damage, corrections.

No question text. Damage in a copy is told by SHA-256 of short normalised stretches of text; an
erratum replaces one value by another that its provenance derives.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """Where a data set is published, what it holds, and under which terms."""

    name: str
    label: str
    repo: str
    files: tuple[str, ...]
    revision: str
    rows: int
    licence: str
    gated: bool = False
    note: str = ""
    # By file name, at `revision`: the first and last hex digits of its SHA-256, as published.
    hashes: tuple[tuple[str, str, str], ...] = ()


PUBLISHED = {
    "aime25": Published(
        "aime25",
        "AIME2025",
        "opencompass/AIME2025",
        ("aime2025-I.jsonl", "aime2025-II.jsonl"),
        "a6ad95f611d72cf628a80b58bd0432ef6638f958",
        30,
        "MIT as its uploader states; the problems are copyright of the MAA",
        hashes=(
            ("aime2025-I.jsonl", "b91b3c96", "0659e"),
            ("aime2025-II.jsonl", "16a2dcfb", "bed5e"),
        ),
    ),
    "gpqa-diamond": Published(
        "gpqa-diamond",
        "GPQA Diamond",
        "Idavidrein/gpqa",
        ("gpqa_diamond.csv",),
        "main",
        198,
        "CC BY 4.0; its authors ask that examples are not revealed online",
        gated=True,
        note="no revision is pinned yet: the one found is recorded with the file",
    ),
    "supergpqa": Published(
        "supergpqa",
        "SuperGPQA",
        "m-a-p/SuperGPQA",
        ("SuperGPQA-all.jsonl",),
        "4430d4458112c7d4497fdcf94d7cc223313d6acf",
        26529,
        "ODC-BY; a composite, see the licences of its sources",
    ),
}
# Behind the label of a question whose erratum was applied; scores count it with its exam.
MODIFIED = " (modified)"
# Sets that `fetch` does not know, read from the user's own copies: label, and questions where the
# number is fixed (GSM8K's and MMLU-Pro's are those of their test parts).
OWN_COPIES: dict[str, tuple[str, int]] = {
    "compsec": ("COMPSEC", 0),
    "aime24": ("AIME2024", 30),
    "aime26": ("AIME2026", 30),
    "hmmt": ("HMMT", 0),
    "math-500": ("MATH-500", 500),
    "gsm8k": ("GSM8K", 1319),
    "mmlu-pro": ("MMLU-Pro", 12032),
}
LABELS = {name: known.label for name, known in PUBLISHED.items()} | {
    name: label for name, (label, _) in OWN_COPIES.items()
}
ROWS = {name: known.rows for name, known in PUBLISHED.items()} | {
    name: rows for name, (_, rows) in OWN_COPIES.items() if rows
}
DATASETS = (*PUBLISHED, *OWN_COPIES)
AIME_YEARS = {"aime24": 2024, "aime25": 2025, "aime26": 2026}


def exam_of(source: str) -> str:
    """The exam that a question's source belongs to: a corrected question is not an exam."""
    return source.removesuffix(MODIFIED)


@dataclass(frozen=True, slots=True)
class Mark:
    """A stretch of normalised text that a sound (or a damaged) copy holds."""

    length: int
    sha256: str

    def is_in(self, text: str) -> bool:
        """Whether any stretch of this length of normalised `text` has this hash."""
        raw = text.encode("ascii")
        return any(
            hashlib.sha256(raw[i : i + self.length]).hexdigest() == self.sha256
            for i in range(len(raw) - self.length + 1)
        )


@dataclass(frozen=True, slots=True)
class Damage:
    """A known fault of published copies of one question.

    `bad` marks tell the fault; without one of `good`, the wording is not a known sound one.
    """

    id: str
    what: str
    provenance: str
    bad: tuple[Mark, ...] = ()
    good: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Erratum:
    """One value of one question, replaced; `label` becomes the question's source."""

    dataset: str
    id: str
    field: str
    value: str
    label: str
    what: str
    provenance: str


def normalise(text: str) -> str:
    r"""Letters a-z and digits of a text, lower case, without TeX commands (`\angle`, `\frac`)."""
    return re.sub(r"[^0-9a-z]", "", re.sub(r"\\[A-Za-z]+", " ", text).lower())


DAMAGES = {
    "aime2025-14": Damage(
        "aime2025-14",
        "the condition on two angles is garbled: it names a point that does not exist",
        "GAIR-NLP/AIME-Preview#4, harbor-framework/harbor-datasets#245",
        bad=(Mark(8, "a375ddac72f6f624070c62ef732a473c45cca3f316813e9bf1470d3486154578"),),
        good=(Mark(7, "d551ad2d1589334eaac91bff77fed5b1dac90395c1d613609d184ba3961e78d6"),),
    ),
    "aime2025-30": Damage(
        "aime2025-30",
        "the restriction to positive arguments is missing, without which there is no minimum",
        "NVIDIA-NeMo/Skills#1531",
        good=(
            Mark(26, "989daea5dc849d3648ac3cc102a911a5974bc18aa1897e14dc927cadb63c304b"),
            Mark(20, "4baa0277e9a9b4bc446f9b54aa97a7e47f533608047fa4ac1d9747de0290b532"),
            Mark(21, "3556d201e26b22311664b3957f55f5a00c9f16a70f2e723f651f6276d954cdfa"),
        ),
    ),
}

ERRATA = (
    Erratum(
        "gpqa-diamond",
        "recDytVnNYZe2HuUU",
        "Correct Answer",
        "20.011 GeV",
        f"GPQA Diamond{MODIFIED}",
        "the keyed option lies outside the precision that the question states",
        "antirez/ds4#233; recomputed: lithium-6, 6.0151229 u x 0.93149410 GeV/u at 0.96 c",
    ),
)
