"""Recorded machines and what the doctor says of them; their versions are from public reports."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from ds4bench.commands.doctor import MACHINES, load_facts
from ds4bench.doctor import known
from ds4bench.doctor.facts import Board, Device, Facts, Memory, Processor, Warming
from ds4bench.doctor.judge import Verdict, judge, worst
from engine.errors import EngineError

DATA = Path(__file__).parents[1] / "data" / "doctor"


def verdicts(name, **options):
    return {f.name: str(f.verdict) for f in judge(load_facts(DATA / f"{name}.json"), **options)}


def bad(name):
    return {n: v for n, v in verdicts(name).items() if v not in ("good", "not known")}


def test_gb10_before_the_firmware_that_doubled_it_is_unfit_and_told_what_to_do():
    assert bad("gb10-before-ota2604") == {"bios": "unfit", "vbios": "unfit", "ec": "unfit"}
    [bios, *_] = [
        f for f in judge(load_facts(DATA / "gb10-before-ota2604.json")) if f.name == "bios"
    ]
    assert bios.found == "GX10DGX.0104.2026.0326.1657 (03/26/2026)"
    assert "0105" in bios.expected and "fwupdmgr update" in bios.advice
    assert "10.5" in bios.advice and "18.2" in bios.advice
    assert bios.source == "github.com/Entrpi/ds4-on-spark/issues/16"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gb10-after-ota2604", {}),
        ("gb10-stuck-low", {"GPU clock": "unfit"}),
        ("h200-cloud", {"machine": "suspect"}),
        (
            "h200-capped-and-shared",
            {
                "machine": "suspect",
                "processor quota": "unfit",
                "power limit": "suspect",
                "throttling": "unfit",
                "GPU clock": "suspect",
                "GPU sharing": "unfit",
                "GPU bandwidth": "unfit",
            },
        ),
        ("m3-ultra", {}),
        (
            "laptop-on-battery",
            {
                "power source": "unfit",
                "governor": "suspect",
                "processor clock": "unfit",
                "memory bandwidth": "unfit",
                "speed under load": "unfit",
                "temperature": "suspect",
                "other work": "suspect",
                "swap": "suspect",
                "huge pages": "suspect",
                "file system": "unfit",
                "memory for weights": "unfit",
                "page cache": "suspect",
            },
        ),
        ("workstation", {}),
    ],
)
def test_recorded_machines(name, expected):
    assert bad(name) == expected


def test_every_bad_line_says_what_was_expected_and_what_to_do():
    for path in sorted(DATA.glob("*.json")):
        for finding in judge(load_facts(path)):
            if finding.verdict in (Verdict.SUSPECT, Verdict.UNFIT):
                assert finding.expected and finding.advice, (path.name, finding)


@pytest.mark.parametrize(
    ("capsules", "expected"),
    [
        (("0x02000005", "0x03000006"), {"ec update": "unfit", "SoC update": "unfit"}),
        (("0x02000006", "0x03000008"), {"ec update": "good", "SoC update": "good"}),
        (("0x11112222",), {}),
    ],
)
def test_capsules_of_gb10_are_told_by_their_numbers(capsules, expected):
    facts = Facts(
        board=Board(bios="5.36_0ACUM018", capsules=capsules), device=Device("NVIDIA GB10")
    )
    found = {f.name: str(f.verdict) for f in judge(facts)}
    assert {name: found[name] for name in found if name.endswith("update")} == expected


def test_firmware_of_a_vendor_without_a_baseline_is_no_verdict():
    found = verdicts("gb10-stuck-low")
    assert found["bios"] == "not known" and found["vbios"] == "good"


def test_a_fixed_power_limit_is_good_and_said():
    [limit] = [f for f in judge(load_facts(DATA / "workstation.json")) if f.name == "power limit"]
    assert limit.found == "450 W of 600 W" and "hold for this limit" in limit.advice


def test_a_machine_may_be_named_where_its_parts_do_not_tell_it():
    facts = Facts(device=Device(name="NVIDIA graphics", loaded_sm_mhz=1500.0))
    clock = {n: {f.name: f.verdict for f in judge(facts, n)}["GPU clock"] for n in MACHINES[:2]}
    assert clock == {"gb10": Verdict.SUSPECT, "h100": Verdict.GOOD}


def test_names_of_known_machines_are_those_of_the_option():
    assert tuple(p.memory.name for p in known.PROFILES if p.memory.name in MACHINES) != ()
    assert {p.memory.name for p in known.PROFILES} == set(MACHINES)
    titles = {
        "Apple M1 Max": "m1-max", "Apple M4 Max": "m4-max", "NVIDIA H100 80GB HBM3": "h100",
        "AMD RYZEN AI MAX+ 395 w/ Radeon 8060S": "ai-max-395", "NVIDIA GB10": "gb10",
    }  # fmt: skip
    for title, name in titles.items():
        profile = known.profile_of(Facts(processor=Processor(name=title)))
        assert profile is not None and profile.memory.name == name
    assert known.profile_of(Facts(processor=Processor(name="Apple M4"))) is None


def test_what_nobody_can_say_counts_for_nothing():
    assert judge(Facts()) and worst(judge(Facts())) is Verdict.UNKNOWN
    assert worst([]) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("spread", "verdict"), [(1.0, "good"), (0.86, "good"), (0.8, "suspect"), (0.6, "unfit")]
)
def test_bandwidth_is_judged_by_its_spread(spread, verdict):
    facts = Facts(memory=Memory(threads=2, rates=(2e10, 2e10 * spread, 2e10 * spread)))
    assert {f.name: str(f.verdict) for f in judge(facts)}["memory bandwidth"] == verdict


def test_a_processor_quota_below_its_cores_is_unfit():
    for quota, verdict in ((1.5, "unfit"), (2.0, "good"), (None, "good")):
        facts = Facts(processor=Processor(name="x", usable_cores=2, quota_cores=quota))
        found = {f.name: f for f in judge(facts)}["processor quota"]
        assert str(found.verdict) == verdict
        assert ("-t 1" in found.advice) == (verdict == "unfit")


def test_facts_survive_json_whole():
    def filled(kind):
        values = {}
        for field in fields(kind):
            name = str(field.type)
            inner = {"Board": None, "Processor": None, "Device": None, "Memory": None,
                     "Load": None, "ModelFile": None, "Warming": None}  # fmt: skip
            word = name.split(" |")[0]
            if field.name == "huge_pages":
                values[field.name] = "madvise"
            elif word == "tuple[str, ...]":
                values[field.name] = ("0x1", "0x2")
            elif word in inner:
                values[field.name] = filled(getattr(__import__("ds4bench.doctor.facts",
                                            fromlist=[word]), word))  # fmt: skip
            else:
                values[field.name] = {"str": "x", "int": 3, "float": 2.5, "bool": True}.get(
                    word, (1.0, 2.0)
                )
        return kind(**values)

    whole = filled(Facts)
    assert all(is_dataclass(v) or v for v in (getattr(whole, f.name) for f in fields(whole)))
    text = json.dumps(whole.to_record(), allow_nan=False)
    assert Facts.from_record(json.loads(text), "here") == whole
    assert Facts.from_record({}, "here") == Facts()
    cooled = replace(whole, warming=Warming(1.0))
    assert Facts.from_record(cooled.to_record(), "here") == cooled


@pytest.mark.parametrize("record", [{"nonsense": 1}, {"board": {"colour": "red"}}, {"board": 3}])
def test_other_facts_are_refused(record):
    with pytest.raises(EngineError, match=r"here: .*facts of a machine"):
        Facts.from_record(record, "here")


@pytest.mark.parametrize(("system", "named"), [("Linux 6.11", True), ("Darwin 24.1", False)])
def test_advice_names_files_of_the_system_at_hand(system, named):
    [firmware] = [f for f in judge(Facts(system=system)) if f.name == "firmware"]
    assert ("/sys/class/dmi/id" in firmware.advice) is named
    assert "keep the figures apart" in firmware.advice
