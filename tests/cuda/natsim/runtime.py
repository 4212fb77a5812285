"""Threads of a block as fibers of one processor thread, and the schedule that runs them.

A fiber runs until it waits at a collective or ends. Nothing else interrupts it, so a run is
deterministic; running lanes, warps and blocks in the opposite order is the other schedule that
tests try. The module is compiled once per process; kernels refer to its symbols.
"""

from __future__ import annotations

import ctypes
import os
import platform
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba import njit

from tests.cuda.natsim.copies import PENDING
from tests.cuda.natsim.ops import LANES, SLOTS

ARENA = 256 * 1024  # bytes of simulated shared memory
STACK = 64 * 1024  # bytes of stack per thread
READY, AT_WARP, AT_BLOCK, DONE = 0, 1, 2, 3

_GLOBALS = f"""
@sim_cur = global i64 0
@sim_state = global [{LANES} x i32] zeroinitializer
@sim_site = global [{LANES} x i32] zeroinitializer
@sim_turn = global [{LANES} x i64] zeroinitializer
@sim_slots = global [{2 * LANES * SLOTS} x i64] zeroinitializer
@sim_block_turn = global [{LANES} x i64] zeroinitializer
@sim_block_slots = global [{2 * LANES * SLOTS} x i64] zeroinitializer
@sim_copies = global [{LANES * PENDING * 4} x i64] zeroinitializer
@sim_copy_count = global [{LANES} x i64] zeroinitializer
@sim_copy_group = global [{LANES} x i64] zeroinitializer
@sim_block = global [3 x i32] zeroinitializer
@sim_grid = global [3 x i32] zeroinitializer
@sim_threads = global i32 0
@sim_args = global [64 x i64] zeroinitializer
@sim_code = global i32 0
@sim_shared_size = global i64 0
@sim_written = global [32 x i64] zeroinitializer
@sim_n_written = global i32 0
@sim_dynamic_size = global i32 0
@sim_shared = global [{ARENA} x i8] zeroinitializer, align 128
@sim_entry = global ptr null
@sim_stacks = global ptr null
define void @sim_start() {{
  %f = load ptr, ptr @sim_entry
  call void %f()
  call void @sim_yield(i32 {DONE}, i32 0)
  unreachable
}}
define void @sim_mark(i64 %c, i32 %state, i32 %site) {{
  %p = getelementptr i32, ptr @sim_state, i64 %c
  store i32 %state, ptr %p
  %q = getelementptr i32, ptr @sim_site, i64 %c
  store i32 %site, ptr %q
  ret void
}}
"""

# Saves what the System V ABI lets a function rely on, and changes stacks.
_SWITCH_X86 = "".join(
    f'module asm "{line}"\n'
    for line in (
        ".text", ".p2align 4", "sim_switch:",
        "pushq %rbp", "pushq %rbx", "pushq %r12", "pushq %r13", "pushq %r14", "pushq %r15",
        "movq %rsp, (%rdi)", "movq %rsi, %rsp",
        "popq %r15", "popq %r14", "popq %r13", "popq %r12", "popq %rbx", "popq %rbp", "retq",
    )
)  # fmt: skip

# A new fiber's stack holds six registers and the address that `retq` takes; entry then sees the
# alignment that a call would have left.
_FIBERS_X86 = f"""
declare void @sim_switch(ptr, ptr)
@sim_sp = global [{LANES + 1} x ptr] zeroinitializer
define void @sim_yield(i32 %state, i32 %site) noinline {{
  %c = load i64, ptr @sim_cur
  call void @sim_mark(i64 %c, i32 %state, i32 %site)
  %p = getelementptr ptr, ptr @sim_sp, i64 %c
  %q = getelementptr ptr, ptr @sim_sp, i64 {LANES}
  %to = load ptr, ptr %q
  call void @sim_switch(ptr %p, ptr %to)
  ret void
}}
define void @sim_resume(i64 %i) noinline {{
  store i64 %i, ptr @sim_cur
  %p = getelementptr ptr, ptr @sim_sp, i64 %i
  %to = load ptr, ptr %p
  %q = getelementptr ptr, ptr @sim_sp, i64 {LANES}
  call void @sim_switch(ptr %q, ptr %to)
  ret void
}}
define void @sim_init(i64 %i) noinline {{
  %base = load ptr, ptr @sim_stacks
  %n = add i64 %i, 1
  %o = mul i64 %n, {STACK}
  %o2 = sub i64 %o, 64
  %top = getelementptr i8, ptr %base, i64 %o2
  %ret = getelementptr i8, ptr %top, i64 48
  store ptr @sim_start, ptr %ret
  %p = getelementptr ptr, ptr @sim_sp, i64 %i
  store ptr %top, ptr %p
  call void @sim_mark(i64 %i, i32 {READY}, i32 0)
  ret void
}}
"""

# Other processors: the C library's contexts (glibc layout: link at 8, stack at 16, its size at 32).
_CONTEXT = 8192
_FIBERS_UCONTEXT = f"""
declare i32 @swapcontext(ptr, ptr)
declare i32 @getcontext(ptr)
declare void @makecontext(ptr, ptr, i32, ...)
@sim_contexts = global [{(LANES + 1) * _CONTEXT} x i8] zeroinitializer, align 64
define ptr @sim_context(i64 %i) {{
  %o = mul i64 %i, {_CONTEXT}
  %p = getelementptr i8, ptr @sim_contexts, i64 %o
  ret ptr %p
}}
define void @sim_yield(i32 %state, i32 %site) noinline {{
  %c = load i64, ptr @sim_cur
  call void @sim_mark(i64 %c, i32 %state, i32 %site)
  %p = call ptr @sim_context(i64 %c)
  %q = call ptr @sim_context(i64 {LANES})
  %r = call i32 @swapcontext(ptr %p, ptr %q)
  ret void
}}
define void @sim_resume(i64 %i) noinline {{
  store i64 %i, ptr @sim_cur
  %p = call ptr @sim_context(i64 %i)
  %q = call ptr @sim_context(i64 {LANES})
  %r = call i32 @swapcontext(ptr %q, ptr %p)
  ret void
}}
define void @sim_init(i64 %i) noinline {{
  %p = call ptr @sim_context(i64 %i)
  %r = call i32 @getcontext(ptr %p)
  %link = getelementptr i8, ptr %p, i64 8
  store ptr null, ptr %link
  %base = load ptr, ptr @sim_stacks
  %o = mul i64 %i, {STACK}
  %stack = getelementptr i8, ptr %base, i64 %o
  %sp = getelementptr i8, ptr %p, i64 16
  store ptr %stack, ptr %sp
  %size = getelementptr i8, ptr %p, i64 32
  store i64 {STACK}, ptr %size
  call void (ptr, ptr, i32, ...) @makecontext(ptr %p, ptr @sim_start, i32 0)
  call void @sim_mark(i64 %i, i32 {READY}, i32 0)
  ret void
}}
"""

SYMBOLS = (
    "sim_cur", "sim_turn", "sim_slots", "sim_block_turn", "sim_block_slots", "sim_block",
    "sim_grid", "sim_threads", "sim_args", "sim_code", "sim_shared_size", "sim_dynamic_size",
    "sim_written", "sim_n_written", "sim_shared", "sim_yield", "sim_copies", "sim_copy_count",
    "sim_copy_group",
)  # fmt: skip


@cache
def target() -> Any:
    """Target machine of this processor."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    return llvm.Target.from_default_triple().create_target_machine(
        opt=1,
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        jit=True,
    )


def engine_of(*texts: str) -> Any:
    """MCJIT engine of one or several modules' text, linked and optimised."""
    machine = target()
    modules = [llvm.parse_assembly(text) for text in texts]
    for module in modules:
        module.triple = llvm.get_process_triple()
        module.data_layout = str(machine.target_data)
        module.verify()
    module = modules[0]
    for other in modules[1:]:
        module.link_in(other)
    # Level 2 takes three times as long over the products' kernels and runs none of them sooner.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


class Runtime:
    """The fibers, shared memory and registers of the one simulated multiprocessor."""

    def __init__(self) -> None:
        own_switch = platform.machine() in ("x86_64", "AMD64") and not os.environ.get(
            "DS4_NATSIM_UCONTEXT"
        )
        parts = (_SWITCH_X86, _GLOBALS, _FIBERS_X86) if own_switch else (_GLOBALS, _FIBERS_UCONTEXT)
        target()
        self._engine = engine_of("".join(parts))
        for name in SYMBOLS:
            llvm.add_symbol(name, self._address(name))
        self.state = self._array("sim_state", LANES, np.int32)
        self.site = self._array("sim_site", LANES, np.int32)
        # what every thread of a block starts with as zero
        names = ("sim_turn", "sim_block_turn", "sim_copy_count", "sim_copy_group")
        self.fresh = tuple(self._array(name, LANES, np.int64) for name in names)
        self.block = self._array("sim_block", 3, np.int32)
        self.grid = self._array("sim_grid", 3, np.int32)
        self.threads = self._array("sim_threads", 1, np.int32)
        self.args = self._array("sim_args", 64, np.int64)
        self.code = self._array("sim_code", 1, np.int32)
        self.shared = self._array("sim_shared", ARENA, np.uint8)
        self.shared_size = self._array("sim_shared_size", 1, np.int64)
        self.written = self._array("sim_written", 32, np.int64)
        self.n_written = self._array("sim_n_written", 1, np.int32)
        self.dynamic_size = self._array("sim_dynamic_size", 1, np.int32)
        self.entry = self._array("sim_entry", 1, np.int64)
        self._stacks = np.zeros(LANES * STACK + 64, np.uint8)
        self._array("sim_stacks", 1, np.int64)[0] = (self._stacks.ctypes.data + 63) // 64 * 64
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64)
        resume = kind(self._engine.get_function_address("sim_resume"))
        init = kind(self._engine.get_function_address("sim_init"))
        self.run = _scheduler(resume, init)

    def _address(self, name: str) -> int:
        address = self._engine.get_global_value_address(name)
        return address or self._engine.get_function_address(name)

    def _array(self, name: str, n: int, dtype: Any) -> np.ndarray:
        n_bytes = n * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * n_bytes).from_address(self._address(name))
        return np.frombuffer(memory, dtype=dtype)


@cache
def runtime() -> Runtime:
    return Runtime()


OK, DIVERGED, WARP, SITES, RED_ZONE, LIVE = 0, 1, 2, 3, 4, 5
ERRORS = {
    DIVERGED: "expected every thread of the block at the barrier, found threads that ended",
    WARP: "expected all 32 lanes at a warp collective, found some elsewhere or ended",
    SITES: "expected one collective for all waiting threads, found different ones",
    RED_ZONE: "expected writes inside shared arrays, found bytes between them changed",
}


def _scheduler(resume: Any, init: Any) -> Any:
    @njit
    def run(state, site, fresh, block, grid, code, shared, used, red, n, reverse):  # type: ignore[no-untyped-def]
        """Run every block; returns OK or why it stopped.

        `used` bytes of shared memory are filled with 0xFF before each block; after it, `red[i]`
        to `red[i + 1]` (every second pair) must still be.
        """
        n_blocks = grid[0] * grid[1] * grid[2]
        n_warps = (n + 31) // 32
        for index in range(n_blocks):
            b = n_blocks - 1 - index if reverse else index
            block[0] = b % grid[0]
            block[1] = b // grid[0] % grid[1]
            block[2] = b // (grid[0] * grid[1])
            for i in range(used):
                shared[i] = 255
            for i in range(n):
                for words in fresh:
                    words[i] = 0
                init(i)
            running = True
            while running:
                for warp in range(n_warps):
                    first = 32 * (n_warps - 1 - warp if reverse else warp)
                    last = min(first + 32, n)
                    while True:
                        for lane in range(last - first):
                            i = last - 1 - lane if reverse else first + lane
                            if state[i] == READY:
                                resume(i)
                        waiting = 0
                        for i in range(first, last):
                            if state[i] == AT_WARP:
                                waiting += 1
                        if waiting == 0:
                            break
                        if waiting < 32:
                            return WARP
                        for i in range(first, last):
                            if site[i] != site[first]:
                                return SITES
                            state[i] = READY
                waiting = 0
                for i in range(n):
                    if state[i] == AT_BLOCK:
                        waiting += 1
                running = waiting > 0
                if running:
                    if waiting < n:
                        return DIVERGED
                    for i in range(n):
                        if site[i] != site[0]:
                            return SITES
                        state[i] = READY
                if code[0] != 0:
                    return LIVE
            for r in range(0, red.size, 2):
                for i in range(red[r], red[r + 1]):
                    if shared[i] != 255:
                        return RED_ZONE
        return OK

    return run
