"""Commands that documents show: where they stand, and how each is run with tiny arguments.

It knows the syntax of the documents and the stand-ins for what they name (model files, runs, data
sets). It does not know what a command prints; `test_docs` looks at that.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# History is left out: the log and the list of changes show commands of their day.
DOCUMENTS = (
    "README.md",
    "AGENTS.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "speed-bench/README.md",
    "datasets/README.md",
    "datasets/SOURCES.md",
    "reports/README.md",
)
OURS = {"ds4": "engine.cli.main", "ds4-bench": "ds4bench.cli", "ds4-eval": "ds4eval.cli"}
PROGRAMS = (*OURS, "make", "pip", "python", "python3", "pytest", "hf", "head", "perf.sh")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document.

    Parameters
    ----------
    document : str
        Path below the repository's root.
    kind : str
        Word behind the opening fence; '' if there is none.
    text : str
    """

    document: str
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command as a document shows it; `words` are its arguments without comment."""

    document: str
    text: str

    @property
    def bare(self) -> str:
        """The command without folder and comment: the key of the tables below."""
        return shlex.join(self.words)

    @property
    def words(self) -> list[str]:
        first, *rest = shlex.split(self.text, comments=True)
        return [first.rpartition("/")[2], *rest]

    @property
    def program(self) -> str:
        return self.words[0]


def blocks(document: str, kind: str | None = None) -> list[Block]:
    """Fenced blocks of a document, of one kind if that is named."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [Block(document, match[1], match[2]) for match in _FENCE.finditer(text)]
    return [block for block in found if kind is None or block.kind == kind]


def commands(document: str) -> list[Command]:
    """Every command of a document: of `sh` and `console` blocks, and inline with arguments."""
    found = []
    for block in blocks(document):
        if block.kind == "sh":
            found += [line for line in block.text.splitlines() if line.strip()]
        elif block.kind == "console":
            found += [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    prose = _FENCE.sub("", (ROOT / document).read_text(encoding="utf-8"))
    for span in _SPAN.findall(prose):
        # `ds4-bench` alone is a name; a placeholder such as <sweep options> is no command line.
        if span.split()[0] in PROGRAMS and " " in span and "<" not in span:
            found.append(span)
    return [Command(document, text) for text in dict.fromkeys(found)]


def all_commands() -> list[Command]:
    """Commands of all documents, each once."""
    seen: dict[str, Command] = {}
    for document in DOCUMENTS:
        for command in commands(document):
            seen.setdefault(command.text, command)
    return list(seen.values())


# What makes a command tiny: appended, since the last value of an option counts.
SWEEP = shlex.split("--ctx-start 32 --ctx-max 64 --step-incr 32 --step-mul 1 -n 4 --repeats 1 -t 1")
GENERATE = shlex.split("-n 8 -t 1")
EXAM = shlex.split("-n 64 --soft-limit-reply-budget 16 --hard-limit-reply-budget 8 -t 1 --plain")
PAIRS = shlex.split("--min-pairs 2 --max-pairs 2 --max-load 100 --patience 0")

# Commands that need what is not here. The options of ours are still parsed as they stand.
NOT_HERE = {
    "ds4-bench gpu": "an NVIDIA GPU; tests/cuda/test_gpu.py",
    "ds4-bench gpu --predict gb10": "the extra `cuda`; tests/ds4bench/test_gpu_cmd.py",
    "ds4-bench peer": "llama-cpp-python; tests/ds4bench/peer/test_peer.py",
    "ds4-bench peer --contexts 512,2048,8192": "llama-cpp-python; tests/ds4bench/peer/test_peer.py",
    "ds4-eval view runs/a runs/b": "a terminal; tests/ds4eval/screens/test_reading.py",
    "ds4-eval --suite gpqa-diamond -m DeepSeek-V4-Flash.gguf --cuda --device 0,1 --out runs/two": (
        "two GPUs; tests/ds4eval/runs/test_devices.py"
    ),
    "ds4-eval --suite aime25 -m DeepSeek-V4-Flash.gguf -n 128000 --retry-cut --out runs/aime": (
        "a run with cut replies; tests/ds4eval/runs/test_budgets.py"
    ),
    "ds4-eval fetch aime25": "the network; tests/ds4eval/test_fetch.py has a stand-in of the hub",
    "ds4-eval fetch supergpqa": "the network",
    "ds4-eval fetch gpqa-diamond": "the network and an account",
    "hf auth login": "the network and an account",
    "ds4-eval fetch": "the network",
    "python3 -m venv .venv": "a package index for what follows; make's recipes do the same",
    "python -m engine.ops.cpu.bench": "minutes of an idle machine; its kernels have tests",
    "python -m engine.tooling.diagnose.nano_check": "minutes of an exported model",
    "python -m tests.cuda.check scaled_values": "the op of docs/porting.md; make test-cuda",
    "python -m tests.cuda.check --write": "it rewrites a table of the repository",
    "perf.sh origin/main out/perf": "two checkouts; tests/ds4bench/test_report_workflow.py",
}
OPTIONAL = ("peer",)  # subcommands whose extra may be missing


def tiny(command: Command) -> list[str]:
    """Arguments of a command of ours, behind the program's name, made tiny.

    Options stay as they stand in the document; smaller values follow them.
    """
    program, *rest = command.words
    known = {"../base": str(ROOT), "BASE_CHECKOUT": str(ROOT), ".": str(ROOT)}
    rest = [known.get(word, word) for word in rest]
    first = rest[0] if rest and not rest[0].startswith("-") else ""
    if "--help" in rest:
        return rest
    if program == "ds4-bench":
        if "--base-url" in rest:
            # There is no server here; the plan is printed without asking one.
            return [*rest, *SWEEP[:-2], "--dry-run"]
        if first == "":
            return rest + SWEEP
        if first in ("ab", "calibrate"):
            return _pairs(rest)
        if first == "doctor":
            return [*rest, "--seconds", "0"]
        return rest
    if program == "ds4-eval":
        if "--base-url" in rest:
            # There is no server here: it is not asked for its models, nor for a reply.
            return [*rest, "--limit", "2", "--dry-run", "--api-model", "any"]
        if first in ("", "run"):
            return (
                rest + EXAM + (["--questions", "2"] if "--questions" in rest else ["--limit", "2"])
            )
        return rest
    if first == "":
        return rest + GENERATE
    if first == "drift":
        return [*rest, "-n", "16"]
    if first == "make-model":
        return [*rest, "--shape", "tiny"]
    return rest


def _pairs(rest: list[str]) -> list[str]:
    """A session of `ab` or `calibrate`: fewest pairs, and tiny sweeps behind the two dashes."""
    own, _, sweep = " ".join(rest).partition(" -- ")
    fewest = ["--pairs", "5", *PAIRS[4:]] if own.startswith("calibrate") else PAIRS
    return [*own.split(), *fewest, "--", *sweep.split(), *SWEEP]
