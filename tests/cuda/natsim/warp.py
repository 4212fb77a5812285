"""Stand-ins of whole-warp and whole-block ops; `ops` says how they work."""

from __future__ import annotations

from tests.cuda.natsim.ops import LANES, SLOTS, STAND_INS, function, results

_codes: dict[str, int] = {}


def _code(name: str) -> int:
    """Number of a collective, so that lanes that wait at different ones are found."""
    return _codes.setdefault(name, len(_codes) + 1)


def _publish(name: str, args: list[str], *, block: bool = False) -> str:
    """Write operands to this lane's slots, then wait for the warp (or block).

    Leaves %lane (i64, within the warp), %warp (slots of lane 0 of the warp) and %all (of thread 0).
    Slots alternate between two sets: a lane that is already at the next collective cannot
    overwrite what a slower one still reads, and one wait per collective is enough. Collectives of
    blocks have sets of their own, since a warp may pass many of its own between two of them.
    """
    kind = "block_" if block else ""
    text = f"""  %cur = load i64, ptr @sim_cur
  %turn.p = getelementptr i64, ptr @sim_{kind}turn, i64 %cur
  %turn = load i64, ptr %turn.p
  %next = xor i64 %turn, 1
  store i64 %next, ptr %turn.p
  %set = mul i64 %turn, {LANES * SLOTS}
  %all = getelementptr i64, ptr @sim_{kind}slots, i64 %set
  %lane = and i64 %cur, 31
  %first = sub i64 %cur, %lane
  %first.o = mul i64 %first, {SLOTS}
  %warp = getelementptr i64, ptr %all, i64 %first.o
  %mine.o = mul i64 %cur, {SLOTS}
  %mine = getelementptr i64, ptr %all, i64 %mine.o
"""
    for i, operand in enumerate(args):
        value = f"%a{i}"
        if operand == "float":
            text += f"  %bits{i} = bitcast float {value} to i32\n"
            operand, value = "i32", f"%bits{i}"
        text += f"  %wide{i} = zext {operand} {value} to i64\n"
        text += f"  %slot{i} = getelementptr i64, ptr %mine, i64 {i}\n"
        text += f"  store i64 %wide{i}, ptr %slot{i}\n"
    state = 2 if block else 1
    return text + f"  call void @sim_yield(i32 {state}, i32 {_code(name)})\n"


def _collective(name: str, kinds: list[str], args: list[str], body: str, values: list[str]) -> None:
    def write(symbol: str) -> str:
        kind, tail = results(kinds, values)
        return function(symbol, kind, args, _publish(name, args) + body + tail)

    STAND_INS[name] = write


_names = iter(range(1 << 30))


def _peer(lane: str, slot: int, kind: str = "i32") -> tuple[str, str]:
    """Instructions and the name of operand `slot` of a lane of this warp (i64, or a number)."""
    at = f"%peer{next(_names)}"
    return (
        f"""  {at}.m = mul i64 {lane}, {SLOTS}
  {at}.o = add i64 {at}.m, {slot}
  {at}.p = getelementptr i64, ptr %warp, i64 {at}.o
  {at} = load {kind}, ptr {at}.p
""",
        at,
    )


# Products. Lane 4 g + t reads the words of rows g and g + 8 of A and of columns 2t, 2t + 1 of B.

_QUAD = """  %g = lshr i64 %lane, 2
  %t = and i64 %lane, 3
  %rows = shl i64 %g, 2
  %t2 = shl i64 %t, 1
  %col0 = shl i64 %t2, 2
  %t3 = add i64 %t2, 1
  %col1 = shl i64 %t3, 2
"""


def _words(name: str, first_lane: str, slots: list[int]) -> str:
    """%name: the words that the four lanes of a quad hold, in order of k."""
    text, last, n = "", "undef", 4 * len(slots)
    for half, slot in enumerate(slots):
        for i in range(4):
            text += f"  %{name}.l{slot}.{i} = add i64 {first_lane}, {i}\n"
            load, value = _peer(f"%{name}.l{slot}.{i}", slot)
            k = 4 * half + i
            text += load + (
                f"  %{name}.{k} = insertelement <{n} x i32> {last}, i32 {value}, i64 {k}\n"
            )
            last = f"%{name}.{k}"
    return text + f"  %{name} = bitcast <{n} x i32> {last} to <{n} x i32>\n"


def _operands(name: str, register: str, kind: str, k: int, n_words: int) -> str:
    """%name.w: the words of %name widened to values that can be multiplied."""
    packed = f"<{n_words} x i32> %{name}"
    if kind in ("s8", "u8"):
        extend = "sext" if kind == "s8" else "zext"
        return (
            f"  %{name}.v = bitcast {packed} to <{k} x i8>\n"
            f"  %{name}.w = {extend} <{k} x i8> %{name}.v to <{k} x i32>\n"
        )
    if kind == "f16":
        return (
            f"  %{name}.v = bitcast {packed} to <{k} x half>\n"
            f"  %{name}.w = fpext <{k} x half> %{name}.v to <{k} x float>\n"
        )
    shift = "<" + ", ".join(["i32 16"] * k) + ">"
    return (
        f"  %{name}.v = bitcast {packed} to <{k} x i16>\n"
        f"  %{name}.z = zext <{k} x i16> %{name}.v to <{k} x i32>\n"
        f"  %{name}.s = shl <{k} x i32> %{name}.z, {shift}\n"
        f"  %{name}.w = bitcast <{k} x i32> %{name}.s to <{k} x float>\n"
    )


def _mma(name: str, k: int, a_kind: str, b_kind: str, n_a: int, n_b: int) -> None:
    """n_a registers of A: even ones hold row g, odd ones row g + 8."""
    words = 4 * n_b
    body = _QUAD
    body += _words("r0", "%rows", list(range(0, n_a, 2)))
    body += _words("r1", "%rows", list(range(1, n_a, 2)))
    body += _words("c0", "%col0", list(range(n_a, n_a + n_b)))
    body += _words("c1", "%col1", list(range(n_a, n_a + n_b)))
    floating = "f" in a_kind
    register = "float" if floating else "i32"
    for operand, kind in (("r0", a_kind), ("r1", a_kind), ("c0", b_kind), ("c1", b_kind)):
        body += _operands(operand, register, kind, k, words)
    for i, (row, column) in enumerate((("r0", "c0"), ("r0", "c1"), ("r1", "c0"), ("r1", "c1"))):
        c = f"%a{n_a + n_b + i}"
        vector = f"<{k} x {register}>"
        multiply = "fmul" if floating else "mul"
        body += f"  %m{i} = {multiply} {vector} %{row}.w, %{column}.w\n"
        if floating:  # without `reassoc` this reduction is sequential
            call = f"float @llvm.vector.reduce.fadd.v{k}f32(float {c}, {vector} %m{i})"
            body += f"  %d{i} = call {call}\n"
        else:
            body += f"  %s{i} = call i32 @llvm.vector.reduce.add.v{k}i32({vector} %m{i})\n"
            body += f"  %d{i} = add i32 %s{i}, {c}\n"
    args = ["i32"] * (n_a + n_b) + [register] * 4
    _collective(name, [register] * 4, args, body, ["%d0", "%d1", "%d2", "%d3"])


_mma("mma_m16n8k32_s8", 32, "s8", "s8", 4, 2)
_mma("mma_m16n8k32_u8s8", 32, "u8", "s8", 4, 2)
_mma("mma_m16n8k16_s8", 16, "s8", "s8", 2, 1)
_mma("mma_m16n8k16_f16", 16, "f16", "f16", 4, 2)
_mma("mma_m16n8k16_bf16", 16, "bf16", "bf16", 4, 2)


def _ldmatrix(transposed: bool) -> str:
    body = _QUAD
    for m in range(4):
        rows = ["%g", "%g"] if not transposed else ["%t2", "%t3"]
        columns = ["%t2", "%t3"] if not transposed else ["%g", "%g"]
        for i in range(2):
            at = f"%x{m}{i}"
            body += f"  {at}.l = add i64 {rows[i]}, {8 * m}\n"
            load, address = _peer(f"{at}.l", 0)
            body += (
                load
                + f"""  {at}.c = trunc i64 {columns[i]} to i32
  {at}.b = shl i32 {at}.c, 1
  {at}.a = add i32 {address}, {at}.b
  {at}.q = call ptr @sim_row(i32 {address}, i32 {at}.b)
  {at}.v = load i16, ptr {at}.q, align 1
  {at} = zext i16 {at}.v to i32
"""
            )
        body += f"  %up{m} = shl i32 %x{m}1, 16\n  %d{m} = or i32 %up{m}, %x{m}0\n"
    return body


for _name, _transposed in (("ldmatrix_x4", False), ("ldmatrix_x4_trans", True)):
    _collective(_name, ["i32"] * 4, ["i32"], _ldmatrix(_transposed), [f"%d{m}" for m in range(4)])


# Shuffles: lane ^ m, lane m, lane + m within the whole warp.


def _shuffle(name: str, kind: str, source: str) -> None:
    load, value = _peer("%from", 0, kind)
    _collective(name, [kind], [kind, "i32"], f"  %m = zext i32 %a1 to i64\n{source}{load}", [value])


for _kind, _suffix in (("i32", "i32"), ("float", "f32")):
    _and = "  %from = and i64 %j, 31\n"
    _shuffle(f"shfl_xor_{_suffix}", _kind, "  %j = xor i64 %lane, %m\n" + _and)
    _shuffle(f"shfl_{_suffix}", _kind, "  %j = add i64 %m, 0\n" + _and)
    _shuffle(
        f"shfl_down_{_suffix}",
        _kind,
        "  %k = and i64 %m, 31\n  %j = add i64 %lane, %k\n"
        "  %in = icmp ult i64 %j, 32\n  %from = select i1 %in, i64 %j, i64 %lane\n",
    )


def _fold(name: str, instruction: str, before: str = "", args: int = 1) -> None:
    """Combine operand 0 of all lanes, in ascending order."""
    body, last = "", ""
    for i in range(32):
        load, value = _peer(str(i), 0)
        body += load
        body += f"  %f{i} = {instruction.format(last, value)}\n" if i else ""
        last = f"%f{i}" if i else value
    _collective(name, ["i32"], ["i32"] * args, body, [last])


_fold("redux_add", "add i32 {}, {}")
_fold("redux_or", "or i32 {}, {}")
_fold("redux_max", "call i32 @llvm.smax.i32(i32 {}, i32 {})")
_fold("redux_min", "call i32 @llvm.smin.i32(i32 {}, i32 {})")


def _votes(slot: int) -> str:
    """%votes: bit i is whether lane i's operand is non-zero."""
    body, last = "", "0"
    for i in range(32):
        load, value = _peer(str(i), slot)
        body += load + f"  %z{i} = icmp ne i32 {value}, 0\n  %b{i} = zext i1 %z{i} to i32\n"
        body += f"  %s{i} = shl i32 %b{i}, {i}\n  %v{i} = or i32 {last}, %s{i}\n"
        last = f"%v{i}"
    return body + f"  %votes = add i32 {last}, 0\n"


_collective("ballot", ["i32"], ["i32"], _votes(0), ["%votes"])

# numba-cuda's own intrinsics. Masks other than the full warp are faults: what they compute depends
# on which lanes meet, which one schedule cannot show.

_FULL = """  %full = icmp eq i32 %a0, -1
  %mask.code = select i1 %full, i32 0, i32 3
  call void @sim_fault(i32 %mask.code)
"""


def _nvvm_shuffle() -> str:
    """PTX shfl: mode 0 idx, 1 up, 2 down, 3 bfly; %a4 packs the segment mask and the clamp."""
    load, value = _peer("%from", 2)
    return (
        _FULL
        + f"""  %l = trunc i64 %lane to i32
  %b = and i32 %a3, 31
  %seg.s = lshr i32 %a4, 8
  %seg = and i32 %seg.s, 31
  %clamp = and i32 %a4, 31
  %min = and i32 %l, %seg
  %notseg = xor i32 %seg, 31
  %c = and i32 %clamp, %notseg
  %max = or i32 %min, %c
  %b.in = and i32 %b, %notseg
  %j0 = or i32 %min, %b.in
  %j1 = sub i32 %l, %b
  %j2 = add i32 %l, %b
  %j3 = xor i32 %l, %b
  %is1 = icmp eq i32 %a1, 1
  %is2 = icmp eq i32 %a1, 2
  %is3 = icmp eq i32 %a1, 3
  %j01 = select i1 %is1, i32 %j1, i32 %j0
  %j012 = select i1 %is2, i32 %j2, i32 %j01
  %j = select i1 %is3, i32 %j3, i32 %j012
  %up = icmp sge i32 %j, %max
  %down = icmp sle i32 %j, %max
  %ok = select i1 %is1, i1 %up, i1 %down
  %k = select i1 %ok, i32 %j, i32 %l
  %from = zext i32 %k to i64
{load}  %r = add i32 {value}, 0
"""
    )


_collective("llvm.nvvm.shfl.sync.i32", ["i32", "i1"], ["i32"] * 5, _nvvm_shuffle(), ["%r", "%ok"])
_collective(
    "llvm.nvvm.vote.sync",
    ["i32", "i1"],
    ["i32", "i32", "i1"],
    _FULL
    + _votes(2)
    + """  %every = icmp eq i32 %votes, -1
  %some = icmp ne i32 %votes, 0
  %none = xor i1 %some, true
  %same = or i1 %every, %none
  %m0 = icmp eq i32 %a1, 0
  %m1 = icmp eq i32 %a1, 1
  %m2 = icmp eq i32 %a1, 2
  %p2 = select i1 %m2, i1 %same, i1 %some
  %p = select i1 %m0, i1 %every, i1 %p2
  %pw = zext i1 %p to i32
  %is3 = icmp eq i32 %a1, 3
  %r = select i1 %is3, i32 %votes, i32 %pw
""",
    ["%r", "%p"],
)
_collective("llvm.nvvm.bar.warp.sync", [], ["i32"], _FULL, [])


def _block(name: str, body: str) -> None:
    """Barrier that combines a flag of every thread; %n counts those that are not zero."""

    def write(symbol: str) -> str:
        text = f"""{_publish(name, ["i32"], block=True)}  br label %loop
loop:
  %i = phi i64 [ 0, %0 ], [ %i1, %loop ]
  %n = phi i32 [ 0, %0 ], [ %n1, %loop ]
  %o = mul i64 %i, {SLOTS}
  %q = getelementptr i64, ptr %all, i64 %o
  %v = load i32, ptr %q
  %z = icmp ne i32 %v, 0
  %w = zext i1 %z to i32
  %n1 = add i32 %n, %w
  %i1 = add i64 %i, 1
  %size32 = load i32, ptr @sim_threads
  %size = zext i32 %size32 to i64
  %more = icmp ult i64 %i1, %size
  br i1 %more, label %loop, label %done
done:
{body}"""
        return function(symbol, "i32", ["i32"], text)

    STAND_INS[name] = write


_block("llvm.nvvm.barrier0.popc", "  ret i32 %n1\n")
_block(
    "llvm.nvvm.barrier0.or",
    "  %some = icmp ne i32 %n1, 0\n  %r = zext i1 %some to i32\n  ret i32 %r\n",
)
_block(
    "llvm.nvvm.barrier0.and",
    "  %every = icmp eq i32 %n1, %size32\n  %r = zext i1 %every to i32\n  ret i32 %r\n",
)
STAND_INS["llvm.nvvm.barrier0"] = lambda symbol: function(
    symbol, "void", [], f"  call void @sim_yield(i32 2, i32 {_code('barrier')})\n  ret void\n"
)
for _name in ("llvm.nvvm.membar.gl", "llvm.nvvm.membar.cta", "llvm.nvvm.membar.sys"):
    STAND_INS[_name] = lambda symbol: function(symbol, "void", [], "  ret void\n")


# Who am I.


def _register(name: str, body: str) -> None:
    STAND_INS[f"llvm.nvvm.read.ptx.sreg.{name}"] = lambda symbol: function(
        symbol, "i32", [], body + "  ret i32 %r\n"
    )


_CUR = "  %c = load i64, ptr @sim_cur\n  %t = trunc i64 %c to i32\n"
_register("tid.x", _CUR + "  %r = add i32 %t, 0\n")
_register("laneid", _CUR + "  %r = and i32 %t, 31\n")
_register("warpsize", "  %r = add i32 32, 0\n")
_register("ntid.x", "  %r = load i32, ptr @sim_threads\n")
for _i, _axis in enumerate("xyz"):
    for _name, _at in (("ctaid", "sim_block"), ("nctaid", "sim_grid")):
        _register(
            f"{_name}.{_axis}",
            f"  %p = getelementptr i32, ptr @{_at}, i64 {_i}\n  %r = load i32, ptr %p\n",
        )
    if _axis != "x":
        _register(f"tid.{_axis}", "  %r = add i32 0, 0\n")
        _register(f"ntid.{_axis}", "  %r = add i32 1, 0\n")
