"""The aime-like family: integers 0 to 999 from school arithmetic, each with its worked steps."""

from __future__ import annotations

from engine.nano.steps import add, divide, multiply, subtract, therefore
from engine.nano.words import NAMES, THINGS, WORDS, Draw

_Drawn = tuple[str, tuple[str, ...], str, str]


def _integer(question: str, answer: int, thinking: str) -> _Drawn:
    return question, (), str(answer), thinking


def _add(r: Draw, level: int) -> _Drawn:
    if level == 2:
        a, b, c = (r.between(100, 333) for _ in range(3))
        question = r.pick(("Find the sum of {}, {} and {}.", "What is {} + {} + {}?"))
        thinking = f"{add(r, a, b)} {add(r, a + b, c)}"
        return _integer(question.format(a, b, c), a + b + c, thinking)
    a, b = (r.between(10, 99), r.between(10, 99)) if level == 0 else (0, 0)
    if level == 1:
        a = r.between(100, 899)
        b = r.between(100, 999 - a)
    form = r.pick((
        "Find the sum of {a} and {b}.", "What is {a} + {b}?",
        "Today {n} has {a} {t} and finds {b} more. How many {t} does {n} have now?",
    ))  # fmt: skip
    question = form.format(a=a, b=b, n=r.pick(NAMES), t=r.pick(THINGS))
    return _integer(question, a + b, f"{r.pick(_ADD)}{add(r, a, b)}")


_ADD = ("", "Add. ", "We add. ")
_SUBTRACT = ("", "Subtract. ", "We subtract. ")
_MULTIPLY = ("", "Multiply. ", "We multiply. ")


def _subtract(r: Draw, level: int) -> _Drawn:
    if level == 2:
        a = r.between(600, 999)
        b, c = r.between(100, 299), r.between(100, 299)
        form = r.pick((
            "Find {a} minus {b} minus {c}.",
            "Today {n} has {a} {t}, sells {b} and then {c} more. How many {t} are left?",
        ))  # fmt: skip
        thinking = f"{subtract(r, a, b)} {subtract(r, a - b, c)}"
        question = form.format(a=a, b=b, c=c, n=r.pick(NAMES), t=r.pick(THINGS))
        return _integer(question, a - b - c, thinking)
    low, high = ((20, 99), (200, 999))[level]
    a = r.between(low, high)
    b = r.between(low // 2, a)
    form = r.pick((
        "Find {a} minus {b}.", "What is {a} - {b}?",
        "Today {n} has {a} {t} and sells {b}. How many {t} are left?",
    ))  # fmt: skip
    question = form.format(a=a, b=b, n=r.pick(NAMES), t=r.pick(THINGS))
    return _integer(question, a - b, f"{r.pick(_SUBTRACT)}{subtract(r, a, b)}")


def _multiply(r: Draw, level: int) -> _Drawn:
    if level == 2:
        a = r.between(11, 83)
        b = r.between(11, 999 // a)
    else:
        b = r.between(2, 9)
        a = r.between(11, 99) if level == 0 else r.between(100, 999 // b)
    form = r.pick((
        "Find the product of {a} and {b}.", "What is {a} times {b}?",
        "There are {b} boxes with {a} {t} each. How many {t} are there?",
    ))  # fmt: skip
    question = form.format(a=a, b=b, t=r.pick(THINGS))
    return _integer(question, a * b, f"{r.pick(_MULTIPLY)}{multiply(r, a, b)}")


def _number_to_divide(r: Draw, level: int) -> tuple[int, int]:
    m = r.between(3, 9)
    return (r.between(m + 1, 99) if level == 0 else r.between(100, 999)), m


def _remainder(r: Draw, level: int) -> _Drawn:
    if level == 2:
        a, b, m = r.between(11, 40), r.between(11, 24), r.between(3, 9)
        thinking = f"{multiply(r, a, b)} {divide(r, a * b, m)}"
        question = f"Find the remainder when {a} times {b} is divided by {m}."
        return _integer(question, a * b % m, thinking)
    a, m = _number_to_divide(r, level)
    form = r.pick((
        "Find the remainder when {a} is divided by {m}.",
        "Today {n} puts {a} {t} in rows of {m}. How many {t} are left?",
    ))  # fmt: skip
    question = form.format(a=a, m=m, n=r.pick(NAMES), t=r.pick(THINGS))
    return _integer(question, a % m, f"{r.pick(_DIVIDE)}{divide(r, a, m)}")


_DIVIDE = ("", "Divide. ", "We divide. ")


def _multiples(r: Draw, level: int) -> _Drawn:
    a, m = _number_to_divide(r, level)
    if level == 2:
        b = r.between(a // 2, a - 1)
        question = f"How many multiples of {m} are more than {b} and at most {a}?"
        thinking = f"{divide(r, a, m)} {divide(r, b, m)} {subtract(r, a // m, b // m)}"
        return _integer(question, a // m - b // m, thinking)
    form = r.pick((
        "How many positive multiples of {m} are at most {a}?",
        "How many full rows of {m} can be made of {a} {t}?",
    ))  # fmt: skip
    question = form.format(a=a, m=m, t=r.pick(THINGS))
    return _integer(question, a // m, f"{r.pick(_DIVIDE)}{divide(r, a, m)}")


def _sequence(r: Draw, level: int) -> _Drawn:
    low, high = ((3, 10), (11, 30), (11, 45))[level]
    first, step, at = r.between(1, 99), r.between(2, 9), r.between(low, high)
    if level == 2:
        step = r.between(11, 19)
        at = r.between(low, 40)
    form = r.pick((
        "A sequence has first term {a} and common difference {d}. Find term number {i}.",
        "A row starts with {a} and each number is {d} more. Find number {i} of the row.",
    ))  # fmt: skip
    product = (at - 1) * step
    thinking = f"{at}-1={at - 1}. {multiply(r, at - 1, step)} {add(r, first, product)}"
    return _integer(form.format(a=first, d=step, i=at), first + product, thinking)


def _count(r: Draw, level: int) -> _Drawn:
    low, high = ((4, 7), (8, 9), (10, 14))[level]
    words = r.sample(WORDS, 3)
    row = [r.pick(words) for _ in range(r.between(low, high))]
    wanted, seen, steps = words[0], 0, []
    for i, word in enumerate(row):
        seen += word == wanted
        steps.append(f"{i + 1} {word} {seen}")
    listed = " ".join(f"{i + 1} {word}" for i, word in enumerate(row))
    form = r.pick((
        "How many times is {w} in this list: {l}?", "Count the word {w} in the list {l}.",
    ))  # fmt: skip
    start = r.pick(("Count", "We count", "Look for"))
    thinking = f"{start} {wanted}: {', '.join(steps)} so {seen}."
    return _integer(form.format(w=wanted, l=listed), seen, thinking)


def _extremes(r: Draw, level: int) -> _Drawn:
    numbers = r.sample(range(10, 100), (4, 5, 7)[level])
    top = bottom = numbers[0]
    lines = []
    for number in numbers:
        top, bottom = max(top, number), min(bottom, number)
        lines.append(f"{number} max {top} min {bottom}")
    form = r.pick((
        "Find the sum of the largest and the smallest of the numbers {}.",
        "What is the largest plus the smallest of {}?",
    ))  # fmt: skip
    thinking = f"{', '.join(lines)}. {add(r, top, bottom)}"
    return _integer(form.format(", ".join(map(str, numbers))), top + bottom, thinking)


def _shares(r: Draw, level: int) -> _Drawn:
    a, b = r.sample(NAMES, 2)
    things, k = r.pick(THINGS), r.between(2, (4, 6, 9)[level])
    n = r.between(10, (30, 99, 999 // (k + 1))[level])
    product = n * k
    form = r.pick((
        "Today {a} has {n} {t} and {b} has {k} times as many. How many {t} do they have together?",
        "There are {n} {t} in the first box and {k} times as many in the second. "
        "How many {t} are there in all?",
    ))  # fmt: skip
    question = form.format(a=a, b=b, n=n, k=k, t=things)
    thinking = f"{multiply(r, n, k)} {add(r, n, product)}"
    return _integer(question, n + product, thinking)


def _chain(r: Draw, level: int) -> _Drawn:
    value = r.between(10, 60)
    words, steps = [f"Start with {value}."], []
    for _ in range(2 + level):
        action = r.below(3)
        if action == 0 or value < 20:
            n = r.between(11, 99)
            words.append(f"Add {n}.")
            steps.append(add(r, value, n))
            value += n
        elif action == 1 or value > 400:
            n = r.between(11, min(value, 99))
            words.append(f"Subtract {n}.")
            steps.append(subtract(r, value, n))
            value -= n
        else:
            k = r.between(2, min(9, 900 // value))
            words.append(f"Multiply by {k}.")
            steps.append(multiply(r, value, k))
            value *= k
    end = r.pick(("Which number is left?", "What is the result?"))
    return _integer(f"{' '.join(words)} {end}", value, " ".join(steps))


def finish(r: Draw, answer: str) -> str:
    """Last words of a think block."""
    return r.pick(("", "", f" The answer is {answer}.", f" {therefore(r).capitalize()} {answer}."))


KINDS = {
    "add": ("arithmetic", _add),
    "subtract": ("arithmetic", _subtract),
    "multiply": ("arithmetic", _multiply),
    "remainder": ("number theory", _remainder),
    "multiples": ("number theory", _multiples),
    "sequence": ("algebra", _sequence),
    "count": ("counting", _count),
    "extremes": ("counting", _extremes),
    "shares": ("algebra", _shares),
    "chain": ("arithmetic", _chain),
}
