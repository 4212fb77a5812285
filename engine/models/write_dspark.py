"""Writes a DSpark drafter in any layout that circulates, alone or behind its trunk in one file."""

from __future__ import annotations

from pathlib import Path

from engine.errors import OptionError
from engine.models import make
from engine.models.container import (
    Content,
    Entry,
    Progress,
    Trained,
    WrittenModel,
    check_target,
    publish,
)
from engine.models.dspark import dspark_shape, dspark_specs, stage_prefix
from engine.models.recipes import RECIPES, dspark_formats, formats_of
from engine.models.vocab import build_vocab
from engine.models.write import ARCH, metadata
from engine.quant.formats import BY_NAME
from engine.shape import DsparkShape, Shape
from engine.weights.dspark import layouts

# The architectures that such files call themselves.
_ARCHITECTURES = {"A": "deepseek4-dspark", "B": "deepseek4-dspark", "C": "dflash"}


def write_dspark(
    path: Path,
    shape: Shape,
    recipe: str = "f32",
    seed: int = 0,
    layout: str = "A",
    *,
    combined: bool = False,
    force: bool = False,
    quick: bool = False,
    trained: Trained | None = None,
    progress: Progress | None = None,
) -> WrittenModel:
    """Write a drafter's file; equal arguments give equal bytes.

    Parameters
    ----------
    path : Path
    shape : Shape
        Of the trunk.
    recipe, seed, force, quick, trained, progress
        As `engine.models.write.write_model` takes them.
    layout : {'A', 'B', 'C'}
        See `engine.weights.dspark.layouts`.
    combined : bool
        Write the trunk of this recipe and seed before the drafter; layout C cannot be.

    Raises
    ------
    OptionError
        If an argument is out of range, the folder is missing, or the file exists without `force`.
    """
    for name, value, allowed in (
        ("recipe", recipe, RECIPES),
        ("layout", layout, layouts.LAYOUTS),
    ):
        if value not in allowed:
            raise OptionError(f"{name}: expected one of {', '.join(allowed)}, found {value!r}")
    if combined and layout == "C":
        raise OptionError("layout: expected A or B beside a trunk in one file, found C")
    check_target(path, force)
    spark = dspark_shape(shape)
    if trained is not None and trained.spark is not None:
        spark = trained.spark
    formats = dspark_formats(recipe, layout)
    names = _names(shape, spark, layout)
    entries = [
        Entry(names[spec.name], (spec,), BY_NAME[formats[spec.kind]])
        for spec in dspark_specs(shape, spark)
    ]
    title = f"ds4 generated {shape.name}" if trained is None else trained.name
    keys: dict[str, object] = {"general.name": f"{title} DSpark drafter"}
    keys |= _keys(shape, spark, layout)
    vocab = None
    architecture = _ARCHITECTURES[layout]
    if layout == "C" or combined:
        vocab = build_vocab(shape.n_vocab) if trained is None else trained.vocab
    if combined:
        trunk = formats_of(recipe, "antirez")
        before = [Entry(s.name, (s,), BY_NAME[trunk[s.kind]]) for s in make.trunk_specs(shape)]
        entries = before + entries
        own = metadata(shape, recipe, "antirez", False)
        keys |= {k if k.startswith("general.") else f"{ARCH}.{k}": v for k, v in own.items()}
        architecture = ARCH
    content = Content(architecture, keys, vocab, entries)
    return publish(
        path, content, seed, force=force, quick=quick, trained=trained, progress=progress
    )


def _keys(shape: Shape, spark: DsparkShape, layout: str) -> dict[str, object]:
    """Metadata of the drafter as its layout spells it."""
    if layout == "A":
        return {
            "dspark.block_size": spark.block,
            "dspark.markov_rank": spark.rank,
            "dspark.noise_token_id": spark.noise,
            "dspark.target_layer_ids": list(spark.taps),
            "dspark.stage_count": spark.n_stage,
            "dspark.n_layers": spark.n_stage,
        }
    if layout == "B":
        return {
            "deepseek4.dspark.layer_count": spark.n_stage,
            "deepseek4.dspark.block_size": spark.block,
            "deepseek4.dspark.markov_rank": spark.rank,
            "deepseek4.dspark.noise_token_id": spark.noise,
            "deepseek4.dspark.expert_count": shape.n_expert,
            "deepseek4.dspark.target_layers": list(spark.taps),
        }
    keys: dict[str, object] = {"dflash.block_count": spark.n_stage}
    for key, field in layouts.REPEATED_C.items():
        keys[f"dflash.{key}"] = getattr(shape, field)
    return keys | {
        "dflash.block_size": spark.block,
        "dflash.target_layers": [layer + 1 for layer in spark.taps],
        "tokenizer.ggml.mask_token_id": spark.noise,
    }


def _names(shape: Shape, spark: DsparkShape, layout: str) -> dict[str, str]:
    """Tensor names of a layout by those of layout A, under which values are drawn."""
    ours = layouts.own_names("A", spark.n_stage)
    theirs = layouts.own_names(layout, spark.n_stage)
    names = {ours[field]: theirs[field] for field in ours}
    for spec in dspark_specs(shape, spark):
        if spec.name not in names:
            stage, leaf = spec.name.removeprefix("mtp.").split(".", 1)
            assert spec.name.startswith(stage_prefix(int(stage))), spec.name
            names[spec.name] = layouts.stage_prefix(layout, int(stage)) + leaf
    return names
