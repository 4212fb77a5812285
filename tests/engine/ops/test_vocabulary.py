"""Every kernel set has the same ops with the same signatures, and the reference documents each."""

import inspect
import re

import pytest

from engine import ops
from engine.ops import cpu, reference

# One line of the vocabulary: a name and its arguments, indented by four. What follows the ops, on
# memory and passes, is documented where it is defined (`engine.ops.host`, the CUDA set).
_OPS = ops.__doc__.split("Memory and passes")[0]
VOCABULARY = dict(re.findall(r"^    (\w+)\(([^)]*)\)", _OPS, re.MULTILINE))
CALLABLE = [name for name in reference.__all__ if callable(getattr(reference, name))]


@pytest.mark.parametrize("op", CALLABLE)
def test_signatures_match(op):
    actual = inspect.signature(getattr(cpu, op)).parameters
    expected = inspect.signature(getattr(reference, op)).parameters

    assert [(p.name, p.kind) for p in actual.values()] == [
        (p.name, p.kind) for p in expected.values()
    ]
    if op in VOCABULARY:
        assert list(actual) == VOCABULARY[op].split(", ")


def test_sets_have_the_same_names():
    assert len(VOCABULARY) >= 24
    assert set(VOCABULARY) <= set(reference.__all__)
    # The type of a prepared weight is the set's own.
    assert set(cpu.__all__) - {"Weight"} == set(reference.__all__)


@pytest.mark.parametrize("op", sorted(VOCABULARY))
def test_reference_documents_every_argument(op):
    text = inspect.getdoc(getattr(reference, op))
    if "Parameters" in text:
        named = [line.split(" : ")[0] for line in text.splitlines() if " : " in line]
        words = {word for names in named for word in names.split(", ")}
    else:
        # One-line ops name their arguments in the sentence.
        words = set(re.findall(r"\w+", text))

    assert set(inspect.signature(getattr(reference, op)).parameters) <= words
