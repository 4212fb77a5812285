"""Kernel definitions: a Python function, its explicit signature and its launch limits.

A definition compiles nothing and needs no driver. `compile` turns it into machine code for one
architecture, `natsim` into native code of this processor; a device launches either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import BackendError

try:
    import numba_cuda  # noqa: F401  numba's own `numba.cuda` is an older one
except ImportError:
    raise BackendError(
        "cuda backend: expected the package numba-cuda, found none (pip install 'ds4bench[cuda]')"
    ) from None
from numba import cuda
from numba.cuda import types

from engine.ops.cuda.build.arguments import ArgumentBlock

F32, I32, U32, U64 = types.float32, types.int32, types.uint32, types.uint64
F32P = types.CPointer(types.float32)
I32P = types.CPointer(types.int32)
U32P = types.CPointer(types.uint32)
I16P = types.CPointer(types.int16)
U16P = types.CPointer(types.uint16)  # float16 and bfloat16 are stored as their bits
I8P = types.CPointer(types.int8)
U8P = types.CPointer(types.uint8)
I64P = types.CPointer(types.int64)

REGISTRY: dict[str, Kernel] = {}


@dataclass(frozen=True, eq=False)
class Kernel:
    """One kernel.

    Parameters
    ----------
    name : str
        Unique; the symbol in machine code and in every table.
    function : callable
        Body in numba.cuda's subset of Python.
    args : tuple of numba types
        Of the machine code's parameters: CPointer types for buffers, 32-bit scalars otherwise;
        nothing is ever converted.
    threads : int
        Threads of a block; launches always use exactly this many (in x).
    min_blocks : int
        Blocks that must fit on one multiprocessor; 0 leaves it to the compiler.
    max_registers : int
        Cap per thread; 0 means none.
    dynamic_smem : int
        Bytes of dynamic shared memory that a launch takes; static arrays are not counted.
    requires : tuple of str
        Machine instructions without which the kernel is not what it should be (``IMMA``,
        ``LDG.E.128``...); `check` looks for them. ``A|B`` is satisfied by either.
    parameters : tuple of numba types
        Of the function's parameters: `args`, with those of an argument block as one tuple.
    names : tuple of str
        Of `args`: parameters of the function, fields of its argument blocks.
    writes : tuple of str, or None
        Names of the pointers and addresses among them whose memory the kernel writes; it reads
        the others. None: nobody said, so that all count as written.
    """

    name: str
    function: Callable[..., None]
    args: tuple[Any, ...]
    threads: int
    min_blocks: int = 0
    max_registers: int = 0
    dynamic_smem: int = 0
    file: str = field(default="")
    requires: tuple[str, ...] = ()
    parameters: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()
    writes: tuple[str, ...] | None = None

    @property
    def written(self) -> tuple[bool, ...]:
        """Of every argument, whether it is one whose memory is written."""
        if self.writes is None:
            return (True,) * len(self.args)
        return tuple(name in self.writes for name in self.names)

    def launch_bounds(self) -> tuple[int, ...]:
        """Threads of a block, and the blocks that must fit if that was said."""
        return (self.threads, self.min_blocks) if self.min_blocks else (self.threads,)

    def jit_options(self) -> dict[str, Any]:
        """Options of `numba.cuda.jit` that come nearest to how `compile` makes this kernel."""
        options: dict[str, Any] = {"fastmath": False, "launch_bounds": self.launch_bounds()}
        if self.max_registers:
            options["max_registers"] = self.max_registers
        return options

    def grouped(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Values of `args` as values of `parameters`: those of a block as one tuple."""
        left = iter(values)
        return tuple(
            tuple(next(left) for _ in kind) if isinstance(kind, types.BaseTuple) else next(left)
            for kind in self.parameters
        )


def kernel(
    *args: Any,
    threads: int,
    name: str = "",
    min_blocks: int = 0,
    max_registers: int = 0,
    dynamic_smem: int = 0,
    requires: tuple[str, ...] = (),
    file: str = "",
    writes: tuple[str, ...] | None = None,
) -> Callable[[Callable[..., None]], Kernel]:
    """Decorator: register a kernel under `name`, or its function's name.

    `args` are numba types, tuples of them and argument blocks, one for each parameter of the
    function. `file` is the source file of a generated function: the one that generates it.
    """

    parameters = tuple(kind.type if isinstance(kind, ArgumentBlock) else kind for kind in args)
    flat: list[Any] = []
    for kind in parameters:
        flat += kind if isinstance(kind, types.BaseTuple) else [kind]

    def register(function: Callable[..., None]) -> Kernel:
        names = _names(function, args)
        for written in writes or ():
            kinds = [kind for kind, name in zip(flat, names) if name == written]
            if not any(isinstance(kind, types.CPointer) or kind == U64 for kind in kinds):
                raise ValueError(f"kernel: expected a pointer among {names}, found {written}")
        made = Kernel(
            name or function.__name__,
            function,
            tuple(flat),
            threads,
            min_blocks,
            max_registers,
            dynamic_smem,
            file or function.__code__.co_filename,
            requires,
            parameters,
            names,
            writes,
        )
        if made.name in REGISTRY:
            raise ValueError(f"kernel: expected a new name, found {made.name} again")
        REGISTRY[made.name] = made
        return made

    return register


def _names(function: Callable[..., None], args: Sequence[Any]) -> tuple[str, ...]:
    """Of every argument of the machine code: its parameter's name, or its field's."""
    code = function.__code__
    names: list[str] = []
    for parameter, kind in zip(code.co_varnames[: code.co_argcount], args):
        if isinstance(kind, ArgumentBlock):
            names += kind.names
        else:
            names += [parameter] * (len(kind) if isinstance(kind, types.BaseTuple) else 1)
    return tuple(names)


def device(function: Callable[..., Any]) -> Any:
    """Decorator of helpers that kernels call; inlined into machine code, compiled once by numba."""
    return cuda.jit(device=True, forceinline=True)(function)
