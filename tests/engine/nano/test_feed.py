"""Batches from worker processes: those of this process, whatever the number of workers."""

from __future__ import annotations

import numpy as np
import pytest

from engine.nano.corpus import Mix, rows
from engine.training import feed
from engine.training.feed import Feed, Request, make_batch

FIRST, SECOND = Request("drill", 2, 128), Request("exam", 1, 256)


@pytest.mark.parametrize("n_worker", [0, 2])
def test_batches_depend_on_stage_seed_and_number_alone(n_worker: int) -> None:
    source = Feed(7, n_worker)
    try:
        # The second kind begins while workers are ahead with the first.
        for request, numbers in ((FIRST, range(3)), (SECOND, range(3, 6)), (FIRST, range(6, 8))):
            for number in numbers:
                expected = make_batch(request, 7, number)
                assert np.array_equal(source.batch(request, number), expected)
    finally:
        source.close()


def test_a_batch_holds_rows_of_a_stream_of_its_own() -> None:
    batch = make_batch(FIRST, 7, 0)

    assert batch.shape == (3, 2, 128) and batch.dtype == np.uint16
    others = (
        make_batch(FIRST, 7, 1), make_batch(FIRST, 8, 0), make_batch(Request("exam", 2, 128), 7, 0),
    )  # fmt: skip
    assert not any(np.array_equal(batch[0], other[0]) for other in others)
    state = np.random.SeedSequence([7, 0, *b"drill"]).generate_state(1)
    made = rows(int(state[0]), 2, 128, Mix.stage("drill"))
    assert all(np.array_equal(a, b) for a, b in zip(batch, (made.ids, made.cls, made.doc)))


def test_a_dead_worker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Feed(7, 1)
    source.close()
    monkeypatch.setattr(feed, "_WAIT_SECONDS", 0.2)

    with pytest.raises(RuntimeError, match="feed: expected batch 3 within"):
        source.batch(FIRST, 3)
