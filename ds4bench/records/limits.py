"""Which numbers can be those of a measurement; a reader of any format asks here.

It does not know where a row was read.
"""

from __future__ import annotations

from typing import Any

from ds4bench.records.rows import SpeedRow
from engine.errors import EngineError, StoreError
from engine.spec.protocol import N_BIN, PER_BIN
from engine.tooling.results.typed import check_shape

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
    # The longest first; NaN, which compares with nothing, makes the sum NaN.
    longest = max(row.step_s, default=0.0), min(row.step_s, default=0.0), sum(row.step_s)
    steps = [("step_s", seconds) for seconds in longest]
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


# Parts of an environment that readers look into; None and an absent one are unknown.
_OBJECTS = ("cpu", "gpu", "code", "plan", "fingerprint", "engine", "bandwidth", "server", "doctor")


def checked_environment(environment: object, where: str) -> dict[str, Any]:
    """The circumstances of a sweep, if their parts are objects, lists and numbers as expected.

    Raises
    ------
    StoreError
        Naming the part.
    """
    whole = _object(environment, where, "environment")
    for name in _OBJECTS:
        if whole.get(name):
            _object(whole[name], where, f"environment.{name}")
    sampling = (whole.get("plan") or {}).get("sampling")
    if sampling:
        _object(sampling, where, "environment.plan.sampling")
    for n, file in enumerate(_list(whole.get("model"), where, "environment.model")):
        _object(file, where, f"environment.model[{n}]")
    rates = (whole.get("bandwidth") or {}).get("passes_bytes_per_s")
    for rate in _list(rates, where, "environment.bandwidth.passes_bytes_per_s"):
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= MOST:
            raise StoreError(f"{where}: environment.bandwidth: expected rates, found {rate!r:.40}")
    check_shape(whole, f"{where}: environment")
    return whole


def _object(value: object, where: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StoreError(f"{where}: {name}: expected an object, found {type(value).__name__}")
    return value


def _list(value: object, where: str, name: str) -> list[Any]:
    if not value or isinstance(value, str):  # earlier releases wrote one name
        return []
    if not isinstance(value, list):
        raise StoreError(f"{where}: {name}: expected a list, found {type(value).__name__}")
    return value
