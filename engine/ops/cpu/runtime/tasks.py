"""Jobs cut into small tasks, which threads claim one by one; and the fields that all jobs have.

Threads claim tasks as they go, so a thread that loses its core delays nothing; a unit writes only
its own outputs, so who ran it changes no bit. This module knows no threads.
"""

from __future__ import annotations

from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.leaf import call3, fetch_add, load_i64, store_i64

# A job is a record of JOB_BYTES bytes; these are the byte offsets of its int64 fields. All have
#     FN     address of the leaf that does the work: fn(job, first unit, last unit + 1)
#     N      rows of activations
#     UNITS  how many units there are to do
#     COST   multiply-adds of a unit
# and two fields of this module: units of a task, and where the job's tasks end in the list of all.
JOB_BYTES = 128
FN, N, UNITS, COST = 0, 8, 16, 24
_CHUNK, _TASK_END = 32, 40
FIELDS = 48  # where the fields of one kind of job begin

# Below this many multiply-adds, sharing the work costs more than it saves.
_SERIAL = 100_000


@kernel
def plan(jobs, n_jobs, n_threads):
    """Cut jobs into tasks; returns their number, 1 where they are not worth sharing."""
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
def work(jobs, n_jobs, counter):
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
