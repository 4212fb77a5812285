"""The thinking budget: rules, their order, and what is recorded of the first close."""

from __future__ import annotations

import numpy as np
import pytest

from ds4eval.answering.thinking import Close, ThinkBudget, rank_in_top

TAG = 7


def never(token: int, most: int) -> int:
    return 0


def budget(**changes: object) -> ThinkBudget:
    values: dict = dict(limit=100, soft=30, hard=10, rank=3, close=[TAG]) | changes
    return ThinkBudget(**values)


def drive(machine: ThinkBudget, rank_of=never, natural: int = -1) -> list[int]:
    """Run to the limit; the model says 1, or the tag at step `natural`."""
    made: list[int] = []
    thinking = True
    while len(made) < machine.limit:
        token = machine.force(len(made), thinking, rank_of)
        if token is None:
            token = TAG if len(made) == natural else 1
        made.append(token)
        if thinking and token == machine.close[-1]:
            thinking = False
            machine.closed_by_model(len(made))
    return made


def test_hard_limit_closes_with_exactly_the_reserve_left():
    machine = budget()
    made = drive(machine)
    assert made.index(TAG) == 90
    assert machine.closed == Close("hard_forced", 91, 10, 0)
    assert made.count(TAG) == 1


def test_soft_limit_takes_the_tag_only_when_it_is_likely():
    seen: list[int] = []

    def third_at_the_fifth(token: int, most: int) -> int:
        assert (token, most) == (TAG, 3)
        seen.append(1)
        return 3 if len(seen) == 5 else 0

    machine = budget()
    made = drive(machine, third_at_the_fifth)
    assert made.index(TAG) == 74, "soft applies from 30 left: the fifth look is at token 75"
    assert machine.closed == Close("soft_forced", 75, 26, 3)


def test_natural_close_is_recorded_and_nothing_is_forced_afterwards():
    machine = budget()
    made = drive(machine, natural=20)
    assert machine.closed == Close("natural", 21, 80, 0)
    assert made.count(TAG) == 1


def test_hard_wins_over_soft_when_both_apply():
    machine = budget(soft=10)
    drive(machine, lambda token, most: 1)
    assert machine.closed is not None and machine.closed.kind == "hard_forced"


def test_inactive_budget_never_forces_even_inside_thinking():
    machine = budget(active=False)
    assert drive(machine) == [1] * 100
    assert machine.closed is None
    assert machine.answer_from == 100


def test_tag_of_several_tokens_is_emitted_whole_and_has_no_soft_rule():
    machine = budget(close=[5, 6, TAG])
    made = drive(machine, lambda token, most: pytest.fail("the soft rule must be off"))
    assert made[90:93] == [5, 6, TAG]
    assert machine.closed == Close("hard_forced", 91, 10, 0)


def test_cue_follows_a_forced_tag_and_not_a_natural_one():
    made = drive(budget(cue=[21, 22]))
    assert made[90:94] == [TAG, 21, 22, 1]
    made = drive(budget(cue=[21, 22]), natural=3)
    assert 21 not in made


@pytest.mark.parametrize(
    ("generated", "thinking", "free"),
    [
        pytest.param(0, True, 70, id="up to the soft limit"),
        pytest.param(69, True, 1, id="one before it"),
        pytest.param(70, True, 1, id="watched one by one"),
        pytest.param(99, True, 1, id="the last"),
        pytest.param(40, False, 60, id="the answer is never watched"),
    ],
)
def test_free_tokens_never_pass_a_place_where_a_token_could_be_forced(generated, thinking, free):
    assert budget().free(generated, thinking) == free


def test_while_a_tag_is_in_progress_tokens_are_asked_for_one_by_one():
    machine = budget(close=[5, TAG])
    assert machine.force(90, True, never) == 5
    assert machine.free(91, True) == 1


def test_rank_counts_ties_by_lower_id_and_ignores_what_is_beyond():
    logits = np.array([3.0, 5.0, 5.0, 1.0, -np.inf, np.nan], np.float32)
    assert [rank_in_top(logits, t, 6) for t in range(6)] == [3, 1, 2, 4, 0, 0]
    assert rank_in_top(logits, 0, 2) == 0
    random = np.random.default_rng(0).integers(0, 5, 200).astype(np.float32)
    order = np.lexsort((np.arange(200), -random)).tolist()
    assert all(rank_in_top(random, t, 200) == order.index(t) + 1 for t in range(200))
