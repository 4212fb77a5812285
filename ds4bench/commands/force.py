"""Options of commands that write files: --force and --record-paths."""

from __future__ import annotations

from engine.tooling.options.group import option

FORCE = option(
    "--force",
    section="Output",
    is_flag=True,
    help="Write although files are there; old ones are kept as NAME.old-TIME.",
)
RECORD_PATHS = option(
    "--record-paths",
    section="Results",
    is_flag=True,
    help="Keep whole paths in the results; otherwise only their last names.",
)
