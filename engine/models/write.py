"""Writes a generated model as GGUF: metadata of both layouts, tensors streamed in file order."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from engine.errors import OptionError
from engine.models import make
from engine.models.make import DRAFT, Spec
from engine.models.recipes import LAYOUTS, RECIPES, formats_of
from engine.models.shapes import mtp_block
from engine.models.stream import encoded, encoded_values, spec_bytes
from engine.models.vocab import CHAT_TEMPLATE, PRE_TOKENIZER, Vocab, build_vocab
from engine.quant.formats import BY_NAME, Format
from engine.shape import Shape

ARCH = "deepseek4"
_SQRT_SOFTPLUS = 4  # expert_gating_func
# general.file_type (source: `gguf.LlamaFileType`).
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4": 15, "iq2": 19}
_FILE_TYPES |= {"q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "tq1_0": 36, "tq2_0": 37}
_FILE_TYPES_LLAMA = _FILE_TYPES | {"f16": 32, "q4": 38}

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """What was written."""

    path: Path
    n_bytes: int
    sha256: str
    n_params: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights that are given, where others are drawn.

    Parameters
    ----------
    weights : mapping of str to array
        Under the names of `make`; float32, hash tables int32 or int64.
    vocab : Vocab
    name : str
        The file's general.name.
    """

    weights: Mapping[str, np.ndarray]
    vocab: Vocab
    name: str


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor of the file: its name there, and the specs that lie side by side in it."""

    name: str
    parts: tuple[Spec, ...]
    format: Format

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (*first[:-1], sum(p.shape[-1] for p in self.parts))

    @property
    def n_bytes(self) -> int:
        return sum(spec_bytes(p, self.format) for p in self.parts)

    def data(self, seed: int, quick: bool, trained: Trained | None) -> Iterator[np.ndarray]:
        if len(self.parts) == 1:
            return self._part(self.parts[0], seed, quick, trained)
        rows = self.parts[0].shape[0]
        columns = [np.concatenate(list(self._part(p, seed, quick, trained))) for p in self.parts]
        return iter([np.concatenate([c.reshape(rows, -1) for c in columns], axis=1).reshape(-1)])

    def _part(
        self, spec: Spec, seed: int, quick: bool, trained: Trained | None
    ) -> Iterator[np.ndarray]:
        if trained is None:
            return encoded(spec, self.format, seed, quick)
        return encoded_values(spec, self.format, trained.weights[spec.name])


def write_model(
    path: Path,
    shape: Shape,
    recipe: str = "f32",
    seed: int = 0,
    layout: str = "antirez",
    *,
    draft: bool = False,
    force: bool = False,
    quick: bool = False,
    trained: Trained | None = None,
    progress: Progress | None = None,
) -> WrittenModel:
    """Write the trunk, or with `draft` the draft block's own file.

    The file appears under its name only when it is complete. Equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
    shape : Shape
    recipe, layout : str
        See `recipes`.
    seed : int
        0 or larger; trunk and draft file of one model have the same seed.
    draft : bool
    force : bool
        Replace an existing file.
    quick : bool
        Large tensors repeat a small piece of quantised values (see `stream.encoded`), and nothing
        is hashed or flushed: for measuring speed at full size.
    trained : Trained, optional
        Weights and vocabulary to write; `seed` has no meaning then.
    progress : callable, optional
        Called with (tensor name, bytes written, bytes in all).

    Raises
    ------
    OptionError
        If an argument is out of range, the folder is missing, or the file exists without `force`.
    """
    _check(recipe, layout, seed)
    check_target(path, force)
    vocab = build_vocab(shape.n_vocab) if trained is None else trained.vocab
    entries = (
        _draft_entries(shape, recipe, layout) if draft else _trunk_entries(shape, recipe, layout)
    )
    keys = _metadata(shape, recipe, layout, draft)
    if trained is not None:
        keys["general.name"] = trained.name + (" draft block" if draft else "")
    with_vocab = not draft or layout == "llama"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        digest, size = _write_file(
            temporary,
            keys,
            vocab if with_vocab else None,
            entries,
            lambda entry: entry.data(seed, quick, trained),
            progress,
            quick,
        )
        _publish(temporary, path, force)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    n_params = sum(int(np.prod(e.shape, dtype=np.int64)) for e in entries if e.format.name != "I32")
    return WrittenModel(path, size, digest, n_params)


def _check(recipe: str, layout: str, seed: int) -> None:
    for name, value, allowed in (("recipe", recipe, RECIPES), ("layout", layout, LAYOUTS)):
        if value not in allowed:
            raise OptionError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")
    if not 0 <= seed < 1 << 63:
        raise OptionError(f"seed: expected 0 to 2^63 - 1, found {seed}")


def check_target(path: Path, force: bool) -> None:
    """Refuse a path that cannot be written, or must not be, before any work is done.

    Raises
    ------
    OptionError
        If the folder is missing, the path is a folder, or the file exists without `force`.
    """
    if not path.parent.is_dir():
        raise OptionError(f"out: expected an existing folder, found {str(path.parent)!r}")
    if path.is_dir():
        raise OptionError(f"out: expected a file name, found the folder {str(path)!r}")
    if path.exists() and not force:
        raise OptionError(f"out: expected a new file (or --force), found {str(path)!r}")


def _publish(temporary: Path, path: Path, force: bool) -> None:
    if force:
        os.replace(temporary, path)
        return
    try:
        # A link never replaces a file that appeared in the meantime; a rename would.
        os.link(temporary, path)
    except FileExistsError:
        raise OptionError(f"out: expected a new file (or --force), found {str(path)!r}") from None
    except OSError:
        os.replace(temporary, path)  # a file system without hard links


def _trunk_entries(shape: Shape, recipe: str, layout: str) -> list[_Entry]:
    formats = formats_of(recipe, layout)
    return [_Entry(s.name, (s,), BY_NAME[formats[s.kind]]) for s in make.trunk_specs(shape)]


def _draft_entries(shape: Shape, recipe: str, layout: str) -> list[_Entry]:
    formats = formats_of(recipe, layout, draft=True)
    specs = {s.name: s for s in make.draft_specs(shape)}
    if layout == "antirez":
        return [_Entry(s.name, (s,), BY_NAME[formats[s.kind]]) for s in specs.values()]
    # llama.cpp: the block is one more layer; projections are one matrix [e_proj | h_proj]; the
    # file repeats embedding and output, and output_hc_* hold the block's own head.
    layer = f"blk.{shape.n_layer}."
    renamed = {
        "enorm.weight": f"{layer}nextn.enorm.weight",
        "hnorm.weight": f"{layer}nextn.hnorm.weight",
        "norm.weight": f"{layer}nextn.shared_head_norm.weight",
        "hc_head_fn.weight": "output_hc_fn.weight",
        "hc_head_base.weight": "output_hc_base.weight",
        "hc_head_scale.weight": "output_hc_scale.weight",
    }
    trunk = {s.name: s for s in make.trunk_specs(shape)}
    copies = ("token_embd.weight", "output_norm.weight", "output.weight")
    entries = [_Entry(n, (trunk[n],), BY_NAME[formats[trunk[n].kind]]) for n in copies]
    sides = tuple(specs.pop(f"{DRAFT}{side}_proj.weight") for side in "eh")
    entries.append(_Entry(f"{layer}nextn.eh_proj.weight", sides, BY_NAME[formats["dense"]]))
    for name, spec in specs.items():
        leaf = name.removeprefix(DRAFT)
        entries.append(
            _Entry(renamed.get(leaf, layer + leaf), (spec,), BY_NAME[formats[spec.kind]])
        )
    return entries


def _metadata(shape: Shape, recipe: str, layout: str, draft: bool) -> dict[str, object]:
    """Keys below the architecture's prefix, and general ones; floats are binary32 in the file."""
    llama = layout == "llama"
    if llama:
        # The converter counts the draft block in both of its files' ratios, but in block_count
        # and clamps only of the draft's; llama.cpp refuses clamps that are not block_count long.
        full = mtp_block(shape)
        shape = full if draft else replace(shape, compress_ratios=full.compress_ratios)
    keys: dict[str, object] = {
        "general.name": f"ds4 generated {shape.name}" + (" draft block" if draft else ""),
        "general.file_type": (_FILE_TYPES_LLAMA if llama else _FILE_TYPES)[recipe],
        "general.quantization_version": 2,
        "block_count": shape.n_layer,
        "context_length": shape.n_ctx_train,
        "embedding_length": shape.n_embd,
        "attention.head_count": shape.n_head,
        "attention.head_count_kv": 1,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": shape.rms_eps,
        "attention.q_lora_rank": shape.n_lora_q,
        "attention.output_lora_rank": shape.n_lora_o,
        "attention.output_group_count": shape.n_out_group,
        "attention.sliding_window": shape.n_swa,
        "attention.indexer.head_count": shape.n_idx_head,
        "attention.indexer.key_length": shape.idx_head_dim,
        "attention.indexer.top_k": shape.idx_top_k,
        "attention.compress_ratios": list(shape.compress_ratios),
        "attention.compress_rope_freq_base": shape.rope_base_compress,
        "rope.dimension_count": shape.n_rot,
        "rope.freq_base": shape.rope_base,
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": float(shape.yarn_factor),
        "rope.scaling.original_context_length": shape.yarn_orig_ctx,
        "rope.scaling.yarn_beta_fast": float(shape.yarn_beta_fast),
        "rope.scaling.yarn_beta_slow": float(shape.yarn_beta_slow),
        "expert_count": shape.n_expert,
        "expert_used_count": shape.n_expert_used,
        "expert_shared_count": shape.n_expert_shared,
        "expert_feed_forward_length": shape.n_ff_exp,
        "expert_weights_scale": float(shape.expert_weights_scale),
        "expert_weights_norm": True,
        "expert_gating_func": _SQRT_SOFTPLUS,
        "expert_group_count": 0,
        "expert_group_used_count": 0,
        "swiglu_clamp_exp": [float(v) for v in shape.swiglu_limit],
        "swiglu_clamp_shexp": [float(v) for v in shape.swiglu_limit_shared],
        "hyper_connection.count": shape.n_hc,
        "hyper_connection.sinkhorn_iterations": shape.n_sinkhorn,
        "hyper_connection.epsilon": shape.hc_eps,
        "hash_layer_count": shape.n_hash_layer,
    }
    if llama:
        keys["embedding_length_out"] = shape.n_hc * shape.n_embd
        if draft:
            keys["nextn_predict_layers"] = 1
    else:
        keys["vocab_size"] = shape.n_vocab
    return keys


def _write_file(
    path: Path,
    keys: dict[str, object],
    vocab: Vocab | None,
    entries: list[_Entry],
    data: Callable[[_Entry], Iterator[np.ndarray]],
    progress: Progress | None,
    quick: bool,
) -> tuple[str, int]:
    """Write everything to a new file and flush it to the disk; returns (sha256, bytes).

    A quick file is neither flushed nor hashed; its sha256 is ''.
    """
    import gguf

    writer = gguf.GGUFWriter(path, ARCH)
    for key, value in keys.items():
        _add(writer, key if key.startswith("general.") else f"{ARCH}.{key}", value)
    if vocab is not None:
        _add_vocab(writer, vocab)
    for e in entries:
        kind = gguf.GGMLQuantizationType(e.format.type_id)
        writer.add_tensor_info(e.name, e.shape, np.dtype(np.float32), e.n_bytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        total = sum(e.n_bytes for e in entries)
        done = 0
        for e in entries:
            written = 0
            for piece in data(e):
                file.write(piece.data)
                written += piece.nbytes
                if progress is not None:
                    progress(e.name, done + written, total)
            assert written == e.n_bytes, (e.name, written, e.n_bytes)
            done += written
            writer.write_padding(file, written)
        file.flush()
        size = file.tell()
        if not quick:
            os.fsync(file.fileno())
    finally:
        writer.close()
    if quick:
        return "", size
    with path.open("rb") as written_file:
        digest = hashlib.sha256()
        while part := written_file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest(), written_file.tell()


def _add(writer: object, key: str, value: object) -> None:
    kind = type(value[0] if isinstance(value, list) else value)
    if isinstance(value, list):
        writer.add_array(key, value)  # type: ignore[attr-defined]
    else:
        method = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}
        getattr(writer, method[kind])(key, value)


def _add_vocab(writer: object, vocab: Vocab) -> None:
    writer.add_tokenizer_model("gpt2")  # type: ignore[attr-defined]
    writer.add_tokenizer_pre(PRE_TOKENIZER)  # type: ignore[attr-defined]
    writer.add_token_list(list(vocab.tokens))  # type: ignore[attr-defined]
    writer.add_token_types(list(vocab.types))  # type: ignore[attr-defined]
    writer.add_token_merges(list(vocab.merges))  # type: ignore[attr-defined]
    writer.add_bos_token_id(vocab.bos)  # type: ignore[attr-defined]
    writer.add_eos_token_id(vocab.eos)  # type: ignore[attr-defined]
    writer.add_pad_token_id(vocab.pad)  # type: ignore[attr-defined]
    writer.add_add_bos_token(True)  # type: ignore[attr-defined]
    writer.add_chat_template(CHAT_TEMPLATE)  # type: ignore[attr-defined]
