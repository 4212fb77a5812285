"""Makes a preset out of a user's trace of the C program: ids, keys and hashes, no text."""

from __future__ import annotations

from pathlib import Path

from ds4eval.exchange.trace import read_trace
from ds4eval.questions.errors import DatasetError
from ds4eval.questions.presets import Item, Preset, choice_hash

# Beginnings of sources, the more telling ones first.
_SOURCES = {"GPQA": "gpqa-diamond", "SuperGPQA": "supergpqa", "AIME2024": "aime24",
            "AIME2026": "aime26", "AIME": "aime25", "COMPSEC": "compsec", "HMMT": "hmmt",
            "MATH-500": "math-500", "GSM8K": "gsm8k", "MMLU-Pro": "mmlu-pro"}  # fmt: skip


def preset_from_trace(path: Path) -> tuple[Preset, tuple[str, ...]]:
    """Questions of a trace in the order of their first appearance.

    Returns
    -------
    Preset
        Its items carry the keys, and for choices their hashes in the order shown, so that the
        user's copy of the data is put in the very same order.
    tuple of str
        What could not be read: torn cases, unknown sources.

    Raises
    ------
    OptionError
        If the file is no trace.
    DatasetError
        If no case of it can be used.
    """
    trace = read_trace(path)
    problems = list(trace.problems)
    items: dict[str, Item] = {}
    for case in trace.cases:
        source, id_ = case.fields.get("source", ""), case.fields.get("id", "")
        dataset = next((name for key, name in _SOURCES.items() if source.startswith(key)), "")
        if not dataset or not id_:
            problems.append(f"{case.key}: expected a known source and an id, found others")
            continue
        hashes = tuple(choice_hash(choice) for choice in case.choices)
        items[id_] = Item(dataset, id_, case.fields.get("expected", "").strip(), hashes)
    if not items:
        raise DatasetError(f"{path}: expected cases of known sources, found none")
    summary = f"{len(items)} questions of a trace"
    return Preset(path.stem, summary, tuple(items.values())), tuple(problems)
