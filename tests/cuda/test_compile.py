"""Kernels become machine code without a device: what is stored, what is refused, what is in it."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
from numba import cuda

from engine.errors import BackendError
from engine.ops.cuda.build import asm, compile, ptx
from engine.ops.cuda.build.kernel import F32, F32P, U32, kernel
from engine.ops.cuda.device import store
from tests.cuda import check

ARCHITECTURES = [(9, 0), (12, 1)]


@kernel(F32P, F32P, threads=64, name="test_contraction", requires=("FMUL",))
def _contraction(out, x):
    t = cuda.threadIdx.x
    out[t] = x[t] * x[t + 64] + out[t]


@kernel(F32P, F32P, threads=64, name="test_fused")
def _fused(out, x):
    t = cuda.threadIdx.x
    out[t] = ptx.fma_rn(x[t], x[t + 64], out[t])


@kernel(F32P, threads=64, name="test_double")
def _double(out):
    t = cuda.threadIdx.x
    out[t] = out[t] * 0.1


@kernel(F32P, U32, threads=64, name="test_local")
def _local(out, n):
    held = cuda.local.array(64, F32)
    for i in range(64):
        held[i] = F32(0.0)
    for i in range(n):  # places that only the data knows: an array in memory, not in registers
        held[U32(out[i]) & U32(63)] += F32(1.0)
    out[cuda.threadIdx.x] = held[cuda.threadIdx.x]


@kernel(F32P, threads=64, name="test_large_shared", dynamic_smem=64 * 1024)
def _large_shared(out):
    held = cuda.shared.array(12400, F32)
    t = cuda.threadIdx.x
    held[t] = out[t]
    cuda.syncthreads()
    out[t] = held[63 - t]


@kernel(F32P, threads=1024, name="test_no_imma", requires=("IMMA", "LDG.E.128|LDG"))
def _no_imma(out):
    t = cuda.threadIdx.x
    out[t] = math.exp(out[t])


# The store.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A store of its own, and nothing held in memory."""
    monkeypatch.setenv("DS4_KERNEL_CACHE", str(tmp_path))
    monkeypatch.delenv("DS4_CUDA_CUBINS", raising=False)
    monkeypatch.setattr(compile, "_held", {})
    return tmp_path


@pytest.fixture
def builds(monkeypatch):
    """Stands for the compiler; lists what it was asked for."""
    asked = []

    def build(made, cc):
        asked.append((made.name, cc))
        return f"code of {made.name} for {cc}".encode()

    monkeypatch.setattr(compile, "build", build)
    return asked


def test_a_kernel_is_built_once(cache, builds, monkeypatch):
    first = compile.compile_kernel(_fused, (9, 0))
    monkeypatch.setattr(compile, "_held", {})  # another process
    again = compile.compile_kernel(_fused, (9, 0))
    assert first == again == compile.Cubin(b"code of test_fused for (9, 0)", "ds4_test_fused")
    compile.compile_kernel(_fused, (12, 1))
    assert builds == [("test_fused", (9, 0)), ("test_fused", (12, 1))]


def test_a_damaged_file_is_built_again(cache, builds, monkeypatch):
    image = compile.compile_kernel(_fused, (9, 0)).image
    (path,) = store.folder().path.glob("*.cubin")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr(compile, "_held", {})
    assert compile.compile_kernel(_fused, (9, 0)).image == image
    assert len(builds) == 2


def test_a_folder_that_others_can_write_is_left_alone(cache):
    folder = store.folder().path
    folder.chmod(0o777)
    store._folder.cache_clear()
    found = store.folder()
    store._folder.cache_clear()
    assert found.path != folder and not found.lasts
    assert f"{folder}, which others can write" in found.notice


@pytest.fixture
def digest():
    def clear():
        store._digest.cache_clear()
        store._imports.cache_clear()

    clear()
    yield clear
    clear()


def test_the_digest_covers_imported_files(tmp_path, monkeypatch, digest):
    names = {
        "engine/kernels.py": "from engine.helper import rule\n",
        "engine/helper.py": "import engine.tables\n",
        "engine/tables.py": "X = 1\n",
        "engine/other.py": "Y = 1\n",
    }
    for name, text in names.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(store, "ROOT", tmp_path)

    def now():
        digest()
        return store._digest(tmp_path / "engine/kernels.py")

    first = now()
    (tmp_path / "engine/other.py").write_text("Y = 2\n")
    assert now() == first
    for name in ("engine/tables.py", "engine/helper.py", "engine/kernels.py"):
        (tmp_path / name).write_text(names[name] + "# changed\n")
        assert now() != first, name
        (tmp_path / name).write_text(names[name])
    assert now() == first


def test_a_kernel_depends_on_ptx_and_not_on_other_kernels():
    seen = store._imports(store._module_file("engine.ops.cuda.rows.norm"))
    assert store._module_file("engine.ops.cuda.build.kernel") in seen
    assert store._module_file("engine.ops.cuda.rows.router") not in seen


# Prebuilt cubins.


@pytest.fixture
def prebuilt(cache, builds, tmp_path, monkeypatch):
    folder = tmp_path / "cubins"
    command = ["--cc", "9.0", "--out", str(folder), "--module", __name__, "test_fused"]
    compile.main(command)
    monkeypatch.setattr(compile, "_held", {})
    monkeypatch.setenv("DS4_CUDA_CUBINS", str(folder))
    compile._manifest.cache_clear()
    builds.clear()
    yield folder
    compile._manifest.cache_clear()


def test_prebuilt_cubins_need_no_compiler(prebuilt, builds):
    assert compile.compile_kernel(_fused, (9, 0)).image == b"code of test_fused for (9, 0)"
    assert builds == []
    assert compile.toolkit() == json.loads((prebuilt / "cubins.json").read_text())["versions"]


def test_prebuilt_cubins_of_other_sources_are_refused(prebuilt, monkeypatch):
    monkeypatch.setattr(store, "kernel_digest", lambda _: "0123")
    with pytest.raises(BackendError, match=r"expected ds4_test_fused\.0123\.\S+, found only ds4_"):
        compile.compile_kernel(_fused, (9, 0))


def test_another_architecture_is_refused(prebuilt):
    with pytest.raises(BackendError, match=r"sm_121a\.cubin, found only"):
        compile.compile_kernel(_fused, (12, 1))


def test_a_kernel_that_was_not_built_is_refused(prebuilt):
    with pytest.raises(BackendError, match="found none; build the folder again"):
        compile.compile_kernel(_double, (9, 0))


def test_a_damaged_prebuilt_cubin_is_refused(prebuilt):
    (path,) = prebuilt.glob("*.cubin")
    path.write_bytes(b"other")
    with pytest.raises(BackendError, match="expected checksum"):
        compile.compile_kernel(_fused, (9, 0))


@pytest.mark.parametrize("text", [None, "", "[]", "{}"])
def test_a_folder_without_a_manifest_is_refused(prebuilt, text):
    (prebuilt / "cubins.json").unlink()
    if text is not None:
        (prebuilt / "cubins.json").write_text(text)
    with pytest.raises(BackendError, match=r"expected a folder of prebuilt cubins"):
        compile.compile_kernel(_fused, (9, 0))


def test_unknown_names_are_refused(cache):
    with pytest.raises(BackendError, match="expected names of the registry, found nonsense"):
        compile.build_all([(9, 0)], ["nonsense"])


def test_a_missing_toolkit_is_one_error(cache, monkeypatch):
    from numba.cuda.cudadrv import nvvm

    def missing(*_, **__):
        raise RuntimeError("no libnvvm\nhere")

    monkeypatch.setattr(nvvm, "compile_ir", missing)
    with pytest.raises(
        BackendError, match=r"test_fused: expected a CUDA 13 toolkit .* no libnvvm h"
    ):
        compile.compile_kernel(_fused, (9, 0))


# Machine code.


@pytest.mark.cudac
@pytest.mark.parametrize("cc", ARCHITECTURES, ids=compile.architecture)
def test_sums_of_products_are_not_contracted(cc):
    plain = check.resources(compile.compile_kernel(_contraction, cc).image).opcodes
    fused = check.resources(compile.compile_kernel(_fused, cc).image).opcodes
    assert "FFMA" not in plain and {"FMUL", "FADD"} <= set(plain)
    assert "FFMA" in fused


@pytest.mark.cudac
@pytest.mark.parametrize("cc", ARCHITECTURES, ids=compile.architecture)
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (_double, "expected no float64, found D"),
        (_local, "expected no stack, found 256"),
        (_local, "expected no local memory, found LDL, STL"),
        (_large_shared, "expected at most 49152 static shared bytes"),
        (_no_imma, "expected IMMA, found none"),
    ],
)
def test_faults_are_found(cc, bad, expected):
    found = check.faults(bad, cc, check.resources(compile.compile_kernel(bad, cc).image))
    assert any(line.startswith(expected) for line in found), found


@pytest.mark.cudac
@pytest.mark.parametrize("cc", ARCHITECTURES, ids=compile.architecture)
def test_a_good_kernel_has_no_faults(cc):
    found = check.resources(compile.compile_kernel(_contraction, cc).image)
    assert check.faults(_contraction, cc, found) == []


def test_growth_and_missing_entries_are_found(monkeypatch):
    monkeypatch.setattr(check, "registry", lambda: {"k": _contraction})
    have = check.Resources(40, 0, 0, 1152, 80, ("FMUL",))
    table = {"k": {"sm_90a": {"registers": 40, "shared": 1152, "instructions": 80}}}

    def lines(**changes):
        row = {**table["k"]["sm_90a"], **changes}
        return check.compare({("k", (9, 0)): have}, {"k": {"sm_90a": row}})

    assert lines() == [] == lines(registers=40 - check.SLACK)
    assert lines(registers=39 - check.SLACK) == [
        f"k sm_90a: expected at most {39 - check.SLACK} registers, found 40"
    ]
    assert lines(shared=1024) == ["k sm_90a: expected 1024 static shared bytes, found 1152"]
    spilling = check.Resources(40, 8, 0, 1152, 80, ("FMUL", "LDL", "STL"))
    assert check.compare({("k", (9, 0)): spilling}, table) == [
        "k sm_90a: expected no stack, found 8 + 0 bytes",
        "k sm_90a: expected no local memory, found LDL, STL",
    ]
    assert check.compare({("k", (9, 0)): have}, {}) == [
        "k sm_90a: expected an entry in the table, found none (--write makes it)"
    ]


def test_accesses_before_the_wait_are_found():
    lines = ["S2R", "PREEXIT", "UBLKPF.L2", "LDG.E.64", "ACQBULK", "LDG.E", "EXIT"]
    assert check._early(lines) == ("LDG.E.64",)
    assert check._early([*lines[:3], *lines[4:]]) == ()
    assert check._early(["S2R", "EXIT", "ACQBULK"]) == ("EXIT",)
    assert check._early(["S2R", "EXIT"]) == ("no ACQBULK",)
    found = check.Resources(40, 0, 0, 0, 80, ("FMUL",), ("LDG.E.64",))
    assert check.faults(_contraction, (9, 0), found) == [
        "expected nothing before the wait, found LDG.E.64"
    ]


@pytest.mark.cudac
def test_every_kernel_is_as_the_table_says():
    found = check.measure(jobs=os.cpu_count() or 1)
    assert len(found) == 2 * len(compile.registry())
    assert check.compare(found, check.read_table()) == []
    assert sorted(check.read_table()) == sorted(compile.registry())


# What an op of ptx must become, where its name does not say it.
_INSTRUCTIONS = {
    "mma_m16n8k32_s8": "IMMA.16832.S8.S8",
    "mma_m16n8k16_f16": "HMMA.16816.F32",
    "mma_m16n8k16_bf16": "HMMA.16816.F32.BF16",
    "dp4a": "IDP.4A.S8.S8",
    "ldmatrix_x4": "LDSM.16.M88.4",
    "ldmatrix_x4_trans": "LDSM.16.MT88.4",
    "cp_async16": "LDGSTS.E.BYPASS.128",
    "ld_nc_v4": "LDG.E.128.CONSTANT",
    "ld_stream_v4": "LDG.E.NA.LTC128B.128.CONSTANT",
    "lds_v4": "LDS.128",
    "sts_v4": "STS.128",
    "st_v4": "STG.E.128",
    "redux_add": "REDUX.SUM.S32",
    "depend": "ACQBULK",
    "release": "PREEXIT",
    "prefetch_bulk": "UBLKPF.L2",
}


@pytest.mark.cudac
@pytest.mark.parametrize("cc", ARCHITECTURES, ids=compile.architecture)
def test_ops_of_ptx_become_their_instructions(cc):
    """Compiles the kernels of the tests of ptx, which hold every op."""
    from tests.cuda import test_ptx, test_ptx_values

    modules = (test_ptx, test_ptx_values)

    opcodes = set()
    for name, made in compile.registry([m.__name__ for m in modules]).items():
        if made.file in [m.__file__ for m in modules]:
            opcodes |= set(check.resources(compile.compile_kernel(made, cc).image).opcodes)
            assert name.startswith("test_")
    missing = {op: want for op, want in _INSTRUCTIONS.items() if want not in opcodes}
    assert missing == {}, sorted(opcodes)
    assert set(_INSTRUCTIONS) <= set(asm.TEMPLATES.values())


@pytest.mark.cudac
def test_the_command_compiles_in_processes(tmp_path):
    out = tmp_path / "cubins"
    command = [sys.executable, "-m", "engine.ops.cuda.build.compile", "--cc", "9.0", "--jobs", "2"]
    subprocess.run([*command, "--out", str(out), "ring_rows", "poke_words"], check=True)
    names = sorted(path.name.split(".")[0] for path in out.glob("*.cubin"))
    assert names == ["ds4_poke_words", "ds4_ring_rows"]
    assert all(path.read_bytes()[:4] == b"\x7fELF" for path in out.glob("*.cubin"))
    shutil.rmtree(out)
