"""Writes a run's scores in forms that other people's systems read: never a question or a reply.

JUnit: a test case for each answer, for the pages of CI systems.
`.eval_results`: YAML that the Hugging Face hub shows on a model's page, of whole published sets.
Every Eval Ever: one JSON document of the EvalEval Coalition's schema (version 0.3).
"""

from __future__ import annotations

import json
import time
import uuid
import xml.etree.ElementTree as ET
from importlib.metadata import PackageNotFoundError, version

from ds4eval.compare.pairs import AnsweredRun, budget_tokens
from ds4eval.documents import Document, section
from ds4eval.questions.known import PUBLISHED, Published
from ds4eval.records.record import Sample
from ds4eval.report.scores import RunScores, Score, scores_of
from ds4eval.stats.times import iso
from engine.errors import OptionError
from engine.tooling.exits import printable

EEE_VERSION = "0.3.0"
# Names of the tasks that a data set's leaderboard on the hub knows; others have the one.
_TASKS = {"gpqa-diamond": "gpqa_diamond"}
_NAMESPACE = uuid.UUID("6f1c6f0e-6c5e-5a70-9d0f-6a3cf6a2f5d4")


def program_version() -> str:
    """Version of this program; 'unknown' where it runs without being installed."""
    try:
        return version("ds4bench")
    except PackageNotFoundError:
        return "unknown"


def junit(arm: AnsweredRun, text: bool) -> bytes:
    """A JUnit document: a suite for each source, a case for each answer asked for.

    Parameters
    ----------
    text : bool
        Say which answer was given and which is right.
    """
    found = {(s.source, s.id, s.repeat): s for s in arm.run.samples}
    asked = [(row["source"], row["id"], row["repeat"]) for row in arm.run.selected]
    suites: dict[str, list[tuple[str, str, int]]] = {}
    for place in dict.fromkeys([*asked, *found]):
        suites.setdefault(place[0], []).append(place)
    root = ET.Element("testsuites", name=_xml(arm.label))
    for source, places in suites.items():
        suite = ET.SubElement(root, "testsuite", name=_xml(source), tests=str(len(places)))
        counts = {"failures": 0, "errors": 0, "skipped": 0}
        seconds = 0.0
        for place in places:
            sample = found.get(place)
            kind, spent = _case(suite, place, sample, text)
            seconds += spent
            if kind:
                counts[kind] += 1
        suite.attrib.update({name: str(n) for name, n in counts.items()}, time=f"{seconds:.3f}")
    ET.indent(root)
    body: bytes = ET.tostring(root, "utf-8")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + body + b"\n"


def _case(
    suite: ET.Element, place: tuple[str, str, int], sample: Sample | None, text: bool
) -> tuple[str, float]:
    """Add a case; which count it belongs to ('' for a right answer), and its seconds."""
    source, name, repeat = place
    again = f" #{repeat + 1}" if repeat else ""
    case = ET.SubElement(suite, "testcase", classname=_xml(source), name=_xml(name + again))
    if sample is None:
        ET.SubElement(case, "skipped", message="not asked yet")
        return "skipped", 0.0
    seconds = (sample.prefill_s or 0.0) + (sample.decode_s or 0.0)
    case.set("time", f"{seconds:.3f}")
    if sample.passed:
        return "", seconds
    message = sample.state.lower().replace("_", " ")
    if text and sample.graded:
        message += f": expected {sample.expected}, found {sample.given or 'none'}"
    if sample.error:
        message += f": {sample.error}"
    kind = {"SKIPPED": "skipped", "ERROR": "error", "STOPPED": "skipped"}.get(
        sample.state, "failure"
    )
    ET.SubElement(case, kind, message=_xml(message))
    return {"skipped": "skipped", "error": "errors", "failure": "failures"}[kind], seconds


def _xml(text: str) -> str:
    """Text that XML 1.0 can hold."""
    return "".join(c for c in printable(text) if c in "\n\t" or (ord(c) >= 32 and c != "\ufffe"))


def hub_results(arm: AnsweredRun) -> bytes:
    """`.eval_results` YAML of every published data set that the run asked as a whole.

    Raises
    ------
    OptionError
        If there is none: a part of a benchmark has no place on its leaderboard.
    """
    entries = []
    run = scores_of(arm)
    for score in run.groups:
        known = _published(score.name)
        if known is not None and score.n == known.rows and not arm.unfinished:
            entries.append(_hub_entry(known, score, run))
    if not entries:
        raise OptionError(
            "--format eval-results: expected a finished run over a whole published data set "
            f"({', '.join(PUBLISHED)}), found none"
        )
    return "".join(entries).encode()


def _published(label: str) -> Published | None:
    return next((known for known in PUBLISHED.values() if known.label == label), None)


def _hub_entry(known: Published, score: Score, run: RunScores) -> str:
    created = iso(str(run.arm.run.manifest.get("created") or run.arm.run.run_id[:16]))
    revision = f"\n    revision: {_yaml(known.revision)}" if len(known.revision) == 40 else ""
    return (
        f"- dataset:\n    id: {_yaml(known.repo)}\n"
        f"    task_id: {_yaml(_TASKS.get(known.name, 'default'))}{revision}\n"
        f"  value: {100 * score.interval.estimate:.2f}\n"
        f"  date: {_yaml(created)}\n"
        f"  notes: {_yaml(_notes(score, run))}\n"
    )


def _yaml(text: str) -> str:
    """A string as YAML writes it, which is as JSON does."""
    return json.dumps(text, ensure_ascii=True)


def _notes(score: Score, run: RunScores) -> str:
    """The conditions without which the score compares with no other."""
    sampling = section(run.arm.run.config, "sampling")
    repeats = run.arm.repeats
    parts = [
        f"ds4-eval {program_version()}, prompt version {run.arm.run.config.get('prompt_version')}",
        f"{run.grader} grade in per cent",
        f"{score.n} questions" + (f", {repeats} replies each" if repeats > 1 else ""),
        f"95 % interval {100 * score.interval.low:.1f} to {100 * score.interval.high:.1f}",
        f"temperature {sampling.get('temp', 'unknown')}",
        f"thinking {run.arm.run.config.get('think', 'unknown')}",
        f"budget {budget_tokens(run.arm)} tokens, {score.cut} replies cut",
    ]
    return "; ".join(parts)


def every_eval_ever(arm: AnsweredRun, now: float | None = None) -> Document:
    """A run as a document of the schema of Every Eval Ever.

    Parameters
    ----------
    now : float, optional
        Seconds since 1970 at which the document is made.
    """
    run = scores_of(arm)
    model = section(arm.run.config, "model")
    remote = model.get("backend") == "remote"
    name = str(model.get("name") or "unknown")
    made = str(int(time.time() if now is None else now))
    engine = {"name": "ds4", "version": program_version()}
    suite = str(section(arm.run.config, "data").get("suite") or "unknown")
    return {
        "schema_version": EEE_VERSION,
        "evaluation_id": f"ds4-eval/{suite}/{name}/{arm.run.run_id}",
        "evaluation_timestamp": iso(str(arm.run.manifest.get("created") or arm.run.run_id[:16])),
        "retrieved_timestamp": made,
        "source_metadata": {
            "source_name": "ds4-eval",
            "source_type": "evaluation_run",
            "source_organization_name": "unknown",
            "evaluator_relationship": "third_party",
        },
        "eval_library": {"name": "ds4-eval", "version": program_version()},
        "model_info": {
            "name": name,
            "id": name if "/" in name else f"unknown/{name}",
            **(
                {"inference_platform": str(model.get("server") or "unknown")}
                if remote
                else {"inference_engine": engine}
            ),
            "additional_details": {
                "deployment_type": "unknown" if remote else "self_deployed",
                "model_availability": "unknown" if remote else "open_weights",
                **{key: str(value) for key, value in model.items() if key != "name"},
            },
        },
        "evaluation_results": [_eee_result(score, run, suite) for score in run.groups],
    }


def _eee_result(score: Score, run: RunScores, suite: str) -> Document:
    known = _published(score.name)
    ids = [q.id for q in run.arm.questions if q.group("source") == score.name]
    source: Document = {"dataset_name": score.name, "source_type": "other"}
    if known is not None:
        source = {
            "dataset_name": score.name,
            "source_type": "hf_dataset",
            "hf_repo": known.repo,
            "samples_number": score.n,
            "sample_ids": ids,
        }
    repeats = run.arm.repeats
    return {
        "evaluation_result_id": str(
            uuid.uuid5(_NAMESPACE, f"{run.arm.run.run_id}/{score.name}/{run.grader}")
        ),
        "evaluation_name": score.name,
        "source_data": source,
        "metric_config": {
            "evaluation_description": f"share of right answers of suite {suite}, {run.grader} "
            "grade; replies cut by their budget count as wrong",
            "metric_id": "accuracy" if repeats == 1 else f"avg@{repeats}",
            "metric_kind": "accuracy",
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0,
        },
        "score_details": {
            "score": score.interval.estimate,
            "details": {
                "right": str(score.passed),
                "answers": str(score.answers),
                "cut": str(score.cut),
                "guessing": f"{score.chance:.6f}",
                **{f"grader_{name}": f"{share:.6f}" for name, share in score.graders.items()},
            },
            "uncertainty": {
                "confidence_interval": {
                    "lower": score.interval.low,
                    "upper": score.interval.high,
                    "confidence_level": 0.95,
                    "method": "Wilson, clustered by question",
                },
                "num_samples": score.n,
            },
        },
        "generation_config": _eee_generation(run.arm),
    }


def _eee_generation(arm: AnsweredRun) -> Document:
    config = arm.run.config
    sampling, tokens = section(config, "sampling"), budget_tokens(arm)
    known: dict[str, object] = {
        "temperature": sampling.get("temp"),
        "top_p": sampling.get("top_p"),
        "top_k": sampling.get("top_k") or None,
        "max_tokens": tokens if isinstance(tokens, int) else None,
    }
    arguments = {name: value for name, value in known.items() if value is not None}
    think = config.get("think")
    if isinstance(think, str):
        arguments["reasoning"] = think != "none"
    return {
        "generation_args": arguments,
        "additional_details": {"prompt_version": str(config.get("prompt_version", "unknown"))},
    }
