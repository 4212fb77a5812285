"""What a DSpark drafter's file shows of its trunk, for checking the file by itself.

Layouts A and B name no dimension of the trunk. What the tensors do not show is filled with the
published model's numbers; the result is never computed with.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.values import escape
from engine.shape import Shape
from engine.weights import layout as checks
from engine.weights.dspark import layouts
from engine.weights.layout import Mismatch
from engine.weights.mtp_shape import PUBLISHED, layer_shape


def shown_shape(file: GGUFFile) -> Shape:
    """Dimensions for which the drafter's tensors fit together, or the nearest to it.

    Raises
    ------
    LayoutError
        If the file has no stage, listing tensors that are missing, or naming one whose size
        divides none of the others.
    """
    layout = layouts.layout_of(file.tensors)
    assert layout is not None
    source = escape(file.path.name)
    n_stage = layouts.count_stages(layout, file.tensors)
    if not n_stage:
        raise LayoutError(f"{source}: expected stages of a DSpark drafter, found none")
    prefix = layouts.stage_prefix(layout, 0)
    own = layouts.own_names(layout, n_stage)
    wanted = list(own.values())
    wanted += [s.name for s in checks.layer_specs(PUBLISHED, prefix, 0, hashed=False).values()]
    missing = [
        Mismatch(name, "a tensor of the DSpark drafter", "no such tensor")
        for name in wanted
        if name not in file.tensors
    ]
    checks.raise_for(source, missing)
    n_embd = file.tensors[own["main_norm"]].shape[-1]
    n_hc = file.tensors[own["hc_head_base"]].shape[-1]
    shape = layer_shape(file, prefix, n_embd, n_hc)
    # The drafter says neither how many layers the trunk has nor how many experts a token uses.
    keys = layouts.KEYS[layout]
    key = next((k for k in keys.taps if k in file.metadata), keys.taps[0])
    last = int(file.metadata.get_ints(key, 0, 1 << 16, 1).max()) + keys.shift
    n_layer = max(last, 0) + 1
    found: dict[str, Any] = {
        "n_layer": n_layer,
        "n_vocab": (1, *file.tensors[own["markov_w1"]].shape)[-2],
        "compress_ratios": (0,) * n_layer,
        "swiglu_limit": (10.0,) * n_layer,
        "swiglu_limit_shared": (10.0,) * n_layer,
    }
    return dataclasses.replace(shape, **found | _stated(file, layout))


def _stated(file: GGUFFile, layout: str) -> dict[str, Any]:
    """What layout C repeats of the trunk; it is compared when the two are opened together."""
    if layout != "C":
        return {}
    found: dict[str, Any] = {}
    for key, field in layouts.REPEATED_C.items():
        value = file.metadata.get(f"dflash.{key}")
        if type(value) in (int, float):
            found[field] = value
    return found
