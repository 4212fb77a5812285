"""Leave to write result files: what is there is refused, or set aside where --force was given.

Every command that writes files asks here before it reads or measures anything. How a file is
written whole is `engine.tooling.results.publish`'s; what is in it, nothing here knows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from engine.errors import OptionError, StoreError
from engine.tooling.results.publish import check_output, sync_folder

Named = tuple[str, "Path | None"]  # option, and the file that it names, if it was given


def check_new(files: Iterable[Named], *, force: bool) -> None:
    """Refuse files that are there, unless they may be set aside, and places that take none.

    Parameters
    ----------
    files : iterable of (str, Path or None)
    force : bool
        Whether --force was given.

    Raises
    ------
    OptionError
        Naming option and file.
    """
    for option, path in files:
        if path is None:
            continue
        check_output(path, option, replace=True)
        if path.exists() and not force:
            raise OptionError(
                f"{option}: expected a new file, found {str(path)!r} "
                "(--force keeps it as NAME.old-TIME and writes a new one)"
            )


def set_aside(paths: Iterable[Path | None]) -> None:
    """Rename the files that are there to ``NAME.old-TIME``, UTC; links are followed.

    Raises
    ------
    StoreError
        If one cannot be renamed.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for path in {Path(os.path.realpath(path)) for path in paths if path is not None}:
        if not path.exists():
            continue
        aside, n = path.with_name(f"{path.name}.old-{stamp}"), 0
        while aside.exists():
            n += 1
            aside = path.with_name(f"{path.name}.old-{stamp}-{n}")
        try:
            os.rename(path, aside)
            sync_folder(path.parent)
        except OSError as error:
            raise StoreError(f"{path}: expected to set old results aside, found {error}") from error
