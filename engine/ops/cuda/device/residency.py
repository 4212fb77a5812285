"""Where a tensor's bytes are for the device: copied to it, or read from the mapped file.

`engine.weights.residency` decides; here mappings are registered, with the ways that are left when
a driver refuses: without the read-only flag, then unregistered where the device reads such memory,
then copies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psutil

from engine.errors import BackendError, MemoryBudgetError
from engine.ops.cuda.device.api import OUT_OF_MEMORY, REGISTER_REFUSED
from engine.ops.cuda.device.pages import mapping_of, page_out, populate
from engine.weights.residency import (
    Machine,
    Run,
    Settings,
    Span,
    gib,
    kind_of,
    plan,
    settings_from,
)

if TYPE_CHECKING:
    from engine.ops.cuda.device.driver import CudaDevice
    from engine.ops.device import Bar
    from engine.weights.tensor import Tensor

DEVICEMAP = 2
READ_ONLY = 8


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer for one tensor.

    Parameters
    ----------
    kind : {'device', 'mapped'}
        'device': the caller uploads the raw bytes (`Device.upload` stages and counts them) and
        keeps them in its own layout. 'mapped': nothing is copied; kernels read the file's bytes.
    address : int
        Device address of the tensor's first byte when mapped, else 0.
    layout : {'raw'}
        How the bytes at `address` are arranged: as in the file.
    """

    kind: str
    address: int = 0
    layout: str = "raw"


class Residency(Protocol):
    """What decides: `AllOnDevice` or `FileResidency`."""

    def place(self, tensor: Tensor) -> Placement: ...

    def facts(self) -> dict[str, Any]: ...

    def notices(self) -> list[str]: ...

    def close(self) -> None: ...


class AllOnDevice:
    """Every tensor is copied: for devices without a mapping to offer."""

    def place(self, tensor: Tensor) -> Placement:
        return Placement("device")

    def facts(self) -> dict[str, Any]:
        return {"residency": "device"}

    def notices(self) -> list[str]:
        return []

    def close(self) -> None:
        """Nothing is held."""


def spans_of(
    tensors: Sequence[Tensor],
    drafts: Collection[str] = (),
    copied_bytes: Callable[[Tensor], int] = lambda tensor: 0,
    first_file: int = 0,
) -> tuple[list[Span], list[np.ndarray]]:
    """Spans of tensors, and the mappings that their file numbers count.

    Parameters
    ----------
    tensors : sequence of Tensor
    drafts : collection of str
        Names of the MTP block's tensors.
    copied_bytes : callable
        What a tensor takes on the device where copied; 0 for as many bytes as in the file.
    first_file : int
        Number of the first mapping.
    """
    files: dict[int, int] = {}
    mappings: list[np.ndarray] = []
    spans = []
    for tensor in tensors:
        whole = mapping_of(tensor.data)
        file, offset = -1, 0
        if whole is not None:
            base = whole.ctypes.data
            file, offset = (
                files.setdefault(base, first_file + len(files)),
                tensor.data.ctypes.data - base,
            )
            if file == first_file + len(mappings):
                mappings.append(whole)
        kind = kind_of(tensor.name, tensor.name in drafts)
        spans.append(Span(tensor.name, file, offset, tensor.n_bytes, kind, copied_bytes(tensor)))
    return spans, mappings


def machine_of(device: CudaDevice) -> Machine:
    """What the plan needs to know of a device that is open."""
    has = device.attributes
    return Machine(
        device_bytes=device.free_bytes(),
        host_bytes=psutil.virtual_memory().available,
        unified=device.unified,
        register=bool(has["host_register"]),
        read_only_register=bool(has["read_only_register"]),
        pageable=bool(has["pageable_access"]),
    )


class FileResidency:
    """A plan over mapped files, carried out on a device.

    Parameters
    ----------
    device : CudaDevice
    tensors : sequence of Tensor
        Every matrix that will be asked for.
    settings : Settings
    drafts : collection of str
        Names of the MTP block's tensors.
    copied_bytes : callable
        See `spans_of`.
    bar : callable, optional
        Called with the bytes of mapped pages that are read in, if there are any; returns what is
        called with bytes done.

    Raises
    ------
    MemoryBudgetError
        If what must be copied does not fit; nothing was copied.
    """

    def __init__(
        self,
        device: CudaDevice,
        tensors: Sequence[Tensor],
        settings: Settings,
        drafts: Collection[str] = (),
        copied_bytes: Callable[[Tensor], int] = lambda tensor: 0,
        bar: Bar | None = None,
    ) -> None:
        self.device = device
        spans, self._mappings = spans_of(tensors, drafts, copied_bytes)
        machine = machine_of(device)
        self.plan = plan(spans, machine, settings)
        self._verbose = settings.verbose
        self.route = self.plan.route
        self.refusals: list[str] = []
        self._registered: list[int] = []
        self._pinned = 0
        self._copying: Tensor | None = None
        self._windows: list[tuple[int, int, int]] = []  # host start, host stop, device address
        self._mapped: set[int] = set()
        self.refused_bytes = 0
        self.populated_bytes = 0
        self._unread: list[tuple[np.ndarray, int, int]] = []  # mapping, first byte, last + 1
        for run in self.plan.mapped_runs:
            self._offer(run, machine, settings.direct)
        reached = {self._address(d.span) for d in self.plan.decisions if d.place == "mapped"}
        self._mapped = {host for host in reached if self._window(host) is not None}
        device.relief.append(self._drop_pages)
        missed = [
            d.span
            for d in self.plan.decisions
            if d.place == "mapped" and self._address(d.span) not in self._mapped
        ]
        if missed:
            self._copy_instead(missed)
        self._populate(bar)

    def place(self, tensor: Tensor) -> Placement:
        """Where this tensor is: a copy is looked for before the mapping."""
        self._drop_copied()
        host = tensor.data.ctypes.data
        if host not in self._mapped:
            self._copying = tensor
            return Placement("device")
        window = self._window(host)
        assert window is not None, tensor.name
        return Placement("mapped", window[2] + host - window[0])

    def facts(self) -> dict[str, Any]:
        """Mode, the way mapped bytes are reached, bytes of either kind, refusals."""
        return {
            "residency": self.plan.mode,
            "residency_route": self.route,
            "residency_device_bytes": self.plan.bytes_of("device")
            + self.plan.bytes_of("staged")
            + self.refused_bytes,
            "residency_mapped_bytes": self.plan.mapped_bytes - self.refused_bytes,
            "residency_budget_bytes": self.plan.budget,
            "residency_populated_bytes": self.populated_bytes,
            "residency_refusals": list(self.refusals),
        }

    def notices(self) -> list[str]:
        facts = self.facts()
        copied = gib(facts["residency_device_bytes"])
        found = [
            f"weights: {copied} copied to the device, "
            f"{gib(facts['residency_mapped_bytes'])} read from the file ({self.plan.mode}; "
            + "; ".join(self.plan.reasons)
            + ")"
        ]
        found += filter(None, [self.plan.warning])
        found += self.refusals
        if self._verbose:
            for word, runs in (
                ("copied", self.plan.copied_runs),
                ("mapped", self.plan.mapped_runs),
            ):
                found += [
                    f"{word}: file {run.file}, {run.start:#x} to {run.stop:#x}, "
                    f"{run.n_bytes / 2**20:.1f} MiB, {run.n_tensors} tensors"
                    for run in runs
                ]
        return found

    def close(self) -> None:
        """Unregister; mapped placements are void."""
        if self._drop_pages in self.device.relief:
            self.device.relief.remove(self._drop_pages)
        self._copying = None
        for host in self._registered:
            self.device.drop("cuMemHostUnregister", host)
        self._registered, self._windows = [], []
        self._mapped = set()

    def _drop_copied(self) -> None:
        """Give back the file's pages of the tensor that was copied last, where memory is shared.

        There a copy and the pages that it was made from are twice the same bytes in one memory.
        A caller is done with a tensor when it asks for the next.
        """
        done, self._copying = self._copying, None
        whole = None if done is None else mapping_of(done.data)
        if done is None or whole is None or not self.device.unified:
            return
        first = done.data.ctypes.data - whole.ctypes.data
        page_out(whole, first, first + done.n_bytes)

    def _drop_pages(self) -> None:
        """Give back the file's pages of everything that is not read in place."""
        mapped = {(run.file, run.start, run.stop) for run in self.plan.mapped_runs}
        for file, whole in enumerate(self._mappings):
            held = sorted((start, stop) for at, start, stop in mapped if at == file)
            begin = 0
            for start, stop in [*held, (whole.nbytes, whole.nbytes)]:
                page_out(whole, begin, start)
                begin = stop

    def _offer(self, run: Run, machine: Machine, direct: bool) -> None:
        """Make a run of a mapping readable by the device, if there is a way."""
        whole = self._mappings[run.file]
        start = whole.ctypes.data + run.start
        # The last page of a mapping is whole, though the file may end within it.
        stop = whole.ctypes.data + run.stop
        fits = self._pinned + run.n_bytes <= self.plan.pinnable
        if self.plan.route == "registered" and fits:
            address = self._register(start, stop - start, machine)
            if address is not None:
                self._pinned += run.n_bytes
                self._windows.append((start, stop, address))
                return
        elif self.plan.route == "registered":
            # Pinned pages cannot be taken back: beyond the memory they have frozen machines.
            self.refusals.append(
                f"{gib(run.n_bytes)} of mapped weights: not registered, since at most "
                f"{gib(self.plan.pinnable)} of this host's memory may be pinned"
            )
        if machine.pageable and (direct or self.plan.route in ("registered", "pageable")):
            self.route = "pageable"
            self._windows.append((start, stop, start))
            stop = min(run.stop, whole.nbytes)
            self._unread.append((whole, run.start, stop))

    def _populate(self, bar: Bar | None) -> None:
        """Read in what the device would fault on page by page; the user sees how far it is."""
        total = sum(stop - start for _, start, stop in self._unread)
        if not total:
            return
        done = bar(total) if bar is not None else lambda n_bytes: None
        for whole, start, stop in self._unread:
            populate(whole, start, stop, done)
        self.populated_bytes, self._unread = total, []

    def _register(self, start: int, n_bytes: int, machine: Machine) -> int | None:
        """Device address of a registered run, or None where the driver refuses."""
        driver = self.device.driver
        tries = [DEVICEMAP | READ_ONLY] if machine.read_only_register else []
        for flags in (*tries, DEVICEMAP):
            code, _ = driver.attempt("cuMemHostRegister", start, n_bytes, flags)
            if not code:
                self._registered.append(start)
                return int(driver.call("cuMemHostGetDevicePointer", start, 0))
            if code not in (*REGISTER_REFUSED, OUT_OF_MEMORY):
                raise driver.error("cuMemHostRegister", code)
            how = "read-only " if flags & READ_ONLY else ""
            text = f"{how}registration of mapped weights: the driver refused it (error {code})"
            if text not in self.refusals:
                self.refusals.append(text)
        return None

    def _copy_instead(self, spans: list[Span]) -> None:
        """Account for mapped tensors that must be copied after all.

        Raises
        ------
        MemoryBudgetError
            If they do not fit beside what is copied anyway.
        """
        self.route = "staged"
        need = self.plan.copied_bytes + sum(span.copied_bytes for span in spans)
        free = self.device.free_bytes()
        if need > free:
            raise MemoryBudgetError(
                f"weights: expected at most {gib(free)} to copy, found {gib(need)}, since "
                f"{'; '.join(self.refusals)}"
            )
        self.refused_bytes = sum(span.n_bytes for span in spans)
        self.refusals.append(f"{gib(self.refused_bytes)} that were to stay mapped are copied")

    def _address(self, span: Span) -> int:
        if span.file < 0:
            raise BackendError(f"{span.name}: expected bytes of a mapped file, found a copy")
        return int(self._mappings[span.file].ctypes.data) + span.offset

    def _window(self, host: int) -> tuple[int, int, int] | None:
        for window in self._windows:
            if window[0] <= host < window[1]:
                return window
        return None


def open_residency(
    device: Any,
    tensors: Sequence[Tensor],
    options: Any,
    drafts: Collection[str] = (),
    copied_bytes: Callable[[Tensor], int] = lambda tensor: 0,
    bar: Bar | None = None,
) -> Residency:
    """The residency that options and environment ask for on a device.

    Parameters
    ----------
    options : EngineOptions

    Raises
    ------
    MemoryBudgetError, OptionError
    """
    settings = settings_from(options.residency, options.residency_gib, os.environ)
    if not hasattr(device, "driver"):  # the simulated device shares this process's memory
        return AllOnDevice()
    return FileResidency(device, tensors, settings, drafts, copied_bytes, bar)
