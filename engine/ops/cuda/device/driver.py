"""One NVIDIA GPU through the CUDA driver: memory, one stream, kernels, recorded passes.

Nothing falls back to the processor: what this machine lacks is a `BackendError` that names it.
What a driver refuses and another way exists for (pinned memory, host registration) is noted in
`facts` and `notices`.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from engine.errors import BackendError, EngineError, MemoryBudgetError, OptionError
from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.device.api import OUT_OF_MEMORY, Driver, version_text
from engine.ops.cuda.device.program import Block, Program, packer
from engine.ops.cuda.device.record import Entry
from engine.ops.cuda.device.staging import Staging, Waiter
from engine.ops.cuda.device.variant import steps_from, words_of

OLDEST_CC = (8, 0)  # int8 mma of 16x8x32 and asynchronous copies to shared memory
EARLY_CC, EARLY_DRIVER = (9, 0), 12030  # launches that begin early in graphs
STATIC_SMEM = 48 << 10  # a kernel needs leave for more
TIMEOUT_S = 300.0  # far beyond a pass of the largest model over the slowest bus

# Attributes of a device by the driver API's numbers.
_ATTRIBUTES = {
    "multiprocessors": 16,
    "integrated": 18,
    "cc_major": 75,
    "cc_minor": 76,
    "pageable_access": 88,
    "max_dynamic_smem": 97,
    "host_register": 99,
    "read_only_register": 113,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A kernel's machine code on the device."""

    function: Any
    pack: Any
    block: Block  # of launches that are not recorded: the driver copies it at the call


class CudaDevice:
    """A device of `context.Device`.

    Parameters
    ----------
    ordinal : int
        Among the devices that CUDA_VISIBLE_DEVICES leaves.
    compiler : callable
        ``compiler(kernel, cc)`` gives an object with `image` (bytes) and `entry` (str).
    timeout_s : float
        Longest wait for the device; beyond, the process ends (see `staging.Waiter`).

    Raises
    ------
    BackendError
        No bindings, driver or device, or one that is too old.
    """

    def __init__(
        self,
        ordinal: int = 0,
        compiler: Callable[[Kernel, tuple[int, int]], Any] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.driver = Driver()
        call = self.driver.call
        n = call("cuDeviceGetCount")
        if not n:
            raise BackendError(
                "device: expected an NVIDIA GPU, found none (see nvidia-smi and "
                "CUDA_VISIBLE_DEVICES), or use --backend cpu"
            )
        if ordinal >= n:
            raise OptionError(f"device: expected 0 to {n - 1}, found {ordinal}")
        self.ordinal = ordinal
        self._handle = call("cuDeviceGet", ordinal)
        kinds = self.driver.raw.CUdevice_attribute
        self.attributes = {
            name: int(call("cuDeviceGetAttribute", kinds(number), self._handle))
            for name, number in _ATTRIBUTES.items()
        }
        self.name = (
            call("cuDeviceGetName", 256, self._handle).split(b"\0")[0].decode("ascii", "replace")
        )
        self.cc = (self.attributes["cc_major"], self.attributes["cc_minor"])
        if self.cc < OLDEST_CC:
            raise BackendError(
                f"{self.name}: expected compute capability {_dotted(OLDEST_CC)} or newer, "
                f"found {_dotted(self.cc)}; use --backend cpu"
            )
        self.total_bytes = int(call("cuDeviceTotalMem", self._handle))
        self._compiler = compiler or _run_time_compiler()
        self._loaded: dict[Kernel, Loaded] = {}
        self._numba: dict[Kernel, Any] = {}
        self._modules: list[Any] = []
        self._held_back: list[tuple[str, Any]] | None = None  # frees that a capture postpones
        self._sizes: dict[int, int] = {}
        # What gives memory back when an allocation is refused, where memory is shared.
        self.relief: list[Callable[[], None]] = []
        self.steps = steps_from(os.environ)
        self._refusals: list[str] = []
        self._open = True
        self.driver.use(call("cuDevicePrimaryCtxRetain", self._handle))
        self.stream = call("cuStreamCreate", 1)  # not ordered behind the default stream
        self.waiter = Waiter(self.driver, self.stream, timeout_s)
        self.staging = Staging(self.driver, self.stream, self.waiter)
        self._launch = self.driver.raw.cuLaunchKernel

    @property
    def unified(self) -> bool:
        """Whether device and processor share one memory."""
        return bool(self.attributes["integrated"])

    # Memory

    def alloc(self, n_bytes: int) -> int:
        """Address of fresh memory; never managed memory, which can be oversubscribed and hang.

        Raises
        ------
        MemoryBudgetError
            If the device has no room; nothing was allocated.
        """
        code, address = self.driver.attempt("cuMemAlloc", n_bytes)
        if code == OUT_OF_MEMORY and self.unified and self.relief:
            # The system keeps pages of files that it would give up; the driver does not ask it to.
            for give_back in self.relief:
                give_back()
            code, address = self.driver.attempt("cuMemAlloc", n_bytes)
        if code == OUT_OF_MEMORY:
            raise MemoryBudgetError(
                f"device memory: expected at most {self._free_now() >> 20} MiB free of "
                f"{self.total_bytes >> 20} MiB to be asked for, found {n_bytes / 2**20:.1f} MiB "
                f"beside {sum(self._sizes.values()) >> 20} MiB held; a shorter context, a smaller "
                "--residency-gib or --residency hybrid needs less"
            )
        if code:
            raise self.driver.error("cuMemAlloc", code)
        self._sizes[int(address)] = n_bytes
        return int(address)

    def free(self, address: int) -> None:
        self._sizes.pop(address, None)
        self.drop("cuMemFree", address)

    def drop(self, name: str, handle: Any) -> None:
        """Give a resource back with one call, unless nothing is left to give it back to."""
        if not self._open or self.driver.lost is not None:
            return
        if self._held_back is not None:
            self._held_back.append((name, handle))
            return
        # The garbage collector calls this in any thread, and has no use for an exception.
        with suppress(EngineError):
            self.driver.enter()
            getattr(self.driver.raw, name)(handle)

    @contextmanager
    def no_frees(self) -> Iterator[None]:
        """Postpone what the garbage collector gives back: a stream in capture forbids it."""
        held: list[tuple[str, Any]] = []
        self._held_back = held
        try:
            yield
        finally:
            self._held_back = None
            for name, handle in held:
                self.drop(name, handle)

    def upload(self, address: int, host: np.ndarray) -> None:
        """Copy in stream order; the host array may change as soon as this returns."""
        self.staging.upload(address, np.ascontiguousarray(host))

    def download(self, host: np.ndarray, address: int) -> None:
        """Copy behind everything launched so far, and wait for it."""
        assert host.flags.c_contiguous, host.strides
        self.staging.download(host, address)

    def read_i32(self, address: int) -> int:
        """One int32 (a chosen token), waiting for no more than what writes it."""
        return self.staging.read_i32(address)

    def copy(self, target: int, source: int, n_bytes: int) -> None:
        self.driver.call("cuMemcpyDtoDAsync", target, source, n_bytes, self.stream)

    def fill(self, address: int, byte: int, n_bytes: int) -> None:
        self.driver.call("cuMemsetD8Async", address, byte, n_bytes, self.stream)

    def free_bytes(self) -> int:
        """Bytes that an allocation may take.

        Where memory is shared, the driver counts pages of the file cache as taken, which the
        system gives up when asked.
        """
        free = self._free_now()
        return max(free, psutil.virtual_memory().available) if self.unified else free

    def _free_now(self) -> int:
        return int(self.driver.call("cuMemGetInfo")[0])

    # Launches

    def loaded(self, kernel: Kernel) -> Loaded:
        """A kernel's code, loaded at first use.

        Raises
        ------
        BackendError
            If there is no code for this device, or it asks for more than the device has.
        """
        found = self._loaded.get(kernel)
        if found is None:
            if kernel.dynamic_smem > self.attributes["max_dynamic_smem"]:
                raise BackendError(
                    f"{kernel.name}: expected at most {self.attributes['max_dynamic_smem']} bytes "
                    f"of shared memory, which {self.name} has, found {kernel.dynamic_smem}"
                )
            code = self._compiler(kernel, self.cc)
            module = self.driver.call("cuModuleLoadData", code.image)
            self._modules.append(module)
            function = self.driver.call("cuModuleGetFunction", module, code.entry.encode())
            if kernel.dynamic_smem > STATIC_SMEM:
                # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                what = self.driver.raw.CUfunction_attribute(8)
                self.driver.call("cuFuncSetAttribute", function, what, kernel.dynamic_smem)
            pack = packer(kernel)
            found = self._loaded[kernel] = Loaded(function, pack, Block(pack))
        return found

    def launch(self, kernel: Kernel, grid: tuple[int, int, int], args: tuple[Any, ...]) -> None:
        """Launch with scalars and addresses already in the kernel's argument types."""
        loaded = self._loaded.get(kernel) or self.loaded(kernel)
        self.driver.enter()
        loaded.block.set(args)
        code = self._launch(
            loaded.function, *grid, kernel.threads, 1, 1, kernel.dynamic_smem,
            self.stream, loaded.block.address, 0,
        )[0]  # fmt: skip
        if code:
            raise self.driver.error(f"launch of {kernel.name}", int(code))

    def numba_kernel(self, kernel: Kernel) -> tuple[Any, Any]:
        """numba-cuda's own launcher of a kernel, and our stream as it takes it.

        Raises
        ------
        BackendError
            If numba-cuda or its toolkit is missing.
        """
        if kernel not in self._numba:
            try:
                from numba import cuda
                from numba.cuda.cudadrv import driver as shim

                if getattr(cuda, "implementation", "") != "NVIDIA":
                    raise ImportError("numba's built-in target")
                compiled = cuda.jit(**kernel.jit_options())(kernel.function).compile(
                    kernel.parameters
                )
                stream = shim._to_core_stream(  # type: ignore[attr-defined]
                    cuda.external_stream(int(self.stream))
                )
            except Exception as error:  # its layers have no common exception
                reason = textwrap.shorten(str(error), 200, placeholder=" ...")
                raise BackendError(
                    "--launch numba: expected numba-cuda with its toolkit, found "
                    f"{type(error).__name__}: {reason} (--launch graph does without)"
                ) from error
            self._numba[kernel] = compiled.launch, stream
        return self._numba[kernel]

    @property
    def branches(self) -> bool:
        """Whether a recorded pass may run its independent launches side by side."""
        return "branches" in self.steps

    @property
    def early(self) -> bool:
        """Whether a launch of a graph may begin before the one that it depends on has ended."""
        able = self.driver.version >= EARLY_DRIVER and self.cc >= EARLY_CC
        return able and "early" in self.steps

    def refuse_early(self, error: EngineError) -> None:
        self.steps -= {"early"}
        self._refusals.append(
            f"graphs whose launches begin early: the driver refused them ({error})"
        )

    def program(self, log: Sequence[Entry], mode: str) -> Program:
        """Something whose `replay()` does again what the log lists."""
        return Program(self, log, mode)

    def synchronize(self) -> None:
        """Wait for everything launched so far.

        Raises
        ------
        DeviceLostError
            If something that was launched failed.
        """
        if self._open:
            self.waiter.stream_done()

    def close(self) -> None:
        """Give everything back; device arrays that are left are void."""
        if not self._open:
            return
        if self.driver.lost is None:
            self.staging.close()
            for module in self._modules:
                self.driver.attempt("cuModuleUnload", module)
            self.driver.attempt("cuStreamDestroy", self.stream)
            self.driver.attempt("cuDevicePrimaryCtxRelease", self._handle)
            self.driver.use(None)
        self._open = False

    # What is known of it

    def facts(self) -> dict[str, Any]:
        """Device, driver and what was copied so far; plain JSON values."""
        return {
            "device": self.ordinal,
            "device_name": self.name,
            "compute_capability": _dotted(self.cc),
            "multiprocessors": self.attributes["multiprocessors"],
            "memory_bytes": self.total_bytes,
            "unified_memory": self.unified,
            "driver": version_text(self.driver.version),
            "transfers": asdict(self.staging.transfers),
            "pinned_staging": not self.staging.pageable,
            "variant": words_of(self.steps),
        }

    def notices(self) -> list[str]:
        size = f"{self.total_bytes / 2**30:.1f} GiB"
        driver = version_text(self.driver.version)
        found = [f"{self.name}, compute capability {_dotted(self.cc)}, {size}, driver {driver}"]
        if self.staging.pageable:
            found.append("pinned memory: the driver refused it; copies are plain and slower")
        return found + self._refusals


def _run_time_compiler() -> Callable[[Kernel, tuple[int, int]], Any]:
    from engine.ops.cuda.build.compile import compile_kernel

    return compile_kernel


def _dotted(cc: tuple[int, int]) -> str:
    return f"{cc[0]}.{cc[1]}"


def timeout_from(environment: Any) -> float:
    """Seconds of DS4_CUDA_TIMEOUT.

    Raises
    ------
    OptionError
    """
    text = environment.get("DS4_CUDA_TIMEOUT", "")
    if not text:
        return TIMEOUT_S
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise OptionError(f"DS4_CUDA_TIMEOUT: expected seconds above 0, found {text[:40]!r}")
    return value


def open_device(options: Any) -> CudaDevice:
    """The device that the options name.

    Parameters
    ----------
    options : EngineOptions

    Raises
    ------
    BackendError, OptionError
    """
    return CudaDevice(options.device, timeout_s=timeout_from(os.environ))
