"""Decode modes as the bench runs them: the engine's decoders under one rule for every mode.

The rule (upstream's): EOS cannot be chosen, by the target or by a drafter, so that every mode
emits exactly the same number of tokens and, at temperature 0, the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

# All four emit plain's tokens at temperature 0: verification is row exact in this engine.
LOSSLESS = frozenset({"plain", "mtp-strict", "mtp-batched", "mtp-combined"})


def implemented_modes() -> tuple[str, ...]:
    """Modes whose code exists, whatever the model."""
    from engine.spec.protocol import MODES

    return tuple(MODES)


def open_mode(
    session: Any,
    mode: str,
    *,
    draft: int,
    adaptive: bool,
    margin: float,
    forbidden: Collection[int],
    sampling: dict[str, Any],
) -> Any:
    """A decoder over a session.

    Parameters
    ----------
    draft : int
        Tokens drafted per step, speculative modes only.
    adaptive : bool
        Choose the depth, up to `draft`, from acceptance and cost.
    margin : float
        Stop drafting where the block's two best logits are closer than this.
    forbidden : collection of int
        Ids that are never chosen or proposed.
    sampling : dict
        temp, top_k, top_p, min_p, seed of `engine.sample.Sampler`.

    Raises
    ------
    OptionError
        If the model lacks what the mode needs, or a value is out of range.
    """
    from engine.sample import Sampler
    from engine.spec.modes import open_decoder
    from engine.spec.policy import Greedy, Sampled
    from engine.spec.protocol import Policy

    policy: Policy = Greedy(forbidden)
    if sampling["temp"] != 0:
        policy = Sampled(Sampler(**sampling), forbidden)
    return open_decoder(
        session, mode, policy, draft=draft, adaptive=adaptive, margin=margin, stop=forbidden
    )
