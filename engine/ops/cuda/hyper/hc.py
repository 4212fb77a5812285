"""Hyper-connections: residual streams mixed into one row before a sublayer and back after.

Models have one to four streams; the kernels count four and give weight nought to those that are
not there.
"""

from __future__ import annotations

import math

from numba import cuda

from engine.ops.cuda.build.kernel import F32, F32P, U32, Kernel, device, kernel
from engine.ops.cuda.build.ptx import add_rn, fma_rn, mul_rn, shfl_f32, shfl_xor_f32, sub_rn
from engine.ops.cuda.build.scalar import exp, sigmoid
from engine.ops.cuda.build.types import f32, i32, u32
from engine.ops.cuda.device.array import DeviceArray
from engine.ops.cuda.device.context import Context
from engine.ops.cuda.sizes import STREAMS

ENTRIES = STREAMS * STREAMS
THREADS = 128
MIX_THREADS = 256
ZERO, ONE, TWO = f32(0), f32(1), f32(2)
LOWEST = f32(-math.inf)


@device
def gate(mix, scale, base, eps):
    """sigmoid(mix * scale + base) + eps."""
    return add_rn(sigmoid(add_rn(mul_rn(mix, scale), base)), eps)


@device
def pre_weights(mix, at, scale, base, n_hc, eps):
    """Weights of the four streams; streams that do not exist get 0."""
    k = scale[0]
    p0 = gate(mix[at], k, base[0], eps)
    p1 = gate(mix[at + u32(1)], k, base[1], eps) if n_hc > u32(1) else ZERO
    p2 = gate(mix[at + u32(2)], k, base[2], eps) if n_hc > u32(2) else ZERO
    p3 = gate(mix[at + u32(3)], k, base[3], eps) if n_hc > u32(3) else ZERO
    return p0, p1, p2, p3


@device
def mixed(state, at, d, n_hc, p0, p1, p2, p3):
    """Sum over streams, in order, of weight * state of one column; `at` is in stream 0."""
    y = mul_rn(p0, state[at])
    if n_hc > u32(1):
        y = fma_rn(p1, state[at + d], y)
    if n_hc > u32(2):
        y = fma_rn(p2, state[at + u32(2) * d], y)
    if n_hc > u32(3):
        y = fma_rn(p3, state[at + u32(3) * d], y)
    return y


@device
def spread(post, comb, mix, at, scale, base, row, n_hc, n_iter, eps):
    """post and comb of one row, by one whole warp: a lane holds one of the sixteen entries.

    mix + at are the row's logits. Divisions by a sum are products with its reciprocal. Sums of four
    are (a + b) + (c + d), which shuffles give to every lane alike; lanes from 16 on repeat those
    before them.
    """
    lane = u32(cuda.threadIdx.x) & u32(31)
    if lane < n_hc:
        k = u32(n_hc + lane)
        y = gate(mix[at + k], scale[1], base[k], ZERO)
        post[u32(row * n_hc) + lane] = mul_rn(TWO, y)
    r, o = u32(lane & u32(15)) >> u32(2), lane & u32(3)
    here = r < n_hc and o < n_hc
    first = i32(lane & u32(28))
    # Softmax over a row's destinations.
    c = LOWEST
    if here:
        k = u32(u32(2) * n_hc + r * n_hc + o)
        c = add_rn(mul_rn(mix[at + k], scale[2]), base[k])
    top = c
    for step in range(2):
        other = shfl_xor_f32(top, 1 << step)
        top = other if other > top else top
    c = exp(sub_rn(c, top)) if here else ZERO
    total = ZERO
    for j in range(STREAMS):
        total = add_rn(total, shfl_f32(c, i32(first + j)))
    inverse = ONE / total if r < n_hc else ZERO
    c = add_rn(mul_rn(c, inverse), eps)
    c = c if here else ZERO
    # Rows and columns in turns; the first turn has had its rows.
    for i in range(n_iter):
        if i > 0:
            total = add_rn(c, shfl_xor_f32(c, 1))
            total = add_rn(total, shfl_xor_f32(total, 2))
            c = mul_rn(c, ONE / add_rn(total, eps))
        total = add_rn(c, shfl_xor_f32(c, 4))
        total = add_rn(total, shfl_xor_f32(total, 8))
        c = mul_rn(c, ONE / add_rn(total, eps))
    if here and lane < u32(ENTRIES):
        comb[u32(u32(row * n_hc + r) * n_hc + o)] = c


def _mix(split: bool) -> Kernel:
    """Kernel of `hc_split`, or of `hc_collapse`: the same sum without post and comb.

    Grid (rows, pieces of a row and, for `hc_split`, one more block that works out post and comb).
    """

    @kernel(
        *(F32P,) * 7,
        *(U32,) * 5,
        F32,
        threads=MIX_THREADS,
        name="hc_split_rows" if split else "hc_collapse_rows",
        writes=("x", "post", "comb"),
    )
    def hc_rows(x, post, comb, mix, state, scale, base, width, d, n_hc, pieces, n_iter, eps):
        row = u32(cuda.blockIdx.x)
        t = u32(cuda.threadIdx.x)
        logits = u32(row * width)
        if u32(cuda.blockIdx.y) < pieces:
            # A piece of the mixed row, a column per thread.
            j = u32(u32(cuda.blockIdx.y * MIX_THREADS) + t)
            if j < d:
                p0, p1, p2, p3 = pre_weights(mix, logits, scale, base, n_hc, eps)
                at = u32(u32(row * n_hc) * d + j)
                x[u32(row * d + j)] = mixed(state, at, d, n_hc, p0, p1, p2, p3)
        elif split and t < u32(32):
            # How the sublayer's output will be spread.
            spread(post, comb, mix, logits, scale, base, row, n_hc, n_iter, eps)

    return hc_rows


_SPLIT, _COLLAPSE = _mix(True), _mix(False)


@device
def expanded(y, post, comb, row, o, n_hc, s0, s1, s2, s3):
    """New value of stream o: y * post[o] + sum over streams of comb[s, o] * old."""
    at = u32(u32(row * n_hc) * n_hc + o)
    value = mul_rn(post[u32(row * n_hc + o)], y)
    value = fma_rn(comb[at], s0, value)
    if n_hc > u32(1):
        value = fma_rn(comb[at + n_hc], s1, value)
    if n_hc > u32(2):
        value = fma_rn(comb[at + u32(2) * n_hc], s2, value)
    if n_hc > u32(3):
        value = fma_rn(comb[at + u32(3) * n_hc], s3, value)
    return value


@kernel(*(F32P,) * 5, U32, U32, threads=THREADS, writes=("out",))
def hc_expand_columns(out, y, post, comb, state, d, n_hc):
    """Grid (pieces of a row, rows); one thread takes one column of every stream."""
    row = u32(cuda.blockIdx.y)
    j = u32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    if j < d:
        at = u32(u32(row * n_hc) * d + j)
        # All streams are read before any is written: out may be state.
        s0 = state[at]
        s1 = state[at + d] if n_hc > u32(1) else ZERO
        s2 = state[at + u32(2) * d] if n_hc > u32(2) else ZERO
        s3 = state[at + u32(3) * d] if n_hc > u32(3) else ZERO
        value = y[u32(row * d + j)]
        for o in range(n_hc):
            new = expanded(value, post, comb, row, u32(o), n_hc, s0, s1, s2, s3)
            out[at + u32(u32(o) * d)] = new


def check_streams(n_hc: int, eps: float) -> None:
    assert 1 <= n_hc <= STREAMS, n_hc
    assert eps > 0 or n_hc == STREAMS, "missing streams are divided by their sum + eps"


def hc_split(
    ctx: Context,
    x: DeviceArray,
    post: DeviceArray,
    comb: DeviceArray,
    mix: DeviceArray,
    state: DeviceArray,
    scale: DeviceArray,
    base: DeviceArray,
    n_iter: int,
    eps: float,
) -> None:
    """Mix the streams into a sublayer's input; work out how its output is spread.

    Parameters
    ----------
    x : float32 DeviceArray of shape (n, n_embd), overwritten
    post : float32 DeviceArray of shape (n, n_hc), overwritten
    comb : float32 DeviceArray of shape (n, n_hc, n_hc), overwritten
        [source, destination].
    mix : float32 DeviceArray of shape (n, n_hc * (2 + n_hc))
    state : float32 DeviceArray of shape (n, n_hc, n_embd), n_hc at most 4
    scale : float32 DeviceArray of shape (3,)
    base : float32 DeviceArray of shape (n_hc * (2 + n_hc),)
    n_iter : int
        Column passes, at least 1.
    eps : float
    """
    n, n_hc, d = state.shape
    width = n_hc * (2 + n_hc)
    check_streams(n_hc, eps)
    assert x.shape == (n, d) and mix.shape == (n, width) and n_iter >= 1, (x, mix, n_iter)
    assert post.shape == (n, n_hc) and comb.shape == (n, n_hc, n_hc), (post, comb)
    pieces = -(-d // MIX_THREADS)
    arrays = (x, post, comb, mix, state, scale, base)
    ctx.launch(_SPLIT, (n, pieces + 1), *arrays, width, d, n_hc, pieces, n_iter, eps)
    ctx.wrote(x, post, comb)


def hc_expand(
    ctx: Context,
    out: DeviceArray,
    y: DeviceArray,
    post: DeviceArray,
    comb: DeviceArray,
    state: DeviceArray,
) -> None:
    """Spread a sublayer's output over the streams: y * post[o] + sum_s comb[s, o] * state[s].

    Parameters
    ----------
    out : float32 DeviceArray of shape (n, n_hc, n_embd), overwritten; may be state
    y : float32 DeviceArray of shape (n, n_embd)
    post : float32 DeviceArray of shape (n, n_hc)
    comb : float32 DeviceArray of shape (n, n_hc, n_hc)
    state : float32 DeviceArray of shape (n, n_hc, n_embd), n_hc at most 4
    """
    n, n_hc, d = state.shape
    assert out.shape == state.shape and y.shape == (n, d) and n_hc <= STREAMS, (out, y, state)
    ctx.launch(hc_expand_columns, (-(-d // THREADS), n), out, y, post, comb, state, d, n_hc)
    ctx.wrote(out)


def hc_collapse(
    ctx: Context,
    x: DeviceArray,
    mix: DeviceArray,
    state: DeviceArray,
    scale: DeviceArray,
    base: DeviceArray,
    eps: float,
) -> None:
    """Mix the streams into the output head's input: weights sigmoid(mix * scale + base) + eps.

    Parameters
    ----------
    x : float32 DeviceArray of shape (n, n_embd), overwritten
    mix : float32 DeviceArray of shape (n, n_hc)
    state : float32 DeviceArray of shape (n, n_hc, n_embd), n_hc at most 4
    scale : float32 DeviceArray of shape (1,)
    base : float32 DeviceArray of shape (n_hc,)
    eps : float
    """
    n, n_hc, d = state.shape
    assert x.shape == (n, d) and mix.shape == (n, n_hc) and n_hc <= STREAMS, (x, mix, state)
    pieces = -(-d // MIX_THREADS)
    arrays = (x, None, None, mix, state, scale, base)
    ctx.launch(_COLLAPSE, (n, pieces), *arrays, n_hc, d, n_hc, pieces, 0, eps)
    ctx.wrote(x)
