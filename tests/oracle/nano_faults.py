"""Which planted faults the nano suite can see: scores and KL divergence beside the sound engine.

    python -m tests.oracle.nano_faults [items per family]
    python -m tests.oracle.nano_faults run FAULT [options of ds4-eval]

The second writes a run folder of the engine with a fault of `controls` (such as sinkhorn_1), for
`ds4-eval compare`.

Every fault is planted in an open engine, never in a file. KL is that of the faulty next-token
distributions from the sound ones, per token of the right answers (thinking and last line), in nats;
the last column is the exact McNemar test on the same items.
"""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np

from ds4eval.stats.paired import mcnemar
from engine import EngineOptions, open_engine
from engine import engine as engine_module
from engine.engine import Engine
from engine.models.bundled import bundled_model
from engine.nano.chat import render_chat
from engine.nano.items import FAMILIES, item
from engine.spec.protocol import SpecStats
from engine.tooling.diagnose.nano_check import answer_of, generate
from engine.tooling.exits import run_program
from tests.oracle.compare import distance
from tests.oracle.controls import FAULTS

LONGEST = 256
# (title, recipe, fault of `controls`), the sound engine first.
PLANS = (
    ("none (q8)", "q8", None),
    ("none (iq2)", "iq2", None),
    ("one expert less per token", "q8", "experts_minus_1"),
    ("indexer top-k 63 for 64", "q8", "topk_minus_1"),
    ("no SwiGLU clamp", "q8", "clamp_off"),
    ("rope one position late", "q8", "rope_one_late"),
    ("10 of 20 Sinkhorn rounds", "q8", "sinkhorn_10"),
    ("1 of 20 Sinkhorn rounds", "q8", "sinkhorn_1"),
    ("window 127 for 128", "q8", "window_minus_1"),
)


def answers(engine: Engine, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong per item, and logits of the right answers' tokens, one row each."""
    tokenizer, right, along = engine.tokenizer, [], []
    for family in FAMILIES:
        for index in range(n):
            drawn = item(family, index, split="held-out")
            ids, wanted = (
                list(tokenizer.encode(text, "allow").ids) for text, _ in render_chat(drawn, True)
            )
            logits, _ = engine.session(len(ids) + len(wanted) + 8).all_logits(ids + wanted)
            along.append(logits[len(ids) - 1 : -1])
            out = generate(engine, ids, LONGEST, SpecStats())
            right.append(answer_of(tokenizer.decode(out)) == drawn.answer)
    return np.array(right), np.concatenate(along)


def run(fault: str, options: list[str]) -> int:
    """ds4-eval with a fault planted in the engine that it opens."""
    from ds4eval import cli

    real = engine_module.open_engine

    def open_faulty(chosen: EngineOptions) -> Engine:
        engine = real(chosen)
        FAULTS[fault](engine)
        return engine

    with mock.patch.object(engine_module, "open_engine", open_faulty):
        return run_program(cli.cli, "ds4-eval", options)


def main() -> None:
    if sys.argv[1:2] == ["run"]:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    sound: tuple[np.ndarray, np.ndarray] | None = None
    print("| fault | right | KL per answer token | changed | p |\n|---|---|---|---|---|")
    for title, recipe, fault in PLANS:
        with open_engine(EngineOptions(bundled_model("base", recipe).path, threads=1)) as engine:
            if fault is not None:
                FAULTS[fault](engine)
            right, along = answers(engine, n)
        sound = sound or (right, along)
        kl = distance(sound[1], along).kl
        worse, better = int((sound[0] & ~right).sum()), int((~sound[0] & right).sum())
        print(f"| {title} | {right.sum()} of {right.size} | {kl:.5f} | {worse} worse, "
              f"{better} better | {mcnemar(worse, better):.2g} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
