"""Published files as stand-ins: accepted, or refused by one line that says what they are."""

from __future__ import annotations

import collections
import tracemalloc
from pathlib import Path

import gguf
import pytest

from engine.errors import ModelFileError
from engine.gguf.reader import open_gguf
from engine.text.tokenizer import Tokenizer
from engine.weights.bind import bind_mtp
from engine.weights.files import open_files
from engine.weights.foreign import notices
from tests.standins.catalogue import STANDINS, standin

ROOT = Path(__file__).resolve().parents[2]
CUDA = "F32, F16, BF16, Q8_0, Q4_K, Q2_K, IQ2_XXS, MXFP4, Q3_K, Q5_K, Q6_K, IQ3_XXS, IQ3_S, IQ4_XS"
# What each file says on a backend; files that are not listed run on both.
REFUSED = {
    ("mtp", "cpu"): "mtp.gguf: expected a trunk, found an MTP block",
    ("pro-q2", "cuda"): (
        "pro-q2.gguf: expert_count: expected at most 256 with --backend cuda, found 384"
    ),
    ("early", "cpu"): (
        "early.gguf: blk.0.ffn_gate_tid2eid: expected the tensor names of today's converters "
        "(blk.0.attn_kv.weight, output_hc_fn.weight), found the early naming; a newer conversion "
        "of the model is needed"
    ),
    ("fp8", "cpu"): "found 42 (FP8 of early DeepSeek V4 files)",
    ("nvfp4", "cuda"): (
        f"nvfp4.gguf: matrices: expected formats with a kernel for --backend cuda ({CUDA}), "
        "found NVFP4 (129 tensors, blk.0.ffn_gate_exps.weight first)"
    ),
    ("ik", "cpu"): "found 139 (IQ4_K of ik_llama.cpp)",
    ("v41", "cpu"): (
        "v41.gguf: general.architecture: expected 'deepseek4', found 'deepseek41' "
        "(DeepSeek V4.1, another computation)"
    ),
    ("dspark", "cpu"): (
        "dspark.gguf: expected a trunk, found a DSpark drafter, which --draft-model takes beside "
        "a trunk"
    ),
}
# Bytes of the published files, of which only the size and the header are known here.
PUBLISHED = {
    "q2": 86_720_111_488,
    "q2-q4": 97_591_747_456,
    "q4": 164_633_502_304,
    "mxfp4": 155_976_458_848,
}

# Of the published Q2 file, from a public program's test of it: bytes from the file's start.
DATA_OFFSET = 5_333_824
OFFSETS = {
    "token_embd.weight": 77_928_033_088,
    "output_hc_base.weight": 86_157_337_408,
    "output_hc_fn.weight": 86_157_337_440,
    "output_hc_scale.weight": 86_157_468_512,
    "output.weight": 86_157_468_544,
    "output_norm.weight": 86_720_095_104,
}


def refusal(name: str, backend: str) -> str | None:
    """What is expected on a backend; a file that no backend runs says so on each."""
    text = REFUSED.get((name, backend))
    if text is None and backend == "cuda" and (text := REFUSED.get((name, "cpu"))) is not None:
        return text.replace("--backend cpu", "--backend cuda")
    return text


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize("name", STANDINS)
def test_a_published_file_is_bound_or_refused_by_one_line(tmp_path, name, backend):
    path = standin(name, tmp_path)
    expected = refusal(name, backend)
    tracemalloc.start()
    try:
        if expected is None:
            with open_files(path, backend=backend) as files:
                assert len(files.trunk.tensors) in (1328, 1368, 1894)
                assert Tokenizer.from_metadata(files.trunk.metadata).encode("the").ids == [265]
        else:
            with pytest.raises(ModelFileError) as caught:
                open_files(path, backend=backend)
            assert "\n" not in str(caught.value)
            assert str(caught.value).endswith(expected)
        # Headers alone: of 80 GiB of tensors, the tables of expert ids are read, 9 MiB, in place.
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


# Rows of the table in docs/files.md, in order, and the stand-ins that they speak of.
ROWS = ("q2", "q2-0731", "q2-q4", "q4", "mxfp4", "mtp", "aligned-gaps", "llama-mxfp4",
        "split-mxfp4", "vision", "pro-q2", "ud-iq3", "early", "fp8", "nvfp4", "ik", "v41",
        "dspark")  # fmt: skip


def test_the_document_says_what_happens():
    text = (ROOT / "docs/files.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(ROWS)
    for name, row in zip(ROWS, rows):
        said = tuple(cell.strip(" |").startswith("runs") for cell in row[-2:])
        # Drafters are no trunks, and run beside one: other tests bind them.
        beside = {"mtp": ("cpu", "cuda"), "dspark": ("cpu", "cuda")}.get(name, ())
        found = tuple(b in beside or refusal(name, b) is None for b in ("cpu", "cuda"))
        assert said == found, row


def test_the_trunk_is_antirez_s_to_the_tensor(tmp_path):
    with open_gguf(standin("q2", tmp_path)) as file:
        kinds = collections.Counter(t.format.name for t in file.tensors.values())

    assert kinds == {"F16": 359, "F32": 492, "I32": 3, "IQ2_XXS": 86, "Q2_K": 43, "Q8_0": 345}


def test_the_data_lie_where_the_published_files_have_them(tmp_path):
    path = standin("q2", tmp_path)
    reader = gguf.GGUFReader(path)
    found = {t.name: t.data_offset - reader.data_offset + DATA_OFFSET for t in reader.tensors}

    assert {name: found[name] for name in OFFSETS} == OFFSETS
    assert path.stat().st_size - reader.data_offset + DATA_OFFSET == PUBLISHED["q2"]


def test_sizes_are_the_published_ones_but_for_the_header(tmp_path):
    # What is missing is the vocabulary, and the same for all; Q2 and Q2-Q4 have the keys of their
    # importance matrix too, which take less than 512 bytes.
    differences = [
        size - standin(name, tmp_path).stat().st_size for name, size in PUBLISHED.items()
    ]

    assert all(5_000_000 < d < 6_000_000 for d in differences)
    assert max(differences) - min(differences) < 512


def test_the_mtp_file_is_the_published_one_to_the_byte(tmp_path):
    mtp = standin("mtp", tmp_path)
    reader = gguf.GGUFReader(mtp)
    with open_files(standin("q2", tmp_path)) as files, open_gguf(mtp) as file:
        block = bind_mtp(file, files.weights.shape)
        kinds = collections.Counter(t.format.name for t in file.tensors.values())

        assert block.layer.ffn_gate_exps.format.name == "Q4_K"
    assert kinds == {"F32": 19, "Q8_0": 10, "Q4_K": 3}
    assert reader.data_offset == 2208 and mtp.stat().st_size == 3_807_602_400


def test_files_aligned_to_pages_have_every_tensor_there(tmp_path):
    for name, page in (("aligned-key", 16_384), ("aligned-gaps", 4096)):
        path = standin(name, tmp_path)
        ours, theirs = open_gguf(path), gguf.GGUFReader(path)
        base = ours.tensors["blk.0.ffn_gate_tid2eid.weight"].data.ctypes.data
        for found in theirs.tensors:
            at = ours.tensors[found.name].data.ctypes.data - base
            assert at == found.data_offset - theirs.tensors[0].data_offset and at % page == 0
        ours.close()


def test_the_bias_for_images_is_ignored_with_a_notice(tmp_path):
    with open_gguf(standin("vision", tmp_path)) as file, open_gguf(standin("q2", tmp_path)) as q2:
        assert notices(file) == [
            "vision.gguf: 40 tensors exp_probs_b_vl.bias are ignored: they choose experts of image "
            "tokens, and only text is read here"
        ]
        assert notices(q2) == []


def test_pro_has_the_shape_that_was_published(tmp_path):
    with open_files(standin("pro-q2", tmp_path), backend="cpu") as files:
        shape = files.weights.shape

    assert (shape.n_layer, shape.n_embd, shape.n_head, shape.n_expert) == (61, 7168, 128, 384)
    assert shape.compress_ratios[:4] == (128, 128, 4, 128) and shape.idx_top_k == 1024
