"""Where weights go, over a stub driver: copies, registration, and what is left without it."""

from __future__ import annotations

import pytest

from tests.cuda.stub.running import NEEDS

pytest.importorskip("cuda.bindings")
pytestmark = NEEDS


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    from engine.models.shapes import named_shape
    from engine.models.write import write_model

    path = tmp_path_factory.mktemp("model") / "model.gguf"
    write_model(path, named_shape("tiny"), "iq2", 1)
    return path


def registrations(outcome):
    """Flags of each registration, in order; each begins on a page."""
    calls = [call.split() for call in outcome.named("cuMemHostRegister")]
    assert all(int(offset) == 0 and int(size) % 4096 == 0 for _, size, _, offset in calls)
    return [int(flags) for _, _, flags, _ in calls]


def test_everything_is_copied_where_it_fits(session, model_file):
    outcome = session("residency", model_file, "auto", "")
    answer = outcome.answer
    assert set(answer["placed"].values()) == {"device"} and not registrations(outcome)
    facts = answer["facts"]
    assert facts["residency"] == "device" and facts["residency_route"] == "none"
    assert facts["residency_device_bytes"] == answer["transfers"]["h2d_bytes"]


def test_mapped_experts_are_registered_and_read_in_place(session, model_file):
    outcome = session("residency", model_file, "hybrid", "", STUB_ATTR="18=1")
    answer = outcome.answer
    for name, kind in answer["placed"].items():
        assert kind == ("mapped" if "_exps." in name else "device")
    assert registrations(outcome) and set(registrations(outcome)) == {2}
    assert len(outcome.named("cuMemHostUnregister")) == len(registrations(outcome))
    facts = answer["facts"]
    assert facts["residency_route"] == "registered" and not facts["residency_refusals"]
    assert facts["residency_device_bytes"] == answer["transfers"]["h2d_bytes"]
    assert facts["residency_mapped_bytes"] > 0


def test_the_read_only_flag_is_used_only_where_the_device_has_it(session, model_file):
    outcome = session("residency", model_file, "mapped", "", STUB_ATTR="113=1")
    assert set(registrations(outcome)) == {2 | 8}
    assert set(outcome.answer["placed"].values()) == {"mapped"}
    assert outcome.answer["transfers"]["h2d_copies"] == 0


def test_refused_read_only_registration_is_tried_without_the_flag(session, model_file):
    outcome = session(
        "residency", model_file, "mapped", "", STUB_ATTR="113=1", STUB_REFUSE_READ_ONLY=801
    )
    flags = registrations(outcome)
    assert flags[:2] == [10, 2] and set(outcome.answer["placed"].values()) == {"mapped"}
    assert outcome.answer["facts"]["residency_route"] == "registered"
    assert outcome.answer["facts"]["residency_refusals"] == [
        "read-only registration of mapped weights: the driver refused it (error 801)"
    ]


def test_refused_registration_falls_to_pages_where_the_device_reads_them(session, model_file):
    outcome = session("residency", model_file, "mapped", "", STUB_ATTR="88=1", STUB_REFUSE_PLAIN=1)
    assert set(outcome.answer["placed"].values()) == {"mapped"}
    facts = outcome.answer["facts"]
    assert facts["residency_route"] == "pageable"
    # Read in before the device would fault on every page of them.
    assert facts["residency_populated_bytes"] >= facts["residency_mapped_bytes"] > 0


def test_refused_registration_falls_to_copies_and_says_so(session, model_file):
    outcome = session("residency", model_file, "mapped", "", STUB_REFUSE_PLAIN=1)
    answer = outcome.answer
    assert set(answer["placed"].values()) == {"device"}
    facts = answer["facts"]
    assert facts["residency_route"] == "staged" and facts["residency_mapped_bytes"] == 0
    assert facts["residency_device_bytes"] == answer["transfers"]["h2d_bytes"] > 0
    assert any("that were to stay mapped are copied" in text for text in answer["notices"])


def test_copies_that_registration_would_have_saved_must_fit(session, model_file):
    size = model_file.stat().st_size
    answer = session(
        "residency", model_file, "mapped", "", STUB_REFUSE_PLAIN=1, STUB_MEMORY=size // 2
    ).answer
    assert answer["kind"] == "MemoryBudgetError"
    assert "the driver refused it (error 1)" in answer["error"]


def test_unregistered_reading_if_asked(session, model_file):
    outcome = session(
        "residency", model_file, "mapped", "", STUB_ATTR="88=1", DS4_CUDA_DIRECT_MODEL=1
    )
    assert set(outcome.answer["placed"].values()) == {"mapped"} and not registrations(outcome)
    assert outcome.answer["facts"]["residency_route"] == "pageable"


def test_upstreams_variables(session, model_file):
    outcome = session(
        "residency",
        model_file,
        "auto",
        "",
        DS4_CUDA_NO_HBM_CACHE=1,
        DS4_CUDA_WEIGHT_CACHE_VERBOSE=1,
    )
    assert set(outcome.answer["placed"].values()) == {"mapped"}
    assert any(text.startswith("mapped: file 0, ") for text in outcome.answer["notices"])
    limited = session("residency", model_file, "auto", "", DS4_CUDA_WEIGHT_CACHE_LIMIT_GB="0.0001")
    assert limited.answer["facts"]["residency"] == "hybrid"
    assert limited.answer["transfers"]["h2d_bytes"] <= 0.0001 * 2**30
