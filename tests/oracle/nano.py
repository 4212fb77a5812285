"""The shipped models beside transformers and llama.cpp, all three in float32 arithmetic.

    python -m tests.oracle.nano logits [tokens]     1500: logits at every position
    python -m tests.oracle.nano answers [items]     200: greedy replies to held-out exam items
    python -m tests.oracle.nano faults [tokens]     1500: what planted faults do to ds4's logits

llama.cpp rounds activations to 8 bits in products with quantised weights, so it is given a copy of
the file whose weights are dequantised (`float_copy`); transformers and ds4 read the file itself.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations, count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from transformers.models.deepseek_v4 import modeling_deepseek_v4 as modeling

from ds4bench.peer.llamacpp import LlamaCpp
from engine.engine import Engine
from engine.models.bundled import bundled_model
from engine.models.vocab import BOS
from engine.nano import prose
from engine.nano.chat import render_chat
from engine.nano.items import FAMILIES, Item, item
from engine.nano.tokens import load
from tests.oracle.compare import distance
from tests.oracle.controls import FAULTS
from tests.oracle.hf import hf_logits, hf_model
from tests.oracle.llama import llama_logits
from tests.oracle.opened import logits_of, opened

RECIPES = ("q8", "iq2")
TEXTS = ("exams", "prose")
CLOSE = 1e-3  # as in `test_logits`
EOS = 1
LONGEST = 256  # tokens of a reply, as ds4-eval grants the nano suite
PROSE_SEED = 77
PROSE_PROMPT, PROSE_REPLY = 96, 48


def path_of(recipe: str) -> Path:
    """A shipped trunk."""
    return bundled_model("base", recipe).path


def float_copy(source: Path, target: Path, keep: Callable[[str], bool] = lambda _: False) -> Path:
    """A GGUF file of the same weights, dequantised to F32; tensors that `keep` names stay."""
    reader = GGUFReader(str(source))
    writer = GGUFWriter(str(target), "deepseek4")
    for name, f in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        sub = f.types[-1] if f.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, f.contents(), f.types[0], sub_type=sub)
    for t in reader.tensors:
        data = np.array(t.data)
        if t.tensor_type.name == "I32":
            writer.add_tensor(t.name, data)
        elif keep(t.name):
            writer.add_tensor(t.name, data, raw_dtype=t.tensor_type)
        else:
            flat = np.array(dequantize(data, t.tensor_type), np.float32)
            writer.add_tensor(t.name, flat.reshape(t.shape[::-1].tolist()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def encode(text: str) -> list[int]:
    ids: list[int] = load().encode(text, add_special_tokens=False).ids
    return ids


def questions(n: int) -> list[Item]:
    """Held-out items of the three families in turn."""
    return [item(FAMILIES[i % 3], i // 3, split="held-out") for i in range(n)]


def text_ids(name: str, n: int) -> list[int]:
    """`n` tokens of solved held-out items one after another, or of prose."""
    if name == "prose":
        return encode(BOS + prose.text(PROSE_SEED, 8 * n))[:n]
    ids: list[int] = []
    for i in count():
        drawn = item(FAMILIES[i % 3], i // 3, split="held-out")
        ids += encode("".join(text for text, _ in render_chat(drawn, True)))
        if len(ids) >= n:
            return ids[:n]
    raise AssertionError


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    longest: int
    answer: str | None  # None: prose, which is only continued


def prompts(n_items: int, n_prose: int) -> list[Prompt]:
    """Exam prompts as ds4-eval sends them, then beginnings of prose."""
    made = [
        Prompt(encode(render_chat(q, True)[0][0]), LONGEST, q.answer) for q in questions(n_items)
    ]
    for i in range(n_prose):
        ids = encode(BOS + prose.text(PROSE_SEED + 1 + i, 8 * PROSE_PROMPT))[:PROSE_PROMPT]
        made.append(Prompt(ids, PROSE_REPLY, None))
    return made


def answer_in(reply: list[int]) -> str:
    """What stands behind the last `Answer: `; the end of the reply where there is none."""
    text: str = load().decode(reply, skip_special_tokens=False)
    return text.rpartition("Answer: ")[2][-80:]


def our_reply(engine: Engine, prompt: Prompt) -> list[int]:
    """Greedy tokens, the end token excluded, decoded one by one."""
    session = engine.session(len(prompt.ids) + prompt.longest + 8)
    session.sync(prompt.ids)
    out: list[int] = []
    logits = session.last
    while len(out) < prompt.longest and (token := int(np.argmax(logits))) != EOS:
        out.append(token)
        logits = session.eval(token)
    return out


def llama_reply(peer: LlamaCpp, prompt: Prompt) -> list[int]:
    """Greedy tokens, the end token excluded, decoded one by one."""
    peer.start(len(prompt.ids) + prompt.longest + 8)
    peer.prefill(prompt.ids)
    out: list[int] = []
    while len(out) < prompt.longest and (token := peer.top()) != EOS:
        out.append(token)
        peer.decode(token)
    return out


def hf_reply(model: Any, prompt: Prompt, guess: list[int]) -> list[int]:
    """Greedy tokens, the end token excluded.

    One pass over prompt and guess says what the model chooses behind each of its beginnings; the
    guess is corrected where it first differs, and so on. It saves time and cannot change the reply.
    """
    out = list(guess)
    while True:
        choice = hf_logits(model, prompt.ids + out)[len(prompt.ids) - 1 :].argmax(-1).tolist()
        at = next((i for i, token in enumerate(out) if token != choice[i]), len(out))
        if choice[at] == EOS or at >= prompt.longest:
            return out[:at]
        out = [*out[:at], choice[at]]


@torch.no_grad()
def margins(model: Any, ids: list[int]) -> dict[str, np.ndarray]:
    """How much the last chosen scored above the first refused, by position; inf: none refused.

    Of the indexers' top k and of the routers, in the order of the layers.
    """
    found: dict[str, np.ndarray] = {}

    def keep(name: str, score: torch.Tensor, k: int) -> None:
        found[name] = np.full(len(score), np.inf)
        if score.shape[1] > k:
            ranked = score.double().sort(-1, descending=True).values.numpy()
            acts = np.isfinite(ranked[:, k])
            found[name][acts] = ranked[acts, k - 1] - ranked[acts, k]

    handles = []
    for layer, block in enumerate(model.model.layers):
        gate = block.mlp.gate
        if isinstance(gate, modeling.DeepseekV4TopKRouter):

            def on_gate(_m: Any, _a: Any, out: Any, layer: int = layer, gate: Any = gate) -> None:
                score = gate.score_fn(out[0]) + gate.e_score_correction_bias
                keep(f"router {layer}", score, gate.top_k)

            handles.append(gate.register_forward_hook(on_gate))
        for indexer in block.modules():
            if isinstance(indexer, modeling.DeepseekV4Indexer):

                def on_score(
                    _m: Any, _a: Any, out: Any, layer: int = layer, indexer: Any = indexer
                ) -> None:
                    rows = torch.arange(out.shape[2])
                    seen = (torch.arange(out.shape[1]) + 1) // indexer.compress_rate
                    score = out[0].masked_fill(rows >= seen[:, None], -torch.inf)
                    keep(f"indexer {layer}", score, indexer.index_topk)

                handles.append(indexer.scorer.register_forward_hook(on_score))
    try:
        hf_logits(model, ids)
    finally:
        for h in handles:
            h.remove()
    return found


@contextmanager
def swapped(model: Any, layer: int, position: int) -> Iterator[None]:
    """Let an indexer take the first refused row in place of the last chosen, at one position."""
    (indexer,) = (
        m for m in model.model.layers[layer].modules() if isinstance(m, modeling.DeepseekV4Indexer)
    )

    def swap(_m: Any, _a: Any, out: torch.Tensor) -> torch.Tensor:
        seen = (position + 1) // indexer.compress_rate
        order = out[0, position, :seen].argsort(descending=True, stable=True)
        pair = order[indexer.index_topk - 1 : indexer.index_topk + 1]
        out = out.clone()
        out[0, position, pair] = out[0, position, pair.flip(0)]
        return out

    handle = indexer.scorer.register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Tie:
    """A choice of an indexer that two sums in another order make otherwise."""

    layer: int
    position: int
    margin: float
    median: float  # margin over the positions where that indexer refuses any


@dataclass(frozen=True)
class Explained:
    """HF's logits, those with the other choice at `ties`, and the ties, in order of position."""

    plain: np.ndarray
    settled: np.ndarray
    ties: tuple[Tie, ...]


def without_ties(model: Any, ids: list[int], got: np.ndarray, most: int = 12) -> Explained:
    """HF's logits with its near ties decided as in `got`, found from the outliers alone.

    At the first position that is off by `CLOSE` or more, the indexer with the smallest margin is
    made to choose the other row; that is kept and repeated while the first such position moves on.
    """
    ties: list[Tie] = []
    with ExitStack() as swaps:
        want = hf_logits(model, ids)
        plain = want
        while (off := np.flatnonzero(np.abs(want - got).max(1) >= CLOSE)).size and len(ties) < most:
            first = int(off[0])
            found = {k: v for k, v in margins(model, ids).items() if k.startswith("indexer")}
            name = min(found, key=lambda k: found[k][first])
            margin = found[name]
            layer = int(name.split()[1])
            if (layer, first) in {(t.layer, t.position) for t in ties}:
                break
            median = float(np.median(margin[np.isfinite(margin)]))
            ties.append(Tie(layer, first, float(margin[first]), median))
            swaps.enter_context(swapped(model, layer, first))
            want = hf_logits(model, ids)
    return Explained(plain, want, tuple(ties))


@dataclass(frozen=True)
class Replies:
    """Greedy tokens of each engine for the same prompts."""

    prompts: list[Prompt]
    by_engine: dict[str, list[list[int]]]

    def agreement(self, a: str, b: str) -> dict[str, tuple[int, int]]:
        """Equal and all: answers of exam items, their whole replies, continuations of prose."""
        exam = [p.answer is not None for p in self.prompts]
        pairs = list(zip(exam, self.by_engine[a], self.by_engine[b]))
        return {
            "answers": (sum(e and answer_in(x) == answer_in(y) for e, x, y in pairs), sum(exam)),
            "replies": (sum(e and x == y for e, x, y in pairs), sum(exam)),
            "prose": (sum(not e and x == y for e, x, y in pairs), len(exam) - sum(exam)),
        }

    def right(self, engine: str) -> int:
        return sum(
            p.answer is not None and answer_in(x) == p.answer
            for p, x in zip(self.prompts, self.by_engine[engine])
        )


def replies(recipe: str, folder: Path, n_items: int, n_prose: int) -> Replies:
    """Greedy replies of ds4, transformers and llama.cpp where it is installed."""
    asked = prompts(n_items, n_prose)
    with opened(path_of(recipe), "cpu", activations="f32", kv="f32") as engine:
        ours = [our_reply(engine, p) for p in asked]
    found = {"ds4": ours}
    if importlib.util.find_spec("llama_cpp"):
        copy = float_copy(path_of(recipe), folder / f"{recipe}-f32.gguf")
        peer = LlamaCpp(copy, 1, "f32")
        try:
            found["llama.cpp"] = [llama_reply(peer, p) for p in asked]
        finally:
            peer.close()
    model = hf_model(path_of(recipe))
    found["HF"] = [hf_reply(model, p, guess) for p, guess in zip(asked, ours)]
    return Replies(asked, found)


def _print_logits(recipe: str, folder: Path, n: int) -> None:
    copy = float_copy(path_of(recipe), folder / f"{recipe}-f32.gguf")
    model = hf_model(path_of(recipe))
    for text in TEXTS:
        ids = text_ids(text, n)
        with opened(path_of(recipe), "cpu", activations="f32", kv="f32") as engine:
            got = {"ds4": logits_of(engine, ids), "llama.cpp": llama_logits(copy, ids)}
        for name, logits in got.items():
            e = without_ties(model, ids, logits)
            d = distance(e.plain, logits)
            share = (np.abs(e.plain - logits).max(1) < CLOSE).mean()
            left = np.abs(e.settled - logits).max()
            print(f"| {recipe} {text}, {n} | {name} | {d.max_abs:.1e} | {d.rms:.1e} "
                  f"| {100 * share:.2f} % | {100 * d.top1:.1f} % | {len(e.ties)} | {left:.1e} |",
                  flush=True)  # fmt: skip
            for t in e.ties:
                print(f"    tie: layer {t.layer}, position {t.position}, margin {t.margin:.1e} "
                      f"(median {t.median:.1e})", flush=True)  # fmt: skip


def _print_answers(recipe: str, folder: Path, n: int) -> None:
    got = replies(recipe, folder, n, 20)
    for name in got.by_engine:
        print(f"{recipe} {name}: {got.right(name)} of {n} right", flush=True)
    for a, b in combinations(got.by_engine, 2):
        equal = got.agreement(a, b)
        print(f"{recipe} {a} = {b}: "
              + ", ".join(f"{k} {x} of {y}" for k, (x, y) in equal.items()),
              flush=True)  # fmt: skip


def _print_faults(recipe: str, n: int) -> None:
    for text in TEXTS:
        ids = text_ids(text, n)
        sound = np.empty(0)
        for name, plant in {"none": lambda _: None, **FAULTS}.items():
            with opened(path_of(recipe), "cpu", activations="f32", kv="f32") as engine:
                plant(engine)
                got = logits_of(engine, ids)
            sound = got if name == "none" else sound
            d = distance(sound, got)
            share = (np.abs(sound - got).max(1) < CLOSE).mean()
            print(f"| {recipe} {text}, {n} | {name} | {d.max_abs:.1e} | {d.kl:.1e} "
                  f"| {100 * share:.1f} % | {100 * d.top1:.1f} % |", flush=True)  # fmt: skip


def main(what: str = "logits", n: str = "") -> None:
    """Print one table for both recipes."""
    assert what in ("logits", "answers", "faults"), what
    torch.set_num_threads(1)  # tensors are small: a second thread costs more than it gives
    with tempfile.TemporaryDirectory() as name:
        for recipe in RECIPES:
            if what == "logits":
                _print_logits(recipe, Path(name), int(n or 1500))
            elif what == "faults":
                _print_faults(recipe, int(n or 1500))
            else:
                _print_answers(recipe, Path(name), int(n or 200))


if __name__ == "__main__":
    main(*sys.argv[1:])
