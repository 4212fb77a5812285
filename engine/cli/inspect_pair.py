"""What opening a trunk and its drafter together would say, asked by `ds4 inspect`.

A drafter's file alone does not tell whether it fits: its dims are the trunk's, and so are the
checkpoint and the release that it was trained with. No weight is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import ModelFileError


def pair_part(trunk: Path, drafter: Path, backend: str, force: bool = False) -> dict[str, Any]:
    """The check that opening both would make.

    Parameters
    ----------
    trunk, drafter : Path
        The drafter may be an MTP block's file or a DSpark drafter's.
    backend : {'cpu', 'cuda', 'reference'}
    force : bool
        Take a DSpark drafter that states another checkpoint than the trunk.

    Returns
    -------
    dict
        trunk, drafter, what the drafter's file is, pairing (of DSpark: whether both state one
        checkpoint), notices and problems.
    """
    from engine.text.encoding import mtp_warning, release_of_file
    from engine.weights.dspark.kinds import MTP, kind_of
    from engine.weights.files import open_files

    part: dict[str, Any] = {
        "trunk": str(trunk), "drafter": str(drafter), "told": "", "pairing": "",
        "notices": [], "problems": [],
    }  # fmt: skip
    try:
        kind, part["told"] = kind_of(drafter)
        mtp, dspark = (drafter, None) if kind == MTP else (None, drafter)
        with open_files(trunk, mtp, backend, dspark_path=dspark, force=force) as files:
            part["pairing"] = files.pairing
            part["notices"] += files.notices
            release = release_of_file(files.trunk)
            if mtp is not None and (warning := mtp_warning(release)):
                part["notices"].append(warning)
    except ModelFileError as error:
        part["problems"].append(str(error))
    return part


def pair_lines(part: dict[str, Any]) -> list[str]:
    """The same for people; strings are not escaped."""
    checked = f"pair: {part['drafter']} for {part['trunk']}"
    if part["told"]:
        checked += f" ({part['told']})"
    if part["pairing"]:
        checked += f"; checkpoint: {part['pairing']}"
    fits = [] if part["problems"] else ["pair: opens together"]
    return [checked, *(f"notice: {notice}" for notice in part["notices"]), *fits]
