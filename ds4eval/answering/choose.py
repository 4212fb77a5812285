"""What answers: our engine here, in worker processes or on a Ray cluster, or a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds4eval.answering.context import Facts, examine
from ds4eval.plan import Job, Settings
from ds4eval.questions.question import Question
from engine.errors import OptionError
from engine.tooling.exits import say

if TYPE_CHECKING:
    from ds4eval.commands.run import Request
    from ds4eval.questions.source import Source
    from engine.options import EngineOptions


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a worker needs to open the engine; picklable."""

    options: EngineOptions
    settings: Settings
    ctx_max: int
    ctx: int
    think: str
    shared: tuple[Question, ...] = ()


def open_backend(spec: EngineSpec) -> Any:
    """A back end over a newly opened engine."""
    from ds4eval.answering.local import EngineBackend
    from engine.engine import open_engine

    engine = open_engine(spec.options)
    try:
        return EngineBackend(
            engine, spec.settings, spec.ctx_max, spec.ctx, spec.think, shared=spec.shared
        )
    except BaseException:
        engine.close()
        raise


class EngineAnswerer:
    """Our engine: one in this process, or one per worker."""

    def __init__(self, request: Request, settings: Settings, source: Source) -> None:
        self.request = request
        self.options = engine_options(request)
        self.examined: Facts = examine(self.options, settings, source.questions)
        self.settings = settings
        self.think = self.examined.think
        self.ctx = self.examined.ctx
        self.longest = self.examined.longest
        self.identity = self.examined.identity
        self.name = self.options.path.name
        if settings.think == "max" and self.think != "max":
            say(
                f"--think-max: needs 393216 tokens of context, found {self.ctx}; "
                "thinking at high effort"
            )
        say(
            f"context {self.ctx} tokens: longest prompt {self.longest} (question "
            f"{self.examined.longest_n}), budget {settings.budget.tokens}"
        )
        if request.dry_run:
            say(f"memory: {self.examined.memory}")

    def facts(self) -> dict[str, Any]:
        """What the manifest says of the model and its arithmetic."""
        options = self.options
        return {
            "model": str(options.path),
            "threads": options.threads,
            "mode": self.settings.mode,
            "ctx": self.ctx,
            "backend": options.backend,
            "mtp": str(options.mtp_path) if options.mtp_path else None,
        }

    @contextlib.contextmanager
    def opened(self, jobs: Sequence[Job]) -> Iterator[tuple[str, Any]]:
        """('serial', back end) or ('parallel', pool)."""
        questions = tuple(dict.fromkeys(job.question for job in jobs))
        spec = EngineSpec(
            self.options, self.settings, self.examined.ctx_max, self.ctx, self.think, questions
        )
        if self.request.warm_weights:
            _warm(self.options)
        if self.request.ray is not None:
            from ds4eval.answering.ray_jobs import RayPool

            yield "parallel", RayPool(spec, self.request.ray, self.request.jobs)
            return
        if self.request.jobs > 1:
            from ds4eval.answering.jobs import ProcessPool

            n = min(self.request.jobs, len(jobs))
            yield "parallel", ProcessPool(_split(spec, n), n)
            return
        backend = open_backend(spec)
        try:
            for notice in backend.engine.notices:
                say(notice)
            yield "serial", backend
        finally:
            backend.close()


def choose_answerer(request: Request, settings: Settings, source: Source) -> Any:
    """What the command line names.

    Raises
    ------
    EngineError
        If it cannot be used; nothing large was loaded.
    """
    if request.remote is not None:
        from ds4eval.answering.remote import RemoteAnswerer

        return RemoteAnswerer(request, settings, source)
    if request.ray is not None:
        import importlib.util

        if importlib.util.find_spec("ray") is None:
            raise OptionError("--ray: expected the package 'ray' (extra 'ray'), found none")
    return EngineAnswerer(request, settings, source)


def engine_options(request: Request) -> EngineOptions:
    """Engine options; without -m the local default file, else the bundled model."""
    from engine.models.bundled import RECIPES, bundled_model
    from engine.options import EngineOptions
    from engine.tooling.options.model import default_model, uses_bundled

    mtp, recipe = request.mtp, request.nano
    if mtp is None and request.mode != "plain" and uses_bundled(request.model, recipe):
        mtp = bundled_model("mtp", recipe or RECIPES[0]).path
    return EngineOptions(
        path=request.model or default_model(say, recipe),
        mtp_path=mtp,
        backend=request.backend,
        threads=request.threads,
        activations=request.activations,
        kv=request.kv,
        repack=request.repack,
    )


def _split(spec: EngineSpec, jobs: int) -> EngineSpec:
    """Threads shared out among processes, unless the user said how many each gets."""
    if spec.options.threads is not None:
        return spec
    from engine.tooling.results.environment import cpu

    cores = cpu().get("usable_cores") or 1
    return replace(spec, options=replace(spec.options, threads=max(cores // jobs, 1)))


def _warm(options: EngineOptions) -> None:
    """Read the files once, so that the first question does not pay for the disk."""
    paths = [options.path] + ([options.mtp_path] if options.mtp_path else [])
    for path in paths:
        with open(Path(path), "rb", buffering=0) as file:
            while file.read(8 << 20):
                pass
