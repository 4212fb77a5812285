"""A trained drafter as the package's file: ``python -m engine.training.dspark.export FOLDER``.

FOLDER is what `train` left. The file is layout A with 8-bit matrices; its log is kept beside it,
and `nano.json` gets its hash and the facts of its training. Another trunk needs another drafter.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from engine.errors import EngineError, OptionError
from engine.models.bundled import DATA, DSPARK, FACTS, FORMATS, RECIPES, TOKENIZER, file_name
from engine.models.container import Trained
from engine.models.dspark import dspark_specs, nano_dspark
from engine.models.shapes import nano
from engine.models.write_dspark import write_dspark
from engine.training.checkpoint import load_parts, replace_file
from engine.training.export import MAX_PACKAGE_BYTES, NAME, vocab_of

RECIPE = RECIPES[-1]
LOG = "nano-dspark-train.jsonl"


def load(folder: Path, tokenizer: Path = TOKENIZER) -> Trained:
    """Weights of a training run, checked against the drafter's shape.

    Raises
    ------
    OptionError
        If tensors are missing, too many, or not finite.
    """
    weights = load_parts(folder)
    shape = nano()
    expected = {spec.name for spec in dspark_specs(shape, nano_dspark())}
    if weights.keys() != expected:
        odd = ", ".join(sorted(weights.keys() ^ expected)[:5])
        raise OptionError(f"weights: expected those of the nano drafter, found other: {odd}")
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise OptionError(f"{name}: expected finite values, found others")
    return Trained(weights, vocab_of(tokenizer, shape.n_vocab), NAME, nano_dspark())


def write_package(folder: Path, out: Path = DATA) -> Path:
    """Write the drafter and its log beside the packaged trunks, and note both in their record.

    Raises
    ------
    OptionError
        If the folder holds no finished run, or the package would become larger than it should.
    """
    trained = load(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        log = (folder / "log.jsonl").read_bytes()
    except OSError as error:
        raise OptionError(f"run: expected a finished one in {str(folder)!r}: {error}") from None
    record = json.loads((out / FACTS.name).read_text())
    path = out / file_name(RECIPE, DSPARK)
    made = write_dspark(path, nano(), FORMATS[RECIPE], layout="A", force=True, trained=trained)
    record["files"][path.name] = {
        "recipe": FORMATS[RECIPE],
        "bytes": made.n_bytes,
        "parameters": made.n_params,
        "sha256": made.sha256,
    }
    record["dspark_training"] = meta
    total = sum(facts["bytes"] for facts in record["files"].values())
    if total > MAX_PACKAGE_BYTES:
        raise OptionError(f"files: expected at most {MAX_PACKAGE_BYTES} bytes, found {total}")
    text = json.dumps(record, indent=2) + "\n"
    replace_file(out / FACTS.name, lambda file: file.write(text.encode()))
    replace_file(out / LOG, lambda file: file.write(log))
    return path


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    p = argparse.ArgumentParser(
        prog="engine.training.dspark.export", description="Write the bundled drafter."
    )
    p.add_argument("folder", type=Path, help="folder of a training run")
    p.add_argument("--out", type=Path, default=DATA, help="folder with the packaged trunks")
    args = p.parse_args(argv)
    try:
        print(write_package(args.folder, args.out))
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
