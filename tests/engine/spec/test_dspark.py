"""DSpark as a drafter: plain's tokens and state, and drafts that depend on the text alone."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import OptionError, SnapshotError
from engine.options import DSPARK_MODES
from engine.sample import Sampler
from engine.spec.dspark import DsparkDrafter
from engine.spec.modes import open_decoder
from engine.spec.policy import Greedy, Sampled
from engine.spec.protocol import Drafts
from tests.engine.models import open_dspark, open_model
from tests.engine.spec.test_modes import generate, plain_run, prompts


class Unlimited:
    """A rule that never stops a drafter."""

    stop: frozenset[int] = frozenset()

    def goes_on(self, slot, logits, confidence):
        return True


class Recorded:
    """A drafter that proposes a known text, so that any number of drafts can be kept.

    Every `wrong`-th draft is another token.
    """

    most = 5

    def __init__(self, session, text, wrong):
        self.session, self.text, self.wrong, self.made = session, text, wrong, 0
        self.inner = DsparkDrafter(session)

    def ready(self):
        return self.inner.ready()

    def keep_up(self):
        return self.inner.keep_up()

    def propose(self, token, pos, k, policy, rule):
        self.inner.propose(token, pos, k, policy, rule)
        found = Drafts()
        for at in range(pos + 1, min(pos + 1 + k, len(self.text))):
            self.made += 1
            found.tokens.append(self.text[at] if self.made % self.wrong else 3)
            found.notes.append(None)
            found.confidences.append(0.5)
        return found

    def committed(self, first):
        self.inner.committed(first)


@pytest.fixture(scope="module")
def engine(model_folder):
    with open_dspark(model_folder, recipe="q8_0") as opened:
        yield opened


def drafts_of(session, token: int, k: int = 5) -> Drafts:
    drafter = DsparkDrafter(session)
    assert drafter.ready()
    return drafter.propose(token, session.n_past, k, Greedy(), Unlimited())


@pytest.mark.parametrize("mode", DSPARK_MODES)
@pytest.mark.parametrize("wrong", [3, 1000])
def test_modes_emit_plains_stream_whatever_is_kept(engine, mode, wrong):
    for prompt in prompts(engine.shape.n_vocab, 10)[4::5]:
        session = engine.session(len(prompt) + 48)
        tokens, logits, state = plain_run(session, prompt, 40)
        session.rewind(0)
        session.sync(prompt)
        decoder = open_decoder(session, mode, Greedy())
        decoder.drafter = Recorded(session, prompt + tokens, wrong)
        assert generate(decoder, 40) == tokens
        np.testing.assert_array_equal(session.logits, logits)
        assert bytes(session.save().data) == state
        assert decoder.stats.accepted > 0
        if wrong == 1000:
            assert decoder.stats.steps <= 40 / 6 + 2


@pytest.mark.parametrize("draft", [1, 2, 5])
@pytest.mark.parametrize("mode", DSPARK_MODES)
def test_the_drafter_itself_changes_no_token(engine, mode, draft):
    prompt = prompts(engine.shape.n_vocab, 9)[8]
    session = engine.session(512)
    tokens, logits, state = plain_run(session, prompt, 60)
    session.rewind(0)
    session.sync(prompt)
    decoder = open_decoder(session, mode, Greedy(), draft=draft)
    assert generate(decoder, 60) == tokens
    np.testing.assert_array_equal(session.logits, logits)
    assert bytes(session.save().data) == state
    assert len(decoder.stats.reliability) <= draft


def test_fewer_drafts_are_the_first_of_more(engine):
    """The block is always run whole, so its width does not decide what its first slots say."""
    session = engine.session(300)
    session.sync(prompts(engine.shape.n_vocab, 15)[14])
    whole = drafts_of(session, 9)
    for k in range(1, 5):
        part = drafts_of(session, 9, k)
        assert part.tokens == whole.tokens[:k]
        assert part.confidences == whole.confidences[:k]


def test_after_any_history_a_drafter_says_what_a_fresh_one_says(engine):
    """Rejections, plain steps, rewinds, restores and long sleeps leave no trace in any bit."""
    rng = np.random.default_rng(3)
    session = engine.session(1024)
    text = rng.integers(3, 500, 900).tolist()
    session.sync(text[:100])
    drafter = DsparkDrafter(session)
    saved = None
    for turn in range(30):
        action = turn % 6
        n = session.n_past
        if action == 0:
            session.verify([text[n], 7, 8, 9])
            session.rewind(n + 1)
        elif action == 1:
            session.eval(text[n])
        elif action == 2 and n > 20:
            session.rewind(n - int(rng.integers(1, 9)))
            session.eval(text[session.n_past])
        elif action == 3:
            saved = session.save()
            session.sync([*session.tokens, *rng.integers(3, 500, 30).tolist()])
        elif action == 4 and saved is not None:
            session.restore(saved)
        else:
            session.sync(text[: n + int(rng.integers(1, 160))])
        if turn % 2 and session.tokens == text[: session.n_past]:
            assert drafter.ready()
            mine = drafter.propose(11, session.n_past, 5, Greedy(), Unlimited())
            fresh = engine.session(1024)
            fresh.sync(session.tokens)
            assert mine.confidences == drafts_of(fresh, 11).confidences
            assert mine.tokens == drafts_of(fresh, 11).tokens


@pytest.mark.parametrize("options", [{"threads": 1}, {"prefill_chunk": 32}, {"repack": "on"}])
def test_drafts_do_not_depend_on_threads_chunks_or_copies(model_folder, engine, options):
    prompt = prompts(engine.shape.n_vocab, 19)[17]
    session = engine.session(400)
    session.sync(prompt)
    with open_dspark(model_folder, recipe="q8_0", **options) as other:
        theirs = other.session(400)
        theirs.sync(prompt)
        ours = drafts_of(session, 5)
        assert drafts_of(theirs, 5).confidences == ours.confidences


def test_sampled_runs_are_reproducible_and_count_alike_on_any_number_of_threads(
    model_folder, engine
):
    prompt = prompts(engine.shape.n_vocab, 8)[7]
    runs = []
    for threads in (1, 2):
        with open_dspark(model_folder, recipe="q8_0", threads=threads) as opened:
            session = opened.session(512)
            session.sync(prompt)
            policy = Sampled(Sampler(temp=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=4))
            decoder = open_decoder(session, "dspark", policy)
            runs.append((generate(decoder, 80), decoder.stats.by_position))
    assert runs[0] == runs[1]
    assert runs[0][1][0][1] > 0


def test_a_session_without_outputs_drafts_from_what_it_sees_later(engine):
    """As a file of an earlier release leaves it: rows that were never written are not looked at."""
    session = engine.session(600)
    text = prompts(engine.shape.n_vocab, 18)[17]
    session.sync(text)
    saved = session.save()
    bare = type(saved)(saved.data, saved.kv)
    other = engine.session(600)
    other.restore(bare)
    drafter = DsparkDrafter(other)
    assert not drafter.ready()
    rng = np.random.default_rng(1)
    more = rng.integers(3, 500, 140).tolist()
    for part in (more[:1], more[:4]):
        other.sync(text + part)
        assert drafter.ready()
        drafter.propose(5, other.n_past, 5, Greedy(), Unlimited())
    other.sync(text + more)
    assert drafter.ready()
    late = drafter.propose(5, other.n_past, 5, Greedy(), Unlimited())
    session.sync(text + more)
    assert late.confidences == drafts_of(session, 5).confidences


def test_a_session_that_was_loaded_drafts_at_once(engine, tmp_path):
    """And what a fresh one says: its file holds the outputs of the last tokens."""
    session = engine.session(300)
    session.sync(prompts(engine.shape.n_vocab, 18)[17])
    session.save_file(tmp_path / "s.ds4", "drafts")
    loaded = engine.load_session(tmp_path / "s.ds4")
    ours, theirs = drafts_of(session, 9), drafts_of(loaded, 9)
    assert theirs.tokens == ours.tokens and theirs.confidences == ours.confidences
    saved = session.save()
    wrong = {layer: values[:, :1] for layer, values in saved.outputs.items()}
    before = loaded.tokens
    with pytest.raises(SnapshotError, match=r"expected outputs of at most .* tokens, 4 x"):
        loaded.restore(type(saved)(saved.data, saved.kv, wrong))
    assert loaded.tokens == before


def test_confidence_and_stop_tokens_end_a_block_early(engine):
    session = engine.session(300)
    session.sync(prompts(engine.shape.n_vocab, 12)[11])
    whole = drafts_of(session, 9)
    least = min(range(5), key=lambda i: whole.confidences[i])
    decoder = open_decoder(
        session, "dspark", Greedy(), confidence=np.nextafter(whole.confidences[least], 2)
    )
    kept = decoder.drafter
    assert kept.ready()
    found = kept.propose(9, session.n_past, 5, Greedy(), decoder.limits)
    first = next(i for i, c in enumerate(whole.confidences) if c <= whole.confidences[least])
    assert found.tokens == whole.tokens[:first]
    decoder = open_decoder(session, "dspark", Greedy(), stop=[whole.tokens[1]])
    assert decoder.drafter.ready()
    found = decoder.drafter.propose(9, session.n_past, 5, Greedy(), decoder.limits)
    assert found.tokens == whole.tokens[: whole.tokens.index(whole.tokens[1]) + 1]


def test_what_cannot_be_drafted_is_refused(model_folder, engine):
    session = engine.session(64)
    with pytest.raises(OptionError, match="draft: expected 1 to 5, found 6"):
        open_decoder(session, "dspark", Greedy(), draft=6)
    with pytest.raises(OptionError, match="confidence: expected 0 to 1"):
        open_decoder(session, "dspark", Greedy(), confidence=1.5)
    with pytest.raises(OptionError, match="needs an MTP block"):
        open_decoder(session, "mtp-combined", Greedy())
    with open_model(model_folder, "micro", "q8_0") as bare:
        assert bare.modes() == ("plain",)
        with pytest.raises(OptionError, match="dspark needs a DSpark drafter"):
            open_decoder(bare.session(64), "dspark", Greedy())
    assert engine.modes() == ("plain", *DSPARK_MODES)


def test_steps_without_drafts_do_no_drafting_work(engine, monkeypatch):
    """While a schedule pauses, rows wait; one pass writes them when drafting goes on."""
    session = engine.session(512)
    session.sync(prompts(engine.shape.n_vocab, 9)[8])
    decoder = open_decoder(session, "dspark", Greedy())
    written = []
    passes = decoder.drafter.passes
    plain = passes.store_context

    def store_context(rings, first, n):
        written.append(n)
        plain(rings, first, n)

    monkeypatch.setattr(passes, "store_context", store_context)
    depth, token = decoder.depth.most, decoder.start()
    token = decoder.step(token, 8).next
    before, n = list(written), session.n_past
    monkeypatch.setattr(decoder.depth, "most", 0)
    for _ in range(7):
        token = decoder.step(token, 8).next
    assert written == before and session.n_past == n + 7
    monkeypatch.setattr(decoder.depth, "most", depth)
    decoder.step(token, 8)
    assert len(written) == len(before) + 1 and written[-1] >= 7
