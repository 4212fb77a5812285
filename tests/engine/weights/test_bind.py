"""Binding trunks and MTP blocks of both layouts; every mismatch is reported at once."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from engine.errors import LayoutError
from engine.gguf.parse import parse
from engine.gguf.reader import open_gguf
from engine.models.shapes import named_shape
from engine.models.write import write_model
from engine.weights import layout
from engine.weights.bind import bind_mtp, bind_trunk, check_values, iter_tensors
from tests.engine.gguf.build import metadata, tiny_shape, write_file, write_mtp, write_trunk
from tests.engine.gguf.build import trunk_specs as all_specs

KINDS = ["antirez", "llama"]


def values(tensor) -> np.ndarray:
    kind = gguf.GGMLQuantizationType(tensor.format.type_id)
    return gguf.quants.dequantize(tensor.data.reshape((*tensor.shape[:-1], -1)), kind)


def rewrite(path, shape, change, kind="antirez", tensors=None):
    """A trunk whose specs went through `change(name, spec)`; None drops the tensor."""
    specs = [changed for s in all_specs(shape) if (changed := change(s.name, s)) is not None]
    return write_file(path, metadata(shape, kind), specs + (tensors or []), n_expert=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("matrix", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_trunk_of_every_format(tmp_path, kind, matrix):
    with open_gguf(write_trunk(tmp_path / "m.gguf", kind=kind, matrix=matrix)) as file:
        shape, weights = bind_trunk(file)

        assert shape == tiny_shape()
        assert {t.name for t in iter_tensors(weights)} == set(file.tensors)
        first, second, third = weights.layers
        assert first.attn_compressor_kv is None and first.exp_probs_b is None
        assert first.ffn_gate_tid2eid.format.name == "I32"
        assert second.indexer_attn_q_b is not None and second.ffn_gate_tid2eid is None
        assert third.attn_compressor_ape.shape == (128, 96) and third.indexer_proj is None
        check_values("m.gguf", iter_tensors(weights))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", ["f32", "q8_0"])
def test_generated_models_bind(tmp_path, kind, recipe):
    """Written from a table of tensors that another author wrote down."""
    shape = named_shape("micro")
    trunk, draft = tmp_path / "m.gguf", tmp_path / "d.gguf"
    write_model(trunk, shape, recipe, 0, kind, draft=False)
    write_model(draft, shape, recipe, 0, kind, draft=True)

    with open_gguf(trunk) as file, open_gguf(draft) as block:
        found, weights = bind_trunk(file)
        mtp = bind_mtp(block, found)
        assert (found.n_layer, found.n_embd) == (shape.n_layer, shape.n_embd)
        assert found.compress_ratios == shape.compress_ratios
        assert {t.name for t in iter_tensors(weights)} == set(file.tensors)
        assert (mtp.token_embd is None) == (kind == "antirez")


@pytest.mark.parametrize("matrix", ["F32", "Q8_0"])
def test_mtp_halves_are_the_columns_of_eh_proj(tmp_path, matrix):
    shape = tiny_shape()
    with open_gguf(write_mtp(tmp_path / "d.gguf", shape, "llama", matrix=matrix)) as file:
        both = values(file.tensors["blk.3.nextn.eh_proj.weight"])
        mtp = bind_mtp(file, shape)

    np.testing.assert_array_equal(values(mtp.e_proj), both[:, :32])
    np.testing.assert_array_equal(values(mtp.h_proj), both[:, 32:])
    assert mtp.e_proj.shape == mtp.h_proj.shape == (32, 32)
    assert mtp.e_proj.name == "blk.3.nextn.e_proj.weight"
    assert not mtp.e_proj.data.flags.writeable
    assert mtp.norm.name == "blk.3.nextn.shared_head_norm.weight"
    assert mtp.hc_head_fn.name == "output_hc_fn.weight"
    assert mtp.token_embd.shape == mtp.output.shape == (40, 32)


def test_halves_that_cut_a_block(tmp_path):
    shape = tiny_shape(n_embd=48)
    path = write_mtp(tmp_path / "d.gguf", shape, "llama", matrix="Q8_0")

    with open_gguf(path) as file, pytest.raises(LayoutError, match="halves of whole Q8_0 blocks"):
        bind_mtp(file, shape)


def test_mtp_clamps(tmp_path):
    shape = tiny_shape(swiglu_limit=(1.0, 2.0, 3.0), swiglu_limit_shared=(4.0, 5.0, 6.0))

    with open_gguf(write_mtp(tmp_path / "a.gguf", shape)) as file:
        mtp = bind_mtp(file, shape)
    assert (mtp.swiglu_limit, mtp.swiglu_limit_shared) == (3.0, 6.0)  # the trunk's last layer
    with open_gguf(write_mtp(tmp_path / "l.gguf", shape, "llama")) as file:
        mtp = bind_mtp(file, shape)
    assert (mtp.swiglu_limit, mtp.swiglu_limit_shared) == (10.0, 10.0)  # its own entry


def test_a_trunk_is_no_mtp_block_and_the_reverse(tmp_path):
    trunk = write_trunk(tmp_path / "m.gguf")
    for kind in KINDS:
        path = write_mtp(tmp_path / "d.gguf", kind=kind)
        with open_gguf(path) as file, pytest.raises(LayoutError, match="expected a trunk, found"):
            bind_trunk(file)
    with open_gguf(trunk) as file, pytest.raises(LayoutError, match=r"blk\.3\.nextn\.eh_proj"):
        bind_mtp(file, tiny_shape())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change", [{"n_embd": 64}, {"n_expert": 5}, {"head_dim": 128}, {"n_ff_exp": 64}, {"n_hc": 2}]
)
def test_mtp_of_another_model(tmp_path, kind, change):
    path = write_mtp(tmp_path / "d.gguf", tiny_shape(**change), kind)

    with open_gguf(path) as file, pytest.raises(LayoutError, match=r"(?s)d\.gguf: .*expected "):
        bind_mtp(file, tiny_shape())


def test_mtp_with_other_constants(tmp_path):
    path = write_mtp(tmp_path / "d.gguf", tiny_shape(rope_base=500.0), "llama")

    with open_gguf(path) as file, pytest.raises(LayoutError, match="rope_base: expected 1000"):
        bind_mtp(file, tiny_shape())


def test_mtp_with_a_compressor_is_refused(tmp_path):
    shape = tiny_shape()
    keys = metadata(shape, "llama", mtp=True)
    keys["attention.compress_ratios"] = ("i32[]", [0, 4, 128, 4])
    specs = list(layout.mtp_specs(shape, True).values())
    path = write_file(tmp_path / "d.gguf", keys, [*specs, layout.trunk_specs(shape)["token_embd"]])

    with open_gguf(path) as file, pytest.raises(LayoutError, match="0 for the MTP block"):
        bind_mtp(file, shape)


def test_mtp_of_another_architecture(tmp_path):
    path = write_mtp(tmp_path / "d.gguf", arch="qwen3")

    with open_gguf(path) as file, pytest.raises(LayoutError, match="expected 'deepseek4'"):
        bind_mtp(file, tiny_shape())


def test_merged_file_serves_as_a_trunk_only(tmp_path):
    """A trunk with a nextn block in it: the output_hc tensors are the trunk's."""
    shape = tiny_shape()
    keys = metadata(shape, "llama", mtp=True)
    block = layout.layer_specs(shape, "blk.3.", 0, hashed=False)
    nextn = [s for s in layout.mtp_specs(shape, True).values() if "nextn" in s.name]
    specs = [*all_specs(shape), *block.values(), *nextn]
    path = write_file(tmp_path / "m.gguf", keys, specs)

    with open_gguf(path) as file:
        found, _ = bind_trunk(file)
        assert found == shape
        with pytest.raises(LayoutError, match="expected an MTP-only file"):
            bind_mtp(file, shape)


def test_every_mismatch_is_reported(tmp_path):
    shape = tiny_shape()

    def change(name, spec):
        if name == "blk.1.attn_kv.weight":
            return None
        if name == "blk.2.attn_norm.weight":
            return layout.Spec(name, (31,), spec.formats)
        if name == "output.weight":
            return layout.Spec(name, (41, 32), spec.formats)
        if name == "blk.0.ffn_gate_tid2eid.weight":
            return layout.Spec(name, spec.shape, ("F32",))
        return spec

    extra = [layout.Spec("rope_freqs.weight", (16,), ("F32",))]
    path = rewrite(tmp_path / "m.gguf", shape, change, tensors=extra)
    with open_gguf(path) as file, pytest.raises(LayoutError) as caught:
        bind_trunk(file)

    text = str(caught.value)
    assert text.startswith("m.gguf: 5 tensors do not fit:")
    assert "blk.1.attn_kv.weight: expected a matrix format [96, 32], found no such tensor" in text
    assert "blk.2.attn_norm.weight: expected F32 or F16 or BF16 [32], found F32 [31]" in text
    assert "output.weight: expected a matrix format [40, 32], found F32 [41, 32]" in text
    assert "blk.0.ffn_gate_tid2eid.weight: expected I32 [40, 2], found F32 [40, 2]" in text
    assert "rope_freqs.weight: expected no such tensor, found F32 [16]" in text


def test_a_long_list_is_cut(tmp_path):
    path = rewrite(
        tmp_path / "m.gguf",
        tiny_shape(),
        lambda name, s: s if name == "token_embd.weight" else None,
    )

    with open_gguf(path) as file, pytest.raises(LayoutError) as caught:
        bind_trunk(file)
    assert str(caught.value).startswith("m.gguf: 91 tensors do not fit:")
    assert str(caught.value).endswith("; ... and 86 more")
    assert "\n" not in str(caught.value)


def test_single_mismatch_is_one_line(tmp_path):
    path = rewrite(
        tmp_path / "m.gguf",
        tiny_shape(),
        lambda name, s: None if "sinks" in name and "1" in name else s,
    )

    with open_gguf(path) as file, pytest.raises(LayoutError) as caught:
        bind_trunk(file)
    assert "\n" not in str(caught.value)


def test_integer_matrix_is_refused(tmp_path):
    def change(name, spec):
        return layout.Spec(name, spec.shape, ("I32",)) if name == "blk.0.attn_kv.weight" else spec

    path = rewrite(tmp_path / "m.gguf", tiny_shape(), change)
    with open_gguf(path) as file, pytest.raises(LayoutError, match=r"found I32 \[96, 32\]"):
        bind_trunk(file)


def test_tensors_without_meaning_for_text_are_ignored(tmp_path):
    shape = tiny_shape()
    extra = [
        layout.Spec("blk.0.exp_probs_b.bias", (6,), ("F32",)),  # a hash layer's
        layout.Spec("blk.1.exp_probs_b_vl.bias", (6,), ("F32",)),
    ]

    with open_gguf(rewrite(tmp_path / "m.gguf", shape, lambda n, s: s, tensors=extra)) as file:
        assert bind_trunk(file)[1].layers[0].exp_probs_b is None


def test_axes_of_length_one_may_be_missing(tmp_path):
    """ggml drops trailing dimensions of 1 when it writes a file."""
    shape = tiny_shape(n_expert=1, n_expert_used=1)

    def change(name, spec):
        core = tuple(n for i, n in enumerate(spec.shape) if n != 1 or i == len(spec.shape) - 1)
        return layout.Spec(name, core, spec.formats)

    path = write_file(
        tmp_path / "m.gguf",
        metadata(shape),
        [change(s.name, s) for s in all_specs(shape)],
        n_expert=1,
    )
    with open_gguf(path) as file:
        assert file.tensors["blk.0.ffn_gate_exps.weight"].shape == (32, 32)
        layer = bind_trunk(file)[1].layers[0]
    assert layer.ffn_gate_exps.shape == (1, 32, 32) and layer.ffn_gate_inp.shape == (1, 32)


@pytest.mark.parametrize("bad", [-1, 6, 2**31 - 1, -(2**31)])
def test_expert_ids_are_checked(tmp_path, bad):
    path = write_trunk(tmp_path / "m.gguf")
    data = path.read_bytes()
    (info,) = (t for t in parse(data).tensors if t.name == "blk.0.ffn_gate_tid2eid.weight")
    with open(path, "r+b") as raw:
        raw.seek(info.start + 4 * (17 * 2 + 1))
        raw.write(np.int32(bad).tobytes())

    with open_gguf(path) as file, pytest.raises(LayoutError) as caught:
        bind_trunk(file)
    assert f"expected expert ids from 0 to 5, found {bad} in row 17" in str(caught.value)


def test_not_finite_values_are_refused_by_name(tmp_path):
    path = write_trunk(tmp_path / "m.gguf", matrix="Q8_0")
    with open_gguf(path) as file:
        _, weights = bind_trunk(file)
        bad = []
        for tensor in iter_tensors(weights):
            if tensor.name in ("blk.1.attn_q_a.weight", "blk.2.attn_norm.weight"):
                data = tensor.data.copy()
                width = 2 if tensor.format.name == "Q8_0" else 4
                data[:width] = 0xFF
                tensor = type(tensor)(tensor.name, tensor.format, tensor.shape, data)
            bad.append(tensor)
        with pytest.raises(LayoutError) as caught:
            check_values("m.gguf", bad)

    text = str(caught.value)
    assert "2 tensors do not fit" in text
    assert "blk.1.attn_q_a.weight: expected finite values, found NaN or infinity in block " in text


def test_permitted_matrix_formats_can_be_dequantised():
    known = {t.name for t in gguf.quants._type_traits} | {"F32", "F16"}

    assert set(layout.MATRICES) <= known
