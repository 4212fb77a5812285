"""Decode modes as the bench runs them: the engine's decoders under one rule for every mode.

The rule (upstream's): EOS cannot be chosen, by the target or by a drafter, so that every mode
emits exactly the same number of tokens and, at temperature 0, the same tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from ds4bench.plan import SweepPlan
from engine.options import DSPARK_MODES
from engine.sample import Sampler
from engine.session import Session
from engine.spec.modes import open_decoder
from engine.spec.policy import Greedy, Sampled
from engine.spec.protocol import Decoder, Policy


def open_mode(session: Session, mode: str, plan: SweepPlan, forbidden: Collection[int]) -> Decoder:
    """A decoder over a session.

    Parameters
    ----------
    session : Session
    mode : str
    plan : SweepPlan
        Says how far each kind of drafter drafts, and how tokens are chosen.
    forbidden : collection of int
        Ids that are never chosen or proposed.

    Raises
    ------
    OptionError
        If the model lacks what the mode needs, or a value is out of range.
    """
    policy: Policy = Greedy(forbidden)
    if not plan.sampling.greedy:
        policy = Sampled(Sampler(**asdict(plan.sampling)), forbidden)
    sparks = mode in DSPARK_MODES
    return open_decoder(
        session,
        mode,
        policy,
        draft=plan.draft_max if sparks else plan.mtp_draft,
        adaptive=plan.draft_adaptive if sparks else plan.mtp_adaptive,
        margin=plan.mtp_margin,
        confidence=plan.draft_confidence,
        stop=forbidden,
    )
