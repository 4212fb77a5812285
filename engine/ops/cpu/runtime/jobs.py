"""Jobs: units of work in a table, handed to threads in small tasks, and the table's fields.

Every parallel operation is a list of jobs run by one compiled region. Threads claim tasks as
they go, so a thread that loses its core delays nothing; a unit writes only its own outputs, so
who ran it changes no bit.
"""

from __future__ import annotations

import threading

import numpy as np

from engine.ops.cpu.runtime.jit import kernel, parallel_kernel, prange
from engine.ops.cpu.runtime.leaf import call3, fetch_add, load_i64, stack, store_i64

# A job is a record of JOB_BYTES bytes; these are the byte offsets of its int64 fields. All have
#     FN     address of the leaf that does the work: fn(job, first unit, last unit + 1)
#     N      rows of activations
#     UNITS  how many units there are to do
#     COST   multiply-adds of a unit
# and two fields of this module: units of a task, and where the job's tasks end in the list of all.
JOB_BYTES = 128
FN, N, UNITS, COST = 0, 8, 16, 24
_CHUNK, _TASK_END = 32, 40
# A product of rows with a weight:
#     W                  address of the weight's record
#     TABLE              address of a table of N addresses, of quantised rows
#     OUT, LD_OUT        address of the result, and bytes from one of its rows to the next;
#                        in a look-up of rows (`embed`), LD_OUT is how many copies are written
#     EXPERT             which matrix of the weight
#     ROW_LOW, ROW_HIGH  the matrix's rows to multiply, the second excluded
W, TABLE, OUT, LD_OUT, EXPERT, ROW_LOW, ROW_HIGH = 48, 56, 64, 72, 80, 88, 96
# Work on rows of activations; which leaf reads which fields is told where the job is made:
#     A_COLS     values of a row
#     A_SRC      address of the rows that are read
#     A_TABLE    address of a table: filled with the addresses of quantised rows; of a sum of
#                slots, read: the places of the rows to add
#     A_ROW      address of the rows that are written
#     A_STRIDE   bytes from one written row to the next; SwiGLU: from one factor to the next
#     A_SPLIT    groups of a grouped product; of a sum of slots, rows that are added into one
#     A_UP       SwiGLU: address of the products with up
#     A_WEIGHTS  SwiGLU: address of the rows' factors
#     A_NEXT     SwiGLU: address of the job that quantises what was written, or 0
#     A_LIMIT    SwiGLU: clamp, float32; a float32 1 lies behind it for rows without factors
# SwiGLU needs neither A_TABLE nor A_SPLIT, whose places it takes.
A_COLS, A_SRC, A_TABLE, A_ROW, A_STRIDE, A_SPLIT = 48, 56, 64, 72, 80, 88
A_UP, A_WEIGHTS, A_NEXT, A_LIMIT = 64, 88, 96, 104

# Below this many multiply-adds, waking other threads costs more than they save.
_SERIAL = 100_000


@kernel
def _plan(jobs, n_jobs, n_threads):
    """Cut jobs into tasks; returns their number."""
    total = 0
    for j in range(n_jobs):
        job = jobs + j * JOB_BYTES
        total += load_i64(job + UNITS) * load_i64(job + COST)
    if n_threads == 1 or total < _SERIAL:
        share = total
    else:
        share = max(total // (n_threads * 8), _SERIAL // 8)
    end = 0
    for j in range(n_jobs):
        job = jobs + j * JOB_BYTES
        units = load_i64(job + UNITS)
        chunk = max(1, share // max(1, load_i64(job + COST)))
        store_i64(job + _CHUNK, chunk)
        end += (units + chunk - 1) // chunk
        store_i64(job + _TASK_END, end)
    return end if total >= _SERIAL and n_threads > 1 else min(end, 1)


@kernel
def _work(jobs, n_jobs, counter):
    """Claim and run tasks until none is left."""
    j = 0
    while True:
        task = fetch_add(counter, 1)
        job = jobs + j * JOB_BYTES
        while j < n_jobs and task >= load_i64(job + _TASK_END):
            j += 1
            job += JOB_BYTES
        if j == n_jobs:
            return
        first = 0
        if j > 0:
            first = load_i64(job - JOB_BYTES + _TASK_END)
        chunk = load_i64(job + _CHUNK)
        low = (task - first) * chunk
        high = min(low + chunk, load_i64(job + UNITS))
        call3(load_i64(job + FN), job, low, high)


@parallel_kernel
def _region(jobs, n_jobs, counter, n_threads):
    for _ in prange(n_threads):
        _work(jobs, n_jobs, counter)


@kernel
def run(jobs, n_jobs, n_threads):
    """Run every unit of every job on up to n_threads threads; returns when all are done."""
    counter = stack(64)
    store_i64(counter, 0)
    if _plan(jobs, n_jobs, n_threads) > 1:
        _region(jobs, n_jobs, counter, n_threads)
    else:
        _work(jobs, n_jobs, counter)


_local = threading.local()


def scratch(n_bytes: int) -> int:
    """Address of at least n_bytes of this thread's working memory, aligned to 64.

    It is reused by the next call on the same thread and grows as needed.
    """
    if n_bytes > getattr(_local, "size", 0):
        size = n_bytes + n_bytes // 4 + 65536
        _local.memory = np.empty(size + 64, np.uint8)
        _local.address = (_local.memory.ctypes.data + 63) & ~63
        _local.size = size
    return _local.address
