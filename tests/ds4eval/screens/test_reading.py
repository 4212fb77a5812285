"""Reading replies: filters, search, scrolling, marks, workers, the end, two runs, the page."""

from __future__ import annotations

import asyncio
import json
import re
from html.parser import HTMLParser

import pytest
from rich.cells import cell_len

from ds4eval.commands.view import view_command
from ds4eval.compare.pairs import load_arms
from ds4eval.control import Control
from ds4eval.events import Ended, Finished, Opened, Started, Text
from ds4eval.request import OutputOptions
from ds4eval.screen import choose
from ds4eval.screen.app import EvalApp
from ds4eval.screen.browse import browsed, view_of
from ds4eval.screen.draw import layout, left_lines, reply_window, right_lines
from ds4eval.screen.filters import after
from ds4eval.screen.marks import marks_of
from ds4eval.screen.page import replies_page
from ds4eval.screen.progress import by_source
from ds4eval.screen.state import View
from engine.errors import EngineError
from tests.ds4eval.eval_runs import sample, write_run
from tests.ds4eval.fakes import jobs

HOSTILE = "</script><img src=x onerror=alert(1)>\x1b]0;t\x07\u202e"


def plain(lines) -> list[str]:
    return [line.plain for line in lines]


def asked(source, number, verdict, reply="", **changes):
    question = {
        "title": "",
        "text": f"What is {number} of {source}?",
        "choices": ["red", "green", "blue and so on"],
        "opened": True,
    }
    given = changes.pop("given", "A" if verdict == "pass" else "B")
    output = reply or f"hm, thought {number}</think>\nIt is {given}.\nAnswer: {given}\n"
    read = {"given": given, "lenient_given": given, "classic_given": given, "rule": "answer-line"}
    return sample(source, number, verdict, question=question, output=output, **read, **changes)


@pytest.fixture
def two(tmp_path):
    a = [asked("GPQA", n, "pass" if n % 2 else "fail") for n in range(6)]
    a += [asked("AIME", 9, "none", "no end of thought", stop="limit", given="?")]
    b = [asked("GPQA", n, "pass" if n in (0, 1) else "fail") for n in range(6)]
    return write_run(tmp_path / "one", a), write_run(tmp_path / "two", b)


@pytest.fixture
def both(two) -> View:
    return view_of(browsed(load_arms(two)))


def test_two_runs_stand_side_by_side_and_flips_are_listed(both):
    assert both.names == ("one", "two") and len(both.jobs) == 7 and both.ended == "done"
    rows = plain(left_lines(both, 72, 30))
    assert any("FAIL PASS ≠ GPQA: q000" in row for row in rows)
    assert any("CUT  PEND   AIME: q009" in row for row in rows)
    both.press("f")
    assert both.listed() == [1, 4, 6] and both.selected == 1
    assert any("3 of 7: flips (esc: all)" in row for row in plain(left_lines(both, 72, 30)))
    both.press("down")
    assert both.selected == 4
    assert "one: PASSED" in plain(right_lines(both, 90, 30))[0]
    both.press("tab")
    assert "two: FAILED" in plain(right_lines(both, 90, 30))[0]
    both.press("escape")
    assert len(both.listed()) == 7 and both.selected == 4


def test_filters_by_state_and_source_go_round(both):
    assert [after(value, "ab") for value in ("", "a", "b", "?")] == ["a", "b", "", ""]
    both.press("s")
    assert both.wanted.state == "FAILED" and both.listed() == [1, 3, 5]
    both.press("o")
    both.press("o")
    assert both.wanted.source == "AIME" and both.listed() == []
    assert plain(right_lines(both, 80, 20)), "the question under the cursor stays"
    both.press("down")
    for _ in range(3):
        both.press("s")
    assert both.wanted.state == "" and both.listed() == [7]


def test_search_is_typed_and_finds_text_of_questions_and_replies(both):
    both.press("slash")
    for char in "Thought 4q":
        both.press(char, char)
    assert both.typing == "Thought 4q" and not both.quitting and both.listed() == []
    both.press("backspace")
    assert both.listed() == [5]
    assert "search: Thought 4" in "".join(plain(left_lines(both, 60, 20)))
    both.press("enter")
    assert both.typing is None and both.selected == 5
    both.press("slash")
    both.press("escape")
    assert not both.wanted


def test_a_finished_question_shows_everything_about_it(both):
    both.press("end")
    text = "\n".join(plain(right_lines(both, 100, 40)))
    assert "AIME/q009" in text and "no answer" in text and "cut at its limit" in text
    assert "thinking: never ended" in text and "no end of thought" not in text
    both.press("home")
    text = "\n".join(plain(right_lines(both, 100, 40)))
    for part in ("What is 0 of GPQA?", "A. red  ← key", "B. green  ← given", "C. blue and so on",
                 "strict   wrong      B  answer-line", "reply 200 tokens", "tokens/s",
                 "the other run: right, given A", "Answer: B"):  # fmt: skip
        assert part in text, part


def test_marks_stand_on_what_each_grader_read():
    reply = "maybe B</think>\nThe answer is A, I think, not B.\nSo:\n**Answer: C**\n"
    one = sample("s", 1, "fail", output=reply, question={"opened": True}, given="C",
                 lenient_given="C", classic_given="A")  # fmt: skip
    found = {m.grader: reply[m.start : m.end] for m in marks_of(one)}
    places = {m.grader: m.start for m in marks_of(one)}
    assert found == {"strict": "C", "lenient": "C", "classic": "A"}
    assert places["strict"] == reply.rindex("C**") and places["classic"] == reply.index("A, I")
    boxed = "x</think>\nm+n = 1,070 and \\boxed{070}\n"
    one = sample("s", 1, "pass", kind="integer", output=boxed, question={"opened": True}, given="?",
                 lenient_given="70", classic_given="?")  # fmt: skip
    [mark] = marks_of(one)
    assert (mark.grader, boxed[mark.start : mark.end]) == ("lenient", "070")
    never = sample("s", 1, "none", output="A and more", question={"opened": True}, given="A")
    assert [m.grader for m in marks_of(never)] in ([], ["classic"])


def test_a_long_reply_scrolls_to_its_last_line_and_no_further(tmp_path):
    reply = "thought</think>\n" + "\n".join(f"line {i}" for i in range(100)) + "\nAnswer: A"
    path = write_run(tmp_path / "a", [asked("s", 1, "pass", reply)])
    view = view_of(browsed(load_arms([path])))
    rows = 20
    shown, total = reply_window(view, 60, rows)
    assert total > 110 and "more lines (space)" in shown[-1].plain
    view.scroll(10_000, rows, total)
    shown, _ = reply_window(view, 60, rows)
    assert shown[-1].plain == "Answer: A" and len(shown) == rows
    view.scroll(-5, rows, total)
    assert reply_window(view, 60, rows)[0][-2].plain == "line 94"
    view.scroll(-10_000, rows, total)
    assert view.top is None


@pytest.mark.parametrize("size", [(200, 50), (100, 30), (60, 20), (40, 10), (5, 3)])
def test_every_part_fits_its_place(both, size):
    parts = layout(*size)
    for keys in ([], ["end"], ["t"], ["tab"], ["question_mark"], ["slash"]):
        for key in keys:
            both.press(key)
        right = right_lines(both, parts.right, parts.reply_rows)
        left = left_lines(both, parts.left, parts.list_rows)
        assert len(right) <= max(parts.reply_rows, 1) + 1 and len(left) <= parts.list_rows
        assert all(cell_len(line.plain) <= parts.right for line in right), keys
        if size[0] >= 40:
            assert all(cell_len(line.plain) <= parts.left for line in left), keys


def live(n_jobs=5) -> View:
    view = View()
    view.take(Opened(jobs(n_jobs), {}, 100, 99))
    return view


def test_several_workers_are_seen_at_once_and_speeds_add_up():
    view = live()
    for n in (1, 2, 3):
        view.take(Started(n, n))
        view.take(Text(n, "word ", True, 4, 4, 99, 90, 0.5))
    assert view.speed == pytest.approx(24)
    right = plain(right_lines(view, 90, 40))
    assert sum(f"#{n} THINK 4/90 8.0 t/s" in line for n in (1, 2, 3) for line in right) == 3
    assert any("24.0 t/s" in line for line in plain(left_lines(view, 60, 30)))
    for n in (4, 5):
        view.take(Started(n, n))
    assert any("and 2 more replies" in line for line in plain(right_lines(view, 90, 20)))


def test_choices_of_a_running_question_are_visible_in_any_room():
    view = live(3)
    view.take(Started(3))
    assert "B. two" in plain(right_lines(view, 80, 40))
    assert "A. one  B. two  C. three" in plain(right_lines(view, 80, 10))


def test_ids_are_whole_where_there_is_room():
    view = live(1)
    object.__setattr__(view.jobs[0].question, "id", "0123456789abcdef0123456789abcdef")
    assert "0123456789abcdef0123456789abcdef" in right_lines(view, 80, 10)[0].plain
    assert right_lines(view, 40, 10)[0].plain.endswith("…")


def test_the_end_is_foretold_from_the_pace_and_scores_have_intervals():
    view = live(9)
    assert view.left_s is None
    view.elapsed_s = 600.0
    for n in (1, 2, 3):
        view.take(Finished(n, sample("fake/integer", n, "pass", gen_tokens=50)))
    assert view.left_s == pytest.approx(1200)
    head = plain(left_lines(view, 60, 30))
    assert "+20 min" in head[0]
    scores = {s.name: (s.passed, s.final, s.asked) for s in by_source(view)}
    assert sum(asked for *_, asked in scores.values()) == 9
    assert any(re.search(r"/\d of \d+ \d+ % \[\d+, \d+\]", line) for line in head)


def test_keys_that_leave_lists_and_replies_alone_do_so():
    view = live()
    assert [view.press(key) for key in ("f", "tab", "x")] == [None] * 3
    assert not view.wanted and not view.second
    view.press("question_mark")
    assert "pause, go on" in "\n".join(plain(right_lines(view, 80, 30)))
    view.press("question_mark")
    view.take(Ended("done"))
    assert view.press("p") is None and not view.paused, "a run that is over cannot be paused"
    view.press("down")
    assert view.press("enter") is None, "nor asked"


def test_the_reader_is_driven_by_keys_and_wheel(two):
    view = view_of(browsed(load_arms(two)))

    async def main():
        app = EvalApp(iter(()), Control(), view=view)
        async with app.run_test(size=(60, 20)) as pilot:
            await pilot.pause(0.2)
            await pilot.press("space")
            assert view.top and view.top > 5
            await pilot.press("b", "J", "J")
            assert view.top == 2
            await pilot.press("slash", "q", "0", "0", "9", "enter")
            assert view.listed() == [7] and view.selected == 7 and not view.quitting
            await pilot.press("escape", "question_mark", "q")
        await asyncio.to_thread(app.wait)

    asyncio.run(main())
    assert view.quitting


def test_a_run_that_was_over_before_is_shown_where_there_is_a_screen(monkeypatch):
    quiet = choose.open_screen(OutputOptions(plain=True), True, over=True)
    assert quiet.show([Opened([], {}, 0, 0), Ended("done")], Control()) == Ended("done")
    monkeypatch.setattr(choose, "why_plain", lambda: "")
    assert type(choose.open_screen(OutputOptions(), True, over=True)).__name__ == "TuiScreen"
    left = choose.open_screen(OutputOptions(close_at_end=True), True)
    assert left.stay is False


def test_questions_that_were_never_asked_are_listed_by_id(tmp_path):
    whole = [asked("s", n, "pass") for n in range(3)]
    path = write_run(tmp_path / "a", whole[:1], selected=whole)
    view = view_of(browsed(load_arms([path])))
    assert view.states == ["PASSED", "PENDING", "PENDING"]
    view.press("end")
    assert "only once it was asked" in "\n".join(plain(right_lines(view, 90, 20)))
    other = write_run(tmp_path / "b", [asked("t", 1, "pass")])
    with pytest.raises(EngineError, match="expected questions answered by a too"):
        browsed(load_arms([path, other]))


class Page(HTMLParser):
    """Elements and scripts of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]


def test_the_page_needs_nothing_and_lets_no_text_become_markup(tmp_path):
    rows = [asked("GPQA", 1, "pass", f"{HOSTILE}</think>\n{HOSTILE}\nAnswer: A", id=HOSTILE)]
    path = write_run(tmp_path / "a", rows)
    text = replies_page(browsed(load_arms([path])))
    page = Page(text)
    assert page.links == [] and "img" not in page.tags and page.tags.count("script") == 2
    assert "@@" not in text and text.count("Replies of a<") == 2
    assert "default-src 'none'" in text and "http://" not in text and "https://" not in text
    assert "keep it on this machine" in text
    raw = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    data = json.loads(raw[1])
    [row] = data["rows"]
    assert "".join(piece for piece, _ in row["replies"][0]["answer"]).endswith("Answer: A")
    assert ["A", ["strict", "lenient", "classic"]] in row["replies"][0]["answer"]
    assert "\x1b" not in text and "\u202e" not in text


def test_view_writes_a_private_page_and_warns(two, tmp_path):
    from click.testing import CliRunner

    page = tmp_path / "replies.html"
    done = CliRunner().invoke(view_command, [*map(str, two), "--html", str(page)])
    assert done.exit_code == 0 and "keep it on this machine" in done.stderr
    assert page.stat().st_mode & 0o077 == 0
    assert '"names": ["one", "two"]' in page.read_text()
    again = CliRunner().invoke(view_command, [str(two[0]), "--html", str(page)])
    assert again.exit_code == 2
    forced = CliRunner().invoke(view_command, [str(two[0]), "--html", str(page), "--force"])
    assert forced.exit_code == 0
    nowhere = CliRunner().invoke(view_command, [str(two[0])])
    assert nowhere.exit_code != 0, "no terminal, no page"
