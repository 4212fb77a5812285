"""The training model: equal to transformers, documents of a row independent, bfloat16 close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.forward.rope import inverse_frequencies
from engine.models.shapes import named_shape
from engine.models.write import write_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.oracle

from engine.training.losses import class_weights, training_loss  # noqa: E402
from engine.training.net import Net, initial_weights, rope_frequencies  # noqa: E402
from tests.oracle import hf  # noqa: E402

SHAPE = named_shape("nano")


def as_weights(tensors: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    out = {k: torch.from_numpy(v) for k, v in tensors.items()}
    return {k: v.long() if "tid2eid" in k else v for k, v in out.items()}


def net_logits(net: Net, ids: torch.Tensor, index: int = 2) -> torch.Tensor:
    """Logits of one document of any length."""
    n = len(ids)
    pad = -n % 128
    row = torch.nn.functional.pad(ids, (0, pad)).unsqueeze(0)
    doc = (torch.arange(n + pad) >= n).long().unsqueeze(0)
    with torch.no_grad():
        return net.logits(net.trunk(row, net.geometry(doc, index)))[:n]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, object]:
    path: Path = tmp_path_factory.mktemp("nano") / "f32.gguf"
    write_model(path, SHAPE, "f32", seed=3)
    return Net(SHAPE, as_weights(hf.read_file(path).tensors), torch.float32), hf.hf_model(path)


@pytest.mark.parametrize("n", [55, 300, 1500])
def test_equals_transformers(model: tuple[Net, object], n: int) -> None:
    net, oracle = model
    ids = torch.randint(0, SHAPE.n_vocab, (n,), generator=torch.Generator().manual_seed(1))
    ours = net_logits(net, ids)
    with torch.no_grad():
        theirs = oracle(input_ids=ids.unsqueeze(0), use_cache=False).logits[0]  # type: ignore[operator]
    worst = (ours - theirs).abs().amax(1)
    # Two sums in another order may swap the indexer's last choice and its first refusal; a swap
    # changes its token by far more than rounding, and later ones through that token's rows.
    assert worst[:256].max() < 1e-4
    assert (worst < 1e-3).float().mean() > 0.98


def test_weights_are_those_of_the_file() -> None:
    from engine.models.make import draft_specs, trunk_specs

    weights = initial_weights(SHAPE, 1)
    specs = [*trunk_specs(SHAPE), *draft_specs(SHAPE)]
    assert {s.name: s.shape for s in specs} == {k: tuple(v.shape) for k, v in weights.items()}


@pytest.mark.parametrize("index", [0, 2])
def test_documents_of_a_row_are_independent(model: tuple[Net, object], index: int) -> None:
    net, _ = model
    rng = torch.Generator().manual_seed(2)
    # The second document begins inside a window of 128, as packed ones do.
    first, second = (torch.randint(0, SHAPE.n_vocab, (n,), generator=rng) for n in (300, 468))
    row = torch.cat([first, second]).unsqueeze(0)
    doc = (torch.arange(768) >= 300).long().unsqueeze(0)
    with torch.no_grad():
        packed = net.logits(net.trunk(row, net.geometry(doc, index)))
    alone = torch.cat([net_logits(net, first, index), net_logits(net, second, index)])
    # Rotation by the same difference from another start rounds differently.
    worst = (packed - alone).abs().amax(1)
    assert worst[:300].max() < 1e-4
    assert (worst < 2e-3).float().mean() > 0.98


def test_bfloat16_agrees_with_float32() -> None:
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(0, SHAPE.n_vocab, (2, 512), generator=rng)
    cls = torch.randint(0, 4, (2, 512), generator=rng)
    doc = (torch.arange(512)[None] // torch.tensor([[200], [512]])).long()
    losses, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        weights = initial_weights(SHAPE, 1)
        leaves = {k: v.requires_grad_() for k, v in weights.items() if v.is_floating_point()}
        net = Net(SHAPE, weights, dtype)
        loss, _ = training_loss(net, ids, cls, doc, 1, class_weights(torch.device("cpu")))
        loss.backward()
        losses.append(loss.item())
        gradients.append({k: v.grad for k, v in leaves.items() if v.grad is not None})
    # A logit near 1 is off by 2^-9 or so, the mean over all tokens by less.
    assert losses[1] == pytest.approx(losses[0], abs=2**-9)
    missing = set(leaves) - set(gradients[0])
    assert all(name.endswith("exp_probs_b.bias") for name in missing), missing
    cosine = {
        k: torch.nn.functional.cosine_similarity(g.flatten(), gradients[1][k].flatten(), 0).item()
        for k, g in gradients[0].items()
        if g.norm() > 1e-6
    }
    assert len(cosine) > 100
    # Some 100 roundings of 2^-9 behind one another, independent of each other, add up to ten.
    noise = 10 * 2**-9
    assert np.median(list(cosine.values())) > 1 - noise**2 / 2
    # Near ties of routers and indexer fall differently for a token in some hundred; and a few
    # values that every token adds to (bases of hyper-connections) are what is left of a sum.
    for name, c in cosine.items():
        assert c > (0.99 if gradients[0][name].numel() > 100 else 0.9), (name, c)


@pytest.mark.parametrize("compressed", [False, True])
def test_rope_frequencies_are_the_engine_s(compressed: bool) -> None:
    """Layers point down, so the two cannot share code."""
    expected = inverse_frequencies(SHAPE, compressed)

    # The trainer's ramp and result are float32.
    found = rope_frequencies(SHAPE, compressed).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=4 * 2**-24)


def test_draft_equals_transformers_block(model: tuple[Net, object], tmp_path: Path) -> None:
    _, oracle = model
    path = tmp_path / "mtp.gguf"
    write_model(path, SHAPE, "f32", seed=3, draft=True)
    trunk = {k: v for k, v in model[0].w.items()}
    net = Net(SHAPE, trunk | as_weights(hf.read_file(path).tensors), torch.float32)
    ids = torch.randint(0, SHAPE.n_vocab, (256,), generator=torch.Generator().manual_seed(4))
    doc = torch.zeros((1, 256), dtype=torch.int64)
    with torch.no_grad():
        geometry = net.geometry(doc, 2)
        x = net.trunk(ids.unsqueeze(0), geometry)
        ours = net.draft(x, ids.unsqueeze(0), geometry)[:-1]
        theirs, streams = hf.hf_mtp_logits(oracle, path, ids.tolist())  # type: ignore[arg-type]
    assert (x - torch.from_numpy(streams)).abs().max() < 1e-3
    # Logits of a random draft block have a spread of 3.
    assert (ours - torch.from_numpy(theirs)).abs().max() < 1e-3
