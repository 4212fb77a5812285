"""The shared per-element rules of `engine.ops.scalar` as device functions: the CPU set's bits.

The compiler may fuse a product and a sum that follow each other, so the rules' own source is
compiled with every float32 sum, difference and product turned into a single rounded PTX
instruction. Which operations are float32 follows from the source: its integers come from
`bits_of` or are wrapped in `_I`.
"""

from __future__ import annotations

import ast
import inspect
from typing import Any

import numpy as np

from engine.ops import scalar as _rules
from engine.ops.cuda.build.kernel import device
from engine.ops.cuda.build.ptx import add_rn, bits_f32, f32_bits, mul_rn, sub_rn

_ROUNDED = {ast.Add: "_add", ast.Sub: "_sub", ast.Mult: "_mul"}
_INTEGERS = ("_I", "bits_of")


class _Rounded(ast.NodeTransformer):
    """Turns float32 operators of one rule into calls of `_add`, `_sub` and `_mul`."""

    def __init__(self) -> None:
        self._integers: set[str] = set()

    def _is_integer(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            known = vars(_rules).get(node.id)
            return node.id in self._integers or isinstance(known, np.int32)
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            return node.func.id in _INTEGERS
        if isinstance(node, (ast.BinOp, ast.UnaryOp)):
            return self._is_integer(node.left if isinstance(node, ast.BinOp) else node.operand)
        return False

    def visit_Assign(self, node: ast.Assign) -> Any:
        # Before the value is rewritten: calls of `_add` say nothing about types.
        (target,) = node.targets
        assert isinstance(target, ast.Name)
        if self._is_integer(node.value):
            self._integers.add(target.id)
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        name = _ROUNDED.get(type(node.op))
        integer = self._is_integer(node)
        self.generic_visit(node)
        if name is None or integer:
            return node
        return ast.Call(ast.Name(name, ast.Load()), [node.left, node.right], [])


def _compiled() -> dict[str, Any]:
    namespace = dict(
        vars(_rules), _add=add_rn, _sub=sub_rn, _mul=mul_rn, bits_of=f32_bits, float_of=bits_f32
    )
    for name in _rules.RULES:
        tree = _Rounded().visit(ast.parse(inspect.getsource(getattr(_rules, name))))
        code = compile(ast.fix_missing_locations(tree), f"<cuda rule {name}>", "exec")
        exec(code, namespace)
        namespace[name] = device(namespace[name])
    return namespace


_namespace = _compiled()
exp = _namespace["exp"]
log = _namespace["log"]
sigmoid = _namespace["sigmoid"]
softplus = _namespace["softplus"]
round_f16 = _namespace["round_f16"]
ceil_pow2 = _namespace["ceil_pow2"]
round_e4m3 = _namespace["round_e4m3"]
round_e2m1 = _namespace["round_e2m1"]
