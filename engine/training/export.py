"""Trained weights as GGUF: ``python -m engine.training.export FOLDER``.

FOLDER holds the ``weights-N.npz`` and ``meta.json`` of `train`. Without further options the
package's own files are written: trunk and draft block in the formats of the published file (iq2)
and with 8-bit experts (q8_0), and ``nano.json`` with their hashes and the facts of the training.
``--recipe`` and ``--layout`` write one pair into another folder instead, for comparisons.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError, OptionError
from engine.models.bundled import DATA, FACTS, FORMATS, KINDS, TOKENIZER, file_name
from engine.models.make import draft_specs, trunk_specs
from engine.models.recipes import LAYOUTS, RECIPES
from engine.models.shapes import nano
from engine.models.vocab import BOS, EOS, NORMAL, PAD, SPECIAL, UNUSED, Vocab, placeholder
from engine.models.write import Trained, write_model
from engine.training.checkpoint import load_parts

NAME = "ds4 nano"
MAX_PACKAGE_BYTES = 32 << 20


def vocab_of(tokenizer: Path, n_vocab: int) -> Vocab:
    """A tokenizer file's vocabulary, filled up with unused entries.

    Raises
    ------
    OptionError
        If it has more than n_vocab entries, or lacks one of DeepSeek's special tokens.
    """
    content = json.loads(tokenizer.read_text("utf-8"))
    ids: dict[str, int] = dict(content["model"]["vocab"])
    ids.update({t["content"]: t["id"] for t in content["added_tokens"]})
    if max(ids.values()) >= n_vocab:
        raise OptionError(f"tokenizer: expected ids below {n_vocab}, found {max(ids.values())}")
    missing = [t for t in SPECIAL if t not in ids]
    if missing:
        raise OptionError(f"tokenizer: expected the tokens {', '.join(missing)}, found none")
    by_id = {i: token for token, i in ids.items()}
    tokens = tuple(by_id.get(i, placeholder(i)) for i in range(n_vocab))
    types = tuple(
        SPECIAL.get(token, NORMAL) if i in by_id else UNUSED for i, token in enumerate(tokens)
    )
    merges = content["model"]["merges"]
    joined = tuple(m if isinstance(m, str) else " ".join(m) for m in merges)
    return Vocab(tokens, types, joined, *(ids[t] for t in (BOS, EOS, PAD)))


def load(folder: Path, tokenizer: Path) -> Trained:
    """Weights of a training run, checked against the shape.

    Raises
    ------
    OptionError
        If tensors are missing, too many, or not finite.
    """
    weights = load_parts(folder)
    shape = nano()
    expected = {s.name for s in (*trunk_specs(shape), *draft_specs(shape))}
    if weights.keys() != expected:
        odd = ", ".join(sorted(weights.keys() ^ expected)[:5])
        raise OptionError(f"weights: expected the tensors of the nano shape, found other: {odd}")
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise OptionError(f"{name}: expected finite values, found others")
    return Trained(weights, vocab_of(tokenizer, shape.n_vocab), NAME)


def pair(folder: Path, recipe: str) -> list[Path]:
    """Where `write_pair` puts trunk and draft block of a recipe of `recipes`."""
    short = {of: name for name, of in FORMATS.items()}.get(recipe, recipe)
    return [folder / file_name(short, kind) for kind in KINDS]


def write_pair(trained: Trained, out: Path, recipe: str, layout: str) -> dict[str, dict[str, Any]]:
    """Write trunk and draft block; returns name -> facts of each file."""
    facts = {}
    for kind, path in zip(KINDS, pair(out, recipe)):
        made = write_model(
            path, nano(), recipe, layout=layout, draft=kind == "mtp", force=True, trained=trained
        )
        facts[path.name] = {
            "recipe": recipe,
            "bytes": made.n_bytes,
            "parameters": made.n_params,
            "sha256": made.sha256,
        }
        print(f"{path}: {made.n_bytes} bytes, sha256 {made.sha256}")
    return facts


def write_package(trained: Trained, meta: dict[str, Any], out: Path = DATA) -> None:
    """Write all packaged files and the record of them.

    Raises
    ------
    OptionError
        If together they are larger than a package should be.
    """
    out.mkdir(exist_ok=True)
    facts: dict[str, dict[str, Any]] = {}
    for recipe in FORMATS.values():
        facts |= write_pair(trained, out, recipe, "antirez")
    total = sum(f["bytes"] for f in facts.values())
    if total > MAX_PACKAGE_BYTES:
        raise OptionError(f"files: expected at most {MAX_PACKAGE_BYTES} bytes, found {total}")
    record = json.dumps({"name": NAME, "files": facts, "training": meta}, indent=2)
    (out / FACTS.name).write_text(record + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    p = argparse.ArgumentParser(prog="engine.training.export", description="Write GGUF files.")
    p.add_argument("folder", type=Path, help="folder of a training run")
    p.add_argument("--out", type=Path, help="folder to write to, with --recipe")
    p.add_argument("--recipe", choices=RECIPES, help="write this pair only")
    p.add_argument("--layout", choices=LAYOUTS, default="antirez")
    p.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    args = p.parse_args(argv)
    try:
        trained = load(args.folder, args.tokenizer)
        if args.recipe:
            out = args.out or args.folder
            out.mkdir(parents=True, exist_ok=True)
            write_pair(trained, out, args.recipe, args.layout)
        else:
            meta = json.loads((args.folder / "meta.json").read_text())
            write_package(trained, meta, args.out or DATA)
    except EngineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
