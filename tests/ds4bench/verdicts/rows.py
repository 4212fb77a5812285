"""Rows made slower, and rows with hashes of their tokens."""

from __future__ import annotations

from dataclasses import replace


def slow(rows, factor, where=lambda row: True):
    return [replace(r, gen_s=r.gen_s / factor) if where(r) else r for r in rows]


def hashed(rows, text="a"):
    return [replace(r, token_hash=f"{text}{r.ctx_tokens}") for r in rows]
