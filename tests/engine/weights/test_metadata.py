"""Hyperparameters: what is read, and that every wrong one is refused by name."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import gguf
import numpy as np
import pytest

from engine.errors import LayoutError
from engine.gguf.reader import open_gguf
from engine.weights.bind import bind_trunk
from engine.weights.metadata import is_mtp_file, n_layers, shape_from_metadata
from tests.engine.gguf.build import (
    add_value,
    metadata,
    tiny_shape,
    write_mtp,
    write_trunk,
)

DROP = object()


def write_keys(path, changes=None, kind="antirez", rows=40, arch="deepseek4", others=()):
    """A file with metadata and an embedding only; keys are changed, or dropped."""
    keys = metadata(tiny_shape(), kind)
    for key, value in (changes or {}).items():
        if value is DROP:
            del keys[key]
        else:
            keys[key] = value
    writer = gguf.GGUFWriter(path, arch)
    for key, (value_type, value) in keys.items():
        add_value(writer, f"deepseek4.{key}", value_type, value)
    for key, value_type, value in others:
        add_value(writer, key, value_type, value)
    if rows:
        writer.add_tensor("token_embd.weight", np.zeros((rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    with open_gguf(path) as file:
        return shape_from_metadata(file)


REQUIRED = [
    "block_count", "context_length", "embedding_length", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.q_lora_rank", "attention.output_lora_rank", "attention.output_group_count",
    "attention.sliding_window", "attention.indexer.head_count", "attention.indexer.key_length",
    "attention.indexer.top_k", "attention.compress_ratios", "attention.compress_rope_freq_base",
    "rope.dimension_count", "rope.freq_base", "rope.scaling.original_context_length",
    "expert_count", "expert_used_count", "expert_shared_count", "expert_feed_forward_length",
    "expert_weights_scale", "expert_weights_norm", "swiglu_clamp_exp", "hyper_connection.count",
    "hyper_connection.sinkhorn_iterations", "hyper_connection.epsilon", "hash_layer_count",
]  # fmt: skip

BAD = [
    *((key, DROP) for key in REQUIRED),
    *((key, ("u32", 0)) for key in REQUIRED if metadata(tiny_shape())[key][0] == "u32"
      and key != "hash_layer_count"),
    *((key, ("u32", 2**32 - 1)) for key in REQUIRED if metadata(tiny_shape())[key][0] == "u32"),
    *((key, ("f32", value)) for key in REQUIRED if metadata(tiny_shape())[key][0] == "f32"
      for value in (0.0, -1.0, math.nan, math.inf)),
    ("block_count", ("str", "3")), ("block_count", ("f32", 3.0)), ("block_count", ("bool", True)),
    ("block_count", ("u32[]", [3])), ("block_count", ("i32", -1)), ("block_count", ("u32", 513)),
    ("block_count", ("u64", 2**63)), ("block_count", ("u32", 4)),
    ("embedding_length", ("u32", 65_537)), ("context_length", ("u32", 2**24 + 1)),
    ("attention.head_count_kv", ("u32", 2)), ("attention.value_length", ("u32", 64)),
    ("attention.head_count", ("u32[]", [4, 4, 4])),
    ("attention.output_group_count", ("u32", 3)), ("attention.output_group_count", ("u32", 5)),
    ("attention.indexer.key_length", ("u32", 96)), ("rope.dimension_count", ("u32", 31)),
    ("rope.dimension_count", ("u32", 66)), ("rope.dimension_count", ("u32", 98)),
    ("rope.freq_base", ("u32", 10_000)), ("rope.freq_base", ("str", "1e4")),
    ("rope.scaling.type", ("str", "linear")), ("rope.scaling.type", ("u32", 1)),
    ("rope.scaling.factor", ("f32", 0.5)), ("rope.scaling.factor", ("f32", math.inf)),
    ("rope.scaling.yarn_beta_fast", ("f32", 0.0)), ("rope.scaling.yarn_beta_slow", ("f32", 33.0)),
    ("attention.compress_ratios", ("i32[]", [0, 4])),
    ("attention.compress_ratios", ("i32[]", [0, 4, 2])),
    ("attention.compress_ratios", ("i32[]", [0, -4, 128])),
    ("attention.compress_ratios", ("u64[]", [0, 4, 2**63])),
    ("attention.compress_ratios", ("f32[]", [0.0, 4.0, 128.0])),
    ("attention.compress_ratios", ("u32", 4)),
    ("attention.compress_ratios", ("str[]", ["0", "4", "128"])),
    ("expert_count", ("u32", 1025)), ("expert_used_count", ("u32", 7)),
    ("expert_group_count", ("u32", 2)), ("expert_group_used_count", ("u32", 1)),
    ("expert_gating_func", ("u32", 2)), ("expert_weights_norm", ("bool", False)),
    ("expert_weights_norm", ("u32", 1)), ("expert_shared_count", ("u32", 17)),
    ("swiglu_clamp_exp", ("f32[]", [10.0, 10.0])), ("swiglu_clamp_exp", ("i32[]", [10, 10, 10])),
    ("swiglu_clamp_exp", ("f32[]", [10.0, math.nan, 10.0])),
    ("swiglu_clamp_exp", ("f32[]", [10.0, math.inf, 10.0])),
    ("swiglu_clamp_exp", ("f32[]", [10.0, -1.0, 10.0])), ("swiglu_clamp_exp", ("f32", -1.0)),
    ("swiglu_clamp_shexp", ("f32[]", [10.0])), ("hash_layer_count", ("u32", 4)),
    ("hyper_connection.count", ("u32", 65)), ("vocab_size", ("u32", 41)),
    ("vocab_size", ("u32", 0)), ("vocab_size", ("str", "40")),
    ("nextn_predict_layers", ("u32", 9)),
]  # fmt: skip


def test_the_table_is_large_enough():
    assert len(BAD) >= 60


@pytest.mark.parametrize(
    ("key", "value"), BAD, ids=[f"{k} {'absent' if v is DROP else v}" for k, v in BAD]
)
def test_bad_hyperparameter_is_refused_by_name(tmp_path, key, value):
    path = write_keys(tmp_path / "m.gguf", {key: value})

    with pytest.raises(LayoutError) as caught, open_gguf(path) as file:
        bind_trunk(file)

    # One block more than the arrays have entries: the array is what is too short.
    named = "swiglu_clamp_exp" if (key, value) == ("block_count", ("u32", 4)) else key
    message = str(caught.value)
    assert message.startswith(f"m.gguf: deepseek4.{named}: expected ") and ", found " in message


def test_names_the_architecture(tmp_path):
    path = write_keys(tmp_path / "m.gguf", arch="llama")

    with pytest.raises(LayoutError, match=r"general.architecture: expected 'deepseek4', found 'll"):
        read(path)


@pytest.mark.parametrize(
    ("others", "word"),
    [
        ([("tokenizer.ggml.tokens", "str[]", ["a"] * 41)], "at most vocab_size = 40"),
        ([("tokenizer.ggml.tokens", "i32[]", [1, 2])], "an array of strings, found an array of 2"),
        ([("general.name", "u32", 1)], "general.name: expected a string, found 1"),
    ],
)
def test_keys_outside_the_architecture(tmp_path, others, word):
    path = write_keys(tmp_path / "m.gguf", others=others)

    with pytest.raises(LayoutError, match=word):
        read(path)


def test_no_vocabulary_size_anywhere(tmp_path):
    path = write_keys(tmp_path / "m.gguf", kind="llama", rows=0)

    with pytest.raises(LayoutError, match="vocab_size: expected the key, or a token_embd"):
        read(path)


@pytest.mark.parametrize("kind", ["antirez", "llama"])
def test_both_layouts_give_the_shape(tmp_path, kind):
    shape = tiny_shape(swiglu_limit_shared=(10.0,) * 3)

    with open_gguf(write_trunk(tmp_path / "m.gguf", shape, kind)) as file:
        assert shape_from_metadata(file) == shape
        assert not is_mtp_file(file)
    with open_gguf(write_mtp(tmp_path / "d.gguf", shape, kind)) as file:
        assert is_mtp_file(file)
        if kind == "llama":
            assert shape_from_metadata(file) == shape


def test_what_is_optional_and_what_it_falls_back_to(tmp_path):
    changes = {
        "swiglu_clamp_exp": ("f32", 7.0),
        "rope.scaling.type": ("str", "none"),
        "rope.scaling.yarn_beta_fast": DROP,
        "rope.scaling.yarn_beta_slow": DROP,
        "attention.value_length": DROP,
        "vocab_size": DROP,
        "expert_group_count": DROP,
        "attention.compress_ratios": ("u32[]", [0, 4, 128, 0, 0, 0]),
        "nextn_predict_layers": ("u32", 1),
    }
    shape = read(write_keys(tmp_path / "m.gguf", changes))

    # MTP layers that are declared but not there leave the trunk's count alone.
    assert shape.n_layer == 3 and shape.compress_ratios == (0, 4, 128)
    assert shape.swiglu_limit == shape.swiglu_limit_shared == (7.0, 7.0, 7.0)
    assert (shape.yarn_factor, shape.yarn_beta_fast, shape.yarn_beta_slow) == (1.0, 32.0, 1.0)
    assert shape.n_vocab == 40


def test_no_scaling_means_factor_one(tmp_path):
    drop = {f"rope.scaling.{k}": DROP for k in ("type", "factor", "original_context_length")}
    shape = read(write_keys(tmp_path / "m.gguf", drop))

    assert (shape.yarn_factor, shape.yarn_orig_ctx) == (1.0, 4096)


def test_shared_clamp_of_its_own(tmp_path):
    changes = {"swiglu_clamp_shexp": ("f32[]", [1.0, 2.0, 3.0, 4.0])}

    assert read(write_keys(tmp_path / "m.gguf", changes)).swiglu_limit_shared == (1.0, 2.0, 3.0)


def test_name_is_escaped(tmp_path):
    others = [("general.name", "str", "\x1b]0;owned\x07")]

    assert read(write_keys(tmp_path / "m.gguf", others=others)).name == "\\x1b]0;owned\\x07"


def test_no_block_count_no_layers(tmp_path):
    with open_gguf(write_keys(tmp_path / "m.gguf", {"block_count": DROP})) as file:
        assert n_layers(file) is None


def test_every_dimension_comes_from_the_file(tmp_path):
    shape = tiny_shape(
        n_layer=5, compress_ratios=(128, 4, 0, 4, 128), n_vocab=33, n_embd=64, n_ctx_train=77,
        n_head=6, head_dim=40, n_rot=8, n_lora_q=24, n_lora_o=12, n_out_group=3, n_swa=5,
        n_idx_head=3, idx_head_dim=32, idx_top_k=9, n_expert=7, n_expert_used=3,
        n_expert_shared=2, n_ff_exp=20, n_hash_layer=2, expert_weights_scale=2.5,
        swiglu_limit=(1.0, 2.0, 3.0, 4.0, 5.0), swiglu_limit_shared=(5.0, 4.0, 3.0, 2.0, 1.0),
        n_hc=2, n_sinkhorn=3, hc_eps=0.25, rms_eps=0.125, rope_base=500.0,
        rope_base_compress=900.0, yarn_factor=4.0, yarn_orig_ctx=19, yarn_beta_fast=8.0,
        yarn_beta_slow=2.0, name="odd",
    )  # fmt: skip

    with open_gguf(write_trunk(tmp_path / "m.gguf", shape, "llama", name="odd")) as file:
        found, _ = bind_trunk(file)

    assert dataclasses.asdict(found) == dataclasses.asdict(shape)


def test_nothing_here_imports_numba(tmp_path):
    path = write_keys(tmp_path / "m.gguf", {"block_count": ("u32", 0)})
    code = (
        "import sys\n"
        "from engine.errors import LayoutError\n"
        "from engine.gguf.reader import open_gguf\n"
        "from engine.weights.bind import bind_trunk\n"
        "import engine.weights.traffic, engine.cli.inspect_cmd\n"
        "try: bind_trunk(open_gguf(sys.argv[1]))\n"
        "except LayoutError: assert 'numba' not in sys.modules\n"
        "else: raise SystemExit('accepted')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
