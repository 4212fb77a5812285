"""DSpark drafters in files: three layouts, one meaning; and what is refused, by name."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest

from engine.errors import LayoutError
from engine.gguf.reader import open_gguf
from engine.models.dspark import dspark_shape, dspark_specs
from engine.models.make import draw
from engine.models.recipes import dspark_formats
from engine.models.shapes import micro, tiny_wide
from engine.quant.registry import dequantize
from engine.weights.bind import bind_mtp, bind_trunk
from engine.weights.dspark.bind import bind_dspark
from engine.weights.dspark.identity import FORCED, STATED, UNSTATED, pairing
from engine.weights.dspark.kinds import kind_of
from engine.weights.dspark.shown import shown_shape
from tests.engine.models import dspark_file, model_file

SHAPE, SPARK = micro(), dspark_shape(micro())


def rewritten(source, target, keys=None, tensors=None, drop=(), architecture=None):
    """A copy of a file by the `gguf` package, with keys and tensors replaced or left out."""
    reader = gguf.GGUFReader(source)
    old = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture or old)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in drop:
            continue
        value = (keys or {}).get(name, field.contents())
        kind = field.types[0]
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, kind, sub)
    for name, value in (keys or {}).items():
        if name not in reader.fields:
            writer.add_string(name, value)
    for tensor in reader.tensors:
        if tensor.name in drop:
            continue
        data = (tensors or {}).get(tensor.name, tensor.data)
        raw = tensor.tensor_type if data is tensor.data else None
        writer.add_tensor(tensor.name, data, raw_dtype=raw)
    for name, data in (tensors or {}).items():
        if all(name != tensor.name for tensor in reader.tensors):
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def values(tensor):
    return np.asarray(dequantize(tensor.data, tensor.format, tensor.shape)).reshape(tensor.shape)


@pytest.mark.parametrize("layout", ["A", "B", "C"])
def test_every_layout_binds_to_the_values_that_were_written(model_folder, layout):
    drawn = {spec.name: draw(spec, 7) for spec in dspark_specs(SHAPE, SPARK)}
    with open_gguf(dspark_file(model_folder, "micro", "f32", layout)) as file:
        bound = bind_dspark(file, SHAPE)
        assert (bound.spark, bound.layout) == (SPARK, layout)
        main = np.concatenate([values(part) for part in bound.main_proj], axis=1)
        np.testing.assert_array_equal(main, drawn["mtp.0.main_proj.weight"])
        fields = {
            "norm": "norm",
            "markov_head.markov_w2": "markov_w2",
            "confidence_head.proj": "conf_proj",
            "hc_head_fn": "hc_head_fn",
        }
        for leaf, field in fields.items():
            np.testing.assert_array_equal(
                values(getattr(bound, field)), drawn[f"mtp.2.{leaf}.weight"]
            )
        for i, stage in enumerate(bound.stages):
            np.testing.assert_array_equal(
                values(stage.ffn_down_exps), drawn[f"mtp.{i}.ffn_down_exps.weight"]
            )


def test_layout_c_counts_layers_from_their_inputs(model_folder):
    """llama.cpp's key names the layer whose input is read: one behind ours."""
    reader = gguf.GGUFReader(dspark_file(model_folder, "micro", "f32", "C"))
    stored = [int(v) for v in reader.fields["dflash.target_layers"].contents()]
    assert stored == [layer + 1 for layer in SPARK.taps]


@pytest.mark.parametrize("layout", ["A", "B", "C"])
def test_formats_are_those_of_the_files_in_circulation(model_folder, layout):
    path = dspark_file(model_folder, "micro", "iq2", layout)
    formats = dspark_formats("iq2", layout)
    found = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    ends = {"markov_w1.weight": "markov", "ffn_gate_inp.weight": "router",
            "hc_attn_fn.weight": "hc", "attn_q_b.weight": "dense",
            "ffn_gate_exps.weight": "expert_in", "ffn_down_exps.weight": "expert_out"}  # fmt: skip
    for end, kind in ends.items():
        assert {fmt for name, fmt in found.items() if name.endswith(end)} == {formats[kind]}


def test_a_trunk_may_carry_its_drafter(model_folder):
    for layout in ("A", "B"):
        path = dspark_file(model_folder, "micro", "q8_0", layout, combined=True)
        with open_gguf(path) as file:
            shape, _ = bind_trunk(file)
            assert bind_dspark(file, shape).spark == SPARK
        assert kind_of(path)[0] == "dspark"


def test_kinds_are_told_by_tensors(model_folder):
    assert kind_of(dspark_file(model_folder, "micro", "f32", "C"))[0] == "dspark"
    assert kind_of(model_file(model_folder, "micro", "f32", draft=True))[0] == "mtp"
    llama = model_file(model_folder, "micro", "f32", draft=True, layout="llama")
    assert kind_of(llama)[0] == "mtp"
    with pytest.raises(LayoutError, match="expected a DSpark drafter or an MTP block, found neit"):
        kind_of(model_file(model_folder, "micro", "f32"))
    with open_gguf(dspark_file(model_folder, "micro")) as file:
        with pytest.raises(LayoutError, match="expected a trunk, found a DSpark drafter"):
            bind_trunk(file)
        with pytest.raises(LayoutError, match="expected an MTP block, found a DSpark drafter"):
            bind_mtp(file, SHAPE)
    trunk = model_file(model_folder, "micro", "f32")
    with open_gguf(trunk) as file, pytest.raises(LayoutError, match="found none of these"):
        bind_dspark(file, SHAPE)


LAST = SHAPE.n_layer - 1
REFUSED = {
    "taps-order": ("A", {"dspark.target_layer_ids": [3, 2, 1]}, "ascending order"),
    "taps-twice": ("A", {"dspark.target_layer_ids": [1, 1, 3]}, "ascending order"),
    "taps-range": ("A", {"dspark.target_layer_ids": [1, 2, 4]}, f"integers from 0 to {LAST}"),
    "taps-c": ("C", {"dflash.target_layers": [0, 2, 4]}, f"integers from 1 to {LAST + 1}"),
    "block": (
        "A",
        {"dspark.block_size": 16},
        "dspark.block_size: expected an integer from 2 to 15",
    ),
    "block-1": ("B", {"deepseek4.dspark.block_size": 1}, "from 2 to 15, found 1"),
    "noise": ("A", {"dspark.noise_token_id": 512}, "from 0 to 511, found 512"),
    "rank": ("B", {"deepseek4.dspark.markov_rank": 32}, "markov_rank: expected 64, found 32"),
    "stages": ("A", {"dspark.stage_count": 2}, "dspark.stage_count: expected 3, found 2"),
    "width-c": ("C", {"dflash.embedding_length": 512}, "expected 256 as in the trunk, found 512"),
    "eps-c": ("C", {"dflash.attention.layer_norm_rms_epsilon": 1e-20}, "as in the trunk"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_key_that_does_not_fit_is_named(model_folder, tmp_path, case):
    layout, keys, message = REFUSED[case]
    path = rewritten(dspark_file(model_folder, "micro", "f32", layout), tmp_path / "d.gguf", keys)
    with open_gguf(path) as file, pytest.raises(LayoutError, match=message):
        bind_dspark(file, SHAPE)


def test_tensors_that_do_not_fit_are_named(model_folder, tmp_path):
    source = dspark_file(model_folder, "micro", "f32", "A")
    changed = rewritten(
        source,
        tmp_path / "d.gguf",
        tensors={"mtp.2.confidence_head.proj.weight": np.zeros((1, 256), np.float32),
                 "mtp.1.unheard.weight": np.zeros(4, np.float32)},
        drop=("mtp.1.attn_kv.weight", "mtp.0.main_norm.weight"),
    )  # fmt: skip
    with open_gguf(changed) as file, pytest.raises(LayoutError) as caught:
        bind_dspark(file, SHAPE)
    for words in ("mtp.0.main_norm.weight: expected", "confidence_head.proj.weight: expected a"):
        assert words in str(caught.value)
    lacking = rewritten(source, tmp_path / "e.gguf", drop=("mtp.2.norm.weight",))
    with open_gguf(lacking) as file, pytest.raises(LayoutError, match="no such tensor"):
        bind_dspark(file, SHAPE)


def test_a_drafter_of_another_trunk_is_refused(model_folder):
    spark = dspark_file(model_folder, "micro")
    with open_gguf(spark) as file, pytest.raises(LayoutError, match="tensors do not fit"):
        bind_dspark(file, tiny_wide())


@pytest.mark.parametrize("architecture", ["deepseek41-dspark", "deepseek41"])
def test_drafters_of_v41_are_refused_by_name(model_folder, tmp_path, architecture):
    path = rewritten(
        dspark_file(model_folder, "micro"), tmp_path / "d.gguf", architecture=architecture
    )
    with open_gguf(path) as file, pytest.raises(LayoutError, match=r"V4\.1, which reads layers'"):
        bind_dspark(file, SHAPE)
    with pytest.raises(LayoutError, match=r"V4\.1"):
        kind_of(path)


def test_an_architecture_of_another_layout_is_refused(model_folder, tmp_path):
    path = rewritten(dspark_file(model_folder, "micro"), tmp_path / "d.gguf", architecture="llama")
    with open_gguf(path) as file, pytest.raises(LayoutError, match="'deepseek4-dspark' or"):
        bind_dspark(file, SHAPE)


@pytest.mark.parametrize("layout", ["A", "B", "C"])
def test_a_drafter_alone_shows_enough_of_its_trunk_to_be_checked(model_folder, layout):
    with open_gguf(dspark_file(model_folder, "micro", "q8_0", layout)) as file:
        shape = shown_shape(file)
        assert bind_dspark(file, shape).spark == SPARK
    for field in ("n_embd", "n_head", "head_dim", "n_lora_q", "n_lora_o", "n_expert", "n_vocab"):
        assert getattr(shape, field) == getattr(SHAPE, field)


VARIANT, REVISION = "deepseek4.checkpoint_variant", "general.source.revision"
PAIRS = [
    ({}, {}, UNSTATED, ""),
    ({VARIANT: "a"}, {VARIANT: "a"}, STATED, ""),
    ({VARIANT: "a"}, {VARIANT: "b"}, None, "trunk's variant, a .*, found b"),
    ({VARIANT: "a"}, {}, UNSTATED, "only the trunk states its variant"),
    ({}, {REVISION: "7872f01b"}, UNSTATED, "only the drafter states its revision"),
    ({REVISION: "1"}, {REVISION: "2"}, None, "trunk's revision"),
    ({"general.name": "Flash 0731"}, {"general.name": "DSpark 0731"}, STATED, ""),
    ({"general.name": "Flash 0731"}, {"general.name": "DSpark Vision-Exp"}, None, "vision-exp"),
    ({"general.base_model.0.version": "0731", "general.name": "old"},
     {"general.name": "x vision-exp"}, None, "general.base_model.0.version"),
    ({"general.name": "10731"}, {"general.name": "DSpark 0731"}, UNSTATED, "only the drafter"),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs", "found", "message"), PAIRS)
def test_checkpoints_are_compared_by_what_files_state(
    model_folder, tmp_path, ours, theirs, found, message
):
    trunk = rewritten(model_file(model_folder, "micro", "q8_0"), tmp_path / "t.gguf", ours)
    spark = rewritten(dspark_file(model_folder, "micro", "q8_0"), tmp_path / "d.gguf", theirs)
    with open_gguf(trunk) as first, open_gguf(spark) as second:
        if found is None:
            with pytest.raises(LayoutError, match=message):
                pairing(first, second)
            assert pairing(first, second, force=True) == (FORCED, "")
        else:
            told, notice = pairing(first, second)
            assert told == found
            assert message in notice if message else not notice


def test_shapes_of_drafters_are_plain_data():
    assert dataclasses.asdict(SPARK)["taps"] == (1, 2, 3) and SPARK.n_tap == 3
