"""The words that a row may hold, and what else its annotations cannot say.

It knows no row and no file; `SpeedRow.from_record` holds what it reads to these rules.
"""

from __future__ import annotations

import re

from ds4bench.records.statuses import STATUSES
from engine.options import MODES
from engine.tooling.results.typed import HEX, NAME, Rules

# What a row's annotations do not say; see `engine.tooling.results.typed`.
RULES = Rules(
    # Curves that upstream's tool drew with its draft block have the mode "mtp".
    words={"mode": (*MODES, "mtp", "server"), "status": STATUSES, "prefix": ("", "cold", "warm")},
    patterns={
        "token_hash": HEX,
        "key": NAME,
        "gpu_throttle": NAME,
        "energy_source": NAME,
        "text_class": NAME,
    },
    text={"message": 4000},
    signed=("cpu_temp_c", "gpu_temp_c"),
)

# A curve's name: a mode and what else tells it apart, as `derived.series_of` joins them.
SERIES = re.compile(r"[a-z0-9_.:-]{1,80}(?: [A-Za-z0-9_.:+-]{1,80}){0,3}")
