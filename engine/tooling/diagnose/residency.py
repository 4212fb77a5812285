"""A residency plan of model files on a named machine, or on the device that is here, as facts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import OptionError
from engine.options import EngineOptions
from engine.weights.residency import GIB, KINDS, Machine, Plan, plan, settings_from

PRESENT = "present"
DEFAULT_CTX = 32_768
# Free bytes as a fresh process finds them. GB10: 121 GiB visible, of which the system keeps some;
# its driver refuses read-only registration, its processor's page tables serve the device too.
MACHINES = {
    "gb10": Machine(118 * GIB, 115 * GIB, unified=True, register=True, pageable=True),
    "h200": Machine(139 * GIB, 1024 * GIB, register=True, read_only_register=True),
    "h100": Machine(78 * GIB, 1024 * GIB, register=True, read_only_register=True),
}


def planned(
    model: Path,
    mtp: Path | None = None,
    machine: str = PRESENT,
    mode: str = "auto",
    budget_gib: float | None = None,
    environment: Mapping[str, str] | None = None,
    ctx: int = DEFAULT_CTX,
    dspark: Path | None = None,
) -> dict[str, Any]:
    """What would be copied and what would stay in the file; nothing is loaded.

    Matrices are planned for; vectors and tables of ids are always copied and left out here. Sizes
    are the file's; a copy on the device is padded, by less than a percent at full size.

    Parameters
    ----------
    machine : str
        One of `MACHINES`, or 'present' for the CUDA device of this machine.
    ctx : int
        Tokens of context of the session that is to fit beside the weights.
    dspark : Path, optional
        File of a DSpark drafter, which may be the model's.

    Returns
    -------
    dict
        machine, unified, device_bytes, host_bytes, context_tokens, context_bytes, warning, mode,
        route, budget_bytes, copied_bytes, mapped_bytes, copied_runs, mapped_runs, reasons,
        and per kind: tensors, bytes, copied and mapped bytes.

    Raises
    ------
    ModelFileError
        If a file is not a model that can be run.
    MemoryBudgetError
        If what must be copied does not fit, or the host cannot hold what stays mapped.
    BackendError
        If machine is 'present' and there is no device.
    """
    from engine.memory import matrices, plan_memory
    from engine.ops.cuda.device.residency import spans_of
    from engine.weights.files import open_files

    settings = settings_from(mode, budget_gib, os.environ if environment is None else environment)
    # Which checkpoint a drafter states changes no size: opening the model asks that.
    with open_files(model, mtp, dspark_path=dspark, force=True) as files:
        # Views of the mappings: spans are taken while the files are open.
        spans, mappings = spans_of(matrices(files.weights.trunk_tensors))
        drafts = matrices(files.weights.draft_tensors)
        more, _ = spans_of(drafts, {t.name for t in drafts}, first_file=len(mappings))
        spans += more
        options = EngineOptions(model, mtp, backend="cuda", dspark_path=dspark)
        context = plan_memory(files, options, ctx, weight_bytes=0).session
        del drafts, mappings
    where = _machine(machine)
    made = plan(spans, where, settings, context)
    return {
        **_facts(machine, where, made),
        "host_bytes": where.host_bytes,
        "context_tokens": ctx,
        "context_bytes": context,
        "warning": made.warning,
    }


def _machine(name: str) -> Machine:
    if name in MACHINES:
        return MACHINES[name]
    if name != PRESENT:
        known = ", ".join([*MACHINES, PRESENT])
        raise OptionError(f"--machine: expected one of {known}, found {name!r}")
    from engine.ops.cuda.device.driver import CudaDevice
    from engine.ops.cuda.device.residency import machine_of

    device = CudaDevice()
    try:
        return machine_of(device)
    finally:
        device.close()


def _facts(name: str, machine: Machine, made: Plan) -> dict[str, Any]:
    kinds = []
    for kind in KINDS:
        mine = [d for d in made.decisions if d.span.kind == kind]
        if mine:
            kinds.append(
                {
                    "kind": kind,
                    "tensors": len(mine),
                    "bytes": sum(d.span.n_bytes for d in mine),
                    "copied": sum(d.span.n_bytes for d in mine if d.copied),
                    "mapped": made.bytes_of("mapped", kind),
                }
            )
    return {
        "machine": name,
        "unified": machine.unified,
        "device_bytes": machine.device_bytes,
        "mode": made.mode,
        "route": made.route,
        "budget_bytes": made.budget,
        "copied_bytes": sum(entry["copied"] for entry in kinds),
        "mapped_bytes": made.mapped_bytes,
        "copied_runs": len(made.copied_runs),
        "mapped_runs": len(made.mapped_runs),
        "reasons": list(made.reasons),
        "kinds": kinds,
    }
