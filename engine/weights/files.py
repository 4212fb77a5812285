"""A model's files, open and bound: the trunk, and the draft block where one is asked for.

The files are mapped, checked against the shape and their tensors named. No kernel set is known
here, and nothing is allocated for weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from engine.gguf.reader import GGUFFile, open_gguf
from engine.gguf.values import escape
from engine.shape import Shape
from engine.weights.bind import MtpWeights, TrunkWeights, bind_mtp, bind_trunk, iter_tensors
from engine.weights.support import check_supported
from engine.weights.tensor import Tensor


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """The tensors of a model by their role, as the files hold them.

    Parameters
    ----------
    shape : Shape
    trunk : TrunkWeights
    mtp : MtpWeights or None
        None where nothing can be drafted.
    """

    shape: Shape
    trunk: TrunkWeights
    mtp: MtpWeights | None = None

    @property
    def trunk_tensors(self) -> list[Tensor]:
        """Every tensor of the trunk, in the order in which they are prepared."""
        return list(iter_tensors(self.trunk))

    @property
    def draft_tensors(self) -> list[Tensor]:
        """Tensors of the draft block that are its own.

        Some layouts carry a copy of the trunk's embedding and output matrix, which is not used.
        """
        if self.mtp is None:
            return []
        unused = {id(self.mtp.token_embd), id(self.mtp.output)}
        return [t for t in iter_tensors(self.mtp) if id(t) not in unused]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that a session reads."""
        return self.trunk_tensors + self.draft_tensors


class ModelFiles:
    """Open files and what is bound in them; closed by `close` or as a context manager.

    Parameters
    ----------
    trunk : GGUFFile
    mtp : GGUFFile or None
    weights : ModelWeights
        Views of the files' mappings: not to be used once the files are closed.
    """

    def __init__(self, trunk: GGUFFile, mtp: GGUFFile | None, weights: ModelWeights) -> None:
        self.trunk = trunk
        self.mtp = mtp
        self.weights = weights

    def __enter__(self) -> ModelFiles:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the mappings."""
        for file in self.all():
            file.close()

    def all(self) -> list[GGUFFile]:
        """The files, the trunk's first."""
        return [file for file in (self.trunk, self.mtp) if file is not None]

    @property
    def n_bytes(self) -> int:
        """Bytes of the files: address space, paged in as it is read."""
        return sum(file.identity.size for file in self.all())


def open_files(
    path: Path, mtp_path: Path | None = None, backend: str | None = None, kv: str = "official"
) -> ModelFiles:
    """Open and bind a model's files, and ask whether a kernel set can run them.

    Parameters
    ----------
    path : Path
        Trunk GGUF file.
    mtp_path : Path, optional
        File of the draft block.
    backend : {'cpu', 'cuda', 'reference'}, optional
        The kernel set that is to run the model; None asks none.
    kv : {'official', 'f32'}
        How that set is to store rows of keys and values.

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run, or the kernel set has no kernel for one of its
        formats or sizes; none stays open.
    """
    opened = [open_gguf(path)]
    try:
        shape, trunk = bind_trunk(opened[0])
        if backend is not None:
            check_supported(escape(path.name), shape, iter_tensors(trunk), backend, kv)
        if mtp_path is None:
            return ModelFiles(opened[0], None, ModelWeights(shape, trunk))
        mtp_file = open_gguf(mtp_path)
        opened.append(mtp_file)
        weights = ModelWeights(shape, trunk, bind_mtp(mtp_file, shape))
        if backend is not None:
            name = escape(mtp_path.name)
            check_supported(name, shape, weights.draft_tensors, backend, kv)
        return ModelFiles(opened[0], mtp_file, weights)
    except BaseException:
        for file in opened:
            file.close()
        raise
