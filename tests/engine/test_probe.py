"""Looking into passes changes no bits, and layer outputs are kept by position."""

from __future__ import annotations

import numpy as np
import pytest

from engine.forward.probe import Probe
from tests.engine.models import open_model

CTX = 64


@pytest.fixture(scope="module")
def engine(model_folder):
    with open_model(model_folder, "micro", "q8_0") as engine:
        yield engine


@pytest.fixture(scope="module")
def text(engine):
    return np.random.default_rng(8).integers(3, engine.shape.n_vocab, 40).tolist()


def recorded(session):
    """Everything that a probe sees of a session from now on, as (name, layer, values)."""
    seen = []
    session.trunk.layers.probe = Probe(lambda *row: seen.append((*row[:2], np.array(row[2]))))
    return seen


def test_a_probed_pass_has_the_same_bits(engine, text):
    plain, probed = engine.session(CTX), engine.session(CTX)
    plain.sync(text)
    seen = recorded(probed)
    probed.sync(text)

    np.testing.assert_array_equal(probed.logits, plain.logits)
    assert bytes(probed.save().data) == bytes(plain.save().data)
    name, layer, values = seen[-1]
    assert (name, layer) == ("logits", engine.shape.n_layer)
    np.testing.assert_array_equal(values[0], plain.logits)


def test_replaced_ids_are_those_that_run(engine, text):
    session = engine.session(CTX)
    seen = []

    def replace(layer, ids):
        ids[...] = (ids + 1) % engine.shape.n_expert

    session.trunk.layers.probe = Probe(lambda *row: seen.append((*row[:2], np.array(row[2]))))
    session.sync(text)
    own = {layer: ids for name, layer, ids in seen if name == "expert_ids"}
    session = engine.session(CTX)
    seen.clear()
    session.trunk.layers.probe = Probe(
        lambda *row: seen.append((*row[:2], np.array(row[2]))), replace
    )
    session.sync(text)
    changed = {layer: ids for name, layer, ids in seen if name == "expert_ids"}
    first = next(i for i, x in enumerate(engine.model.layers) if x.tid2eid is None)

    np.testing.assert_array_equal(changed[first], (own[first] + 1) % engine.shape.n_expert)
    for layer in range(first):  # hash routers are left alone
        np.testing.assert_array_equal(changed[layer], own[layer])


def test_outputs_of_any_layer_are_kept_by_position(engine, text):
    """Chunks, single tokens and a verification leave in a ring what a probe sees."""
    shape, cap = engine.shape, 16
    session, watched = engine.session(CTX), engine.session(CTX)
    ring = engine.ops.new_array((cap, shape.n_hc, shape.n_embd))
    session.trunk.keep_outputs(1, ring)
    seen = recorded(watched)
    for s in (session, watched):
        s.sync(text[:30])
        s.eval(text[30])
        s.verify(text[31:])
    states = np.concatenate([a for name, layer, a in seen if (name, layer) == ("ffn_state", 1)])
    last = np.arange(len(text) - cap, len(text))

    np.testing.assert_array_equal(ring[last % cap], states[last])


def test_outputs_to_keep_are_named_before_the_first_pass(engine, text):
    session = engine.session(CTX)
    session.sync(text[:3])
    with pytest.raises(AssertionError, match="before the first evaluation"):
        session.trunk.keep_outputs(0, engine.ops.new_array((4, 1, 1)))
