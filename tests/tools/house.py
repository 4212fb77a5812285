"""Measures the shape of the source tree: sizes, imports, annotations, options, named tests.

`python -m tests.tools.house` prints the figures; tests/test_house.py holds the limits. This module
reads source text and asks grimp for the imports; it imports none of the code that it measures,
except the command lines, whose options only click knows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click
import grimp

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("engine", "ds4bench", "ds4eval")
# Numba kernels and the code that generates them: one kernel is one function, and its parameters
# are what the launch passes. Their limits are registers and instructions (tests/cuda).
KERNELS = ("engine/ops/cpu/", "engine/ops/cuda/", "engine/training/fused")
# Of which tests a program's options may be proved in.
PROGRAMS = {
    "ds4": ("engine.cli.main", "cli", ("tests/engine", "tests/cuda", "tests/oracle")),
    "ds4-bench": ("ds4bench.cli", "main", ("tests/ds4bench", "tests/cuda")),
    "ds4-eval": ("ds4eval.cli", "cli", ("tests/ds4eval",)),
}
_FunctionNode = (ast.FunctionDef, ast.AsyncFunctionDef)
_CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns",
           "default_timer"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Function:
    """One function: where it stands, its length from `def` to its end, its parameters.

    `lines` leaves the docstring out, since a full docstring is no reason to split a function.
    """

    place: str
    lines: int
    parameters: int
    annotated: bool
    command: bool  # a click command: its parameters are the command line's options


@cache
def files(*folders: str) -> tuple[Path, ...]:
    """Python files under folders of the repository, as paths relative to its root."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(sorted(path.relative_to(ROOT) for path in found))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def lines_of(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def folder_sizes(*folders: str) -> dict[str, int]:
    """Modules per folder, packages' `__init__` not counted."""
    sizes: dict[str, int] = {}
    for path in files(*folders):
        if path.name != "__init__.py":
            sizes[str(path.parent)] = sizes.get(str(path.parent), 0) + 1
    return sizes


def functions(*folders: str) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    for path in files(*folders):
        for node in ast.walk(tree(path)):
            if isinstance(node, _FunctionNode):
                yield _function(path, node)


def _function(path: Path, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    given = node.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    own = [arg for arg in named if arg.arg not in ("self", "cls")]
    loose = [arg for arg in (given.vararg, given.kwarg) if arg]
    annotated = all(arg.annotation for arg in (*own, *loose)) and bool(
        node.returns or node.name == "__init__"
    )
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    if ast.get_docstring(node, clean=False) is not None:
        text = node.body[0]
        assert text.end_lineno is not None
        lines -= text.end_lineno - text.lineno + 1
    command = any("command" in ast.unparse(mark).split("(")[0] for mark in node.decorator_list)
    return Function(f"{path}:{node.name}", lines, len(own) + len(loose), annotated, command)


def is_kernel(place: str) -> bool:
    return place.startswith(KERNELS)


def annotated_share(folder: str) -> tuple[int, int]:
    """How many functions of a folder are annotated in full, and how many there are."""
    found = [f.annotated for f in functions(folder)]
    return sum(found), len(found)


def imports() -> dict[str, set[str]]:
    """Which module imports which, inside functions and for types only included."""
    graph = grimp.build_graph(
        *PRODUCT, include_external_packages=False, exclude_type_checking_imports=False,
        cache_dir=None,
    )  # fmt: skip
    return {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, in a circle of any length."""
    reached = {name: _reachable(edges, name) for name in edges}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in edges
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reachable(edges: Mapping[str, set[str]], start: str) -> set[str]:
    """Modules that a chain of one import or more leads to."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = edges.get(waiting.pop(), set()) - seen
        seen |= fresh
        waiting += fresh
    return seen


def options(program: str) -> Iterator[tuple[str, click.Option]]:
    """Every option of a program with its command's name; `--help` and `--version` are click's."""
    import importlib

    module, name, _ = PROGRAMS[program]
    group = getattr(importlib.import_module(module), name)
    context = click.Context(group)
    commands = {"": group}
    commands |= {name: group.get_command(context, name) for name in group.list_commands(context)}
    for name, command in commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("help", "version"):
                yield f"{program} {name}".strip(), option


def names_of_command(command: str) -> set[str]:
    """How tests name a command: as a word of a command line, or by its function.

    The default command of a program needs no name; '' stands in every file.
    """
    name = command.split()[-1]
    if name in (*PROGRAMS, "run", "sweep"):
        return {""}
    return {name, f"{name.replace('-', '_')}_command"}


@cache
def words_of_invocations(path: Path) -> set[str]:
    """Words of string constants and names in a test file, but not in tests of refusals.

    A test that only sees an option refused does not see its effect.
    """
    words = {""}
    for node in tree(path).body:
        if isinstance(node, _FunctionNode) and _REFUSES.search(node.name):
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                words |= {word.split("=")[0] for word in part.value.split()}
            elif isinstance(part, ast.Name) and part.id.endswith("_command"):
                words.add(part.id)
            elif isinstance(part, ast.Attribute) and part.attr.endswith("_command"):
                words.add(part.attr)
    return words


_REFUSES = re.compile(r"^test_.*(bad_|refuse|are_an_error|exit_with_2|is_an_error)")


@cache
def tests_by_file() -> dict[str, set[str]]:
    """Names of test functions per test file."""
    return {
        str(path): {
            node.name
            for node in ast.walk(tree(path))
            if isinstance(node, _FunctionNode) and node.name.startswith("test_")
        }
        for path in files("tests")
        if path.name.startswith("test_")
    }


def elapsed_times(*folders: str) -> Iterator[str]:
    """Places that subtract a reading of a wall clock: how a test measures seconds."""
    for path in files(*folders):
        for node in ast.walk(tree(path)):
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
                continue
            if any(_reads_clock(side) for side in (node.left, node.right)):
                yield f"{path}:{node.lineno}"


def _reads_clock(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).rpartition(".")
    return name[2] in _CLOCKS and name[0] in ("", "time", "timeit")


def main() -> None:
    """Print the figures."""
    paths = files(*PRODUCT)
    print(f"files: {len(paths)}, lines: {sum(map(lines_of, paths))}")
    longest = max(paths, key=lines_of)
    print(f"longest file: {longest}, {lines_of(longest)} lines")
    sizes = folder_sizes(*PRODUCT)
    folder = max(sizes, key=lambda name: sizes[name])
    print(f"largest folder: {folder}, {sizes[folder]} modules")
    outside = [f for f in functions(*PRODUCT) if not is_kernel(f.place)]
    long = max(outside, key=lambda f: f.lines)
    print(f"longest function outside kernels: {long.place}, {long.lines} lines")
    wide = max((f for f in outside if not f.command), key=lambda f: f.parameters)
    print(f"most parameters outside kernels: {wide.place}, {wide.parameters}")
    found = circles(imports())
    print(f"import circles: {len(found)} of {sum(map(len, found))} modules")
    for name in (*PRODUCT, "engine/ops/reference", "engine/ops/cpu", "engine/ops/cuda"):
        done, total = annotated_share(name)
        print(f"annotated in full, {name}: {done} of {total} functions, {100 * done / total:.1f} %")


if __name__ == "__main__":
    main()
