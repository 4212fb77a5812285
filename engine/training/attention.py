"""Which rows see which in packed rows, rotary turns, and attention with K = V and sinks.

Documents are independent: windows, compressed windows and the indexer's choice end at a document's
first token. Positions count along the packed row; rotation depends on differences only, and
compressed windows are those of the document: documents begin at multiples of 4, and windows of 128
are gathered from where each document begins.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from engine.training import fused
from engine.training.plain import turned_plainly

CHUNK = 128  # queries walked together; equals the sliding window


class Geometry:
    """Masks and positions of one batch.

    Parameters
    ----------
    doc : int64 Tensor of shape (n_row, n_col)
    frequencies : dict of bool to Tensor
        Radians per position for layers without and with a compressor.
    index, top_k : int
        See `Net.geometry`.
    """

    def __init__(
        self, doc: torch.Tensor, frequencies: dict[bool, torch.Tensor], index: int, top_k: int
    ) -> None:
        self.doc = doc
        self.index = index
        self.top_k = top_k
        self.n_row, self.n_col = doc.shape
        assert self.n_col % CHUNK == 0, self.n_col
        self._pos = torch.arange(self.n_col, device=doc.device)
        self._frequencies = frequencies
        self._angles: dict[tuple[bool, int], tuple[torch.Tensor, torch.Tensor]] = {}
        self._visible: dict[int, torch.Tensor] = {}
        before = F.pad(doc[:, :-1], (1, 0), value=-1)
        self._first_pos = ((doc != before) * self._pos).cummax(1).values
        self.first = (self._first_pos == self._pos)[:, ::4]
        self._starts = self._window_starts()
        self.window = self._window()

    def _window_starts(self) -> torch.Tensor:
        """Where the documents' windows of 128 begin; n_col where a row has no more of them."""
        n_window = self.n_col // 128
        begins = (self._pos - self._first_pos) % 128 == 0
        whole = F.pad(self.doc[:, 127:], (0, 127), value=-2) == self.doc
        begins = begins & whole
        slot = (begins.cumsum(1) - 1).masked_fill(~begins, n_window)
        starts = self.doc.new_full((self.n_row, n_window + 1), self.n_col)
        starts.scatter_(1, slot, self._pos.expand(self.n_row, -1))
        return starts[:, :n_window]

    def _window(self) -> torch.Tensor:
        """(n_row, n_chunk, 1, CHUNK, 2 CHUNK): key j of the chunk before and this one."""
        chunks = self.doc.unflatten(1, (-1, CHUNK))
        keys = torch.cat([F.pad(chunks[:, :-1], (0, 0, 1, 0), value=-1), chunks], 2)
        i = torch.arange(CHUNK, device=self.doc.device)[:, None]
        j = torch.arange(2 * CHUNK, device=self.doc.device)
        near = (j > i) & (j <= i + CHUNK)
        return (near & (chunks[..., None] == keys[:, :, None])).unsqueeze(2)

    def visible(self, ratio: int) -> torch.Tensor:
        """Which compressed rows a token may see: bool (n_row, n_col, n_window)."""
        if ratio not in self._visible:
            if ratio == 4:
                start = self._pos[None, ::4]
                doc = self.doc[:, ::4]
            else:
                start = self._starts
                doc = F.pad(self.doc, (0, 1), value=-3).gather(1, start)
            past = start[:, None] + (ratio - 1) <= self._pos[:, None]
            self._visible[ratio] = past & (doc[:, None] == self.doc[..., None])
        return self._visible[ratio]

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens as rows: (n_token, d) to (n_row, n_col, d)."""
        return x.view(self.n_row, self.n_col, -1)

    def windows(self, x: torch.Tensor) -> torch.Tensor:
        """Documents' windows of 128: (n_row, n_col, d) to (n_row, n_window, 128, d)."""
        at = self._starts[..., None] + torch.arange(128, device=x.device)
        at = at.clamp(max=self.n_col - 1).flatten(1)
        at = at + torch.arange(self.n_row, device=x.device)[:, None] * self.n_col
        return x.flatten(0, 1).index_select(0, at.flatten()).view(self.n_row, -1, 128, x.shape[-1])

    def _cos_sin(self, compressed: bool, ratio: int) -> tuple[torch.Tensor, torch.Tensor]:
        key = compressed, ratio
        if key not in self._angles:
            pos = self._starts if ratio == 128 else self._pos[::ratio]
            angle = pos[..., None].float() * self._frequencies[compressed]
            self._angles[key] = angle.cos(), angle.sin()
        return self._angles[key]

    def turn(
        self, x: torch.Tensor, compressed: bool, dtype: torch.dtype, ratio: int = 1
    ) -> torch.Tensor:
        """Rotary turn of the trailing dims of (n_row, n_col or n_window, d)."""
        return _turned(x, *self._cos_sin(compressed, ratio), 1, False, dtype)

    def turn_heads(
        self, x: torch.Tensor, compressed: bool, dtype: torch.dtype, back: bool = False
    ) -> torch.Tensor:
        """Rotary turn of (n_row, n_col, n_head, d), or with `back` its inverse."""
        return _turned(x, *self._cos_sin(compressed, 1), x.shape[-2], back, dtype)

    def chosen(self, scores: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """The visible rows that the indexer's top k keeps."""
        if scores.shape[-1] <= self.top_k:
            return visible
        best = scores.detach().masked_fill(~visible, -math.inf).topk(self.top_k, -1).indices
        return torch.zeros_like(visible).scatter(-1, best, True) & visible

    def index_loss(
        self, scores: torch.Tensor, p: torch.Tensor, visible: torch.Tensor
    ) -> torch.Tensor:
        """KL divergence of the indexer's softmax from the heads' attention, per token.

        Only tokens that spend a real share on more than a few compressed rows teach anything.

        Parameters
        ----------
        p : Tensor of shape (n_row, n_chunk, n_head, CHUNK, 2 CHUNK + n_window)
        """
        mass = p[..., 2 * CHUNK :].float().sum(2).flatten(1, 2)
        total = mass.sum(-1, keepdim=True)
        ok = (total.squeeze(-1) > 0.05) & (visible.sum(-1) > 8)
        target = mass / (total + 1e-9)
        guess = scores.masked_fill(~visible, -1e30).log_softmax(-1).clamp(min=-50)
        each = (target * ((target + 1e-9).log() - guess)).sum(-1)
        return (each * ok).sum() / (ok.sum() + 1)


def _turned(
    x: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    n_head: int,
    back: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Turn (..., d) or (..., n_head, d) by angles of shape (..., n_rot / 2)."""
    if fused.available(x):
        return fused.turn(x, cos, sin, n_head, back, dtype)
    if x.dim() == 4:
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return turned_plainly(x, cos, -sin if back else sin).to(dtype)


class _Attend(torch.autograd.Function):
    """Softmax attention over a chunk's window and compressed rows; keeps probabilities only.

    q is (n_row, n_chunk, n_head, CHUNK, d), near (n_row, n_chunk, 2 CHUNK, d), far
    (n_row, n_window, d); the mask broadcasts over heads.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        near: torch.Tensor,
        far: torch.Tensor | None,
        hidden: torch.Tensor,
        sinks: torch.Tensor,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        s = _scores(q, near, far)
        s = s.float().mul_(scale).masked_fill_(hidden, -math.inf)
        sink = sinks.view(-1, 1, 1)
        top = torch.maximum(s.amax(-1, keepdim=True), sink)
        s.sub_(top).exp_()
        sink_share = torch.exp(sink - top)
        total = s.sum(-1, keepdim=True).add_(sink_share)
        p = s.div_(total).to(q.dtype)
        sink_share.div_(total)
        ctx.save_for_backward(q, near, far, p, sink_share)
        ctx.scale = scale
        ctx.mark_non_differentiable(p)
        return _mixed(p, near, far), p

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        q, near, far, p, sink_share = ctx.saved_tensors
        g = g.contiguous()
        ds = _scores(g, near, far).float()
        pf = p.float()
        along = (ds * pf).sum(-1, keepdim=True)
        ds = ds.sub_(along).mul_(pf).mul_(ctx.scale).to(q.dtype)
        d_sinks = -(sink_share * along).sum((0, 1, 3, 4))
        d_near, d_far = _keys(ds, q, near, far)
        v_near, v_far = _keys(p, g, near, far)
        if d_far is not None and v_far is not None:
            d_far = d_far + v_far
        return _mixed(ds, near, far), d_near + v_near, d_far, None, d_sinks, None


def _scores(q: torch.Tensor, near: torch.Tensor, far: torch.Tensor | None) -> torch.Tensor:
    """Products of queries with both kinds of keys, side by side."""
    s = torch.matmul(q.flatten(2, 3), near.transpose(2, 3))
    if far is not None:
        s = torch.cat(
            [s, torch.bmm(q.flatten(1, 3), far.transpose(1, 2)).view(*s.shape[:3], -1)], -1
        )
    return s.view(*q.shape[:4], -1)


def _mixed(p: torch.Tensor, near: torch.Tensor, far: torch.Tensor | None) -> torch.Tensor:
    """Sum of keys weighted by p."""
    out = torch.matmul(p[..., : 2 * CHUNK].flatten(2, 3), near)
    if far is not None:
        out = out + torch.bmm(p[..., 2 * CHUNK :].flatten(1, 3), far).view(out.shape)
    return out.view(*p.shape[:4], -1)


def _keys(
    p: torch.Tensor, q: torch.Tensor, near: torch.Tensor, far: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Adjoint of `_scores` with respect to the keys."""
    d_near = torch.matmul(p[..., : 2 * CHUNK].flatten(2, 3).transpose(2, 3), q.flatten(2, 3))
    if far is None:
        return d_near, None
    return d_near, torch.bmm(p[..., 2 * CHUNK :].flatten(1, 3).transpose(1, 2), q.flatten(1, 3))


def attend(
    geometry: Geometry,
    q: torch.Tensor,
    kv: torch.Tensor,
    far: torch.Tensor | None,
    visible: torch.Tensor | None,
    sinks: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of all heads over the window and, where there are any, compressed rows.

    Parameters
    ----------
    q : Tensor of shape (n_row, n_col, n_head, head_dim)
    kv : Tensor of shape (n_row, n_col, head_dim)
        Key and value at once.
    far : Tensor of shape (n_row, n_window, head_dim), optional
    visible : bool Tensor of shape (n_row, n_col, n_window), with `far`
    sinks : float32 Tensor of shape (n_head,)

    Returns
    -------
    out : Tensor of shape (n_row, n_col, n_head, head_dim)
    p : Tensor of shape (n_row, n_chunk, n_head, CHUNK, 2 CHUNK + n_window)
        Probabilities, without gradient.
    """
    mask = geometry.window
    if visible is not None:
        mask = torch.cat([mask, visible.unflatten(1, (-1, CHUNK)).unsqueeze(2)], -1)
    chunks = kv.unflatten(1, (-1, CHUNK))
    near = torch.cat([F.pad(chunks[:, :-1], (0, 0, 0, 0, 1, 0)), chunks], 2)
    q = q.unflatten(1, (-1, CHUNK)).transpose(2, 3).contiguous()
    out, p = _Attend.apply(q, near, far, ~mask, sinks, q.shape[-1] ** -0.5)
    return out.transpose(2, 3).flatten(1, 2), p
