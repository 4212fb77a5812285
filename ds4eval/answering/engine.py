"""Lets our engine answer: in this process, in worker processes, or on a Ray cluster.

`prepare_engine` reads the model's metadata alone; weights are loaded by `EngineAnswerer.opened`.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ds4eval.answering.context import Facts, examine
from ds4eval.answering.jobs import ProcessPool
from ds4eval.answering.pool import OneByOne, SideBySide
from ds4eval.answering.ray_jobs import RayPool
from ds4eval.plan import IDENTITY, Job, ReplySettings
from ds4eval.questions.question import Question
from ds4eval.request import ModelOptions
from engine.errors import OptionError
from engine.gguf.warm import read_through
from engine.models.bundled import RECIPES
from engine.options import EngineOptions
from engine.tooling.check_values import check_values, shown_reading
from engine.tooling.exits import say
from engine.tooling.options.model import default_model, uses_bundled
from engine.tooling.options.speculation import drafters
from engine.tooling.results.environment import cpu

if TYPE_CHECKING:
    from ds4eval.answering.local import EngineBackend


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a worker needs to open the engine; picklable."""

    options: EngineOptions
    settings: ReplySettings
    ctx_max: int
    ctx: int
    think: str
    shared: tuple[Question, ...] = ()


def open_backend(spec: EngineSpec) -> EngineBackend:
    """A back end over a newly opened engine."""
    # numba and the kernels are loaded here and not before: --dry-run and servers need neither.
    from ds4eval.answering.local import EngineBackend
    from engine.engine import open_engine

    with shown_reading(spec.options) as bar:
        engine = open_engine(spec.options, bar)
    try:
        return EngineBackend(
            engine, spec.settings, spec.ctx_max, spec.ctx, spec.think, shared=spec.shared
        )
    except BaseException:
        engine.close()
        raise


@dataclass(frozen=True, slots=True)
class EngineAnswerer:
    """Our engine, examined; see `ds4eval.answering.pool.Answerer`.

    Parameters
    ----------
    options : EngineOptions
    examined : Facts
    model : ModelOptions
    notices : tuple of str
    """

    options: EngineOptions
    examined: Facts
    model: ModelOptions
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.options.path.name

    @property
    def identity(self) -> dict[str, object]:
        return self.examined.identity

    @property
    def think(self) -> str:
        return self.examined.think

    @property
    def memory(self) -> str:
        return str(self.examined.memory)

    @property
    def ctx(self) -> int:
        return self.examined.ctx

    @property
    def longest(self) -> int:
        return self.examined.longest

    def facts(self) -> dict[str, object]:
        """What the manifest says of the model and its arithmetic."""
        options = self.options
        return {
            "model": str(options.path),
            "threads": options.threads,
            "mode": self.model.mode,
            "ctx": self.ctx,
            "backend": options.backend,
            "mtp": str(options.mtp_path) if options.mtp_path else None,
            "dspark": str(options.dspark_path) if options.dspark_path else None,
            **{name: self.identity[name] for name in IDENTITY if name in self.identity},
        }

    @contextlib.contextmanager
    def opened(
        self, settings: ReplySettings, jobs: Sequence[Job]
    ) -> Iterator[OneByOne | SideBySide]:
        """Load the model in this process, or start workers that load one each."""
        questions = tuple(dict.fromkeys(job.question for job in jobs))
        # Workers must render as the context was sized, whatever they could find out themselves.
        settings = replace(settings, encoding=self.examined.encoding)
        spec = EngineSpec(
            self.options, settings, self.examined.ctx_max, self.ctx, self.think, questions
        )
        if self.model.warm_weights:
            _warm(self.options)
        if self.model.ray is None:  # of a cluster, every machine has a file of its own to look at
            spec = replace(spec, options=check_values(spec.options))
        if self.model.ray is not None:
            pool = RayPool(spec, self.model.ray, self.model.jobs, open_backend)
            yield SideBySide(pool)
            return
        if self.model.jobs > 1:
            n = min(self.model.jobs, len(jobs))
            place = partial(on_device, devices=self.model.devices)
            yield SideBySide(ProcessPool(_split(spec, n), n, open_backend, place))
            return
        backend = open_backend(spec)
        try:
            for notice in backend.engine.notices:
                say(notice)
            yield OneByOne(backend)
        finally:
            backend.close()


def on_device(spec: EngineSpec, i: int, devices: Sequence[int]) -> EngineSpec:
    """What the worker at place i opens: devices are dealt round, whoever names none has one."""
    if not devices:
        return spec
    return replace(spec, options=replace(spec.options, device=devices[i % len(devices)]))


def prepare_engine(
    model: ModelOptions, settings: ReplySettings, questions: Sequence[Question]
) -> EngineAnswerer:
    """Find the model file and size the context; weights are not read.

    Raises
    ------
    EngineError
        If there is no such model, or it cannot hold the questions.
    """
    if model.ray is not None and importlib.util.find_spec("ray") is None:
        raise OptionError("--ray: expected the package 'ray' (extra 'ray'), found none")
    notices: list[str] = []
    options = engine_options(model, notices)
    found = examine(options, settings, questions)
    notices += filter(None, (found.release, found.warning))
    if settings.think == "max" and found.think != "max":
        notices.append(
            f"--think-max: needs 393216 tokens of context, found {found.ctx}; "
            f"thinking at {found.think} effort"
        )
    notices.append(
        f"context {found.ctx} tokens: longest prompt {found.longest} (question "
        f"{found.longest_n}), budget {settings.budget.tokens}"
    )
    return EngineAnswerer(options, found, model, tuple(notices))


def engine_options(model: ModelOptions, notices: list[str]) -> EngineOptions:
    """Engine options; without -m the local default file, else the bundled model.

    Parameters
    ----------
    model : ModelOptions
    notices : list of str
        Gets a line about a model that was chosen in place of a named one.
    """
    recipe = model.nano
    bundled = (recipe or RECIPES[0]) if uses_bundled(model.path, recipe) else None
    found = drafters((model.mode,), model.mtp, model.draft_model, bundled, model.path)
    notices += [found.notice] if found.notice else []
    return EngineOptions(
        path=model.path or default_model(notices.append, recipe),
        mtp_path=found.mtp,
        dspark_path=found.dspark,
        draft_force=model.draft_force,
        backend=model.backend,
        threads=model.threads,
        activations=model.activations,
        kv=model.kv,
        repack=model.repack,
        check_values=model.check_values,
        launch=model.launch,
        residency=model.residency,
        residency_gib=model.residency_gib,
        device=model.device,
    )


def _split(spec: EngineSpec, jobs: int) -> EngineSpec:
    """Threads shared out among processes, unless the user said how many each gets."""
    if spec.options.threads is not None:
        return spec
    cores = cpu().get("usable_cores") or 1
    return replace(spec, options=replace(spec.options, threads=max(cores // jobs, 1)))


def _warm(options: EngineOptions) -> None:
    """Read the files once, so that the first question does not pay for the disk."""
    for path in options.paths:
        read_through(path)
