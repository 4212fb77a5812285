"""`ds4 run`: one prompt in, text out as it is made, speeds on stderr; sessions continued."""

from __future__ import annotations

import secrets
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.output import Output
from engine.cli.prompt import DEFAULT_CTX, Prompt, Written, check_room, first_prompt
from engine.errors import OptionError
from engine.gguf.warm import read_through
from engine.options import EngineOptions
from engine.text import chat
from engine.text.encoding import DEFAULT_EFFORT, NO_THINK, chosen, mtp_warning
from engine.text.files import read_text
from engine.tooling.exits import INTERRUPTED, say
from engine.tooling.options.group import option
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.model import MODEL
from engine.tooling.options.sampling import SamplingChoice, sampling_options
from engine.tooling.options.speculation import (
    DraftWatch,
    SpecChoice,
    describe,
    spec_options,
    warnings,
)
from engine.tooling.options.thinking import THINKING
from engine.tooling.options.types import Whole
from engine.tooling.program import Command
from engine.tooling.signals import StopSignals

if TYPE_CHECKING:
    from engine.engine import Engine
    from engine.sample import Sampler
    from engine.session import Session

DEFAULT_TOKENS = 50_000
_TITLE_CHARS = 80


SAMPLING = sampling_options(
    temp=1.0, top_p=1.0, min_p=0.05, seed_text="drawn, and printed when tokens are sampled"
)
SPECULATION = spec_options()
KERNELS = kernel_options()


@click.command("run", cls=Command)
@option("-p", "--prompt", section="Prompt", help="The user's message.")
@option(
    "--prompt-file",
    section="Prompt",
    type=click.Path(path_type=Path),
    help="Read the message from a UTF-8 file.",
)
@option(
    "--system",
    section="Prompt",
    help="System text; '' for none.",
    default_text=f"'{chat.DEFAULT_SYSTEM}'",
)
@option("--raw", section="Prompt", is_flag=True, help="Continue the prompt as it is, without chat.")
@option(
    "--chat-template",
    section="Prompt",
    is_flag=True,
    help="Use the template that the model file carries, in a sandbox.",
)
@option("--nothink", section="Reply", is_flag=True, help="Answer without a think block.")
@option(
    "--think-max",
    section="Reply",
    is_flag=True,
    help="As --effort max; the first release needs 393216 tokens of context.",
)
@THINKING
@option(
    "-n",
    "--tokens",
    section="Reply",
    type=Whole(0, 2**31 - 1),
    default=DEFAULT_TOKENS,
    help="Generate at most this many tokens.",
)
@option(
    "-c",
    "--ctx",
    section="Reply",
    type=Whole(1, 2**31 - 1),
    help="Tokens of context.",
    default_text=str(DEFAULT_CTX),
)
@option(
    "--session",
    "session_path",
    section="Reply",
    type=click.Path(path_type=Path),
    help="Continue the conversation in this file if it exists, and save it there.",
)
@MODEL
@KERNELS
@SPECULATION
@SAMPLING
def run_command(**values: Any) -> int:
    """Answer one prompt: text on stdout as it is made, speeds on stderr."""
    plan = _plan(values)
    from engine.engine import check_opening, open_engine
    from engine.tooling.check_values import check_values, shown_reading

    # A saved session says for itself how many tokens it has room for.
    default_ctx = 0 if plan.resumed else DEFAULT_CTX
    if warning := check_opening(plan.options, plan.ctx, default_ctx):
        say(warning)
    # A saved session's own tokens decide how its prompt is written; a new one's is known here.
    first = None if plan.resumed else first_prompt(plan.options, plan.prompt, plan.ctx)
    if plan.seed_drawn and plan.sampler.temp > 0:
        say(f"seed {plan.sampler.seed}")
    if plan.warm:
        for path in plan.options.paths:
            read_through(path)

    interrupt = _Interrupt()
    options = check_values(plan.options)
    with shown_reading(options) as bar:
        engine = open_engine(options, bar)
    with engine, interrupt:
        for notice in engine.notices:
            say(notice)
        if not plan.prompt.raw:
            _say_release(engine, plan)
        return _answer(engine, plan, first, interrupt)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A checked command line."""

    options: EngineOptions
    prompt: Prompt
    tokens: int
    ctx: int | None
    sampler: Sampler
    seed_drawn: bool
    session: Path | None
    resumed: bool
    spec: SpecChoice
    warm: bool


def _plan(values: dict[str, Any]) -> _Plan:
    """Everything that can be refused before the model is opened is refused here."""
    if (values["prompt"] is None) == (values["prompt_file"] is None):
        raise OptionError("--prompt: expected either -p TEXT or --prompt-file FILE")
    if values["nothink"] and values["think_max"]:
        raise OptionError("--think-max: expected without --nothink, found both")
    chat_only = [
        name
        for name, given in (
            ("--chat-template", values["chat_template"]),
            ("--system", values["system"] is not None),
            ("--think-max", values["think_max"]),
            ("--nothink", values["nothink"]),
            ("--effort", values["effort"] is not None),
            ("--encoding", values["encoding"] is not None),
        )
        if given
    ]
    if values["raw"] and chat_only:
        raise OptionError(f"{chat_only[0]}: expected in chat format, found with --raw")
    model, kernels = MODEL.take(values), KERNELS.take(values)
    spec, sampling = SPECULATION.take(values), SAMPLING.take(values)
    thinking = THINKING.take(values)
    think = thinking.mode(
        NO_THINK if values["nothink"] else "max" if values["think_max"] else DEFAULT_EFFORT
    )
    model.enter_folder()
    found = spec.needed(model)
    if found.notice:
        say(found.notice)
    options = kernels.engine_options(model.resolve(say), found.mtp, found.dspark, spec.draft_force)
    thinking.check_file(options.path)

    prompt = values["prompt"]
    if prompt is None:
        prompt = read_text(values["prompt_file"], "--prompt-file")
    if not prompt:
        raise OptionError("--prompt: expected text, found none")
    session, resumed = values["session_path"], False
    if session is not None:
        from engine.tooling.results.publish import check_output

        check_output(session, "--session", replace=True)
        resumed = session.exists()
        if resumed and (values["system"] is not None or values["chat_template"]):
            name = "--system" if values["system"] is not None else "--chat-template"
            raise OptionError(f"{name}: expected with a new session, found {str(session)!r}")
    system = chat.DEFAULT_SYSTEM if values["system"] is None else values["system"]
    return _Plan(
        options=replace(options, check_values=model.check_values),
        prompt=Prompt(
            prompt, think, system, values["raw"], values["chat_template"], thinking.encoding
        ),
        tokens=values["tokens"],
        ctx=values["ctx"],
        sampler=_sampler(sampling),
        seed_drawn=sampling.seed is None,
        session=session,
        resumed=resumed,
        spec=spec,
        warm=model.warm,
    )


def _say_release(engine: Engine, plan: _Plan) -> None:
    """Say in a line which release's chat format is used, where there is a choice."""
    release = chosen(plan.prompt.encoding, engine.release)
    if release.notice:
        say(release.notice)
    warning = mtp_warning(release) if plan.options.mtp_path is not None else ""
    if warning and warning not in engine.notices:
        say(warning)


def _sampler(choice: SamplingChoice) -> Sampler:
    from engine.sample import Sampler

    return Sampler(
        temp=choice.temp,
        top_k=choice.top_k,
        top_p=choice.top_p,
        min_p=choice.min_p,
        seed=secrets.randbits(32) if choice.seed is None else choice.seed,
    )


class _Interrupt(StopSignals):
    """Ctrl-C asks the loop to stop between tokens; a second one stops at once."""

    def __init__(self) -> None:
        super().__init__(self._asked_again, (signal.SIGINT,))

    @staticmethod
    def _asked_again(number: int, earlier: int) -> None:
        if earlier:
            raise KeyboardInterrupt

    @property
    def asked(self) -> bool:
        return self.count > 0

    def check(self) -> None:
        """Stop a phase that leaves nothing worth keeping."""
        if self.asked:
            raise KeyboardInterrupt


def _answer(engine: Engine, plan: _Plan, first: Written | None, interrupt: _Interrupt) -> int:
    session = _open_session(engine, plan)
    if first is None:
        first = plan.prompt.written(engine.tokenizer, engine.release, session.ctx, session.tokens)
    check_room(first, session.room)
    say(f"memory: {engine.memory_estimate(session.ctx)}")
    warned = not plan.resumed or plan.ctx is not None  # before the model was opened
    if not warned and (warning := engine.memory_warning(session.ctx)):
        say(warning)
    start = time.perf_counter()
    n_prefill = session.sync(
        session.tokens + first.ids, progress=lambda done, total: interrupt.check()
    )
    middle = time.perf_counter()
    n_made = _generate(engine, session, plan, interrupt, first.ends_thinking)
    end = time.perf_counter()
    say(
        f"{_speed('prefill', n_prefill, middle - start)}; "
        f"{_speed('generation', n_made, end - middle)}"
    )
    if plan.session is not None:
        title = None if plan.resumed else " ".join(plan.prompt.text.split())[:_TITLE_CHARS]
        session.save_file(plan.session, title=title, new=not plan.resumed)
    return INTERRUPTED if interrupt.asked else 0


def _open_session(engine: Engine, plan: _Plan) -> Session:
    if plan.resumed:
        assert plan.session is not None
        session = engine.load_session(plan.session, plan.ctx)
        for notice in session.place.notices:
            say(notice)
        return session
    return engine.session(plan.ctx or min(DEFAULT_CTX, engine.shape.n_ctx_train))


def _generate(
    engine: Engine, session: Session, plan: _Plan, interrupt: _Interrupt, thinking: bool
) -> int:
    """Print tokens until the model, the limit, the context or the user says stop."""
    from engine.generation import generate
    from engine.spec.policy import Sampled
    from engine.text.stream import TextStream

    stream = TextStream(engine.tokenizer, thinking)
    output = Output()
    generation = generate(
        session,
        policy=Sampled(plan.sampler),
        limit=plan.tokens,
        stop=engine.tokenizer.eos_ids,
        mode=plan.spec.mode,
        draft=plan.spec.draft_max if plan.spec.sparks else plan.spec.draft,
        adaptive=plan.spec.draft_adaptive if plan.spec.sparks else plan.spec.adaptive,
        margin=plan.spec.margin,
        confidence=plan.spec.draft_confidence,
    )
    watch = DraftWatch(plan.spec.mode)
    steps = iter(generation)
    n = 0
    try:
        while not interrupt.asked and (step := next(steps, None)) is not None:
            for made in step.tokens:
                was_thinking = stream.thinking
                output.write(stream.push(made), dim=was_thinking)
                n += 1
            if warning := watch.after(generation.decoder.stats):
                say(warning)
    finally:
        output.write(stream.finish(), dim=stream.thinking)
        output.end()
    stats = generation.decoder.stats
    if drafted := describe(stats):
        say(drafted)
    for warning in [] if watch.said else warnings(stats, plan.spec.mode):
        say(warning)
    return n


def _speed(phase: str, tokens: int, seconds: float) -> str:
    rate = f", {tokens / seconds:.2f} t/s" if tokens else ""
    return f"{phase}: {tokens} tokens{rate}"
