"""Stored logits of the HF graph for one small random file, so that `make test` needs no torch.

Made by ``python -m tests.oracle.golden``; `test_logits.py` checks them against a fresh HF run.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.oracle.randfile import SPECS, write_trunk

SPEC = SPECS["golden"]
PATH = Path(__file__).with_name("golden.npz")
N_TOKENS = 280
# Around every boundary: windows of 4 and 128, the sliding window, the first dropped rows.
POSITIONS = np.array([0, 1, 3, 4, 39, 40, 41, 52, 53, 101, 127, 128, 129, 200, 255, 256, 278, 279])


def tokens() -> list[int]:
    return np.random.default_rng(11).integers(0, SPEC.n_vocab, N_TOKENS).tolist()


def write_file(folder: Path) -> Path:
    return write_trunk(folder / "golden.gguf", SPEC, "f32")


def hf_rows(path: Path) -> dict[str, np.ndarray]:
    """Logits (len(POSITIONS), n_vocab) by kv mode."""
    from tests.oracle.hf import hf_logits, hf_model

    model = hf_model(path)
    return {
        kv: hf_logits(model, tokens(), official=kv == "official")[POSITIONS]
        for kv in ("f32", "official")
    }


def load() -> dict[str, np.ndarray]:
    with np.load(PATH) as stored:
        return {name: stored[name] for name in stored.files}


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        np.savez_compressed(PATH, **hf_rows(write_file(Path(folder))))
