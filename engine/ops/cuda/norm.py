"""Root-mean-square norms."""

from __future__ import annotations

from typing import Any

from numba import cuda, float32, uint32

from engine.ops.cuda.array import DeviceArray
from engine.ops.cuda.context import Context
from engine.ops.cuda.kernel import F32, F32P, U32, Kernel, device, kernel
from engine.ops.cuda.ptx import address, fma_rn, ld_v4_f32, mul_rn, st_v4_f32
from engine.ops.cuda.reduce import block_sum, inverse_rms, quads_of, square_quad

WIDE = 2048  # rows longer than this take a block of 1024 threads instead of 256


def row_norm(threads: int) -> Any:
    """Device function that norms one row with a block of this many threads."""
    warps = threads // 32

    @device
    def norm_row(out, x, row, weight, weighted, d, eps, parts):
        """Row `row` of out = row of x; `parts` is shared memory of 32 float32."""
        t = uint32(cuda.threadIdx.x)
        begin = uint32(row * d)
        quads = quads_of(d)
        source = address(x) + begin * 4
        total = float32(0)
        for q in range(t, quads, threads):
            a, b, c, e = ld_v4_f32(source + q * 16)
            total = square_quad(total, a, b, c, e)
        for j in range(quads * 4 + t, d, threads):
            total = fma_rn(x[begin + j], x[begin + j], total)
        scale = inverse_rms(block_sum(total, parts, warps), d, eps)
        target = address(out) + begin * 4
        for q in range(t, quads, threads):
            a, b, c, e = ld_v4_f32(source + q * 16)
            a, b, c, e = mul_rn(a, scale), mul_rn(b, scale), mul_rn(c, scale), mul_rn(e, scale)
            if weighted:
                u, v, w, z = ld_v4_f32(address(weight) + q * 16)
                a, b, c, e = mul_rn(a, u), mul_rn(b, v), mul_rn(c, w), mul_rn(e, z)
            st_v4_f32(target + q * 16, a, b, c, e)
        for j in range(quads * 4 + t, d, threads):
            y = mul_rn(x[begin + j], scale)
            out[begin + j] = mul_rn(y, weight[j]) if weighted else y

    return norm_row


def _rows(threads: int) -> Kernel:
    norm_row = row_norm(threads)

    @kernel(F32P, F32P, F32P, U32, U32, F32, threads=threads, name=f"rms_norm_{threads}")
    def rms_norm_rows(out, x, weight, d, weighted, eps):
        parts = cuda.shared.array(32, float32)
        norm_row(out, x, uint32(cuda.blockIdx.x), weight, weighted, d, eps, parts)

    return rms_norm_rows


_NARROW, _BROAD = _rows(256), _rows(1024)


def rms_norm(
    ctx: Context, out: DeviceArray, x: DeviceArray, weight: DeviceArray | None, eps: float
) -> None:
    """Scale each row of x to unit root mean square, then by weight.

    Sums run over a thread's own values, then over lanes, then over warps: an order that d fixes.

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, d), overwritten; may be x
    x : float32 DeviceArray of shape (n, d)
    weight : float32 DeviceArray of shape (d,), or None for ones
    eps : float
        Added to the mean square.
    """
    n, d = x.shape
    assert out.shape == x.shape and (weight is None or weight.shape == (d,)), (out, x, weight)
    rows = _NARROW if d <= WIDE else _BROAD
    ctx.launch(rows, n, out, x, weight, d, int(weight is not None), eps)
    ctx.wrote(out)
