"""The drafter's logits and confidences against NumPy, and mistakes that the comparison must see."""

from __future__ import annotations

import numpy as np
import pytest

from engine.engine import Engine
from engine.models.dspark import dspark_shape, dspark_specs
from engine.models.make import draw, trunk_specs
from engine.models.shapes import micro
from engine.session import Session
from engine.spec.dspark import DsparkDrafter
from tests.engine.models import open_dspark
from tests.engine.spec.dspark_numpy import FAULTS, NumpyDrafter

# Of the greatest magnitude: float32 against float64 through three stages; faults are 1000 times it.
CLOSE = 1e-5
EXACT = {"activations": "f32", "kv": "f32"}
SHAPE, SPARK = micro(), dspark_shape(micro())


def weights() -> dict[str, np.ndarray]:
    """Those of the generated model, float64."""
    shared = ("token_embd.weight", "output.weight")
    specs = [*dspark_specs(SHAPE, SPARK), *(s for s in trunk_specs(SHAPE) if s.name in shared)]
    return {spec.name: draw(spec, 7).astype(np.float64) for spec in specs}


def text(n: int) -> list[int]:
    return np.random.default_rng(5).integers(3, 500, n).tolist()


def taps_of(engine: Engine, ids: list[int]) -> np.ndarray:
    """Taps of every position, float64 (n, n_tap * n_embd), from passes of one token each."""
    session = engine.session(len(ids))
    rows = []
    for token in ids:
        session.sync([*session.tokens, token])
        at = session.n_past - 1
        rings = [session.output_ring(layer) for layer in SPARK.taps]
        parts = [np.asarray(ring[at % len(ring)]) for ring in rings]
        rows.append(np.concatenate([part.astype(np.float64).mean(0) for part in parts]))
    return np.array(rows)


def walk(drafter: DsparkDrafter, y: int) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Greedy drafts of the engine with what they were chosen from."""
    assert drafter.ready()
    pos = drafter.session.n_past
    passes = drafter.passes
    passes.run_block(y, pos, min(SHAPE.n_swa, pos - drafter._low), SPARK.block)
    ids, logits, sure = [], [], []
    for slot in range(SPARK.block):
        passes.follow(slot, y)
        logits.append(np.array(passes.logits[slot]))
        sure.append(passes.confidence_logit(slot))
        y = int(np.argmax(logits[-1]))
        ids.append(y)
    return ids, np.array(logits), np.array(sure)


def far(found: tuple, wanted: tuple) -> float:
    """Greatest distance of logits or confidences, of their greatest magnitude."""
    pairs = zip(found[1:], wanted[1:])
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def engine(model_folder):
    with open_dspark(model_folder, **EXACT) as opened:
        yield opened


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return text(330)


@pytest.fixture(scope="module")
def taps(engine, ids) -> np.ndarray:
    return taps_of(engine, ids)


def fed(engine: Engine, ids: list[int]) -> Session:
    session = engine.session(400)
    session.sync(ids)
    return session


@pytest.mark.parametrize("p", [0, 1, 4, 126, 127, 128, 299])
def test_logits_and_confidences_equal_numpys(engine, ids, taps, p):
    found = walk(DsparkDrafter(fed(engine, ids[: p + 1])), ids[p + 1])
    wanted = NumpyDrafter(SHAPE, SPARK, weights()).draft(taps[: p + 1], ids[p + 1])
    assert found[0] == wanted[0]
    assert far(found, wanted) < CLOSE


def test_rows_of_accepted_drafts_are_the_trunks_whatever_their_number(engine, ids, taps):
    """From p = 120 on, 0 to 5 drafts accepted between two blocks, so that the ring wraps."""
    session = fed(engine, ids[:121])
    drafter, reference = DsparkDrafter(session), NumpyDrafter(SHAPE, SPARK, weights())
    for accepted in (0, 3, 5, 1, 4, 2, 5, 5):
        p = session.n_past - 1
        found, wanted = walk(drafter, ids[p + 1]), reference.draft(taps[: p + 1], ids[p + 1])
        assert found[0] == wanted[0] and far(found, wanted) < CLOSE
        wrong = [1] * (SPARK.block - accepted)
        session.verify([ids[p + 1], *ids[p + 2 : p + 2 + accepted], *wrong])
        session.rewind(p + 2 + accepted)
        drafter.committed(p + 1)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen_in_logits_or_confidences(engine, ids, taps, fault):
    """Ids alone would not do: without sinks they are the same in 19 of 20 slots."""
    found = walk(DsparkDrafter(fed(engine, ids[:201])), ids[201])
    wrong = NumpyDrafter(SHAPE, SPARK, weights(), fault).draft(taps[:201], ids[201])
    assert far(found, wrong) > 100 * CLOSE
