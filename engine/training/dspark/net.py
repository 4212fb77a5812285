"""A DSpark drafter in PyTorch over a frozen trunk: taps, blocks behind anchors, heads.

An anchor is a position p of a packed row: the drafter sees the taps of the last positions up to p,
the true token at p + 1, and guesses p + 2 to p + 1 + block. Anchors lie in chunks of the window's
length, so that all blocks of a chunk share the keys of their chunk and the one before, and no rows
are gathered. Equations as in `engine.spec.dspark`; `tests/engine/nano/test_dspark_net.py` compares
the two. Experts are computed for the rows that chose them, which suits processors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.models.dspark import stage_prefix
from engine.shape import DsparkShape, Shape
from engine.training.attention import CHUNK, Geometry
from engine.training.net import Net
from engine.training.plain import turned_plainly
from engine.training.streams import collapse, merge, mix


class SparseNet(Net):
    """A `Net` that computes only the experts that rows chose."""

    def _experts(
        self, x: torch.Tensor, prefix: str, ids: torch.Tensor, hashed: bool, layer: int
    ) -> torch.Tensor:
        s = self.shape
        scores = F.softplus(F.linear(x, self.w[f"{prefix}ffn_gate_inp.weight"])).sqrt()
        if hashed:
            chosen = self.w[f"{prefix}ffn_gate_tid2eid.weight"][ids]
        else:
            biased = scores.detach() + self.w[f"{prefix}exp_probs_b.bias"]
            chosen = biased.topk(s.n_expert_used, -1).indices
            self.loads[prefix] = torch.bincount(chosen.flatten(), minlength=s.n_expert)
        part = scores.gather(1, chosen)
        part = part / (part.sum(-1, keepdim=True) + 1e-20) * s.expert_weights_scale
        out = self._expert(x, prefix, "shexp", None, None, layer)
        for e in range(s.n_expert):
            row, slot = (chosen == e).nonzero(as_tuple=True)
            if len(row):
                y = self._expert(x.index_select(0, row), prefix, "exps", e, part[row, slot], layer)
                out = out.index_add(0, row, y)
        return out

    def _expert(
        self,
        x: torch.Tensor,
        prefix: str,
        kind: str,
        e: int | None,
        weight: torch.Tensor | None,
        layer: int,
    ) -> torch.Tensor:
        """One expert's output for rows x (n, n_embd), each times its weight."""
        limit = self.shape.swiglu_limit[layer]
        gate, up, down = (self._matrix(f"{prefix}ffn_{leaf}_{kind}.weight") for leaf in _LEAVES)
        if e is not None:
            gate, up, down = gate[e], up[e], down[e]
        xc = x.to(self.dtype)
        h = F.silu(F.linear(xc, gate).clamp(max=limit)) * F.linear(xc, up).clamp(-limit, limit)
        if weight is not None:
            h = h * weight.to(self.dtype).unsqueeze(-1)
        return F.linear(h, down).float()


_LEAVES = ("gate", "up", "down")


class TappedTrunk(SparseNet):
    """A frozen trunk that gives out what a drafter reads."""

    def __init__(
        self,
        shape: Shape,
        spark: DsparkShape,
        weights: dict[str, torch.Tensor],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(shape, weights, dtype)
        self.spark = spark

    @torch.no_grad()
    def tapped(self, ids: torch.Tensor, doc: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Taps and logits of packed rows.

        Parameters
        ----------
        ids, doc : int64 Tensors of shape (n_row, n_col)

        Returns
        -------
        taps : float32 Tensor of shape (n_row, n_col, n_tap * n_embd)
            Means over the streams after the tapped layers, side by side.
        logits : float32 Tensor of shape (n_row, n_col, n_vocab)
        """
        geometry = self.geometry(doc, 2)
        flat = ids.reshape(-1)
        x = self._embed(flat).unsqueeze(1).expand(-1, 4, -1).contiguous()
        found = []
        for layer in range(self.shape.n_layer):
            ratio = self.shape.compress_ratio(layer)
            hashed = layer < self.shape.n_hash_layer
            x = self._block(x, f"blk.{layer}.", flat, geometry, ratio, hashed, layer)
            if layer in self.spark.taps:
                found.append(x.mean(1))
        taps = torch.cat(found, 1).view(*ids.shape, -1)
        return taps, self.logits(x).view(*ids.shape, -1)


class DsparkNet(SparseNet):
    """The drafter; embedding and output matrix are the trunk's and are not trained.

    Parameters
    ----------
    shape, spark : Shape, DsparkShape
    weights : dict of str to Tensor
        The drafter's under the names of `engine.models.dspark`, with `token_embd.weight` and
        `output.weight` beside them.
    dtype : torch.dtype
        Of matrix products.
    """

    def __init__(
        self,
        shape: Shape,
        spark: DsparkShape,
        weights: dict[str, torch.Tensor],
        dtype: torch.dtype,
    ) -> None:
        super().__init__(shape, weights, dtype)
        self.spark = spark
        self.last = stage_prefix(spark.n_stage - 1)

    def block(
        self, taps: torch.Tensor, ids: torch.Tensor, doc: torch.Tensor, anchors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows of the blocks behind some anchors.

        Parameters
        ----------
        taps : float32 Tensor of shape (n_row, n_col, n_tap * n_embd)
        ids, doc : int64 Tensors of shape (n_row, n_col)
        anchors : int64 Tensor of shape (n_row, n_chunk, k)
            Positions, each within its chunk and below n_col - block - 1.

        Returns
        -------
        hidden : float32 Tensor of shape (n_row, n_chunk, k, block, n_embd)
            Streams mixed into one row, before the final norm.
        logits : float32 Tensor of shape (n_row, n_chunk, k, block, n_vocab)
            Without the Markov head.
        """
        s, width = self.shape, self.spark.block
        geometry = Geometry(doc, self._frequencies, 0, s.idx_top_k)
        main = self._linear(taps.flatten(0, 1), "mtp.0.main_proj.weight")
        main = self._norm(main, "mtp.0.main_norm.weight")
        first = ids.gather(1, anchors.flatten(1) + 1).view(anchors.shape)
        tokens = first.unsqueeze(-1).repeat(1, 1, 1, width)
        tokens[..., 1:] = self.spark.noise
        flat = tokens.flatten()
        places = (anchors.unsqueeze(-1) + 1 + torch.arange(width, device=ids.device)).flatten()
        angle = places[:, None].float() * self._frequencies[False]
        angles = angle.cos(), angle.sin()
        hidden = _hidden(doc, anchors, width, s.n_swa)
        x = self._embed(flat).unsqueeze(1).expand(-1, 4, -1).contiguous()
        for stage in range(self.spark.n_stage):
            prefix = stage_prefix(stage)
            y, post, comb = self._enter(x, f"{prefix}hc_attn_")
            y = self._norm(y, f"{prefix}attn_norm.weight")
            context = self._context(main, prefix, geometry)
            y = self._attend(y, context, prefix, anchors.shape, angles, hidden)
            x = merge(x, y, post, comb)
            y, post, comb = self._enter(x, f"{prefix}hc_ffn_")
            y = self._norm(y, f"{prefix}ffn_norm.weight")
            x = merge(x, self._experts(y, prefix, flat, False, -1), post, comb)
        head = f"{self.last}hc_head_"
        weights = mix(x.flatten(1), self.w[f"{head}fn.weight"], s.rms_eps)
        pre = weights * self.w[f"{head}scale.weight"] + self.w[f"{head}base.weight"]
        h = collapse(x, torch.sigmoid(pre) + s.hc_eps)
        logits = self._linear(self._norm(h, f"{self.last}norm.weight"), "output.weight").float()
        return h.view(*tokens.shape, -1), logits.view(*tokens.shape, -1)

    def _context(self, main: torch.Tensor, prefix: str, geometry: Geometry) -> torch.Tensor:
        """Keys of a chunk and the one before: (n_row, n_chunk, 2 CHUNK, head_dim)."""
        kv = self._linear(geometry.rows(main), f"{prefix}attn_kv.weight")
        kv = self._norm(kv, f"{prefix}attn_kv_a_norm.weight")
        chunks = geometry.turn(kv, False, self.dtype).unflatten(1, (-1, CHUNK))
        return torch.cat([F.pad(chunks[:, :-1], (0, 0, 0, 0, 1, 0)), chunks], 2)

    def _attend(
        self,
        y: torch.Tensor,
        context: torch.Tensor,
        prefix: str,
        dims: torch.Size,
        angles: tuple[torch.Tensor, torch.Tensor],
        hidden: torch.Tensor,
    ) -> torch.Tensor:
        """Every row of a block over its anchor's context and the whole block."""
        s, width = self.shape, self.spark.block
        n_row, n_chunk, _ = dims
        cos, sin = angles
        low = self._linear(y, f"{prefix}attn_q_a.weight")
        low = self._norm(low, f"{prefix}attn_q_a_norm.weight")
        q = self._linear(low, f"{prefix}attn_q_b.weight").unflatten(-1, (s.n_head, s.head_dim))
        q = turned_plainly(self._norm(q, None), cos[:, None], sin[:, None]).to(self.dtype)
        own = self._linear(y, f"{prefix}attn_kv.weight")
        own = turned_plainly(self._norm(own, f"{prefix}attn_kv_a_norm.weight"), cos, sin)
        own = own.to(self.dtype).view(-1, width, s.head_dim)
        grouped = q.view(len(own), width * s.n_head, s.head_dim)
        far = torch.matmul(grouped.view(n_row, n_chunk, -1, s.head_dim), context.transpose(2, 3))
        far = far.view(len(own), width * s.n_head, -1).float()
        near = torch.bmm(grouped, own.transpose(1, 2)).float()
        scale = s.head_dim**-0.5
        far = (far * scale).masked_fill(hidden.view(len(own), 1, -1), -1e30)
        sinks = self.w[f"{prefix}attn_sinks.weight"].repeat(width).view(1, -1, 1)
        scores = torch.cat([far, near * scale, sinks.expand(len(own), -1, 1)], -1)
        p = scores.softmax(-1).to(self.dtype)
        n_far = far.shape[-1]
        out = torch.matmul(p[..., :n_far].reshape(n_row, n_chunk, -1, n_far), context)
        out = out.view(grouped.shape) + torch.bmm(p[..., n_far:-1], own)
        out = out.view(-1, s.n_head, s.head_dim)
        out = turned_plainly(out, cos[:, None], -sin[:, None]).to(self.dtype)
        out = out.reshape(-1, s.n_out_group, s.group_dim).transpose(0, 1)
        w = self._matrix(f"{prefix}attn_output_a.weight").view(s.n_out_group, s.n_lora_o, -1)
        out = torch.bmm(out, w.transpose(1, 2)).transpose(0, 1).flatten(1)
        return self._linear(out, f"{prefix}attn_output_b.weight")

    def markov(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the Markov head says behind some tokens.

        Returns
        -------
        bias : float32 Tensor of shape (*tokens.shape, n_vocab)
        embedding : float32 Tensor of shape (*tokens.shape, rank)
        """
        name = f"{self.last}markov_head.markov_w"
        row = self.w[f"{name}1.weight"].index_select(0, tokens.flatten())
        bias = F.linear(row, self.w[f"{name}2.weight"])
        return bias.view(*tokens.shape, -1), row.view(*tokens.shape, -1)

    def confidence(self, hidden: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits of the confidence that a slot's draft is kept; the rows get no gradient."""
        both = torch.cat([hidden.detach(), embedding.detach()], -1)
        return F.linear(both, self.w[f"{self.last}confidence_head.proj.weight"]).squeeze(-1)


def _hidden(doc: torch.Tensor, anchors: torch.Tensor, width: int, n_swa: int) -> torch.Tensor:
    """Which keys of its two chunks an anchor does not see: bool (n_row, n_chunk, k, 2 CHUNK)."""
    n_row, n_chunk, _ = anchors.shape
    start = torch.arange(n_chunk, device=doc.device)[:, None] * CHUNK - CHUNK
    keys = start + torch.arange(2 * CHUNK, device=doc.device)
    p = anchors.unsqueeze(-1)
    near = (keys[None, :, None] <= p) & (keys[None, :, None] > p - n_swa)
    docs = doc.gather(1, keys.flatten().clamp(min=0).expand(n_row, -1)).view(n_row, n_chunk, 1, -1)
    mine = doc.gather(1, anchors.flatten(1)).view(anchors.shape).unsqueeze(-1)
    return ~(near & (docs == mine) & (keys >= 0)[None, :, None])
