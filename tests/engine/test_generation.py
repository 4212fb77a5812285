"""The decode loop: what ends it, what steers it, what it refuses; and the four lines of README."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine import EngineOptions, Greedy, bundled_model, generate, open_engine
from engine.errors import EngineError
from engine.generation import Generation
from engine.spec.protocol import StepResult

STOP = 99

FOUR_LINES = """\
from engine import EngineOptions, bundled_model, generate, open_engine
with open_engine(EngineOptions(bundled_model().path)) as engine:
    for step in generate(engine.session(1024), engine.chat("What is 317 + 268?\\n\\nSolve the problem.")):
        print(engine.tokenizer.decode(step.tokens), end="", flush=True)
"""  # noqa: E501


class Script:
    """A decoder that emits given steps; it keeps what it was asked."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.asked = []

    def start(self):
        return self.steps[0][0]

    def step(self, first, budget):
        self.asked.append((first, budget))
        tokens = self.steps.pop(0)
        after = self.steps[0][0] if self.steps else 0
        return StepResult(list(tokens), after, drafted=len(tokens), accepted=len(tokens) - 1)


def walk(generation):
    return [list(step.tokens) for step in generation]


def test_steps_are_yielded_until_the_limit():
    decoder = Script((1,), (2, 3), (4,), (5,))
    generation = Generation(decoder, 4)

    assert walk(generation) == [[1], [2, 3], [4]]
    assert decoder.asked == [(1, 4), (2, 3), (4, 1)]
    assert not generation.ended_by_stop


def test_nothing_is_computed_before_it_is_asked_for():
    decoder = Script((1,), (2,), (3,))
    steps = iter(Generation(decoder, 3))

    assert decoder.asked == []
    next(steps)
    assert decoder.asked == [(1, 3)]


def test_a_chosen_stop_token_is_never_evaluated():
    decoder = Script((1,), (STOP,))
    generation = Generation(decoder, 10, {STOP})

    assert walk(generation) == [[1]]
    assert decoder.asked == [(1, 10)] and generation.ended_by_stop


def test_a_drafted_stop_token_cuts_its_step_and_keeps_its_counts():
    generation = Generation(Script((1,), (2, STOP, 3), (4,)), 10, {STOP})
    steps = list(generation)

    assert [s.tokens for s in steps] == [[1], [2]]
    assert (steps[1].next, steps[1].drafted, steps[1].accepted) == (STOP, 3, 2)
    assert generation.ended_by_stop


def test_a_limit_of_nothing_makes_no_step():
    decoder = Script((1,))
    assert walk(Generation(decoder, 0)) == [] and decoder.asked == []


def test_steering_forces_tokens_and_shortens_steps():
    decoder = Script((1,), (7,), (3,))
    asked = []

    def steer(made):
        asked.append(made)
        return (7 if made == 1 else None), (1 if made == 1 else 5)

    assert walk(Generation(decoder, 3, (), steer)) == [[1], [7], [3]]
    assert asked == [0, 1, 2]
    assert decoder.asked == [(1, 3), (7, 1), (3, 1)]


def test_a_forced_stop_token_ends_the_reply():
    decoder = Script((1,), (2,))
    generation = Generation(decoder, 5, {STOP}, lambda made: (STOP if made else None, 5))

    assert walk(generation) == [[1]] and generation.ended_by_stop


@pytest.mark.parametrize("tokens", [(), (1, 2, 3, 4)])
def test_a_step_that_emits_nothing_or_too_much_is_an_error(tokens):
    decoder = Script((1,))
    decoder.step = lambda first, budget: StepResult(list(tokens), 0)

    with pytest.raises(
        EngineError, match=f"expected 1 to 3 tokens from a step, found {len(tokens)}"
    ):
        walk(Generation(decoder, 3))


@pytest.fixture(scope="module")
def engine():
    options = EngineOptions(bundled_model().path, bundled_model("mtp").path, threads=1)
    with open_engine(options) as opened:
        yield opened


def test_a_reply_goes_on_behind_the_prompt_and_then_behind_itself(engine):
    prompt = engine.chat("Find the sum of 77 and 35.\n\nSolve the problem.")
    whole = engine.session(256)
    expected = [t for step in generate(whole, prompt, Greedy(), limit=20) for t in step.tokens]
    session = engine.session(256)
    first = [t for step in generate(session, prompt, limit=8) for t in step.tokens]
    rest = [t for step in generate(session, limit=12) for t in step.tokens]

    assert len(expected) == 20 and first + rest == expected
    assert session.tokens == prompt + expected == whole.tokens


def test_the_room_of_the_session_is_a_limit(engine):
    prompt = engine.chat("Find the sum of 77 and 35.\n\nSolve the problem.")
    session = engine.session(len(prompt) + 3)

    made = [t for step in generate(session, prompt, stop=(), limit=9) for t in step.tokens]
    assert len(made) == 3 and session.room == 0


def test_every_mode_yields_plain_s_tokens_and_counts_its_drafts(engine):
    prompt = engine.chat("Find the sum of 77 and 35.\n\nSolve the problem.")
    texts = {}
    for mode in engine.modes():
        generation = generate(engine.session(512), prompt, mode=mode, draft=2)
        texts[mode] = [t for step in generation for t in step.tokens]
        assert generation.ended_by_stop
        assert (generation.decoder.stats.drafted > 0) == (mode != "plain")

    assert len(set(map(tuple, texts.values()))) == 1
    assert engine.tokenizer.decode(texts["plain"]).endswith("Answer: 112")


def test_chat_refuses_a_think_mode_that_it_has_not(engine):
    with pytest.raises(EngineError, match="think: expected none or high, found 'max'"):
        engine.chat("Hello", think="max")


def test_four_lines_of_python_give_an_answer():
    run = subprocess.run(
        [sys.executable, "-c", FOUR_LINES], capture_output=True, text=True, check=True
    )
    assert len(FOUR_LINES.splitlines()) == 4
    assert run.stdout.endswith("Answer: 585"), run.stdout


def test_public_names_are_those_that_type_checkers_see():
    import engine as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    assert set(package.__all__) == set(package._HOME)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys, engine; print([m for m in sys.modules if m.startswith(('engine.', 'numpy'))])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
