"""Every kernel set answers to `Backend`: names, arguments, and no method without a caller."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import engine
from engine.ops.base import Backend
from engine.ops.composed import ComposedOps
from engine.ops.cpu import CpuOps
from engine.ops.device import Device
from engine.ops.host import HostOps
from engine.ops.reference import ReferenceOps

ROOT = Path(engine.__file__).parent
# What stands on the seam, and the definitions of combined ops in terms of plain ones.
CALLERS = (
    "cache",
    "forward",
    "spec",
    "session.py",
    "engine.py",
    "ops/composed.py",
    "ops/operands.py",
)
# Called from engine/tooling: they serve diagnosis.
DIAGNOSIS = {"time_passes"}


def vocabulary() -> dict[str, list[inspect.Parameter]]:
    """Methods of the protocol and their parameters."""
    found = {}
    for part in (Device, Backend):
        for name, value in vars(part).items():
            if inspect.isfunction(value) and not name.startswith("_"):
                found[name] = parameters(Backend, name)
    return found


def parameters(owner: type, name: str) -> list[inspect.Parameter]:
    """A method's parameters without the object that it is called on."""
    method = inspect.getattr_static(owner, name)
    signature = inspect.signature(getattr(owner, name))
    return list(signature.parameters.values())[not isinstance(method, staticmethod) :]


def shapes(listed: list[inspect.Parameter]) -> list[tuple]:
    return [(p.name, p.kind) for p in listed]


VOCABULARY = vocabulary()


@pytest.mark.parametrize("owner", [ReferenceOps, CpuOps, HostOps, ComposedOps])
@pytest.mark.parametrize("name", sorted(VOCABULARY))
def test_parameters_are_the_protocols(owner, name):
    actual, expected = parameters(owner, name), VOCABULARY[name]

    assert shapes(actual) == shapes(expected)
    for ours, theirs in zip(actual, expected):
        # What may be left out by the protocol may be left out here.
        assert theirs.default is theirs.empty or ours.default == theirs.default


@pytest.mark.parametrize("owner", [ReferenceOps, CpuOps])
def test_sets_define_every_method(owner):
    """None is the protocol's own, whose bodies are documentation."""
    missing = [
        name
        for name in VOCABULARY
        if inspect.getattr_static(owner, name) in (vars(Device).get(name), vars(Backend).get(name))
    ]
    assert missing == []
    owner()


# Names that need no word beyond their annotation.
SAID_BY_THEIR_TYPE = {"dtype", "n_positions", "owner", "ring", "rows", "s", "shape", "table"}


@pytest.mark.parametrize("name", sorted(VOCABULARY))
def test_every_argument_is_documented(name):
    words = set(re.findall(r"\w+", inspect.getdoc(getattr(Backend, name)) or ""))
    arguments = {p.name for p in VOCABULARY[name]}

    assert words, name
    assert arguments - words <= SAID_BY_THEIR_TYPE


def test_every_method_is_called_by_the_engine():
    text = ""
    for place in CALLERS:
        path = ROOT / place
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        text += "".join(f.read_text() for f in files)
    called = set(re.findall(r"(?<=\bops\.)\w+|(?<=\bself\.)\w+", text))

    assert set(VOCABULARY) - called == DIAGNOSIS


@pytest.mark.parametrize(
    "place", ["ops/base.py", "ops/device.py", "ops/operands.py", "forward", "session.py", "spec"]
)
def test_no_any_where_the_seam_is_typed(place):
    path = ROOT / place
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        names = {n.id for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Name)}
        assert "Any" not in names, file
