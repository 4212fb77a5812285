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
from engine.options import EngineOptions
from engine.shape import Shape
from engine.weights.bind import MtpWeights, TrunkWeights, bind_mtp, bind_trunk, iter_tensors
from engine.weights.dspark.bind import DsparkWeights, bind_dspark
from engine.weights.dspark.identity import pairing
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
        None where no MTP block was asked for.
    dspark : DsparkWeights or None
        None where no DSpark drafter was asked for.
    """

    shape: Shape
    trunk: TrunkWeights
    mtp: MtpWeights | None = None
    dspark: DsparkWeights | None = None

    @property
    def trunk_tensors(self) -> list[Tensor]:
        """Every tensor of the trunk, in the order in which they are prepared."""
        return list(iter_tensors(self.trunk))

    @property
    def mtp_tensors(self) -> list[Tensor]:
        """Tensors of the MTP block that are its own.

        Some layouts carry a copy of the trunk's embedding and output matrix, which is not used.
        """
        if self.mtp is None:
            return []
        unused = {id(self.mtp.token_embd), id(self.mtp.output)}
        return [t for t in iter_tensors(self.mtp) if id(t) not in unused]

    @property
    def dspark_tensors(self) -> list[Tensor]:
        """Tensors of the DSpark drafter."""
        return [] if self.dspark is None else self.dspark.tensors

    @property
    def draft_tensors(self) -> list[Tensor]:
        """Tensors of all drafters."""
        return self.mtp_tensors + self.dspark_tensors

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that a session reads."""
        return self.trunk_tensors + self.draft_tensors


class ModelFiles:
    """Open files and what is bound in them; closed by `close` or as a context manager.

    Parameters
    ----------
    trunk : GGUFFile
    mtp, dspark : GGUFFile or None
    weights : ModelWeights
        Views of the files' mappings: not to be used once the files are closed.

    Attributes
    ----------
    pairing : str
        Whether trunk and DSpark drafter state one checkpoint, as `engine.weights.dspark.identity`
        puts it; '' without a drafter.
    notices : list of str
        What the user should hear of the files.
    """

    def __init__(
        self,
        trunk: GGUFFile,
        mtp: GGUFFile | None,
        weights: ModelWeights,
        dspark: GGUFFile | None = None,
    ) -> None:
        self.trunk = trunk
        self.mtp = mtp
        self.dspark = dspark
        self.weights = weights
        self.pairing = ""
        self.notices: list[str] = []

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
        return [file for file in (self.trunk, self.mtp, self.dspark) if file is not None]

    @property
    def n_bytes(self) -> int:
        """Bytes of the files: address space, paged in as it is read."""
        # A drafter that lies in the trunk's file is read from the same pages.
        sizes = {file.path: file.identity.size for file in self.all()}
        return sum(sizes.values())


def open_files(
    path: Path,
    mtp_path: Path | None = None,
    backend: str | None = None,
    kv: str = "official",
    dspark_path: Path | None = None,
    force: bool = False,
) -> ModelFiles:
    """Open and bind a model's files, and ask whether a kernel set can run them.

    Parameters
    ----------
    path : Path
        Trunk GGUF file.
    mtp_path : Path, optional
        File of the MTP block.
    backend : {'cpu', 'cuda', 'reference'}, optional
        The kernel set that is to run the model; None asks none.
    kv : {'official', 'f32'}
        How that set is to store rows of keys and values.
    dspark_path : Path, optional
        File of the DSpark drafter, which may be the trunk's.
    force : bool
        Take a drafter that states another checkpoint than the trunk.

    Raises
    ------
    GGUFError, LayoutError
        If a file is not a model that can be run, the kernel set has no kernel for one of its
        formats or sizes, or drafter and trunk state different checkpoints; none stays open.
    """
    opened = [open_gguf(path)]
    try:
        shape, trunk = bind_trunk(opened[0])
        if backend is not None:
            check_supported(escape(path.name), shape, iter_tensors(trunk), backend, kv)
        mtp_file = mtp = dspark_file = dspark = None
        if mtp_path is not None:
            mtp_file = open_gguf(mtp_path)
            opened.append(mtp_file)
            mtp = bind_mtp(mtp_file, shape)
        if dspark_path is not None:
            dspark_file = open_gguf(dspark_path)
            opened.append(dspark_file)
            dspark = bind_dspark(dspark_file, shape)
        weights = ModelWeights(shape, trunk, mtp, dspark)
        files = ModelFiles(opened[0], mtp_file, weights, dspark_file)
        if backend is not None and mtp_path is not None:
            check_supported(escape(mtp_path.name), shape, weights.mtp_tensors, backend, kv)
        if dspark_file is not None:
            if backend is not None:
                source = escape(dspark_file.path.name)
                check_supported(source, shape, weights.dspark_tensors, backend, kv)
            files.pairing, notice = pairing(opened[0], dspark_file, force)
            files.notices += [notice] if notice else []
        return files
    except BaseException:
        for file in opened:
            file.close()
        raise


def open_model(options: EngineOptions) -> ModelFiles:
    """`open_files` with what a caller chose, asking the kernel set of its backend."""
    return open_files(
        options.path,
        options.mtp_path,
        options.backend,
        options.kv,
        options.dspark_path,
        options.draft_force,
    )
