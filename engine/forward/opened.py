"""Declares what a session and a drafter need of an opened model, however it was opened."""

from __future__ import annotations

from typing import Protocol

from engine.forward.dspark import DsparkModel
from engine.forward.model import Model, MtpModel
from engine.gguf.identity import FileIdentity
from engine.ops.base import Backend
from engine.options import EngineOptions
from engine.shape import Shape
from engine.text.tokenizer import Tokenizer


class OpenModel(Protocol):
    """What a session and a drafter need of an engine."""

    options: EngineOptions
    shape: Shape
    ops: Backend
    model: Model
    mtp: MtpModel | None
    dspark: DsparkModel | None

    @property
    def identity(self) -> FileIdentity:
        """Of the trunk file."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The trunk file's, whose end tokens end a reply."""
