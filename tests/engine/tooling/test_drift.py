"""The divergence finder against planted faults: it must name the right layer and token."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from engine.errors import OptionError
from engine.gguf.reader import open_gguf
from engine.quant.formats import BY_NAME
from engine.tooling.diagnose.drift import Side, compare
from engine.weights.tensor import Tensor
from tests.engine.models import model_file, open_model

N = 150


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(12).integers(3, 500, N).tolist()


@pytest.fixture(scope="module")
def good(model_folder):
    with open_model(model_folder, "micro", activations="f32", kv="f32") as engine:
        yield engine


@pytest.fixture
def faulty(model_folder):
    with open_model(model_folder, "micro", activations="f32", kv="f32") as engine:
        yield engine


def change_layer(engine, index: int, **fields: Any) -> None:
    layers = list(engine.model.layers)
    layers[index] = dataclasses.replace(layers[index], **fields)
    engine.model = dataclasses.replace(engine.model, layers=tuple(layers))


def tensor_of(model_folder, name: str) -> Tensor:
    with open_gguf(model_file(model_folder, "micro")) as file:
        found = file.tensors[name]
        return dataclasses.replace(found, data=found.data.copy())


def prepared(engine, tensor: Tensor):
    return engine.ops.prepare(tensor, activations="f32", repack=False)


def find(good, faulty, tokens, **options):
    return compare(Side(good), Side(faulty), tokens, **options)


def test_equal_sides_show_nothing(good, tokens):
    report = compare(Side(good, rows=1), Side(good, rows=3), tokens[:70])

    assert report.self_noise == 0
    assert report.first_difference is None
    assert report.first_flip is None
    assert report.first_argmax is None
    assert report.mean_rms == 0
    assert report.forced_rms == 0


def test_top_k_short_by_one_in_one_layer(good, faulty, tokens):
    layer, top_k = 3, good.shape.idx_top_k
    assert good.shape.compress_ratios == (0, 4, 128, 4)
    select, calls = faulty.ops.indexer_select, [0]

    def indexer_select(sel, n_sel, q, head_w, rows, pos0, ratio, margin):
        calls[0] += 1
        if calls[0] % 2 or q is None:  # layers 1 and 3 select in turn
            select(sel, n_sel, q, head_w, rows, pos0, ratio, margin)
            return
        short = np.zeros((len(sel), top_k - 1), np.int32)
        select(short, n_sel, q, head_w, rows, pos0, ratio, margin)
        sel[:, :-1] = short

    faulty.ops.indexer_select = indexer_select
    # One token per pass, so that selection starts with the first token that has rows to drop.
    report = compare(Side(good, rows=1), Side(faulty, rows=1), tokens)

    flip, first = report.first_flip, report.first_difference
    assert (flip.kind, flip.layer, flip.position) == ("indexer_set", layer, 4 * (top_k + 1) - 1)
    assert (first.tap, first.layer, first.position) == ("heads", layer, flip.position)


def test_router_in_half_precision(good, faulty, model_folder, tokens):
    layer = 2
    tensor = tensor_of(model_folder, f"blk.{layer}.ffn_gate_inp.weight")
    half = tensor.data.view("<f4").astype("<f2").view(np.uint8)
    change_layer(
        faulty,
        layer,
        router=prepared(faulty, dataclasses.replace(tensor, format=BY_NAME["F16"], data=half)),
    )
    report = find(good, faulty, tokens)

    first = report.first_difference
    assert (first.tap, first.layer, first.position) == ("router_logits", layer, 0)
    assert first.relative_rms < 1e-3
    if report.first_flip is not None and report.first_flip.kind == "expert_ids":
        assert report.first_flip.near_tie


def test_swapped_experts(good, faulty, model_folder, tokens):
    layer, a, b = 1, 0, 3
    name = f"blk.{layer}.ffn_up_exps.weight"
    tensor = tensor_of(model_folder, name)
    values = tensor.data.reshape(tensor.shape[0], -1)
    values[[a, b]] = values[[b, a]]
    change_layer(faulty, layer, up_exps=prepared(faulty, tensor))
    _, routing = good.session(N).all_logits(tokens, routing=True)
    hit = np.isin(routing.ids[layer], [a, b]).any(axis=1)
    report = find(good, faulty, tokens)

    first = report.first_difference
    assert (first.tap, first.layer) == ("ffn_out", layer)
    assert first.position == int(np.argmax(hit))


def test_wrong_position_of_compressed_rows(good, faulty, tokens):
    layer = 2
    store, table = faulty.ops.compressor_store, faulty.session(8).trunk.rope[True]

    def compressor_store(rows, pooled, weight, windows, pos0, eps, official):
        if weight is faulty.model.layers[layer].compressor.norm:
            # The last token of the window instead of the first.
            cos, sin = table.at(pos0 // 128 * 128 + 127, len(pooled), 128)
            windows = dataclasses.replace(windows, cos=cos, sin=sin)
        store(rows, pooled, weight, windows, pos0, eps, official)

    faulty.ops.compressor_store = compressor_store
    report = find(good, faulty, tokens)

    first = report.first_difference
    assert (first.tap, first.layer, first.position) == ("compressed", layer, 127)


def test_missing_clamp(good, faulty, tokens):
    layer = 0
    change_layer(faulty, layer, limit=0.0)
    report = find(good, faulty, tokens)

    first = report.first_difference
    assert (first.tap, first.layer) == ("ffn_out", layer)
    assert report.mean_rms > 0


def test_changed_order_of_summation(good, faulty, model_folder, tokens):
    layer = 1
    tensor = tensor_of(model_folder, f"blk.{layer}.attn_output_b.weight")
    flipped = np.ascontiguousarray(tensor.data.view("<f4").reshape(tensor.shape)[:, ::-1])
    weight = prepared(faulty, dataclasses.replace(tensor, data=flipped.view(np.uint8).reshape(-1)))
    change_layer(faulty, layer, out_b=weight)
    product = faulty.ops.matmul

    def matmul(out, x, w):
        product(out, np.ascontiguousarray(x[:, ::-1]) if w is weight else x, w)

    faulty.ops.matmul = matmul
    report = find(good, faulty, tokens)

    first = report.first_difference
    assert (first.tap, first.layer, first.position) == ("attn_out", layer, 0)
    assert report.growth[0] == 0 < report.growth[1] < 1e-5, "nothing before the faulty layer"
    assert first.relative_rms < 1e-5, "rounding only"
    if report.first_flip is not None:
        assert report.first_flip.near_tie is not False


def test_forcing_experts_removes_what_a_flip_did(good, faulty, model_folder, tokens):
    """The causal test: a router fault does no harm once the good side's experts are forced."""
    layer = 2
    bias = faulty.model.layers[layer].router_bias + np.linspace(0, 1, 4, dtype=np.float32)
    change_layer(faulty, layer, router_bias=bias)
    report = find(good, faulty, tokens)

    assert report.first_flip.kind == "expert_ids"
    assert report.first_flip.layer == layer
    assert report.first_flip.near_tie is False
    assert report.mean_rms > 0.01
    assert report.forced_rms == 0, "the bias only selects, so weights are those of the good side"


def test_report_is_plain_json(good, faulty, tokens):
    change_layer(faulty, 0, limit=0.0)
    report = find(good, faulty, tokens[:40], force=False)
    text = json.dumps(report.to_json(), allow_nan=False)

    assert json.loads(text)["n_tokens"] == 40
    assert report.forced_rms is None


def test_models_of_other_sizes_are_refused(good, model_folder, tokens):
    with (
        open_model(model_folder, "tiny-wide", activations="f32", kv="f32") as other,
        pytest.raises(OptionError, match="n_vocab: expected 512 on both sides, found 768"),
    ):
        compare(Side(good), Side(other), tokens[:4])
