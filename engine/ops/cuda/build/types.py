"""Short names of the scalar types that kernel bodies spell out at nearly every operation.

Every integer operation in a kernel is wrapped in its type, because numba widens the result of an
operation on 32-bit integers to 64 bits, which costs a GPU two or more instructions in place of
one. The names are those of PTX and Rust. The types of kernel *arguments* (`F32P`, `U32` ...) are in
`kernel`.
"""

from __future__ import annotations

from numba import float32 as f32
from numba import int32 as i32
from numba import int64 as i64
from numba import uint16 as u16
from numba import uint32 as u32
from numba import uint64 as u64

__all__ = ["f32", "i32", "i64", "u16", "u32", "u64"]
