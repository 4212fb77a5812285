"""The published model's sizes: layout, bytes and traffic against published figures."""

from __future__ import annotations

import dataclasses

import pytest

from engine.gguf.values import Metadata
from engine.weights import layout
from engine.weights.bind import (
    LayerWeights,
    TrunkWeights,
    bind_mtp,
    iter_tensors,
    trunk_mismatches,
)
from engine.weights.traffic import decode_traffic, distinct_experts
from tests.engine.weights import flash

GIB = 2**30


@pytest.fixture(scope="module")
def weights():
    tensors = flash.trunk()
    top = {k: tensors[s.name] for k, s in layout.trunk_specs(flash.FLASH).items()}
    layers = tuple(
        LayerWeights(
            **{
                field: tensors[spec.name]
                for field, spec in layout.layer_specs(
                    flash.FLASH, f"blk.{i}.", flash.RATIOS[i], i < 3
                ).items()
            }
        )
        for i in range(flash.N_LAYER)
    )
    return TrunkWeights(**top, layers=layers)


def test_layout_is_the_published_one(weights):
    tensors = flash.trunk()
    file = flash.FakeFile(tensors, Metadata({}, {}))

    assert trunk_mismatches(file, flash.FLASH) == []
    assert {t.name for t in iter_tensors(weights)} == set(tensors)


def test_mtp_layout_is_the_published_one():
    tensors = flash.mtp()
    file = flash.FakeFile(tensors, Metadata({}, {}))
    bound = bind_mtp(file, flash.FLASH)

    assert len(tensors) == 32
    assert {t.name for t in iter_tensors(bound)} == set(tensors)
    assert sum(t.n_bytes for t in tensors.values()) / GIB == pytest.approx(3.55, abs=0.005)


def test_file_size_is_the_published_one(weights):
    experts = sum(
        getattr(layer, f"ffn_{x}_exps").n_bytes
        for layer in weights.layers
        for x in ("gate", "up", "down")
    )
    total = sum(t.n_bytes for t in iter_tensors(weights))

    assert experts == 72.5625 * GIB
    assert (total - experts) / GIB == pytest.approx(8.197, abs=0.0005)
    layer = weights.layers[0]
    one = layer.ffn_gate_exps.n_bytes + layer.ffn_up_exps.n_bytes + layer.ffn_down_exps.n_bytes
    assert one == 256 * 7_077_888


@pytest.mark.parametrize(
    ("n_ctx", "raw", "selected", "indexer", "ratio_128", "total"),
    [
        (2048, 11.3, 22.0, 0, 0.7, 9.23),
        (8192, 11.3, 22.0, 22.0, 2.6, 9.62),
        (32768, 11.3, 22.0, 88.1, 10.5, 9.69),
        (65536, 11.3, 22.0, 176.2, 21.0, 9.79),
    ],
)
def test_bytes_per_decoded_token(weights, n_ctx, raw, selected, indexer, ratio_128, total):
    found = decode_traffic(flash.FLASH, weights, n_ctx)

    # Half a unit of the last published digit.
    assert found.kv_raw / 1e6 == pytest.approx(raw, abs=0.051)
    assert found.kv_selected / 1e6 == pytest.approx(selected, abs=0.051)
    assert found.kv_indexer / 1e6 == pytest.approx(indexer, abs=0.051)
    assert found.kv_ratio128 / 1e6 == pytest.approx(ratio_128, abs=0.051)
    assert found.total / 1e9 == pytest.approx(total, abs=0.0051)
    assert found.dense / 1e9 == pytest.approx(6.807 if n_ctx == 2048 else 7.170, abs=0.0006)
    assert found.head / 1e9 == pytest.approx(0.5626, abs=0.0003)
    assert found.experts / 1e9 == pytest.approx(1.826, abs=0.0005)
    assert found.total == found.weights + found.kv


@pytest.mark.parametrize(("n_rows", "distinct", "total"), [(2, 11.86, 11.40), (3, 17.58, 13.14)])
def test_bytes_of_a_verify_pass(weights, n_rows, distinct, total):
    found = decode_traffic(flash.FLASH, weights, 8192, n_rows)

    assert distinct_experts(256, 6, n_rows) == pytest.approx(distinct, abs=0.005)
    assert found.total / 1e9 == pytest.approx(total, abs=0.0051)


def test_traffic_at_the_edges(weights):
    shape = flash.FLASH
    short = decode_traffic(shape, weights, 3)
    halves = decode_traffic(shape, weights, 65536, kv_value_bytes=2)

    # Three tokens: no window of four is complete, three raw rows are there.
    assert (short.kv_selected, short.kv_indexer, short.kv_ratio128) == (0, 0, 0)
    assert short.kv_raw == 43 * 3 * 512 * 4
    assert 2 * halves.kv == decode_traffic(shape, weights, 65536).kv
    # 512 compressed rows are visible at 2048 to 2051 and need no selection; 513 do.
    assert decode_traffic(shape, weights, 2051).kv_indexer == 0
    assert decode_traffic(shape, weights, 2052).kv_indexer == 21 * 513 * 128 * 4
    # One row of F16 embedding; of three hash tables one row of six ids.
    assert short.embedding == 4096 * 2 + 3 * 6 * 4
    assert distinct_experts(8, 8, 5) == 8


def test_every_field_has_a_spec_somewhere():
    fields = {f.name for f in dataclasses.fields(LayerWeights)}
    specs = {
        field
        for ratio in (0, 4, 128)
        for hashed in (True, False)
        for field in layout.layer_specs(flash.FLASH, "blk.0.", ratio, hashed)
    }
    assert specs == fields
