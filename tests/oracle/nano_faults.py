"""Which planted faults the nano suite can see: scores and KL divergence beside the sound engine.

    python -m tests.oracle.nano_faults [items per family]
    python -m tests.oracle.nano_faults run FAULT [options of ds4-eval]

The second writes a run folder of the faulty engine, for `ds4-eval compare`.

Every fault is planted in an open engine (shape, clamps, angles), never in a file. KL is that of the
faulty next-token distributions from the sound ones, per token of the right answers (thinking and
last line), in nats; the last column is the exact McNemar test on the same items.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest

from engine import EngineOptions, open_engine
from engine import engine as engine_module
from engine.engine import Engine
from engine.models.bundled import bundled_model
from engine.models.nano.chat import render_chat
from engine.models.nano.items import FAMILIES, item
from engine.models.nano.tokens import load
from engine.spec.policy import Greedy
from engine.tooling.exits import run_program

EOS = 1
LONGEST = 256


def _shape(**changes: object) -> Callable[[Engine], None]:
    def plant(engine: Engine) -> None:
        engine.shape = engine.model.shape = replace(engine.shape, **changes)  # type: ignore[arg-type]

    return plant


def _no_clamp(engine: Engine) -> None:
    for layer in engine.model.layers:
        layer.limit = layer.limit_shared = 0.0


def _late_rope(engine: Engine) -> None:
    """Layers with a compressor turn everything as if it stood one position later than it does,
    but for the compressed rows."""
    make = engine.session

    def session(ctx: int):
        made = make(ctx)
        table = made.trunk.rope[True]
        at = table.at
        table.at = lambda pos0, n, step=1: at(pos0 + (step == 1), n, step)  # type: ignore[method-assign]
        return made

    engine.session = session  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[Engine], None]] = {
    "none (q8)": lambda engine: None,
    "one expert less per token": _shape(n_expert_used=1),
    "indexer top-k 63 for 64": _shape(idx_top_k=63),
    "no SwiGLU clamp": _no_clamp,
    "rope one position late": _late_rope,
    "10 of 20 Sinkhorn rounds": _shape(n_sinkhorn=10),
    "1 of 20 Sinkhorn rounds": _shape(n_sinkhorn=1),
    "window 127 for 128": _shape(n_swa=127),
}


def answers(engine: Engine, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Right or wrong per item, and log-probabilities along the right answers."""
    tokenizer, right, along = load(), [], []
    for family in FAMILIES:
        for index in range(n):
            drawn = item(family, index, split="held-out")
            (prompt, _), (reply, _) = render_chat(drawn, True)
            ids, wanted = (
                tokenizer.encode(t, add_special_tokens=False).ids for t in (prompt, reply)
            )
            session = engine.session(len(ids) + max(len(wanted), LONGEST) + 8)
            logits, _ = session.all_logits(ids + wanted)
            along.append(log_softmax(logits[len(ids) - 1 : -1].astype(np.float64), axis=1))
            session.rewind(0)
            session.sync(ids)
            out: list[int] = []
            token = Greedy().choose(session.logits, 0)
            while token != EOS and len(out) < LONGEST:
                out.append(token)
                token = Greedy().choose(session.eval(token), 0)
            right.append(tokenizer.decode(out).endswith(f"Answer: {drawn.answer}"))
    return np.array(right), along


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
    sound: tuple[np.ndarray, list[np.ndarray]] | None = None
    print("| fault | right | KL per answer token | changed | p |\n|---|---|---|---|---|")
    plans = [(name, "q8", plant) for name, plant in FAULTS.items()]
    for name, recipe, plant in [plans[0], ("none (iq2)", "iq2", plans[0][2]), *plans[1:]]:
        with open_engine(EngineOptions(bundled_model("base", recipe).path, threads=1)) as engine:
            plant(engine)
            right, along = answers(engine, n)
        sound = sound or (right, along)
        kl = np.concatenate([(np.exp(p) * (p - q)).sum(1) for p, q in zip(sound[1], along)])
        worse, better = (sound[0] & ~right).sum(), (~sound[0] & right).sum()
        p = binomtest(int(worse), int(worse + better)).pvalue if worse + better else 1.0
        print(f"| {name} | {right.sum()} of {right.size} | {kl.mean():.5f} | {worse} worse, "
              f"{better} better | {p:.2g} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
