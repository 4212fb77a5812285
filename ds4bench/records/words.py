"""The words that a row may hold, and what else its annotations cannot say.

It knows no row and no file; `SpeedRow.from_record` holds what it reads to these rules.
"""

from __future__ import annotations

from engine.options import MODES
from engine.tooling.results.typed import HEX, NAME, Rules

# A row that has one of these is finished; resume skips it unless asked to retry.
STATUSES = (
    "ok",
    "error",  # the engine refused or failed; message says how
    "timeout",  # the watchdog ended it
    "nonfinite",  # NaN or infinity in logits
    "model_changed",  # the model file was replaced while the sweep ran
    "crashed_segv",
    "crashed_bus",
    "crashed_oom",  # SIGKILL that we did not send
    "crashed_abort",
    "crashed_other",
    "oom",  # an allocation was refused, by the host or by a device
    "gpu_fault",  # the device failed, twice
    # Measured, and not to be trusted; message says what disturbed the row.
    "compiled",  # kernels were compiled or loaded inside the clock
    "stalled",  # a process, or one step, stood still
    "suspended",  # the machine slept
    "throttled",  # the GPU slowed itself down
    "short",  # a server ended its reply long before the asked number of tokens
    "cache",  # a server's prefix cache did otherwise than the row says
)
DISTURBED = ("compiled", "stalled", "suspended", "throttled")

# What a row's annotations do not say; see `engine.tooling.results.typed`.
RULES = Rules(
    words={"mode": MODES, "status": STATUSES, "prefix": ("", "cold", "warm")},
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
