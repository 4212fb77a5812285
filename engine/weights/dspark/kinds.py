"""What kind of drafter a file holds, by its tensors: what a file calls itself does not decide."""

from __future__ import annotations

from pathlib import Path

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile, open_gguf
from engine.gguf.values import escape
from engine.weights import names
from engine.weights.dspark import layouts
from engine.weights.foreign import check_known
from engine.weights.metadata import n_layers

MTP, DSPARK = "mtp", "dspark"


def kind_in(file: GGUFFile) -> str:
    """'mtp', 'dspark', or '' for a file without a drafter.

    Raises
    ------
    LayoutError
        If the file is of a kind that is known and cannot be run.
    """
    check_known(file)
    if layouts.layout_of(file.tensors) is not None:
        return DSPARK
    if names.MTP_ANTIREZ["e_proj"] in file.tensors:
        return MTP
    layer = n_layers(file)
    return MTP if layer is not None and names.eh_proj_name(layer) in file.tensors else ""


def kind_of(path: Path, alone: bool = True) -> tuple[str, str]:
    """Kind of drafter in a file, and a sentence that says so.

    Parameters
    ----------
    path : Path
    alone : bool
        Refuse a file without a drafter.

    Raises
    ------
    GGUFError, LayoutError
        If the file is no model file, one that cannot be run, or holds no drafter.
    """
    with open_gguf(path) as file:
        kind, name = kind_in(file), escape(path.name)
        if kind == DSPARK:
            layout = layouts.layout_of(file.tensors)
            assert layout is not None
            stages = layouts.count_stages(layout, file.tensors)
            return kind, f"{name} is a DSpark drafter of {stages} stages (layout {layout})"
        if kind == MTP:
            return kind, f"{name} is an MTP block"
        if not alone:
            return "", ""
        raise LayoutError(f"{name}: expected a DSpark drafter or an MTP block, found neither")
