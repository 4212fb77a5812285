"""What `ab` runs: two set-ups, each a command that measures one sweep into a folder.

The plan is built from command-line words and starts nothing.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from ds4bench.compare.stats import MAX_PAIRS, MIN_PAIRS, STOP_HALF_WIDTH
from engine.errors import OptionError
from engine.tooling.options.model import DEFAULT_MODEL
from engine.tooling.results.redact import recordable

_CHDIR = "--chdir"
_MODEL = ("-m", "--model")
_FILES = (*_MODEL, "--mtp", "--prompt-file", "--chat-prompt-file")
_MODULE = ("-m", "ds4bench.cli")
# Owned by ab: a sweep that wrote elsewhere or resumed would not be this pair's.
_OURS = ("--out", "--resume", "--force", "--csv", "--parquet", "--plot", "--dry-run")


@dataclass(frozen=True, slots=True)
class Setup:
    """One set-up.

    Attributes
    ----------
    command : tuple of str
        Program and arguments that run `ds4-bench`, without the sweep's options.
    checkout : str
        Working folder, and first of the module path: ``python -m`` looks there before anywhere
        else. '' for a command of the user's own.
    arguments : tuple of str
        Options of this side's sweeps.
    """

    command: tuple[str, ...]
    checkout: str = ""
    arguments: tuple[str, ...] = ()

    def argv(self, folder: Path) -> list[str]:
        """The command line of one sweep into `folder`."""
        return [*self.command, *self.arguments, "--out", str(folder)]

    @property
    def model(self) -> str:
        """What its sweeps measure, for the user: a file, a bundled model, or what CMD decides."""
        named = [value for name, value in _pairs(self.arguments) if name in _MODEL]
        recipes = [value for name, value in _pairs(self.arguments) if name == "--nano"]
        if named:
            return named[-1]
        if recipes:
            return f"bundled model {recipes[-1]}"
        if self.checkout:
            return f"no -m and no ./{DEFAULT_MODEL}: the bundled model"
        return "as its command decides"

    def environment(self) -> dict[str, str]:
        """The child's environment variables."""
        found = dict(os.environ)
        if self.checkout:
            rest = found.get("PYTHONPATH")
            found["PYTHONPATH"] = self.checkout + (os.pathsep + rest if rest else "")
        return found

    def to_record(self) -> dict[str, object]:
        return {
            "command": list(self.command),
            "checkout": self.checkout,
            "arguments": list(self.arguments),
        }


@dataclass(frozen=True, slots=True)
class AbPlan:
    """Both sides and when to stop. `budget_s` bounds the start of pairs, not their end."""

    a: Setup
    b: Setup
    seed: int
    min_pairs: int = MIN_PAIRS
    max_pairs: int = MAX_PAIRS
    half_width: float = STOP_HALF_WIDTH
    budget_s: float | None = None
    max_load: float = 25.0  # per cent of all cores, busy before a sweep starts
    patience_s: float = 30.0  # how long to wait for that
    sweep_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.min_pairs <= self.max_pairs:
            raise OptionError(
                f"--min-pairs: expected 2 to --max-pairs {self.max_pairs}, found {self.min_pairs}"
            )

    def model_lines(self) -> list[str]:
        """What is measured, in one line where both sides measure the same."""
        if self.a.model == self.b.model:
            return [f"model: {self.a.model}"]
        return [f"model of {name}: {side.model}" for name, side in (("A", self.a), ("B", self.b))]

    def identity(self) -> dict[str, object]:
        """What a resumed session must share."""
        sides = {"a": self.a.to_record(), "b": self.b.to_record()}
        # Whole paths: two checkouts differ in nothing else.
        return {**{n: recordable(one, paths=True) for n, one in sides.items()}, "seed": self.seed}


def side(
    name: str,
    target: str | None,
    command: str | None,
    folder: str | None,
    arguments: str,
    common: tuple[str, ...],
) -> Setup:
    """One side out of its options.

    Parameters
    ----------
    name : str
        'a' or 'b', for messages.
    target : str or None
        A checkout or a virtual environment, told apart by what it holds.
    command : str or None
        Shell-like text that replaces ``python -m ds4bench.cli``.
    folder : str or None
        A checkout.
    arguments : str
        Shell-like text of sweep options of this side only.
    common : tuple of str
        Sweep options of both sides; a side's own come later and win.

    Raises
    ------
    OptionError
        If the text cannot be split, a folder is neither, or an option is ab's own.
    """
    if sum(value is not None for value in (target, command, folder)) > 1:
        raise OptionError(
            f"{name.upper()}: expected one of an argument, --{name} and --{name}-dir, found more"
        )
    options = (*common, *_split(f"--{name}-args", arguments))
    for option in options:
        if option.split("=")[0] in _OURS:
            raise OptionError(f"{option}: expected sweep options only, found one that ab sets")
    options = _absolute(options)
    if command is None:
        options = (*_default_model(options), *options)
    if command is not None:
        program = tuple(_split(f"--{name}", command))
        if not program:
            raise OptionError(f"--{name}: expected a command, found nothing")
        return Setup(program, "", options)
    # Without a folder, the code that is running now; its parent is importable either way.
    root = Path(target or folder or Path(__file__).parents[2])
    python = root / "bin" / "python"
    if python.exists():
        # Its own folder holds no ds4bench, so the working folder cannot hide what is installed.
        return Setup((str(python.absolute()), *_MODULE), str(python.parent.absolute()), options)
    if not (root / "ds4bench" / "cli.py").is_file():
        raise OptionError(
            f"--{name}-dir: expected a checkout (ds4bench/cli.py) or a virtual environment "
            f"(bin/python), found {str(root)!r}"
        )
    python = root / ".venv" / "bin" / "python"
    program = (str(python.absolute()) if python.exists() else sys.executable, *_MODULE)
    return Setup(program, str(root.resolve()), options)


def _pairs(options: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names of options, each with the text that would be its value if it takes one."""
    found = []
    for text, following in zip(options, (*options[1:], "")):
        name, equals, value = text.partition("=")
        if text.startswith("-m") and len(text) > 2:
            found.append(("-m", text[2:]))  # a short option and its value in one word
        else:
            found.append((name, value if equals else following))
    return found


def _folder(options: tuple[str, ...]) -> Path:
    """Where a sweep with these options looks for files: the user's folder, or that of --chdir."""
    chosen = [value for name, value in _pairs(options) if name == _CHDIR and value]
    return Path(*chosen[-1:]).absolute()


def _default_model(options: tuple[str, ...]) -> tuple[str, ...]:
    """-m with the user's default model, which a sweep in a checkout's folder would not see."""
    names = {name for name, _ in _pairs(options)}
    path = _folder(options) / DEFAULT_MODEL
    if names & {*_MODEL, "--nano"} or not path.exists():
        return ()
    return ("-m", str(path))


def _absolute(options: tuple[str, ...]) -> tuple[str, ...]:
    """The same options with file names that hold in any working folder."""
    folder = _folder(options)
    out: list[str] = []
    for text in options:
        name, equals, value = text.partition("=")
        before = out[-1] if out else ""
        if before in _FILES:
            text = str(folder / text)
        elif before == _CHDIR:
            text = str(Path(text).absolute())
        elif equals and value and name in _FILES:
            text = f"{name}={folder / value}"
        elif equals and value and name == _CHDIR:
            text = f"{name}={Path(value).absolute()}"
        elif text.startswith("-m") and len(text) > 2:
            text = f"-m{folder / text[2:]}"
        out.append(text)
    return tuple(out)


def _split(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{option}: expected shell-like text, found {error}: {text!r}") from None
