"""Prepares what a command line names to answer the questions: the engine or a server.

It knows neither how a model is loaded nor how a reply is made.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds4eval.answering.engine import prepare_engine
from ds4eval.answering.pool import Answerer
from ds4eval.answering.remote import prepare_server
from ds4eval.plan import ReplySettings
from ds4eval.questions.question import Question
from ds4eval.request import ModelOptions


def prepare_answerer(
    model: ModelOptions,
    settings: ReplySettings,
    questions: Sequence[Question],
    *,
    ask: bool = True,
) -> Answerer:
    """Examine what the command line names; nothing large is loaded.

    Parameters
    ----------
    model : ModelOptions
    settings : ReplySettings
    questions : sequence of Question
    ask : bool
        Whether a server may be asked which model it has; a dry run asks nobody.

    Raises
    ------
    EngineError
        If it cannot be used.
    """
    if model.server is not None:
        return prepare_server(model.server, model.jobs, settings, ask=ask)
    return prepare_engine(model, settings, questions)
