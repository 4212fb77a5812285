"""The counters, the measures of the tree and the planter of faults do what tests rely on."""

from __future__ import annotations

import ast

import pytest

from tests.counting import MOST_GROWTH, CountedBytes, growth, lines_run
from tests.tools import house, mutants

SOURCE = '''"""A module."""
import os


def f(a: int, b=3) -> bool:
    """Words; 5 is no constant of the code."""
    if a < b and a:
        g(a, key=True)
    a += 1
    return max(a, b)
'''


def test_lines_are_counted():
    def loop(n):
        total = 0
        for i in range(n):
            total += i
        return total

    assert lines_run(lambda: loop(100)) - lines_run(lambda: loop(50)) == 100


def test_growth_tells_linear_from_quadratic():
    assert growth(lambda n: sum(range(100 * n)), 10_000) <= MOST_GROWTH
    assert (
        growth(lambda n: [0] * n and [sum(range(n)) for _ in range(n // 10)], 1_500) > MOST_GROWTH
    )


def test_copied_bytes_are_counted():
    data = CountedBytes(b"0123456789")
    assert (data[2:5], data[7], data.copied) == (b"234", ord("7"), 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text(SOURCE)
    monkeypatch.setattr(house, "ROOT", tmp_path)
    return tmp_path


def test_each_fault_changes_the_code_that_runs(folder):
    planted = [mutants.plant(*site) for site in mutants.sites("m.py")]

    bodies = {ast.unparse(ast.parse(SOURCE))} | {one.source for one in planted}
    assert len(bodies) == len(planted) + 1, "no two faults are the same, none is no fault"
    seen = {one.after for one in planted}
    assert {"a <= b", "a < b or a", "g(a)", "a -= 1", "min(a, b)", "return None", "4"} <= seen
    assert not any("6 is no constant" in one.source for one in planted)


def test_one_seed_draws_the_same_faults(folder):
    first, again, other = (mutants.draw(("m.py",), 4, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_fault_that_a_test_sees_is_killed_and_another_survives(tmp_path, monkeypatch):
    root, copy = tmp_path / "root", tmp_path / "copy"
    (root / "tests").mkdir(parents=True)
    copy.mkdir()
    (root / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    (root / "m.py").write_text("def f(a):\n    return a + 1\n\n\ndef g(a):\n    return a + 1\n")
    (root / "tests/test_m.py").write_text("from m import f\ndef test():\n    assert f(1) == 2\n")
    monkeypatch.setattr(house, "ROOT", root)
    tree = mutants.Copy(copy)

    planted = [mutants.plant(*site) for site in mutants.sites("m.py")]
    seen = {(one.line, one.after): tree.kills(one, ("tests/test_m.py",)) for one in planted}

    assert seen[(2, "a - 1")] and not seen[(6, "a - 1")]
    assert (copy / "m.py").read_text() == (root / "m.py").read_text()


def test_functions_are_measured():
    [node] = ast.parse(SOURCE).body[-1:]
    found = house._function("m.py", node)
    assert (found.lines, found.parameters, found.annotated) == (5, 2, False)
