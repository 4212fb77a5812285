"""What generated product kernels have in common: their names, sums, and the rows of a block.

The kernels of `products` and `experts_kernels` are Python source, written line by line around the
lines of `blocks`, because no loop over registers may be left to a compiler: every loop over
columns and units is written out, so that each accumulator is a register by construction. One
kernel of each family can be read in tests/cuda/golden.

The lines come from several functions and meet in one body. These are the names by which they
refer to each other; all others are read only by the lines that also write them. A thread is lane
4 g + t of its warp. {j} counts tiles of 8 columns (rows of activations), {i} is the place in a
fragment: 0 and 1 are row g at columns 2 t and 2 t + 1, 2 and 3 the same of row g + 8.

    name      type    meaning                                                      written by
    t_all     uint32  thread of the block                                          the kernel
    lane      uint32  lane of the warp                                             the kernel
    warp      uint32  warp of the block                                            the kernel
    g         uint32  lane // 4                                                    the kernel
    t         uint32  lane % 4                                                     the kernel
    xquad     int     bytes of 8 values of activations                             the kernel
    wanted    uint32  row tile among those of all jobs                             the kernel
    found     uint32  1 if a job has it                                            job_lines
    tile      uint32  row tile (16 rows) within the job's or the expert's matrix   job_lines
    rows      uint32  rows of that matrix                                          job_lines
    out       uint64  address of the result                                        job_lines
    s         uint32  segment (512 values of a row)                                the kernel
    b         uint32  block of a row                                               the kernel
    cb        int64   address of codes, of the expert; raw: of the rows            job_lines
    sb        int64   address of scales, of the expert                             job_lines
    fb        int64   address of factors, of the expert                            job_lines
    xa{j}     int64   address of value 8 t of the row that is column g of tile j   column_lines
    da{j}_{i} int64   i = 0, 1: address of the first scale of the row that is      column_lines
                      column 2 t + i of tile j
    place     int64   tile * blocks of a row + b: where the block lies, tiled      row_lines
    ra        int64   raw: address of the block in row g of the tile               row_lines
    rb        int64   raw: address of the block in row g + 8                       row_lines
    kx        int64   bytes from a row's first value to the block's                row_lines
    kd        int64   bytes from a row's first scale to the block's                row_lines
    table     uint32  IQ formats: shared address of the codebook                   table_lines
    s{j}_{i}  float32 sum of the segment                                           blocks
    r{j}_{i}  float32 F16, BF16: sum with the second part of the split rows        blocks
    u{j}_{i}  float32 BF16: sum with the third part                                blocks

Arguments have the names of the blocks `PRODUCT`, `JOB` and `experts_kernels.EXPERTS`, which the
first line of a kernel unpacks. `row_lines` reads tile, b, rows, g and arguments.
"""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from typing import Any

from numba import cuda

from engine.ops.cuda.build import ptx
from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import I64P, U32, U64
from engine.ops.cuda.build.types import f32, i32, i64, u32
from engine.ops.cuda.products import decode_bits, decode_raw
from engine.ops.cuda.products.blocks import PARTS
from engine.ops.cuda.products.blocks_raw import RAW_BLOCKS
from engine.ops.cuda.sizes import SIZES

SEGMENT = 512
WARPS = 8
THREADS = 32 * WARPS
JOBS = 6  # weights of one launch
PROLOGUE_BYTES = 2048  # of a warp: of all that fit a device, a few microseconds of its memory
SLOTS = 16  # segments that meet in shared memory
# Codebooks of rows of four: where they begin in `grid`, and pairs of rows.
_FOURS = {"IQ3_XXS": (256, 128), "IQ3_S": (384, 256)}

PRODUCT = ArgumentBlock(
    "Product",
    grid=(I64P, "(640,): the codebooks, see `pack.codebook`"),
    xq=(U64, "address of the rows' codes, or of their float16 or bfloat16 parts"),
    dq=(U64, "address of the rows' scales"),
    n=(U32, "rows of a group"),
    n_group=(U32, "groups: row r of x meets the weights' rows of group r % n_group"),
    blocks=(U32, "blocks of a row of weights"),
    segments=(U32, "segments of a row"),
    row_bytes=(U32, "raw: bytes of a row of weights"),
    block_bytes=(U32, "raw: bytes of a block"),
    plane=(U64, "float formats: bytes from one part of the rows to the next"),
    xcol=(U32, "bytes from one row's codes or parts to the next row's of the group"),
    xstep=(U32, "bytes from one row's codes or parts to the next row's of x"),
    dcol=(U32, "bytes from one row's first scale to the next row's of the group"),
    dstep=(U32, "bytes from one block's scales to the next block's"),
)
JOB = ArgumentBlock(
    "Job",
    out=(U64, "address of the result (n, n_group, rows / n_group); 0 where there is no job"),
    codes=(U64, "address of the weights' codes; raw: of the rows"),
    scales=(U64, "address of their scales, or 0"),
    factors=(U64, "address of their factors, or 0"),
    rows=(U32, "rows of weights; 0 where there is no job"),
)


def names() -> dict[str, Any]:
    """What generated functions see."""
    found = {n: getattr(ptx, n) for n in dir(ptx) if not n.startswith("__")}
    found |= {n: getattr(decode_bits, n) for n in dir(decode_bits) if not n.startswith("__")}
    found |= {n: getattr(decode_raw, n) for n in dir(decode_raw) if not n.startswith("__")}
    found |= dict(cuda=cuda, f32=f32, i32=i32, i64=i64, u32=u32)
    return found


def compiled(name: str, source: str, scope: dict[str, Any]) -> Any:
    """The function that the source defines, with its source kept for tracebacks and cache keys."""
    file = f"<generated {name}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), scope)
    return scope[name]


def indented(lines: Sequence[str], depth: int) -> str:
    return "".join("    " * depth + line + "\n" for line in lines)


def accumulators(name: str, nt: int, letters: str | None = None) -> list[str]:
    return [
        f"{p}{j}_{i}" for p in letters or PARTS.get(name, "s") for j in range(nt) for i in range(4)
    ]


def segment_value(name: str, j: int, i: int) -> str:
    """A segment's sum from its accumulators."""
    if name == "F16":
        return f"fma_rn(r{j}_{i}, f32({2.0**-11}), s{j}_{i})"
    if name == "BF16":
        return f"add_rn(add_rn(u{j}_{i}, r{j}_{i}), s{j}_{i})"
    return f"s{j}_{i}"


def table_lines(name: str) -> list[str]:
    """The codebook in shared memory, where the format has one: as nibbles, or as words."""
    if name in _FOURS:
        begin, pairs = _FOURS[name]
        return [
            f"grid_copy = cuda.shared.array({2 * pairs}, i32)",
            f"for k in range(u32(cuda.threadIdx.x), u32({pairs}), u32(cuda.blockDim.x)):",
            f"    two = grid[u32({begin} + k)]",
            "    grid_copy[u32(k + k)] = i32(two)",
            "    grid_copy[u32(k + k + 1)] = i32(two >> i64(32))",
            "table = shared_address(grid_copy)",
            "cuda.syncthreads()",
        ]
    if name != "IQ2_XXS":
        return []
    return [
        "grid_copy = cuda.shared.array(256, i32)",
        "for k in range(u32(cuda.threadIdx.x), u32(256), u32(cuda.blockDim.x)):",
        "    grid_copy[k] = selectors(grid[k])",
        "table = shared_address(grid_copy)",
        "cuda.syncthreads()",
    ]


def prologue_lines(name: str) -> list[str]:
    """Ask for a warp's first weights before the launches that this one follows have ended.

    Weights never change; everything else may, so that nothing else is touched before `depend`.
    """
    size, bps = SIZES[name].codes, SEGMENT // SIZES[name].block
    return [
        "# The warp's first weights are brought near while earlier launches end.",
        "if found != u32(0) and mine < per and lane == u32(0):",
        f"    ahead = u32(u32(blocks - first * {bps}) * {size})",
        f"    near = i64(i64(i64(tile) * i64(blocks) + i64(first * {bps})) * {size})",
        f"    prefetch_bulk(cb + near, i32(min(ahead, u32({PROLOGUE_BYTES}))))",
        "depend()",
    ]


def row_lines(name: str, tiled: bool) -> list[str]:
    """Per block of a row: where it lies."""
    size = SIZES[name].block
    step = 2 if name in PARTS else 1
    lines = [
        "place = i64(i64(tile) * i64(blocks) + i64(b))",
        f"kx = i64(i64(b) * i64({size * step}))",
        "kd = i64(i64(b) * i64(dstep))",
    ]
    if not tiled:
        lines += [
            f"{r} = i64(cb + i64(min(u32(tile * 16 + g + {o}), u32(rows - 1)))"
            f" * i64(row_bytes) + i64(b) * i64(block_bytes))"
            for r, o in (("ra", 0), ("rb", 8))
        ]
    return lines


def few_blocks(name: str, nt: int, tiled: bool) -> int:
    """Blocks of few rows that share a multiprocessor: what the registers allow without spills."""
    if name in RAW_BLOCKS or name in PARTS or name == "Q4_K" or (name == "IQ2_XXS" and not tiled):
        return 3 - nt
    return 3 if SIZES[name].block == 32 and nt == 1 and tiled else 2
