"""Which numbers can be those of a measurement; a reader of any format asks here.

It does not know where a row was read.
"""

from __future__ import annotations

from ds4bench.records.rows import SpeedRow
from engine.errors import EngineError
from engine.spec.protocol import N_BIN, PER_BIN

# Beyond any machine, and far enough below the largest float that nothing derived overflows.
MOST_TOKENS = 2**31
MOST = 1e18


def checked(row: SpeedRow, where: str) -> SpeedRow:
    """The row, if its numbers can be those of a measurement.

    Parameters
    ----------
    where : str
        File and line, for the message.

    Raises
    ------
    EngineError
        Naming the field and its value.
    """
    for name, least in (("ctx_tokens", 1), ("prefill_tokens", 0), ("gen_tokens", 0), ("run", 1)):
        value = getattr(row, name)
        if not isinstance(value, int) or not least <= value <= MOST_TOKENS:
            raise EngineError(f"{where}: expected {name} from {least} to 2^31, found {value!r}")
    times = [("prefill_s", row.prefill_s), ("gen_s", row.gen_s)]
    rates = [("prefill_tps", row.prefill_tps), ("gen_tps", row.gen_tps)]
    steps = [("step_s", seconds) for seconds in row.step_s]
    for name, value in [*times, *rates, *steps]:
        if value is not None and not 0 <= value <= MOST:  # false for NaN too
            raise EngineError(f"{where}: expected a {name} from 0 to {MOST:g}, found {value!r}")
    _check_reliability(row.reliability, where)
    return row


def _check_reliability(values: tuple[float, ...], where: str) -> None:
    """Counts that can be counts: whole bins of every depth, nothing kept that was not judged."""
    if len(values) % (N_BIN * PER_BIN):
        raise EngineError(
            f"{where}: expected reliability of {N_BIN * PER_BIN} numbers a depth, "
            f"found {len(values)}"
        )
    for judged, *parts in zip(*(values[place::PER_BIN] for place in range(PER_BIN))):
        # False for NaN, too. Sums of confidences are sums of numbers up to 1, but for rounding.
        if not (0 <= judged <= MOST and all(0 <= part <= judged * (1 + 1e-9) for part in parts)):
            raise EngineError(
                f"{where}: expected a reliability of at most as much as was judged, "
                f"found {[judged, *parts]}"
            )
