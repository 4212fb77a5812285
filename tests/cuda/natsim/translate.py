"""From a kernel to a module of this processor: the IR that numba-cuda made, with stand-ins.

The text of the IR is what numba-cuda would give to NVVM. Inline PTX and ``llvm.nvvm`` intrinsics
become calls of stand-ins, device math the C library's, shared arrays places in one arena. The
arithmetic of the kernel itself is untouched: no contraction, no fast math.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from engine.ops.cuda.build.asm import TEMPLATES
from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.build.offline import device_ir
from tests.cuda.natsim import copies, warp  # noqa: F401  (define stand-ins)
from tests.cuda.natsim.ops import STAND_INS

RED_ZONE = 64  # bytes around shared arrays that nothing may write

# Defined in every kernel's module, so that they are inlined.
_PRELUDE = """
@sim_cur = external global i64
@sim_turn = external global i64
@sim_slots = external global i64
@sim_block_turn = external global i64
@sim_block_slots = external global i64
@sim_copies = external global i64
@sim_copy_count = external global i64
@sim_copy_group = external global i64
@sim_block = external global i32
@sim_grid = external global i32
@sim_threads = external global i32
@sim_args = external global i64
@sim_code = external global i32
@sim_shared_size = external global i64
@sim_written = external global i64
@sim_n_written = external global i32
@sim_dynamic_size = external global i32
@sim_shared = external global i8
declare void @sim_yield(i32, i32)
define internal void @sim_fault(i32 %code) alwaysinline {
  %bad = icmp ne i32 %code, 0
  br i1 %bad, label %note, label %good
note:
  store i32 %code, ptr @sim_code
  br label %good
good:
  ret void
}
define internal void @sim_pure(i64 %address) noinline {
entry:
  %n = load i32, ptr @sim_n_written
  br label %head
head:
  %i = phi i32 [0, %entry], [%next, %body]
  %more = icmp slt i32 %i, %n
  br i1 %more, label %body, label %done
body:
  %k = shl i32 %i, 1
  %k1 = add i32 %k, 1
  %lp = getelementptr i64, ptr @sim_written, i32 %k
  %hp = getelementptr i64, ptr @sim_written, i32 %k1
  %lo = load i64, ptr %lp
  %hi = load i64, ptr %hp
  %ge = icmp uge i64 %address, %lo
  %lt = icmp ult i64 %address, %hi
  %in = and i1 %ge, %lt
  %code = select i1 %in, i32 6, i32 0
  call void @sim_fault(i32 %code)
  %next = add i32 %i, 1
  br label %head
done:
  ret void
}
define internal ptr @sim_row(i32 %address, i32 %offset) alwaysinline {
  %low = and i32 %address, 15
  %odd = icmp ne i32 %low, 0
  %code0 = select i1 %odd, i32 1, i32 0
  %start = zext i32 %address to i64
  %end = add i64 %start, 16
  %size = load i64, ptr @sim_shared_size
  %in = icmp ule i64 %end, %size
  %code = select i1 %in, i32 %code0, i32 2
  call void @sim_fault(i32 %code)
  %at = select i1 %in, i64 %start, i64 0
  %extra = zext i32 %offset to i64
  %sum = add i64 %at, %extra
  %p = getelementptr i8, ptr @sim_shared, i64 %sum
  ret ptr %p
}
"""

FAULTS = {
    1: "expected an aligned vector access, found an address that is not a multiple of its size",
    2: "expected an address inside shared memory, found one beyond",
    3: "expected the full mask at a warp collective, found a part",
    5: "expected at most 64 asynchronous copies of a thread in flight, found more",
    6: "expected a load without order of memory that the launch only reads, found one of memory "
    "that it writes",
    4: "expected an access inside an allocation, found one outside",
}

# Device math that is exact, or that LLVM has; the rest is the C library's, whose last bit may
# differ from the device's.
_EXACT = {
    "__nv_sqrtf": "llvm.sqrt.f32", "__nv_fabsf": "llvm.fabs.f32", "__nv_floorf": "llvm.floor.f32",
    "__nv_ceilf": "llvm.ceil.f32", "__nv_truncf": "llvm.trunc.f32", "__nv_fmaf": "llvm.fma.f32",
    "__nv_rintf": "llvm.rint.f32", "__nv_nearbyintf": "llvm.rint.f32",
    "__nv_fmaxf": "llvm.maxnum.f32", "__nv_fminf": "llvm.minnum.f32",
    "__nv_copysignf": "llvm.copysign.f32",
    "__nv_sqrt": "llvm.sqrt.f64", "__nv_fabs": "llvm.fabs.f64",
    "__nv_floor": "llvm.floor.f64", "__nv_ceil": "llvm.ceil.f64", "__nv_fma": "llvm.fma.f64",
}  # fmt: skip
_LIBM = (
    "expf", "exp2f", "expm1f", "logf", "log2f", "log10f", "log1pf", "powf", "sinf", "cosf",
    "tanhf", "ldexpf", "roundf", "erff", "fmodf", "exp", "log", "pow", "sin", "cos",
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """Texts of modules and what a launch must know.

    Parameters
    ----------
    texts : tuple of str
        IR with the entry point ``sim_kernel``, which takes its arguments from ``sim_args``; the
        first holds it, the others the kernel's helpers.
    shared : int
        Bytes of the arena that static arrays and red zones take; dynamic memory follows.
    red_zones : tuple of int
        Start and end of each red zone, one after another.
    """

    texts: tuple[str, ...]
    shared: int
    red_zones: tuple[int, ...]


def split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, last = [], 0, ""
    for letter in text:
        depth += (letter in "({[<") - (letter in ")}]>")
        if letter == "," and depth == 0:
            parts.append(last.strip())
            last = ""
        else:
            last += letter
    return [*parts, last.strip()] if last.strip() else parts


@cache
def _math_symbols() -> None:
    """Bind `__nv_` functions to the C library's."""
    library = ctypes.CDLL(ctypes.util.find_library("m") or None)
    for name in _LIBM:
        function = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        llvm.add_symbol(f"__nv_{name}", function)


_ASM = re.compile(
    r'call (?P<type>\S.*?) asm\s+(?:sideeffect )?"(?P<template>[^"]*)", "(?P<letters>[^"]*)"'
    r"\s*\((?P<args>.*?)\)(?: convergent)?\s*$",
    re.M,
)
_DECLARE = re.compile(r'^declare (?P<type>.+?) @"(?P<name>llvm\.nvvm\.[^"]+)"\(.*$', re.M)
_MATH = re.compile(r'^declare (?P<type>.+?) @"(?P<name>__nv_[^"]+)"\((?P<args>.*?)\).*$', re.M)
_STATIC = re.compile(
    r'^@"(?P<name>_cudapy_smem_[^"]+)" = addrspace\(3\) global \[(?P<n>\d+) x (?P<type>\w+)\] undef'
    r", align (?P<align>\d+)$",
    re.M,
)
_DYNAMIC = re.compile(
    r'^@"(?P<name>_cudapy_smem_[^"]+)" = external addrspace\(3\) global .*$', re.M
)
_BYTES = {"i8": 1, "i16": 2, "half": 2, "i32": 4, "float": 4, "i64": 8, "double": 8}


def translate(kernel: Kernel) -> Module:
    """Module of a kernel.

    Raises
    ------
    NotImplementedError
        The kernel uses an instruction that has no stand-in.
    """
    ir = device_ir(kernel)
    texts = [_stand_ins(kernel.name, text) for text in ir.texts]
    texts, shared, red_zones = _place_shared(texts)
    texts = [_MATH.sub(_math, text) for text in texts]
    texts = [t.replace(" addrspace(3)", "").replace("addrspacecast", "bitcast") for t in texts]
    main = next(i for i, text in enumerate(texts) if f'define void @"{ir.entry}"' in text)
    texts[main] += _entry(texts[main], ir.entry)
    _math_symbols()
    return Module((texts[main], *texts[:main], *texts[main + 1 :]), shared, red_zones)


def _stand_ins(name: str, text: str) -> str:
    """A module with calls of stand-ins for inline PTX and intrinsics."""
    text = re.sub(r"^target (triple|datalayout).*$", "", text, flags=re.M)
    text = re.sub(r'^@"llvm\.used".*$', "", text, flags=re.M)
    text = re.sub(r"^!nvvm.*$", "", text, flags=re.M)
    needed: dict[str, str] = {}

    def stand_in(op: str) -> str:
        if op not in STAND_INS:
            raise NotImplementedError(f"{name}: {op}: no stand-in in natsim")
        symbol = f"sim.{op}"
        needed[symbol] = STAND_INS[op](symbol)
        return symbol

    def assembly(match: re.Match[str]) -> str:
        template, letters = match["template"], match["letters"]
        if "%dynamic_smem_size" in template:
            return "load i32, ptr @sim_dynamic_size"
        op = TEMPLATES.get((template, letters))
        if op is None:
            raise NotImplementedError(f"{name}: {template}: not an op of ptx")
        return f'call {match["type"]} @"{stand_in(op)}"({match["args"]})'

    text = _ASM.sub(assembly, text)
    if " asm " in text:
        line = next(line for line in text.splitlines() if " asm " in line)
        raise NotImplementedError(f"{name}: {line.strip()}: not understood")
    for match in _DECLARE.finditer(text):
        stand_in(match["name"])
    text = _DECLARE.sub("", text).replace('@"llvm.nvvm.', '@"sim.llvm.nvvm.')
    return f"{_PRELUDE}{text}\n{''.join(needed.values())}\n"


def _math(match: re.Match[str]) -> str:
    name, kind = match["name"], match["type"]
    args = [part.rsplit(" ", 1)[0] for part in split(match["args"])]
    callee = _EXACT.get(name)
    if callee:
        given = ", ".join(f"{t} %a{i}" for i, t in enumerate(args))
        params = given
        return (
            f"declare {kind} @{callee}({', '.join(args)})\n"
            f'define internal {kind} @"{name}"({params}) alwaysinline {{\n'
            f"  %r = call {kind} @{callee}({given})\n  ret {kind} %r\n}}"
        )
    if name.removeprefix("__nv_") not in _LIBM:
        raise NotImplementedError(f"{name}: no stand-in in natsim")
    return match[0]


def _place_shared(texts: list[str]) -> tuple[list[str], int, tuple[int, ...]]:
    """Give every static array a place that is aligned no better than it asks for."""
    at, red = 0, []
    places: list[dict[str, int]] = []  # names repeat from module to module
    for text in texts:
        places.append({})
        for match in _STATIC.finditer(text):
            align = int(match["align"])
            start = -(-(at + RED_ZONE) // 128) * 128
            if align < 16:
                start += align
            red += [at, start]
            places[-1][match["name"]] = start
            at = start + int(match["n"]) * _BYTES[match["type"]]
    dynamic = -(-(at + RED_ZONE) // 128) * 128 if at else 0
    red += [at, dynamic]
    return [_placed(t, p, dynamic) for t, p in zip(texts, places)], dynamic, tuple(red)


def _placed(text: str, places: dict[str, int], dynamic: int) -> str:
    for match in _DYNAMIC.finditer(text):
        places[match["name"]] = dynamic
    text = _DYNAMIC.sub("", _STATIC.sub("", text))
    for name, start in places.items():
        pattern = rf'addrspacecast \[[^\]]*\] addrspace\(3\)\* @"{re.escape(name)}" to i8\*'
        text = re.sub(pattern, f"getelementptr i8, ptr @sim_shared, i64 {start}", text)
        if f'@"{name}"' in text:
            raise NotImplementedError(f"{name}: a use of shared memory that is not understood")
    return text


def _entry(text: str, entry: str) -> str:
    found = re.search(rf'^define void @"{re.escape(entry)}"\((.*?)\)', text, re.M)
    assert found is not None, entry
    kinds = [part.rsplit(" ", 1)[0] for part in split(found[1])]
    lines = "".join(
        f"  %p{i} = getelementptr i64, ptr @sim_args, i64 {i}\n  %v{i} = load {t}, ptr %p{i}\n"
        for i, t in enumerate(kinds)
    )
    given = ", ".join(f"{t} %v{i}" for i, t in enumerate(kinds))
    return f'define void @sim_kernel() {{\n{lines}  call void @"{entry}"({given})\n  ret void\n}}\n'
