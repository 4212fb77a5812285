"""The decode loop: a session goes on from a prompt, step by step, until something ends it.

`generate` prepares a session and a decode mode; `Generation` is the loop itself, over anything
that decodes. The loop knows tokens and counts: it knows no text, no clock and no budget for
thinking. Whoever needs those reads the steps, or steers the loop through `Steer`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from engine.errors import EngineError
from engine.spec.protocol import StepResult

if TYPE_CHECKING:
    from engine.session import Session
    from engine.spec.protocol import Decoder, Policy

# Asked before each step with the number of tokens so far: a token that must come next, whatever
# was chosen (None: what was chosen), and how many tokens may pass before it has to be asked again.
Steer = Callable[[int], tuple["int | None", int]]


class Steps(Protocol):
    """The part of `engine.spec.protocol.Decoder` that the loop needs."""

    def start(self) -> int:
        """Choose the first token."""

    def step(self, first: int, budget: int) -> StepResult:
        """Emit `first` and possibly some tokens after it, at most `budget` in all."""


D = TypeVar("D", bound=Steps)


class Generation(Generic[D]):
    """The steps of one reply, made as they are asked for; it can be walked through once.

    Parameters
    ----------
    decoder : Steps
        A decode mode over a session.
    limit : int
        Most tokens to emit.
    stop : collection of int
        Tokens that end the reply. They are not emitted, nor is what a step put behind one.
    steer : Steer, optional
        May force tokens and shorten steps.

    Attributes
    ----------
    ended_by_stop : bool
        Whether one of `stop` ended the reply; known after the last step.

    Raises
    ------
    EngineError
        While it is walked through: if a step emits no token, or more than it was allowed.
    """

    def __init__(
        self,
        decoder: D,
        limit: int,
        stop: Collection[int] = (),
        steer: Steer | None = None,
    ) -> None:
        self.decoder = decoder
        self.limit = limit
        self.stop = frozenset(stop)
        self.steer = steer
        self.ended_by_stop = False
        self._steps = self._run()

    def __iter__(self) -> Iterator[StepResult]:
        return self._steps

    def _run(self) -> Iterator[StepResult]:
        # A benchmark times this loop from outside, so a step without stop tokens and steering
        # costs no more here than the comparisons that it cannot do without.
        step, stop, steer, limit = self.decoder.step, self.stop, self.steer, self.limit
        token = self.decoder.start()
        made = 0
        while made < limit:
            room = limit - made
            if steer is not None:
                forced, free = steer(made)
                token = token if forced is None else forced
                room = min(room, free)
            if token in stop:
                self.ended_by_stop = True
                return
            result = step(token, room)
            n = len(result.tokens)
            if not 1 <= n <= room:
                raise EngineError(f"decode: expected 1 to {room} tokens from a step, found {n}")
            if stop and not stop.isdisjoint(result.tokens):
                # A kept draft ends the reply; nothing was drafted behind it.
                self.ended_by_stop = True
                yield _before_stop(result, stop)
                return
            made += n
            token = result.next
            yield result


def _before_stop(result: StepResult, stop: Collection[int]) -> StepResult:
    """The step with its tokens up to the first that ends the reply."""
    first = next(i for i, token in enumerate(result.tokens) if token in stop)
    return StepResult(
        result.tokens[:first],
        result.tokens[first],
        result.drafted,
        result.accepted,
        result.draft_s,
        result.verify_s,
        result.rollback_s,
        result.drafts,
    )


def generate(
    session: Session,
    tokens: Sequence[int] = (),
    policy: Policy | None = None,
    *,
    limit: int | None = None,
    stop: Collection[int] | None = None,
    mode: str = "plain",
    draft: int | None = None,
    adaptive: bool = False,
    margin: float = 0.0,
    confidence: float = 0.0,
    steer: Steer | None = None,
) -> Generation[Decoder]:
    """Go on from a prompt.

    The prompt is evaluated before this returns; the reply is made while the result is walked
    through.

    Parameters
    ----------
    session : Session
    tokens : sequence of int
        The prompt: put behind what the session holds. Without it the reply goes on from there.
    policy : Policy, optional
        How tokens are chosen (`engine.spec.policy`); the likeliest one by default.
    limit : int, optional
        Most tokens to emit; as many as the session has room for by default, and never more.
    stop : collection of int, optional
        Tokens that end the reply; the model's end tokens by default.
    mode : str
        Decode mode, one of `engine.options.MODES`. All of them emit the same tokens.
    draft, adaptive, margin, confidence
        Of the speculative modes, see `engine.spec.modes.open_decoder`.
    steer : Steer, optional
        May force tokens and shorten steps.

    Returns
    -------
    Generation
        Yields a `StepResult` per step: its tokens, drafts and seconds. Its `decoder.stats` are
        their sums.

    Raises
    ------
    ContextError
        If the prompt does not fit, or holds an id that is not in the vocabulary.
    OptionError
        If the mode cannot be run with this model, or a value is out of range.
    """
    from engine.spec.modes import open_decoder
    from engine.spec.policy import Greedy

    if stop is None:
        stop = session.engine.tokenizer.eos_ids
    decoder = open_decoder(
        session,
        mode,
        Greedy() if policy is None else policy,
        draft=draft,
        adaptive=adaptive,
        stop=stop,
        margin=margin,
        confidence=confidence,
    )
    if tokens:
        session.sync([*session.tokens, *tokens])
    room = session.room
    return Generation(decoder, room if limit is None else min(limit, room), stop, steer)
