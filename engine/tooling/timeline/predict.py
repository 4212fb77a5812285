"""Time of a decode step on a machine, from the launches that it would make; no GPU is needed.

The model knows launches, their dependencies, bytes and a fixed cost each (`costs`), and a machine's
memory (`machines`). A test holds it to recorded tables: from costs of a pass of one row it predicts
passes of 2, 3, 4 and 8 rows within `STATED_ERROR`. Steps that were built since are estimates: the
table of each prediction says what is in it, and `ds4-bench gpu` measures the truth.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from engine.tooling.timeline.costs import BLOCK_RATE, cost_of
from engine.tooling.timeline.machines import Machine
from engine.tooling.timeline.record import Recorded, record_step
from engine.tooling.timeline.simulate import Node, Timeline, simulate

STATED_ERROR = 0.09  # of the recorded steps of one to eight rows
HOST = 40.0  # microseconds of a step outside its graphs: the choice and its way back
DEEP = 8192  # positions from which stored rows cost what `costs` says


@dataclass(frozen=True, slots=True)
class Switches:
    """What a prediction takes as given.

    Parameters
    ----------
    branches, early, prologue : bool
        Independent launches run side by side; a launch begins before the one that it waits for has
        ended; one that reads weights asks for the first of them meanwhile.
    """

    branches: bool = True
    early: bool = True
    prologue: bool = True


@dataclass(frozen=True, slots=True)
class Prediction:
    """A step in time.

    Parameters
    ----------
    launches : int
    weight_bytes : int
        Read by all launches.
    seconds : float
    share : float
        Weight bytes over seconds, of the rate of a copy.
    critical : tuple of (str, int, float)
        Kernels that decide the end: launches on the path and the microseconds between their ends.
    """

    launches: int
    weight_bytes: int
    seconds: float
    share: float
    critical: tuple[tuple[str, int, float], ...]


def nodes_of(
    launches: tuple[Recorded, ...], machine: Machine, position: int, switches: Switches
) -> list[Node]:
    """The launches as nodes of the simulation on a machine."""
    nodes = []
    for at, launch in enumerate(launches):
        cost = cost_of(launch.kernel, deep=position >= DEEP)
        fixed = cost.fixed * machine.scale
        before = launch.before if switches.branches else ((at - 1,) if at else ())
        if switches.early and len(before) == 1:
            hidden = machine.early if launch.weight_bytes else 0.6 * machine.early
            if switches.prologue and _has_prologue(launch.kernel):
                hidden = machine.prologue
            fixed = max(fixed - hidden, 0.3)
        rate = cost.rate
        if launch.weight_bytes and launch.blocks < machine.blocks:
            own = launch.blocks * BLOCK_RATE
            rate = min(rate, own) if rate else own
        rate = min(rate, machine.read)
        megabytes = (launch.weight_bytes + _stored_bytes(launch.kernel, position)) / 1e6
        nodes.append(Node(launch.kernel, fixed, megabytes, rate, before))
    return nodes


def _stored_bytes(kernel: str, position: int) -> int:
    """Indexer rows that are read: one of 128 bfloat16 for every four positions."""
    return position // 4 * 256 if kernel.startswith("indexer_scores") else 0


def _has_prologue(kernel: str) -> bool:
    """Products of few rows over tiled weights, but those that are spread over blocks."""
    return kernel.startswith("mm_") and "_tiled_" in kernel and kernel[-1].isdigit()


def predict(
    machine: Machine,
    n_layer: int,
    position: int,
    switches: Switches = Switches(),
    rows: int = 1,
    ctx: int = 0,
) -> Prediction:
    """The step of `rows` rows at a position, through n_layer layers and the output head."""
    return predicted(record_step(n_layer, position, rows, ctx), machine, position, switches)


def predicted(
    launches: tuple[Recorded, ...], machine: Machine, position: int, switches: Switches
) -> Prediction:
    """Launches in time, the host's part of what they are for included."""
    nodes = nodes_of(launches, machine, position, switches)
    timeline = simulate(nodes, machine.read, machine.gap, machine.join)
    n_bytes = sum(launch.weight_bytes for launch in launches)
    seconds = (timeline.total + HOST) * 1e-6
    share = n_bytes / seconds / (machine.copy * 1e12)
    return Prediction(len(launches), n_bytes, seconds, share, _critical(nodes, timeline))


def _critical(nodes: list[Node], timeline: Timeline) -> tuple[tuple[str, int, float], ...]:
    counts: Counter[str] = Counter()
    times: Counter[str] = Counter()
    begin = 0.0
    for at in timeline.critical:
        counts[nodes[at].name] += 1
        times[nodes[at].name] += timeline.ends[at] - begin  # type: ignore[assignment]
        begin = timeline.ends[at]
    return tuple((name, counts[name], float(time)) for name, time in times.most_common())


def report(machine: Machine, position: int) -> str:
    """Markdown: steps of 8 and 43 layers with each switch, and the critical path of all layers."""
    lines = [
        f"# Predicted: {machine.title}, one row at position {position}",
        "",
        f"Reads {machine.read:g} TB/s, copies {machine.copy:g} TB/s ({machine.source}). The "
        "costs of kernels are those of an H100; docs/gpu.md says what of it is an estimate.",
        "",
        "| layers | in use | launches | GB | ms | t/s | % of copy bandwidth |",
        "|---|---|---|---|---|---|---|",
    ]
    ways = {
        "one after the other": Switches(False, False, False),
        "+ branches": Switches(True, False, False),
        "+ early launches": Switches(True, True, False),
        "+ weights asked for early": Switches(),
    }
    for n_layer in (8, 43):
        for name, switches in ways.items():
            p = predict(machine, n_layer, position, switches)
            lines.append(
                f"| {n_layer} | {name} | {p.launches} | {p.weight_bytes / 1e9:.3f} "
                f"| {p.seconds * 1e3:.3f} | {1 / p.seconds:.1f} | {p.share:.1%} |"
            )
    lines += [
        "",
        "## Critical path of 43 layers",
        "",
        "| kernel | launches | ms |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {n} | {us / 1e3:.3f} |" for name, n, us in p.critical[:16]]
    return "\n".join(lines) + "\n"


__all__ = ["Prediction", "Switches", "nodes_of", "predict", "predicted", "report"]
