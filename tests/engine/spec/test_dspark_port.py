"""The engine's DSpark drafter against dspark-mlx, another author's port for another machine.

dspark-mlx 0.1.0 computes in float32 without the rounding of stored rows, as the engine does with
``kv='f32'``. Both get the outputs of one trunk.
"""

from __future__ import annotations

import numpy as np
import pytest

from engine.models.dspark import dspark_shape
from engine.models.shapes import micro
from engine.spec.dspark import DsparkDrafter
from tests.engine.models import open_dspark
from tests.engine.spec.dspark_numpy import NumpyDrafter
from tests.engine.spec.test_dspark_equations import far, fed, taps_of, text, walk, weights

mx = pytest.importorskip("mlx.core")
dspark_mlx = pytest.importorskip("dspark_mlx")

pytestmark = pytest.mark.oracle

CLOSE = 1e-5  # of the greatest magnitude, float32 on both sides
SHAPE, SPARK = micro(), dspark_shape(micro())
# Leaf of layout A -> dspark-mlx's, for a stage.
_LEAVES = {
    "hc_attn_fn.weight": "hc_attn_fn",
    "hc_attn_base.weight": "hc_attn_base",
    "hc_attn_scale.weight": "hc_attn_scale",
    "hc_ffn_fn.weight": "hc_ffn_fn",
    "hc_ffn_base.weight": "hc_ffn_base",
    "hc_ffn_scale.weight": "hc_ffn_scale",
    "attn_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "attn_q_a.weight": "attn.wq_a.weight",
    "attn_q_a_norm.weight": "attn.q_norm.weight",
    "attn_q_b.weight": "attn.wq_b.weight",
    "attn_kv.weight": "attn.wkv.weight",
    "attn_kv_a_norm.weight": "attn.kv_norm.weight",
    "attn_sinks.weight": "attn.attn_sink",
    "attn_output_a.weight": "attn.wo_a.weight",
    "attn_output_b.weight": "attn.wo_b.weight",
    "ffn_gate_inp.weight": "ffn.gate.weight",
    "exp_probs_b.bias": "ffn.gate.bias",
    "ffn_gate_shexp.weight": "ffn.shared_experts.w1.weight",
    "ffn_down_shexp.weight": "ffn.shared_experts.w2.weight",
    "ffn_up_shexp.weight": "ffn.shared_experts.w3.weight",
    "main_proj.weight": "main_proj.weight",
    "main_norm.weight": "main_norm.weight",
    "norm.weight": "norm.weight",
    "hc_head_fn.weight": "hc_head_fn",
    "hc_head_base.weight": "hc_head_base",
    "hc_head_scale.weight": "hc_head_scale",
    "markov_head.markov_w1.weight": "markov_head.markov_w1.weight",
    "markov_head.markov_w2.weight": "markov_head.markov_w2.weight",
    "confidence_head.proj.weight": "confidence_head.proj.weight",
}
_EXPERTS = {"gate": "w1", "down": "w2", "up": "w3"}


def port():
    """dspark-mlx's drafter with the generated model's weights."""
    from mlx.utils import tree_unflatten

    mx.set_default_device(mx.cpu)
    args = dspark_mlx.DSparkArgs(
        vocab_size=SHAPE.n_vocab, dim=SHAPE.n_embd, moe_inter_dim=SHAPE.n_ff_exp,
        n_layers=SHAPE.n_layer, n_mtp_layers=SPARK.n_stage, n_hash_layers=SHAPE.n_hash_layer,
        n_heads=SHAPE.n_head, n_routed_experts=SHAPE.n_expert,
        n_activated_experts=SHAPE.n_expert_used, q_lora_rank=SHAPE.n_lora_q,
        head_dim=SHAPE.head_dim, rope_head_dim=SHAPE.n_rot, o_groups=SHAPE.n_out_group,
        o_lora_rank=SHAPE.n_lora_o, window_size=SHAPE.n_swa, dspark_block_size=SPARK.block,
        dspark_noise_token_id=SPARK.noise, dspark_target_layer_ids=SPARK.taps,
        dspark_markov_rank=SPARK.rank, temperature=0.0,
    )  # fmt: skip
    drafter = dspark_mlx.DSparkDrafter(args, max_seq_len=512)
    theirs = {}
    for name, value in weights().items():
        value = value.astype(np.float32)
        if not name.startswith("mtp."):
            theirs["embed.weight" if name.startswith("token_embd") else "head.weight"] = value
            continue
        _, stage, leaf = name.split(".", 2)
        if "_exps" in leaf:
            kind = _EXPERTS[leaf.removeprefix("ffn_").split("_")[0]]
            for e, matrix in enumerate(value):
                theirs[f"blocks.{stage}.ffn.experts.{e}.{kind}.weight"] = matrix
        else:
            theirs[f"blocks.{stage}.{_LEAVES[leaf]}"] = value
    drafter.update(tree_unflatten([(k, mx.array(v)) for k, v in theirs.items()]))
    return drafter


def spoken(drafter, y: int, taps: np.ndarray, p: int):
    """A draft behind position p, whose own row the call appends."""
    row = mx.array(taps[None, p : p + 1].astype(np.float32))
    ids, logits, sure = drafter.forward_spec(mx.array([y]), row, p)
    return np.array(ids)[0, 1:].tolist(), np.array(logits)[0], np.array(sure)[0]


def seeded(taps: np.ndarray, n: int):
    """The port with the rows of n positions."""
    drafter = port()
    first = mx.array(taps[None, :n].astype(np.float32))
    drafter.forward_spec(mx.array([[3]]), first, 0)
    return drafter


@pytest.fixture(scope="module")
def engine(model_folder):
    with open_dspark(model_folder, activations="f32", kv="f32") as opened:
        yield opened


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return text(330)


@pytest.fixture(scope="module")
def taps(engine, ids) -> np.ndarray:
    return taps_of(engine, ids)


@pytest.mark.parametrize("p", [1, 4, 126, 127, 128, 299])
def test_engine_equals_the_port_behind_a_prompt(engine, ids, taps, p):
    y = ids[p + 1]
    wanted = spoken(seeded(taps, p), y, taps, p)
    for found in (
        walk(DsparkDrafter(fed(engine, ids[: p + 1])), y),
        NumpyDrafter(SHAPE, SPARK, weights()).draft(taps[: p + 1], y),
    ):
        assert found[0] == wanted[0]
        assert far(found, wanted) < CLOSE


def test_engine_equals_the_port_after_any_number_of_accepted_drafts(engine, ids, taps):
    session = fed(engine, ids[:300])
    ours, theirs = DsparkDrafter(session), seeded(taps, 299)
    for accepted in (0, 3, 5, 1, 4, 2):
        p = session.n_past - 1
        found, wanted = walk(ours, ids[p + 1]), spoken(theirs, ids[p + 1], taps, p)
        assert found[0] == wanted[0] and far(found, wanted) < CLOSE
        wrong = [1] * (SPARK.block - accepted)
        session.verify([ids[p + 1], *ids[p + 2 : p + 2 + accepted], *wrong])
        session.rewind(p + 2 + accepted)
        ours.committed(p + 1)
        for q in range(p + 1, p + 1 + accepted):
            theirs.advance(mx.array(taps[None, q].astype(np.float32)), q)
