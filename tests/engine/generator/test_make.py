"""Random weights: their sizes, streams and spreads."""

import numpy as np
import pytest

from engine.errors import OptionError
from engine.models import make, stream
from engine.models.make import Spec, chunks, draft_specs, draw, trunk_specs
from engine.models.recipes import KINDS, LAYOUTS, RECIPES, formats_of
from engine.models.shapes import NAMED, flash, micro, named_shape, nano
from engine.quant.formats import BY_NAME, KERNELS
from engine.quant.registry import dequantize, quantize


def test_named_shapes_obey_the_peers_limits():
    for name in NAMED:
        shape = named_shape(name)
        assert shape.name == name
        assert shape.head_dim != shape.idx_head_dim
        assert shape.n_nope % 64 == 0 and shape.n_rot == 64
        assert shape.n_idx_head >= 16
        assert shape.n_embd % 256 == 0 and shape.n_ff_exp % 256 == 0
        assert shape.n_head * shape.head_dim % shape.n_out_group == 0
        assert set(shape.compress_ratios) == {0, 4, 128}


def test_flash_is_flash():
    shape = flash()

    assert (shape.n_layer, shape.n_embd, shape.n_expert, shape.n_vocab) == (43, 4096, 256, 129280)
    assert shape.compress_ratios.count(4) == 21 and shape.compress_ratios.count(128) == 20
    # Published file: 80.76 GiB, of which experts 72.5625 GiB.
    formats = formats_of("iq2", "antirez")
    sizes = {s: stream.spec_bytes(s, BY_NAME[formats[s.kind]]) for s in trunk_specs(shape)}
    experts = sum(n for s, n in sizes.items() if s.rule == "experts")
    assert experts == 72.5625 * 2**30
    assert sum(sizes.values()) / 2**30 == pytest.approx(80.76, abs=0.005)


def test_nano_is_small_enough():
    n = sum(int(np.prod(s.shape)) for s in trunk_specs(nano()) if s.kind != "table")

    assert 10e6 < n < 12e6


@pytest.mark.parametrize("name", ["", "Nano", "flash-0-layers", "flash-44-layers", "flash--layers"])
def test_unknown_shapes_are_refused(name):
    with pytest.raises(OptionError, match="shape: expected"):
        named_shape(name)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("draft", [False, True])
def test_recipes_cover_every_kind(recipe, layout, draft):
    formats = formats_of(recipe, layout, draft)

    assert set(formats) == set(KINDS)
    assert formats["vector"] == "F32" and formats["table"] == "I32"
    assert all(f in KERNELS["cpu"] for kind, f in formats.items() if kind != "table")


def test_streams_differ_by_name_and_seed():
    a = draw(Spec("a", (64,), "vector", 1.0), 1)

    assert not np.array_equal(a, draw(Spec("b", (64,), "vector", 1.0), 1))
    assert not np.array_equal(a, draw(Spec("a", (64,), "vector", 1.0), 2))
    np.testing.assert_array_equal(a, draw(Spec("a", (64,), "vector", 1.0), 1))


@pytest.mark.parametrize("rule", ["normal", "norm", "eye", "hash"])
def test_pieces_do_not_change_the_values(monkeypatch, rule):
    spec = Spec("x", (50, 50) if rule != "hash" else (50, 3), "dense", 0.5, 1.0, rule, n_expert=7)
    whole = draw(spec, 5)

    monkeypatch.setattr(make, "CHUNK_VALUES", 350)

    assert len(list(chunks(spec, 5))) > 1 or rule == "hash"
    np.testing.assert_array_equal(draw(spec, 5), whole)


def test_hash_tables_name_distinct_experts():
    table = draw(Spec("t", (500, 3), "table", rule="hash", n_expert=5), 0)

    assert table.dtype == np.int32 and table.min() == 0 and table.max() == 4
    assert all(len(set(row)) == 3 for row in table.tolist())
    # Every expert about 300 times; 5 standard deviations of a binomial are 77.
    assert abs(np.bincount(table.ravel()) - 300).max() < 77


def test_experts_share_half_of_their_variance():
    experts = draw(Spec("e", (4, 64, 256), "expert_in", 2.0, rule="experts"), 0)

    assert experts.std() == pytest.approx(2, rel=0.02)
    for a in range(4):
        for b in range(a):
            correlation = np.corrcoef(experts[a].ravel(), experts[b].ravel())[0, 1]
            # Standard error of 16384 pairs: 0.006.
            assert correlation == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("fmt", ["F32", "Q2_K", "IQ2_XXS"])
def test_pooled_experts_look_like_drawn_ones(monkeypatch, fmt):
    monkeypatch.setattr(stream, "POOL_VALUES", 0)
    spec = Spec("e", (6, 32, 512), "expert_in", 0.3, rule="experts")
    parts = list(stream.encoded(spec, BY_NAME[fmt], 4))
    data = np.concatenate(parts)

    experts = dequantize(data, fmt, spec.shape)

    assert data.nbytes == stream.spec_bytes(spec, BY_NAME[fmt])
    # Codes of least squared error lose the variance that becomes error: a tenth for IQ2_XXS.
    assert experts.std() == pytest.approx(0.3, rel=0.08)
    for a in range(6):
        for b in range(a):
            # A quarter of the rows are equal (four variants), the others correlate by one half.
            assert 0.35 < np.corrcoef(experts[a].ravel(), experts[b].ravel())[0, 1] < 0.85
            assert not np.array_equal(experts[a], experts[b])
    other = dequantize(
        np.concatenate(list(stream.encoded(Spec("f", *vars_of(spec)), BY_NAME[fmt], 4))),
        fmt,
        spec.shape,
    )
    assert abs(np.corrcoef(experts.ravel(), other.ravel())[0, 1]) < 0.1


def vars_of(spec):
    return spec.shape, spec.kind, spec.std, spec.mean, spec.rule


def test_quantised_recipes_come_from_the_same_weights():
    spec = next(s for s in trunk_specs(micro()) if s.name == "blk.1.ffn_down_exps.weight")
    values = draw(spec, 3)

    for fmt in ("F32", "F16", "Q8_0", "Q4_K", "Q2_K"):
        streamed = np.concatenate(list(stream.encoded(spec, BY_NAME[fmt], 3)))

        np.testing.assert_array_equal(streamed, quantize(values, fmt))


def test_draft_block_has_the_published_32_tensors():
    specs = list(draft_specs(flash()))

    assert len(specs) == 32
    assert not any("compressor" in s.name or "tid2eid" in s.name for s in specs)
    assert any(s.name == "mtp.0.exp_probs_b.bias" for s in specs)
