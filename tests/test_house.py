"""Rules of the source tree that AGENTS.md states, held by measurement.

Each table of exceptions names a place and what stands there today. A place that has become better
than its entry fails as well, so that the tables can only shrink. `python -m tests.tools.house`
prints the figures themselves.
"""

from __future__ import annotations

import json
import re

import pytest
import yaml

from tests.tools import house

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings the package of the same contents
    import tomli as tomllib

MOST_LINES = 400
MOST_MODULES = 16
MOST_FUNCTION_LINES = 75
MOST_PARAMETERS = 10

LONG_FILES = {
    "tests/ds4bench/test_ab.py": 469,
}
# Tests of one program lie side by side; a run names its folder.
LARGE_FOLDERS = {"tests/cuda": 33, "tests/ds4bench": 34, "tests/ds4eval": 35}
LONG_FUNCTIONS = {"engine/tooling/options/kernels.py:kernel_options": 87}
WIDE_FUNCTIONS = {
    "ds4bench/sweep/cells.py:__init__": 11,
    # What a caller may choose of one reply, all of it optional but the session.
    "engine/generation.py:generate": 11,
    # Ops of the kernel seam: each argument is one of the formula's operands.
    "engine/ops/base.py:attend_turned": 12,
    "engine/ops/composed.py:attend_turned": 12,
}
CIRCLES: list[list[str]] = []


def exceeding(found: dict[str, int], most: int) -> dict[str, int]:
    return {name: n for name, n in found.items() if n > most}


def test_files_are_short():
    found = {str(path): house.lines_of(path) for path in house.files(*house.PRODUCT, "tests")}
    assert exceeding(found, MOST_LINES) == LONG_FILES


def test_folders_hold_few_modules():
    found = house.folder_sizes(*house.PRODUCT, "tests")
    assert exceeding(found, MOST_MODULES) == LARGE_FOLDERS


def test_functions_outside_kernels_are_short():
    found = {f.place: f.lines for f in house.functions(*house.PRODUCT)
             if not house.is_kernel(f.place)}  # fmt: skip
    assert exceeding(found, MOST_FUNCTION_LINES) == LONG_FUNCTIONS


def test_functions_outside_kernels_take_few_parameters():
    """A command's parameters are its options, which other rules are about."""
    found = {f.place: f.parameters for f in house.functions(*house.PRODUCT)
             if not house.is_kernel(f.place) and not f.command}  # fmt: skip
    assert exceeding(found, MOST_PARAMETERS) == WIDE_FUNCTIONS


def test_no_import_closes_a_circle():
    """Neither one inside a function nor one for types only: both hide what depends on what."""
    assert house.circles(house.imports()) == CIRCLES


def test_circles_are_found():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}, "f": set()}
    assert house.circles(edges) == [["a", "b", "c"], ["e"]]


def drawn_layers() -> list[list[str]]:
    """Layers of AGENTS.md from the top, names sorted within one; a line is 'name, name  words'."""
    text = (house.ROOT / "AGENTS.md").read_text(encoding="utf-8")
    section = text.split("## Layers")[1].split("\n## ")[0]
    return [
        sorted(re.split(r" \| |, ", re.split(r"  +", line.strip())[0]))
        for line in section.splitlines()
        if line.startswith("    ")
    ]


def held_layers() -> list[list[str]]:
    """The same from the contracts that `lint-imports` holds."""
    text = (house.ROOT / "importlinter.toml").read_text(encoding="utf-8")
    programs, engine = tomllib.loads(text)["tool"]["importlinter"]["contracts"][:2]
    assert engine["containers"] == ["engine"]
    assert programs["layers"][-1] == "engine"
    layers = [sorted(layer.split(" | ")) for layer in programs["layers"][:-1]]
    for layer in engine["layers"]:
        layers.append(sorted(f"engine.{name}" for name in re.split(r" [|:] ", layer)))
    return layers


def test_layers_are_drawn_as_they_are_held():
    assert drawn_layers() == held_layers()


@pytest.mark.parametrize("program", ["ds4bench", "ds4eval"])
def test_every_test_that_a_list_of_faults_names_exists(program):
    text = (house.ROOT / "tests" / program / "FAULTS.md").read_text(encoding="utf-8")
    names = set.union(*house.tests_by_file().values())
    named = re.findall(r"(?<![\w/])(test_\w+)(\.\.\.|\*)?(?!\w|\.py)", text)
    assert len(named) > 40
    missing = [
        name + more
        for name, more in named
        if not (any(one.startswith(name) for one in names) if more else name in names)
    ]
    assert missing == []


def test_every_case_that_a_list_of_faults_names_exists():
    """`file::test_name[case, case]`: the file has the test, and spells each case."""
    text = (house.ROOT / "tests/ds4eval/FAULTS.md").read_text(encoding="utf-8")
    by_stem = {path.rpartition("/")[2][5:-3]: path for path in house.tests_by_file()}
    by_stem |= {path.rpartition("/")[2][5:-3]: path for path in house.tests_by_file()
                if path.startswith("tests/ds4eval/")}  # fmt: skip
    named = re.findall(r"(\w+)::(test_\w+)(?:\[([^\]]*)\])?", text)
    assert len(named) > 100
    for stem, name, cases in named:
        path = by_stem[stem]
        assert name in house.tests_by_file()[path], f"{stem}::{name}"
        spelled = (house.ROOT / path).read_text(encoding="utf-8")
        for case in filter(None, cases.split(", ")):
            assert case in spelled, f"{stem}::{name}[{case}]"
    rows = (house.ROOT / "ds4eval/data/golden.jsonl").read_text(encoding="utf-8").splitlines()
    # Names may hold commas, so the longest are taken out first.
    golden = sorted((json.loads(row)["name"] for row in rows if row), key=len, reverse=True)
    for cases in re.findall(r"golden \[([^\]]*)\]", text):
        left = cases
        for name in golden:
            left = re.sub(rf"(^|, ){re.escape(name)}(?=,|$)", "", left)
        assert left == "", f"golden [{cases}]"


@pytest.mark.parametrize("program", ["ds4bench", "ds4eval"])
def test_every_file_that_a_list_of_faults_names_exists(program):
    text = (house.ROOT / "tests" / program / "FAULTS.md").read_text(encoding="utf-8")
    for path in re.findall(r"`([\w/]+\.py)`", text):
        places = [house.ROOT / "tests" / path, house.ROOT / "tests/engine/text" / path]
        places.append(house.ROOT / "tests/engine/tooling" / path)
        assert any(place.exists() for place in places), path


def test_no_test_measures_seconds():
    """A busy machine is slower; what a test may count instead, tests/counting.py says."""
    # The tool that runs mutants needs a pace: a mutant that hangs is one that was found.
    found = [at for at in house.elapsed_times("tests") if not at.startswith("tests/tools/")]
    assert found == []


def test_elapsed_time_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "test_x.py").write_text(
        "import time\nassert time.monotonic() - start < 5\ntook = perf_counter() - start\n"
        "deadline = time.monotonic() + 5\nleft = row.time() - 2\n"
    )
    monkeypatch.setattr(house, "ROOT", tmp_path)
    house.files.cache_clear()
    found = list(house.elapsed_times("."))
    house.files.cache_clear()
    assert sorted(found) == ["test_x.py:2", "test_x.py:3"]


WORKFLOWS = sorted((house.ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_locked_down(path):
    """Nothing is granted to all jobs, and every action is one commit, its release beside it."""
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert "permissions" in job and job["timeout-minutes"] <= 360, name
        assert set(job["permissions"].values()) <= {"read"} or set(job["permissions"]) == {
            "pull-requests"
        }, name
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for one in uses:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one), one
    for step in (s for job in workflow["jobs"].values() for s in job["steps"]):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False
        # Text of a pull request must reach a script through the environment only.
        assert "${{" not in step.get("run", "")


def test_pull_requests_run_on_every_python_that_is_promised():
    project = tomllib.loads((house.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    promised = [f"3.{n}" for n in range(int(low), int(high))]
    workflow = yaml.safe_load((house.ROOT / ".github/workflows/tests.yml").read_text("utf-8"))
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == promised
    makefile = (house.ROOT / "Makefile").read_text(encoding="utf-8")
    for version in promised:
        assert f"python{version}" in makefile


# Options without a test that sees their effect. A test that sees one refused does not count.
UNSEEN: set[str] = set()


def test_every_option_has_a_test_that_sees_its_effect():
    """By spelling: a file of tests that names the command uses the option, not to be refused.

    A word in an invocation is no proof that the test would fail without the option;
    `python -m tests.tools.mutants` is, for those that it draws.
    """
    unseen = set()
    for program, (_, _, folders) in house.PROGRAMS.items():
        files = [house.words_of_invocations(path) for path in house.files(*folders)]
        for command, option in house.options(program):
            names = house.names_of_command(command)
            spelled = {*option.opts, *option.secondary_opts}
            if not any(words & spelled and words & names for words in files):
                unseen.add(f"{command} {max(option.opts, key=len)}")
    assert unseen == UNSEEN
