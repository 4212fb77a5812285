"""Root-mean-square norms."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import address, fma_rn, ld_v4_f32, mul_rn, st_v4_f32
from engine.ops.cuda.build.reduce import block_sum, inverse_rms, quads_of, square_quad
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.hyper.forms import FORMS, FORMS_WRITTEN, forms_of, row_writer

WIDE = 2048  # rows longer than this take a block of 1024 threads instead of 256


def row_norm(threads: int) -> Any:
    """Device function that norms one row with a block of this many threads."""
    warps = threads // 32

    @device
    def norm_row(out, x, row, weight, weighted, d, eps, parts):
        """Row `row` of out = row of x; `parts` is shared memory of 32 float32."""
        t = u32(cuda.threadIdx.x)
        begin = u32(row * d)
        quads = quads_of(d)
        source = address(x) + begin * 4
        total = f32(0)
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


def row_norm_with_forms(threads: int) -> Any:
    """As `row_norm`, for rows of whole quads with a weight; writes forms of the row, too."""
    warps = threads // 32
    write_row = row_writer(threads)

    @device
    def norm_row(out, x, row, weight, d, eps, parts, tops, to):
        begin = u32(row * d)
        source = address(x) + begin * 4
        total = f32(0)
        for q in range(u32(cuda.threadIdx.x), d >> u32(2), threads):
            a, b, c, e = ld_v4_f32(source + q * 16)
            total = square_quad(total, a, b, c, e)
        norm = inverse_rms(block_sum(total, parts, warps), d, eps)
        write_row(address(out) + begin * 4, source, row, weight, norm, d, tops, to)

    return norm_row


def _rows(threads: int) -> Kernel:
    norm_row = row_norm(threads)

    @kernel(
        F32P,
        F32P,
        F32P,
        U32,
        U32,
        F32,
        threads=threads,
        name=f"rms_norm_{threads}",
        writes=("out",),
    )
    def rms_norm_rows(out, x, weight, d, weighted, eps):
        parts = cuda.shared.array(32, f32)
        norm_row(out, x, u32(cuda.blockIdx.x), weight, weighted, d, eps, parts)

    return rms_norm_rows


def _rows_with_forms(threads: int) -> Kernel:
    norm_row = row_norm_with_forms(threads)

    @kernel(
        *(F32P, F32P, F32P, U32, F32, FORMS),
        threads=threads,
        name=f"rms_norm_forms_{threads}",
        writes=(*FORMS_WRITTEN, "out"),
    )
    def rms_norm_rows(out, x, weight, d, eps, forms):
        parts = cuda.shared.array(32, f32)
        tops = cuda.shared.array(32, i32)
        norm_row(out, x, u32(cuda.blockIdx.x), weight, d, eps, parts, tops, forms)

    return rms_norm_rows


_NARROW, _BROAD = _rows(256), _rows(1024)
_NARROW_FORMS, _BROAD_FORMS = _rows_with_forms(256), _rows_with_forms(1024)


def rms_norm(
    ctx: Context,
    out: DeviceArray,
    x: DeviceArray,
    weight: DeviceArray | None,
    eps: float,
    formats: Collection[str] = (),
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
    formats : collection of str
        Formats of the weights that will be multiplied with `out`: their forms of it are made here
        where they can be (see `forms_of`), and by the products otherwise.
    """
    n, d = x.shape
    assert out.shape == x.shape and (weight is None or weight.shape == (d,)), (out, x, weight)
    if formats and weight is not None and d % 4 == 0:
        forms = forms_of(ctx, out, formats)
        body = _NARROW_FORMS if d <= WIDE else _BROAD_FORMS
        ctx.launch(body, n, out, x, weight, d, eps, *forms.args)
        forms.keep(ctx, out)
        return
    rows = _NARROW if d <= WIDE else _BROAD
    ctx.launch(rows, n, out, x, weight, d, int(weight is not None), eps)
    ctx.wrote(out)
