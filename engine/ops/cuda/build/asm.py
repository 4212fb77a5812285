"""Inline PTX as functions of kernels: one template, fixed register types, no conversion inside.

`asm_op` is the only way to PTX; `ptx` holds every op made with it. `TEMPLATES` maps each template
and its constraints back to the op, which is how the native simulation finds an op's stand-in.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic
from numba.cuda.typing import signature

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()

# numba type -> LLVM type and the letter of its register class
REGISTERS: dict[Any, tuple[ir.Type, str]] = {
    types.int16: (_I16, "h"),
    types.uint16: (_I16, "h"),
    types.int32: (_I32, "r"),
    types.uint32: (_I32, "r"),
    types.int64: (_I64, "l"),
    types.uint64: (_I64, "l"),
    types.float32: (_F32, "f"),
}

TEMPLATES: dict[tuple[str, str], str] = {}


def asm_op(
    name: str,
    template: str,
    results: tuple[Any, ...],
    args: tuple[Any, ...],
    *,
    memory: bool = False,
) -> Any:
    """Function of kernels that is one PTX template.

    Parameters
    ----------
    name : str
        Unique; `natsim.ops` defines the stand-in under it.
    template : str
        PTX; ``$0``... are the results, then the arguments.
    results, args : tuple of numba types
        Arguments are converted to these types by numba's usual rules. One result is returned as
        it is, several as a tuple.
    memory : bool
        The op writes memory, or reads memory that this kernel may write: it keeps its place among
        other memory operations. A load without is pure: compilers may move it, merge it with an
        equal one, or drop it. That is right where no thread of the launch writes what it reads,
        and where the launch waits for its predecessors before anything else (see
        `compile._awaiting`). The simulator refuses pure loads of allocations that a kernel
        declares as written, and the check of machine code any load before that wait.

    Notes
    -----
    Every op with ``.sync`` in its template is convergent: the compiler may not move it into
    divergent code.
    """
    letters = ["=" + REGISTERS[t][1] for t in results] + [REGISTERS[t][1] for t in args]
    constraints = ",".join(letters + (["~{memory}"] if memory else []))
    if (template, constraints) in TEMPLATES or name in TEMPLATES.values():
        raise ValueError(f"asm_op: expected a new op, found {name} again")
    TEMPLATES[template, constraints] = name
    llvm_results = [REGISTERS[t][0] for t in results]
    returned: ir.Type = ir.VoidType()
    result: Any = types.void
    if len(results) == 1:
        returned, result = llvm_results[0], results[0]
    elif results:
        returned, result = ir.LiteralStructType(llvm_results), types.Tuple(results)
    function_type = ir.FunctionType(returned, [REGISTERS[t][0] for t in args])
    typed = signature(result, *args)

    def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
        assembly = ir.InlineAsm(function_type, template, constraints, side_effect=memory)
        attributes = ("convergent",) if ".sync" in template else ()
        value = builder.call(assembly, values, attrs=attributes)
        if len(results) > 1:
            parts = [builder.extract_value(value, i) for i in range(len(results))]
            return context.make_tuple(builder, result, parts)
        return value if results else context.get_dummy_value()

    # numba takes an intrinsic's arity from its signature, so one of that arity is made.
    names = ", ".join(f"a{i}" for i in range(len(args)))
    scope: dict[str, Any] = {"typed": typed, "codegen": codegen}
    exec(f"def {name}(typing_context, {names}):\n    return typed, codegen", scope)
    return intrinsic(scope[name])


def bitcast_op(source: Any, target: Any) -> Any:
    """Function of kernels that reads the bits of one 32-bit type as another's."""

    def bitcast(typing_context: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
            return builder.bitcast(values[0], REGISTERS[target][0])

        return target(source), codegen

    return intrinsic(bitcast)


@intrinsic
def address(typing_context: Any, pointer: Any) -> Any:
    """64-bit address (int64) that a kernel's CPointer argument holds."""
    if not isinstance(pointer, types.CPointer):
        return None

    def codegen(context: Any, builder: Any, _: Any, values: Any) -> Any:
        return builder.ptrtoint(values[0], _I64)

    return types.int64(pointer), codegen


@intrinsic
def shared_address(typing_context: Any, array: Any) -> Any:
    """Address (uint32) of a shared array's first element in the shared window."""
    if not isinstance(array, types.Array):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, values[0]).data
        function_type = ir.FunctionType(_I64, [_I64])
        window = ir.InlineAsm(function_type, SHARED_TEMPLATE, "=l,l")
        return builder.trunc(builder.call(window, [builder.ptrtoint(data, _I64)]), _I32)

    return types.uint32(array), codegen


SHARED_TEMPLATE = "cvta.to.shared.u64 $0, $1;"
TEMPLATES[SHARED_TEMPLATE, "=l,l"] = "shared_window"
