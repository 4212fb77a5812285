"""Writes a run as the logs of other harnesses; question and reply text only where asked for.

inspect_ai: one JSON document of its `EvalLog` (version 2, inspect_ai 0.3).
lm-evaluation-harness: `samples_TASK.jsonl`, one object per document (version 0.4).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

from ds4eval.documents import Document, section
from ds4eval.questions.prompts import system_text, user_text
from ds4eval.questions.question import QuestionError
from ds4eval.records.record import Sample
from ds4eval.records.replay import Run
from ds4eval.records.samples import question_of
from ds4eval.stats.times import iso
from engine.errors import StoreError

HIDDEN = "[not exported]"
_SCORES = {"strict": "", "lenient": "lenient_", "ds4-classic": "classic_"}


def inspect_log(run: Run, text: bool) -> Document:
    """A run as inspect_ai's `EvalLog`.

    Parameters
    ----------
    text : bool
        Whether questions, keys and replies are included.
    """
    created = iso(str(run.manifest.get("created") or run.run_id[:16]))
    final = [sample for sample in run.samples if sample.final]
    ended = max((s.started for s in run.samples if s.started), default=created)
    repeats = max((s.repeat for s in run.samples), default=0) + 1
    suite = section(run.config, "data").get("suite", "")
    model = section(run.config, "model").get("name") or "model"
    open_ = len(run.selected) - len({s.key for s in final})
    return {
        "version": 2,
        "status": "success" if not open_ else "cancelled",
        "eval": {
            "eval_id": run.run_id,
            "run_id": run.run_id,
            "created": created,
            "task": f"ds4-eval/{suite}",
            "task_id": run.run_id,
            "task_version": 0,
            "task_args": {},
            "dataset": {
                "name": suite,
                "samples": len({(s.source, s.id) for s in run.samples}),
                "sample_ids": [sample_id(s) for s in run.samples if s.repeat == 0],
                "shuffled": False,
            },
            "model": f"ds4/{model}",
            "model_args": {},
            "config": {"epochs": repeats},
            "packages": section(run.manifest, "environment").get("packages", {}),
            "metadata": {"config": run.config},
        },
        "plan": {
            "name": "ds4-eval",
            "steps": [{"solver": "generate", "params": {}}],
            "config": _generation(run.config),
        },
        "results": {
            "total_samples": len(run.selected),
            "completed_samples": len(final),
            "scores": [_inspect_score(name, final) for name in _SCORES],
        },
        "stats": {"started_at": created, "completed_at": iso(ended), "model_usage": _usage(run)},
        "samples": [_inspect_sample(s, run, text) for s in run.samples],
    }


def sample_id(sample: Sample) -> str:
    return f"{sample.source}/{sample.id}"


def _generation(config: Document) -> Document:
    sampling = section(config, "sampling")
    found = {
        "max_tokens": section(config, "budget").get("tokens"),
        "temperature": sampling.get("temp"),
        "top_p": sampling.get("top_p"),
        "top_k": sampling.get("top_k") or None,
        "seed": sampling.get("seed"),
    }
    return {name: value for name, value in found.items() if value is not None}


def _usage(run: Run) -> Document:
    made = sum(s.gen_tokens or 0 for s in run.samples)
    read = sum(s.prompt_tokens or 0 for s in run.samples)
    return {
        "ds4": {"input_tokens": read, "output_tokens": made, "total_tokens": read + made},
    }


def _verdict(sample: Sample, prefix: str) -> str:
    """inspect_ai's letters: correct, incorrect, no answer."""
    verdict = getattr(sample, f"{prefix}verdict")
    return {"pass": "C", "fail": "I"}.get(verdict, "N")


def _inspect_score(name: str, final: list[Sample]) -> Document:
    passed = sum(getattr(s, f"{_SCORES[name]}verdict") == "pass" for s in final)
    return {
        "name": name,
        "scorer": name,
        "params": {},
        "metrics": {
            "accuracy": {
                "name": "accuracy", "value": passed / len(final) if final else 0, "params": {},
            },
        },
    }  # fmt: skip


def _inspect_sample(sample: Sample, run: Run, text: bool) -> Document:
    system, user = _prompts(sample) if text else ("", HIDDEN)
    output = sample.output if text else HIDDEN
    thinking, answer = _split(sample) if text else ("", HIDDEN)
    content: object = answer
    if thinking:
        content = [
            {"type": "reasoning", "reasoning": thinking}, {"type": "text", "text": answer},
        ]  # fmt: skip
    reason = {"eos": "stop", "limit": "max_tokens"}.get(sample.stop, "unknown")
    assistant = {"role": "assistant", "content": content, "source": "generate"}
    record: Document = {
        "id": sample_id(sample),
        "epoch": sample.repeat + 1,
        "input": user,
        "target": sample.expected if text else HIDDEN,
        "messages": [*([{"role": "system", "content": system}] if system else []),
                     {"role": "user", "content": user}, assistant],
        "output": {
            "model": section(run.config, "model").get("name") or "model",
            "choices": [{"message": assistant, "stop_reason": reason}],
            "completion": answer if text else output,
        },
        "scores": {},
        "metadata": {
            "source": sample.source, "state": sample.state, "close": sample.close,
            "stream": str(sample.stream), "question_sha256": sample.question_sha256,
            "strata": sample.strata,
        },
        "total_time": (sample.prefill_s or 0) + (sample.decode_s or 0),
    }  # fmt: skip
    if text and sample.kind == "letter":
        record["choices"] = list(sample.question.get("choices", []))
    if sample.graded:
        record["scores"] = {
            name: {
                "value": _verdict(sample, prefix),
                "answer": getattr(sample, f"{prefix}given") if text else None,
                "explanation": getattr(sample, f"{prefix}rule"),
            }
            for name, prefix in _SCORES.items()
        }
    if sample.stop == "error":
        record["error"] = {
            "message": sample.error, "traceback": sample.error, "traceback_ansi": sample.error,
        }  # fmt: skip
    return record


def _prompts(sample: Sample) -> tuple[str, str]:
    try:
        question = question_of(sample)
    except QuestionError as error:
        raise StoreError(f"{sample.key}: expected a question, found one whose {error}") from None
    return system_text(question), user_text(question)


def _split(sample: Sample) -> tuple[str, str]:
    """Thinking and answer of a reply."""
    if not sample.question.get("opened"):
        return "", sample.output
    thinking, tag, answer = sample.output.partition("</think>")
    return thinking, answer.lstrip("\n") if tag else ""


def lm_eval_tasks(run: Run, text: bool) -> dict[str, list[Document]]:
    """Records of lm-evaluation-harness sample files, by task (a source each).

    Parameters
    ----------
    text : bool
        Whether questions, keys and replies are included.
    """
    tasks: dict[str, list[Document]] = {}
    places: dict[str, dict[str, int]] = {}
    for sample in (s for s in run.samples if s.graded):
        task = re.sub(r"[^a-z0-9]+", "_", sample.source.lower()).strip("_")
        ids = places.setdefault(task, {})
        doc_id = ids.setdefault(sample.id, len(ids))
        tasks.setdefault(task, []).append(_lm_eval(sample, doc_id, run.config, text))
    return tasks


def _lm_eval(sample: Sample, doc_id: int, config: Document, text: bool) -> Document:
    doc: Document = {"id": sample.id, "source": sample.source, **sample.strata}
    prompt, target, reply = HIDDEN, HIDDEN, HIDDEN
    if text:
        question = sample.question
        doc |= {"question": question.get("text", ""), "choices": question.get("choices", [])}
        prompt, target, reply = _prompts(sample)[1], sample.expected, sample.output
    settings = {"until": [], **_generation(config)}
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": settings}},
        "resps": [[reply]],
        "filtered_resps": [sample.given if text else HIDDEN],
        "filter": "strict-match",
        "metrics": ["exact_match", "flexible_match", "classic_match"],
        "doc_hash": sample.question_sha256,
        "prompt_hash": sample.prompt_sha256,
        "target_hash": hashlib.sha256(sample.expected.encode()).hexdigest() if text else "",
        "exact_match": float(sample.verdict == "pass"),
        "flexible_match": float(sample.lenient_verdict == "pass"),
        "classic_match": float(sample.classic_verdict == "pass"),
        "repeat": sample.repeat,
        "state": sample.state,
    }


def jsonl(records: Iterable[Document]) -> bytes:
    """One object per line, strict JSON, UTF-8."""
    lines = [json.dumps(r, allow_nan=False) for r in records]
    return "".join(line + "\n" for line in lines).encode("utf-8", "replace")
