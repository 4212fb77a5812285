"""DSpark on the CUDA kernel set: the CPU's drafts, plain's tokens, and passes that can be replayed.

Bounds. With float32 weights and rows the sets part only by the order of float32 sums, as in
`test_engine.py` beside this: through four layers, and then three stages more.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import LayoutError, NonFiniteError
from engine.options import DSPARK_MODES
from engine.quant.formats import KERNELS
from engine.sample import Sampler
from engine.spec.dspark import DsparkDrafter
from engine.spec.modes import open_decoder
from engine.spec.policy import Greedy, Sampled
from engine.weights.files import open_files
from tests.engine.models import dspark_file, model_file, open_dspark
from tests.engine.spec.test_dspark import Recorded, Unlimited
from tests.engine.spec.test_modes import generate, plain_run

CLOSE = 2e-4  # of the greatest magnitude
EXACT = {"recipe": "f32", "kv": "f32"}


def text(n: int) -> list[int]:
    return np.random.default_rng(5).integers(3, 500, n).tolist()


def drafted(drafter: DsparkDrafter, token: int):
    """Ids, logits and logits of confidences of a whole block behind the live end."""
    assert drafter.ready()
    passes = drafter.passes
    found = drafter.propose(token, drafter.session.n_past, 5, Greedy(), Unlimited())
    sure = [passes.confidence_logit(slot) for slot in range(5)]
    return found.tokens, np.array(passes.logits), np.array(sure)


def history(engine) -> list:
    """Drafts over windows that fill and wrap, 0 to 5 accepted drafts, and without old outputs."""
    ids, found = text(260), []
    session = engine.session(300)
    session.sync(ids[:4])
    drafter = DsparkDrafter(session)
    found.append(drafted(drafter, ids[4]))
    session.sync(ids[:125])
    for accepted in (0, 3, 5, 1):
        n = session.n_past
        found.append(drafted(drafter, ids[n]))
        session.verify([*ids[n : n + 1 + accepted], *[1] * (5 - accepted)])
        session.rewind(n + 1 + accepted)
    session.eval(ids[190])
    saved = session.save()
    bare = engine.session(300)
    bare.restore(type(saved)(saved.data, saved.kv))  # as an earlier release's file leaves it
    bare.sync([*bare.tokens, *ids[200:203]])
    found.append(drafted(DsparkDrafter(bare), ids[4]))
    return found


def test_drafts_logits_and_confidences_are_the_processors(on_device, model_folder):
    with open_dspark(model_folder, **EXACT) as engine:
        wanted = history(engine)
    with open_dspark(model_folder, backend="cuda", **EXACT) as engine:
        found = history(engine)

    for (ids, logits, sure), (want_ids, want_logits, want_sure) in zip(found, wanted):
        assert ids == want_ids
        assert np.abs(logits - want_logits).max() < CLOSE * np.abs(want_logits).max()
        assert np.abs(sure - want_sure).max() < CLOSE * np.abs(want_sure).max()


@pytest.mark.parametrize("mode", DSPARK_MODES)
def test_modes_emit_plains_tokens_and_leave_its_state(on_device, model_folder, mode):
    """With drafts of the drafter itself, and with drafts of which most are kept."""
    with open_dspark(model_folder, recipe="iq2", backend="cuda") as engine:
        prompt = text(126)
        session = engine.session(200)
        tokens, logits, state = plain_run(session, prompt, 14)
        for wrong in (0, 4):
            session.rewind(0)
            session.sync(prompt)
            decoder = open_decoder(session, mode, Greedy())
            if wrong:
                decoder.drafter = Recorded(session, prompt + tokens, wrong)
            assert generate(decoder, 14) == tokens
            np.testing.assert_array_equal(session.logits, logits)
            assert bytes(session.save().data) == state
        assert decoder.stats.accepted > 0


class Drawn(Greedy):
    """Greedy's choices by a policy that does not say so: the host makes them slot by slot."""

    def __init__(self, banned=()):
        super().__init__(banned)
        self.maxima_without = None


@pytest.fixture
def drafter(on_device, model_folder):
    with open_dspark(model_folder, recipe="q8_0", backend="cuda") as engine:
        session = engine.session(300)
        session.sync(text(140))
        yield DsparkDrafter(session)


def propose(drafter, policy, k=5):
    assert drafter.ready()
    return drafter.propose(7, drafter.session.n_past, k, policy, Unlimited())


def test_the_walk_is_what_single_slots_are_and_reads_once(drafter, monkeypatch):
    """Also with ids that must not be chosen, and with fewer slots: the same bits."""
    whole = propose(drafter, Greedy())
    for banned in ((), whole.tokens[:1], whole.tokens):
        ahead, singly = propose(drafter, Greedy(banned)), propose(drafter, Drawn(banned))
        assert ahead.tokens == singly.tokens and ahead.confidences == singly.confidences
        assert not set(ahead.tokens) & set(banned)
        for k in (1, 3):
            part = propose(drafter, Greedy(banned), k)
            assert part.tokens == ahead.tokens[:k] and part.confidences == ahead.confidences[:k]

    device, reads = drafter.session.engine.ops.ctx.device, []
    download = device.download
    monkeypatch.setattr(
        device, "download", lambda host, at: (reads.append(host.nbytes), download(host, at))
    )
    propose(drafter, Greedy())
    assert reads == [5 * 2 * 4]


def test_after_any_history_a_drafter_says_what_a_fresh_one_says(drafter):
    """Recorded passes, replayed at other positions, and new ones: the same bits."""
    session, more = drafter.session, text(300)[140:]
    before = propose(drafter, Greedy())
    for n in (1, 4, 6, 30):
        session.sync([*session.tokens, *more[:n]])
        propose(drafter, Greedy())
        session.verify(more[60:64])
        session.rewind(session.n_past - 2)
    mine = propose(drafter, Greedy())
    fresh = DsparkDrafter(session)
    again = propose(fresh, Greedy())
    assert mine.tokens == again.tokens and mine.confidences == again.confidences
    assert mine.confidences != before.confidences
    ops = session.engine.ops
    names = set(ops.facts()["launches"])
    assert {"dspark rows, 6 rows", "dspark block, 5 rows", "dspark walk, 5 rows"} <= names


def test_a_snapshot_carries_what_drafting_needs(drafter):
    session = drafter.session
    mine, saved = propose(drafter, Greedy()), session.save()
    session.rewind(session.n_past - 3)
    session.sync([*session.tokens, *text(200)[150:190]])
    session.restore(saved)
    again = propose(drafter, Greedy())
    assert again.tokens == mine.tokens and again.confidences == mine.confidences


def test_logits_that_are_not_finite_end_a_walk(drafter):
    """Every slot behind it was looked up by some id of the vocabulary."""
    drafter.ready()
    base, block = drafter.passes._base, drafter.passes.run_block

    def spoiled(*args):
        block(*args)
        base[1:2] = np.full((1, base.shape[1]), np.nan, np.float32)

    drafter.passes.run_block = spoiled
    with pytest.raises(NonFiniteError, match="logits: expected finite values"):
        propose(drafter, Greedy())
    assert len(propose(drafter, Greedy(), 1).tokens) == 1


def test_sampled_drafts_are_drawn_on_the_host(drafter):
    policy = Sampled(Sampler(temp=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=4))
    found = propose(drafter, policy)
    assert policy.maxima_without is None and len(found.notes) == 5
    for token, (ids, q) in zip(found.tokens, found.notes):
        assert q[list(ids).index(token)] > 0


def test_a_drafter_without_kernels_is_refused_before_anything_is_loaded(model_folder, monkeypatch):
    trunk = model_file(model_folder, "micro", "f16")
    spark = dspark_file(model_folder, "micro", "q8_0")
    with open_files(trunk, None, "cuda", dspark_path=spark):
        pass
    monkeypatch.setitem(KERNELS, "cuda", ("F32", "F16"))
    with open_files(trunk, None, "cuda"):
        pass
    with pytest.raises(LayoutError, match=rf"{spark.name}: .* for --backend cuda .*found Q8_0"):
        open_files(trunk, None, "cuda", dspark_path=spark)
