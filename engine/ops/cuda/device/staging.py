"""Copies between host and device through pinned memory, waits with a watchdog, and their counts."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import DEVICE_HUNG
from engine.ops.cuda.device.api import NOT_READY, Driver

PIECE = 32 << 20  # bytes of each of two staging buffers: long enough to hide the wait for an event
MAILBOX = 1 << 16  # bytes of the pinned buffer that small answers come back through
PARALLEL = 4 << 20  # pieces from this size on are filled by several threads
FILLERS = 4
SPIN_S = 0.05  # a decode step ends within this; sleeping would add its granularity to the step
NAP_S = 5e-5


@dataclass(slots=True)
class Transfers:
    """Copies over the bus since the device was opened."""

    h2d_bytes: int = 0
    h2d_copies: int = 0
    d2h_bytes: int = 0
    d2h_copies: int = 0


class Waiter:
    """Waits for the stream; ends the process when the device does not answer in time.

    Parameters
    ----------
    driver : Driver
    stream : CUstream
    timeout_s : float
    """

    def __init__(self, driver: Driver, stream: Any, timeout_s: float) -> None:
        self.driver = driver
        self.stream = stream
        self.timeout_s = timeout_s

    def stream_done(self) -> None:
        """Wait until everything launched so far has finished.

        Raises
        ------
        DeviceLostError
            If something that was launched failed.
        """
        self._poll(self.driver.raw.cuStreamQuery, self.stream, "cuStreamQuery")

    def event_done(self, event: Any) -> None:
        self._poll(self.driver.raw.cuEventQuery, event, "cuEventQuery")

    def _poll(self, query: Any, handle: Any, name: str) -> None:
        self.driver.enter()
        start = time.monotonic()
        while True:
            code = int(query(handle)[0])
            if not code:
                return
            if code != NOT_READY:
                raise self.driver.error(name, code)
            waited = time.monotonic() - start
            if waited > self.timeout_s:
                self._hung()
            if waited > SPIN_S:
                time.sleep(NAP_S)

    def _hung(self) -> None:
        sys.stdout.flush()
        print(
            f"device: expected an answer within {self.timeout_s:g} s, found none; "
            f"ending with status {DEVICE_HUNG} (DS4_CUDA_TIMEOUT sets the seconds)",
            file=sys.stderr,
            flush=True,
        )
        # Not an exception: freeing memory, and the driver at exit, would wait for the device too.
        os._exit(DEVICE_HUNG)


class Staging:
    """Moves bytes through pinned buffers; made when first needed, plain copies without them.

    Parameters
    ----------
    driver : Driver
    stream : CUstream
    waiter : Waiter
    """

    def __init__(self, driver: Driver, stream: Any, waiter: Waiter) -> None:
        self.driver = driver
        self.stream = stream
        self.waiter = waiter
        self.transfers = Transfers()
        self.pageable = False  # True once the driver refused pinned memory
        self._pinned: list[int] = []
        self._buffers: list[np.ndarray] = []
        self._busy: list[Any] = []  # event behind the last copy out of each buffer
        self._used = [False, False]
        self._next = 0
        self._fillers: ThreadPoolExecutor | None = None
        self._mailbox = self._pin(MAILBOX)
        self._arrived = driver.call("cuEventCreate", 2)  # without timing, which costs on a record

    def upload(self, address: int, host: np.ndarray) -> None:
        """Copy in stream order; the host array may change as soon as this returns."""
        source = host.reshape(-1).view(np.uint8)
        self._make_buffers()
        if not self._buffers:
            self._h2d(address, source.ctypes.data, source.nbytes)
            self.waiter.stream_done()
            return
        for begin in range(0, source.nbytes, PIECE):
            piece = source[begin : begin + PIECE]
            k = self._next
            self._next ^= 1
            if self._used[k]:
                self.waiter.event_done(self._busy[k])
            self._fill(self._buffers[k][: len(piece)], piece)
            self._h2d(address + begin, self._buffers[k].ctypes.data, len(piece))
            self.driver.call("cuEventRecord", self._busy[k], self.stream)
            self._used[k] = True

    def download(self, host: np.ndarray, address: int) -> None:
        """Copy behind everything launched so far, and wait for it."""
        target = host.reshape(-1).view(np.uint8)
        if target.nbytes <= MAILBOX and self._mailbox is not None:
            self._d2h(self._mailbox.ctypes.data, address, target.nbytes)
            self.waiter.stream_done()
            target[:] = self._mailbox[: target.nbytes]
            return
        self._d2h(target.ctypes.data, address, target.nbytes)
        self.waiter.stream_done()

    def read_i32(self, address: int) -> int:
        """One int32, as soon as what was launched so far has written it."""
        if self._mailbox is None:
            host = np.empty(1, np.int32)
            self.download(host, address)
            return int(host[0])
        self._d2h(self._mailbox.ctypes.data, address, 4)
        self.driver.call("cuEventRecord", self._arrived, self.stream)
        self.waiter.event_done(self._arrived)
        return int(self._mailbox[:4].view(np.int32)[0])

    def close(self) -> None:
        """Give pinned memory back."""
        if self._fillers is not None:
            self._fillers.shutdown()
        self._buffers, self._mailbox = [], None
        for event in [*self._busy, self._arrived]:
            self.driver.attempt("cuEventDestroy", event)
        self._busy = []
        for pointer in self._pinned:
            self.driver.attempt("cuMemFreeHost", pointer)
        self._pinned = []

    def _h2d(self, address: int, pointer: int, n_bytes: int) -> None:
        self.driver.call("cuMemcpyHtoDAsync", address, pointer, n_bytes, self.stream)
        self.transfers.h2d_bytes += n_bytes
        self.transfers.h2d_copies += 1

    def _d2h(self, pointer: int, address: int, n_bytes: int) -> None:
        self.driver.call("cuMemcpyDtoHAsync", pointer, address, n_bytes, self.stream)
        self.transfers.d2h_bytes += n_bytes
        self.transfers.d2h_copies += 1

    def _pin(self, n_bytes: int) -> np.ndarray | None:
        """Pinned memory, which is a matter of speed only: without it copies are plain."""
        code, pointer = self.driver.attempt("cuMemHostAlloc", n_bytes, 0)
        if code:
            self.pageable = True
            return None
        self._pinned.append(int(pointer))
        return np.ctypeslib.as_array((ctypes.c_uint8 * n_bytes).from_address(int(pointer)))

    def _make_buffers(self) -> None:
        if self._buffers or self.pageable:
            return
        made = [self._pin(PIECE), self._pin(PIECE)]
        buffers = [buffer for buffer in made if buffer is not None]
        if len(buffers) == 2:
            self._buffers = buffers
            self._busy = [self.driver.call("cuEventCreate", 2) for _ in buffers]

    def _fill(self, target: np.ndarray, source: np.ndarray) -> None:
        """Copy into a staging buffer; a mapped file's pages are read in on the way."""
        if len(source) < PARALLEL:
            target[:] = source
            return
        if self._fillers is None:
            usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else FILLERS
            self._fillers = ThreadPoolExecutor(min(FILLERS, usable))
        part = -(-len(source) // FILLERS)
        cuts = [slice(at, at + part) for at in range(0, len(source), part)]
        list(self._fillers.map(lambda cut: np.copyto(target[cut], source[cut]), cuts))
