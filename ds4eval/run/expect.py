"""What a run will take, said before it begins: tokens, and time where a speed is known.

Lengths and speeds are those of answers on the disk: of this folder's, else of runs beside it of the
same model. It never guesses: what nothing measured says is left out, and the bound stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from ds4eval.documents import Document, section
from ds4eval.plan import header_only
from ds4eval.records.record import MANIFEST, MOST_MANIFEST
from ds4eval.stats.times import span
from engine.errors import StoreError
from engine.tooling.results.typed import read_object

# Of V4 Flash on AIME 2025, thinking (SGLang, avg@16).
AIME_REPLY = 20_000
MOST_RUNS = 50  # manifests that are looked at, newest first
WORTH_SAYING = 100_000  # tokens; a smaller run is over before it is read


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is known of the replies to come.

    Attributes
    ----------
    replies, budget : int
    mean_tokens : float or None
    mean_of : str
        Where that comes from.
    speed : float or None
        Tokens per second of one worker.
    speed_of : str
    workers : int
    """

    replies: int
    budget: int
    mean_tokens: float | None = None
    mean_of: str = ""
    speed: float | None = None
    speed_of: str = ""
    workers: int = 1

    @property
    def most(self) -> int:
        return self.replies * self.budget

    def line(self) -> str:
        """For people."""
        text = f"expected: {self.replies} replies"
        tokens: float = self.most
        if self.mean_tokens is not None:
            tokens = self.replies * min(self.mean_tokens, self.budget)
            text += (
                f" of about {self.mean_tokens:,.0f} tokens ({self.mean_of}), {tokens:,.0f} in all"
            )
        else:
            text += f" of up to {self.budget:,} tokens"
        if self.speed:
            several = f" on each of {self.workers} workers" if self.workers > 1 else ""
            text += (
                f"; about {span(tokens / self.speed / self.workers)} at {self.speed:.3g} tokens/s"
                f"{several} ({self.speed_of})"
            )
        if self.mean_tokens is not None:
            text += f"; at most {self.most:,} tokens"
            if self.speed:
                text += f", {span(self.most / self.speed / self.workers)}"
        return text


def expectation(
    replies: int, budget: int, suite: str, config: Document, folder: Path, workers: int
) -> Expectation:
    """What is known before a run of `config` in `folder` asks `replies` questions."""
    mean, mean_of, speed, speed_of = None, "", None, ""
    for path, manifest in _manifests(folder):
        theirs = section(manifest, "config")
        if not _same_model(theirs, config):
            continue
        done = section(manifest, "progress")
        tokens, seconds = done.get("gen_tokens"), done.get("seconds")
        counted = done.get("counted")
        if not (_is_count(tokens) and _is_count(counted)):
            continue
        if speed is None and isinstance(seconds, float) and 0 < seconds < math.inf:
            speed, speed_of = tokens / seconds, path.name
        alike = all(theirs.get(name) == config.get(name) for name in ("think", "data"))
        if mean is None and alike:
            mean, mean_of = tokens / counted, path.name
    if mean is None and suite.startswith("aime") and config.get("think") != "none":
        mean, mean_of = float(AIME_REPLY), "the mean of V4 Flash on AIME 2025"
    return Expectation(replies, budget, mean, mean_of, speed, speed_of, workers)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value < 1 << 53


def _same_model(a: Document, b: Document) -> bool:
    ours, theirs = (section(header_only(config), "model") for config in (a, b))
    return bool(ours) and ours == theirs


def _manifests(folder: Path) -> list[tuple[Path, Document]]:
    """Manifests of this folder and of those beside it, this one's first."""
    paths = [folder / MANIFEST]
    try:
        beside = [path / MANIFEST for path in folder.parent.iterdir() if path != folder]
        beside = [path for path in beside if path.is_file()]
        paths += sorted(beside, key=lambda path: -path.stat().st_mtime)[:MOST_RUNS]
    except OSError:
        pass
    found = []
    for path in paths:
        try:
            found.append((path.parent, read_object(path, MOST_MANIFEST)))
        except StoreError:
            continue
    return found
