"""llama.cpp as a peer: a GGUF file evaluated through llama-cpp-python's low-level API."""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from engine.errors import BackendError, ModelFileError

INSTALL = "pip install 'ds4bench[peer]'"
BATCH = 512  # tokens per llama_decode, and per graph
KV_TYPES = {"f32": 0, "f16": 1}  # ggml_type
_FLASH_ATTENTION_OFF = 0  # enum llama_flash_attn_type


def require_llama_cpp() -> ModuleType:
    """The llama_cpp module, imported now.

    Raises
    ------
    BackendError
        If llama-cpp-python is missing or does not load.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise BackendError(f"llama.cpp: expected llama-cpp-python ({INSTALL}), found no llama_cpp")
    try:
        found = importlib.import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise BackendError(
            f"llama.cpp: expected a llama-cpp-python that loads, found {error}"
        ) from error
    return found


class SystemInfo(Protocol):
    """The part of llama_cpp that says what it was built for."""

    def llama_print_system_info(self) -> bytes: ...


@functools.cache
def _quiet(lib: Any) -> Any:
    """A log callback that says nothing.

    Kept for the life of the process: the library holds only its address, and calls it for models
    that others load later.
    """
    return lib.llama_log_callback(lambda *_: None)


def built_with_amx(lib: SystemInfo) -> bool:
    """Whether the library repacks 8-bit and 4-bit weights for AMX.

    On such a build this architecture's files with Q8_0 weights abort the process: the graph views
    `attn_output_a` in three dimensions, for which AMX has no product ("cur_backend_id != -1"; seen
    in 0.3.36), and a virtual machine may show AMX and trap its instructions.
    """
    return b"AMX_INT8 = 1" in lib.llama_print_system_info()


class LlamaCpp:
    """One model opened by llama.cpp and at most one context over it.

    Everything runs on the CPU: no offload, flash attention off, no GPU layers. Weights stay as they
    are in the file where the build would repack them for AMX (`amx_off`).

    Parameters
    ----------
    path : Path
        Trunk GGUF file.
    threads : int
        Worker threads of prefill and of decode.
    kv : {'f16', 'f32'}
        Type of its KV cache; f16 is its default.

    Raises
    ------
    BackendError
        If llama-cpp-python is missing or does not load.
    ModelFileError
        If llama.cpp refuses the file.
    """

    name = "llama.cpp"

    def __init__(self, path: Path, threads: int, kv: str = "f16") -> None:
        self._lib: Any = require_llama_cpp()
        self.threads = threads
        self._kv = KV_TYPES[kv]
        self._context: Any = None
        self._model: Any = None
        lib = self._lib
        lib.llama_log_set(_quiet(lib), ctypes.c_void_p(0))
        lib.llama_backend_init()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.amx_off = built_with_amx(lib)
        if self.amx_off:
            params.use_extra_bufts = False
        self._model = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise ModelFileError(f"{path}: expected a model that llama.cpp loads, found refusal")
        self.n_vocab: int = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = lib.llama_batch_init(BATCH, 0, 1)
        self._row = 0  # of the logits that belong to the last token

    def start(self, n_ctx: int) -> None:
        """Begin a fresh timeline with room for `n_ctx` tokens."""
        lib = self._lib
        self._free_context()
        params = lib.llama_context_default_params()
        params.n_ctx = -(-n_ctx // 256) * 256
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = _FLASH_ATTENTION_OFF
        params.offload_kqv = params.op_offload = False
        params.type_k = params.type_v = self._kv
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise BackendError(f"llama.cpp: expected a context of {n_ctx} tokens, found refusal")
        found = lib.llama_n_threads(self._context), lib.llama_n_threads_batch(self._context)
        if found != (self.threads, self.threads):
            raise BackendError(f"llama.cpp: expected {self.threads} threads, found {found}")
        self._pos = 0

    def prefill(self, ids: list[int]) -> None:
        """Append tokens; logits of the last one only."""
        for first in range(0, len(ids), BATCH):
            self._decode(ids[first : first + BATCH], every=False)

    def decode(self, token: int) -> None:
        """Append one token."""
        self._decode([token], every=False)

    def top(self) -> int:
        """Most likely token after the last one."""
        row = self._lib.llama_get_logits_ith(self._context, self._row)
        return int(np.ctypeslib.as_array(row, (self.n_vocab,)).argmax())

    def all_logits(self, ids: list[int]) -> np.ndarray:
        """Logits of every token of a fresh timeline, float32 (n, n_vocab)."""
        self.start(len(ids))
        out = np.empty((len(ids), self.n_vocab), np.float32)
        for first in range(0, len(ids), BATCH):
            part = ids[first : first + BATCH]
            self._decode(part, every=True)
            rows = self._lib.llama_get_logits(self._context)
            out[first : first + len(part)] = np.ctypeslib.as_array(rows, (len(part), self.n_vocab))
        return out

    def close(self) -> None:
        """Free everything; safe to call twice."""
        self._free_context()
        if self._model:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_model_free(self._model)
            self._model = None

    def _decode(self, ids: list[int], *, every: bool) -> None:
        batch = self._batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = self._pos + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = every or i == len(ids) - 1
        status = self._lib.llama_decode(self._context, batch)
        if status:
            raise BackendError(f"llama_decode: expected status 0, found {status}")
        # Without this the call may return before the graph has run.
        self._lib.llama_synchronize(self._context)
        self._pos += len(ids)
        self._row = len(ids) - 1

    def _free_context(self) -> None:
        if self._context:
            self._lib.llama_free(self._context)
            self._context = None
