"""A sublayer's entry: spread what came before, mix the streams, norm, quantise.

`hc_mix` leaves partial logits per 64 columns; here one block per row adds them up, mixes the
streams, norms the mixed row and writes the forms that products will want of it. A launch of its own
works out how the sublayer's output will be spread: nobody needs that before the sublayer's end, so
that it may run beside everything else. The output head is the same without it.

Arithmetic is that of `hc_expand`, `hc_split` and `rms_norm`, of `act` for the forms, and float32
sums for the logits; the norm of the flattened streams is a factor applied to the sums.
"""

from __future__ import annotations

from collections.abc import Collection

from numba import cuda

from engine.ops.cuda.build.arguments import ArgumentBlock
from engine.ops.cuda.build.kernel import F32, F32P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import (
    add_rn,
    address,
    fma_rn,
    ld_nc_f32,
    ld_v4_f32,
    mul_rn,
    shfl_xor_f32,
    st_v4_f32,
)
from engine.ops.cuda.build.reduce import block_sum, inverse_rms, square_quad
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.hyper.forms import FORMS, FORMS_WRITTEN, forms_of, row_writer
from engine.ops.cuda.hyper.hc import check_streams, pre_weights, spread
from engine.ops.cuda.hyper.hc_mix import kind_of, mix
from engine.ops.cuda.products.pack import Weight
from engine.ops.cuda.rows.norm import WIDE
from engine.ops.cuda.sizes import COLUMNS, STREAMS, UNIT

LOGITS = STREAMS * (2 + STREAMS) + 1  # and the sum of squares
GROUP = 8  # lanes that add up one logit's parts
SPREAD_THREADS = 256


STREAMED = ArgumentBlock(
    "Streamed",
    a=(F32P, "(n, d), written: the mixed and normed row"),
    post=(F32P, "(n, n_hc), written: weights of the sublayer's output; null for the output head"),
    comb=(F32P, "(n, n_hc, n_hc), written: how streams mix when they take it; null likewise"),
    parts=(F32P, "(n, count + 1, pieces): partial logits of `hc_mix`, then squares"),
    state=(F32P, "(n, n_hc, d): the streams"),
    scale=(F32P, "factors of the three kinds of logits"),
    base=(F32P, "(count,): what is added to the logits"),
    weight=(F32P, "(d,): of the norm"),
)
SIZES = ArgumentBlock(
    "Sizes",
    d=(U32, "values of a row"),
    n_hc=(U32, "streams"),
    count=(U32, "logits"),
    pieces=(U32, "partial sums of a logit"),
    n_iter=(U32, "iterations that normalise comb"),
    hc_eps=(F32, "added to weights of streams"),
    rms_eps=(F32, "added to mean squares"),
)


@device
def _sum_logits(logits, arrays, sizes, row, t, threads):
    """The row's logits, times the factor of the norm of its flattened streams."""
    d, n_hc, count = sizes.d, sizes.n_hc, sizes.count
    # Eight lanes add up one's parts: a lane takes every eighth, then they meet.
    for i in range(u32(0), u32(LOGITS * GROUP), threads):
        k = u32(u32(u32(i) + t) // u32(GROUP))
        total = f32(0)
        if k <= count:
            source = address(arrays.parts) + u32(u32(row * (count + u32(1)) + k) * sizes.pieces) * 4
            for p in range(t % u32(GROUP), sizes.pieces, GROUP):
                total = add_rn(total, ld_nc_f32(source + p * 4))
        total = add_rn(total, shfl_xor_f32(total, 4))
        total = add_rn(total, shfl_xor_f32(total, 2))
        total = add_rn(total, shfl_xor_f32(total, 1))
        if k <= count and t % u32(GROUP) == u32(0):
            logits[k] = total
    cuda.syncthreads()
    factor = inverse_rms(logits[count], n_hc * d, sizes.rms_eps)
    cuda.syncthreads()
    if t < count:
        logits[t] = mul_rn(logits[t], factor)
    cuda.syncthreads()


def _entry(threads: int) -> Kernel:
    warps = threads // 32
    write_row = row_writer(threads)

    @kernel(
        *(STREAMED, FORMS, SIZES),
        threads=threads,
        min_blocks=1024 // threads,
        name=f"hc_enter_{threads}",
        writes=(*FORMS_WRITTEN, "a"),
    )
    def hc_rows(arrays, forms, sizes):
        """Grid (rows): mixes a row's streams, norms and quantises."""
        logits = cuda.shared.array(32, f32)
        shared = cuda.shared.array(32, f32)
        tops = cuda.shared.array(32, i32)
        row = u32(cuda.blockIdx.x)
        t = u32(cuda.threadIdx.x)
        d, n_hc = sizes.d, sizes.n_hc
        _sum_logits(logits, arrays, sizes, row, t, u32(threads))

        # The streams' mix, its norm and its forms.
        scale, base = arrays.scale, arrays.base
        p0, p1, p2, p3 = pre_weights(logits, u32(0), scale, base, n_hc, sizes.hc_eps)
        quads = d >> u32(2)
        source = address(arrays.state) + u32(u32(row * n_hc) * d) * 4
        target = address(arrays.a) + u32(row * d) * 4
        total = f32(0)
        for q in range(t, quads, threads):
            x0, x1, x2, x3 = ld_v4_f32(source + q * 16)
            y0, y1, y2, y3 = mul_rn(p0, x0), mul_rn(p0, x1), mul_rn(p0, x2), mul_rn(p0, x3)
            if n_hc > u32(1):
                x0, x1, x2, x3 = ld_v4_f32(source + q * 16 + d * 4)
                y0, y1 = fma_rn(p1, x0, y0), fma_rn(p1, x1, y1)
                y2, y3 = fma_rn(p1, x2, y2), fma_rn(p1, x3, y3)
            if n_hc > u32(2):
                x0, x1, x2, x3 = ld_v4_f32(source + q * 16 + d * 8)
                y0, y1 = fma_rn(p2, x0, y0), fma_rn(p2, x1, y1)
                y2, y3 = fma_rn(p2, x2, y2), fma_rn(p2, x3, y3)
            if n_hc > u32(3):
                x0, x1, x2, x3 = ld_v4_f32(source + q * 16 + d * 12)
                y0, y1 = fma_rn(p3, x0, y0), fma_rn(p3, x1, y1)
                y2, y3 = fma_rn(p3, x2, y2), fma_rn(p3, x3, y3)
            total = square_quad(total, y0, y1, y2, y3)
            st_v4_f32(target + q * 16, y0, y1, y2, y3)
        norm = inverse_rms(block_sum(total, shared, warps), d, sizes.rms_eps)
        write_row(target, target, row, arrays.weight, norm, d, tops, forms)

    return hc_rows


_KERNELS = {threads: _entry(threads) for threads in (256, 1024)}


@kernel(STREAMED, SIZES, threads=SPREAD_THREADS, writes=("post", "comb"))
def hc_spread(arrays, sizes):
    """Grid (rows): how a row's sublayer output will be spread."""
    logits = cuda.shared.array(32, f32)
    row = u32(cuda.blockIdx.x)
    t = u32(cuda.threadIdx.x)
    _sum_logits(logits, arrays, sizes, row, t, u32(SPREAD_THREADS))
    if t < u32(32):
        scale, base, n_iter = arrays.scale, arrays.base, sizes.n_iter
        post, comb, n_hc = arrays.post, arrays.comb, sizes.n_hc
        spread(post, comb, logits, u32(0), scale, base, row, n_hc, n_iter, sizes.hc_eps)


def can_enter(fn: Weight, n_embd: int) -> bool:
    """Whether `hc_enter` and `hc_head` read this matrix; otherwise the single ops do."""
    return kind_of(fn) is not None and n_embd % UNIT == 0


def _run(
    ctx: Context,
    a: DeviceArray,
    spreading: tuple[DeviceArray, DeviceArray, int] | None,
    state: DeviceArray,
    fn: Weight,
    scale: DeviceArray,
    base: DeviceArray,
    norm: DeviceArray,
    hc_eps: float,
    rms_eps: float,
    formats: Collection[str],
    before: tuple[DeviceArray, DeviceArray, DeviceArray] | None,
) -> None:
    n, n_hc, d = state.shape
    assert a.shape == (n, d) and norm.shape == (d,) and can_enter(fn, d), (a, norm, fn)
    check_streams(n_hc, hc_eps)
    pieces = -(-d // COLUMNS)
    parts = ctx.scratch("hc parts", (n, fn.rows + 1, pieces))
    mix(ctx, parts, state, fn, before)
    forms = forms_of(ctx, a, formats)
    post, comb, n_iter = spreading or (None, None, 0)
    arrays = STREAMED(
        a=a, post=post, comb=comb, parts=parts, state=state, scale=scale, base=base, weight=norm
    )
    sizes = SIZES(
        d=d,
        n_hc=n_hc,
        count=fn.rows,
        pieces=pieces,
        n_iter=n_iter,
        hc_eps=hc_eps,
        rms_eps=rms_eps,
    )
    ctx.launch(_KERNELS[256 if d <= WIDE else 1024], n, *arrays, *forms.args, *sizes)
    if spreading:
        ctx.launch(hc_spread, n, *arrays, *sizes)
    ctx.wrote(*(v for v in (post, comb) if v is not None))
    forms.keep(ctx, a)


def hc_enter(
    ctx: Context,
    a: DeviceArray,
    post: DeviceArray,
    comb: DeviceArray,
    state: DeviceArray,
    fn: Weight,
    scale: DeviceArray,
    base: DeviceArray,
    norm: DeviceArray,
    n_iter: int,
    hc_eps: float,
    rms_eps: float,
    formats: Collection[str] = (),
    before: tuple[DeviceArray, DeviceArray, DeviceArray] | None = None,
) -> None:
    """`rms_norm`, `matmul`, `hc_split` and `rms_norm` of a sublayer's entry; forms of the result.

    Parameters
    ----------
    a : float32 DeviceArray of shape (n, n_embd), overwritten
        The sublayer's normed input.
    post, comb : float32 DeviceArrays of shapes (n, n_hc) and (n, n_hc, n_hc), overwritten
    state : float32 DeviceArray of shape (n, n_hc, n_embd)
        Spread in place first if `before` is given.
    fn : Weight of shape (n_hc * (2 + n_hc), n_hc * n_embd)
        See `can_enter`.
    scale, base, norm : float32 DeviceArrays of shapes (3,), (n_hc * (2 + n_hc),), (n_embd,)
    n_iter : int
    hc_eps, rms_eps : float
    formats : collection of str
        Formats of the weights that will be multiplied with `a`: their forms of it are made here.
    before : (y, post, comb), optional
        `hc_expand(state, y, post, comb, state)` is done first; post and comb may be the outputs.
    """
    n, n_hc, _ = state.shape
    assert post.shape == (n, n_hc) and comb.shape == (n, n_hc, n_hc), (post, comb)
    assert fn.rows == n_hc * (2 + n_hc) and n_iter >= 1, (fn, n_iter)
    _run(
        ctx, a, (post, comb, n_iter), state, fn, scale, base, norm, hc_eps, rms_eps, formats, before
    )


def hc_head(
    ctx: Context,
    a: DeviceArray,
    state: DeviceArray,
    fn: Weight,
    scale: DeviceArray,
    base: DeviceArray,
    norm: DeviceArray,
    hc_eps: float,
    rms_eps: float,
    formats: Collection[str] = (),
    before: tuple[DeviceArray, DeviceArray, DeviceArray] | None = None,
) -> None:
    """`rms_norm`, `matmul`, `hc_collapse` and `rms_norm` of the output head.

    Parameters
    ----------
    a : float32 DeviceArray of shape (n, n_embd), overwritten
    state : float32 DeviceArray of shape (n, n_hc, n_embd)
    fn : Weight of shape (n_hc, n_hc * n_embd)
    scale, base, norm : float32 DeviceArrays of shapes (1,), (n_hc,), (n_embd,)
    hc_eps, rms_eps : float
    formats, before
        As for `hc_enter`.
    """
    assert fn.rows == state.shape[1], (fn, state)
    _run(ctx, a, None, state, fn, scale, base, norm, hc_eps, rms_eps, formats, before)
