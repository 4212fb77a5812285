"""CUDA C compiled at run time and launched on torch's stream, through NVIDIA's own libraries only.

torch has a private helper for the same, which needs a CUDA toolkit and setuptools beside torch;
the compiler library that torch brings along is enough.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import torch


class Kernels:
    """The kernels of one source, by name.

    Parameters
    ----------
    source : str
        CUDA C without includes.
    names : tuple of str
        Of ``extern "C"`` kernels.

    Raises
    ------
    OSError
        If a library is missing.
    RuntimeError
        If the source does not compile or the device refuses it.
    """

    def __init__(self, source: str, names: tuple[str, ...]) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        torch.cuda.current_stream().synchronize()  # makes sure of a context
        module = ctypes.c_void_p()
        code = _compile(source)
        self._call("cuModuleLoadData", ctypes.byref(module), code)
        self._functions = {}
        for name in names:
            function = ctypes.c_void_p()
            self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
            self._functions[name] = function

    def _call(self, name: str, *args: Any) -> None:
        status = getattr(self._driver, name)(*args)
        if status:
            raise RuntimeError(f"{name}: expected status 0, found {status}")

    def launch(self, name: str, n_block: int, n_thread: int, args: list[Any]) -> None:
        """Start a kernel on the current stream.

        Parameters
        ----------
        args : list
            Tensors are passed as pointers, int as int, float as double.
        """
        values: list[Any] = []
        for a in args:
            if isinstance(a, torch.Tensor):
                values.append(ctypes.c_void_p(a.data_ptr()))
            else:
                values.append(ctypes.c_double(a) if isinstance(a, float) else ctypes.c_int(a))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        size = (n_block, 1, 1, n_thread, 1, 1, 0)
        self._call(
            "cuLaunchKernel",
            self._functions[name],
            *(ctypes.c_uint(v) for v in size),
            stream,
            pointers,
            None,
        )


def _library() -> ctypes.CDLL:
    """NVRTC of torch's own CUDA version: a loaded or installed one, or that beside torch."""
    major = str(torch.version.cuda).split(".")[0]
    file = f"libnvrtc.so.{major}"
    beside = Path(torch.__file__).parent.parent / "nvidia"
    tried = [file, *map(str, sorted(beside.glob(f"**/{file}"))), "libnvrtc.so"]
    for name in tried:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"NVRTC: expected one of {', '.join(tried)}, found none on {sys.platform}")


def _compile(source: str) -> bytes:
    nvrtc = _library()
    program = ctypes.c_void_p()

    def call(name: str, *args: Any) -> None:
        status = getattr(nvrtc, name)(*args)
        if status:
            log = ""
            if name == "nvrtcCompileProgram":
                size = ctypes.c_size_t()
                nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
                text = ctypes.create_string_buffer(size.value)
                nvrtc.nvrtcGetProgramLog(program, text)
                log = f": {text.value.decode(errors='replace')}"
            raise RuntimeError(f"{name}: expected status 0, found {status}{log}")

    major, minor = torch.cuda.get_device_capability()
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture=sm_{major}{minor}".encode())
    text = source.encode()
    call("nvrtcCreateProgram", ctypes.byref(program), text, b"kernels.cu", 0, None, None)
    call("nvrtcCompileProgram", program, 1, options)
    size = ctypes.c_size_t()
    call("nvrtcGetCUBINSize", program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    call("nvrtcGetCUBIN", program, code)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw
