"""Energy of the processor from a made-up powercap tree: sums, wrap-around, and no leave to read."""

from __future__ import annotations

import pytest

from ds4bench.records.rows import SpeedRow, SweepResult, Telemetry
from ds4bench.report import curves, page, plot
from ds4bench.sweep import circumstances
from ds4bench.telemetry.powercap import PowerCap
from ds4bench.telemetry.sampler import TelemetrySampler

RANGE = 262_143_328_850


@pytest.fixture
def tree(tmp_path):
    def zone(place, name, energy, wraps_at=RANGE):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
        (folder / "energy_uj").write_text(f"{energy}\n")

    zone("intel-rapl:0", "package-0", 1_000_000)
    zone("intel-rapl:1", "package-1", 2_000_000)
    zone("intel-rapl:0:0", "core", 500_000)
    zone("intel-rapl:0:1", "dram", 100_000, 65_712_999_613)
    zone("intel-rapl:2", "psys", 9_000_000)
    zone("intel-rapl-mmio:0", "package-0", 1_000_000)
    (tmp_path / "intel-rapl").mkdir()
    zone.root = tmp_path
    return zone


def test_packages_and_memory_are_summed_and_nothing_twice(tree):
    power = PowerCap(tree.root)
    assert power.present and power.energy_j() == 0
    tree("intel-rapl:0", "package-0", 4_000_000)
    tree("intel-rapl:1", "package-1", 7_000_000)
    tree("intel-rapl:0:0", "core", 99_000_000)
    tree("intel-rapl:0:1", "dram", 600_000, 65_712_999_613)
    tree("intel-rapl:2", "psys", 99_000_000)
    tree("intel-rapl-mmio:0", "package-0", 4_000_000)
    assert power.energy_j() == pytest.approx(3 + 5 + 0.5)


def test_a_counter_that_wraps_around_goes_on(tree):
    tree("intel-rapl:0", "package-0", RANGE - 999_999)
    power = PowerCap(tree.root)
    for energy, expected in ((1_000_000, 2.0), (RANGE, 2.0 + (RANGE - 1_000_000) * 1e-6)):
        tree("intel-rapl:0", "package-0", energy)
        assert power.energy_j() == pytest.approx(expected)
    tree("intel-rapl:0", "package-0", 0)
    assert power.energy_j() == pytest.approx(1.0 + RANGE * 1e-6)


def test_without_leave_or_without_counters_there_is_no_energy(tree, tmp_path):
    assert not PowerCap(tmp_path / "missing").present
    assert PowerCap(tmp_path / "missing").energy_j() is None
    power = PowerCap(tree.root)
    (tree.root / "intel-rapl:1" / "energy_uj").unlink()
    assert power.energy_j() is None
    for path in tree.root.glob("*/energy_uj"):
        path.unlink()
    assert not PowerCap(tree.root).present


def test_a_row_has_the_energy_of_its_phases(tree):
    sampler = TelemetrySampler(None, power=PowerCap(tree.root))
    sampler.begin()
    for phase, energy in (("prefill", 11_000_000), ("gen", 15_000_000)):
        sampler.enter(phase)
        tree("intel-rapl:0", "package-0", energy)
        sampler.leave()
    found = sampler.row()
    assert (found.prefill_energy_j, found.gen_energy_j) == (pytest.approx(10), pytest.approx(4))
    assert found.energy_source == "rapl"


def test_a_sweep_on_the_processor_reads_its_counters(tree, monkeypatch):
    class Plan:
        backend = "cpu"

    monkeypatch.setattr(circumstances, "PowerCap", lambda: PowerCap(tree.root))
    assert circumstances.sampler_of(Plan, None, 1.0).power.present
    monkeypatch.setattr(circumstances, "PowerCap", lambda: PowerCap(tree.root / "none"))
    assert circumstances.sampler_of(Plan, None, 1.0).power is None
    Plan.backend = "cuda"
    assert circumstances.sampler_of(Plan, "gpu", 1.0).gpu == "gpu"


def test_joules_per_token_stand_in_table_and_figure():
    rows = tuple(
        SpeedRow(c, c, 1.0, 64, 4.0, telemetry=Telemetry(gen_energy_j=64 * 2.5)) for c in (100, 200)
    )
    run = SweepResult(rows, {}, "memory")
    table = page.rows_table(run)
    place = [column.name for column in table.columns].index("Energy")
    assert [row.cells[place] for row in table.rows] == ["2.50", "2.50"]
    fig = plot.figure([curves.Source("a", run)])
    assert "Energy of decoding" in [axes.get_title(loc="left") for axes in fig.axes]
