"""What the kernel set asks of numba-cuda's inside: which modules do, and what would break.

numba-cuda is maintained but no longer developed. Its private names are used in a few modules only;
a version without one of them fails here with that name, and not somewhere in a compilation.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
# Documented parts that any front end of kernels in Python would have.
PUBLIC = {"numba.cuda", "numba.cuda.types", "numba.cuda.extending", "numba.cuda.typing"}
# Who knows more: the front end without a device, the back end, and the launcher of --launch numba.
INSIDERS = {
    "engine/ops/cuda/build/offline.py",
    "engine/ops/cuda/build/compile.py",
    "engine/ops/cuda/device/driver.py",
}
NEEDED = [
    ("numba.cuda.compiler", "_compile_pyfunc_with_fixup"),
    ("numba.cuda.dispatcher", "get_current_device"),
    ("numba.cuda.codegen", "devices"),
    ("numba.cuda.cudadrv.nvvm", "compile_ir"),
    ("numba.cuda.extending", "intrinsic"),
    ("numba.cuda.types", "CPointer"),
]


def imported(path: Path) -> set[str]:
    """Modules of numba-cuda that a file imports, wherever it does."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name == "numba.cuda" or name.startswith("numba.cuda.")}


def test_few_modules_know_the_inside():
    files = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "tests" / "cuda").rglob("*.py")]
    knowing = {path.relative_to(ROOT).as_posix() for path in files if imported(path) - PUBLIC} - {
        "tests/cuda/test_compile.py"
    }
    assert knowing == INSIDERS


@pytest.mark.parametrize(("module", "name"), NEEDED)
def test_what_would_break(module, name):
    assert hasattr(importlib.import_module(module), name), f"{module}.{name} is gone"


def test_the_front_end_gives_text_and_an_entry():
    from engine.ops.cuda.build.compile import registry
    from engine.ops.cuda.build.offline import device_ir

    ir = device_ir(registry()["ring_rows"])
    assert any(f'@"{ir.entry}"(' in text and text.count("define") for text in ir.texts)
