"""Plants small faults one at a time and runs the nearest tests: what survives, no test sees.

`python -m tests.tools.mutants --sample 40 --seed 1` draws faults over the rooms below. The working
tree is not touched: a copy of it gets the fault. A fault is killed when a test fails, when the
module no longer imports, or when the tests take ten times as long as without it. Nearest are the
tests that import the module, or those that NEAREST names; they are run in one process each time.

It does not know whether a surviving fault changes any behaviour. Those that were found to change
none stand in EQUIVALENT with the reason, and count neither as killed nor as survivors.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import numba
import pandas
import pytest
import scipy.stats

from tests.tools import house

ROOMS = ("ds4bench", "ds4eval/grading", "ds4eval/stats", "engine/spec", "engine/session.py")
# Tests of a room whose modules its tests reach through a program, a worker or a model.
NEAREST = {
    "ds4bench/cli.py": ("tests/ds4bench/test_cli.py", "tests/ds4bench/test_sweep.py"),
    "ds4bench/sweep/": ("tests/ds4bench/test_sweep.py", "tests/ds4bench/test_sweep_faults.py",
                        "tests/ds4bench/test_sweep_resume.py", "tests/ds4bench/test_roofline.py"),
    "ds4bench/worker/": ("tests/ds4bench/test_protocol.py", "tests/ds4bench/test_child.py",
                         "tests/ds4bench/test_worker_model.py"),
    "ds4bench/compare/": ("tests/ds4bench/test_stats.py", "tests/ds4bench/test_compare.py"),
    "ds4bench/report/": ("tests/ds4bench/test_report.py", "tests/ds4bench/test_plot.py"),
    "ds4bench/commands/": ("tests/ds4bench/test_compare.py", "tests/ds4bench/test_report.py"),
    "ds4eval/grading/": ("tests/ds4eval/test_grading.py",),
    "ds4eval/stats/": ("tests/ds4eval/test_stats.py", "tests/ds4eval/test_stats_paired.py"),
    "engine/spec/": ("tests/engine/spec",),
    "engine/session.py": ("tests/engine/test_session.py", "tests/engine/spec"),
}  # fmt: skip
# (file, line of the source without indentation, what stands there instead): why nothing changes.
EQUIVALENT: dict[tuple[str, str, str], str] = {
    ("ds4bench/panel/chart.py", "zorder=3 + number, [3]", "4"):
        "dots lie above lines of order 1 either way, and above each other as before",
}  # fmt: skip

# Loaded before the first fork, so that no run of tests has to load them again.
LOADED = (numba, pandas, pytest, scipy.stats)
_NOT_THESE = "not oracle and not peer and not slow and not cuda and not cudac and not gpu"
_COPIED = ("engine", "ds4bench", "ds4eval", "tests", "speed-bench", "datasets")
_TIMEOUT_FACTOR = 10
_COMPARE = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
            ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn,
            ast.NotIn: ast.In}  # fmt: skip
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult,
               ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult}  # fmt: skip

# Arguments that say something to a reader of help texts and change nothing else.
_WORDS = ("help", "metavar", "show_default", "short_help", "epilog", "title")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted fault: where, what stood there, what stands there now, and the whole file."""

    path: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before}  ->  {self.after}"


def sites(path: str) -> list[tuple[str, int, int]]:
    """Every fault that can be planted in a file: the path, which node, which change of it."""
    tree = ast.parse((house.ROOT / path).read_text(encoding="utf-8"))
    return [
        (path, place, which)
        for place, node in enumerate(_nodes(tree))
        for which in range(len(_changes(node)))
    ]


def plant(path: str, place: int, which: int) -> Mutant:
    """The file with one of its faults."""
    text = (house.ROOT / path).read_text(encoding="utf-8")
    tree = ast.parse(text)
    node = list(_nodes(tree))[place]
    line = getattr(node, "lineno", 1)
    # One line is printed; behind it the node itself, which need not be all of the line.
    before = ast.unparse(node).splitlines()[0]
    _changes(node)[which](node)
    after = ast.unparse(ast.fix_missing_locations(node)).splitlines()[0]
    if not isinstance(node, ast.stmt):
        before = f"{text.splitlines()[line - 1].strip()} [{before}]"
    return Mutant(path, line, before, after, ast.unparse(ast.fix_missing_locations(tree)))


def _nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that run: no annotations, decorators, docstrings, messages of errors."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        skipped: list[ast.AST] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            skipped = [*node.decorator_list]
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                skipped += [node.returns] if node.returns else []
        if isinstance(node, ast.arg | ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.AnnAssign):
            skipped = [node.annotation]
        waiting += reversed([n for n in ast.iter_child_nodes(node) if n not in skipped])


def _changes(node: ast.AST) -> list[Callable[[ast.AST], None]]:
    """What can be done to one node; each entry changes a copy of it in place."""
    found: list[Callable[[ast.AST], None]] = []
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARE:
        found.append(lambda n: n.ops.__setitem__(0, _COMPARE[type(n.ops[0])]()))
    elif isinstance(node, ast.BoolOp):
        found.append(_swap_and_or)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _ARITHMETIC:
        if not isinstance(getattr(node, "left", None), ast.JoinedStr | ast.List | ast.Tuple):
            found.append(lambda n: setattr(n, "op", _ARITHMETIC[type(n.op)]()))
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
        found.append(_other_constant)
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        found.append(lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test)))
    elif isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max"):
            found.append(lambda n: setattr(n.func, "id", {"min": "max"}.get(n.func.id, "min")))
        if any(keyword.arg for keyword in node.keywords) and node.keywords[-1].arg not in _WORDS:
            found.append(lambda n: n.keywords.pop())
    elif isinstance(node, ast.Return | ast.Expr) and not isinstance(
        node.value, ast.Constant | ast.Yield | NoneType
    ):
        found.append(lambda n: setattr(n, "value", ast.Constant(None)))
    return found


def _swap_and_or(node: ast.AST) -> None:
    assert isinstance(node, ast.BoolOp)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()


def _other_constant(node: ast.AST) -> None:
    assert isinstance(node, ast.Constant)
    value = node.value
    node.value = not value if isinstance(value, bool) else value + 1


def nearest_tests(path: str) -> tuple[str, ...]:
    """Test files that import a module or are called by its name, then what NEAREST says."""
    module = path.removesuffix(".py").replace("/", ".")
    parent, _, name = module.rpartition(".")
    importing = [
        str(test)
        for test in house.files("tests")
        if test.name.startswith("test_") and "cuda" not in test.parts
        and (test.stem in (f"test_{name}", f"test_{name}_cmd")
             or any(_imports(node, module, parent, name) for node in ast.walk(house.tree(test))))
    ]  # fmt: skip
    importing.sort(key=lambda test: name not in test)
    named = [tests for prefix, tests in NEAREST.items() if path.startswith(prefix)]
    # A folder is run after the files that are surely about this module.
    chosen = [*importing, *(one for tests in named for one in tests)]
    return tuple(dict.fromkeys(chosen))


def _imports(node: ast.AST, module: str, parent: str, name: str) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == module or (
            node.module == parent and any(alias.name == name for alias in node.names)
        )
    return isinstance(node, ast.Import) and any(alias.name == module for alias in node.names)


class Copy:
    """A copy of the working tree in which faults are planted and tests are run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pace: dict[tuple[str, ...], float] = {}
        leave = shutil.ignore_patterns("__pycache__", "*.pyc")
        for name in _COPIED:
            if (house.ROOT / name).exists():
                shutil.copytree(house.ROOT / name, folder / name, ignore=leave)
        for path in house.ROOT.iterdir():
            if path.is_file():
                shutil.copy2(path, folder / path.name)

    def kills(self, mutant: Mutant, tests: tuple[str, ...]) -> bool:
        """Whether a test fails with this fault in place."""
        limit_s = _TIMEOUT_FACTOR * self._unharmed_s(tests)
        target = self.folder / mutant.path
        original = target.read_bytes()
        try:
            target.write_text(mutant.source, encoding="utf-8")
            return self._run(tests, limit_s) != 0
        finally:
            target.write_bytes(original)

    def _unharmed_s(self, tests: tuple[str, ...]) -> float:
        """Seconds that these tests take without a fault; they must pass."""
        if tests not in self._pace:
            start = time.monotonic()
            status = self._run(tests, None)
            if status != 0:
                raise SystemExit(f"{' '.join(tests)}: expected to pass, found status {status}")
            self._pace[tests] = time.monotonic() - start
        return self._pace[tests]

    def _run(self, tests: tuple[str, ...], limit_s: float | None) -> int:
        """Status of pytest in a fork, which has the libraries loaded already; -1 past the limit."""
        child = os.fork()
        if child == 0:
            os.setsid()
            os._exit(self._run_in_child(tests))
        deadline = float("inf") if limit_s is None else time.monotonic() + limit_s
        try:
            while time.monotonic() < deadline:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    child = 0
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.02)
            return -1
        finally:  # also where a signal ends this program: no run of tests outlives it
            if child:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def _run_in_child(self, tests: tuple[str, ...]) -> int:
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        os.chdir(self.folder)
        os.environ["PYTHONPATH"] = str(self.folder)
        sys.dont_write_bytecode = True
        sys.path[:] = [str(self.folder), *(p for p in sys.path if p not in ("", str(house.ROOT)))]
        for name in list(sys.modules):
            if name.partition(".")[0] in _COPIED:
                del sys.modules[name]
        return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", _NOT_THESE, *tests]))


def draw(rooms: tuple[str, ...], n: int, seed: int) -> list[Mutant]:
    """A sample of all faults of the rooms, each as likely as any other."""
    paths = [str(path) for path in house.files(*(room for room in rooms if "." not in room))]
    paths += [room for room in rooms if room.endswith(".py")]
    every = [site for path in sorted(paths) for site in sites(path)]
    return [plant(*site) for site in random.Random(seed).sample(every, min(n, len(every)))]


def main() -> None:
    """Draw faults, run tests, print survivors and the score."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=40, help="how many faults")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--least", type=float, default=0.0,
                        help="exit with status 1 below this score in per cent")  # fmt: skip
    parser.add_argument("rooms", nargs="*", default=ROOMS, help="files and folders")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    killed, survived, equivalent = 0, [], 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Copy(Path(folder))
        for mutant in draw(tuple(options.rooms), options.sample, options.seed):
            if (mutant.path, mutant.before, mutant.after) in EQUIVALENT:
                equivalent += 1
                continue
            if tree.kills(mutant, nearest_tests(mutant.path)):
                killed += 1
                print(f"killed    {mutant}", flush=True)
            else:
                survived.append(mutant)
                print(f"survived  {mutant}", flush=True)
    score = 100 * killed / max(killed + len(survived), 1)
    print(f"killed {killed} of {killed + len(survived)}: {score:.0f} %; "
          f"equivalent and left out: {equivalent}; seed {options.seed}")  # fmt: skip
    sys.exit(score < options.least)


if __name__ == "__main__":
    main()
