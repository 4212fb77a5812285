"""Decides whether the values of a model's files are looked at before they are used.

A scale that is NaN or infinite shows in no shape and spoils every reply, so a file is scanned when
it is first opened. The scan reads all of it, which for 80 GiB takes minutes; what it found is
remembered for the file as it is (`engine.gguf.remembered`), and later starts do not read it again.
There is no check at first touch: kernels read weights in place, many threads at a time, and a
comparison in them would cost every token what the scan costs once.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.gguf import remembered
from engine.gguf.identity import FileIdentity
from engine.options import EngineOptions
from engine.weights.bind import check_values
from engine.weights.files import ModelFiles, open_files
from engine.weights.tensor import Tensor

# Value of a remembered fact; another scan is another fact.
_SCAN = "1"
_CLEAN: set[tuple[str, str, tuple[int, ...]]] = set()  # what this process knows itself


def verify_values(
    files: ModelFiles, how: str, progress: Callable[[int], None] | None = None
) -> None:
    """Refuse NaN and infinity in the floats and block scales of a model's files.

    Parameters
    ----------
    files : ModelFiles
    how : {'once', 'always', 'never'}
        'once' believes an earlier scan of the same file.
    progress : callable, optional
        Called with the bytes that were looked at since the last call.

    Raises
    ------
    LayoutError
        Listing every tensor that holds one.
    """
    for name, source, identity, tensors in _unchecked(files, how):
        parts = identity.parts or (identity,)
        marks = [_mark(name, part) for part in parts]
        check_values(source, tensors, progress)
        for part, mark in zip(parts, marks):
            # Written meanwhile, it is not the file that was looked at.
            if mark is not None and mark == _mark(name, part) and part.unchanged():
                _CLEAN.add(mark)
                remembered.remember(part.path, part.header_sha256, **{name: _SCAN})


def unchecked_bytes(files: ModelFiles, how: str) -> int:
    """Bytes that `verify_values` would read."""
    return sum(t.n_bytes for *_, tensors in _unchecked(files, how) for t in tensors)


def verify_files(options: EngineOptions, bar: Callable[[int], Callable[[int], None]]) -> None:
    """Look at the values of files that are not open yet, so that opening them need not.

    Parameters
    ----------
    options : EngineOptions
        Which files, and when values are looked at.
    bar : callable
        Called with the bytes that will be read, if there are any; returns the progress callback.

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run, or holds such a value.
    """
    how = options.check_values
    paths = options.path, options.mtp_path
    with open_files(*paths, dspark_path=options.dspark_path, force=options.draft_force) as files:
        total = unchecked_bytes(files, how)
        if total:
            verify_values(files, how, bar(total))


def _unchecked(files: ModelFiles, how: str) -> list[tuple[str, str, FileIdentity, list[Tensor]]]:
    """Fact, name, identity and tensors of the files that no scan is known of."""
    sides = [("trunk_values", files.trunk, files.weights.trunk_tensors)]
    if files.mtp is not None:
        sides.append(("draft_values", files.mtp, files.weights.mtp_tensors))
    if files.dspark is not None:
        sides.append(("dspark_values", files.dspark, files.weights.dspark_tensors))
    return [
        (name, file.path.name, file.identity, tensors)
        for name, file, tensors in sides
        if how == "always" or (how == "once" and not _is_clean(name, file.identity))
    ]


def _mark(name: str, part: FileIdentity) -> tuple[str, str, tuple[int, ...]] | None:
    """A file as it lies there now; None if it is gone."""
    try:
        return name, str(part.path), tuple(remembered.stamp(part.path))
    except OSError:
        return None


def _is_clean(name: str, identity: FileIdentity) -> bool:
    return all(
        _mark(name, part) in _CLEAN
        or remembered.recall(part.path, part.header_sha256).get(name) == _SCAN
        for part in identity.parts or (identity,)
    )
