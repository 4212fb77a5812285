"""The screen: state from events and keys, lines of a fitting width, and the app itself driven."""

from __future__ import annotations

import asyncio

import pytest
from rich.cells import cell_len

from ds4eval.control import Control
from ds4eval.events import (
    Dropped,
    Ended,
    Finished,
    Notice,
    Opened,
    Prefill,
    Started,
    Text,
)
from ds4eval.records.store import RunStore
from ds4eval.run.runner import Recorder, run_serial
from ds4eval.screen.app import EvalApp
from ds4eval.screen.draw import count, layout, left_lines, reply_lines, right_lines, wrapped
from ds4eval.screen.state import STREAM_CHARS, View, pieces_of
from tests.ds4eval.fakes import CONFIG, SETTINGS, FakeBackend, jobs
from tests.ds4eval.test_records import sample


def opened(n: int = 5) -> View:
    view = View()
    view.take(Opened(jobs(n), {}, 100, 99))
    return view


def text(n: int, what: str, thinking: bool = True, generated: int = 1) -> Text:
    return Text(n, what, thinking, 1, generated, 99, 90, 0.1)


def lines(made) -> list[str]:
    return [line.plain for line in made]


def test_a_question_moves_through_its_states():
    view = opened()
    view.take(Started(2))
    assert view.states[1] == "PREFILL" and view.shown == 2
    view.take(Prefill(2, 50, 100, 0.5))
    assert view.live[2].speed == 100
    view.take(text(2, "hm"))
    view.take(text(2, "</think>"))
    view.take(text(2, "Answer: 2", thinking=False))
    assert view.states[1] == "RUNNING" and view.live[2].phase == "ANS"
    assert view.live[2].speed == pytest.approx(10)
    assert pieces_of(view) == [(True, "hm\n"), (False, "Answer: 2")]
    view.take(Finished(2, sample()))
    assert (view.passed, view.failed, view.left) == (1, 0, 4)
    view.take(Started(3))
    view.take(Dropped(3, "switched"))
    assert view.states[2] == "PENDING" and view.left == 4
    view.take(Notice("worker 1 was lost"))
    view.take(Ended("done"))
    assert view.ended == "done"


def test_dropping_a_question_that_was_answered_before_keeps_its_state():
    view = View()
    view.take(Opened(jobs(2), {1: sample()}, 100, 99))
    view.take(Started(1))
    view.take(Dropped(1, "switched"))
    assert view.states[0] == "PASSED"


@pytest.mark.parametrize(
    ("keys", "selected", "wish"),
    [
        pytest.param(["down"], 3, None, id="from the running one down"),
        pytest.param(["up", "up", "up"], 1, None, id="not above the first"),
        pytest.param(["end", "down"], 5, None, id="not below the last"),
        pytest.param(["pagedown", "pageup"], 1, None, id="pages are clamped"),
        pytest.param(["down", "escape"], None, None, id="back to following"),
        pytest.param(["down", "down", "enter"], None, ("jump", 4), id="enter runs it"),
        pytest.param(["down", "up", "enter"], None, None, id="the running one goes on"),
        pytest.param(["enter"], None, None, id="nothing selected"),
        pytest.param(["p"], None, ("pause", 0), id="pause"),
        pytest.param(["q"], None, ("quit", 0), id="quit"),
        pytest.param(["x", "tab", "f1", "?"], None, None, id="other keys do nothing"),
    ],
)
def test_keys(keys, selected, wish):
    view = opened()
    view.take(Started(2))
    last = None
    for key in keys:
        last = view.press(key)
    assert (view.selected, last) == (selected, wish)


def test_keys_before_the_list_is_there_do_no_harm():
    view = View()
    assert [view.press(key) for key in ("up", "enter", "end")] == [None] * 3
    assert lines(right_lines(view, 30, 5)) == ["loading the model"]
    left_lines(view, 30, 5)


def test_control_characters_of_a_model_never_reach_the_terminal():
    view = opened()
    view.take(Started(1))
    view.take(text(1, "a\x1b]52;c;eA==\x07b\x1b[2J\x00\r\n\tc\u202e\x9b31m"))
    for width in (20, 90):
        for line in [*right_lines(view, width, 20), *left_lines(view, width, 20)]:
            assert all(char.isprintable() for char in line.plain), line.plain
    assert "\\x1b]52" in "".join(lines(reply_lines(pieces_of(view), 80, 9)))


def test_control_characters_of_data_and_errors_are_escaped_too():
    view = View()
    odd = jobs(1)
    question = odd[0].question
    object.__setattr__(question, "title", "\x1b[31mred")
    object.__setattr__(question, "text", "\x07ring")
    view.take(Opened(odd, {}, 100, 99))
    view.take(Notice("\x1b[1mloud"))
    for line in [*left_lines(view, 60, 20), *right_lines(view, 60, 20)]:
        assert "\x1b" not in line.plain and "\x07" not in line.plain


@pytest.mark.parametrize("columns", [1, 5, 20, 40, 60, 89, 90, 100, 200, 500])
@pytest.mark.parametrize("rows", [1, 2, 5, 20, 50])
def test_no_line_is_wider_and_no_part_taller_than_its_place(columns, rows):
    view = opened(120)
    view.take(Started(77))
    for i in range(40):
        view.take(text(77, "漢字 word 👩‍👩‍👧 \n" if i % 5 else "x" * 97, i < 20, i))
    parts = layout(columns, rows)
    left = left_lines(view, parts.left, parts.list_rows)
    right = right_lines(view, parts.right, parts.reply_rows)
    assert len(left) <= parts.list_rows and len(right) <= max(parts.reply_rows, 2)
    assert all(cell_len(line.plain) <= parts.left for line in left[:2])
    if columns >= 40:
        assert all(cell_len(line.plain) <= parts.left for line in left)
    assert all(cell_len(line.plain) <= parts.right for line in right)
    if rows >= 5 and columns >= 40:
        assert any("77" in line.plain for line in left), "the running question is in sight"


def test_wrapping_keeps_every_character_and_parts_at_spaces():
    assert wrapped("hello brave new world", 12) == ["hello brave ", "new world"]
    assert wrapped("aaaaaaaaaaaa", 5) == ["aaaaa", "aaaaa", "aa"]
    assert wrapped("漢字漢", 4) == ["漢字", "漢"]
    assert wrapped("ab", 1) == ["a", "b"]
    long = "word " * 50 + "x" * 99
    assert "".join(wrapped(long, 17)).replace(" ", "") == long.replace(" ", "")


def test_thinking_is_dim_and_the_answer_is_not():
    made = reply_lines([(True, "mm "), (False, "so\nAnswer: 1")], 40, 9)
    styles = {made[0].plain[s.start : s.end]: str(s.style) for s in made[0].spans}
    assert styles["mm "] == "dim" and "dim" not in styles.get("so", "")


def test_stream_is_bounded():
    view = opened()
    view.take(Started(1))
    for _ in range(3000):
        view.take(text(1, "some words here\n"))
    assert sum(len(part) for _, part in view.live[1].pieces) <= STREAM_CHARS + 600


def test_selected_finished_question_shows_its_reply():
    view = opened()
    done = sample("long thought</think>\nAnswer: 1\n", opened=True)
    view.take(Finished(1, done))
    view.press("home")
    folded = lines(right_lines(view, 80, 40))
    assert "PASSED" in folded[0] and "Answer: 1" in folded and "long thought" not in folded
    assert any("thinking: 20 characters (t shows it)" in line for line in folded)
    view.press("t")
    assert "long thought" in lines(right_lines(view, 80, 40))


def test_counts_are_short():
    assert [count(n) for n in (0, 9999, 10_000, 16_000, 999_999, 1_000_000)] == [
        "0", "9999", "10k", "16k", "1000k", "1m",
    ]  # fmt: skip


def drive(tmp_path, script, size=(100, 30), n=6, seconds=0.0):
    """Run the app over a fake run, with `script(app, pilot)` as the user."""

    async def main():
        with RunStore.open(tmp_path, CONFIG) as store:
            todo = jobs(n)
            store.begin(todo, {})
            control = Control()

            def slow(job, word):
                import time

                time.sleep(seconds)

            recorder = Recorder(store, SETTINGS, n)
            source = run_serial(todo, FakeBackend(hook=slow), recorder, control, 99)
            app = EvalApp(source, control)
            async with app.run_test(size=size) as pilot:
                await script(app, pilot)
            await asyncio.to_thread(app.wait)
            return app, list(store.samples.values())

    return asyncio.run(main())


async def until(pilot, condition, seconds=10.0):
    for _ in range(int(seconds / 0.05)):
        await pilot.pause(0.05)
        if condition():
            return
    raise AssertionError("it did not come about in time")


def test_app_stays_at_the_end_to_be_read_until_it_is_left(tmp_path):
    async def watch(app, pilot):
        await until(pilot, lambda: app.ended is not None)
        await pilot.pause(0.3)
        assert app.is_running and app.view.ended == "done"
        await pilot.press("home", "q")
        await until(pilot, lambda: app.view.quitting)

    app, samples = drive(tmp_path, watch)
    assert app.ended == Ended("done") and app.error is None and len(samples) == 6


def test_app_pauses_jumps_resizes_and_quits(tmp_path):
    async def user(app, pilot):
        await until(pilot, lambda: app.view.active == 1 and 1 in app.view.live)
        await pilot.press("p")
        await until(pilot, lambda: app.control.paused)
        held = app.view.live[1].generated if 1 in app.view.live else 0
        await pilot.resize_terminal(60, 20)
        await pilot.pause(0.3)
        assert app.view.live[1].generated <= held + 1
        assert app.screen.has_class("narrow")
        await pilot.press("end", "enter")
        await until(pilot, lambda: app.view.active == 6)
        await pilot.resize_terminal(120, 40)
        await pilot.pause(0.2)
        assert not app.screen.has_class("narrow")
        await pilot.press("q")
        await until(pilot, lambda: app.ended is not None)

    app, samples = drive(tmp_path, user, seconds=0.05)
    assert app.ended == Ended("quit")
    assert [s.state for s in samples if not s.final] == ["STOPPED"]


def test_error_in_the_run_comes_out_of_the_app(tmp_path):
    def broken():
        yield Opened(jobs(1), {}, 10, 9)
        raise ValueError("boom")

    async def main():
        app = EvalApp(broken(), Control())
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.ended is not None)
        await asyncio.to_thread(app.wait)
        return app

    app = asyncio.run(main())
    assert isinstance(app.error, ValueError) and app.ended.why == "failed"
