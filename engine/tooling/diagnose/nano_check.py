"""Says how good a trained nano model is: ``python -m engine.tooling.diagnose.nano_check PATH``.

PATH is a folder of `engine.training.train` (its weights are written as a file first), or a trunk
file beside its draft block. Held-out exam items are answered greedily by the engine itself with two
drafted tokens per step, which are the tokens of plain decoding; facts are asked again inside prose
that nobody was trained on. Intervals are Wilson's at 95 %.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from engine.engine import Engine, open_engine
from engine.errors import EngineError, OptionError
from engine.generation import generate
from engine.models.bundled import KINDS, TOKENIZER
from engine.models.vocab import BOS
from engine.nano.chat import PROMPT, RECALL, render_chat
from engine.nano.corpus import PADDING, Mix, rows
from engine.nano.items import FAMILIES, item
from engine.nano.prose import story
from engine.nano.tokens import load
from engine.nano.words import Draw
from engine.options import EngineOptions
from engine.spec.protocol import SpecStats
from engine.tooling.report.wilson import wilson_bounds

_CTX = 16384
_MAX_ANSWER = 700  # tokens; of 1,500 held-out items the longest worked answer has 184
_DISTANCES = (100, 300, 1000, 4000, 1 << 30)
_SEED = 90_000_001  # of rows with facts; training counts up from small numbers
_Z = 1.959964
_ANSWER = re.compile(r"Answer: *([A-Z]|[0-9]+)\s*$")
_PROSE_START, _PROSE_TOKENS = 256, 64

Tally = dict[tuple[str, ...], list[bool]]


def answer_of(text: str) -> str | None:
    """What a reply's last line answers; None if it has another form."""
    found = _ANSWER.search(text.rstrip())
    return found[1] if found else None


def reply(engine: Engine, prompt: list[int], n: int, stats: SpecStats) -> list[int]:
    """Greedy tokens behind a prompt, the end token excluded; drafts are counted in `stats`."""
    session = engine.session(min(_CTX, len(prompt) + n + 16))
    mode = "plain" if engine.mtp is None else "mtp-combined"
    out: list[int] = []
    for step in generate(session, prompt, limit=n, mode=mode, draft=2):
        stats.add(step)
        out += step.tokens
    return out


def exams(engine: Engine, n: int, think: bool, drafts: dict[str, SpecStats]) -> Tally:
    """Right and wrong answers by (family, kind)."""
    tally: Tally = defaultdict(list)
    for family in FAMILIES:
        for index in range(n):
            question = item(family, index, split="held-out")
            parts = render_chat(question, think, "")
            prompt = "".join(text for text, cls in parts if cls == PROMPT)
            ids = list(engine.tokenizer.encode(prompt, "allow").ids)
            out = reply(engine, ids, _MAX_ANSWER, drafts[family])
            right = answer_of(engine.tokenizer.decode(out)) == question.answer
            tally[family, question.kind].append(right)
            tally[(family,)].append(right)
    return tally


def recall(engine: Engine, n_row: int) -> Tally:
    """Exactness of facts asked again inside prose, by (bound of the distance in tokens,)."""
    made = rows(_SEED, n_row, 8192, Mix.stage("long"))
    tally: Tally = defaultdict(list)
    for ids, cls, doc in zip(made.ids, made.cls, made.doc):
        for number in np.unique(doc):
            at = np.flatnonzero((doc == number) & (cls != PADDING))
            kinds, tokens = cls[at], ids[at].astype(int).tolist()
            asked = np.flatnonzero(kinds == RECALL)
            if not len(asked):
                continue
            session = engine.session(len(tokens) + 16)
            logits, _ = session.all_logits(tokens)
            guesses = logits.argmax(1).tolist()
            for span in np.split(asked, np.flatnonzero(np.diff(asked) > 1) + 1):
                first, last = int(span[0]), int(span[-1])
                distance = _distance(tokens, first, last + 1)
                if distance is None:
                    continue
                bound = next(b for b in _DISTANCES if distance <= b)
                right = all(guesses[i - 1] == tokens[i] for i in range(first, last + 1))
                tally[(f"{bound:4}" if bound < 1 << 30 else "more",)].append(right)
    return tally


def _distance(tokens: list[int], first: int, last: int) -> int | None:
    """Tokens back to where the same value was read before; None: nowhere."""
    value = tokens[first:last]
    for back in range(1, first + 1):
        if tokens[first - back : last - back] == value:
            return back
    return None


def prose_drafts(engine: Engine, n: int) -> SpecStats:
    """Drafts while prose goes on greedily."""
    stats = SpecStats()
    for begun in _prose(n):
        reply(engine, begun, _PROSE_TOKENS, stats)
    return stats


def _prose(n: int) -> list[list[int]]:
    """The first tokens of n stories, cut up as training rows are."""
    tokenizer = load()
    begun = []
    for i in range(n):
        # Twice the length: a story has only about as many tokens as it is asked for.
        texts = [BOS, *(text for text, _ in story(Draw("check", i), 2 * _PROSE_START))]
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        begun.append([token for piece in encoded for token in piece.ids][:_PROSE_START])
    return begun


def _show(title: str, tally: Tally) -> None:
    print(title)
    for key in sorted(tally):
        n, right = len(tally[key]), sum(tally[key])
        low, high = map(float, wilson_bounds(np.float64(right / n), np.float64(n), _Z))
        name = "  " * len(key) + " ".join(key[-1:])
        print(f"{name:22} {100 * right / n:5.1f} %  [{100 * low:.1f}, {100 * high:.1f}]  n {n}")


def _show_drafts(name: str, stats: SpecStats) -> None:
    parts = []
    for depth, (drafted, accepted) in enumerate(stats.by_position[:2], 1):
        if drafted:
            parts.append(f"draft {depth}: {100 * accepted / drafted:.1f} % of {drafted}")
    print(f"  {name:20} {', '.join(parts) or 'nothing drafted'}")


def check(base: Path, mtp: Path | None, args: argparse.Namespace) -> None:
    """Print everything about one pair of files."""
    begin = time.monotonic()
    options = EngineOptions(base, mtp_path=mtp, threads=args.threads)
    with open_engine(options) as engine:
        drafts: dict[str, SpecStats] = defaultdict(SpecStats)
        _show("held-out items, thinking", exams(engine, args.items, True, drafts))
        plain: dict[str, SpecStats] = defaultdict(SpecStats)
        if args.no_think:
            _show("held-out items, no thinking", exams(engine, args.no_think, False, plain))
        _show("exact recall by distance in tokens", recall(engine, args.rows))
        if engine.mtp is not None:
            print("accepted drafts")
            for family, stats in drafts.items():
                _show_drafts(family, stats)
            _show_drafts("prose", prose_drafts(engine, args.items // 4 + 1))
    print(f"{time.monotonic() - begin:.0f} s")


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    p = argparse.ArgumentParser(prog="engine.tooling.diagnose.nano_check")
    p.add_argument("path", type=Path, help="training folder, or trunk file named *-base.gguf")
    p.add_argument("--items", type=int, default=100, help="items per family, thinking")
    p.add_argument("--no-think", type=int, default=0, help="items per family without thinking")
    p.add_argument("--rows", type=int, default=4, help="rows of 8192 tokens for recall")
    p.add_argument("--recipe", default="q8_0", help="format for a training folder")
    p.add_argument("--threads", type=int)
    args = p.parse_args(argv)
    try:
        if args.path.is_dir():
            from engine.training import export

            with tempfile.TemporaryDirectory() as folder:
                trained = export.load(args.path, TOKENIZER)
                export.write_pair(trained, Path(folder), args.recipe, "antirez")
                base, draft = export.pair(Path(folder), args.recipe)
                check(base, draft, args)
        else:
            own, drafts = (f"-{kind}.gguf" for kind in KINDS)
            if not args.path.name.endswith(own):
                raise OptionError(f"path: expected *{own}, found {args.path.name!r}")
            mtp = args.path.with_name(args.path.name.removesuffix(own) + drafts)
            check(args.path, mtp if mtp.is_file() else None, args)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
