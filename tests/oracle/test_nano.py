"""The shipped models against transformers and llama.cpp; larger sizes: `tests.oracle.nano`."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from tests.oracle.compare import distance, report
from tests.oracle.controls import FAULTS
from tests.oracle.opened import logits_of, opened

pytest.importorskip("transformers")  # collected by make test too, which has no torch
from tests.oracle import nano
from tests.oracle.hf import hf_logits, hf_model

pytestmark = pytest.mark.oracle
needs_llama = pytest.mark.skipif(
    importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed"
)

# The indexer of 64 rows refuses none before token 260: a near tie in the last 40 is unlikely.
SHORT, LONG = 300, 1500
# A margin of the indexer's scores that float32 noise can turn; the median is about 0.01.
NEAR_TIE = 1e-4
ITEMS, PROSE = 20, 4
INT8_KL = 2e-3  # nats a token; 2.3e-4 was measured


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors are small: a second thread of torch costs five times what it gives."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=nano.RECIPES)
def recipe(request):
    return request.param


@pytest.fixture(scope="module")
def model(recipe):
    return hf_model(nano.path_of(recipe))


@pytest.fixture(scope="module")
def expected(model):
    return {text: hf_logits(model, nano.text_ids(text, SHORT)) for text in nano.TEXTS}


def our_logits(recipe, ids):
    with opened(nano.path_of(recipe), "cpu", activations="f32", kv="f32") as engine:
        return logits_of(engine, ids)


@pytest.mark.parametrize("text", nano.TEXTS)
def test_logits_equal_transformers(recipe, expected, text):
    got = our_logits(recipe, nano.text_ids(text, SHORT))
    d = report(f"nano {recipe} {text}: HF(deq), ds4 f32", SHORT, distance(expected[text], got))
    assert d.max_abs < nano.CLOSE
    assert d.top1 == 1
    assert expected[text].std() > 1, "a flat oracle would prove nothing"


@needs_llama
@pytest.mark.peer
@pytest.mark.parametrize("text", nano.TEXTS)
def test_llama_cpp_equals_transformers(tmp_path, recipe, expected, text):
    from tests.oracle.llama import llama_logits

    copy = nano.float_copy(nano.path_of(recipe), tmp_path / "f32.gguf")
    got = llama_logits(copy, nano.text_ids(text, SHORT))
    d = report(
        f"nano {recipe} {text}: HF(deq), llama.cpp F32", SHORT, distance(expected[text], got)
    )
    assert d.max_abs < nano.CLOSE
    assert d.top1 == 1


@needs_llama
@pytest.mark.peer
def test_llama_cpp_reads_the_shipped_file(recipe, expected):
    """With the 8-bit activations of its products, so within their noise only."""
    from tests.oracle.llama import llama_logits

    got = llama_logits(nano.path_of(recipe), nano.text_ids("exams", SHORT))
    d = report(f"nano {recipe} exams: HF(deq), llama.cpp", SHORT, distance(expected["exams"], got))
    assert d.kl < INT8_KL


@pytest.mark.parametrize("text", nano.TEXTS)
def test_float_copy_is_the_same_model(tmp_path, recipe, text):
    copy = nano.float_copy(nano.path_of(recipe), tmp_path / "f32.gguf")
    ids = nano.text_ids(text, SHORT)
    with opened(copy, "cpu", activations="f32", kv="f32") as engine:
        np.testing.assert_allclose(logits_of(engine, ids), our_logits(recipe, ids), atol=nano.CLOSE)


def test_long_text_differs_by_near_ties_alone():
    """Every outlier vanishes once HF's indexer decides its near ties as ours did."""
    model, ids = hf_model(nano.path_of("q8")), nano.text_ids("exams", LONG)
    got = our_logits("q8", ids)
    found = nano.without_ties(model, ids, got)
    report("nano q8 exams: HF(deq), ds4 f32", LONG, distance(found.plain, got))
    d = report("  the same, near ties settled", LONG, distance(found.settled, got))
    assert all(t.margin < NEAR_TIE < t.median for t in found.ties), found.ties
    assert d.max_abs < nano.CLOSE
    assert d.top1 == 1


def test_a_wrong_top_k_is_not_taken_for_near_ties():
    """The control of the test above: one row less per token."""
    ids, model = nano.text_ids("exams", LONG // 2), hf_model(nano.path_of("q8"))
    margin = nano.margins(model, ids)["indexer 2"]
    assert np.isinf(margin[: 4 * 65 - 1]).all()
    assert np.isfinite(margin[4 * 65 - 1 :]).all()
    with opened(nano.path_of("q8"), "cpu", activations="f32", kv="f32") as engine:
        FAULTS["topk_minus_1"](engine)
        wrong = logits_of(engine, ids)
    found = nano.without_ties(model, ids, wrong)
    assert any(t.margin > NEAR_TIE for t in found.ties), found.ties
    assert distance(found.settled, wrong).max_abs >= nano.CLOSE


def test_greedy_replies_are_the_same(tmp_path, recipe):
    got = nano.replies(recipe, tmp_path, ITEMS, PROSE)
    assert got.right("HF") > ITEMS / 2, "wrong answers could be alike for other reasons"
    for name in got.by_engine:
        equal = got.agreement("HF", name)
        assert equal == {"answers": (ITEMS,) * 2, "replies": (ITEMS,) * 2, "prose": (PROSE,) * 2}


def test_a_wrong_guess_does_not_change_a_reply(model):
    (prompt, _) = nano.prompts(1, 1)
    right = nano.hf_reply(model, prompt, [])
    assert right
    assert nano.hf_reply(model, prompt, [*right[:9], 7, 7]) == right
    assert nano.hf_reply(model, prompt, [*right, 7]) == right
