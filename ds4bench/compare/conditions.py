"""What `ds4-bench doctor` found on two machines, where a difference makes their speed two things.

Facts stand in the environment record of a sweep under "doctor". A record of an earlier version has
none: only what both sides know can differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Names that `--allow` takes, each with where the fact stands.
CONDITIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "firmware": (("board", "bios"), ("board", "ec"), ("board", "capsules"), ("device", "vbios")),
    "power_limit": (("device", "power_limit_w"),),
    "cpu_quota": (("processor", "quota_cores"),),
    "governor": (("processor", "governor"),),
    "power_source": (("board", "on_battery"),),
    "huge_pages": (("memory", "huge_pages"),),
}
_NONE = {"quota_cores": "none"}  # absent from a record whose other facts were read: there is none


def differing(base: Mapping[str, Any], head: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Conditions in which two environments differ: name, base's value, head's value."""
    ours, theirs = _facts(base), _facts(head)
    if not ours or not theirs:
        return
    for name, places in CONDITIONS.items():
        for part, field in places:
            a, b = (_value(facts, part, field) for facts in (ours, theirs))
            if a is not None and b is not None and a != b:
                yield name, f"{field} {a}", f"{field} {b}"
                break


def unfit_notes(label: str, environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the doctor called unfit when the sweeps of an arm began."""
    found = [_unfit(environment) for environment in environments]
    if len(found) == 1:
        return [
            f"{label}: the machine was unfit: {name}: {text}" for name, text in found[0].items()
        ]
    names = sorted({name for one in found for name in one})
    if not names:
        return []
    count = sum(bool(one) for one in found)
    return [
        f"{label}: the machine was unfit in {count} of {len(found)} sweeps: {', '.join(names)} "
        "(ds4-bench doctor --facts DIR says more)"
    ]


def _unfit(environment: Mapping[str, Any]) -> dict[str, str]:
    findings = _part(environment, "doctor").get("findings")
    return {
        str(finding.get("name")): str(finding.get("found"))
        for finding in (findings if isinstance(findings, list) else [])
        if isinstance(finding, dict) and finding.get("verdict") == "unfit"
    }


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    return _part(_part(environment, "doctor"), "facts")


def _value(facts: dict[str, Any], part: str, field: str) -> Any:
    return _part(facts, part).get(field, _NONE.get(field))


def _part(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name)
    return value if isinstance(value, dict) else {}
