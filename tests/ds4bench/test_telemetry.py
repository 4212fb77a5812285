"""Telemetry where everything may be missing: a GPU made of failures, energy by two routes."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from ds4bench.records.rows import Telemetry
from ds4bench.telemetry import sampler as telemetry
from ds4bench.telemetry.nvml import Gpu
from ds4bench.telemetry.sampler import TelemetrySampler


class NotSupported(Exception):
    pass


class FakeNvml:
    """nvidia-ml-py's functions; names in `broken` raise, as on GB10 or under MIG."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksEventReasonSwThermalSlowdown = 0x20
    nvmlClocksThrottleReasonHwSlowdown = 0x8

    def __init__(self, broken=(), **values):
        self.broken = set(broken)
        self.values = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByIndex": "handle",
            "nvmlDeviceGetName": b"NVIDIA GB10",
            "nvmlSystemGetDriverVersion": "580.95",
            "nvmlSystemGetCudaDriverVersion": 13000,
            "nvmlDeviceGetCount": 2,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=1 << 37, used=1 << 30),
            "nvmlDeviceGetEnforcedPowerLimit": 140_000,
            "nvmlDeviceGetMaxClockInfo": 3003,
            "nvmlDeviceGetMigMode": (0, 0),
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetClockInfo": 2411,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=95, memory=0),
            "nvmlDeviceGetPowerUsage": 93_500,
            "nvmlDeviceGetTotalEnergyConsumption": 5_000_000,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x24,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x8,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=7),
                SimpleNamespace(pid=8),
            ],
            **values,
        }

    def __getattr__(self, name):
        if name not in self.values:
            raise AttributeError(name)

        def call(*arguments):
            if name in self.broken:
                raise NotSupported(name)
            value = self.values[name]
            return value(*arguments) if callable(value) else value

        return call


def test_a_whole_gpu():
    gpu = Gpu(FakeNvml())
    assert gpu.facts()["name"] == "NVIDIA GB10" and gpu.facts()["power_limit_w"] == 140
    assert gpu.read(pid=7) == {
        "temp_c": 61, "sm_mhz": 2411, "mem_mhz": 2411, "util_pct": 95, "power_w": 93.5,
        "mem_used_bytes": 1 << 30, "throttle": "sw-power-cap+sw-thermal", "other_processes": 1,
    }  # fmt: skip
    assert gpu.energy_j() == 5000


@pytest.mark.parametrize("name", sorted(FakeNvml().values))
def test_each_call_may_fail_alone(name):
    """Whatever fails takes at most its own value with it."""
    whole, gpu = Gpu(FakeNvml()), Gpu(FakeNvml(broken=[name]))
    if name in ("nvmlInit", "nvmlDeviceGetHandleByIndex"):
        assert not gpu.present and gpu.read() == {} and gpu.facts() == {} and gpu.energy_j() is None
        return
    lost = set(whole.read()) - set(gpu.read())
    lost |= set(whole.facts()) - set(gpu.facts())
    assert len(lost) <= 2  # one clock call serves two clocks, one memory call two records
    if name == "nvmlDeviceGetCurrentClocksEventReasons":
        assert gpu.read()["throttle"] == "hw-slowdown", "older drivers' name is asked instead"


def test_missing_functions_and_nonsense_values():
    nvml = FakeNvml(nvmlDeviceGetPowerUsage="N/A", nvmlDeviceGetTemperature=0xFFFFFFFF)
    del nvml.values["nvmlDeviceGetClockInfo"]
    sample = Gpu(nvml).read()
    assert not {"sm_mhz", "mem_mhz", "power_w", "temp_c"} & set(sample)


@pytest.mark.parametrize(
    ("value", "ordinal", "device"),
    [("2", 0, 2), ("3,1", 0, 3), ("3, 1", 1, 1), ("", 0, 0), ("", 1, 1), ("GPU-bb", 0, 1),
     ("1,GPU-aa11", 1, 0), ("MIG-1", 0, "MIG-1")],
)  # fmt: skip
def test_the_device_is_the_one_that_cuda_uses(monkeypatch, value, ordinal, device):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    read = []
    nvml = FakeNvml(
        nvmlDeviceGetHandleByIndex=lambda i: i,
        nvmlDeviceGetHandleByUUID=lambda name: name,
        nvmlDeviceGetUUID=lambda i: (b"GPU-aa11-22", "GPU-bb33-44")[i],
        nvmlDeviceGetTemperature=lambda handle, sensor: read.append(handle),
    )
    Gpu(nvml, ordinal).read()
    assert read == [device]


@pytest.mark.parametrize(("value", "ordinal"), [("0", 1), ("GPU-cc", 0)])
def test_a_device_that_is_not_there_is_not_replaced_by_another(monkeypatch, value, ordinal):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    nvml = FakeNvml(nvmlDeviceGetUUID=lambda i: b"GPU-aa11-22")
    assert not Gpu(nvml, ordinal).present


def row_with(nvml, steps=(0, 1, 2, 3, 4)):
    """Telemetry of a prefill of two seconds and a decode of two, on a clock of whole seconds."""
    now = iter(steps)
    clock = SimpleNamespace(now=next(now))
    sampler = TelemetrySampler(Gpu(nvml), clock=lambda: clock.now)
    sampler.begin()
    for phase in ("prefill", "gen"):
        sampler.enter(phase)
        for _ in range(2):
            clock.now = next(now, clock.now + 1)
            sampler.tick()
        sampler.leave()
    return sampler.row()


def test_energy_from_the_counter():
    readings = iter([1000, 51_000, 60_000, 63_000])
    row = row_with(FakeNvml(nvmlDeviceGetTotalEnergyConsumption=lambda h: next(readings)))
    assert (row.prefill_energy_j, row.gen_energy_j) == (50.0, 3.0)
    assert row.energy_source == "nvml-counter"


def test_energy_from_power_where_there_is_no_counter():
    row = row_with(FakeNvml(broken=["nvmlDeviceGetTotalEnergyConsumption"]))
    assert row.prefill_energy_j == pytest.approx(2 * 93.5)
    assert row.gen_energy_j == pytest.approx(2 * 93.5)
    assert row.energy_source == "nvml-power"


def test_a_counter_that_was_reset_is_no_energy():
    readings = iter([9000, 10, 20, 1020])
    nvml = FakeNvml(
        broken=["nvmlDeviceGetPowerUsage"],
        nvmlDeviceGetTotalEnergyConsumption=lambda h: next(readings),
    )
    row = row_with(nvml)
    assert row.prefill_energy_j is None and row.gen_energy_j == 1.0


def test_half_of_the_power_readings_are_no_energy():
    readings = iter([100_000, 100_000, NotSupported])

    def power(handle):
        value = next(readings, 100_000)
        if value is NotSupported:
            raise NotSupported
        return value

    nvml = FakeNvml(broken=["nvmlDeviceGetTotalEnergyConsumption"], nvmlDeviceGetPowerUsage=power)
    assert row_with(nvml).prefill_energy_j is None


def test_without_a_gpu_gpu_fields_are_none():
    row = row_with(FakeNvml(broken=["nvmlInit"]))
    assert all(
        getattr(row, name) is None for name in Telemetry.__slots__ if name.startswith("gpu_")
    )
    assert row.energy_source is None
    assert row.mem_available_bytes > 0


def test_a_dead_sampler_costs_no_row(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("sensor on fire")

    for name in ("virtual_memory", "swap_memory", "cpu_freq", "cpu_percent", "Process"):
        monkeypatch.setattr(psutil, name, fail)
    monkeypatch.setattr(telemetry, "hottest", fail)
    row = row_with(FakeNvml(broken=["nvmlInit"]))
    assert row.n_samples >= 4
    assert row.cpu_load_pct is None and row.mem_available_bytes is None


def test_a_phase_that_never_ended_takes_no_samples_of_the_next_row():
    """A worker that dies in a prefill leaves it open; loading the model again is no part of it."""
    clock = SimpleNamespace(now=0.0)
    nvml = FakeNvml(broken=["nvmlDeviceGetTotalEnergyConsumption"])
    sampler = TelemetrySampler(Gpu(nvml), clock=lambda: clock.now)
    sampler.begin()
    sampler.enter("gen")
    sampler.begin()
    for clock.now in range(1, 100):
        sampler.tick()
    sampler.enter("gen")
    clock.now += 2
    sampler.leave()
    assert sampler.row().gen_energy_j == pytest.approx(2 * 93.5)
    assert sampler.row().n_samples == 2


def test_a_processor_sweep_reads_no_gpu():
    sampler = TelemetrySampler(None)
    sampler.begin()
    sampler.enter("gen")
    sampler.leave()
    row = sampler.row()
    assert row.gpu_temp_c is row.gen_energy_j is row.energy_source is None and row.n_samples == 2


def test_sampling_is_rare_and_only_inside_phases():
    clock = SimpleNamespace(now=0.0)
    sampler = TelemetrySampler(Gpu(FakeNvml(broken=["nvmlInit"])), clock=lambda: clock.now)
    sampler.begin()
    sampler.tick()
    assert sampler.row().n_samples == 0
    sampler.enter("gen")
    for i in range(100):
        clock.now = i * 0.1
        sampler.tick()
    assert sampler.row().n_samples == 10


def test_sleep_of_the_machine_is_noticed(monkeypatch):
    gap = iter([10.0, 10.0, 310.0])
    monkeypatch.setattr(telemetry, "_boot_gap", lambda: next(gap))
    sampler = TelemetrySampler(Gpu(FakeNvml(broken=["nvmlInit"])))
    sampler.begin()
    assert sampler.row().suspended_s == 300


def test_shared_prefill_keeps_its_energy():
    sampler = TelemetrySampler(Gpu(FakeNvml(broken=["nvmlInit"])))
    sampler.begin()
    assert sampler.row(Telemetry(prefill_energy_j=5.0)).prefill_energy_j == 5.0
