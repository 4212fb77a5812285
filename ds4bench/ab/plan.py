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

# Owned by ab: a sweep that wrote elsewhere or resumed would not be this pair's.
_FILES = ("-m", "--model", "--mtp", "--prompt-file", "--chat-prompt-file")
_MODULE = ("-m", "ds4bench.cli")
_OURS = ("--out", "--resume", "--force", "--csv", "--parquet", "--dry-run")


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

    def identity(self) -> dict[str, object]:
        """What a resumed session must share."""
        return {"a": self.a.to_record(), "b": self.b.to_record(), "seed": self.seed}


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


def _absolute(options: tuple[str, ...]) -> tuple[str, ...]:
    """The same options with file names that hold in any working folder."""
    out: list[str] = []
    for text in options:
        name, equals, value = text.partition("=")
        if equals and name in _FILES and value:
            text = f"{name}={Path(value).absolute()}"
        elif out and out[-1] in _FILES:
            text = str(Path(text).absolute())
        out.append(text)
    return tuple(out)


def _split(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{option}: expected shell-like text, found {error}: {text!r}") from None
