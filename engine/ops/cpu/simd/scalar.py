"""The shared per-element rules of `engine.ops.scalar`, compiled to be inlined into kernels."""

from __future__ import annotations

import types

from engine.ops import scalar as _rules
from engine.ops.cpu.runtime.jit import inline_kernel
from engine.ops.cpu.simd.vec import bits_of, float_of

# Rules call each other by name; in this namespace the names are the compiled ones.
_namespace = dict(vars(_rules), bits_of=bits_of, float_of=float_of)
for _name in _rules.RULES:
    _namespace[_name] = inline_kernel(
        types.FunctionType(getattr(_rules, _name).__code__, _namespace, _name)
    )

exp = _namespace["exp"]
log = _namespace["log"]
sigmoid = _namespace["sigmoid"]
softplus = _namespace["softplus"]
round_f16 = _namespace["round_f16"]
ceil_pow2 = _namespace["ceil_pow2"]
round_e4m3 = _namespace["round_e4m3"]
round_e2m1 = _namespace["round_e2m1"]
