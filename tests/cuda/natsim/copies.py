"""Stand-ins of asynchronous copies: the bytes arrive when the thread waits for them, not before.

From its issue to the wait the target holds poison, so that a kernel that reads too early, or waits
for the wrong group, computes NaN.
"""

from __future__ import annotations

from tests.cuda.natsim.ops import STAND_INS, function

PENDING = 64  # copies of one thread at most
_ENTRY = 4  # target pointer, source address, bytes, group

_MINE = """  %cur = load i64, ptr @sim_cur
  %count.p = getelementptr i64, ptr @sim_copy_count, i64 %cur
  %group.p = getelementptr i64, ptr @sim_copy_group, i64 %cur
  %count = load i64, ptr %count.p
  %group = load i64, ptr %group.p
"""


def _entry(name: str, index: str) -> str:
    """Pointers to the four fields of this thread's entry `index`."""
    text = f"""  %{name}.row = mul i64 %cur, {PENDING}
  %{name}.i = add i64 %{name}.row, {index}
  %{name}.o = mul i64 %{name}.i, {_ENTRY}
"""
    for field in range(_ENTRY):
        text += f"""  %{name}.o{field} = add i64 %{name}.o, {field}
  %{name}.{field} = getelementptr i64, ptr @sim_copies, i64 %{name}.o{field}
"""
    return text


def _issue(symbol: str, n_bytes: str, args: list[str]) -> str:
    body = f"""{_MINE}  %t = call ptr @sim_row(i32 %a0, i32 0)
  %low = and i64 %a1, 15
  %odd = icmp ne i64 %low, 0
  %code = select i1 %odd, i32 1, i32 0
  call void @sim_fault(i32 %code)
  call void @llvm.memset.p0.i64(ptr %t, i8 -1, i64 16, i1 false)
  %full = icmp sge i64 %count, {PENDING}
  %code2 = select i1 %full, i32 5, i32 0
  call void @sim_fault(i32 %code2)
  %at = select i1 %full, i64 0, i64 %count
{_entry("e", "%at")}  store ptr %t, ptr %e.0
  store i64 %a1, ptr %e.1
  %n = zext i32 {n_bytes} to i64
  store i64 %n, ptr %e.2
  store i64 %group, ptr %e.3
  %more = add i64 %at, 1
  store i64 %more, ptr %count.p
  ret void
"""
    return function(symbol, "void", args, body)


def _wait(symbol: str, keep: int) -> str:
    """Perform the copies of all groups but the newest `keep`; the others move to the front."""
    body = f"""{_MINE}  %end = sub i64 %group, {keep}
  br label %test
test:
  %i = phi i64 [ 0, %0 ], [ %i1, %next ]
  %j = phi i64 [ 0, %0 ], [ %j1, %next ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %done
body:
{_entry("e", "%i")}  %t = load ptr, ptr %e.0
  %s = load i64, ptr %e.1
  %n = load i64, ptr %e.2
  %g = load i64, ptr %e.3
  %due = icmp slt i64 %g, %end
  br i1 %due, label %copy, label %hold
copy:
  %sp = inttoptr i64 %s to ptr
  call void @llvm.memset.p0.i64(ptr %t, i8 0, i64 16, i1 false)
  call void @llvm.memcpy.p0.p0.i64(ptr %t, ptr %sp, i64 %n, i1 false)
  br label %next
hold:
{_entry("h", "%j")}  store ptr %t, ptr %h.0
  store i64 %s, ptr %h.1
  store i64 %n, ptr %h.2
  store i64 %g, ptr %h.3
  %j.up = add i64 %j, 1
  br label %next
next:
  %j1 = phi i64 [ %j, %copy ], [ %j.up, %hold ]
  %i1 = add i64 %i, 1
  br label %test
done:
  store i64 %j, ptr %count.p
  ret void
"""
    return function(symbol, "void", [], body)


def _commit(symbol: str) -> str:
    body = f"{_MINE}  %up = add i64 %group, 1\n  store i64 %up, ptr %group.p\n  ret void\n"
    return function(symbol, "void", [], body)


STAND_INS["cp_async16"] = lambda symbol: _issue(symbol, "16", ["i32", "i64"])
STAND_INS["cp_async16_fill"] = lambda symbol: _issue(symbol, "%a2", ["i32", "i64", "i32"])
STAND_INS["cp_async_commit"] = _commit
STAND_INS["cp_async_wait0"] = lambda symbol: _wait(symbol, 0)
STAND_INS["cp_async_wait1"] = lambda symbol: _wait(symbol, 1)
STAND_INS["cp_async_wait2"] = lambda symbol: _wait(symbol, 2)
