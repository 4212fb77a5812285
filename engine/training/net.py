"""The DeepSeek V4 architecture in PyTorch, for training the nano model; imported by training only.

Weights are a plain dictionary under the names of `engine.models.make`, which are those of the
file, so a trained model is exported without a table of names. Every mechanism is computed as in
the paper and in transformers' `DeepseekV4ForCausalLM` (arXiv:2512.24880 for hyper-connections);
`tests/engine/nano/test_net.py` compares whole models. Three things serve speed and change nothing
else: experts are computed densely (two products for all of them, unused ones weighted 0), keys are
walked in chunks of a window, and all shapes depend on the batch's shape only, so that a whole step
can be recorded as a CUDA graph.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from engine.models.make import DRAFT, Spec, chunks, draft_specs, trunk_specs
from engine.shape import Shape
from engine.training.attention import Geometry, attend
from engine.training.streams import collapse, merge, mix, sinkhorn

# Widths of the start, as parts of 1/sqrt(fan-in): outputs of sublayers start small.
_GAIN = 0.6
_OUT_GAIN = 0.2
_HEAD_GAIN = 0.3
_EMBED_STD = 0.5
_HC_FN_STD = 0.01
_OUTPUTS = ("attn_output_b.weight", "ffn_down_exps.weight", "ffn_down_shexp.weight")


def initial_weights(shape: Shape, seed: int) -> dict[str, torch.Tensor]:
    """Weights of trunk and draft block before training.

    Parameters
    ----------
    shape : Shape
    seed : int

    Returns
    -------
    dict of str to Tensor
        float32 on the CPU under the names of `make`; hash tables are int64.
    """
    rng = torch.Generator().manual_seed(seed)
    return {
        spec.name: initial(spec, rng, seed) for spec in (*trunk_specs(shape), *draft_specs(shape))
    }


def initial(spec: Spec, rng: torch.Generator, seed: int) -> torch.Tensor:
    """One tensor before training."""

    def normal(std: float) -> torch.Tensor:
        return torch.randn(spec.shape, generator=rng) * std

    name = spec.name
    if spec.rule == "hash":
        return torch.cat([torch.from_numpy(c) for c in chunks(spec, seed)]).long()
    if name.endswith("base.weight"):
        base = 0.3 * torch.randn(spec.shape, generator=rng)
        base[:4] = -1 + 2 * base[:4]
        if len(base) == 24:  # streams keep to themselves at first
            base[8:] += 3 * torch.eye(4).flatten()
        return base
    if name.endswith("scale.weight"):
        return torch.full(spec.shape, 0.5)
    if spec.kind == "vector":
        return torch.ones(spec.shape) if "norm" in name else torch.zeros(spec.shape)
    if spec.kind == "ape":
        return torch.zeros(spec.shape)
    if spec.kind == "hc":
        return normal(_HC_FN_STD)
    if spec.kind == "embed":
        return normal(_EMBED_STD)
    scale = spec.shape[-1] ** -0.5
    if spec.kind == "router":
        return normal(scale)
    if spec.kind == "output":
        return normal(_HEAD_GAIN * scale)
    return normal((_OUT_GAIN if name.endswith(_OUTPUTS) else _GAIN) * scale)


def rope_frequencies(shape: Shape, compressed: bool) -> torch.Tensor:
    """Radians per position of each pair; YaRN's ramp in layers with a compressor.

    As `engine.forward.rope`, which lies above this layer.

    Returns
    -------
    float32 Tensor of shape (n_rot / 2,)
    """
    n, base = shape.n_rot, shape.rope_base_compress if compressed else shape.rope_base
    plain = base ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
    if not compressed or shape.yarn_factor == 1:
        return plain.float()

    def dim_of(turns: float) -> float:
        return n * math.log(shape.yarn_orig_ctx / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(dim_of(shape.yarn_beta_fast)), 0)
    high = min(math.ceil(dim_of(shape.yarn_beta_slow)), n - 1)
    ramp = ((torch.arange(n // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
    return (plain / shape.yarn_factor * ramp + plain * (1 - ramp)).float()


class Net:
    """Forward pass over packed rows.

    Parameters
    ----------
    shape : Shape
        With a window of 128, 4 streams and ratios among 0, 4 and 128.
    weights : dict of str to Tensor
        As `initial_weights` makes them; used as they are, never copied.
    dtype : torch.dtype
        Of matrix products: float32, or bfloat16 with float32 weights.
    """

    def __init__(self, shape: Shape, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
        self.shape = shape
        self.w = weights
        self.dtype = dtype
        self.loads: dict[str, torch.Tensor] = {}  # tokens per expert of the last pass, by prefix
        self.index_losses: list[torch.Tensor] = []
        self._cast: dict[str, torch.Tensor] = {}
        device = weights["output.weight"].device
        self._frequencies = {c: rope_frequencies(shape, c).to(device) for c in (False, True)}

    def geometry(self, doc: torch.Tensor, index: int) -> Geometry:
        """What `trunk` and `draft` need to know about the documents of the rows.

        Parameters
        ----------
        doc : int64 Tensor of shape (n_row, n_col)
            Number of the document of each token; n_col a multiple of 128, documents begin at
            multiples of 4.
        index : {0, 1, 2}
            0: indexer idle, every compressed row visible; 1: indexer learns; 2: its choice acts.
        """
        self.forget()
        return Geometry(doc, self._frequencies, index, self.shape.idx_top_k)

    def forget(self) -> None:
        """End a pass: cast weights are stale once the optimiser has run."""
        self._cast.clear()
        self.loads.clear()
        self.index_losses = []

    def trunk(self, ids: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """Streams after the last layer: ids (n_row, n_col) to float32 (n_token, 4, n_embd)."""
        flat = ids.reshape(-1)
        x = self._embed(flat).unsqueeze(1).expand(-1, 4, -1).contiguous()
        for layer in range(self.shape.n_layer):
            ratio = self.shape.compress_ratio(layer)
            hashed = layer < self.shape.n_hash_layer
            x = self._block(x, f"blk.{layer}.", flat, geometry, ratio, hashed, layer)
        return x

    def logits(self, x: torch.Tensor, head: str = "output_hc_", norm: str = "output_norm.weight"):
        """Logits from streams; float32 Tensor of shape (n_token, n_vocab)."""
        s = self.shape
        weights = mix(x.flatten(1), self.w[f"{head}fn.weight"], s.rms_eps)
        pre = weights * self.w[f"{head}scale.weight"] + self.w[f"{head}base.weight"]
        y = collapse(x, torch.sigmoid(pre) + s.hc_eps)
        return self._linear(self._norm(y, norm), "output.weight").float()

    def draft(self, x: torch.Tensor, ids: torch.Tensor, geometry: Geometry) -> torch.Tensor:
        """The draft block's logits.

        Row p pairs the trunk's streams after token p with token p + 1 and guesses token p + 2; a
        row's last two guesses, and those across documents, mean nothing.

        Parameters
        ----------
        x : float32 Tensor of shape (n_token, 4, n_embd)
            The result of `trunk`.
        """
        after = F.pad(ids[:, 1:], (0, 1)).reshape(-1)
        e = self._norm(self._embed(after), f"{DRAFT}enorm.weight")
        h = self._norm(x, f"{DRAFT}hnorm.weight")
        y = self._linear(e, f"{DRAFT}e_proj.weight").unsqueeze(1)
        y = (y + self._linear(h, f"{DRAFT}h_proj.weight")).float()
        y = self._block(y, DRAFT, after, geometry, 0, False, -1)
        return self.logits(y, f"{DRAFT}hc_head_", f"{DRAFT}norm.weight")

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        # Unlike that of indexing, its gradient never waits for the host on a GPU.
        return self.w["token_embd.weight"].index_select(0, ids)

    def _matrix(self, name: str) -> torch.Tensor:
        if name not in self._cast:
            self._cast[name] = self.w[name].to(self.dtype)
        return self._cast[name]

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x.to(self.dtype), self._matrix(name))

    def _norm(self, x: torch.Tensor, name: str | None) -> torch.Tensor:
        weight = None if name is None else self.w[name]
        return F.rms_norm(x.float(), x.shape[-1:], weight, self.shape.rms_eps)

    def _block(
        self,
        x: torch.Tensor,
        prefix: str,
        ids: torch.Tensor,
        geometry: Geometry,
        ratio: int,
        hashed: bool,
        layer: int,
    ) -> torch.Tensor:
        y, post, comb = self._enter(x, f"{prefix}hc_attn_")
        y = self._attention(self._norm(y, f"{prefix}attn_norm.weight"), prefix, geometry, ratio)
        x = merge(x, y, post, comb)
        y, post, comb = self._enter(x, f"{prefix}hc_ffn_")
        y = self._norm(y, f"{prefix}ffn_norm.weight")
        return merge(x, self._experts(y, prefix, ids, hashed, layer), post, comb)

    def _enter(self, x: torch.Tensor, prefix: str) -> tuple[torch.Tensor, ...]:
        """A sublayer's input, and how its output returns to the streams."""
        s = self.shape
        weights = mix(x.flatten(1), self.w[f"{prefix}fn.weight"], s.rms_eps)
        scale = self.w[f"{prefix}scale.weight"]
        base = self.w[f"{prefix}base.weight"]
        pre = torch.sigmoid(weights[:, :4] * scale[0] + base[:4]) + s.hc_eps
        post = 2 * torch.sigmoid(weights[:, 4:8] * scale[1] + base[4:8])
        comb = sinkhorn(weights[:, 8:] * scale[2] + base[8:], s.n_sinkhorn, s.hc_eps)
        return collapse(x, pre), post, comb

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
            numbers = torch.arange(s.n_expert, device=ids.device)
            self.loads[prefix] = (chosen.unsqueeze(-1) == numbers).sum((0, 1))
        part = scores.gather(1, chosen)
        part = part / (part.sum(-1, keepdim=True) + 1e-20) * s.expert_weights_scale
        # Column n_expert is the shared expert, which everybody uses.
        weight = x.new_zeros((len(x), s.n_expert)).scatter(1, chosen, part)
        weight = F.pad(weight, (0, 1), value=1.0)
        xc = x.to(self.dtype)
        gate = F.linear(xc, self._stacked(prefix, "gate"))
        up = F.linear(xc, self._stacked(prefix, "up"))
        limit = s.swiglu_limit[layer]
        h = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit)
        h = h.view(len(x), s.n_expert + 1, s.n_ff_exp) * weight.to(self.dtype).unsqueeze(-1)
        return F.linear(h.flatten(1), self._stacked(prefix, "down"))

    def _stacked(self, prefix: str, leaf: str) -> torch.Tensor:
        """All experts' matrices as one, the shared one's last."""
        routed = self._matrix(f"{prefix}ffn_{leaf}_exps.weight")
        shared = self._matrix(f"{prefix}ffn_{leaf}_shexp.weight")
        if leaf == "down":
            return torch.cat([routed.transpose(0, 1).flatten(1), shared], 1)
        return torch.cat([routed.flatten(0, 1), shared])

    def _compress(
        self, x: torch.Tensor, prefix: str, ratio: int, geometry: Geometry
    ) -> torch.Tensor:
        """Compressed rows (n_row, n_window, width), turned to the position of their first token."""
        kv = self._linear(x, f"{prefix}kv.weight")
        gate = self._linear(x, f"{prefix}gate.weight")
        ape = self.w[f"{prefix}ape.weight"]
        if ratio == 4:
            half = kv.shape[-1] // 2
            kv = kv.unflatten(1, (-1, 4))
            gate = gate.unflatten(1, (-1, 4)).float() + ape
            # A window's first half comes from the window before it in the same document.
            before = F.pad(kv[:, :-1, :, :half], (0, 0, 0, 0, 1, 0))
            gate_before = F.pad(gate[:, :-1, :, :half], (0, 0, 0, 0, 1, 0))
            gate_before = gate_before.masked_fill(geometry.first[:, :, None, None], -math.inf)
            kv = torch.cat([before, kv[..., half:]], 2)
            gate = torch.cat([gate_before, gate[..., half:]], 2)
        else:
            kv = geometry.windows(kv)
            gate = geometry.windows(gate).float() + ape
        y = (kv * gate.softmax(2)).sum(2)
        return geometry.turn(self._norm(y, f"{prefix}norm.weight"), True, self.dtype, ratio)

    def _attention(
        self, x: torch.Tensor, prefix: str, geometry: Geometry, ratio: int
    ) -> torch.Tensor:
        s = self.shape
        compressed = ratio != 0
        rows = geometry.rows(x)
        qr = self._norm(
            self._linear(rows, f"{prefix}attn_q_a.weight"), f"{prefix}attn_q_a_norm.weight"
        )
        q = self._linear(qr, f"{prefix}attn_q_b.weight").unflatten(-1, (s.n_head, s.head_dim))
        q = geometry.turn_heads(self._norm(q, None), compressed, self.dtype)
        kv = self._norm(
            self._linear(rows, f"{prefix}attn_kv.weight"), f"{prefix}attn_kv_a_norm.weight"
        )
        kv = geometry.turn(kv, compressed, self.dtype)
        extra = visible = scores = None
        if compressed:
            extra = self._compress(rows, f"{prefix}attn_compressor_", ratio, geometry)
            visible = geometry.visible(ratio)
        if ratio == 4 and geometry.index and visible is not None:
            scores = self._index_scores(rows.detach(), qr.detach(), prefix, geometry)
            if geometry.index == 2:
                visible = geometry.chosen(scores, visible)
        out, p = attend(geometry, q, kv, extra, visible, self.w[f"{prefix}attn_sinks.weight"])
        if scores is not None and visible is not None:
            self.index_losses.append(geometry.index_loss(scores, p, visible))
        out = geometry.turn_heads(out, compressed, self.dtype, back=True)
        out = out.reshape(-1, s.n_out_group, s.group_dim).transpose(0, 1)
        w = self._matrix(f"{prefix}attn_output_a.weight").view(s.n_out_group, s.n_lora_o, -1)
        out = torch.bmm(out, w.transpose(1, 2)).transpose(0, 1).flatten(1)
        return self._linear(out, f"{prefix}attn_output_b.weight")

    def _index_scores(
        self, rows: torch.Tensor, qr: torch.Tensor, prefix: str, geometry: Geometry
    ) -> torch.Tensor:
        """Indexer's scores of the compressed rows; float32 (n_row, n_col, n_window)."""
        s = self.shape
        keys = self._compress(rows, f"{prefix}indexer_compressor_", 4, geometry)
        q = self._linear(qr, f"{prefix}indexer.attn_q_b.weight")
        q = q.unflatten(-1, (s.n_idx_head, s.idx_head_dim))
        q = geometry.turn_heads(q, True, self.dtype).flatten(1, 2)
        dots = F.relu(torch.bmm(q, keys.transpose(1, 2))) * s.idx_head_dim**-0.5
        dots = dots.unflatten(1, (-1, s.n_idx_head))
        weight = self._linear(rows, f"{prefix}indexer.proj.weight") * s.n_idx_head**-0.5
        return torch.matmul(weight.unsqueeze(2), dots).squeeze(2).float()
