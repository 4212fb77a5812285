"""Which experts a token uses, and their weights."""

from __future__ import annotations

import math

import numpy as np

from engine.ops.cpu.runtime.jit import inline_kernel, kernel
from engine.ops.cpu.runtime.over import over
from engine.ops.cpu.runtime.team import team
from engine.ops.cpu.simd.scalar import softplus

EXPERT_COST = 16  # multiply-adds that an expert's score is worth
SUM_FLOOR = np.float32(6.103515625e-5)  # float16's least normal
NO_VALUES = np.empty(0, np.float32)
LOWEST = np.float32(-np.inf)


@inline_kernel
def _weigh(weights, i, p, ids, scale):
    used = ids.shape[1]
    total = np.float32(0)
    for k in range(used):
        total += p[ids[i, k]]
    total = SUM_FLOOR if total < SUM_FLOOR else total
    for k in range(used):
        weights[i, k] = p[ids[i, k]] / total * np.float32(scale)


@inline_kernel
def _affinity(p, logits, i):
    for e in range(logits.shape[1]):
        p[e] = math.sqrt(softplus(logits[i, e]))


@kernel
def _select(ids, weights, logits, bias, scale, margin, begin, stop):
    used, n_expert = ids.shape[1], logits.shape[1]
    p = np.empty(n_expert, np.float32)
    best = np.empty(used, np.float32)
    for i in range(begin, stop):
        _affinity(p, logits, i)
        dropped = LOWEST
        held = 0
        for e in range(n_expert):
            value = p[e] + bias[e] if bias.size else p[e]
            if held == used and not value > best[used - 1]:
                dropped = value if value > dropped else dropped
                continue
            if held == used:
                last = best[used - 1]
                dropped = last if last > dropped else dropped
            else:
                held += 1
            k = held - 1
            # Strictly greater moves ahead, so equal values keep the lower id first.
            while k > 0 and value > best[k - 1]:
                best[k] = best[k - 1]
                ids[i, k] = ids[i, k - 1]
                k -= 1
            best[k] = value
            ids[i, k] = e
        _weigh(weights, i, p, ids, scale)
        if margin.size:
            margin[i] = best[used - 1] - dropped


@kernel
def _select_all(team, ids, weights, logits, bias, scale, margin):
    n, n_expert = logits.shape
    rows = (ids, weights, logits, bias, scale, margin)
    over(team, n, EXPERT_COST * n_expert, _select, rows)


def router_select(ids, weights, logits, bias, scale, margin):
    bias = NO_VALUES if bias is None else bias
    margin = NO_VALUES if margin is None else margin
    _select_all(team(), ids, weights, logits, bias, scale, margin)


@kernel
def _hash(ids, weights, logits, table, tokens, scale):
    p = np.empty(logits.shape[1], np.float32)
    for i in range(ids.shape[0]):
        for k in range(ids.shape[1]):
            ids[i, k] = table[tokens[i], k]
        _affinity(p, logits, i)
        _weigh(weights, i, p, ids, scale)


def router_hash(ids, weights, logits, table, tokens, scale):
    _hash(ids, weights, logits, table, tokens, scale)
