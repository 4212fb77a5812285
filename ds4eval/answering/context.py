"""Encodes prompts as token ids and sizes the context that they need, before a model is loaded.

It reads the metadata of the model file; it never touches weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ds4eval.plan import MAX_CONTEXT, ReplySettings
from ds4eval.questions.prompts import messages
from ds4eval.questions.question import Question
from engine.errors import ContextError, LayoutError, OptionError

if TYPE_CHECKING:
    from engine.memory import MemoryPlan
    from engine.options import EngineOptions
    from engine.text.tokenizer import Tokenizer
    from engine.weights.files import ModelFiles


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as token ids."""

    ids: tuple[int, ...]
    n_special: int
    opened: bool  # it ends with an open think tag

    @property
    def sha256(self) -> str:
        return ids_sha256(self.ids)


@dataclass(frozen=True, slots=True)
class Facts:
    """What can be known of a model file without loading it.

    Parameters
    ----------
    ctx_max : int
        Most tokens of context that the model or this program allows.
    think : str
        Think mode that fits.
    encoding : str
        Release of the chat format, by --encoding or as the file says.
    release : str
        A line on it for the user; '' where there is no choice.
    warning : str
        That the host's memory does not hold the model; '' where it does.
    ctx : int
        Tokens that the longest prompt and its reply need.
    longest, longest_n : int
        Tokens of the longest prompt, and which it is (1-based).
    tokens : int
        Budget of a reply, after it was cut to the model.
    identity : dict
        The model's part of a configuration.
    memory : MemoryPlan
        Of the weights and of one session with this context.
    """

    ctx_max: int
    think: str
    encoding: str
    release: str
    warning: str
    ctx: int
    longest: int
    longest_n: int
    tokens: int
    identity: dict[str, object]
    memory: MemoryPlan


def ids_sha256(ids: Iterable[int]) -> str:
    """Hash of token ids as little-endian 32-bit words."""
    return hashlib.sha256(b"".join(int(i).to_bytes(4, "little") for i in ids)).hexdigest()


def encode(
    tokenizer: Tokenizer, question: Question, think: str, ctx: int, encoding: str = "first"
) -> Prompt:
    """A question's prompt; its text never becomes a control token."""
    from engine.text import chat
    from engine.text.encoding import ENCODINGS

    turns = [chat.Message(role, content) for role, content in messages(question)]
    spans = chat.render_chat(turns, think, ctx, encoding=ENCODINGS[encoding])
    encoded = tokenizer.encode_spans(spans)
    return Prompt(tuple(encoded.ids), encoded.n_special_in_text, chat.ends_thinking(spans))


def _draft_identity(files: ModelFiles, settings: ReplySettings) -> dict[str, object]:
    """Sampled drafts decide replies; greedily every draft gives the same tokens."""
    if settings.sampling.temp == 0:
        return {}
    blocks = {"mtp_sampled_sha256": files.mtp, "dspark_sampled_sha256": files.dspark}
    return {
        name: file.identity.sampled_sha256() for name, file in blocks.items() if file is not None
    }


def examine(
    options: EngineOptions, settings: ReplySettings, questions: Sequence[Question]
) -> Facts:
    """Read the model's metadata and size the context before anything is loaded.

    Raises
    ------
    EngineError
        If the file is no model, or the budget that the user named does not fit.
    """
    from engine.memory import check_memory, free_bytes, open_device, plan_memory
    from engine.text.encoding import FIRST, chosen, release_of_file
    from engine.text.tokenizer import Tokenizer
    from engine.weights.files import open_model

    with open_model(options) as files:
        file, shape = files.trunk, files.weights.shape
        tokenizer = Tokenizer.from_metadata(file.metadata)
        if tokenizer.n_vocab > shape.n_vocab:
            raise LayoutError(
                f"{options.path}: expected at most {shape.n_vocab} tokens, "
                f"found {tokenizer.n_vocab}"
            )
        release = chosen(settings.encoding, release_of_file(file))
        encoding = release.encoding
        encoding.check(settings.think, "--effort")
        ctx_max = min(MAX_CONTEXT, shape.n_ctx_train)
        tokens = settings.budget.tokens
        ctx = ctx_max
        # As in the C program: a smaller context may change the think mode and thus the prompts.
        for _ in range(3):
            think = encoding.effective(settings.think, ctx)
            lengths = [len(encode(tokenizer, q, think, ctx, encoding.name).ids) for q in questions]
            fitting = [n for n in lengths if n < ctx_max] or [0]
            need = min(max(fitting) + tokens, ctx_max)
            if need == ctx:
                break
            ctx = need
        longest = max(lengths)
        if settings.explicit_tokens and max(fitting) + tokens > ctx_max:
            raise OptionError(
                f"--tokens: expected at most {ctx_max - max(fitting)} with a prompt of "
                f"{max(fitting)} tokens and a context of {ctx_max}, found {tokens}"
            )
        if max(fitting) == 0:
            raise ContextError(
                f"context: expected prompts below {ctx_max} tokens, found none that is"
            )
        device = open_device(options)
        memory = plan_memory(files, options, ctx, device=device)
        free = free_bytes(device)
        check_memory(memory.resident, free, ctx)
        source = tokenizer.chat_template
        identity: dict[str, object] = {
            "name": shape.name,
            "bytes": file.identity.size,
            "header_sha256": file.identity.header_sha256,
            "sampled_sha256": file.identity.sampled_sha256(),
            **_draft_identity(files, settings),
            "template_sha256": hashlib.sha256(source.encode()).hexdigest() if source else "",
            "backend": options.backend,
            "activations": options.activations,
            "kv": options.kv,
        }
        if encoding is not FIRST:
            # Records from before there was a choice are of the first release.
            identity["encoding"] = encoding.name
    return Facts(
        ctx_max=ctx_max,
        think=think,
        encoding=encoding.name,
        release=release.notice,
        warning=memory.warning(free),
        ctx=ctx,
        longest=longest,
        longest_n=lengths.index(longest) + 1,
        tokens=tokens,
        identity=identity,
        memory=memory,
    )
