"""The CUDA kernels of training, compiled as C++ and run thread by thread against the chains."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

from engine.training.fused import SOURCE  # noqa: E402
from engine.training.plain import sinkhorn_plainly, turned_plainly  # noqa: E402

SHIM = """
#include <cmath>
#define __device__
#define __global__
struct Index { int x; };
static Index blockIdx, blockDim = {1}, threadIdx = {0};
extern "C" void set_thread(int i) { blockIdx.x = i; }
"""


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder: Path = tmp_path_factory.mktemp("fused")
    (folder / "k.cpp").write_text(SHIM + SOURCE)
    command = [
        compiler,
        "-O1",
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "k.so"),
        str(folder / "k.cpp"),
    ]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(folder / "k.so"))


def launch(kernels: ctypes.CDLL, name: str, n: int, *args: object) -> None:
    """Every thread of a kernel, one more than there is work for, in turn."""
    given = [
        ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor)
        else ctypes.c_double(a) if isinstance(a, float) else ctypes.c_int(a)  # type: ignore[arg-type]
        for a in args
    ]  # fmt: skip
    for i in range(n + 1):
        kernels.set_thread(i)
        getattr(kernels, name)(*given)


@pytest.mark.parametrize("n_iter", [1, 5, 20])
def test_sinkhorn(kernels: ctypes.CDLL, n_iter: int) -> None:
    torch.manual_seed(1)
    x, g = 2 * torch.randn(50, 16), torch.randn(50, 16)
    y, dx = torch.empty(50, 16), torch.empty(50, 16)
    exact = x.double().requires_grad_()
    plain = sinkhorn_plainly(exact, n_iter, 1e-6).reshape(50, 16)
    (gradient,) = torch.autograd.grad(plain, exact, g.double())
    launch(kernels, "sinkhorn_forward", 50, x, y, 50, n_iter, 1e-6)
    launch(kernels, "sinkhorn_backward", 50, x, g, dx, 50, n_iter, 1e-6)
    # Values below 1. The last division by a sum leaves up to 5 roundings of 2^-24; what earlier
    # ones left, the later ones shrink.
    bound = 16 * 2**-24
    torch.testing.assert_close(y.double(), plain.detach(), atol=bound, rtol=0)
    torch.testing.assert_close(dx.double(), gradient, atol=bound, rtol=0)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("n_head", [1, 3])
@pytest.mark.parametrize("half_in", [False, True])
@pytest.mark.parametrize("half_out", [False, True])
def test_turn(kernels: ctypes.CDLL, back: bool, n_head: int, half_in: bool, half_out: bool) -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 8, n_head, 96).to(torch.bfloat16 if half_in else torch.float32)
    y = torch.empty(x.shape, dtype=torch.bfloat16 if half_out else torch.float32)
    angle = torch.randn(8, 32)
    cos, sin = angle.cos(), angle.sin()
    sign = -1.0 if back else 1.0
    n = x.numel() // 2
    args = (x, int(half_in), y, int(half_out), cos, sin, n, 96, 64, n_head, 8, sign)
    launch(kernels, "turn", n, *args)
    expected = turned_plainly(x, cos.unsqueeze(-2), sign * sin.unsqueeze(-2)).to(y.dtype)
    # Two products below 16 (|x| < 5) and their sum: 3 roundings, in either order of contraction.
    # One bfloat16 step more where its rounding is a tie within that.
    torch.testing.assert_close(y, expected, atol=16 * 2**-24, rtol=2**-7 if half_out else 0)
