"""Stand-ins of PTX ops and of numba-cuda's intrinsics: LLVM IR that this processor can run.

A stand-in has its op's name, argument and result types. Ops of one thread are plain IR and are
inlined. Ops of a whole warp write their operands where the other lanes can see them, wait until
every lane has arrived, and then compute their own lane's result from all operands.

Sums inside one floating-point mma run in ascending k, in float32, from C; a tensor core adds in
another order and with fewer guard bits, so those bits are not a GPU's.
"""

from __future__ import annotations

from collections.abc import Callable

SLOTS = 16  # operands of an op at most
LANES = 1024  # threads of a block at most

Writer = Callable[[str], str]
STAND_INS: dict[str, Writer] = {}

_SIZES = {"i8": 1, "i16": 2, "i32": 4, "float": 4, "i64": 8}


def function(name: str, result: str, args: list[str], body: str) -> str:
    params = ", ".join(f"{t} %a{i}" for i, t in enumerate(args))
    return f'define internal {result} @"{name}"({params}) alwaysinline {{\n{body}}}\n'


def results(types: list[str], values: list[str]) -> tuple[str, str]:
    """Return type, and the instructions that return the values."""
    if not types:
        return "void", "  ret void\n"
    if len(types) == 1:
        return types[0], f"  ret {types[0]} {values[0]}\n"
    kind = "{" + ", ".join(types) + "}"
    text, last = "", "undef"
    for i, (t, v) in enumerate(zip(types, values)):
        text += f"  %result{i} = insertvalue {kind} {last}, {t} {v}, {i}\n"
        last = f"%result{i}"
    return kind, text + f"  ret {kind} {last}\n"


def _define(name: str, kinds: list[str], args: list[str], body: str, values: list[str]) -> None:
    def write(symbol: str) -> str:
        kind, tail = results(kinds, values)
        return function(symbol, kind, args, body + tail)

    STAND_INS[name] = write


# Memory of one thread. Vector accesses must be aligned, as on the device.


def _at(window: str, n_bytes: int) -> str:
    """%p: pointer to the bytes at address %a0 of global or shared memory, alignment checked."""
    width = {"global": "i64", "shared": "i32"}[window]
    text = ""
    if n_bytes > 1:
        text += f"""  %low = and {width} %a0, {n_bytes - 1}
  %odd = icmp ne {width} %low, 0
  br i1 %odd, label %bad, label %good
bad:
  call void @sim_fault(i32 1)
  br label %good
good:
"""
    if window == "global":
        return text + "  %p = inttoptr i64 %a0 to ptr\n"
    return text + _shared_pointer("p", "%a0", n_bytes)


def _shared_pointer(name: str, address: str, n_bytes: int) -> str:
    return f"""  %{name}.o = zext i32 {address} to i64
  %{name}.end = add i64 %{name}.o, {n_bytes}
  %{name}.size = load i64, ptr @sim_shared_size
  %{name}.ok = icmp ule i64 %{name}.end, %{name}.size
  %{name}.s = select i1 %{name}.ok, i64 %{name}.o, i64 0
  %{name}.code = select i1 %{name}.ok, i32 0, i32 2
  call void @sim_fault(i32 %{name}.code)
  %{name} = getelementptr i8, ptr @sim_shared, i64 %{name}.s
"""


def _load(name: str, window: str, kind: str, n: int, register: str = "") -> None:
    size = _SIZES[kind]
    body, values = _at(window, n * size), []
    if name.startswith(("ld_nc", "ld_stream")):
        # Nothing orders these loads: they are right only where this launch writes nothing.
        body = "  call void @sim_pure(i64 %a0)\n" + body
    for i in range(n):
        body += f"  %q{i} = getelementptr i8, ptr %p, i64 {i * size}\n"
        body += f"  %v{i} = load {kind}, ptr %q{i}, align 1\n"
        values.append(f"%v{i}")
    if register:
        body += f"  %wide = zext {kind} %v0 to {register}\n"
        values = ["%wide"]
    address = "i64" if window == "global" else "i32"
    _define(name, [register or kind] * n, [address], body, values)


def _store(name: str, window: str, kind: str, n: int) -> None:
    size = _SIZES[kind]
    body = _at(window, n * size)
    for i in range(n):
        body += f"  %q{i} = getelementptr i8, ptr %p, i64 {i * size}\n"
        body += f"  store {kind} %a{i + 1}, ptr %q{i}, align 1\n"
    address = "i64" if window == "global" else "i32"
    _define(name, [], [address] + [kind] * n, body, [])


for _prefix, _window in (("ld_nc", "global"), ("ld_stream", "global"), ("ld", "global")):
    for _suffix, _kind, _n in (
        ("v4", "i32", 4), ("v2", "i32", 2), ("b32", "i32", 1), ("u16", "i16", 1),
        ("f32", "float", 1), ("v2_f32", "float", 2), ("v4_f32", "float", 4),
    ):  # fmt: skip
        _load(f"{_prefix}_{_suffix}", _window, _kind, _n)
    _load(f"{_prefix}_u8", _window, "i8", 1, register="i32")
for _suffix, _kind, _n in (
    ("v4", "i32", 4), ("v2", "i32", 2), ("b32", "i32", 1), ("u16", "i16", 1),
    ("f32", "float", 1), ("v2_f32", "float", 2), ("v4_f32", "float", 4),
):  # fmt: skip
    _store(f"st_{_suffix}", "global", _kind, _n)
    _store(f"sts_{_suffix}", "shared", _kind, _n)
    _load(f"lds_{_suffix}", "shared", _kind, _n)

# An address in the shared window is an offset into the arena that holds all shared arrays.
_define(
    "shared_window",
    ["i64"],
    ["i64"],
    "  %base = ptrtoint ptr @sim_shared to i64\n  %o = sub i64 %a0, %base\n",
    ["%o"],
)
_define(
    "atom_add",
    ["i32"],
    ["i64", "i32"],
    _at("global", 4) + "  %old = atomicrmw add ptr %p, i32 %a1 seq_cst\n",
    ["%old"],
)
_define(
    "atom_max",
    ["i32"],
    ["i64", "i32"],
    _at("global", 4) + "  %old = atomicrmw max ptr %p, i32 %a1 seq_cst\n",
    ["%old"],
)
for _name in ("depend", "release"):
    _define(_name, [], [], "", [])
_define("prefetch_bulk", [], ["i64", "i32"], _at("global", 16), [])

# Conversions and float arithmetic.

_INTRINSICS = {
    "fma_rn": ("float", "float", 3, "llvm.fma.f32"),
    "fmax": ("float", "float", 2, "llvm.maxnum.f32"),
    "fmin": ("float", "float", 2, "llvm.minnum.f32"),
    "rint": ("float", "float", 1, "llvm.roundeven.f32"),
    "popc": ("i32", "i32", 1, "llvm.ctpop.i32"),
}
for _name, (_result, _arg, _n, _callee) in _INTRINSICS.items():
    _operands = ", ".join(f"{_arg} %a{i}" for i in range(_n))
    _call = f"  %r = call {_result} @{_callee}({_operands})\n"
    _define(_name, [_result], [_arg] * _n, _call, ["%r"])
for _name, _instruction in (("mul_rn", "fmul"), ("add_rn", "fadd"), ("sub_rn", "fsub")):
    _define(_name, ["float"], ["float"] * 2, f"  %r = {_instruction} float %a0, %a1\n", ["%r"])
_define("clz", ["i32"], ["i32"], "  %r = call i32 @llvm.ctlz.i32(i32 %a0, i1 false)\n", ["%r"])
_define("i2f", ["float"], ["i32"], "  %r = sitofp i32 %a0 to float\n", ["%r"])
_define(
    "f2i_rn",
    ["i32"],
    ["float"],
    "  %n = call float @llvm.roundeven.f32(float %a0)\n"
    "  %r = call i32 @llvm.fptosi.sat.i32.f32(float %n)\n",
    ["%r"],
)


def _to_half(name: str, value: str) -> str:
    """float32 to float16 bits, ties to even; every NaN becomes the device's one NaN."""
    return f"""  %{name}.h = fptrunc float {value} to half
  %{name}.b = bitcast half %{name}.h to i16
  %{name}.nan = fcmp uno float {value}, 0.0
  %{name} = select i1 %{name}.nan, i16 32767, i16 %{name}.b
"""


def _to_bfloat(name: str, value: str) -> str:
    return f"""  %{name}.i = bitcast float {value} to i32
  %{name}.up = lshr i32 %{name}.i, 16
  %{name}.odd = and i32 %{name}.up, 1
  %{name}.half = add i32 %{name}.odd, 32767
  %{name}.sum = add i32 %{name}.i, %{name}.half
  %{name}.top = lshr i32 %{name}.sum, 16
  %{name}.b = trunc i32 %{name}.top to i16
  %{name}.nan = fcmp uno float {value}, 0.0
  %{name} = select i1 %{name}.nan, i16 32767, i16 %{name}.b
"""


def _from_half(name: str, bits: str) -> str:
    return f"  %{name}.h = bitcast i16 {bits} to half\n  %{name} = fpext half %{name}.h to float\n"


def _from_bfloat(name: str, bits: str) -> str:
    return f"""  %{name}.i = zext i16 {bits} to i32
  %{name}.s = shl i32 %{name}.i, 16
  %{name} = bitcast i32 %{name}.s to float
"""


_define("h2f", ["float"], ["i16"], _from_half("r", "%a0"), ["%r"])
_define("f2h", ["i16"], ["float"], _to_half("r", "%a0"), ["%r"])
_define("bf2f", ["float"], ["i16"], _from_bfloat("r", "%a0"), ["%r"])
_define("f2bf", ["i16"], ["float"], _to_bfloat("r", "%a0"), ["%r"])
_JOIN = """  %lo32 = zext i16 %lo to i32
  %hi32 = zext i16 %hi to i32
  %up = shl i32 %hi32, 16
  %r = or i32 %up, %lo32
"""
_SPLIT = """  %lo = trunc i32 %a0 to i16
  %up = lshr i32 %a0, 16
  %hi = trunc i32 %up to i16
"""
for _kind, _pack, _unpack in (
    ("f16", _to_half, _from_half),
    ("bf16", _to_bfloat, _from_bfloat),
):
    _body = _pack("lo", "%a0") + _pack("hi", "%a1") + _JOIN
    _define(f"pack_{_kind}", ["i32"], ["float"] * 2, _body, ["%r"])
    _body = _SPLIT + _unpack("x", "%lo") + _unpack("y", "%hi")
    _define(f"unpack_{_kind}", ["float"] * 2, ["i32"], _body, ["%x", "%y"])


def _prmt() -> str:
    text = """  %b = zext i32 %a1 to i64
  %bh = shl i64 %b, 32
  %a = zext i32 %a0 to i64
  %both = or i64 %bh, %a
"""
    last = "0"
    for i in range(4):
        text += f"""  %n{i} = lshr i32 %a2, {4 * i}
  %i{i} = and i32 %n{i}, 7
  %w{i} = zext i32 %i{i} to i64
  %s{i} = shl i64 %w{i}, 3
  %v{i} = lshr i64 %both, %s{i}
  %y{i} = trunc i64 %v{i} to i8
  %g{i} = ashr i8 %y{i}, 7
  %m{i} = and i32 %n{i}, 8
  %f{i} = icmp ne i32 %m{i}, 0
  %z{i} = select i1 %f{i}, i8 %g{i}, i8 %y{i}
  %e{i} = zext i8 %z{i} to i32
  %p{i} = shl i32 %e{i}, {8 * i}
  %r{i} = or i32 {last}, %p{i}
"""
        last = f"%r{i}"
    return text


_define("prmt", ["i32"], ["i32"] * 3, _prmt(), ["%r3"])


def _dot4(extend: str) -> str:
    return f"""  %x = bitcast i32 %a0 to <4 x i8>
  %y = bitcast i32 %a1 to <4 x i8>
  %xw = {extend} <4 x i8> %x to <4 x i32>
  %yw = sext <4 x i8> %y to <4 x i32>
  %m = mul <4 x i32> %xw, %yw
  %s = call i32 @llvm.vector.reduce.add.v4i32(<4 x i32> %m)
  %r = add i32 %s, %a2
"""


_define("dp4a", ["i32"], ["i32"] * 3, _dot4("sext"), ["%r"])
_define("dp4a_us", ["i32"], ["i32"] * 3, _dot4("zext"), ["%r"])
