"""The option --force of commands that write files from what was measured before."""

from __future__ import annotations

from engine.tooling.options.group import option

FORCE = option(
    "--force",
    section="Output",
    is_flag=True,
    help="Write although files are there; old ones are kept as NAME.old-TIME.",
)
