"""Facts read from made-up trees of /sys and /proc, and from a load on a fake clock."""

from __future__ import annotations

import itertools
import mmap
import os

import psutil
import pytest

from ds4bench.doctor import probe
from ds4bench.doctor.cached import cached_share
from ds4bench.telemetry.nvml import Gpu
from tests.ds4bench.test_telemetry import FakeNvml


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_board_is_read_from_dmi(tmp_path):
    dmi = "sys/class/dmi/id/"
    root = tree(tmp_path, {
        dmi + "sys_vendor": "ASUSTeK COMPUTER INC.\n", dmi + "product_name": "GX10\n",
        dmi + "bios_version": "GX10DGX.0104.2026.0326\n", dmi + "bios_date": "03/26/2026\n",
        dmi + "ec_firmware_release": "3.3\n",
        "sys/firmware/efi/esrt/entries/entry0/fw_version": "50331654\n",
        "sys/firmware/efi/esrt/entries/entry1/fw_version": "33554437\n",
    })  # fmt: skip
    board = probe.board(root)
    assert (board.vendor, board.bios, board.ec) == (
        "ASUSTeK COMPUTER INC.", "GX10DGX.0104.2026.0326", "3.3",
    )  # fmt: skip
    assert board.capsules == ("0x02000005", "0x03000006")
    assert probe.board(tmp_path / "nothing").bios is None


@pytest.mark.parametrize(
    ("online", "battery", "expected"),
    [("0", True, True), ("1", True, False), ("0", False, None), (None, True, None)],
)
def test_a_battery_counts_only_beside_a_plug(tmp_path, online, battery, expected):
    supply = "sys/class/power_supply/"
    files = {}
    if online is not None:
        files |= {supply + "AC/type": "Mains", supply + "AC/online": online}
    if battery:
        files |= {supply + "BAT0/type": "Battery"}
    assert probe.board(tree(tmp_path, files)).on_battery is expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, (None, None), id="no groups"),
        pytest.param(
            {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"},
            (None, None), id="version 2, none",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/a/cpu.stat": "usage_usec 5\nnr_periods 9\nnr_throttled 7\n",
            },
            (1.5, 7), id="version 2, a level above is tighter",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "5:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000\n",
            },
            (0.5, None), id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "3:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            (None, None), id="version 1, none",
        ),
        pytest.param(
            {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"},
            (2.0, None), id="in a container",
        ),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(tmp_path, files, expected):
    assert probe.quota_of(tree(tmp_path, files)) == expected


def test_huge_pages_are_those_in_brackets(tmp_path):
    path = "sys/kernel/mm/transparent_hugepage/enabled"
    assert probe.memory(tree(tmp_path, {path: "always madvise [never]\n"})).huge_pages == "never"


def test_a_gpu_at_rest_and_none():
    nvml = FakeNvml(
        nvmlDeviceGetVbiosVersion="9A.0B.1E.00.00", nvmlDeviceGetPowerManagementDefaultLimit=140_000
    )
    device = probe.device(Gpu(nvml))
    assert (device.name, device.vbios) == ("NVIDIA GB10", "9A.0B.1E.00.00")
    assert (device.power_limit_w, device.power_default_w) == (140.0, 140.0)
    assert probe.device(Gpu(FakeNvml(broken=["nvmlInit"]))) is None


def test_the_page_cache_is_asked(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(os.urandom(16 * mmap.PAGESIZE))
    assert cached_share(path) in (1.0, None)
    (tmp_path / "empty").touch()
    assert cached_share(tmp_path / "empty") is None
    assert cached_share(tmp_path / "missing") is None
    found = probe.model_file(path)
    assert found.path == "model" and found.size == 16 * mmap.PAGESIZE


def test_a_stretch_of_load_sees_heat_and_what_it_takes(monkeypatch):
    temps = itertools.count(50)
    monkeypatch.setattr(probe, "hottest", lambda: float(next(temps)))
    monkeypatch.setattr(psutil, "cpu_freq", lambda: None)
    times, rates = itertools.count(0.0, 1.0), itertools.cycle([100.0])
    falling = itertools.chain([100.0] * 20, itertools.repeat(80.0))
    stretch = probe.Stretch(60, lambda: [next(falling)], clock=lambda: next(times))
    assert next(rates) == 100.0
    warming = stretch.warming
    assert warming.seconds == 60 and warming.start_c == 50 and warming.end_c == pytest.approx(94)
    assert warming.slope_c_per_min == pytest.approx(60)
    assert warming.kept == pytest.approx(0.8) and len(stretch.rates) == 60
    assert stretch.clocks == [] and stretch.over("sm_mhz") is None and stretch.throttle is None


def test_a_device_under_load_gives_medians_and_every_reason():
    masks = itertools.cycle([0x0, 0x4, 0x20])
    clocks = itertools.cycle([2100, 2200, 2300])
    nvml = FakeNvml(
        nvmlDeviceGetCurrentClocksEventReasons=lambda _: next(masks),
        nvmlDeviceGetClockInfo=lambda handle, kind: next(clocks) if kind == 1 else 4000,
    )
    times = itertools.count(0.0, 1.0)
    stretch = probe.Stretch(3, lambda: [1e11], Gpu(nvml), clock=lambda: next(times))
    assert stretch.over("sm_mhz") == 2200
    assert stretch.throttle == "sw-power-cap+sw-thermal"
    assert stretch.warming.start_c == 61


def test_this_machine_is_read_whole(tmp_path):
    facts = probe.read_facts(Gpu(FakeNvml(broken=["nvmlInit"])), tmp_path / "none")
    assert facts.processor.usable_cores >= 1 and facts.memory.total > 0
    assert facts.device is None and facts.model.size is None
