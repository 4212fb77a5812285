"""An exam item as a chat: the prompt that ds4-eval sends, and the reply that it wants."""

from __future__ import annotations

from engine.models.vocab import ASSISTANT, BOS, END_THINK, EOS, THINK, USER
from engine.nano.items import Item
from engine.nano.words import LETTERS

# Classes of text: what the loss of predicting it weighs (see `losses`).
PROMPT, COMPLETION, PROSE, RECALL = 0, 1, 2, 3

# ds4-eval's, which lies above; `tests/engine/nano/test_data.py` holds that prompts are the same.
SYSTEM = (
    "You are answering a hard benchmark question. "
    "Think it through with care, and write the answer in exactly the form that is asked for."
)
_FORM = (
    "End your reply with exactly one line of the following form, "
    "and write nothing after it:\nAnswer: "
)
HELPFUL = "You are a helpful assistant"

Text = list[tuple[str, int]]


def user_text(question: str, choices: tuple[str, ...]) -> str:
    """Text of the user's turn."""
    if not choices:
        return f"{question}\n\nSolve the problem. {_FORM}<integer>"
    lines = "\n".join(f"{LETTERS[i]}. {c}" for i, c in enumerate(choices))
    return f"{question}\n\nChoices:\n{lines}\n\nSolve the question. {_FORM}<letter>"


def exchange(user: str, reply: str, thinking: str | None, system: str) -> Text:
    """One turn each: prompt and completion with their classes; `thinking` None skips the block."""
    mode = END_THINK if thinking is None else THINK
    done = reply if thinking is None else f"{thinking}{END_THINK}{reply}"
    return [
        (f"{BOS}{system}{USER}{user}{ASSISTANT}{mode}", PROMPT),
        (f"{done}{EOS}", COMPLETION),
    ]


def render_chat(item: Item, think: bool, system: str = SYSTEM) -> Text:
    """Prompt and completion of an item.

    Parameters
    ----------
    item : Item
    think : bool
        With the worked thinking part, or an answer at once.
    system : str

    Returns
    -------
    list of (str, int)
        Text, special tokens spelled out, and its class.
    """
    user = user_text(item.question, item.choices)
    return exchange(user, f"Answer: {item.answer}", item.thinking if think else None, system)
