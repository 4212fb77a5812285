"""A generated model as a GGUF file: entries, keys and vocabulary written once and published whole.

Which tensors and keys a model has is `engine.models.write`'s and `write_dspark`'s matter.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import OptionError
from engine.models.make import Spec
from engine.models.stream import encoded, encoded_values, spec_bytes
from engine.models.vocab import CHAT_TEMPLATE, PRE_TOKENIZER, Vocab
from engine.quant.formats import Format
from engine.shape import DsparkShape

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """What was written."""

    path: Path
    n_bytes: int
    sha256: str
    n_params: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Weights that are given, where others are drawn.

    Parameters
    ----------
    weights : mapping of str to array
        Under the names of `make`; float32, hash tables int32 or int64.
    vocab : Vocab
    name : str
        The file's general.name.
    spark : DsparkShape, optional
        Of a DSpark drafter's weights.
    """

    weights: Mapping[str, np.ndarray]
    vocab: Vocab
    name: str
    spark: DsparkShape | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file: its name there, and the specs that lie side by side in it."""

    name: str
    parts: tuple[Spec, ...]
    format: Format

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        return (*first[:-1], sum(p.shape[-1] for p in self.parts))

    @property
    def n_bytes(self) -> int:
        return sum(spec_bytes(p, self.format) for p in self.parts)

    def data(self, seed: int, quick: bool, trained: Trained | None) -> Iterator[np.ndarray]:
        if len(self.parts) == 1:
            return self._part(self.parts[0], seed, quick, trained)
        rows = self.parts[0].shape[0]
        columns = [np.concatenate(list(self._part(p, seed, quick, trained))) for p in self.parts]
        return iter([np.concatenate([c.reshape(rows, -1) for c in columns], axis=1).reshape(-1)])

    def _part(
        self, spec: Spec, seed: int, quick: bool, trained: Trained | None
    ) -> Iterator[np.ndarray]:
        if trained is None:
            return encoded(spec, self.format, seed, quick)
        return encoded_values(spec, self.format, trained.weights[spec.name])


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds.

    Parameters
    ----------
    architecture : str
    keys : dict of str to value
        Metadata in order; floats are binary32 in the file.
    vocab : Vocab or None
    entries : list of Entry
    """

    architecture: str
    keys: dict[str, object]
    vocab: Vocab | None
    entries: list[Entry]


def publish(
    path: Path,
    content: Content,
    seed: int,
    *,
    force: bool = False,
    quick: bool = False,
    trained: Trained | None = None,
    progress: Progress | None = None,
) -> WrittenModel:
    """Write a file that appears under its name only when it is complete; see `write_model`.

    Raises
    ------
    OptionError
        If the file appeared in the meantime, without `force`.
    """
    entries = content.entries
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        digest, size = _write_file(
            temporary,
            content.architecture,
            content.keys,
            content.vocab,
            entries,
            lambda entry: entry.data(seed, quick, trained),
            progress,
            quick,
        )
        _publish(temporary, path, force)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    n_params = sum(int(np.prod(e.shape, dtype=np.int64)) for e in entries if e.format.name != "I32")
    return WrittenModel(path, size, digest, n_params)


def check_target(path: Path, force: bool) -> None:
    """Refuse a path that cannot be written, or must not be, before any work is done.

    Raises
    ------
    OptionError
        If the folder is missing, the path is a folder, or the file exists without `force`.
    """
    if not path.parent.is_dir():
        raise OptionError(f"out: expected an existing folder, found {str(path.parent)!r}")
    if path.is_dir():
        raise OptionError(f"out: expected a file name, found the folder {str(path)!r}")
    if path.exists() and not force:
        raise OptionError(f"out: expected a new file (or --force), found {str(path)!r}")


def _publish(temporary: Path, path: Path, force: bool) -> None:
    if force:
        os.replace(temporary, path)
        return
    try:
        # A link never replaces a file that appeared in the meantime; a rename would.
        os.link(temporary, path)
    except FileExistsError:
        raise OptionError(f"out: expected a new file (or --force), found {str(path)!r}") from None
    except OSError:
        os.replace(temporary, path)  # a file system without hard links


def _write_file(
    path: Path,
    architecture: str,
    keys: dict[str, object],
    vocab: Vocab | None,
    entries: list[Entry],
    data: Callable[[Entry], Iterator[np.ndarray]],
    progress: Progress | None,
    quick: bool,
) -> tuple[str, int]:
    """Write everything to a new file and flush it to the disk; returns (sha256, bytes).

    A quick file is neither flushed nor hashed; its sha256 is ''.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in keys.items():
        _add(writer, key, value)
    if vocab is not None:
        _add_vocab(writer, vocab)
    for e in entries:
        kind = gguf.GGMLQuantizationType(e.format.type_id)
        writer.add_tensor_info(e.name, e.shape, np.dtype(np.float32), e.n_bytes, kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        assert writer.fout is not None
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        total = sum(e.n_bytes for e in entries)
        done = 0
        for e in entries:
            written = 0
            for piece in data(e):
                file.write(piece.data)
                written += piece.nbytes
                if progress is not None:
                    progress(e.name, done + written, total)
            assert written == e.n_bytes, (e.name, written, e.n_bytes)
            done += written
            writer.write_padding(file, written)
        file.flush()
        size = file.tell()
        if not quick:
            os.fsync(file.fileno())
    finally:
        writer.close()
    if quick:
        return "", size
    with path.open("rb") as written_file:
        digest = hashlib.sha256()
        while part := written_file.read(1 << 20):
            digest.update(part)
        return digest.hexdigest(), written_file.tell()


def _add(writer: object, key: str, value: object) -> None:
    kind = type(value[0] if isinstance(value, list) else value)
    if isinstance(value, list):
        writer.add_array(key, value)  # type: ignore[attr-defined]
    else:
        method = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string"}
        getattr(writer, method[kind])(key, value)


def _add_vocab(writer: object, vocab: Vocab) -> None:
    writer.add_tokenizer_model("gpt2")  # type: ignore[attr-defined]
    writer.add_tokenizer_pre(PRE_TOKENIZER)  # type: ignore[attr-defined]
    writer.add_token_list(list(vocab.tokens))  # type: ignore[attr-defined]
    writer.add_token_types(list(vocab.types))  # type: ignore[attr-defined]
    writer.add_token_merges(list(vocab.merges))  # type: ignore[attr-defined]
    writer.add_bos_token_id(vocab.bos)  # type: ignore[attr-defined]
    writer.add_eos_token_id(vocab.eos)  # type: ignore[attr-defined]
    writer.add_pad_token_id(vocab.pad)  # type: ignore[attr-defined]
    writer.add_add_bos_token(True)  # type: ignore[attr-defined]
    writer.add_chat_template(CHAT_TEMPLATE)  # type: ignore[attr-defined]
