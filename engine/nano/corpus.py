"""Rows of training text: documents of a mix, packed; deterministic by seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.models.vocab import PAD
from engine.nano import prose
from engine.nano.chat import HELPFUL, SYSTEM, Text, render_chat
from engine.nano.items import FAMILIES, KINDS, draw
from engine.nano.tokens import load
from engine.nano.words import Draw

ALIGN = 4  # documents begin at multiples of this: windows of ratio 4 never meet two of them
PADDING = 255  # class of positions that belong to no document
_SHORTEST = 24  # tokens of a row's rest that are worth beginning a document in
_BATCH = 48  # documents encoded at a time


@dataclass(frozen=True, slots=True)
class Mix:
    """Probabilities of kinds of documents; what is left over goes to exams.

    Parameters
    ----------
    drill, story : float
    families : tuple of float
        Of exams: aime, gpqa, supergpqa.
    think : float
        Of exams: with a worked thinking part.
    """

    drill: float
    story: float
    families: tuple[float, float, float] = (0.36, 0.3, 0.34)
    think: float = 0.85

    @staticmethod
    def stage(name: str) -> Mix:
        """A part of the recipe.

        Raises
        ------
        ValueError
            If there is none of that name.
        """
        if name not in _STAGES:
            raise ValueError(f"stage: expected one of {', '.join(_STAGES)}, found {name!r}")
        return _STAGES[name]


_STAGES = {
    "drill": Mix(drill=0.55, story=0.1),
    "exam": Mix(drill=0.04, story=0.08),
    # Stories are some ten times as long as exams: this share gives them about half of the tokens.
    "long": Mix(drill=0.02, story=0.07),
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows.

    Parameters
    ----------
    ids : uint16 array of shape (n_row, n_col)
    cls : uint8 array of the same shape
        Class of predicting each token (see `chat`), 255 where there is no document.
    doc : uint16 array of the same shape
        Number of the document within its row.
    """

    ids: np.ndarray
    cls: np.ndarray
    doc: np.ndarray


def document(r: Draw, mix: Mix, longest: int) -> Text:
    """One document; a story has at most about `longest` tokens."""
    u = r.random()
    if u < mix.drill:
        return prose.drill(r)
    if u < mix.drill + mix.story:
        return prose.prose(r, _story_length(r, longest))
    u, family = r.random(), FAMILIES[-1]
    for name, share in zip(FAMILIES, mix.families):
        if u < share:
            family = name
            break
        u -= share
    item = draw(r, family, r.pick(tuple(KINDS[family])), "train")
    v = r.random()
    system = SYSTEM if v < 0.7 else HELPFUL if v < 0.85 else ""
    return render_chat(item, r.chance(mix.think), system)


def _story_length(r: Draw, longest: int) -> int:
    """Half of the stories are as long as they may be, for recall over long distances."""
    longest = max(longest, 120)
    return longest if r.chance(0.5) else r.between(80, longest)


def rows(seed: int, n_rows: int, seq: int, mix: Mix) -> Rows:
    """Rows of `seq` tokens each, filled with documents one after another.

    A document that does not fit any more is cut at the row's end if a good part of it fits, and
    begins the next row otherwise.
    """
    tokenizer = load()
    ids = np.full((n_rows, seq), tokenizer.token_to_id(PAD), np.uint16)
    cls = np.full((n_rows, seq), PADDING, np.uint8)
    doc = np.zeros((n_rows, seq), np.uint16)
    row = at = number = made = 0
    while row < n_rows:
        texts = [
            document(Draw("rows", seed, made + i), mix, int(seq * 0.85)) for i in range(_BATCH)
        ]
        made += _BATCH
        pieces = [piece for text in texts for piece, _ in text]
        encoded = iter(tokenizer.encode_batch(pieces, add_special_tokens=False))
        for text in texts:
            tokens: list[int] = []
            classes: list[int] = []
            for _, kind in text:
                found = next(encoded).ids
                tokens += found
                classes += [kind] * len(found)
            left = seq - at
            if at and (left < _SHORTEST or (len(tokens) > left and len(tokens) < seq // 2)):
                doc[row, at:] = number
                row, at, number = row + 1, 0, 0
                if row == n_rows:
                    break
                left = seq
            n = min(len(tokens), left)
            ids[row, at : at + n] = tokens[:n]
            cls[row, at : at + n] = classes[:n]
            stop = min(-(-(at + n) // ALIGN) * ALIGN, seq)
            doc[row, at:stop] = number
            at, number = stop, number + 1
            doc[row, at:] = number
            if at >= seq:
                row, at, number = row + 1, 0, 0
                if row == n_rows:
                    break
    return Rows(ids, cls, doc)
