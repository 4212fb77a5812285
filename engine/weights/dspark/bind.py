"""From an open file to a DSpark drafter's tensors: layout, shape and every mismatch by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.errors import LayoutError
from engine.gguf.reader import GGUFFile
from engine.gguf.tensor import Tensor
from engine.gguf.values import escape
from engine.shape import DsparkShape, Shape
from engine.weights import layout as checks
from engine.weights.bind import LayerWeights, iter_tensors
from engine.weights.dspark import layouts
from engine.weights.layout import FLOATS, MATRICES, Mismatch, Spec

# Rows of a verification, the pending token and a block, that can be taken back.
MAX_BLOCK = 15
_ARCHITECTURES = {
    "A": ("deepseek4-dspark", "deepseek4"),
    "B": ("deepseek4-dspark", "deepseek4"),
    "C": ("dflash",),
}
_IGNORED = re.compile(r"exp_probs_b_vl\.bias$")


@dataclass(frozen=True, slots=True)
class DsparkWeights:
    """Tensors of a drafter; `main_proj` is cut into the columns of each tap.

    `layout` is 'A', 'B' or 'C' (see `layouts`).
    """

    spark: DsparkShape
    layout: str
    main_proj: tuple[Tensor, ...]
    main_norm: Tensor
    stages: tuple[LayerWeights, ...]
    norm: Tensor
    hc_head_fn: Tensor
    hc_head_base: Tensor
    hc_head_scale: Tensor
    markov_w1: Tensor
    markov_w2: Tensor
    conf_proj: Tensor

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor, in the order in which they are prepared."""
        return list(self._tensors())

    def _tensors(self) -> Iterator[Tensor]:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield value
            elif field.name == "main_proj":
                yield from value
            elif field.name == "stages":
                for stage in value:
                    yield from iter_tensors(stage)


def has_dspark(file: GGUFFile) -> bool:
    """Whether a file holds a drafter, alone or beside a trunk."""
    return layouts.layout_of(file.tensors) is not None


def bind_dspark(file: GGUFFile, shape: Shape) -> DsparkWeights:
    """Validate a drafter of any layout against the trunk's shape and name its tensors.

    Parameters
    ----------
    file : GGUFFile
        A drafter's file, or a trunk's that carries one.
    shape : Shape
        Of the trunk that is drafted for.

    Raises
    ------
    LayoutError
        If the file holds no drafter, one of another architecture, or one that does not fit.
    """
    source = escape(file.path.name)
    _refuse_foreign(file, source)
    layout = layouts.layout_of(file.tensors)
    if layout is None:
        raise LayoutError(
            f"{source}: expected a DSpark drafter (mtp.0.main_proj.weight, "
            "dspark.main_proj.weight or fc.weight), found none of these tensors"
        )
    architecture = file.metadata.get_str("general.architecture")
    if architecture not in _ARCHITECTURES[layout]:
        allowed = " or ".join(map(repr, _ARCHITECTURES[layout]))
        raise file.metadata.error("general.architecture", f"{allowed} (layout {layout})")
    if layout == "C":
        _check_repeated(file, shape)
    spark = _spark_shape(file, layout, shape)
    own, stages = _specs(layout, shape, spark)
    specs = [*own.values(), *(spec for stage in stages for spec in stage.values())]
    found = checks.mismatches(file.tensors, specs)
    found += _unexpected(file, layout, {spec.name for spec in specs})
    checks.raise_for(source, found)
    bound = {f: _reshaped(file, spec) for f, spec in own.items()}
    main = _columns(source, bound.pop("main_proj"), spark.n_tap)
    layers = tuple(
        LayerWeights(**{f: _reshaped(file, spec) for f, spec in stage.items()}) for stage in stages
    )
    return DsparkWeights(spark=spark, layout=layout, main_proj=main, stages=layers, **bound)


def _refuse_foreign(file: GGUFFile, source: str) -> None:
    architecture = file.metadata.get("general.architecture")
    if isinstance(architecture, str) and architecture.startswith("deepseek41"):
        raise LayoutError(
            f"{source}: general.architecture: expected a drafter of a V4 trunk, found "
            f"{architecture!a} (a drafter of DeepSeek V4.1, which reads layers' inputs)"
        )


def _first(file: GGUFFile, keys: tuple[str, ...]) -> str:
    """The key of these that the file has; the first where it has none."""
    return next((key for key in keys if key in file.metadata), keys[0])


def _spark_shape(file: GGUFFile, layout: str, shape: Shape) -> DsparkShape:
    meta, keys = file.metadata, layouts.KEYS[layout]
    n_stage = layouts.count_stages(layout, file.tensors)
    if not n_stage:
        raise LayoutError(
            f"{escape(file.path.name)}: expected stages "
            f"({layouts.stage_prefix(layout, 0)}attn_kv.weight), found none"
        )
    counted = _first(file, keys.stages)
    if counted in meta:
        meta.get_u32(counted, n_stage, n_stage)
    markov = file.tensors.get(layouts.own_names(layout, n_stage)["markov_w1"])
    rank = markov.shape[-1] if markov is not None else 0
    stated = _first(file, keys.rank)
    if stated in meta and rank:
        meta.get_u32(stated, rank, rank)
    key = _first(file, keys.taps)
    low, high = -keys.shift, shape.n_layer - 1 - keys.shift
    taps = tuple(int(v) + keys.shift for v in meta.get_ints(key, low, high, 1))
    if list(taps) != sorted(set(taps)):
        raise meta.error(key, "layers in ascending order, none of them twice")
    return DsparkShape(
        n_stage=n_stage,
        block=meta.get_u32(_first(file, keys.block), 2, MAX_BLOCK),
        rank=rank or 1,
        noise=meta.get_u32(_first(file, keys.noise), 0, shape.n_vocab - 1),
        taps=taps,
    )


def _specs(
    layout: str, shape: Shape, spark: DsparkShape
) -> tuple[dict[str, Spec], list[dict[str, Spec]]]:
    """What a drafter's tensors must be: those outside the stages by field, and of each stage."""
    d, n_hc = shape.n_embd, shape.n_hc
    dims = {
        "main_proj": (d, spark.n_tap * d),
        "main_norm": (d,),
        "norm": (d,),
        "hc_head_fn": (n_hc, n_hc * d),
        "hc_head_base": (n_hc,),
        "hc_head_scale": (1,),
        "markov_w1": (shape.n_vocab, spark.rank),
        "markov_w2": (shape.n_vocab, spark.rank),
        "conf_proj": (1, d + spark.rank),
    }
    own = {
        field: Spec(name, dims[field], FLOATS if len(dims[field]) == 1 else MATRICES)
        for field, name in layouts.own_names(layout, spark.n_stage).items()
    }
    stages = [
        checks.layer_specs(shape, layouts.stage_prefix(layout, i), 0, hashed=False)
        for i in range(spark.n_stage)
    ]
    return own, stages


def _unexpected(file: GGUFFile, layout: str, known: set[str]) -> list[Mismatch]:
    """Tensors of the drafter that nothing reads."""
    if layout == "C":
        mine = {name: t for name, t in file.tensors.items() if name not in layouts.UNUSED_C}
    else:
        mine = {n: t for n, t in file.tensors.items() if layouts.BESIDE_TRUNK.fullmatch(n)}
    return checks.unexpected({n: t for n, t in mine.items() if not _IGNORED.search(n)}, known)


def _check_repeated(file: GGUFFile, shape: Shape) -> None:
    """Layout C repeats the trunk's dimensions: each must be equal."""
    for key, field in layouts.REPEATED_C.items():
        full = f"dflash.{key}"
        value, ours = file.metadata.get(full), getattr(shape, field)
        if value is None:
            continue
        if isinstance(ours, float):
            same = isinstance(value, float) and np.float32(value) == np.float32(ours)
        else:
            same = type(value) is int and value == ours
        if not same:
            raise file.metadata.error(full, f"{ours} as in the trunk")


def _reshaped(file: GGUFFile, spec: Spec) -> Tensor:
    """A tensor in the specified shape: a file may have dropped axes of length 1."""
    return dataclasses.replace(file.tensors[spec.name], shape=spec.shape)


def _columns(source: str, tensor: Tensor, n: int) -> tuple[Tensor, ...]:
    """Cut a matrix into n of equally many columns; copies, as they interleave by row."""
    rows, cols = tensor.shape
    if cols // n % tensor.format.block_len:
        raise LayoutError(
            f"{source}: {tensor.name}: expected taps of whole {tensor.format.name} blocks, "
            f"found {cols // n} columns each"
        )
    whole = tensor.data.reshape(rows, n, -1)
    parts = []
    for i in range(n):
        data = np.ascontiguousarray(whole[:, i]).reshape(-1)
        data.flags.writeable = False
        name = tensor.name.replace(".weight", f".{i}.weight")
        parts.append(Tensor(name, tensor.format, (rows, cols // n), data))
    return tuple(parts)
