"""Loads the nano model's tokenizer, which is package data; `engine.nano.vocabulary` learnt it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from engine.models.bundled import TOKENIZER


@cache
def load(path: Path = TOKENIZER) -> Any:
    """The packaged tokenizer (`tokenizers.Tokenizer`)."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
