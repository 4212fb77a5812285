"""Readable text from a seed: prose, numbers and code of any length, the same on every machine.

It trains the vocabulary of generated models.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random


def _words(text: str, separator: str | None = None) -> list[str]:
    return text.split(separator)


_NAMES = _words(
    "Ada Boris Clara Daniel Edith Farid Greta Hugo Ines Jonas Keiko Lena Marco Nadia Olaf Petra "
    "Quentin Rosa Samir Tilda Ulrich Vera Walter Ximena Yusuf Zora"
)
_PLACES = _words(
    "harbour library market station valley bridge workshop garden museum observatory mill "
    "lighthouse bakery courtyard orchard warehouse clinic theatre archive quarry"
)
_THINGS = _words(
    "lantern ledger compass barrel violin ladder telescope basket hammer letter mirror clock "
    "kettle map rope candle engine notebook window wheel stone bottle bell coat bridge table"
)
_QUALITIES = _words(
    "old quiet heavy bright narrow wooden broken careful distant empty familiar golden hidden "
    "patient rough silver small strange warm wide yellow useful simple early late"
)
_ACTIONS = _words(
    "carried repaired counted painted measured borrowed found forgot moved opened wrapped sold "
    "described cleaned returned weighed hid built copied noticed lifted marked studied traded"
)
_ADVERBS = _words("slowly again quickly twice carefully often gladly seldom quietly almost")
_LINKS = _words(
    "because the road was closed;when the rain had stopped;before anybody else arrived;"
    "although the price had risen;while the others were asleep;after the last train had left;"
    "so that nobody would worry;as the sun went down;until the work was done;"
    "since there was no other way",
    ";",
)
_UNITS = _words("metres kilograms litres hours coins pages steps bricks seeds letters")
_MONTHS = _words(
    "January February March April May June July August September October November December"
)
_VERBS = _words("load store merge split count sort filter scale shift pack read write check find")
_NOUNS = _words("row block token layer cache state weight index queue page item node value key")
_CONSONANTS = _words("b c d f g h k l m n p r s t v w br ch cl cr dr fl gr pl pr sh sl st th tr")
_VOWELS = _words("a e i o u ai ea ie oo ou")


class _Source:
    """Draws from one generator; `random.Random.random` is the same on all Python versions."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def below(self, n: int) -> int:
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def pick(self, items: list[str]) -> str:
        return items[int(self._random() * len(items))]

    def word(self) -> str:
        """An invented word of two to four syllables."""
        parts = [self.pick(_CONSONANTS) + self.pick(_VOWELS) for _ in range(self.between(2, 4))]
        return "".join(parts) + ("", "n", "r", "s", "l")[self.below(5)]


def generate_text(seed: int, n_chars: int) -> str:
    """Text of exactly n_chars characters.

    Parameters
    ----------
    seed : int
        Equal seeds give equal texts; a longer text continues a shorter one of the same seed.
    n_chars : int
        Length in characters (ASCII except a few accents and dashes); 0 gives an empty string.

    Returns
    -------
    str
    """
    source = _Source(seed)
    invented = [source.word() for _ in range(400)]
    parts: list[str] = []
    total = 0
    while total < n_chars:
        part = _paragraph(source, invented)
        parts.append(part)
        total += len(part)
    return "".join(parts)[:n_chars]


def _paragraph(source: _Source, invented: list[str]) -> str:
    kind = source.below(10)
    if kind < 6:
        sentences = [_sentence(source, invented) for _ in range(source.between(3, 7))]
        return " ".join(sentences) + "\n\n"
    if kind < 8:
        return _code(source)
    return _table(source, invented) if kind == 8 else _arithmetic(source)


def _sentence(source: _Source, invented: list[str]) -> str:
    return _SENTENCES[source.below(len(_SENTENCES))](source, invented)


def _event(source: _Source, invented: list[str]) -> str:
    return (
        f"{source.pick(_NAMES)} {source.pick(_ADVERBS)} {source.pick(_ACTIONS)} the "
        f"{source.pick(_QUALITIES)} {source.pick(_THINGS)} near the {source.pick(_PLACES)} "
        f"{source.pick(_LINKS)}."
    )


def _fact(source: _Source, invented: list[str]) -> str:
    return (
        f"The {source.pick(_THINGS)} of {source.pick(_NAMES)} weighs "
        f"{source.between(2, 999)} {source.pick(_UNITS)}."
    )


def _date(source: _Source, invented: list[str]) -> str:
    return (
        f"On {source.between(1, 28)} {source.pick(_MONTHS)} {source.between(1820, 2020)}, "
        f"{source.between(2, 90)} {source.pick(_THINGS)}s were {source.pick(_ACTIONS)} in the "
        f"{source.pick(_PLACES)} of {source.pick(invented).capitalize()}."
    )


def _speech(source: _Source, invented: list[str]) -> str:
    return (
        f'"Have you seen the {source.pick(_QUALITIES)} {source.pick(_THINGS)}?" asked '
        f'{source.pick(_NAMES)}. "It\'s in the {source.pick(_PLACES)}," said '
        f"{source.pick(_NAMES)} — {source.pick(_ADVERBS)}."
    )


def _custom(source: _Source, invented: list[str]) -> str:
    return (
        f"People in {source.pick(invented).capitalize()} call such a {source.pick(_THINGS)} "
        f"'{source.pick(invented)}', which means {source.pick(_QUALITIES)} and "
        f"{source.pick(_QUALITIES)}."
    )


_SENTENCES: tuple[Callable[[_Source, list[str]], str], ...] = (
    _event,
    _event,
    _fact,
    _date,
    _speech,
    _custom,
)


def _code(source: _Source) -> str:
    quality = source.pick(_QUALITIES)
    verb, noun, other = source.pick(_VERBS), source.pick(_NOUNS), source.pick(_NOUNS)
    limit = source.between(2, 4096)
    return (
        f"def {verb}_{noun}({other}s, limit={limit}):\n"
        f"    total = {source.below(10)}\n"
        f"    for i, {other} in enumerate({other}s):\n"
        f"        if {other}.{noun} > limit and i % {source.between(2, 9)} == 0:\n"
        f"            total += {other}.{noun} * {source.between(2, 99)}  # {quality}\n"
        f"    return total\n\n"
    )


def _table(source: _Source, invented: list[str]) -> str:
    rows = [
        f"| {source.pick(invented):<14} | {source.between(1, 99999):>7} "
        f"| {source.between(0, 999) / 10:6.1f} % |\n"
        for _ in range(source.between(3, 6))
    ]
    return "| name           |   count |    share |\n" + "".join(rows) + "\n"


def _arithmetic(source: _Source) -> str:
    lines = []
    for _ in range(source.between(2, 5)):
        a, b = source.between(2, 999), source.between(2, 999)
        lines.append(
            (
                f"{a} + {b} = {a + b}",
                f"{a} * {b} = {a * b}",
                f"{max(a, b)} - {min(a, b)} = {abs(a - b)}",
            )[source.below(3)]
        )
    return "; ".join(lines) + ".\n\n"
