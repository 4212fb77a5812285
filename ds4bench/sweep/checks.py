"""What must hold before a sweep starts or goes on: the model allows it, the journal is its own.

Nothing here reads files or measures; a model's facts come from the worker (`ModelFacts`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import metadata

from ds4bench.plan import DEVICE_FIELDS, Cell, SweepPlan
from ds4bench.records.rows import SpeedRow
from ds4bench.worker.facts import ModelFacts
from engine.errors import ContextError, MemoryBudgetError, OptionError
from engine.options import DSPARK_MODES, MTP_MODES

# What turns our sources into machine code; another version is another program.
COMPILERS = ("numba", "llvmlite", "numpy", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")
# Environment variables that change what runs; those of where things are stored are not among them.
SWITCHES = (
    "DS4_CPU_ISA",
    "NUMBA_NUM_THREADS",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_OPT",
    "NUMBA_DISABLE_JIT",
    "NUMBA_BOUNDSCHECK",
    "DS4_CUDA_CUBINS",
    "DS4_CUDA_NO_HBM_CACHE",
    "DS4_CUDA_CACHE_ALL_TENSORS",
    "DS4_CUDA_WEIGHT_CACHE_LIMIT_GB",
    "DS4_CUDA_DIRECT_MODEL",
)


def compilers() -> dict[str, str]:
    """Versions of Python and of what compiles kernels, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in COMPILERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _dspark(plan: SweepPlan, facts: ModelFacts) -> dict[str, object]:
    """What rows that DSpark drafted for depend on."""
    return {
        "dspark": facts.dspark_id,
        "draft_max": plan.draft_max,
        "draft_confidence": plan.draft_confidence,
        "draft_adaptive": plan.draft_adaptive,
    }


def fingerprint(
    plan: SweepPlan, facts: ModelFacts, machine: Mapping[str, object], code: str
) -> dict[str, object]:
    """What rows of one journal must have in common; extent of the sweep is not part of it."""
    return {
        "model": facts.model_id,
        "mtp": facts.mtp_id,
        "prompt": plan.prompt.source,
        "chat": plan.prompt.chat,
        "system": plan.prompt.system if plan.prompt.chat else "",
        "repeat_prompt": plan.prompt.repeat,
        "sampling": asdict(plan.sampling),
        "mtp_draft": plan.mtp_draft,
        "mtp_adaptive": plan.mtp_adaptive,
        "mtp_margin": plan.mtp_margin,
        # Of a sweep with a DSpark drafter alone, so that older journals can be gone on with.
        **({} if facts.dspark_id is None else _dspark(plan, facts)),
        "gen_tokens": plan.gen_tokens,
        "threads": plan.threads,
        "activations": plan.activations,
        "kv": plan.kv,
        "repack": plan.repack,
        "warm_weights": plan.warm_weights,
        "backend": plan.backend,
        "effective": dict(facts.effective),
        "compilers": compilers(),
        "switches": {name: os.environ[name] for name in SWITCHES if os.environ.get(name)},
        "machine": dict(machine),
        **{name: getattr(plan, name) for name in DEVICE_FIELDS if plan.backend != "cpu"},
        "code": code,
    }


def digest(value: object) -> str:
    """Short hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def row_key(fingerprint_digest: str, cell: Cell) -> str:
    """Identity of a row: its cell and everything that the fingerprint holds."""
    return digest([fingerprint_digest, cell.identity()])


def check_same(found: Mapping[str, object], expected: Mapping[str, object], where: str) -> None:
    """Refuse to resume a sweep of something else.

    A field that the journal does not have is one that its version did not record; the hash of its
    code tells that version apart.

    Raises
    ------
    OptionError
        Naming the first field that differs, and within it the first entry.
    """
    threads = {"threads": (_threads(found), _threads(expected))}
    for name, wanted in expected.items():
        held = found.get(name)
        if name not in found or held == wanted:
            continue
        if name in threads and threads[name][0] == threads[name][1]:
            continue  # no number is the number of cores
        if isinstance(held, dict) and isinstance(wanted, dict):
            names = sorted({*held, *wanted})
            entry = next(key for key in names if held.get(key) != wanted.get(key))
            name, held, wanted = f"{name} {entry}", held.get(entry), wanted.get(entry)
        raise OptionError(
            f"--resume: expected {where} to have {name} {wanted!r}, found {held!r} "
            "(--force starts over)"
        )


def _threads(record: Mapping[str, object]) -> object:
    """Threads that a sweep takes: without a number all cores that it may use."""
    machine = record.get("machine")
    cores = machine.get("cores") if isinstance(machine, Mapping) else None
    return record.get("threads") or cores


def check_grid(rows: Iterable[SpeedRow], cells: Iterable[Cell], where: str) -> None:
    """Refuse to resume where rows are there that the new plan would not measure.

    They would stand in one file with rows of other steps, modes or runs.

    Raises
    ------
    OptionError
        Naming the first such row.
    """
    planned = {cell.place: cell.prefill_tokens for cell in cells}
    for row in rows:
        step = planned.get(row.place)
        if step == row.prefill_tokens:
            continue
        has = f"{row.series} at {row.ctx_tokens} (run {row.run})"
        wanted = f"{has} behind a prefill of {step} tokens" if step else "cells of this plan only"
        found = f"a prefill of {row.prefill_tokens}" if step else has
        raise OptionError(
            f"--resume: expected {where} to hold {wanted}, found {found} (give the same "
            "--ctx-start, --ctx-max, --step-incr, --step-mul, --mode and --repeats or more of "
            "them; --force starts over)"
        )


def check_model(plan: SweepPlan, facts: ModelFacts, free_bytes: int) -> None:
    """Refuse what the model or the memory does not allow, before weights are read.

    Parameters
    ----------
    facts : ModelFacts
    free_bytes : int
        Memory of the host that a new process may take.

    Raises
    ------
    OptionError, ContextError, MemoryBudgetError
    """
    for mode in plan.modes:
        if mode not in facts.implemented_modes:
            raise OptionError(
                f"--mode: expected one of {', '.join(facts.implemented_modes)}, which this "
                f"engine implements, found {mode!r}"
            )
        if mode in MTP_MODES and not facts.has_mtp:
            raise OptionError(f"--mode: expected --mtp FILE for {mode}, found a model without MTP")
        if mode in DSPARK_MODES and not facts.has_dspark:
            raise OptionError(
                f"--mode: expected --draft-model FILE for {mode}, found a model without DSpark"
            )
    if plan.context > facts.n_ctx_train:
        raise ContextError(
            f"--ctx-max: expected --ctx-max + --gen-tokens + 1 within the model's "
            f"{facts.n_ctx_train} tokens, found {plan.context}"
        )
    memory = facts.memory
    # A device's memory holds weights and session, the host's always the snapshot.
    need = facts.weight_bytes + memory.context + memory.scratch
    if facts.free_device_bytes is None:
        _check_fits(plan, need + memory.snapshot, free_bytes, "free memory")
    else:
        _check_fits(plan, need, facts.free_device_bytes, "the device's free memory")
        _check_fits(plan, memory.snapshot, free_bytes, "free memory")


def _check_fits(plan: SweepPlan, need: int, free: int, where: str) -> None:
    if need > free:
        raise MemoryBudgetError(
            f"--ctx-max: expected a context that fits in {free >> 20} MiB of {where}, "
            f"found {need >> 20} MiB for {plan.context} tokens and a snapshot"
        )


def check_prompt(plan: SweepPlan, n_tokens: int) -> None:
    """Refuse a prompt that is too short, before weights are read.

    Raises
    ------
    OptionError
        Saying how short it is.
    """
    if n_tokens < plan.ctx_max:
        raise OptionError(
            f"--prompt-file: expected at least --ctx-max {plan.ctx_max} tokens, found {n_tokens} "
            f"({plan.ctx_max - n_tokens} short; --repeat-prompt repeats the text)"
        )
