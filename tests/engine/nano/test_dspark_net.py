"""Training of the bundled model's DSpark head: the engine's equations, and runs that repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

from engine.errors import OptionError  # noqa: E402
from engine.models.dspark import nano_dspark  # noqa: E402
from engine.models.shapes import nano  # noqa: E402
from engine.training.checkpoint import load_parts  # noqa: E402
from engine.training.dspark import curve, train  # noqa: E402
from engine.training.dspark.frozen import (  # noqa: E402
    SHARED,
    drafter_specs,
    frozen_trunk,
    initial_drafter,
    trunk_weights,
)
from engine.training.dspark.losses import draw_anchors  # noqa: E402
from engine.training.dspark.net import DsparkNet  # noqa: E402
from engine.training.net import Net  # noqa: E402
from tests.engine.spec.dspark_numpy import NumpyDrafter  # noqa: E402

SHAPE, SPARK = nano(), nano_dspark()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drafter() -> DsparkNet:
    """Weights that differ from their start, so that no head is silent."""
    weights = initial_drafter(2)
    rng = torch.Generator().manual_seed(5)
    for value in weights.values():
        value.add_(0.1 * torch.randn(value.shape, generator=rng))
    trunk = trunk_weights("q8")
    weights.update({name: trunk[name] for name in SHARED})
    return DsparkNet(SHAPE, SPARK, weights, torch.float32)


def test_blocks_of_many_anchors_equal_one_draft_each() -> None:
    """Two documents in a row: blocks behind their first tokens see what their document has."""
    net = drafter()
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(8, 1000, (1, 384)))
    doc = (torch.arange(384) >= 200).long()[None]
    taps = torch.from_numpy(rng.standard_normal((1, 384, 3 * SHAPE.n_embd), np.float32))
    anchors = torch.tensor([[[3, 60], [130, 198], [290, 340]]])
    with torch.no_grad():
        hidden, base = net.block(taps, ids, doc, anchors)
    plain = {name: value.numpy().astype(np.float64) for name, value in net.w.items()}
    reference = NumpyDrafter(SHAPE, SPARK, plain)
    for chunk, k in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)):
        p = int(anchors[0, chunk, k])
        first = 0 if p < 200 else 200
        y = int(ids[0, p + 1])
        seen = taps[0, first : p + 1].numpy().astype(np.float64)
        found, logits, sure = reference.draft(seen, y)
        before = torch.tensor([y, *found[:-1]])
        with torch.no_grad():
            bias, row = net.markov(before)
            mine = base[0, chunk, k] + bias
            told = net.confidence(hidden[0, chunk, k], row)
        # Positions count along the row here and along the document there: turns are relative.
        np.testing.assert_allclose(mine.numpy(), logits, atol=2e-4 * np.abs(logits).max())
        np.testing.assert_allclose(told.numpy(), sure, atol=2e-4 * np.abs(sure).max())


def test_a_frozen_trunk_computes_what_the_trunk_does() -> None:
    trunk = frozen_trunk("q8", torch.float32)
    ids = torch.from_numpy(np.random.default_rng(1).integers(8, 1000, (1, 256)))
    doc = torch.zeros_like(ids)
    taps, logits = trunk.tapped(ids, doc)
    dense = Net(SHAPE, trunk.w, torch.float32)
    with torch.no_grad():
        x = dense.trunk(ids, dense.geometry(doc, 2))
        wanted = dense.logits(x)
    torch.testing.assert_close(logits[0], wanted, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(taps[0, :, -SHAPE.n_embd :], x.mean(1), atol=1e-3, rtol=1e-4)


def test_anchors_lie_in_their_chunks_and_leave_room_for_a_block() -> None:
    anchors = draw_anchors(3, 512, 4, 5, seed=1)
    assert anchors.shape == (3, 4, 32)
    chunk = torch.arange(4)[:, None]
    assert bool((anchors // 128 == chunk).all()) and int(anchors.max()) <= 512 - 7
    assert not torch.equal(anchors, draw_anchors(3, 512, 4, 5, seed=2))


def run(out: Path, *more: str) -> Path:
    args = ("--out", str(out), "--threads", "1", "--batch-tokens", "512", *more)
    assert train.main(list(args)) == 0
    return out


def test_runs_repeat_resume_and_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_LOG_STEPS", 1)
    monkeypatch.setattr(train, "_MIXES", ("exam",))
    quiet = train.Run.held_out
    monkeypatch.setattr(train.Run, "held_out", lambda self, mixes, n: quiet(self, ("exam",), 1))
    first, second = run(tmp_path / "a", "--steps", "2"), run(tmp_path / "b", "--steps", "2")
    one, two = load_parts(first), load_parts(second)
    assert one.keys() == {spec.name for spec in drafter_specs()}
    assert all(np.array_equal(one[name], two[name]) for name in one)
    lines = [json.loads(line) for line in (first / "log.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == [1, 2]
    assert lines[-1]["held_out"] and lines[-1]["q8_exam"]["n"] > 0
    assert json.loads((first / "meta.json").read_text())["steps"] == 2

    # A run that is stopped after a step, and goes on.
    third = tmp_path / "c"
    args = ["--out", str(third), "--threads", "1", "--batch-tokens", "512", "--steps", "2"]
    stopped = train.Run(train.arguments().parse_args(args))
    stopped._one_step()
    stopped._save_checkpoint()
    with pytest.raises(OptionError, match="expected a folder without checkpoint"):
        train.Run(train.arguments().parse_args(args))
    run(third, "--steps", "2", "--resume")
    three = load_parts(third)
    assert all(np.array_equal(one[name], three[name]) for name in one)

    assert curve.main([str(first / "log.jsonl"), str(tmp_path / "c.svg")]) == 0
    assert "slot 4" in (tmp_path / "c.svg").read_text()
