"""Reads one NVIDIA GPU through NVML, where each call may be missing, refused or not supported.

A reading that fails is left out. Nothing here computes on the GPU or changes its settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

# Names of nvidia-ml-py's constants for clock event reasons; idle and clock settings that the
# user made are not throttling.
_REASONS = {
    "nvmlClocksEventReasonSwPowerCap": "sw-power-cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hw-slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "sw-thermal",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "hw-thermal",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "hw-power-brake",
}


class Gpu:
    """One visible GPU, or nothing at all.

    Parameters
    ----------
    nvml : module or None
        nvidia-ml-py's `pynvml`; None finds it, and stays silent if it is not installed or finds
        no driver.
    ordinal : int
        CUDA's, among the devices that CUDA_VISIBLE_DEVICES leaves.
    """

    def __init__(self, nvml: Any = None, ordinal: int = 0) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        try:
            if nvml is None:
                import pynvml as nvml  # type: ignore[no-redef]
            nvml.nvmlInit()
            self._handle = _visible(nvml, ordinal)
            self._nvml = nvml
        except Exception:  # no driver, no library, no permission: no GPU to report
            self._handle = None

    @property
    def present(self) -> bool:
        return self._handle is not None

    def facts(self) -> dict[str, Any]:
        """Name, driver, memory, limits; absent keys are unknown. Empty without a GPU."""
        if not self.present:
            return {}
        n = self._nvml
        h = self._handle
        facts = {
            "name": self._text(lambda: n.nvmlDeviceGetName(h)),
            "driver": self._text(n.nvmlSystemGetDriverVersion),
            "cuda": self._call(n.nvmlSystemGetCudaDriverVersion),
            "count": self._call(n.nvmlDeviceGetCount),
            "memory_bytes": self._call(lambda: n.nvmlDeviceGetMemoryInfo(h).total),
            "vbios": self._text(lambda: n.nvmlDeviceGetVbiosVersion(h)),
            "power_default_w": self._scaled(
                lambda: n.nvmlDeviceGetPowerManagementDefaultLimit(h), 1e-3
            ),
            "power_limit_w": self._scaled(lambda: n.nvmlDeviceGetEnforcedPowerLimit(h), 1e-3),
            "max_sm_mhz": self._call(lambda: n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)),
            "mig": self._call(lambda: n.nvmlDeviceGetMigMode(h)[0]),
        }
        return {key: value for key, value in facts.items() if value is not None}

    def read(self, pid: int | None = None) -> dict[str, Any]:
        """One sample; absent keys are unknown. Empty without a GPU."""
        if not self.present:
            return {}
        n = self._nvml
        h = self._handle
        sample = {
            "temp_c": self._call(lambda: n.nvmlDeviceGetTemperature(h, n.NVML_TEMPERATURE_GPU)),
            "sm_mhz": self._call(lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)),
            "mem_mhz": self._call(lambda: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)),
            "util_pct": self._call(lambda: n.nvmlDeviceGetUtilizationRates(h).gpu),
            "power_w": self._scaled(lambda: n.nvmlDeviceGetPowerUsage(h), 1e-3),
            "mem_used_bytes": self._call(lambda: n.nvmlDeviceGetMemoryInfo(h).used),
            "throttle": self._throttle(),
            "other_processes": self._others(pid),
        }
        return {key: value for key, value in sample.items() if value is not None}

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded; None where there is no counter."""
        if not self.present:
            return None
        return self._scaled(
            lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle), 1e-3
        )

    def _throttle(self) -> str | None:
        n = self._nvml
        mask = self._call(lambda: n.nvmlDeviceGetCurrentClocksEventReasons(self._handle))
        if mask is None:  # drivers before 535
            mask = self._call(lambda: n.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle))
        if mask is None:
            return None
        return "+".join(word for name, word in _REASONS.items() if mask & int(getattr(n, name, 0)))

    def _others(self, pid: int | None) -> int | None:
        listed = self._call(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle))
        if listed is None:
            return None
        return sum(bool(process.pid != pid) for process in listed)

    def _call(self, read: Callable[[], Any]) -> Any:
        # NVMLError_NotSupported on GB10 and in MIG, and whatever a driver update brings.
        try:
            value = read()
        except Exception:
            return None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # Counters that a device lacks are reported as all ones by some drivers.
            return None if value in (0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF) else value
        return value

    def _scaled(self, read: Callable[[], Any], scale: float) -> float | None:
        value = self._call(read)
        return value * scale if isinstance(value, (int, float)) else None

    def _text(self, read: Callable[[], Any]) -> str | None:
        value = self._call(read)
        return value.decode(errors="replace") if isinstance(value, bytes) else value


def _visible(nvml: Any, ordinal: int) -> Any:
    """Handle of the device that CUDA calls `ordinal`.

    Numbers are taken in the order of the bus, which is CUDA's where all devices are alike or
    CUDA_DEVICE_ORDER says so.

    Raises
    ------
    LookupError
        If CUDA_VISIBLE_DEVICES names no such device: another one's readings would be wrong.
    """
    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if names == [""]:
        return nvml.nvmlDeviceGetHandleByIndex(ordinal)
    name = names[ordinal]
    if name.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    if not name.startswith("GPU-"):
        return nvml.nvmlDeviceGetHandleByUUID(name)  # a part of a device (MIG)
    # CUDA takes the beginning of an identifier, NVML only all of it.
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        whole = nvml.nvmlDeviceGetUUID(handle)
        if (whole.decode() if isinstance(whole, bytes) else whole).startswith(name):
            return handle
    raise LookupError(name)
