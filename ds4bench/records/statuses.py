"""What may have become of a row: measured, measured and not to be trusted, or failed."""

from __future__ import annotations

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
