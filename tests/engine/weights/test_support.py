"""What a kernel set refuses by name: formats without a kernel, sizes that its kernels lack."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from engine.errors import LayoutError
from engine.gguf.tensor import Tensor
from engine.quant.formats import BY_NAME, KERNELS, unreadable_words
from engine.weights import support
from engine.weights.files import open_files
from engine.weights.support import LIMITS, check_supported, unsupported
from tests.engine.gguf.build import tiny_shape, write_mtp, write_trunk

FOREIGN = {
    backend: [name for name in KERNELS["reference"] if name not in KERNELS[backend]]
    for backend in ("cpu", "cuda")
}
SHAPE = tiny_shape()


def matrix(fmt, name="blk.0.attn_kv.weight"):
    return Tensor(name, BY_NAME[fmt], (4, 256), np.empty(0, np.uint8))


@pytest.mark.parametrize(("backend", "name"), [(b, n) for b in FOREIGN for n in FOREIGN[b]])
def test_every_format_without_a_kernel_is_refused_by_name(name, backend):
    with pytest.raises(LayoutError) as caught:
        check_supported("m.gguf", SHAPE, [matrix("F32"), matrix(name)], backend, "f32")

    assert str(caught.value) == (
        f"m.gguf: matrices: expected formats with a kernel for --backend {backend} "
        f"({', '.join(KERNELS[backend])}), found {name} (blk.0.attn_kv.weight)"
    )
    assert unsupported(SHAPE, [matrix(name)], "reference", "f32") == []
    # Small tables become float32 vectors on every set, whatever they are stored in.
    assert unsupported(SHAPE, [matrix(name, "blk.1.attn_compressor_ape.weight")], backend) == []


def test_the_lists_of_formats_are_the_kernels_own():
    from engine.ops.cpu.formats import weight
    from engine.ops.cuda import sizes

    assert set(KERNELS["cuda"]) == set(sizes.SIZES)
    for name in KERNELS["cpu"]:
        assert weight._layout(matrix(name), "int8").panel_bytes(1) > 0
    for name in set(BY_NAME) - set(KERNELS["cpu"]):
        with pytest.raises(KeyError):
            weight._layout(matrix(name), "int8")


def test_the_cpu_has_a_kernel_for_every_format_that_can_be_decoded():
    assert FOREIGN["cpu"] == []


def test_the_limits_are_the_kernels_own():
    from engine.ops.cpu import hc as cpu_hc
    from engine.ops.cuda import sizes

    cuda = LIMITS["cuda"]
    assert (cuda.n_expert, cuda.n_expert_used) == (sizes.MAX_EXPERTS, sizes.MAX_USED)
    assert (cuda.n_hc, LIMITS["cpu"].n_hc) == (sizes.STREAMS, cpu_hc.MAX_STREAMS)
    assert support.TILE_ROWS == sizes.TILE and sizes.SIZES["F16"].block == support.TILE_COLS
    assert cuda.head_dim == sizes.MAX_DIM and cuda.idx_top_k == sizes.MOST - 1
    assert support.CUDA_INDEX_DIMS == sizes.OFFICIAL_DIMS


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(support._Limits)])
@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_size_at_the_limit_runs_and_the_next_is_refused(backend, field):
    most = getattr(LIMITS[backend], field)
    if most is None:
        assert unsupported(tiny_shape(**{field: 100_000}), [], backend, "f32") == []
        return
    step = 16 if field == "head_dim" else 1
    assert unsupported(tiny_shape(**{field: most}), [], backend, "f32") == []
    (reason,) = unsupported(tiny_shape(**{field: most + step}), [], backend, "f32")
    assert f"expected at most {most} with --backend {backend}, found {most + step}" in reason


def test_experts_of_two_formats_are_one_kernel_s_on_the_cpu_only():
    gate = matrix("Q2_K", "blk.3.ffn_gate_exps.weight")
    up = matrix("Q4_K", "blk.3.ffn_up_exps.weight")

    assert unsupported(SHAPE, [gate, up], "cpu", "f32") == []
    assert unsupported(SHAPE, [gate, up], "cuda", "f32") == [
        "blk.3.ffn_gate_exps.weight: expected the format of ffn_up_exps with --backend cuda "
        "(Q4_K), found Q2_K"
    ]


def test_sizes_that_tiles_do_not_divide_are_refused_on_cuda():
    narrow = Tensor("blk.0.attn_kv.weight", BY_NAME["F16"], (4, 40), np.empty(0, np.uint8))
    shape = tiny_shape(n_lora_o=24)

    assert unsupported(shape, [narrow], "cpu", "f32") == []
    assert unsupported(shape, [narrow], "cuda", "f32") == [
        "attention.output_lora_rank: expected a multiple of 16 with --backend cuda, found 24",
        "blk.0.attn_kv.weight: expected rows of a multiple of 32 values with --backend cuda, "
        "found 40",
    ]
    # One group is a plain product, which takes any number of rows.
    assert unsupported(tiny_shape(n_lora_o=24, n_out_group=1), [], "cuda", "f32") == []


def test_a_draft_block_is_asked_for_too(tmp_path):
    trunk = write_trunk(tmp_path / "m.gguf")
    mtp = write_mtp(tmp_path / "d.gguf", matrix="Q4_0")

    open_files(trunk, mtp).close()
    open_files(trunk, mtp, "reference").close()
    open_files(trunk, mtp, "cpu").close()
    with pytest.raises(LayoutError, match=r"^d\.gguf: matrices: .*found Q4_0 \(\d+ tensors, "):
        open_files(trunk, mtp, "cuda")
    with pytest.raises(LayoutError, match=r"^m\.gguf: matrices: .*found Q4_0 "):
        open_files(write_trunk(tmp_path / "m.gguf", matrix="Q4_0"), None, "cuda")


def test_types_that_cannot_be_read_have_names():
    assert unreadable_words(41) == "41 (Q1_0)"
    assert unreadable_words(42) == "42 (FP8 of early DeepSeek V4 files)"
    assert unreadable_words(7777) == "7777 (a type unknown to this program)"
