"""Which of the things that can answer questions a command line names: the engine or a server."""

from __future__ import annotations

from collections.abc import Sequence

from ds4eval.answering.engine import prepare_engine
from ds4eval.answering.pool import Answerer
from ds4eval.answering.remote import prepare_server
from ds4eval.plan import ReplySettings
from ds4eval.questions.question import Question
from ds4eval.request import ModelOptions


def prepare_answerer(
    model: ModelOptions, settings: ReplySettings, questions: Sequence[Question]
) -> Answerer:
    """Examine what the command line names; nothing large is loaded.

    Raises
    ------
    EngineError
        If it cannot be used.
    """
    if model.server is not None:
        return prepare_server(model.server, model.jobs, settings)
    return prepare_engine(model, settings, questions)
