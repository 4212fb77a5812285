"""`over`: a compiled function of arrays, run on the team for parts of its rows.

It takes the place of a parallel loop. The function's last two arguments are the first row and the
row after the last; arguments before them are kept on the caller's stack while the region is open.
An exception of the function in any thread ends the region's remaining tasks as usual and is then
raised by the caller.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.callconv import Status
from numba.extending import intrinsic

from engine.ops.cpu.runtime.tasks import COST, FIELDS, FN, JOB_BYTES, UNITS, N
from engine.ops.cpu.runtime.team import run

_I32, _I64 = ir.IntType(32), ir.IntType(64)
# Fields of such a job: address of the arguments; then of the first exception: 1 once there is one,
# its code, and its description.
ARGUMENTS, RAISED, CODE, INFO = range(FIELDS, FIELDS + 32, 8)


def _field(builder, job, offset, of=_I64):
    """Pointer to a field of the job at an address."""
    return builder.inttoptr(builder.add(job, _I64(offset)), of.as_pointer())


def _compiled(context, function, signature):
    """The machine code's description of a dispatcher's overload, linked to what is compiled now."""
    result = function.dispatcher.overloads[signature.args]
    context.add_linking_libs([result.library])
    return result.fndesc


def _leaf(context, builder, function, signature, arguments):
    """A C function of (job, first, last) in the caller's module that unpacks and calls."""
    module = builder.module
    kind = ir.FunctionType(ir.VoidType(), [_I64] * 3)
    leaf = ir.Function(module, kind, module.get_unique_name(f"{builder.function.name}.rows"))
    leaf.linkage = "internal"
    inner = ir.IRBuilder(leaf.append_basic_block("entry"))
    job, first, last = leaf.args
    where = inner.inttoptr(inner.load(_field(inner, job, ARGUMENTS)), arguments.as_pointer())
    values = [inner.extract_value(inner.load(where), i) for i in range(len(arguments.elements))]
    callee = context.declare_function(module, _compiled(context, function, signature))
    status, _ = context.call_conv.call_function(
        inner, callee, signature.return_type, signature.args, [*values, first, last]
    )
    with inner.if_then(status.is_error, likely=False):
        flag = _field(inner, job, RAISED)
        swapped = inner.cmpxchg(flag, _I64(0), _I64(1), "seq_cst", "seq_cst")
        with inner.if_then(inner.extract_value(swapped, 1)):
            inner.store(status.code, _field(inner, job, CODE, status.code.type))
            inner.store(status.excinfoptr, _field(inner, job, INFO, status.excinfoptr.type))
    inner.ret_void()
    return leaf


def _borrowed(builder, arguments, values):
    """The arguments with arrays that nobody counts references to.

    Threads that count the same array's references write one cache line in turns, for every row: a
    norm takes three times as long. The caller holds the arrays while the region is open.
    """
    for i, kind in enumerate(arguments.types):
        if isinstance(kind, types.Array):
            array = builder.extract_value(values, i)
            for field in (0, 1):  # meminfo and parent
                nobody = cgutils.get_null_value(array.type.elements[field])
                array = builder.insert_value(array, nobody, field)
            values = builder.insert_value(values, array, i)
    return values


def _raise(context, builder, job):
    """Raise in the caller what a leaf has noted, if anything."""
    raised = builder.icmp_unsigned("!=", builder.load(_field(builder, job, RAISED)), _I64(0))
    with builder.if_then(raised, likely=False):
        conv = context.call_conv
        info = conv._get_excinfo_argument(builder.function).type.pointee
        yes, no = ir.Constant(ir.IntType(1), 1), ir.Constant(ir.IntType(1), 0)
        status = Status(
            code=builder.load(_field(builder, job, CODE, _I32)),
            is_ok=no,
            is_none=no,
            is_error=yes,
            is_stop_iteration=no,
            is_python_exc=no,
            is_user_exc=yes,
            excinfoptr=builder.load(_field(builder, job, INFO, info)),
        )
        conv.return_status_propagate(builder, status)


@intrinsic
def over(typingctx, team, n, cost, function, arguments):
    """Run ``function(*arguments, first, last)`` for parts of rows 0 .. n - 1 on the team.

    Parameters
    ----------
    team : int64
        Its address (`team.team`).
    n : int64
        Rows.
    cost : int64
        Multiply-adds of a row, roughly: little work is not shared.
    function : kernel
        Writes only what belongs to its rows.
    arguments : tuple
    """
    call = function.get_call_type(typingctx, (*arguments.types, types.int64, types.int64), {})
    runs = types.Dispatcher(run).get_call_type(typingctx, (types.int64,) * 3, {})
    signature = types.void(types.int64, types.int64, types.int64, function, arguments)

    def codegen(context, builder, signature, args):
        team, n, cost, _, values = args
        values = _borrowed(builder, arguments, values)
        held = cgutils.alloca_once(builder, values.type)
        builder.store(values, held)
        with builder.goto_entry_block():
            record = builder.alloca(ir.ArrayType(ir.IntType(8), JOB_BYTES))
            record.align = 64
        job = builder.ptrtoint(record, _I64)
        leaf = _leaf(context, builder, function, call, values.type)
        for offset, value in (
            (FN, builder.ptrtoint(leaf, _I64)),
            (N, _I64(1)),
            (UNITS, n),
            (COST, cost),
            (ARGUMENTS, builder.ptrtoint(held, _I64)),
            (RAISED, _I64(0)),
        ):
            builder.store(value, _field(builder, job, offset))
        described = _compiled(context, types.Dispatcher(run), runs)
        context.call_internal(builder, described, runs, [job, _I64(1), team])
        _raise(context, builder, job)
        return context.get_dummy_value()

    return signature, codegen
