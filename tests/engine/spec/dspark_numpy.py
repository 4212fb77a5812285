"""A DSpark drafter in NumPy float64, written from the equations alone: no ring, no engine code.

`FAULTS` are mistakes that ports of this drafter have made, or easily could: each is a switch here,
and a comparison with the engine that cannot tell one of them from the truth is too weak.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.shape import DsparkShape, Shape

FAULTS = (
    "causal block",
    "window slides by row",
    "context through attn_norm",
    "no main_norm",
    "127 context rows",
    "block one position early",
    "noise is the pending token",
    "no inverse rope",
    "no norm of query heads",
    "no sinks",
    "markov of the pending token only",
    "seven wide",
    "confidence after the norm",
)


@dataclass
class NumpyDrafter:
    """Drafts from all taps so far.

    Parameters
    ----------
    shape, spark : Shape, DsparkShape
    w : dict of str to float64 array
        Under the names of layout A, with the trunk's token_embd.weight and output.weight.
    fault : str
        One of `FAULTS`; '' for none.
    """

    shape: Shape
    spark: DsparkShape
    w: dict[str, np.ndarray]
    fault: str = ""

    def draft(self, taps: np.ndarray, y: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Greedy drafts behind token y, which stands behind the taps.

        Parameters
        ----------
        taps : float64 array of shape (p + 1, n_tap * n_embd)

        Returns
        -------
        ids : list of int
        logits : array of shape (block, n_vocab)
            With the Markov bias.
        confidences : array of shape (block,)
            Logits of them.
        """
        s, fault = self.shape, self.fault
        p = len(taps) - 1
        n = 7 if fault == "seven wide" else self.spark.block
        noise = y if fault == "noise is the pending token" else self.spark.noise
        first = p if fault == "block one position early" else p + 1
        at = np.arange(first, first + n)
        window = s.n_swa - (fault == "127 context rows")
        low = max(0, p - window + 1)
        main = taps[low:] @ self.w["mtp.0.main_proj.weight"].T
        if fault != "no main_norm":
            main = self._rms(main, "mtp.0.main_norm.weight")
        x = np.repeat(self.w["token_embd.weight"][[y] + [noise] * (n - 1)][:, None], s.n_hc, 1)
        seen = self._seen(n, p + 1 - low)
        for stage in range(self.spark.n_stage):
            x = self._stage(f"mtp.{stage}.", x, main, np.arange(low, p + 1), at, seen)
        return self._walk(x, y)

    def _seen(self, n: int, n_context: int) -> np.ndarray:
        """Which keys each row sees: bool (n, n_context + n)."""
        seen = np.ones((n, n_context + n), bool)
        keys, rows = np.arange(n_context + n), np.arange(n)[:, None]
        if self.fault == "causal block":
            seen &= keys - n_context <= rows
        if self.fault == "window slides by row" and n_context == self.shape.n_swa:
            seen &= (keys > rows) | (keys >= n_context)
        return seen

    def _rms(self, x: np.ndarray, name: str | None = None) -> np.ndarray:
        y = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.shape.rms_eps)
        return y if name is None else y * self.w[name]

    def _rope(self, x: np.ndarray, at: np.ndarray, sign: int = 1) -> np.ndarray:
        n = self.shape.n_rot
        angle = at[:, None] * self.shape.rope_base ** (-np.arange(0, n, 2) / n) * sign
        turn = np.exp(1j * angle).reshape(len(at), *[1] * (x.ndim - 2), n // 2)
        z = (x[..., -n::2] + 1j * x[..., -n + 1 :: 2]) * turn
        y = x.copy()
        y[..., -n::2], y[..., -n + 1 :: 2] = z.real, z.imag
        return y

    def _enter(self, x: np.ndarray, prefix: str) -> tuple[np.ndarray, ...]:
        s, h = self.shape, self.shape.n_hc
        mix = self._rms(x.reshape(len(x), -1)) @ self.w[f"{prefix}fn.weight"].T
        scale, base = self.w[f"{prefix}scale.weight"], self.w[f"{prefix}base.weight"]
        pre = _sigmoid(mix[:, :h] * scale[0] + base[:h]) + s.hc_eps
        post = 2 * _sigmoid(mix[:, h : 2 * h] * scale[1] + base[h : 2 * h])
        c = (mix[:, 2 * h :] * scale[2] + base[2 * h :]).reshape(-1, h, h)
        c = np.exp(c - c.max(-1, keepdims=True))
        c = c / c.sum(-1, keepdims=True) + s.hc_eps
        c = c / (c.sum(-2, keepdims=True) + s.hc_eps)
        for _ in range(s.n_sinkhorn - 1):
            c = c / (c.sum(-1, keepdims=True) + s.hc_eps)
            c = c / (c.sum(-2, keepdims=True) + s.hc_eps)
        return (pre[:, :, None] * x).sum(1), post, c

    def _stage(self, prefix, x, main, context_at, at, seen) -> np.ndarray:
        s, w = self.shape, self.w
        y, post, comb = self._enter(x, f"{prefix}hc_attn_")
        y = self._rms(y, f"{prefix}attn_norm.weight")
        if self.fault == "context through attn_norm":
            main = self._rms(main, f"{prefix}attn_norm.weight")
        kv = w[f"{prefix}attn_kv.weight"]
        norm = f"{prefix}attn_kv_a_norm.weight"
        context = self._rope(self._rms(main @ kv.T, norm), context_at)
        keys = np.concatenate([context, self._rope(self._rms(y @ kv.T, norm), at)])
        low = self._rms(y @ w[f"{prefix}attn_q_a.weight"].T, f"{prefix}attn_q_a_norm.weight")
        q = (low @ w[f"{prefix}attn_q_b.weight"].T).reshape(len(y), s.n_head, s.head_dim)
        q = self._rope(q if self.fault == "no norm of query heads" else self._rms(q), at)
        scores = np.einsum("nhd,kd->nhk", q, keys) * s.head_dim**-0.5
        scores = np.where(seen[:, None], scores, -np.inf)
        sink = w[f"{prefix}attn_sinks.weight"][None, :, None]
        top = np.maximum(scores.max(-1, keepdims=True), sink)
        e = np.exp(scores - top)
        rest = 0 if self.fault == "no sinks" else np.exp(sink - top)
        out = np.einsum("nhk,kd->nhd", e / (e.sum(-1, keepdims=True) + rest), keys)
        if self.fault != "no inverse rope":
            out = self._rope(out, at, -1)
        out = out.reshape(len(y), s.n_out_group, -1)
        a = w[f"{prefix}attn_output_a.weight"].reshape(s.n_out_group, s.n_lora_o, -1)
        out = np.einsum("ngd,grd->ngr", out, a).reshape(len(y), -1)
        x = _merge(out @ w[f"{prefix}attn_output_b.weight"].T, x, post, comb)
        y, post, comb = self._enter(x, f"{prefix}hc_ffn_")
        return _merge(
            self._experts(self._rms(y, f"{prefix}ffn_norm.weight"), prefix), x, post, comb
        )

    def _experts(self, x: np.ndarray, prefix: str) -> np.ndarray:
        s, w = self.shape, self.w
        score = np.sqrt(np.logaddexp(0, x @ w[f"{prefix}ffn_gate_inp.weight"].T))
        chosen = np.argsort(-(score + w[f"{prefix}exp_probs_b.bias"]), 1)[:, : s.n_expert_used]
        leaves = [w[f"{prefix}ffn_{leaf}_exps.weight"] for leaf in ("gate", "up", "down")]
        out = self._swiglu(x, *(w[f"{prefix}ffn_{leaf}_shexp.weight"] for leaf in _LEAVES))
        for i, row in enumerate(x):
            part = score[i, chosen[i]]
            part = part / part.sum() * s.expert_weights_scale
            for e, weight in zip(chosen[i], part):
                out[i] += weight * self._swiglu(row, *(leaf[e] for leaf in leaves))
        return out

    def _swiglu(self, x, gate, up, down) -> np.ndarray:
        limit = self.shape.swiglu_limit[-1]
        g = np.minimum(x @ gate.T, limit)
        return (g * _sigmoid(g) * np.clip(x @ up.T, -limit, limit)) @ down.T

    def _walk(self, x: np.ndarray, y: int) -> tuple[list[int], np.ndarray, np.ndarray]:
        w, last = self.w, f"mtp.{self.spark.n_stage - 1}."
        mix = self._rms(x.reshape(len(x), -1)) @ w[f"{last}hc_head_fn.weight"].T
        pre = _sigmoid(mix * w[f"{last}hc_head_scale.weight"] + w[f"{last}hc_head_base.weight"])
        h = ((pre + self.shape.hc_eps)[:, :, None] * x).sum(1)
        normed = self._rms(h, f"{last}norm.weight")
        base = normed @ w["output.weight"].T
        ids, logits, confidences, previous = [], [], [], y
        for i in range(self.spark.block):
            row = w[f"{last}markov_head.markov_w1.weight"][previous]
            logits.append(base[i] + w[f"{last}markov_head.markov_w2.weight"] @ row)
            hidden = normed[i] if self.fault == "confidence after the norm" else h[i]
            proj = w[f"{last}confidence_head.proj.weight"][0]
            confidences.append(proj @ np.concatenate([hidden, row]))
            ids.append(int(logits[-1].argmax()))
            if self.fault != "markov of the pending token only":
                previous = ids[-1]
        return ids, np.array(logits), np.array(confidences)


_LEAVES = ("gate", "up", "down")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _merge(y, x, post, comb) -> np.ndarray:
    return post[:, :, None] * y[:, None] + np.einsum("nso,nsd->nod", comb, x)
