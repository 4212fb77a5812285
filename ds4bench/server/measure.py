"""One cell of a server's sweep to one row: prompts of the right length, replies, times.

A row of several users starts their requests together. Which cells there are, and where rows go,
is known elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from ds4bench.panel.texts import generated
from ds4bench.plan import Cell
from ds4bench.records.rows import SpeedRow, Telemetry
from ds4bench.server import facts
from ds4bench.server.ask import Server
from ds4bench.server.awake import Awake
from ds4bench.server.plan import WARM, ServerPlan
from ds4bench.server.prompts import cut_for, new_salt
from ds4bench.server.stream import Reply
from ds4bench.server.tokens import Counter
from ds4bench.sweep.attempts import flagged
from ds4bench.sweep.disturbed import trouble_of
from engine.errors import OptionError
from engine.tooling.openai.refusals import Trouble

T = TypeVar("T")

# Tries at a prompt of the right length before its row fails.
TRIES = 4
# More characters than a token of most texts has.
CHARS_PER_TOKEN = 8
# A reply that ends before this part of the asked tokens says too little of a rate.
LEAST_PART = 0.5
# Tokens that a cache may miss or hold by the size of its blocks, and as a part of a prompt; never
# more than this part of what was to be evaluated.
BLOCK, BLOCK_PART, NEW_PART = 256, 0.02, 0.25
# A stream that arrives in fewer pieces was held back by something in between.
LEAST_PIECES, HELD_TOKENS = 3, 8
# Events that are read together with the first one came before it was read: the time of decoding
# began too late. More than this part of all, and the rate is no rate.
FIRST_READ_PART = 0.125


@dataclass(frozen=True, slots=True)
class _Failed(Exception):
    """Why a row is not what it should be."""

    status: str
    message: str


class Meter:
    """Measures cells against one server.

    Parameters
    ----------
    plan : ServerPlan
    server : Server
    counter : Counter
    salt : callable
        A line that no request began with.
    """

    def __init__(
        self,
        plan: ServerPlan,
        server: Server,
        counter: Counter,
        salt: Callable[[], str] = new_salt,
    ) -> None:
        self.plan = plan
        self.server = server
        self.counter = counter
        self.salt = salt
        self._texts: dict[str, str] = {}
        # Prompts without salt, and the characters of the text that they hold, by frontier.
        self._bodies: dict[str, dict[int, tuple[str, int]]] = {}
        self._heads: dict[tuple[int, str, int], list[str]] = {}  # of warm rows

    def text(self, text_class: str) -> str:
        """The text that prompts of a kind are cut from.

        Raises
        ------
        OptionError
            If a file is empty.
        """
        if text_class not in self._texts:
            sweep = self.plan.sweep
            prompt, need = sweep.prompt, CHARS_PER_TOKEN * sweep.ctx_max + 1000
            if prompt.path is None:
                text = generated(text_class, prompt.seed, need)
            elif not prompt.text:
                raise OptionError(f"--prompt-file: expected text, found {str(prompt.path)!r} empty")
            else:
                text = prompt.text * (-(-need // len(prompt.text)) if prompt.repeat else 1)
            self._texts[text_class] = text
        return self._texts[text_class]

    def warm_up(self) -> Reply:
        """A discarded request that finds out what the server refuses.

        Raises
        ------
        Trouble
        """
        sweep = self.plan.sweep
        n = min(sweep.gen_tokens, 16)
        text = self.text(sweep.classes[0])[: 4 * min(sweep.ctx_start, 512)]
        [reply] = self.server.ask([self.salt() + text], n + 1)
        return reply

    def row(self, cell: Cell, key: str, started_at: float) -> SpeedRow:
        """Measure a cell; what goes wrong is the row's status."""
        row = SpeedRow(
            run=cell.run,
            ctx_tokens=cell.ctx_tokens,
            prefill_tokens=cell.prefill_tokens,
            mode=cell.mode,
            text_class=cell.text_class,
            users=cell.users,
            prefix=cell.prefix,
            key=key,
            started_at=started_at,
        )
        try:
            replies, counted, state = self._replies(cell)
            row = row_of(replace(row, telemetry=state), replies, self.plan.sweep.gen_tokens)
            row = with_counters(row, counted)
            check_cache(row)
            return flagged(row, trouble_of(state, 0, row.step_s)) if row.ok else row
        except _Failed as failed:
            return replace(row, status=failed.status, message=failed.message)
        except Trouble as trouble:
            return replace(row, status="error", message=trouble.message[:500])
        except ValueError as error:
            message = f"prompt: {error} (--repeat-prompt repeats a text)"
            return replace(row, status="error", message=message[:500])

    def _replies(self, cell: Cell) -> tuple[list[Reply], dict[str, int], Telemetry]:
        """Replies to prompts of exactly the cell's length, and what was noticed meanwhile.

        That is what the server counted, and whether this machine stood still.

        Raises
        ------
        _Failed, Trouble, ValueError
        """
        found: set[int] = set()
        for _ in range(TRIES):
            prompts = self._prompts(cell)
            before = facts.speculation(self.server)
            with Awake() as awake:
                replies = self.server.ask(prompts, self.plan.sweep.gen_tokens + 1)
            now = facts.speculation(self.server) if before else {}
            counts = [reply.prompt_tokens for reply in replies]
            found = {n for n in counts if n is not None and n != cell.ctx_tokens}
            if not found:
                return replies, facts.since(before, now), awake.state()
            for prompt, count in zip(prompts, counts):
                if count is not None and count != cell.ctx_tokens:
                    self.counter.learn(prompt, count)
                    break
            self._bodies.pop(cell.text_class, None)
            # Whatever this prompt began with, the server may remember.
            self._heads.clear()
        counted = ", ".join(map(str, sorted(found)))
        raise _Failed("error", f"prompt: expected {cell.ctx_tokens} tokens, found {counted}")

    def _prompts(self, cell: Cell) -> list[str]:
        """A prompt for each user; of a warm cell the server has evaluated the beginnings."""
        body = self._body(cell.text_class, cell.ctx_tokens)
        if cell.prefix != WARM:
            return [self._head(cell.ctx_tokens, body) + body for _ in range(cell.users)]
        place = (cell.run, cell.text_class, cell.users)
        if place not in self._heads:
            self._heads[place] = [self._head(cell.ctx_tokens, body) for _ in range(cell.users)]
        heads = self._heads[place]
        before = cell.ctx_tokens - cell.prefill_tokens
        if before:
            shorter = self._body(cell.text_class, before)
            self.server.ask([head + shorter for head in heads], 1)
        return [head + body for head in heads]

    def _head(self, tokens: int, body: str) -> str:
        """A new salt that makes a prompt of so many tokens, where that can be known for nothing."""
        for _ in range(TRIES):
            head = self.salt()
            if not self.counter.cheap or self.counter(head + body) == tokens:
                return head
        raise ValueError(f"expected salts of one length, found others in front of {tokens} tokens")

    def _body(self, text_class: str, tokens: int) -> str:
        """A prompt of so many tokens with its salt; a longer one begins with all shorter ones.

        Where a shorter one ends, a space follows, so that no token spans its end.
        """
        bodies = self._bodies.setdefault(text_class, {})
        text, joined, used, base = self.text(text_class), "", 0, 0
        for frontier in self.plan.sweep.frontiers:
            if frontier > tokens:
                break
            if frontier not in bodies:
                # Counting by usage leaves its prompt in the server's cache.
                head = self.salt() + joined
                guess = round(used / base * (frontier - base)) if base else 0
                cut = cut_for(self.counter, head, text[used:], frontier, base, guess)
                bodies[frontier] = (joined + text[used : used + cut], used + cut)
            body, used = bodies[frontier]
            joined, base = body + " ", frontier
        return bodies[tokens][0]


def row_of(row: SpeedRow, replies: Sequence[Reply], asked: int) -> SpeedRow:
    """The row with what its replies say.

    Parameters
    ----------
    row : SpeedRow
        What is known before.
    replies : sequence of Reply
        One per user.
    asked : int
        Tokens that are to come behind the first one.

    Raises
    ------
    _Failed
        If they say too little of a rate.
    """
    tokens, seconds, first_s = [], [], []
    step_s: list[float] = []
    step_tokens: list[int] | None = []
    for reply in replies:
        _check_streamed(reply)
        gaps, counts = reply.steps()
        total = reply.tokens
        if total is None:
            raise _Failed(
                "error", "server: expected usage.completion_tokens, found a reply without"
            )
        tokens.append(max(total - reply.first_tokens, 0))
        seconds.append(sum(gaps))
        first_s.append(reply.at[0] - reply.sent)
        step_s += gaps
        step_tokens = None if step_tokens is None or not counts else step_tokens + list(counts)
    first = min(reply.at[0] for reply in replies)
    ends = [reply.at[0] + took for reply, took in zip(replies, seconds)]
    alone = len(replies) == 1
    sent = min(reply.sent for reply in replies)
    timings = [reply.timings for reply in replies]
    cached = [reply.cached_tokens for reply in replies]
    drafted = [t.drafted for t in timings if t.drafted is not None]
    accepted = [t.accepted for t in timings if t.accepted is not None]
    made = sum(tokens)
    row = replace(
        row,
        prefill_s=first_s[0] if alone else max(reply.at[0] for reply in replies) - sent,
        gen_tokens=made,
        gen_s=seconds[0] if alone else max(ends) - first,
        step_s=tuple(step_s),
        step_tokens=tuple(step_tokens or ()),
        ttft_s=tuple(first_s),
        user_gen_s=tuple(seconds),
        user_tokens=tuple(tokens),
        cached_tokens=sum(c for c in cached if c is not None) if None not in cached else None,
        drafted=sum(drafted) if drafted else None,
        accepted=sum(accepted) if drafted else None,
        # A step of verification emits one token of its own.
        steps=max(made - sum(accepted), 1) if drafted else None,
        server_prefill_s=_all([t.prefill_s for t in timings]),
        server_prefill_tokens=_all([t.prefill_tokens for t in timings]),
        server_gen_s=_all([t.gen_s for t in timings]),
        server_gen_tokens=_all([t.gen_tokens for t in timings]),
    )
    fewest = min(reply.tokens or 0 for reply in replies)
    if fewest < LEAST_PART * (asked + 1):
        return replace(
            row,
            status="short",
            message=f"a reply ended after {fewest} of {asked + 1} tokens "
            f"({replies[0].finish or 'no reason given'}): the server ends at an end of text",
        )
    if fewest <= asked:
        row = replace(row, message=f"a reply ended after {fewest} of {asked + 1} tokens")
    return row


def _check_streamed(reply: Reply) -> None:
    """Refuse a reply that says nothing of when its tokens were made.

    Raises
    ------
    _Failed
    """
    if reply.ttft_s is None:
        raise _Failed("error", "server: expected a stream of tokens, found a reply at once")
    if len(set(reply.at)) < LEAST_PIECES and (reply.tokens or 0) >= HELD_TOKENS:
        raise _Failed(
            "error",
            f"server: expected tokens as they are made, found {reply.tokens} in "
            f"{len(set(reply.at))} pieces (a proxy that holds streams back?)",
        )
    together = sum(at == reply.at[0] for at in reply.at)
    if together > max(1, FIRST_READ_PART * len(reply.at)) and (reply.tokens or 0) >= HELD_TOKENS:
        raise _Failed(
            "stalled",
            f"the first {together} of {len(reply.at)} events were read at once: this machine was "
            "busy, or something in between held them back",
        )


def _all(values: Sequence[T | None]) -> tuple[T, ...]:
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()


def with_counters(row: SpeedRow, counted: dict[str, int]) -> SpeedRow:
    """The row with what a server's own counters say of speculation while it was measured.

    They are of the whole server: of other users too, where there are any.
    """
    if row.drafted is not None or not counted.get("drafted"):
        return row
    by_depth: list[int] = []
    while f"accepted {len(by_depth)}" in counted:
        by_depth.append(counted[f"accepted {len(by_depth)}"])
    steps = counted.get("steps")
    return replace(
        row,
        steps=steps,
        drafted=counted["drafted"],
        accepted=counted.get("accepted"),
        accepted_by_depth=tuple(by_depth),
        drafted_by_depth=(steps,) * len(by_depth) if steps else (),
    )


def check_cache(row: SpeedRow) -> None:
    """Refuse a row whose cache did otherwise than it says, where the server tells.

    Raises
    ------
    _Failed
    """
    if row.cached_tokens is None or not row.ok:
        return
    held = row.cached_tokens / row.users
    wanted = row.ctx_tokens - row.prefill_tokens
    slack = max(BLOCK, BLOCK_PART * row.ctx_tokens)
    if abs(held - wanted) > min(slack, NEW_PART * row.prefill_tokens):
        raise _Failed(
            "cache",
            f"server: expected {wanted} prompt tokens in its cache, found {held:.0f}: the "
            f"prefill was another one than {row.prefix} says",
        )
