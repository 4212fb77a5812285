"""Files in circulation that this engine does not run, recognised by name; and what it ignores.

Source of the names: headers of published files. A file that is not recognised here goes on to the
checks of metadata and tensors, which say key by key what is wrong.
"""

from __future__ import annotations

import re

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.values import escape

_ARCHITECTURES = {
    "deepseek41": "DeepSeek V4.1, another computation",
    "deepseek41-dspark": "a DSpark drafter of DeepSeek V4.1, which reads layers' inputs",
    "deepseek2": "DeepSeek V2 or V3",
    "deepseek32": "DeepSeek V3.2",
}
# The first converters' names; today's are attn_kv, output_hc_*, and .weight behind every other.
_EARLY = re.compile(
    r"blk\.\d+\.attn_kv_latent\.weight|hc_head_(?:base|fn|scale)"
    r"|blk\.\d+\.(?:attn_sinks|ffn_gate_tid2eid|hc_(?:attn|ffn)_(?:base|fn|scale)"
    r"|(?:attn|indexer)_compressor_ape)"
)
_IMAGE_BIAS = "exp_probs_b_vl.bias"


def check_known(file: GGUFFile) -> None:
    """Refuse a file of a kind that is known and cannot be run.

    Raises
    ------
    LayoutError
        That says what the file is.
    """
    source = escape(file.path.name)
    architecture = file.metadata.get("general.architecture")
    what = _ARCHITECTURES.get(architecture) if isinstance(architecture, str) else None
    if what is not None:
        raise LayoutError(
            f"{source}: general.architecture: expected 'deepseek4', found {architecture!a} ({what})"
        )
    for name in file.tensors:
        if _EARLY.fullmatch(name):
            raise LayoutError(
                f"{source}: {name}: expected the tensor names of today's converters "
                "(blk.0.attn_kv.weight, output_hc_fn.weight), found the early naming; "
                "a newer conversion of the model is needed"
            )


def notices(file: GGUFFile) -> list[str]:
    """What of a file that runs is not used, one sentence each."""
    biases = sum(name.endswith(_IMAGE_BIAS) for name in file.tensors)
    if not biases:
        return []
    return [
        f"{escape(file.path.name)}: {biases} tensors {_IMAGE_BIAS} are ignored: they choose "
        "experts of image tokens, and only text is read here"
    ]
