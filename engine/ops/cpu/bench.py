"""Speed of the matmul kernels beside this machine's own limits: ``python -m engine.ops.cpu.bench``.

Decoding (n = 1) is held against the memory bandwidth that a plain sum of a large array reaches,
prefill against NumPy's f32 matmul, all in one run. Weights are random; times are the least of
several passes over matrices that together exceed the caches.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from engine.ops.cpu import moe, products
from engine.ops.cpu.formats import weight
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import set_threads, team
from engine.ops.cpu.simd.ir import I32, emitter, vec
from engine.quant.formats import BY_NAME, NATIVE
from engine.weights.tensor import Tensor


@emitter
def _sum_vectors(ir, address, n, out):
    """Add up n blocks of 512 bytes; the sum keeps the loads from being dropped."""
    sums = [ir.var(ir.const(0, vec(I32))) for _ in range(8)]
    with ir.loop(n) as i:
        for k, slot in enumerate(sums):
            value = ir.load(ir.at(address, (i, 512), 64 * k), vec(I32))
            ir.b.store(ir.b.add(ir.b.load(slot), value), slot)
    for k, slot in enumerate(sums):
        ir.store(ir.b.load(slot), ir.at(out, 64 * k))


@kernel
def _streams(data, sink, n, first, last):
    for t in range(first, last):
        _sum_vectors(data.ctypes.data + t * n * 512, n, sink.ctypes.data + t * 512)


@kernel
def _read_all(team, data, sink, n_threads):
    """Read all of data, one stream per thread."""
    n = data.nbytes // 512 // n_threads
    over(team, n_threads, 512 * n, _streams, (data, sink, n))


def _least(function, repeats: int) -> float:
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return float(best)


def random_tensor(name: str, shape: tuple[int, ...], rng) -> Tensor:
    """A tensor of random bytes with ordinary scales (values of the order of 1)."""
    form = BY_NAME[name]
    n_blocks = int(np.prod(shape)) // form.block_len
    data = rng.integers(0, 256, (n_blocks, form.block_bytes), dtype=np.uint8)
    half = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    places = {"Q8_0": (0,), "IQ2_XXS": (0,), "Q4_K": (0, 2), "Q2_K": (80, 82), "F16": (0,)}
    for at in places.get(name, ()):
        data[:, at : at + 2] = half
    if name == "MXFP4":
        data[:, 0] = 120
    if name in ("F32", "BF16"):
        data[:, -2:] = np.frombuffer(np.float32(0.01).tobytes(), np.uint8)[2:]
    return Tensor("bench", form, shape, data.reshape(-1))


def bandwidth(n_threads: int) -> float:
    """Bytes per second of reading memory, the best of several passes over 256 MiB."""
    data = np.ones(256 << 20, np.uint8)
    sink = np.zeros(512 * n_threads, np.uint8)
    _read_all(team(), data, sink, n_threads)
    return data.nbytes / _least(lambda: _read_all(team(), data, sink, n_threads), 8)


def numpy_rate(n: int, rows: int, cols: int) -> float:
    """Multiply-adds per second of NumPy's f32 matmul on the same shape."""
    a = np.ones((n, cols), np.float32)
    b = np.ones((rows, cols), np.float32)
    out = np.empty((n, rows), np.float32)
    return n * rows * cols / _least(lambda: np.matmul(a, b.T, out=out), 5)


def measure(w_list, n: int, repeats: int) -> float:
    """Seconds of one product with n rows, averaged over the weights, least of the passes."""
    rows, cols = w_list[0].rows, w_list[0].cols
    x = np.random.default_rng(0).standard_normal((n, cols)).astype(np.float32)
    out = np.empty((n, rows), np.float32)

    def once():
        for w in w_list:
            products.matmul(out, x, w)

    once()
    return _least(once, repeats) / len(w_list)


def _experts(n: int, repack: bool, rng) -> float:
    """Seconds of a routed feed-forward, 32 experts of 1024 x 1024, six used, IQ2_XXS and Q2_K."""
    gate, up, down = (
        weight.prepare(random_tensor(f, (32, 1024, 1024), rng), repack=repack)
        for f in ("IQ2_XXS", "IQ2_XXS", "Q2_K")
    )
    x = rng.standard_normal((n, 1024)).astype(np.float32)
    out = np.empty_like(x)
    weights = np.full((n, 6), 0.25, np.float32)
    ids = [np.argsort(rng.random((n, 32)), 1)[:, :6].astype(np.int32) for _ in range(8)]

    def once():
        for choice in ids:
            moe.routed_moe(out, x, choice, weights, gate, up, down, 10.0)

    once()
    return _least(once, 5) / len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--cols", type=int, default=4096)
    parser.add_argument("--formats", nargs="*", default=list(NATIVE), choices=NATIVE)
    parser.add_argument("--activations", default="int8", choices=("int8", "f32"))
    parser.add_argument("--no-experts", action="store_true")
    args = parser.parse_args()
    threads = set_threads(args.threads)
    rows, cols = args.rows, args.cols
    rng = np.random.default_rng(1)
    read = bandwidth(threads)
    dense = numpy_rate(512, rows, cols)
    print(f"threads {threads}, {rows} x {cols}, {args.activations}")
    print(f"memory read {read / 1e9:.1f} GB/s, numpy f32 matmul n=512 {dense / 1e9:.0f} GMAC/s")
    print("format   layout    GB/s n=1  of memory   GMAC/s n=1     n=4     n=64    n=512  of numpy")
    for name in args.formats:
        one = random_tensor(name, (rows, cols), rng)
        copies = max(1, min(8, -(-(128 << 20) // one.n_bytes)))
        tensors = [one] + [random_tensor(name, (rows, cols), rng) for _ in range(copies - 1)]
        for repack in (False, True):
            ws = [weight.prepare(t, activations=args.activations, repack=repack) for t in tensors]
            n_bytes = ws[0].repacked_bytes or one.n_bytes
            times = {n: measure(ws[: 8 if n < 64 else 2], n, 5) for n in (1, 4, 64, 512)}
            macs = {n: n * rows * cols / t for n, t in times.items()}
            rate = n_bytes / times[1]
            layout = "repacked" if repack else "in place"
            print(
                f"{name:8} {layout} {rate / 1e9:9.1f} {rate / read:9.0%}"
                f"   {macs[1] / 1e9:10.1f} {macs[4] / 1e9:8.1f} {macs[64] / 1e9:8.1f}"
                f" {macs[512] / 1e9:8.1f} {macs[512] / dense:8.2f}x"
            )
    if not args.no_experts:
        for repack in (False, True):
            took = [_experts(n, repack, rng) for n in (1, 8, 512)]
            layout = "repacked" if repack else "in place"
            print(
                f"experts (32 of 1024 x 1024, top 6, IQ2_XXS/Q2_K) {layout}:"
                f" {took[0] * 1e3:.3f} ms n=1, {took[1] * 1e3:.2f} ms n=8,"
                f" {took[2] / 512 * 1e3:.4f} ms a row at n=512"
            )


if __name__ == "__main__":
    main()
