"""Every decode mode emits plain's tokens, logits and state, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import OptionError
from engine.sample import Sampler
from engine.session import Session
from engine.spec.depth import DepthControl
from engine.spec.modes import open_decoder
from engine.spec.policy import Greedy, Sampled
from engine.spec.protocol import Decoder, Drafts
from tests.engine.models import open_model

SPECULATIVE = [
    ("mtp-strict", 1),
    ("mtp-strict", 3),
    ("mtp-batched", 1),
    ("mtp-batched", 2),
    ("mtp-batched", 4),
    ("mtp-combined", 1),
    ("mtp-combined", 2),
    ("mtp-combined", 3),
    ("mtp-combined", 4),
]


def generate(decoder: Decoder, n: int) -> list[int]:
    """Exactly n tokens."""
    out: list[int] = []
    token = decoder.start()
    while len(out) < n:
        result = decoder.step(token, n - len(out))
        assert 1 <= len(result.tokens) <= n - len(out)
        assert result.tokens[0] == token
        assert 0 <= result.accepted <= result.drafted
        out += result.tokens
        token = result.next
    return out


def prompts(n_vocab: int, count: int) -> list[list[int]]:
    """Random texts whose lengths meet the window and both compressors' borders."""
    rng = np.random.default_rng(9)
    lengths = [1, 2, 3, 4, 7, 8, 60, 121, 124, 126, 127, 128, 129, 132, 180, 250, 256, 300, 90, 33]
    return [rng.integers(3, n_vocab, length).tolist() for length in lengths[:count]]


def plain_run(session: Session, prompt: list[int], n: int) -> tuple[list[int], np.ndarray, bytes]:
    session.rewind(0)
    session.sync(prompt)
    tokens = generate(open_decoder(session, "plain", Greedy()), n)
    return tokens, session.logits.copy(), bytes(session.save().data)


def check_equal(engine, prompt: list[int], n: int, modes) -> dict[str, float]:
    session = engine.session(len(prompt) + n + 8)
    tokens, logits, state = plain_run(session, prompt, n)
    accepted = {}
    for mode, draft in modes:
        session.rewind(0)
        session.sync(prompt)
        decoder = open_decoder(session, mode, Greedy(), draft=draft)
        assert generate(decoder, n) == tokens, (mode, draft)
        np.testing.assert_array_equal(session.logits, logits)
        assert bytes(session.save().data) == state, (mode, draft)
        stats = decoder.stats
        assert stats.tokens == n
        assert sum(kept for _, kept in stats.by_position) == stats.accepted
        accepted[f"{mode}-{draft}"] = stats.accepted / max(stats.drafted, 1)
    return accepted


@pytest.mark.parametrize(
    ("shape", "recipe", "options"),
    [
        ("micro", "q8_0", {}),
        ("micro", "iq2", {}),
        ("tiny-wide", "f32", {"activations": "f32", "kv": "f32"}),
    ],
    ids=["micro-q8_0", "micro-iq2", "wide-f32"],
)
def test_modes_emit_plains_stream(model_folder, shape, recipe, options):
    with open_model(model_folder, shape, recipe, mtp=True, **options) as engine:
        seen = [
            check_equal(engine, prompt, 40, SPECULATIVE)
            for prompt in prompts(engine.shape.n_vocab, 6)
        ]
    # A drafter that is never or always right would not exercise both ways out of a step.
    rates = [rate for run in seen for rate in run.values()]
    assert 0 < np.mean(rates) < 1


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["f32", "f16", "q8_0", "q4", "iq2"])
@pytest.mark.parametrize("shape", ["micro", "tiny", "tiny-wide"])
def test_modes_emit_plains_stream_on_many_prompts(model_folder, shape, recipe):
    with open_model(model_folder, shape, recipe, mtp=True) as engine:
        for prompt in prompts(engine.shape.n_vocab, 20):
            check_equal(engine, prompt, 256, SPECULATIVE)


def test_switching_saving_and_syncing_in_between_changes_nothing(model_folder):
    with open_model(model_folder, "micro", "q8_0", mtp=True) as engine:
        prompt = prompts(engine.shape.n_vocab, 9)[8]
        n = 260
        session = engine.session(1024)
        tokens, _, _ = plain_run(session, prompt, n)
        rng = np.random.default_rng(17)
        session.rewind(0)
        session.sync(prompt)
        out: list[int] = []
        token = int(np.argmax(session.logits))
        saved = None
        while len(out) < n:
            action = rng.integers(6)
            if action == 0 and saved is not None:
                out = list(saved[1])
                token = saved[2]
                session.restore(saved[0])
                saved = None
            elif action == 1:
                saved = (session.save(), list(out), token)
            elif action == 2:
                session.sync(prompt + out)
            else:
                modes = ["plain", "mtp-strict", "mtp-batched", "mtp-combined"]
                mode = modes[rng.integers(4)]
                decoder = open_decoder(session, mode, Greedy(), draft=int(rng.integers(1, 5)))
                for _ in range(rng.integers(1, 5)):
                    if len(out) < n:
                        result = decoder.step(token, n - len(out))
                        out += result.tokens
                        token = result.next
            assert out == tokens[: len(out)]
        fresh = engine.session(1024)
        fresh.sync(prompt + out)
        session.sync(prompt + out)
        assert bytes(session.save().data) == bytes(fresh.save().data)


def test_sampled_speculation_is_reproducible_and_of_the_same_distribution(model_folder):
    """The distribution itself is tested on the policy; here: seeds, and acceptance of itself."""
    with open_model(model_folder, "micro", "q8_0", mtp=True) as engine:
        prompt = prompts(engine.shape.n_vocab, 8)[7]
        runs = []
        for _ in range(2):
            session = engine.session(512)
            session.sync(prompt)
            decoder = open_decoder(
                session, "mtp-combined", Sampled(Sampler(1.2, seed=5)), draft=2, adaptive=False
            )
            runs.append(generate(decoder, 80))
        assert runs[0] == runs[1]
        fresh = engine.session(512)
        fresh.sync(prompt + runs[0])
        assert bytes(fresh.save().data) == bytes(session.save().data)


def test_nothing_is_drafted_behind_a_stop_token(model_folder):
    with open_model(model_folder, "micro", "q8_0", mtp=True) as engine:
        prompt = prompts(engine.shape.n_vocab, 8)[7]
        session = engine.session(512)
        tokens, _, _ = plain_run(session, prompt, 60)
        stop = tokens[30]
        session.rewind(0)
        session.sync(prompt)
        decoder = open_decoder(session, "mtp-combined", Greedy(), draft=3, stop=[stop])
        out: list[int] = []
        token = decoder.start()
        while stop not in out:
            result = decoder.step(token, 60)
            out += result.tokens
            token = result.next
        assert out[-1] == stop
        assert session.n_past == len(prompt) + len(out)


def test_modes_that_need_a_block_say_so(model_folder):
    with open_model(model_folder, "micro", "q8_0") as engine:
        assert engine.modes() == ("plain",)
        session = engine.session(64)
        with pytest.raises(OptionError, match="needs an MTP block"):
            open_decoder(session, "mtp-combined", Greedy())
        with pytest.raises(OptionError, match="expected one of plain"):
            open_decoder(session, "turbo", Greedy())


def test_depth_of_draft_is_bounded(model_folder):
    with open_model(model_folder, "micro", "q8_0", mtp=True) as engine:
        session = engine.session(64)
        for draft in (0, 5):
            with pytest.raises(OptionError, match="expected 1 to 4"):
                open_decoder(session, "mtp-combined", Greedy(), draft=draft)


def test_context_end_is_reached_without_drafting_over_it(model_folder):
    with open_model(model_folder, "micro", "q8_0", mtp=True) as engine:
        session = engine.session(40)
        session.sync(list(range(3, 33)))
        decoder = open_decoder(session, "mtp-combined", Greedy(), draft=4)
        assert len(generate(decoder, 10)) == 10
        assert session.room == 0


def _settled_depth(chance: list[float], cost: list[float], steps: int = 400) -> float:
    """Mean depth over the second half, for given acceptance by position and seconds by depth."""
    rng = np.random.default_rng(2)
    control = DepthControl(len(cost), adaptive=True)
    depths = []
    for _ in range(steps):
        k = control.choose()
        kept = 0
        while kept < k and rng.random() < chance[kept]:
            kept += 1
        control.observe(Drafts([0] * k), kept, 0.0, cost[k - 1], 0.0)
        depths.append(k)
    return float(np.mean(depths[steps // 2 :]))


def test_depth_follows_the_break_even():
    # One more row costs a tenth: worth it at 90 %, not at 10 % or where rows are dear.
    assert _settled_depth([0.9, 0.9, 0.9, 0.9], [1.1, 1.2, 1.3, 1.4]) > 3.5
    assert _settled_depth([0.9, 0.05, 0.05, 0.05], [1.1, 1.3, 1.5, 1.7]) < 1.5
    assert _settled_depth([0.9, 0.9, 0.9, 0.9], [1.0, 2.5, 4.0, 6.0]) < 1.5
