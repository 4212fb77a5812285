"""What a session keeps of the files that it was read from or saved to; it knows no rows."""

from __future__ import annotations

import os
from pathlib import Path

from engine.cache import session_file
from engine.cache.session_file import SavedSession, SessionIdentity
from engine.cache.snapshot import Snapshot
from engine.gguf.identity import FileIdentity


class SessionPlace:
    """Identity of a session in files, and the files' checksums as this process knows them.

    Attributes
    ----------
    identity : SessionIdentity or None
        None until the session is saved or loaded.
    notices : list of str
        What a user should know of the file that the session was read from.
    """

    def __init__(self) -> None:
        self.identity: SessionIdentity | None = None
        self.notices: list[str] = []
        self._seen: dict[str, bytes] = {}

    def take(self, path: Path, saved: SavedSession) -> None:
        """Remember the file that a session was read from."""
        self.identity = saved.identity
        self._seen[os.path.realpath(path)] = saved.digest
        if saved.header_only:
            self.notices.append(
                f"{path}: header only: an earlier release saved this session, and nothing in it "
                "tells models with equal headers apart; when it is saved again, it names the "
                "weights of the model that is open now"
            )

    def write(
        self, path: Path, snapshot: Snapshot, model: FileIdentity, title: str | None, new: bool
    ) -> None:
        """Write a session file; see `engine.session.Session.save_file`."""
        if self.identity is None:
            self.identity = session_file.new_identity(title or "")
        elif title is not None:
            self.identity = session_file.retitled(self.identity, title)
        place = os.path.realpath(path)
        self._seen[place] = session_file.write_session(
            path, snapshot, self.identity, model, seen=self._seen.get(place), new=new
        )
