"""Every stand-in by name: what it stands for, and how it is written into a folder."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.standins.published import (
    LLAMA,
    PRO,
    UNSLOTH,
    antirez_keys,
    llama_keys,
    mtp,
    mtp_keys,
    trunk,
)
from tests.standins.write import Entry, Key, write

Maker = Callable[[Path], Path]


def _q4(layer: int) -> tuple[str, str]:
    return "Q4_K", "Q4_K"


def _mxfp4(layer: int) -> tuple[str, str]:
    return "MXFP4", "MXFP4"


def _last_six_q4(layer: int) -> tuple[str, str]:
    return ("Q4_K", "Q4_K") if layer >= 37 else ("IQ2_XXS", "Q2_K")


def _unsloth_iq3(layer: int) -> tuple[str, str]:
    return "IQ3_XXS", "IQ4_XS" if layer < 6 else "IQ3_S"


def _one(name: str, keys: list[Key], entries: list[Entry], **layout: int) -> Maker:
    def make(folder: Path) -> Path:
        path = folder / f"{name}.gguf"
        write(path, keys, entries, **layout)
        return path

    return make


def _aligned(name: str) -> Maker:
    keys = [*antirez_keys(), Key("general.alignment", "u32", 16_384)]
    return _one(name, keys, trunk(), alignment=16_384)


def _split(name: str, experts: Callable[[int], tuple[str, str]], **kinds: object) -> Maker:
    """Four parts, the first without tensors, as llama.cpp's splitter writes them on request."""
    entries = trunk(experts, **kinds)  # type: ignore[arg-type]
    cuts = (0, 400, 800, len(entries))

    def make(folder: Path) -> Path:
        for part in range(4):
            keys = [] if part else llama_keys()
            keys = [
                *keys,
                Key("split.no", "u16", part),
                Key("split.count", "u16", 4),
                Key("split.tensors.count", "i32", len(entries)),
            ]
            own = entries[cuts[part - 1] : cuts[part]] if part else []
            write(folder / f"{name}-{part + 1:05d}-of-00004.gguf", keys, own)
        return folder / f"{name}-00001-of-00004.gguf"

    return make


def _vision() -> list[Entry]:
    out = []
    for entry in trunk():
        out.append(entry)
        if entry.name.endswith("exp_probs_b.bias"):
            out.append(replace(entry, name=entry.name.replace("probs_b", "probs_b_vl")))
    return out


def _early(entry: Entry) -> Entry:
    name = entry.name.replace("attn_kv.weight", "attn_kv_latent.weight")
    if name.startswith("output_hc_"):
        name = name.replace("output_hc_", "hc_head_").removesuffix(".weight")
    bare = r"(attn_sinks|ffn_gate_tid2eid|hc_(attn|ffn)_(base|fn|scale)|\w+_compressor_ape)\.weight"
    return replace(entry, name=re.sub(bare, r"\1", name))


def _as(kind: str, test: Callable[[Entry], bool]) -> list[Entry]:
    return [replace(entry, kind=kind) if test(entry) else entry for entry in trunk()]


def _dspark() -> Maker:
    keys = [
        Key("general.architecture", "str", "deepseek4-dspark"),
        Key("general.name", "str", "DeepSeek V4 Flash DSpark"),
        Key("deepseek4.dspark.block_size", "u32", 5),
        Key("deepseek4.dspark.noise_token_id", "u32", 128_799),
    ]
    return _one("dspark", keys, [Entry("mtp.0.main_proj.weight", "Q8_0", (12_288, 4096))])


STANDINS: dict[str, Maker] = {
    "q2": _one("q2", antirez_keys(), trunk()),
    "q2-0731": _one("q2-0731", antirez_keys(behind=3), trunk()),
    "q2-q4": _one("q2-q4", antirez_keys(), trunk(_last_six_q4)),
    "q4": _one("q4", antirez_keys(file_type=15), trunk(_q4)),
    "mxfp4": _one("mxfp4", antirez_keys(behind=3), trunk(_mxfp4)),
    "mtp": _one("mtp", mtp_keys(), mtp()),
    "aligned-key": _aligned("aligned-key"),
    "aligned-gaps": _one("aligned-gaps", antirez_keys(), trunk(), step=4096),
    "llama-mxfp4": _one("llama-mxfp4", llama_keys(behind=3), trunk(_mxfp4, LLAMA)),
    "split-mxfp4": _split("split-mxfp4", _mxfp4, kinds=LLAMA),
    "ud-iq3": _one("ud-iq3", llama_keys(file_type=23), trunk(_unsloth_iq3, UNSLOTH)),
    "pro-q2": _one("pro-q2", antirez_keys(PRO, "DeepSeek V4 Pro"), trunk(size=PRO)),
    "vision": _one("vision", antirez_keys(), _vision()),
    "early": _one("early", antirez_keys(), [_early(entry) for entry in trunk()]),
    "fp8": _one("fp8", antirez_keys(), _as("FP8", lambda e: e.kind == "Q8_0")),
    "nvfp4": _one("nvfp4", antirez_keys(), _as("NVFP4", lambda e: "_exps" in e.name)),
    "ik": _one("ik", antirez_keys(), _as("IQ4_K", lambda e: "_exps" in e.name)),
    "v41": _one("v41", antirez_keys(prefix="deepseek41"), trunk()),
    "dspark": _dspark(),
}


def standin(name: str, folder: Path) -> Path:
    """Write one; returns the path that a user would name."""
    return STANDINS[name](folder)
