"""The driver API through cuda.bindings: found or refused, its errors as exceptions of the engine.

A fault that leaves the context usable (no memory, a refused registration) is an ordinary error. A
fault that ends it (illegal address, launch failure, memory error) is `DeviceLostError`; every
later call repeats it, since only a new process helps.
"""

from __future__ import annotations

import textwrap
import threading
from typing import Any

from engine.errors import BackendError, DeviceLostError, EngineError, MemoryBudgetError

OLDEST_DRIVER = 12000  # API version: kernels are loaded and captured with what 12.0 offers

NOT_READY = 600
OUT_OF_MEMORY = 2
# What a driver answers when it will not register memory, or not with these flags: the caller has
# another way then.
REGISTER_REFUSED = (1, 712, 713, 801)
# Codes after which nothing works in this process any more.
LOST = (214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999)

_START = {
    34: "a driver, found the toolkit's stub library (take its folder off LD_LIBRARY_PATH)",
    46: "a usable GPU, found every one busy or unavailable (see nvidia-smi)",
    100: "an NVIDIA GPU, found none (see nvidia-smi and CUDA_VISIBLE_DEVICES)",
    101: "an NVIDIA GPU, found none of that ordinal",
    802: "a GPU that is ready, found one still initialising (is the fabric manager running?)",
    803: "driver library and kernel module of one version, found two (reboot after the update)",
    804: "a driver for this GPU, found one of the compatibility package that does not fit it",
}
_LOAD = {
    200: "machine code for this GPU, found none in the image",
    209: "machine code for this GPU, found none in the image",
    218: "PTX that this driver compiles, found an error",
    222: "code of a toolkit that this driver knows, found a newer one (update the driver)",
    223: "PTX that may be compiled here, found its compiler disabled",
}


# Which context this program made current in a thread. One for all drivers of a process: two
# devices that are used in turn by one thread must not take each other's for theirs.
_current = threading.local()


class Driver:
    """The driver of this machine.

    A context is current in one thread at a time each. `use` names the one that calls need; from
    then on `call` and `attempt` make it current in whichever thread they are made, and whoever
    uses `raw` calls `enter` before.

    Raises
    ------
    BackendError
        If the bindings, the library or a device is missing, or the driver is too old.

    Attributes
    ----------
    raw : module
        cuda.bindings.driver, for the calls that must cost nothing.
    version : int
        Of the driver's API, 13000 for 13.0.
    lost : DeviceLostError or None
        What ended the context.
    context : CUcontext or None
        What `use` was given.
    """

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError:
            raise BackendError(
                "cuda backend: expected the package cuda-bindings, found none "
                "(pip install 'ds4bench[cuda]')"
            ) from None
        self.raw: Any = driver
        self.lost: DeviceLostError | None = None
        self.context: Any = None
        try:
            code = int(driver.cuInit(0)[0])
        except Exception as error:  # each version of the bindings has its own for this
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            first = textwrap.shorten(words, 120, placeholder=" ...")
            raise BackendError(
                "cuda backend: expected the driver's library libcuda.so.1, found none "
                f"that loads ({first}); install the NVIDIA driver or use --backend cpu"
            ) from None
        if code:
            raise BackendError(f"cuda backend: expected {_START.get(code, self._plain(code))}")
        self.version = self.call("cuDriverGetVersion")
        if self.version < OLDEST_DRIVER:
            raise BackendError(
                f"driver: expected CUDA {version_text(OLDEST_DRIVER)} or newer, found "
                f"{version_text(self.version)}; update the driver"
            )

    def use(self, context: Any) -> None:
        """Name the context of all calls from here on; None: they need none."""
        self.context = context

    def enter(self) -> None:
        """Make the context current in this thread, if the last one that was is another.

        Raises
        ------
        EngineError
            See `error`.
        """
        if getattr(_current, "context", None) is self.context or self.context is None:
            return
        code = int(self.raw.cuCtxSetCurrent(self.context)[0])
        if code:
            raise self.error("cuCtxSetCurrent", code)
        _current.context = self.context

    def call(self, name: str, *args: Any) -> Any:
        """One call; returns what it yields beside the code.

        Raises
        ------
        EngineError
            See `error`.
        """
        self.enter()
        try:
            result = getattr(self.raw, name)(*args)
        except RuntimeError as error:
            # The bindings ask the library for each function at its first use.
            if "not found" not in str(error):
                raise
            raise BackendError(
                f"driver: expected one that offers {name}, found CUDA "
                f"{version_text(getattr(self, 'version', 0))}; update the driver"
            ) from None
        if result[0]:
            raise self.error(name, int(result[0]))
        if len(result) <= 2:
            return result[1] if len(result) == 2 else None
        return result[1:]

    def attempt(self, name: str, *args: Any) -> tuple[int, Any]:
        """One call whose refusal the caller has an answer to: code and value.

        Raises
        ------
        DeviceLostError
            Where the code means that there is no going on.
        """
        self.enter()
        result = getattr(self.raw, name)(*args)
        code = int(result[0])
        if code in LOST:
            raise self.error(name, code)
        return code, result[1] if len(result) > 1 else None

    def error(self, name: str, code: int) -> EngineError:
        """The exception for a failed call, not raised."""
        if self.lost is not None:
            return self.lost
        if code in LOST:
            self.lost = DeviceLostError(
                f"device: expected its work to finish, found {self._text(code)} at {name}; "
                "the context is lost, start the program again"
            )
            return self.lost
        if code == OUT_OF_MEMORY:
            return MemoryBudgetError(f"device memory: expected enough for {name}, found none left")
        if name.startswith("cuModule") and code in _LOAD:
            return BackendError(f"kernel: expected {_LOAD[code]}")
        if code in _START:
            return BackendError(f"device: expected {_START[code]}")
        return BackendError(f"{name}: expected success, found {self._text(code)}")

    def _text(self, code: int) -> str:
        """Name and meaning of a code, as the driver gives them."""
        enumeration = self.raw.CUresult(code) if code in self._codes() else None
        if enumeration is None:
            return f"error {code}"
        name, text = (
            answer[1].decode(errors="replace") if not answer[0] and answer[1] else ""
            for answer in (
                self.raw.cuGetErrorName(enumeration),
                self.raw.cuGetErrorString(enumeration),
            )
        )
        return f"{name or enumeration.name} ({text or code})"

    def _codes(self) -> set[int]:
        return {int(code) for code in self.raw.CUresult}

    def _plain(self, code: int) -> str:
        return f"a driver that starts, found {self._text(code)}"


def version_text(version: int) -> str:
    """'13.0' of 13000."""
    return f"{version // 1000}.{version % 1000 // 10}"
