"""Chooses the folder of a run and the seed that goes with it, for a new run or a continued one."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4eval.documents import Document, section
from ds4eval.plan import config_digest, make_jobs, with_seed
from ds4eval.questions.question import Question
from ds4eval.records.replay import read_run
from ds4eval.records.store import peek_config
from ds4eval.request import OutputOptions
from engine.errors import OptionError

RUNS = Path("ds4-eval-runs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder and the seed of the run in it.

    Parameters
    ----------
    path : Path
    seed : int or None
        None keeps the seed that the command line gave.
    drawn : bool
        Nobody chose the seed, so the user has to be told of it.
    """

    path: Path
    seed: int | None = None
    drawn: bool = False


def choose_folder(
    output: OutputOptions,
    name: str,
    config: Document,
    questions: Sequence[Question],
    repeats: int,
    wants_seed: bool,
    earlier: Sequence[Document] = (),
) -> RunFolder:
    """Run folder, and the seed that goes with it.

    A sampled run without --seed takes the seed of the unfinished run in its folder; a new one
    draws its seed. Without --out, a finished sampled run is left alone and the next one is made.

    Parameters
    ----------
    output : OutputOptions
    name : str
        First part of the name of a folder that is chosen here.
    config : dict
        Configuration of the run, with any seed.
    questions, repeats
        What will be asked.
    wants_seed : bool
        The run samples, and the command line names no seed.
    earlier : sequence of dict
        The configuration as earlier releases wrote it down.

    Raises
    ------
    OptionError
        If there is no free name left.
    """
    if output.out is not None:
        found = None if output.force else peek_config(output.out)
        return (
            _fresh(output.out, wants_seed)
            if found is None
            else _again(output.out, found, wants_seed)
        )
    base = _base(name, config, wants_seed, earlier)
    for number in range(1, 10_000):
        path = RUNS / (base if number == 1 else f"{base}-{number}")
        found = peek_config(path)
        if found is None or output.force:
            return _fresh(path, wants_seed)
        there = _again(path, found, wants_seed)
        if there.seed is None:
            return there
        same = (form for form in (config, *earlier) if _unseeded(form) == _unseeded(found))
        jobs = make_jobs(with_seed(next(same, config), there.seed), questions, repeats)
        final = {sample.key for sample in read_run(path).samples if sample.final}
        if any(job.key not in final for job in jobs):
            return there
    raise OptionError(f"--out: expected a folder, found {RUNS} full of runs of this kind")


def _base(name: str, config: Document, wants_seed: bool, earlier: Sequence[Document]) -> str:
    """Name of a run's folder; that of an earlier release where it holds such a run, and ours none.

    An earlier release named folders by the words that it had for the same configuration.
    """
    today, *then = (
        f"{name}-{config_digest(form, without_seed=wants_seed)}" for form in (config, *earlier)
    )
    if peek_config(RUNS / today) is None:
        for form, old in zip(earlier, then):
            found = peek_config(RUNS / old)
            if found is not None and _unseeded(found) == _unseeded(form):
                return old
    return today


def _unseeded(config: Document) -> Document:
    """A configuration of any seed."""
    return with_seed(config, 0) if "seed" in section(config, "sampling") else config


def _fresh(path: Path, wants_seed: bool) -> RunFolder:
    return RunFolder(path, secrets.randbits(32) or 1, True) if wants_seed else RunFolder(path)


def _again(path: Path, found: Document, wants_seed: bool) -> RunFolder:
    """The folder of a run that is there, with the seed of its configuration."""
    if not wants_seed:
        return RunFolder(path)
    seed = section(found, "sampling").get("seed", 1)
    return RunFolder(path, seed if isinstance(seed, int) else 1)
