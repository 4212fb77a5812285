"""The exception tree: every error that bad input or a broken machine can cause, and no other.

EngineError                  anything a user can act on; programs print it in one line
├── ModelFileError           the file is not a model that we can run (exit status 3)
│   ├── GGUFError            the container itself is malformed
│   └── LayoutError          well-formed, but tensors or metadata are not what they must be
├── OptionError              an option's value cannot be honoured (exit status 2)
├── ContextError             more tokens than the context or the model allows
├── RebuildNeeded            tokens were changed behind the live end; start a fresh session
├── MemoryBudgetError        an allocation would not fit; nothing was allocated
├── SnapshotError            a saved session is damaged or belongs to another model
├── NonFiniteError           NaN or infinity in logits; never turned into a token
├── TextError                text that cannot be encoded, decoded or rendered
├── StoreError               results cannot be written, or another process writes them (5)
└── BackendError             a backend or an instruction set that this machine lacks
    └── DeviceLostError      the device failed and this process cannot use it again (10)

A device that does not answer at all ends the process with `DEVICE_HUNG`: waiting for an orderly
end would be waiting for the device.

Messages read ``subject: expected X, found Y``: lower case, no full stop, values in repr.
"""

from __future__ import annotations


class EngineError(Exception):
    """Anything that a user can act on. `exit_code` is what programs exit with."""

    exit_code = 1


class ModelFileError(EngineError):
    exit_code = 3


class GGUFError(ModelFileError):
    pass


class LayoutError(ModelFileError):
    pass


class OptionError(EngineError):
    exit_code = 2


class ContextError(EngineError):
    pass


class RebuildNeeded(EngineError):
    pass


class MemoryBudgetError(EngineError):
    pass


class SnapshotError(EngineError):
    pass


class NonFiniteError(EngineError):
    pass


class TextError(EngineError):
    pass


class StoreError(EngineError):
    exit_code = 5


class BackendError(EngineError):
    pass


class DeviceLostError(BackendError):
    exit_code = 10


DEVICE_HUNG = 11  # exit status
