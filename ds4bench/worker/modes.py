"""Decode modes as the bench runs them: the engine's decoders under one rule for every mode.

The rule (upstream's): EOS cannot be chosen, by the target or by a drafter, so that every mode
emits exactly the same number of tokens and, at temperature 0, the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from ds4bench.plan import Sampling
from engine.sample import Sampler
from engine.session import Session
from engine.spec.modes import open_decoder
from engine.spec.policy import Greedy, Sampled
from engine.spec.protocol import Decoder, Policy


def open_mode(
    session: Session,
    mode: str,
    *,
    draft: int,
    adaptive: bool,
    margin: float,
    forbidden: Collection[int],
    sampling: Sampling,
) -> Decoder:
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
    sampling : Sampling

    Raises
    ------
    OptionError
        If the model lacks what the mode needs, or a value is out of range.
    """
    policy: Policy = Greedy(forbidden)
    if not sampling.greedy:
        policy = Sampled(Sampler(**asdict(sampling)), forbidden)
    return open_decoder(
        session, mode, policy, draft=draft, adaptive=adaptive, margin=margin, stop=forbidden
    )
