"""The kernel benchmark: what it measures, and that its tables hold a row for each."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ops.cpu import bench
from engine.quant.formats import BY_NAME, KERNELS


def test_tables_have_a_row_per_format_shape_and_kind_of_pages(capsys):
    formats, shapes = "F16 Q8_0 IQ3_S", "24x256 48x512"
    bench.main(
        f"--formats {formats} --shapes {shapes} --threads 1 2 --cold 1 --turns 1 --prefill 2 "
        "--no-experts --activations int8".split()
    )
    printed = capsys.readouterr()
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in printed.out.splitlines()
        if line.startswith("| ") and not line.startswith(("| pages", "| format"))
    ]
    bandwidth = {(row[0], row[1]) for row in cells if len(row) == 5}
    products = {(row[0], row[1]) for row in cells if len(row) == 10}
    prefill = {row[0] for row in cells if len(row) == 3}

    assert {n for _, n in bandwidth} == {"1", "2"}
    assert {kind for kind, _ in bandwidth} <= set(bench.PAGES) and ("file", "1") in bandwidth
    # Narrow float matrices only: no model quantises its hyper-connections.
    assert products == {("F16", "24x256"), *((n, "48x512") for n in ("F16", "Q8_0", "IQ3_S"))}
    assert prefill == {"F16", "Q8_0", "IQ3_S"}
    assert "Q8_0 48x512" in printed.err


def test_matrices_of_a_cold_product_exceed_what_is_asked():
    rng = np.random.default_rng(0)
    row = bench.cold("Q4_K", (32, 256), [1], cold_bytes=1 << 16, turns=1,
                     activations="int8", rng=rng)  # fmt: skip

    assert set(row.seconds) == {(False, 1), (True, 1)}
    assert row.n_bytes == {False: 32 * 144, True: 2 * 36 * 64}
    one = bench.random_tensor("Q4_K", (32, 256), rng)
    made = bench.copies(one, 15)
    assert sum(t.n_bytes for t in made) >= 1 << 16
    assert len({t.data.ctypes.data for t in made}) == 15


@pytest.mark.parametrize("name", KERNELS["cpu"])
def test_random_matrices_are_finite_and_of_ordinary_size(name):
    from engine.quant.registry import dequantize

    t = bench.random_tensor(name, (64, 256), np.random.default_rng(1))
    values = dequantize(t.data, BY_NAME[name], t.shape)

    if name not in ("F16", "BF16", "F32"):  # whose bits are the values
        assert np.isfinite(values).all() and 1e-3 < values.std() < 1e3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shapes", "12by3"], "expected ROWSxCOLS, found '12by3'"),
        (["--cold", "0"], "--cold: expected 1 or more, found 0"),
        (["--turns", "0"], "--turns: expected 1 or more, found 0"),
        (["--threads", "0"], "--threads: expected 1 or more, found 0"),
        (["--formats", "Q9_9"], "Q9_9"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(capsys, arguments, words):
    with pytest.raises(SystemExit) as caught:
        bench.main(arguments)

    assert caught.value.code == 2
    assert words in capsys.readouterr().err
