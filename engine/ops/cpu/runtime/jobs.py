"""The fields of every kind of job, and the memory that one op works in.

Every parallel operation is a list of jobs (`tasks`) run by one team of threads (`team`).
"""

from __future__ import annotations

import threading

import numpy as np

# Offered here, too: who fills jobs needs their common fields and what runs them.
from engine.ops.cpu.runtime.tasks import COST as COST
from engine.ops.cpu.runtime.tasks import FN as FN
from engine.ops.cpu.runtime.tasks import JOB_BYTES as JOB_BYTES
from engine.ops.cpu.runtime.tasks import UNITS as UNITS
from engine.ops.cpu.runtime.tasks import N as N
from engine.ops.cpu.runtime.team import run as run
from engine.ops.cpu.runtime.team import team as team

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
