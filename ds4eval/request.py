"""Defines what a command line asks for: which model answers what, how, and what is enough.

A `Request` is made once, by `ds4eval.commands.run`, and never changed. It knows nothing of files,
models or suites: defaults that depend on them are completed by `ds4eval.run.execute.make_plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ds4eval.documents import Document
from ds4eval.recipes import Applied
from engine.errors import OptionError
from engine.tooling.openai.client import check_address

# Fields of a request that other options decide, or on which reading the reply depends.
OWN_FIELDS = {
    "model": "--api-model",
    "messages": "--suite",
    "prompt": "--suite",
    "stream": "",
    "n": "--repeats",
}


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A server to ask in place of the engine.

    Parameters
    ----------
    base_url : str
        Without a slash at the end.
    api : {'chat', 'completions'}
    model : str or None
        Name for the server; None takes the first that it lists.
    key_env : str
        Environment variable that holds the key.
    reply_timeout_s : float
        Most seconds for one reply, from its request to its end.
    max_retries : int
        Further attempts at a question where one may help.
    moved : bool
        The server of the folder's run has another address now.
    extra_body : dict
        Fields of every request besides our own; a null leaves one of ours out.
    """

    base_url: str
    api: str = "chat"
    model: str | None = None
    key_env: str = "OPENAI_API_KEY"
    reply_timeout_s: float = 3600.0
    max_retries: int = 10
    extra_body: Document = field(default_factory=dict)
    moved: bool = False


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What answers the questions, and on how many workers.

    Parameters
    ----------
    path : Path or None
        GGUF file; None takes the usual name in this folder, else the bundled model.
    nano : str or None
        Recipe of the bundled model.
    mtp : Path or None
        GGUF file with the MTP block.
    mode : str
        Decode mode, see `engine.spec`.
    draft, adaptive, margin
        See `engine.spec.modes.open_decoder`; of an MTP block.
    draft_model : Path or None
        GGUF file of a drafter of either kind.
    draft_max, draft_confidence, draft_adaptive, draft_force
        The same of a DSpark drafter; see `engine.tooling.options.speculation`.
    backend, threads, activations, kv, repack, launch, residency, residency_gib, device
        See `engine.options.EngineOptions`.
    devices : tuple of int
        Ordinals that workers are spread over; empty where one was named or none.
    warm_weights : bool
        Read the model file once before the run.
    check_values : str
        See `engine.options.EngineOptions`.
    jobs : int
        Questions asked side by side.
    ray : str or None
        Address of a Ray cluster.
    server : ServerOptions or None
        Given: the server answers, and nothing above but `jobs` matters.
    """

    path: Path | None = None
    nano: str | None = None
    mtp: Path | None = None
    mode: str = "plain"
    draft: int = 1
    adaptive: bool = False
    margin: float = 0.0
    draft_model: Path | None = None
    draft_max: int | None = None
    draft_confidence: float = 0.0
    draft_adaptive: bool = False
    draft_force: bool = False
    backend: str = "cpu"
    threads: int | None = None
    activations: str = "int8"
    kv: str = "official"
    repack: str = "auto"
    launch: str = "graph"
    residency: str = "auto"
    residency_gib: float | None = None
    device: int = 0
    devices: tuple[int, ...] = ()
    warm_weights: bool = False
    check_values: str = "once"
    jobs: int = 1
    ray: str | None = None
    server: ServerOptions | None = None


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Which questions are asked, and how often.

    Parameters
    ----------
    suite : str or None
        None takes what the model and the data sets at hand allow.
    datasets : dict of str to tuple of Path
        The user's copies of data sets, by name.
    choice_seed : int
        Of the order in which GPQA's choices are shown.
    errata : bool
        Correct known errors of the data.
    ids, filters : tuple of str
        See `ds4eval.questions.suites.select`.
    offset : int
        Questions left out at the beginning.
    limit, questions : int or None
        At most so many, and exactly so many.
    repeats : int
        Times that every question is asked.
    """

    suite: str | None = None
    datasets: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    choice_seed: int = 0
    errata: bool = True
    ids: tuple[str, ...] = ()
    filters: tuple[str, ...] = ()
    offset: int = 0
    limit: int | None = None
    questions: int | None = None
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class ReplyOptions:
    """How a reply is drawn and when it ends; None leaves the choice to the suite or the run.

    Parameters
    ----------
    think : str
        'none', an effort, or 'on' for the least that the model's release knows.
    tokens : int or None
        Most tokens of a reply.
    soft, hard : int or None
        Tokens left at which thinking is closed; see `ds4eval.plan.Budget`.
    rank : int
    cue : str
    temp, top_k, top_p, min_p
        See `ds4eval.plan.Sampling`.
    seed : int or None
        None takes the seed of the run that is continued, or draws one.
    encoding : str or None
        Release of the chat format; None takes what the model says of itself.
    form : str
        How the prompt asks for the answer; see `ds4eval.questions.prompts`.
    retry_cut : bool
        Ask again what the budget of the folder's run cut.
    """

    think: str = "on"
    tokens: int | None = None
    soft: int | None = None
    hard: int | None = None
    rank: int = 3
    cue: str = ""
    temp: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.05
    seed: int | None = None
    encoding: str | None = None
    form: str = "line"
    retry_cut: bool = False


@dataclass(frozen=True, slots=True)
class GateOptions:
    """Thresholds that decide the exit status of a finished run; shares are in per cent.

    Parameters
    ----------
    fail_under : float or None
        Least score.
    baseline : Path or None
        Run folder whose score on shared questions is compared.
    max_regression : float or None
        Most points that may be lost against the baseline; None is 0.
    max_truncated : float or None
        Largest share of replies that the budget may cut.
    strict_exit : bool
        Any wrong answer fails.
    headline : {'strict', 'lenient', 'classic'}
        The grader that decides a run's score.
    """

    fail_under: float | None = None
    baseline: Path | None = None
    max_regression: float | None = None
    max_truncated: float | None = None
    strict_exit: bool = False
    headline: str = "strict"


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Where results go and what the user sees.

    Parameters
    ----------
    out : Path or None
        Run folder; None chooses one under `ds4-eval-runs`.
    force : bool
        Move an earlier run of the folder aside.
    allow_network_fs : bool
        Write results to a network file system.
    trace : Path or None
        Text trace in the form of the C program ds4-eval.
    plain : bool
        Lines of text in place of the screen.
    pause_s : float
        Seconds that the screen rests after a verdict.
    close_at_end : bool
        The screen goes when the run is over.
    dry_run : bool
        Say what would be asked, and stop.
    record_paths : bool
        Keep whole paths in what is written down.
    """

    out: Path | None = None
    force: bool = False
    allow_network_fs: bool = False
    trace: Path | None = None
    plain: bool = False
    pause_s: float = 0.35
    close_at_end: bool = False
    dry_run: bool = False
    record_paths: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A whole command line of `ds4-eval run`; `recipe`, if any, is what its options came from."""

    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    reply: ReplyOptions = field(default_factory=ReplyOptions)
    gates: GateOptions = field(default_factory=GateOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    recipe: Applied = field(default_factory=Applied)


def check_request(request: Request) -> None:
    """Refuse options that contradict each other; no file is looked at.

    Raises
    ------
    OptionError
        Naming the option.
    """
    model, data, gates = request.model, request.data, request.gates
    if gates.max_regression is not None and gates.baseline is None:
        raise OptionError("--max-regression: expected --baseline, found none")
    if request.reply.retry_cut and request.output.out is None:
        raise OptionError("--retry-cut: expected --out with the run to go on with, found none")
    if request.reply.retry_cut and request.output.force:
        raise OptionError("--retry-cut: expected without --force, found both")
    if model.devices and model.ray is not None:
        raise OptionError(
            "--device: expected without --ray, which gives each actor a GPU of its own, found both"
        )
    if data.questions is not None and data.limit is not None:
        raise OptionError("--questions: expected without --limit, found both")
    if model.server is not None:
        _check_server(model, model.server)


def _check_server(model: ModelOptions, server: ServerOptions) -> None:
    if model.ray is not None:
        raise OptionError("--ray: expected without --base-url, found both")
    check_address(server.base_url)
    for name, option in OWN_FIELDS.items():
        if name in server.extra_body:
            hint = f" ({option} decides it)" if option else ""
            raise OptionError(f"--extra-body: expected fields besides ours, found {name!r}{hint}")
    if model.path is not None and server.api == "chat":
        raise OptionError("--model: expected without --base-url (see --api-model), found both")
    if model.nano is not None:
        raise OptionError("--nano: expected without --base-url, found both")
    if model.mode != "plain":
        raise OptionError(f"--mode: expected plain with --base-url, found {model.mode}")
