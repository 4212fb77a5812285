"""The driver's device over a stub library: traffic, replay, faults.

Shows what is asked of a driver and in which order, never how a GPU behaves.
"""

from __future__ import annotations

from ctypes.util import find_library

import pytest

from tests.cuda.stub.running import NEEDS

pytest.importorskip("cuda.bindings")
pytestmark = NEEDS
MIB = 1 << 20


# Start


def test_facts(session):
    answer = session("start").answer
    assert answer["facts"] == {
        "device": 0,
        "device_name": "Stub H100",
        "compute_capability": "9.0",
        "multiprocessors": 132,
        "memory_bytes": 1 << 30,
        "unified_memory": False,
        "driver": "13.0",
        "transfers": {"h2d_bytes": 0, "h2d_copies": 0, "d2h_bytes": 0, "d2h_copies": 0},
        "pinned_staging": True,
        "variant": "all",
    }
    assert answer["notices"] == ["Stub H100, compute capability 9.0, 1.0 GiB, driver 13.0"]
    assert answer["free"] <= 1 << 30


def test_shared_memory_counts_what_the_system_gives_up(session):
    answer = session("start", STUB_ATTR="18=1", STUB_MEMORY=MIB).answer
    assert answer["facts"]["unified_memory"] is True
    assert answer["free"] > 16 * MIB  # of this machine's memory, not the driver's one MiB


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"STUB_FAIL": "cuInit=100"}, "expected an NVIDIA GPU, found none"),
        ({"STUB_DEVICES": 0}, "expected an NVIDIA GPU, found none"),
        ({"STUB_FAIL": "cuInit=803"}, "driver library and kernel module of one version, found two"),
        ({"STUB_FAIL": "cuInit=802"}, "a GPU that is ready, found one still initialising"),
        ({"STUB_FAIL": "cuInit=34"}, "found the toolkit's stub library"),
        ({"STUB_FAIL": "cuInit=999"}, "a driver that starts, found CUDA_ERROR_STUB"),
        ({"STUB_DRIVER": 11040}, "driver: expected CUDA 12.0 or newer, found 11.4; update"),
        ({"STUB_ATTR": "75=7,76=5"}, "expected compute capability 8.0 or newer, found 7.5"),
        ({"STUB_FAIL": "cuDevicePrimaryCtxRetain=46"}, "found every one busy or unavailable"),
        ({"STUB_MISSING": "cuStreamCreate"}, "one that offers cuStreamCreate, found CUDA 13.0"),
    ],
)  # fmt: skip
def test_refusals_at_the_start_name_the_cause(session, variables, message):
    answer = session("start", **variables).answer
    assert answer["kind"] == "BackendError" and answer["exit"] == 1
    assert message in answer["error"] and "\n" not in answer["error"]


@pytest.mark.skipif(find_library("cuda") is not None, reason="this machine has a driver")
def test_no_library_is_one_line(session):
    answer = session("start", LD_PRELOAD="").answer
    assert answer["kind"] == "BackendError"
    assert "expected the driver's library libcuda.so.1, found none" in answer["error"]
    assert "--backend cpu" in answer["error"] and "\n" not in answer["error"]


def test_code_that_does_not_fit_the_device(session):
    answer = session("waits", STUB_FAIL="cuModuleLoadData=209").answer
    assert answer["error"] == (
        "kernel: expected machine code for this GPU, found none in the image"
    )
    assert (
        "newer one (update the driver)"
        in (session("waits", STUB_FAIL="cuModuleLoadData=222").answer["error"])
    )


# Memory


def test_bytes_arrive_and_are_counted(session):
    outcome = session("memory")
    answer = outcome.answer
    assert answer["same"] == [True] * 4
    assert answer["filled"] == [0, 0xABABABAB, 0xABABABAB, 0, 0]
    large = answer["large"]
    assert answer["given_back"] == 2 * large
    counted = answer["transfers"]
    assert counted["h2d_bytes"] == 2 * large + 4000
    logged = [int(call.split()[1]) for call in outcome.named("cuMemcpyHtoDAsync")]
    assert sum(logged) == counted["h2d_bytes"] and len(logged) == counted["h2d_copies"]
    assert max(logged) == 32 * MIB  # no piece exceeds a staging buffer
    assert [int(c.split()[1]) for c in outcome.named("cuMemHostAlloc")] == [
        1 << 16,
        *[32 * MIB] * 2,
    ]
    assert len(outcome.named("cuMemFreeHost")) == 3
    assert outcome.named("cuStreamCreate") == ["cuStreamCreate 1"]  # apart from the default stream
    assert not [call for call in outcome.calls if "Managed" in call]


def test_without_pinned_memory_copies_are_plain_and_said_so(session):
    outcome = session("memory", STUB_FAIL="cuMemHostAlloc=2")
    assert outcome.answer["same"] == [True] * 4
    assert outcome.answer["transfers"]["h2d_copies"] == 3
    facts = session("start", STUB_FAIL="cuMemHostAlloc=2").answer
    assert facts["facts"]["pinned_staging"] is False
    assert any("the driver refused it; copies are plain" in text for text in facts["notices"])


def test_out_of_memory_is_an_error_that_leaves_the_device_usable(session):
    answer = session("overflow").answer
    assert answer["kind"] == "MemoryBudgetError" and answer["kept"] == 7
    assert answer["error"].startswith("device memory: expected at most 1023 MiB free of 1024 MiB")
    assert "found 4096.0 MiB" in answer["error"]


# Passes


def test_a_recorded_pass_does_the_same_in_every_mode(session):
    outcome = session("passes")
    answer = outcome.answer
    fill = 0x01010101
    assert answer["recorded"] == [10, 10, 0, fill]
    assert answer["prepared"] == [40, 40, 0, fill]
    # Timing runs the pass once more; then three times as a graph.
    assert answer["graph"] == [80, 80, 0, fill]
    assert answer["prepared launches"] == answer["graph launches"] == 6
    for mode in ("prepared", "graph"):
        times = answer[f"{mode} times"]
        # In the order of the pass, each with its grid.
        assert [time["kernel"] for time in times] == [
            *["stub_add"] * 5, "stub_other", "copy", "fill",
        ]  # fmt: skip
        assert [time["grid"] for time in times] == [*[[3, 2, 1]] * 5, [1, 1, 1], [], []]
        # The stub's events are a millisecond apart per launch.
        assert [time["seconds"] for time in times] == pytest.approx([1e-3] * 6 + [0] * 2)
    assert answer["token"] == 90
    assert outcome.named("cuGraphInstantiate") == ["cuGraphInstantiate 8"]
    assert len(outcome.named("cuGraphLaunch")) == 3
    assert len(outcome.named("cuGraphExecDestroy")) == 1
    # Recorded, prepared and timed twice; nodes of a graph once.
    adds = outcome.named("cuLaunchKernel")
    assert adds.count("cuLaunchKernel ds4_stub_add 3,2,1 64 100000") == 5 * (1 + 3 + 1 + 1)
    # One waits for nothing, the others for the one before, and begin early.
    assert outcome.named("cuGraphAddKernelNode") == [
        "cuGraphAddKernelNode ds4_stub_add 3,2,1 64 100000 after 0"
    ]
    nodes = outcome.named("cuGraphAddNode")
    assert len(nodes) == 5 and all(node.endswith("after 1 early 1") for node in nodes)
    # Leave for more shared memory than 48 KiB is asked for once, per kernel that needs it.
    assert outcome.named("cuFuncSetAttribute") == ["cuFuncSetAttribute 8 100000"]
    assert len(outcome.named("cuModuleLoadData")) == len(outcome.named("cuModuleUnload"))


def test_a_capture_is_one_stream_and_nothing_is_freed_meanwhile(session):
    outcome = session("graph_with_garbage", DS4_CUDA_VARIANT="-branches")
    assert outcome.answer == {"x": [2, 0, 0, 0], "given_back": 4000}
    calls = [call.split()[0] for call in outcome.calls]
    assert calls.index("cuStreamEndCapture") < calls.index("cuMemFree")


def test_a_capture_that_fails_says_what_does_without(session):
    answer = session(
        "passes", STUB_FAIL="cuStreamEndCapture=901", DS4_CUDA_VARIANT="-branches"
    ).answer
    assert answer["error"].startswith(
        "graph: expected a pass that can be captured, found error 901"
    )
    assert "--launch prepared" in answer["error"]


def test_a_device_works_in_threads_that_did_not_open_it(session):
    # A context is current in one thread: the screen runs the model in another than opened it.
    outcome = session("threads")
    assert outcome.answer == {
        "put": [0, 1, 2], "replay": 2, "launch": None, "token": 7, "fill": None, "copy": None,
        "load": True, "time": 1, "free": None, "free bytes": True, "wait": None, "record": 1,
        "close": None,
    }  # fmt: skip
    assert len(outcome.named("cuModuleUnload")) == len(outcome.named("cuModuleLoadData"))


# Sixteen times: x += 2, y += 7, z[1] = x, x += 1, x += 2, y[2] = z[1], z[2] = y, y += 1, a fill.
BRANCHES = [[80, 0, 0, 0], [128, 0, 77, 0], [0, 77, 127, 0x01010101]]


def test_a_graph_gives_the_same_in_every_order_that_its_edges_allow(session):
    assert session("branches", STUB_ORDER=1).answer["words"] == BRANCHES


@pytest.mark.parametrize(
    ("variables", "captured"),
    [
        ({"DS4_CUDA_VARIANT": "-branches,-early"}, True),
        ({"STUB_DRIVER": 12020, "STUB_ATTR": "75=8,76=9"}, False),
    ],
)
def test_steps_that_are_off_or_not_offered_leave_the_same_result(session, variables, captured):
    outcome = session("branches", **variables)
    assert outcome.answer["words"] == BRANCHES
    assert not outcome.named("cuGraphAddNode")
    assert bool(outcome.named("cuStreamBeginCapture")) == captured


def test_early_launches_that_a_driver_refuses_are_done_without(session):
    outcome = session("branches", STUB_REFUSE_EARLY=1)
    assert outcome.answer["words"] == BRANCHES
    assert any("launches begin early: the driver refused" in n for n in outcome.answer["notices"])
    assert len(outcome.named("cuGraphInstantiate")) == 2
    assert len(outcome.named("cuGraphDestroy")) == 2


def test_an_unknown_variant_is_refused(session):
    answer = session("start", DS4_CUDA_VARIANT="-nonsense").answer
    assert answer["kind"] == "OptionError"
    assert "DS4_CUDA_VARIANT: expected some of -branches, -early" in answer["error"]


def test_every_thread_may_use_a_device(session):
    outcome = session("other_thread")
    assert outcome.answer == {
        "x": [25, 25, 2, 3],
        "token": 25,
        "large": 1 << 20,
        "given_back": 4 << 20,
        "closed": True,
    }


def test_two_devices_of_one_thread_keep_their_contexts(session):
    outcome = session("two_devices")
    assert outcome.answer == [3, 0, 0, 0, 6, 0, 0, 0]


def test_a_refused_allocation_is_tried_once_more_where_memory_is_shared(session):
    # The first allocation is the position's.
    once = {"STUB_FAIL": "cuMemAlloc=2@2:1"}
    assert session("relief", STUB_ATTR="18=1", **once).answer == {"words": [0, 0], "asked": 1}
    assert session("relief", **once).answer == {"error": "MemoryBudgetError", "asked": 0}
    twice = session("relief", STUB_ATTR="18=1", STUB_FAIL="cuMemAlloc=2@2:2").answer
    assert twice == {"error": "MemoryBudgetError", "asked": 1}
    outcome = session("relief", STUB_FAIL="cuMemAlloc=2@2")
    assert outcome.answer["error"] == "MemoryBudgetError"
    # An allocation that was refused has nothing to give back.
    assert "Exception ignored" not in outcome.stderr


def test_a_kernel_that_asks_for_too_much_shared_memory_is_refused(session):
    answer = session("greedy").answer
    assert answer["kind"] == "BackendError"
    assert "expected at most 232448 bytes of shared memory" in answer["error"]


def test_numba_launching_without_its_toolkit_is_refused(session):
    # The stub lacks what numba's own driver layer asks for, as a broken installation would.
    answer = session("by_numba").answer
    assert answer["kind"] == "BackendError"
    assert answer["error"].startswith("--launch numba: expected numba-cuda with its toolkit, found")


# Faults


@pytest.mark.parametrize("code", [700, 702, 716, 718, 719])
def test_a_lost_context_is_said_by_every_later_call(session, code):
    said = session("lost", STUB_FAIL=f"cuLaunchKernel={code}@1").answer
    assert len(said) == 12 and len({tuple(line) for line in said}) == 1
    kind, message, status = said[0]
    assert kind == "DeviceLostError" and status == 10
    assert "the context is lost, start the program again" in message
    assert "launch of stub_add" in message


def test_a_fault_that_shows_at_the_wait_is_found_there(session):
    said = session("lost", STUB_FAIL="cuStreamQuery=700@1").answer
    # The launch before it went through.
    assert len(said) == 11 and "CUDA_ERROR_ILLEGAL_ADDRESS" in said[0][1]


def test_a_device_that_does_not_answer_ends_the_process(session):
    outcome = session("waits", STUB_HANG=3, DS4_CUDA_TIMEOUT="0.3")
    assert outcome.status == 11
    assert "device: expected an answer within 0.3 s, found none" in outcome.stderr
    assert session("waits", STUB_HANG=7, DS4_CUDA_TIMEOUT="0.3").answer == [5, 0, 0, 0]


@pytest.mark.parametrize("text", ["soon", "0", "-1", "inf"])
def test_a_bad_timeout_is_refused(session, text):
    answer = session("start", DS4_CUDA_TIMEOUT=text).answer
    assert answer["kind"] == "OptionError" and "DS4_CUDA_TIMEOUT" in answer["error"]
