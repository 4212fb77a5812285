"""Steps of training and a whole run: figures, what a step changes, interruption and resumption."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle

from engine.models.make import draft_specs, trunk_specs  # noqa: E402
from engine.models.shapes import nano  # noqa: E402
from engine.nano.vocabulary import SIZE  # noqa: E402
from engine.training import export, stages, train  # noqa: E402
from engine.training.checkpoint import load_parts  # noqa: E402
from engine.training.feed import Feed, Request, make_batch  # noqa: E402
from engine.training.losses import CLASSES  # noqa: E402
from engine.training.net import Net, initial_weights  # noqa: E402
from engine.training.optim import Optimizer  # noqa: E402
from engine.training.step import Step  # noqa: E402

N_COL = 256


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Equal sums in every run; and small products are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def parts() -> tuple[Net, Step, np.ndarray]:
    """A new model, its step, and a batch with prompts, completions, and more than one document."""
    shape = nano()
    weights = initial_weights(shape, 1)
    specs = [*trunk_specs(shape), *draft_specs(shape)]
    optimizer = Optimizer(weights, specs, shape, torch.device("cpu"))
    net = Net(shape, weights, torch.float32)
    batch = make_batch(Request("drill", 2, N_COL), 1, 0)
    assert batch[2].max() > 1
    return net, Step(net, optimizer, 2, N_COL, 0, record=False), batch


def cross_entropies(logits: Any, batch: np.ndarray, ahead: int) -> list[float | None]:
    """Mean nats per class of guessing tokens `ahead` of their rows within one document."""
    p = log_softmax(logits.detach().numpy().astype(np.float64).reshape(2, N_COL, -1), -1)
    ids, cls, doc = batch.astype(int)
    found: list[list[float]] = [[] for _ in CLASSES]
    for row in range(2):
        for at in range(N_COL - ahead):
            kind = cls[row, at + ahead]
            if kind < len(CLASSES) and doc[row, at] == doc[row, at + ahead]:
                found[kind].append(-p[row, at, ids[row, at + ahead]])
    return [sum(each) / len(each) if each else None for each in found]


def test_figures_are_the_losses_before_the_step(parts: tuple[Net, Step, np.ndarray]) -> None:
    net, step, batch = parts
    ids, _, doc = torch.from_numpy(batch.astype(np.int64))
    with torch.no_grad():
        geometry = net.geometry(doc, 0)
        x = net.trunk(ids, geometry)
        trunk = cross_entropies(net.logits(x), batch, 1)
        draft = cross_entropies(net.draft(x, ids, geometry), batch, 2)
        net.forget()

    step.run(batch, 100, 1.0)
    found = step.figures()

    for side, expected in (("trunk", trunk), ("draft", draft)):
        got = [found[f"{side}_{name}"] for name in CLASSES]
        # Sums of up to 500 losses near 7 in float32.
        assert got == [e if e is None else pytest.approx(e, rel=1e-5) for e in expected]
    assert sum(e is not None for e in trunk) == 2, "two classes stand in drills"
    assert abs(trunk[1] - np.log(SIZE)) < 0.3, "an untrained model guesses evenly"  # type: ignore[operator]
    assert set(step.figures().values()) == {None}, "counted anew"


def test_steps_lower_the_loss_and_a_rate_of_zero_changes_nothing(
    parts: tuple[Net, Step, np.ndarray],
) -> None:
    net, step, batch = parts
    before = {name: w.detach().clone() for name, w in net.w.items()}
    step.run(batch, 0, 0.0)
    assert all(torch.equal(net.w[name], w) for name, w in before.items())

    losses = []
    for number in range(6):
        step.figures()
        step.run(batch, 100 + number, 1.0)
        losses.append(step.figures()["trunk_completion"])
    assert losses[-1] < losses[0] - 1, losses


SHORT = (stages.Stage(0.5, "drill", 128, 0), stages.Stage(1.0, "exam", N_COL, 2))


def run(out: Path, *more: str) -> int:
    """Four rows of 128 tokens, then two of 256."""
    words = ("--tokens", "1024", "--batch-tokens", "128", "--dtype", "float32", "--threads", "1",
             "--log-seconds", "0", "--checkpoint-minutes", "1e-9", "--device", "cpu")  # fmt: skip
    return train.main(["--out", str(out), *words, *more])


def test_an_interrupted_run_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "STAGES", SHORT)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    asked: list[tuple[str, int, int]] = []
    batch = Feed.batch

    def recorded(self: Feed, request: Request, number: int) -> np.ndarray:
        asked.append((request.stage, request.n_col, number))
        return batch(self, request, number)

    def interrupted(self: Feed, request: Request, number: int) -> np.ndarray:
        if number == 5:
            raise KeyboardInterrupt
        return batch(self, request, number)

    monkeypatch.setattr(Feed, "batch", recorded)
    assert run(whole) == 0
    assert asked == [*[("drill", 128, i) for i in range(4)], ("exam", 256, 4), ("exam", 256, 5)]
    meta = json.loads((whole / "meta.json").read_text())
    assert (meta["finished"], meta["steps"], meta["tokens"]) == (True, 6, 1024)
    lines = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == [128, 256, 384, 512, 768, 1024]
    assert lines[-1] == meta["last"]

    monkeypatch.setattr(Feed, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(cut)
    meta = json.loads((cut / "meta.json").read_text())
    assert (meta["finished"], meta["steps"]) == (False, 4), "kept when the first stage ended"
    assert run(cut) == 2 and "expected a folder without checkpoint.pt" in capsys.readouterr().err
    assert run(cut, "--resume", "--seed", "2") == 2
    assert "seed: expected 1 as before, found 2" in capsys.readouterr().err

    asked.clear()
    monkeypatch.setattr(Feed, "batch", recorded)
    assert run(cut, "--resume") == 0
    assert asked == [("exam", 256, 5)]
    expected, found = load_parts(whole), load_parts(cut)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert export.load(cut, export.TOKENIZER).weights.keys() == expected.keys()
