"""The training run's parts: stages, checkpoints, parts of weights, refusals, optimiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import OptionError
from engine.training import checkpoint
from engine.training.stages import STAGES, rate_at, stage_at


def test_stages_cover_the_whole_run_in_order() -> None:
    ends = [s.until for s in STAGES]
    assert ends == sorted(ends) and ends[-1] == 1
    assert stage_at(0) is STAGES[0] and stage_at(1.5) is STAGES[-1]
    assert stage_at(STAGES[0].until) is STAGES[1]
    assert {s.index for s in STAGES} == {0, 1, 2}
    assert all(s.n_col % 128 == 0 for s in STAGES)


def test_rate_rises_then_falls_to_almost_nothing() -> None:
    warm = [rate_at(0.0, step) for step in range(80)]
    assert warm == sorted(warm) and warm[-1] == 1
    late = [rate_at(p, 1000) for p in np.linspace(0, 1, 50)]
    assert late == sorted(late, reverse=True)
    assert late[0] == 1 and late[-1] == pytest.approx(0.01)


def test_parts_are_small_and_give_back_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PART_BYTES", 3000)
    weights = {f"a.{i}": np.random.default_rng(i).random((20, 10), np.float32) for i in range(9)}
    paths = checkpoint.save_parts(tmp_path, weights)
    assert len(paths) == 3  # of three tensors of 800 bytes each
    assert [p.name for p in paths] == sorted(p.name for p in tmp_path.iterdir())
    loaded = checkpoint.load_parts(tmp_path)
    assert loaded.keys() == weights.keys()
    assert all((loaded[k] == weights[k]).all() for k in weights)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    checkpoint.replace_file(path, lambda file: file.write(b"old"))

    def fail(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        checkpoint.replace_file(path, fail)
    assert path.read_bytes() == b"old"


def test_no_parts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"weights: expected weights-N\.npz"):
        checkpoint.load_parts(tmp_path)


def test_run_refuses_arguments_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.training.train import main

    out = tmp_path / "run"
    for words, expected in (
        ([], "expected --tokens or --minutes"),
        (["--tokens", "-5"], "tokens: expected more than 0"),
        (["--tokens", "5", "--batch-tokens", "0"], "batch_tokens: expected more than 0"),
        (["--tokens", "5", "--resume"], "resume: expected"),
    ):
        assert main(["--out", str(out), *words]) == 2
        assert expected in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.oracle
class TestOptimizer:
    @staticmethod
    def build() -> tuple[object, dict, list]:
        torch = pytest.importorskip("torch")
        from engine.models.make import trunk_specs
        from engine.models.shapes import nano
        from engine.training.net import initial_weights
        from engine.training.optim import Optimizer

        weights = initial_weights(nano(), 1)
        specs = list(trunk_specs(nano()))
        optimizer = Optimizer(weights, specs, nano(), torch.device("cpu"))
        return optimizer, weights, specs

    def test_muon_orthogonalises(self) -> None:
        torch = pytest.importorskip("torch")
        from engine.training.optim import _orthogonal

        torch.manual_seed(1)
        for rows, cols in ((128, 256), (256, 128), (192, 256)):
            values = torch.linalg.svdvals(_orthogonal(torch.randn(3, rows, cols)))
            # The polynomial brings singular values near 1, not onto it; products are bfloat16.
            assert values.min() > 0.6 and values.max() < 1.4

    def test_every_weight_moves_and_memory_is_shared(self) -> None:
        torch = pytest.importorskip("torch")
        optimizer, weights, specs = self.build()
        trainable = [s.name for s in specs if weights[s.name].requires_grad]
        frozen = {s.name for s in specs} - set(trainable)
        assert all(n.endswith(("tid2eid.weight", "exp_probs_b.bias")) for n in frozen)
        before = {n: weights[n].detach().clone() for n in trainable}
        for name in trainable:
            weights[name].grad.copy_(torch.randn(weights[name].shape))
        optimizer.set_step(100, 1.0)
        optimizer.step()
        assert all((weights[n] != before[n]).float().mean() > 0.9 for n in trainable)
        optimizer.zero_grad()
        assert all((weights[n].grad == 0).all() for n in trainable)

    def test_a_gradient_that_is_not_finite_changes_no_weight(self) -> None:
        pytest.importorskip("torch")
        optimizer, weights, _ = self.build()
        before = {n: w.detach().clone() for n, w in weights.items()}
        weights["output.weight"].grad.fill_(float("nan"))
        weights["blk.0.attn_kv.weight"].grad.fill_(1.0)
        optimizer.set_step(100, 1.0)
        optimizer.step()
        assert all((weights[n] == before[n]).all() for n in weights)
