"""What a sweep of a server will do: its address, the grid of a sweep, and cells in order.

A plan knows nothing of what the server answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from ds4bench.plan import Cell, SweepPlan
from engine.errors import OptionError
from engine.tooling.openai.client import check_address, place_of

COLD, WARM = "cold", "warm"
PREFIXES = {COLD: (COLD,), WARM: (WARM,), "both": (COLD, WARM)}
MODE = "server"  # of rows whose server's way to decode nobody has named
MAX_USERS = 1024
REPLY_TIMEOUT_S = 3600.0
# Fields of a request that other options decide, or on which reading the reply depends.
OWN_FIELDS = ("model", "prompt", "messages", "stream", "n", "max_tokens")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """A server to measure.

    Parameters
    ----------
    base_url : str
        Without a slash at the end, and without a user's name.
    api : {'completions', 'chat'}
    model : str
        As the server calls it; '' takes the first that it lists.
    key_env : str
        Environment variable that holds the key, which is stored nowhere.
    reply_timeout_s : float
        Most seconds for one reply.
    extra_body : dict
        Fields of every request besides ours; a null leaves one of ours out.
    """

    base_url: str
    api: str = "completions"
    model: str = ""
    key_env: str = "OPENAI_API_KEY"
    reply_timeout_s: float = REPLY_TIMEOUT_S
    extra_body: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_address(self.base_url)
        for name in OWN_FIELDS:
            if name in self.extra_body:
                raise OptionError(f"--extra-body: expected fields besides ours, found {name!r}")

    @property
    def place(self) -> str:
        """The address as records show it."""
        return place_of(self)


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """A validated sweep of a server.

    Parameters
    ----------
    sweep : SweepPlan
        Grid, prompt, sampling, tokens and repeats; its model and kernels are nobody's.
    server : ServerOptions
    users : tuple of int
        Requests side by side, each number in rows of its own.
    prefixes : tuple of {'cold', 'warm'}
    mode : str
        How the server decodes, as the user says; 'server' where nobody does.
    """

    sweep: SweepPlan
    server: ServerOptions
    users: tuple[int, ...] = (1,)
    prefixes: tuple[str, ...] = (COLD,)
    mode: str = MODE

    @property
    def n_rows(self) -> int:
        sweep = self.sweep
        grid = len(sweep.frontiers) * sweep.repeats * len(sweep.classes)
        return grid * len(self.users) * len(self.prefixes)

    def cells(self) -> Iterator[Cell]:
        """Every row to be, in the order of measurement.

        A warm row adds what lies between two frontiers, as a row of our engine does; a cold one
        evaluates its whole prompt.
        """
        sweep = self.sweep
        for run in range(1, sweep.repeats + 1):
            for text_class in sweep.classes:
                before = 0
                for frontier in sweep.frontiers:
                    for prefix in self.prefixes:
                        for users in self.users:
                            new = frontier - (before if prefix == WARM else 0)
                            yield Cell(run, frontier, new, self.mode, text_class, prefix, users)
                    before = frontier

    def to_record(self) -> dict[str, object]:
        """JSON-ready form for the journal's header."""
        known = self.sweep.to_record()
        kept = ("prompt", "sampling", "ctx_start", "ctx_max", "step_incr", "step_mul")
        record = {name: known[name] for name in (*kept, "gen_tokens", "repeats")}
        server = asdict(self.server) | {"base_url": self.server.place}
        return {
            **record,
            "server": server,
            "users": list(self.users),
            "prefixes": list(self.prefixes),
            "modes": [self.mode],
        }
