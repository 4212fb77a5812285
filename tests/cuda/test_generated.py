"""Generated product kernels: one of each family as text, and the names that their lines share.

Changing a generator changes these files on purpose: `python -m tests.cuda.test_generated` writes
them anew, and the difference is reviewed like any other source.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import re
from pathlib import Path

import pytest

from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.products import experts_kernels, generate, products
from engine.ops.cuda.products.blocks import BLOCKS, LAYOUTS

GOLDEN = Path(__file__).with_name("golden")
FAMILIES = {
    "few rows": products._FEW["Q4_K", True, 2, False],
    "few long rows": products._FEW["BF16", False, 1, True],
    "many rows": products._MANY["Q8_0", False],
    "few pairs": experts_kernels.FEW["IQ2_XXS", True, True],
    "many pairs": experts_kernels.MANY["Q2_K", True, False],
}


def source(kernel: Kernel) -> str:
    return "".join(linecache.getlines(kernel.function.__code__.co_filename))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_kernel_of_each_family_reads_as_reviewed(family):
    kernel = FAMILIES[family]
    golden = (GOLDEN / f"{kernel.name}.txt").read_text()
    assert source(kernel) == golden, f"{kernel.name}: python -m tests.cuda.test_generated"


def test_every_golden_file_is_compared():
    names = {f"{kernel.name}.txt" for kernel in FAMILIES.values()}
    assert {path.name for path in GOLDEN.iterdir()} == names


def documented() -> dict[str, str]:
    """Names of the table in `generate`, as patterns, and who writes each."""
    assert generate.__doc__ is not None
    rows = re.findall(
        r"^    (\S+) +(?:u?int(?:32|64)?|float32) +\S.* (the kernel|\w+_lines|blocks)$",
        generate.__doc__,
        re.M,
    )
    return {name.replace("{j}", r"\d+").replace("{i}", r"\d"): writer for name, writer in rows}


def known(name: str, names: list[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in names)


def read_before_written(lines: list[str]) -> set[str]:
    """Names that lines take from around them."""
    given = set(generate.names()) | set(vars(builtins))
    written: set[str] = set()
    taken: set[str] = set()
    for statement in ast.parse("\n".join(lines)).body:
        found = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        taken |= {node.id for node in found if isinstance(node.ctx, ast.Load)} - written - given
        written |= {node.id for node in found if isinstance(node.ctx, ast.Store)}
    return taken


ARGUMENTS = {*generate.PRODUCT.names, *generate.JOB.names, *experts_kernels.EXPERTS.names}


@pytest.mark.parametrize(("name", "tiled"), LAYOUTS)
def test_a_block_takes_only_documented_names(name, tiled):
    table = documented()
    assert len(table) == 27
    lines = BLOCKS[name](2, tiled)
    strangers = {n for n in read_before_written(lines) if not known(n, list(table))}
    assert strangers <= ARGUMENTS, strangers
    given_by_rows = [n for n, writer in table.items() if writer == "row_lines"]
    left = read_before_written(generate.row_lines(name, tiled) + lines)
    assert not any(known(n, given_by_rows) for n in left), left


def test_every_documented_name_is_in_use():
    kernels = [*products._FEW.values(), *products._MANY.values()]
    text = "\n".join(source(kernel) for kernel in kernels)
    for pattern in documented():
        assert re.search(rf"\b{pattern}\b", text), pattern


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for kernel in FAMILIES.values():
        (GOLDEN / f"{kernel.name}.txt").write_text(source(kernel))
