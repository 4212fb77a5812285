"""Speed of the products beside this machine's own limits: ``python -m engine.ops.cpu.bench``.

Decoding reads every matrix once a token, from memory, so products of one row are measured cold:
copies of a matrix that together exceed the caches, in the shapes that models have. Beside them
stands the bandwidth of plain reads, by the kind of pages, before, between and after, with its
spread; a share of bandwidth means nothing without it. All layouts and numbers of threads of a
matrix are measured in turns, forth and back, every product on its own, and a figure is the lower
quartile: other work on the machine lengthens many products but hardly all. Weights are random.
Prints Markdown tables. Knows no model and no file.
"""

from __future__ import annotations

import argparse
import mmap
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.ops.cpu import moe, products
from engine.ops.cpu.formats import weight
from engine.ops.cpu.runtime.jit import kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import set_threads, team
from engine.ops.cpu.simd.ir import I32, emitter, isa, vec
from engine.quant.formats import BY_NAME, KERNELS
from engine.weights.tensor import Tensor

# Shapes of the matrices of a small model and of Flash; the 24 rows are hyper-connections, floats.
SHAPES = ("512x1024", "8192x512", "1024x2048", "24x4096", "4096x4096")
_FEW_ROWS = 32  # below this a matrix is measured in float formats only
_FLOATS = ("F32", "F16", "BF16")
PAGES = ("huge", "4K", "file")


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


# Byte offsets of the f16 factors of a block (source: GGML's block structures).
PLACES = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q5_0", "IQ4_NL", "IQ2_XXS", "IQ2_XS", "IQ2_S"), (0,)),
    **dict.fromkeys(("IQ3_XXS", "IQ3_S", "IQ1_S", "IQ4_XS", "F16"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "TQ1_0": (52,), "TQ2_0": (64,)},
}


def random_tensor(name: str, shape: tuple[int, ...], rng) -> Tensor:
    """A tensor of random bytes with ordinary scales (values of the order of 1)."""
    form = BY_NAME[name]
    n_blocks = int(np.prod(shape)) // form.block_len
    data = rng.integers(0, 256, (n_blocks, form.block_bytes), dtype=np.uint8)
    half = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    places = PLACES
    for at in places.get(name, ()):
        data[:, at : at + 2] = half
    if name == "MXFP4":
        data[:, 0] = 120
    if name == "NVFP4":
        data[:, :4] = 40
    if name == "IQ1_M":  # the factor's four nibbles, high ones of four words
        for k, nibble in enumerate((0xF, 0x1, 0x1, 0x2)):
            data[:, 49 + 2 * k] = data[:, 49 + 2 * k] & 15 | nibble << 4
    if name in ("F32", "BF16"):
        data[:, -2:] = np.frombuffer(np.float32(0.01).tobytes(), np.uint8)[2:]
    return Tensor("bench", form, shape, data.reshape(-1))


@dataclass(frozen=True, slots=True)
class Pages:
    """Memory to read, in pages of one kind."""

    kind: str
    data: np.ndarray


def pages(n_bytes: int, folder: Path) -> Iterator[Pages]:
    """Memory of every kind of pages that this system has: all of it touched, none in a cache."""
    advice = {"huge": "MADV_HUGEPAGE", "4K": "MADV_NOHUGEPAGE"}
    for kind in PAGES:
        if kind == "file":
            path = folder / "pages"
            with path.open("wb") as out:
                for _ in range(n_bytes >> 20):
                    out.write(bytes(range(256)) * 4096)
            with path.open("rb") as file:
                memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        elif hasattr(mmap, advice[kind]):
            memory = mmap.mmap(-1, n_bytes)
            memory.madvise(getattr(mmap, advice[kind]))
        else:
            continue
        data = np.frombuffer(memory, np.uint8)
        if kind != "file":
            data[:] = 1
        yield Pages(kind, data)


def read_rate(data: np.ndarray, n_threads: int) -> float:
    """Bytes per second of one pass over the data, a stream a thread."""
    sink = np.zeros(512 * n_threads, np.uint8)
    start = time.perf_counter()
    _read_all(team(), data, sink, n_threads)
    return data.nbytes / (time.perf_counter() - start)


class Bandwidth:
    """Samples of read bandwidth by kind of pages and number of threads."""

    def __init__(self, kinds: list[Pages], threads: list[int]):
        self._kinds, self._threads = kinds, threads
        self.samples: dict[tuple[str, int], list[float]] = {}

    def sample(self) -> None:
        for n in self._threads:
            set_threads(n)
            for p in self._kinds:
                read_rate(p.data, n)  # the threads are awake, the pages mapped
                rates = self.samples.setdefault((p.kind, n), [])
                rates.extend(read_rate(p.data, n) for _ in range(3))

    def best(self, n: int) -> float:
        """Median of the fastest kind with n threads."""
        return max(statistics.median(s) for (_, m), s in self.samples.items() if m == n)

    def table(self) -> Iterator[str]:
        yield "| pages | threads | GB/s, median | least | most |"
        yield "|---|---|---|---|---|"
        for (kind, n), rates in self.samples.items():
            low, middle, high = (f(rates) / 1e9 for f in (min, statistics.median, max))
            yield f"| {kind} | {n} | {middle:.1f} | {low:.1f} | {high:.1f} |"


def numpy_rate(n: int, rows: int, cols: int) -> float:
    """Multiply-adds per second of NumPy's f32 matmul on the same shape."""
    a = np.ones((n, cols), np.float32)
    b = np.ones((rows, cols), np.float32)
    out = np.empty((n, rows), np.float32)
    return n * rows * cols / _least(lambda: np.matmul(a, b.T, out=out), 5)


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds of one cold product by (repacked, threads), and the bytes that each layout reads.

    A quarter of the products took no longer.
    """

    name: str
    shape: tuple[int, int]
    seconds: dict[tuple[bool, int], float]
    n_bytes: dict[bool, int]

    def rate(self, repacked: bool, n: int) -> float:
        return self.n_bytes[repacked] / self.seconds[repacked, n]

    def ratio(self, n: int) -> float:
        """Speed in place, repacked being 1."""
        return self.seconds[True, n] / self.seconds[False, n]


def copies(tensor: Tensor, n: int) -> list[Tensor]:
    """The tensor and copies of it, n in all, each in memory of its own."""
    more = (tensor.data.copy() for _ in range(n - 1))
    return [tensor, *(Tensor(tensor.name, tensor.format, tensor.shape, data) for data in more)]


def cold(
    name: str,
    shape: tuple[int, int],
    threads: list[int],
    *,
    cold_bytes: int,
    turns: int,
    activations: str,
    rng,
) -> Row:
    """Products of one row with as many copies of a matrix as hold cold_bytes."""
    rows, cols = shape
    tensors = [random_tensor(name, shape, rng)]
    tensors = copies(tensors[0], max(1, -(-cold_bytes // tensors[0].n_bytes)))
    layouts = {
        repacked: [weight.prepare(t, activations=activations, repack=repacked) for t in tensors]
        for repacked in (False, True)
    }
    x = rng.standard_normal((1, cols)).astype(np.float32)
    out = np.empty((1, rows), np.float32)
    cases = [(repacked, n) for n in threads for repacked in layouts]
    taken: dict[tuple[bool, int], list[float]] = {case: [] for case in cases}

    def once(case, keep: bool) -> None:
        repacked, n = case
        set_threads(n)
        for w in layouts[repacked]:
            start = time.perf_counter()
            products.matmul(out, x, w)
            if keep:
                taken[case].append(time.perf_counter() - start)

    for case in cases:
        once(case, False)
    for _ in range(turns):
        for case in (*cases, *reversed(cases)):
            once(case, True)
    n_bytes = {False: tensors[0].n_bytes, True: layouts[True][0].repacked_bytes}
    seconds = {case: float(np.quantile(t, 0.25)) for case, t in taken.items()}
    return Row(name, shape, seconds, n_bytes)


def table(rows: list[Row], threads: list[int], bandwidth: Bandwidth) -> Iterator[str]:
    """Microseconds and GB/s by layout and threads, and in place beside repacked."""
    cells = [
        f"{what}, {n} thr."
        for n in threads
        for what in ("in place us (GB/s)", "repacked us (GB/s)", "of memory", "in place/repacked")
    ]
    yield "| format | shape | " + " | ".join(cells) + " |"
    yield "|---|---|" + "---|" * len(cells)
    for row in rows:
        found = []
        for n in threads:
            for repacked in (False, True):
                us = row.seconds[repacked, n] * 1e6
                found.append(f"{us:.1f} ({row.rate(repacked, n) / 1e9:.1f})")
            share = row.rate(True, n) / bandwidth.best(n)
            found += [f"{share:.0%}", f"{row.ratio(n):.2f}"]
        yield f"| {row.name} | {row.shape[0]}x{row.shape[1]} | " + " | ".join(found) + " |"


def prefill_table(names: list[str], n: int, shape: tuple[int, int], rng) -> Iterator[str]:
    """Multiply-adds per second with n rows of x, repacked, beside NumPy's f32 matmul."""
    rows, cols = shape
    dense = numpy_rate(n, rows, cols)
    x = rng.standard_normal((n, cols)).astype(np.float32)
    out = np.empty((n, rows), np.float32)
    yield f"| format | GMAC/s, n = {n} | of numpy's {dense / 1e9:.0f} |"
    yield "|---|---|---|"
    for name in names:
        w = weight.prepare(random_tensor(name, shape, rng), repack=True)
        products.matmul(out, x, w)

        def once(w=w) -> None:
            products.matmul(out, x, w)

        rate = n * rows * cols / _least(once, 3)
        yield f"| {name} | {rate / 1e9:.0f} | {rate / dense:.2f} |"


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


def _shape(text: str) -> tuple[int, int]:
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal() and int(rows) and int(cols)):
        raise argparse.ArgumentTypeError(f"expected ROWSxCOLS, found {text!r}")
    return int(rows), int(cols)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    known = KERNELS["cpu"]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads, in turns")
    add("--shapes", type=_shape, nargs="+", default=[_shape(s) for s in SHAPES], metavar="RxC")
    add("--formats", nargs="+", default=list(known), choices=known, metavar="NAME")
    add("--activations", default="int8", choices=("int8", "f32"))
    add("--cold", type=int, default=64, metavar="MIB", help="copies of a matrix, in all")
    add("--turns", type=int, default=3, help="there and back; two figures each")
    add("--prefill", type=int, default=512, metavar="ROWS", help="rows of x; 0 leaves it out")
    add("--no-experts", action="store_true", help="leave the routed feed-forward out")
    args = parser.parse_args(arguments)
    for name in ("cold", "turns"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: expected 1 or more, found {getattr(args, name)}")
    if min(args.threads) < 1:
        parser.error(f"--threads: expected 1 or more, found {min(args.threads)}")
    return args


def _fits(name: str, shape: tuple[int, int]) -> bool:
    rows, cols = shape
    return cols % BY_NAME[name].block_len == 0 and (rows >= _FEW_ROWS or name in _FLOATS)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    args = _arguments(arguments)
    threads = sorted({set_threads(n) for n in args.threads})
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        bandwidth = Bandwidth(list(pages(args.cold << 20, Path(folder))), threads)
        bandwidth.sample()
        rows = []
        for shape in args.shapes:
            for name in args.formats:
                if _fits(name, shape):
                    _progress(f"{name} {shape[0]}x{shape[1]}")
                    rows.append(
                        cold(
                            name,
                            shape,
                            threads,
                            cold_bytes=args.cold << 20,
                            turns=args.turns,
                            activations=args.activations,
                            rng=rng,
                        )
                    )
            bandwidth.sample()
    print(f"Instruction set {isa()}, {args.activations} activations, {args.cold} MiB of copies.\n")
    print(*bandwidth.table(), "", *table(rows, threads, bandwidth), sep="\n")
    set_threads(threads[-1])
    if args.prefill:
        square = max(args.shapes, key=lambda s: s[0] * s[1])
        fitting = [name for name in args.formats if _fits(name, square)]
        print("", *prefill_table(fitting, args.prefill, square, rng), sep="\n")
    if not args.no_experts:
        print("\n| experts (32 of 1024x1024, top 6, IQ2_XXS/Q2_K) | n = 1 | n = 8 | n = 512 |")
        print("|---|---|---|---|")
        for repack in (False, True):
            took = " | ".join(f"{_experts(n, repack, rng) * 1e3:.2f} ms" for n in (1, 8, 512))
            print(f"| {'repacked' if repack else 'in place'} | {took} |")


if __name__ == "__main__":
    main()
