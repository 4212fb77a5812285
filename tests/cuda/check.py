"""What the compilers made of every kernel, without a GPU: registers, memory, instructions.

    python -m tests.cuda.check              compare with the table
    python -m tests.cuda.check --write      write the table anew (review the difference)

Compiles for both architectures that we know machines of and reads the machine code. A kernel must
not use a stack, spill, compute in float64 or take more shared memory than a block may have; it must
hold the instructions that it was written for, and not take more registers than the table says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from engine.errors import BackendError
from engine.ops.cuda.build.compile import architecture, build_all, registry
from engine.ops.cuda.build.kernel import Kernel
from engine.ops.cuda.device import store

CAPABILITIES = ((9, 0), (12, 1))
TABLE = Path(__file__).with_name("resources.json")
SLACK = 4  # registers: compilers of one release differ by less between patch levels
STATIC_SHARED = 48 * 1024  # bytes of static arrays: above, a launch is refused
# Bytes of shared memory that one block may take, static, dynamic and 1 KiB of the system's.
BLOCK_SHARED = {(9, 0): 227 * 1024, (12, 1): 99 * 1024}
REGISTERS = 65536  # of one multiprocessor
_DOUBLE = re.compile(
    r"\b(D(?:FMA|MUL|ADD|SETP|MNMX)|MUFU\.\w*64\w*|F2F\.F\d+\.F64|F2F\.F64\.\S*|I2F\.F64\S*|F2I\.\S*F64\S*)"
)
_SPILL = re.compile(r"\b(LDL|STL)\b")
_WAIT = "ACQBULK"  # a launch waits for those that it depends on
# What must not come before: access to global memory, and an end. Prefetches may.
# But of these kernels: all that they load without order is a matrix of the model.
_WEIGHTS, _WEIGHT_LOADS = "hc_mix_", {"LDG.E.128.CONSTANT"}
_TOO_EARLY = re.compile(r"^(LDG|STG|LD|ST|ATOM|ATOMG|RED|LDGSTS|UBLKCP|EXIT)\b")


@dataclass(frozen=True)
class Resources:
    """What one kernel takes on one architecture: registers, bytes of stack, local, shared memory.

    `instructions` counts lines of machine code; `opcodes` lists them without repetition; `early`
    those that stand before the kernel waits for its predecessors and must not, or the wait itself
    where there is none.
    """

    registers: int
    stack: int
    local: int
    shared: int
    instructions: int
    opcodes: tuple[str, ...]
    early: tuple[str, ...] = ()

    def row(self) -> dict[str, int]:
        """What the table holds of it."""
        return {
            "registers": self.registers,
            "shared": self.shared,
            "instructions": self.instructions,
        }


@cache
def tool(name: str) -> str:
    """Path of a program of the toolkit: from PATH, or from its wheel.

    Raises
    ------
    BackendError
        It is in neither.
    """
    found = shutil.which(name)
    if found is None:
        for folder in sys.path:
            wheels = sorted(Path(folder or ".").glob(f"nvidia/*/bin/{name}"))
            if wheels:
                return str(wheels[-1])
        raise BackendError(
            f"{name}: expected it on PATH or in a wheel (pip install nvidia-cuda-{name})"
        )
    return found


def _output(name: str, *args: str) -> str:
    done = subprocess.run([tool(name), *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"{name}: expected machine code, found {done.stderr.strip()}")
    return done.stdout


def resources(image: bytes) -> Resources:
    """Read a cubin with one kernel; what was found is stored, since the tools take half a second.

    Raises
    ------
    BackendError
        The tools are missing or do not understand it.
    """
    name = f"{hashlib.sha256(image + Path(__file__).read_bytes()).hexdigest()[:24]}.usage"
    stored = store.get(name)
    if stored is None:
        found = _read(image)
        store.put(name, json.dumps(asdict(found)).encode())
        return found
    fields = json.loads(stored)
    lists = {name: tuple(fields[name]) for name in ("opcodes", "early")}
    return Resources(**{**fields, **lists})


def _read(image: bytes) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        usage = _output("cuobjdump", "-res-usage", file.name)
        assembly = _output("nvdisasm", "-c", file.name)
    numbers = re.search(r"Function .*\n\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if numbers is None:
        raise BackendError(f"cuobjdump: expected the usage of one kernel, found {usage!r}")
    registers, stack, shared, local = map(int, numbers.groups())
    lines = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", assembly, re.M)
    opcodes = tuple(sorted(set(lines)))
    return Resources(registers, stack, local, shared, len(lines), opcodes, _early(lines))


def _early(lines: list[str]) -> tuple[str, ...]:
    """What stands before the wait and must not."""
    if _WAIT not in lines:
        return (f"no {_WAIT}",)
    before = lines[: lines.index(_WAIT)]
    return tuple(sorted({opcode for opcode in before if _TOO_EARLY.match(opcode)}))


def faults(kernel: Kernel, cc: tuple[int, int], found: Resources) -> list[str]:
    """What is wrong with a kernel's machine code, in words; nothing, one hopes."""
    wrong = []
    if found.stack + found.local:
        wrong.append(f"expected no stack, found {found.stack} + {found.local} bytes")
    text = " ".join(found.opcodes)
    for pattern, what in ((_SPILL, "local memory"), (_DOUBLE, "float64")):
        seen = sorted(set(pattern.findall(text)))
        if seen:
            wrong.append(f"expected no {what}, found {', '.join(seen)}")
    if found.early and not (kernel.name.startswith(_WEIGHTS) and set(found.early) <= _WEIGHT_LOADS):
        wrong.append(f"expected nothing before the wait, found {', '.join(found.early)}")
    system = 1024
    if found.shared > STATIC_SHARED + system:
        wrong.append(f"expected at most {STATIC_SHARED} static shared bytes, found {found.shared}")
    if found.shared + kernel.dynamic_smem > BLOCK_SHARED[cc]:
        total = found.shared + kernel.dynamic_smem
        wrong.append(f"expected at most {BLOCK_SHARED[cc]} shared bytes, found {total}")
    blocks = max(kernel.min_blocks, 1)
    if -(-found.registers // 8) * 8 * kernel.threads * blocks > REGISTERS:
        wrong.append(f"expected {blocks} blocks of {kernel.threads} threads to fit, "
                     f"found {found.registers} registers")  # fmt: skip
    for required in kernel.requires:
        choices = required.split("|")
        if not any(opcode.startswith(choice) for opcode in found.opcodes for choice in choices):
            wrong.append(f"expected {required}, found none")
    return wrong


Key = tuple[str, tuple[int, int]]


def measure(names: Iterable[str] = (), jobs: int = 1) -> dict[Key, Resources]:
    """Resources of all kernels, or of the named ones, on every architecture."""
    return {key: resources(image) for key, image in build_all(CAPABILITIES, names, jobs).items()}


def compare(found: dict[Key, Resources], table: dict[str, dict[str, dict[str, int]]]) -> list[str]:
    """Lines that say what is wrong or has grown; a kernel without an entry is wrong too."""
    kernels, lines = registry(), []
    for (name, cc), have in found.items():
        row = table.get(name, {}).get(architecture(cc))
        wrong = faults(kernels[name], cc, have)
        if row is None:
            wrong.append("expected an entry in the table, found none (--write makes it)")
        elif have.registers > row["registers"] + SLACK:
            wrong.append(f"expected at most {row['registers']} registers, found {have.registers}")
        elif have.shared > row["shared"]:
            wrong.append(f"expected {row['shared']} static shared bytes, found {have.shared}")
        lines += [f"{name} {architecture(cc)}: {line}" for line in wrong]
    return lines


def read_table() -> dict[str, dict[str, dict[str, int]]]:
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cuda.check", description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args(argv)
    found = measure(options.names, options.jobs)
    table = read_table()
    if options.write:
        table = dict(table) if options.names else {}
        for (name, cc), have in found.items():
            table[name] = {**table.get(name, {}), architecture(cc): have.row()}
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    for (name, cc), have in found.items():
        print(f"{name:34} {architecture(cc)} {json.dumps(have.row())}")
    lines = compare(found, table)
    print("\n".join(lines) or f"{len(found)} as they should be")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
