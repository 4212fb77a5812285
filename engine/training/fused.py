"""Two operations of training as single CUDA kernels: Sinkhorn and the rotary turn.

Both are long chains of tiny operations otherwise, a third of a step's time on a GPU. The kernels
are compiled by the driver's run-time compiler when first needed, and compared with the chains that
they replace; where either fails the chains are used, and standard output says so. Every thread
works alone, so the same source also compiles as C++, which is how it is tested without a GPU.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.training.nvrtc import Kernels
from engine.training.plain import sinkhorn_plainly, turned_plainly

_THREADS = 128
MAX_ITER = 32  # of Sinkhorn

SOURCE = r"""
#define MAX_STEPS 64

// One division of four groups of four values by their sums; groups are rows or columns.
static __device__ void normalize(float *c, float *sums, int by_row, float eps) {
    for (int g = 0; g < 4; g++) {
        float s = eps;
        for (int k = 0; k < 4; k++) s += c[by_row ? g * 4 + k : k * 4 + g];
        for (int k = 0; k < 4; k++) c[by_row ? g * 4 + k : k * 4 + g] /= s;
        sums[g] = s;
    }
}

static __device__ void soften(const float *x, float *p) {
    for (int i = 0; i < 4; i++) {
        float top = x[i * 4], s = 0;
        for (int j = 1; j < 4; j++) top = fmaxf(top, x[i * 4 + j]);
        for (int j = 0; j < 4; j++) s += p[i * 4 + j] = expf(x[i * 4 + j] - top);
        for (int j = 0; j < 4; j++) p[i * 4 + j] /= s;
    }
}

extern "C" __global__ void sinkhorn_forward(const float *x, float *y, int n, int n_iter,
                                            double eps_) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    float c[16], sums[4], eps = (float)eps_;
    soften(x + t * 16, c);
    for (int i = 0; i < 16; i++) c[i] += eps;
    for (int step = 1; step < 2 * n_iter; step++) normalize(c, sums, !(step & 1), eps);
    for (int i = 0; i < 16; i++) y[t * 16 + i] = c[i];
}

// A division's result and its sums give back what was divided, so only sums are kept.
extern "C" __global__ void sinkhorn_backward(const float *x, const float *dy, float *dx, int n,
                                             int n_iter, double eps_) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n) return;
    float p[16], c[16], g[16], sums[MAX_STEPS][4], eps = (float)eps_;
    soften(x + t * 16, p);
    for (int i = 0; i < 16; i++) { c[i] = p[i] + eps; g[i] = dy[t * 16 + i]; }
    for (int step = 1; step < 2 * n_iter; step++)
        normalize(c, sums[step], !(step & 1), eps);
    for (int step = 2 * n_iter - 1; step >= 1; step--) {
        int by_row = !(step & 1);
        for (int q = 0; q < 4; q++) {
            float dot = 0, s = sums[step][q];
            for (int k = 0; k < 4; k++) {
                int at = by_row ? q * 4 + k : k * 4 + q;
                dot += g[at] * c[at];
            }
            for (int k = 0; k < 4; k++) {
                int at = by_row ? q * 4 + k : k * 4 + q;
                g[at] = (g[at] - dot) / s;
                c[at] *= s;
            }
        }
    }
    for (int i = 0; i < 4; i++) {
        float dot = 0;
        for (int j = 0; j < 4; j++) dot += g[i * 4 + j] * p[i * 4 + j];
        for (int j = 0; j < 4; j++) dx[t * 16 + i * 4 + j] = p[i * 4 + j] * (g[i * 4 + j] - dot);
    }
}

union Word { float f; unsigned int u; };

static __device__ float load(const void *x, int half, long long at) {
    if (!half) return ((const float *)x)[at];
    union Word w;
    w.u = (unsigned int)((const unsigned short *)x)[at] << 16;
    return w.f;
}

static __device__ void store(void *y, int half, long long at, float value) {
    if (!half) { ((float *)y)[at] = value; return; }
    union Word w;
    w.f = value;
    ((unsigned short *)y)[at] = (unsigned short)((w.u + 0x7fff + ((w.u >> 16) & 1)) >> 16);
}

// Pairs of values; the last n_rot of each head's d values are turned by their token's angles.
extern "C" __global__ void turn(const void *x, int x_half, void *y, int y_half,
                                const float *cosines, const float *sines, int n_pair, int d,
                                int n_rot, int n_head, int n_angle, double direction) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_pair) return;
    int row = i / (d / 2), col = i % (d / 2) * 2 - (d - n_rot);
    float a = load(x, x_half, 2LL * i), b = load(x, x_half, 2LL * i + 1), ra = a, rb = b;
    if (col >= 0) {
        long long at = (long long)(row / n_head % n_angle) * (n_rot / 2) + col / 2;
        float c = cosines[at], s = sines[at] * (float)direction;
        ra = a * c - b * s;
        rb = a * s + b * c;
    }
    store(y, y_half, 2LL * i, ra);
    store(y, y_half, 2LL * i + 1, rb);
}
"""

_NAMES = ("sinkhorn_forward", "sinkhorn_backward", "turn")
_kernels: Kernels | None = None
_tried = False


def _launch(name: str, n: int, args: list[Any]) -> None:
    assert _kernels is not None
    _kernels.launch(name, -(-n // _THREADS), _THREADS, args)


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, n_iter: int, eps: float) -> torch.Tensor:
        assert n_iter <= MAX_ITER, n_iter
        x = x.contiguous()
        y = torch.empty_like(x)
        _launch("sinkhorn_forward", len(x), [x, y, len(x), n_iter, eps])
        ctx.save_for_backward(x)
        ctx.constants = n_iter, eps
        return y

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        g = g.contiguous()
        dx = torch.empty_like(x)
        _launch("sinkhorn_backward", len(x), [x, g, dx, len(x), *ctx.constants])
        return dx, None, None


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        n_head: int,
        direction: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.rest = n_head, direction, x.dtype
        return _turned(x, cos, sin, n_head, direction, dtype)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        n_head, direction, dtype = ctx.rest
        return _turned(g, cos, sin, n_head, -direction, dtype), None, None, None, None, None


def _turned(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    n_head: int,
    direction: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    x, cos, sin = x.contiguous(), cos.contiguous(), sin.contiguous()
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    half = torch.bfloat16
    n, d, n_rot = x.numel() // 2, x.shape[-1], 2 * cos.shape[-1]
    n_angle = cos.numel() // cos.shape[-1]
    flags = int(x.dtype == half), int(dtype == half)
    args = [x, flags[0], y, flags[1], cos, sin, n, d, n_rot, n_head, n_angle, direction]
    _launch("turn", n, args)
    return y


def sinkhorn(x: torch.Tensor, n_iter: int, eps: float) -> torch.Tensor:
    """As `streams.sinkhorn`, on a GPU and after `available`; (n, 16) to (n, 16)."""
    return _Sinkhorn.apply(x, n_iter, eps)


def turn(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    n_head: int,
    back: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """As `attention.turned`, on a GPU and after `available`."""
    return _Turn.apply(x, cos, sin, n_head, -1.0 if back else 1.0, dtype)


def available(x: torch.Tensor) -> bool:
    """Whether the kernels serve a tensor; compiles and checks them at the first call on a GPU."""
    global _kernels, _tried
    if not x.is_cuda:
        return False
    if not _tried:
        _tried = True
        try:
            _kernels = Kernels(SOURCE, _NAMES)
            _check(x.device)
        except Exception as error:  # whatever a driver or compiler may raise
            _kernels = None
            print(f"fused kernels not used: {type(error).__name__}: {error}", flush=True)
    return _kernels is not None


def _check(device: torch.device) -> None:
    """Compare with the chains, gradients too, on random values."""
    with torch.enable_grad():
        rng = torch.Generator(device).manual_seed(1)

        def normal(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=rng, device=device)

        x = (2 * normal(1000, 16)).requires_grad_()
        g = normal(1000, 16)
        plain = sinkhorn_plainly(x, 20, 1e-6).reshape(-1, 16)
        _same(sinkhorn(x, 20, 1e-6), plain, x, g, "sinkhorn")
        x = normal(2, 64, 3, 96).requires_grad_()
        angle = normal(64, 32)
        g = normal(2, 64, 3, 96)
        for back in (False, True):
            new = turn(x, angle.cos(), angle.sin(), 3, back, torch.float32)
            cos, sin = (a.unsqueeze(-2) for a in (angle.cos(), angle.sin()))
            _same(new, turned_plainly(x, cos, -sin if back else sin), x, g, "turn")


def _same(
    new: torch.Tensor, old: torch.Tensor, x: torch.Tensor, g: torch.Tensor, name: str
) -> None:
    pairs = [(new, old), *zip(torch.autograd.grad(new, x, g), torch.autograd.grad(old, x, g))]
    for a, b in pairs:
        worst = (a - b).abs().max().item()
        if not worst < 1e-4:  # sums of four values in another order, forty times
            raise RuntimeError(f"{name}: expected equal values, found a difference of {worst}")
