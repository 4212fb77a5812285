"""The published curves: readable by the one reader, and equal to independent notes of them."""

from __future__ import annotations

import pytest

from ds4bench.records import reference
from engine.errors import OptionError


@pytest.mark.parametrize("name", reference.CURVES)
def test_every_curve_reads_and_is_a_whole_sweep(name):
    run = reference.load(name)

    assert [row.ctx_tokens for row in run.rows] == list(range(2048, 65536 + 1, 2048))
    assert {row.prefill_tokens for row in run.rows} == {2048}
    assert {row.gen_tokens for row in run.rows} == {128}
    assert all(row.ok and row.prefill_tps and row.gen_tps for row in run.rows)


@pytest.mark.parametrize("name", reference.CURVES)
def test_cache_bytes_obey_the_published_snapshot_formula(name):
    # Flash: an intercept and 13 764 bytes per token, to the byte, on every machine.
    known = [row for row in reference.load(name).rows if row.kv_bytes is not None]

    assert len(known) >= 31
    assert all(row.kv_bytes == 23_995_788 + 13_764 * row.ctx_tokens for row in known)


@pytest.mark.parametrize(
    ("name", "ctx", "prefill", "decode"),
    [
        ("gb10", 16384, 374.64, 13.95),
        ("gb10", 65536, 277.01, 12.14),
        ("gb10_mtp", 6144, 383.68, 19.32),
        ("gb10_2026_08", 65536, 833.44, 15.27),
        ("m2_ultra", 32768, 325.77, 21.92),
        ("m3_ultra", 2048, 640.09, 44.28),
        ("m4_max", 65536, 204.96, 22.92),
        ("m5_max", 2048, 371.78, 31.46),
    ],
)
def test_figures_noted_elsewhere(name, ctx, prefill, decode):
    [row] = [row for row in reference.load(name).rows if row.ctx_tokens == ctx]

    assert (row.prefill_tps, row.gen_tps) == pytest.approx((prefill, decode), rel=1e-12)


def test_every_file_has_a_source_and_an_entry():
    files = {path.stem for path in reference.folder().glob("*.csv")}
    text = (reference.folder() / "SOURCES.md").read_text(encoding="utf-8")

    assert files == set(reference.CURVES)
    assert all(f"`{name}.csv`" in text for name in files)


def test_names_are_checked_and_kept_in_order():
    assert list(reference.parse_names("m4_max, gb10,gb10,")) == ["m4_max", "gb10"]
    assert list(reference.parse_names(None)) == []
    with pytest.raises(OptionError, match=r"expected gb10, .*found 'gb11'"):
        reference.parse_names("gb10,gb11")
    with pytest.raises(OptionError, match=r"found '\.\./x'"):
        reference.load("../x")
