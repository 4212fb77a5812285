"""Answers in words, numbers and LaTeX; what needs math-verify runs where it is installed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4eval.grading import latex
from ds4eval.grading.grade import grade
from ds4eval.grading.numbers import number, same_number
from ds4eval.questions.question import Question
from ds4eval.questions.spelling import begins
from engine.tooling import exits
from tests.ds4eval.eval_runs import sample, write_run


@pytest.mark.parametrize(
    "text, value",
    [
        ("70", 70), ("-7", -7), ("+7", 7), ("\u22127", -7), ("3.50", Fraction(7, 2)),
        (".5", Fraction(1, 2)), ("7/2", Fraction(7, 2)), (r"\frac{7}{2}", Fraction(7, 2)),
        (r"\dfrac72", Fraction(7, 2)), (r"-\frac{1}{3}", Fraction(-1, 3)), ("1,234", 1234),
        (r"11,\!111", 11111), ("1e3", 1000), (r"1.5 \times 10^{3}", 1500),
        ("2*10^-2", Fraction(1, 50)),
    ],
)  # fmt: skip
def test_numbers(text, value):
    assert number(text) == value


@pytest.mark.parametrize("text", ["", "x", "5 cm", "1/0", "1,23", "1.2.3", "--1", "7 2", "\u0667"])
def test_no_numbers(text):
    assert number(text) is None


@settings(max_examples=80, deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_fraction_is_itself_in_every_spelling(value):
    plain = f"{value.numerator}/{value.denominator}"
    sign, top = ("-" if value < 0 else ""), abs(value.numerator)
    assert number(plain) == value
    assert same_number(plain, rf"{sign}\frac{{{top}}}{{{value.denominator}}}")
    assert not same_number(plain, str(value + 1))


def test_beginnings_end_with_a_word():
    whole = "Beta grows in the dark"
    assert all(begins(whole, part) for part in ("beta", "Beta grows", "beta grows...", whole))
    assert not any(begins(whole, part) for part in ("", "bet", "grows", "beta grows on", "..."))


def test_equal_texts_and_numbers_need_no_package(monkeypatch):
    def none(self, key, given):
        raise AssertionError("not needed")

    monkeypatch.setattr(latex._Judge, "ask", none)
    assert latex.same_value(r"\frac{1}{2}", "0.5")
    assert latex.same_value(r"x^2 + 1", "x^2+1")
    assert not latex.same_value("2", "") and not latex.same_value("2", "x" * 500)


def test_a_missing_package_is_said_by_run_and_regrade(tmp_path, capsys, monkeypatch):
    from ds4eval.cli import cli

    monkeypatch.setattr("ds4eval.questions.source.find_spec", lambda name: None)
    folder = write_run(tmp_path / "run", [sample("HMMT", 1, "pass", kind="latex", expected="2")])
    assert exits.run_program(cli, "ds4-eval", ["regrade", str(folder)]) == 3
    assert "pip install 'ds4bench[latex]'" in capsys.readouterr().err


def test_a_process_without_the_package_is_no_verdict(monkeypatch):
    monkeypatch.setattr(latex, "_PROGRAM", "print('missing')  # {}")
    with pytest.raises(latex.MathVerifyMissing, match=r"ds4bench\[latex\]"):
        latex._Judge().ask("2", r"\sqrt{4}")


class TestWithMathVerify:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("math_verify")

    @pytest.mark.parametrize(
        "key, answer, verdict",
        [
            (r"\frac{\sqrt{3}}{2}", r"Answer: $\sqrt{3}/2$", "pass"),
            ("2", r"Answer: \sqrt{4}", "pass"),
            (r"\left( 3, \frac{\pi}{2} \right)", r"Answer: $(3, \pi/2)$", "pass"),
            ("(0,1)", "Answer: $[0,1]$", "fail"),
            ("6 - 5i", "Answer: -5i+6", "pass"),
            (r"\text{Evelyn}", "Answer: Evelyn", "pass"),
            ("5", "Answer: x = 5", "pass"),
            (r"90^\circ", "Answer: 90", "pass"),
            ("x^2+2x+1", "Answer: $(x+1)^2$", "pass"),
            ("2", r"Answer: \frac{", "fail"),
            (r"1 \pm \sqrt{19}", r"Answer: $1 - \sqrt{19}$", "fail"),
            ("2", r"So it is \boxed{\sqrt{4}}.", "none"),
            ("2", r"\boxed{\sqrt{4}}", "pass"),
            ("2", "I do not know, it may be two.", "none"),
        ],
    )
    def test_by_value(self, key, answer, verdict):
        question = Question("q", "s", "t", key, "latex")
        grades = grade(question, answer)
        assert (grades.strict.verdict, grades.classic.verdict) == (verdict, "none")
        assert grades.missed == ("So it is" in answer)

    def test_what_takes_for_ever_is_ended_and_the_next_one_is_told(self, monkeypatch):
        monkeypatch.setattr(latex, "LIMIT_S", 3.0)
        judge = latex._Judge()
        try:
            assert judge.ask("2", r"\sqrt{4}")
            assert not judge.ask("9", "9^{9^{9^{9}}}")
            assert judge._process is None
            assert judge.ask("2", r"\sqrt{4}")
        finally:
            judge.end()
