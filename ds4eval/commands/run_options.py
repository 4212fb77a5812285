"""The options of `ds4-eval run`; what they mean together is checked in `ds4eval.commands.run`.

Nothing here imports numba, numpy or the engine; --help and bad options must not pay for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ds4eval.commands.data_options import FILTER_HELP, HEADLINES
from ds4eval.recipes import RECIPES
from engine.tooling.options.group import option, options
from engine.tooling.options.kernels import kernel_options
from engine.tooling.options.model import MODEL
from engine.tooling.options.sampling import MAX_SEED, sampling_options
from engine.tooling.options.speculation import spec_options
from engine.tooling.options.thinking import THINKING
from engine.tooling.options.types import Number, OneOf, Whole

COUNT = Whole(1, 2**31 - 1)
PERCENT = Number(0, 100)
FILE = click.Path(path_type=Path)
KERNELS = kernel_options(several=True)
SPECULATION = spec_options()
# Those of the C program ds4-eval; ds4-bench follows ds4_bench.c, which samples otherwise.
SAMPLING = sampling_options(
    temp=0.0,
    top_p=1.0,
    min_p=0.05,
    seed_from=1,
    seed_text="that of the run folder, else drawn and printed",
)


def _section(title: str) -> Any:
    def declare(*names: str, **attrs: Any) -> Any:
        return option(*names, section=title, **attrs)

    return declare


_data, _reply, _server = _section("Questions"), _section("Reply"), _section("Server")
_work, _gate, _out = _section("Side by side"), _section("Thresholds"), _section("Results")

run_options = options(
    _data("--suite", metavar="NAME|FILE",
          help="Suite to ask; `ds4-eval list` shows them. A file is a set of your own.",
          default_text="what the data at hand allow"),
    _data("--dataset", "datasets", multiple=True, metavar="NAME=PATH",
          help="Where your copy of a data set lies. May be given again."),
    _data("--ids", multiple=True, metavar="ID,...",
          help="Ask these only: ids, source/id, numbers or ranges such as 3-7."),
    _data("--filter", "filters", multiple=True, metavar="FIELD=PATTERN",
          help=FILTER_HELP),
    _data("--offset", type=Whole(0, 2**31 - 1), default=0,
          help="Leave out the first N questions."),
    _data("--limit", type=COUNT, help="Take at most N questions."),
    _data("--questions", type=COUNT,
          help="Ask the first N questions, and fail if there are fewer."),
    _data("--repeats", type=Whole(1, 10_000), default=1, help="Ask every question N times."),
    _data("--choice-seed", type=Whole(0, MAX_SEED), default=0,
          help="Seed of the order in which GPQA's choices are shown, and of the texts of 'long'."),
    _data("--no-errata", is_flag=True, help="Leave known errors of the data in."),
    _reply("--recipe", type=OneOf(tuple(RECIPES)),
           help="Ask as a published score was asked: prompt, sampling and repeats. What you type "
           "beats it.", default_text="none: the options below"),
    _reply("-n", "--tokens", type=Whole(1, 1_000_000), help="Most tokens of a reply.",
           default_text="16000; AIME: 64000; nano suite: 256; long: 4096"),
    _reply("--retry-cut", is_flag=True,
           help="Ask again, with the larger -n, the questions of --out whose replies a budget cut; "
           "the record keeps both."),
    _reply("--think", is_flag=True, flag_value="on", default="on",
           flags={"--nothink": "none", "--think-max": "max"},
           help="Think before answering. --nothink answers at once; --think-max makes maximum "
           "effort; the first release needs 393216 tokens of context for it. The last of the three "
           "counts."),
    THINKING,
    _reply("--soft-limit-reply-budget", type=COUNT,
           help="Tokens left from which thinking is closed as soon as that is likely.",
           default_text="1024"),
    _reply("--hard-limit-reply-budget", type=COUNT,
           help="Tokens left at which thinking is closed.", default_text="512"),
    _reply("--soft-limit-think-close-rank", type=COUNT, default=3,
           help="Closing is likely where it is among the N likeliest tokens."),
    _reply("--close-cue", default="", metavar="TEXT",
           help="Text put behind a forced close of thinking.", default_text="none"),
    MODEL,
    KERNELS,
    SPECULATION,
    SAMPLING,
    _work("--jobs", type=Whole(1, 4096), default=1,
          help="Questions asked side by side, in a process each (with --base-url: in a connection "
          "each)."),
    _work("--ray", metavar="ADDRESS|local", help="Ask on a Ray cluster (extra 'ray')."),
    _server("--base-url", metavar="URL",
            help="Ask an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1 (extra "
            "'remote')."),
    _server("--api", type=OneOf(("chat", "completions")), default="chat",
            help="Send messages, or the prompt as this program renders it."),
    _server("--api-model", metavar="NAME", help="Model of the server.",
            default_text="the first that it lists"),
    _server("--api-key-env", metavar="VARIABLE", default="OPENAI_API_KEY",
            help="Environment variable that holds the key."),
    _server("--reply-timeout", "--timeout", type=Number(1), default=3600.0, metavar="SECONDS",
            help="Longest that one reply may take, from its request to its end."),
    _server("--max-retries", type=Whole(0, 1000), default=10, metavar="N",
            help="Ask again so often where that may help: a server that is busy, away or broken."),
    _server("--extra-body", metavar="JSON",
            help="Fields of every request besides ours, as an object; a null leaves out one of "
            "ours."),
    _gate("--headline", type=OneOf(HEADLINES), default="strict",
          help="The grader that decides the score."),
    _server("--server-moved", is_flag=True,
            help="Go on with the run of --out although its server has another address now."),
    _gate("--fail-under", type=PERCENT, metavar="PERCENT", help="Exit with 6 below this score."),
    _gate("--baseline", type=FILE, metavar="DIR",
          help="Run folder to hold the score against, on shared questions."),
    _gate("--max-regression", type=PERCENT, metavar="POINTS",
          help="With --baseline: exit with 6 if the score is lower by more.", default_text="0"),
    _gate("--max-truncated", type=PERCENT, metavar="PERCENT",
          help="Exit with 4 if more replies than this were cut by the budget."),
    _gate("--strict-exit", is_flag=True, help="Exit with 6 if any answer is wrong."),
    _out("--out", type=FILE, metavar="DIR", help="Run folder; a run in it is continued."),
    _out("--force", is_flag=True, help="Start over; the old run is kept as NAME.old-TIME."),
    _out("--allow-network-fs", is_flag=True,
         help="Write results to a network file system such as NFS."),
    _out("--record-paths", is_flag=True,
         help="Keep whole paths in the run folder; otherwise only their last names."),
    _out("--trace", type=FILE,
         help="Also write the text trace of the C program ds4-eval, over what is there."),
    _out("--plain", is_flag=True, help="Print lines of text in place of the screen."),
    _out("--pause-ms", type=COUNT, default=350,
         help="Milliseconds that the screen rests after each verdict."),
    _out("--close-at-end", is_flag=True,
         help="Leave the screen when the run is over; otherwise it stays until you press q."),
    _out("--dry-run", is_flag=True, help="Say what would be asked and what it needs, then end."),
)  # fmt: skip
