"""Answers of the practice suite's questions with choices, computed afresh.

A number that the right choice must be nearest to, or a predicate over a choice's text.
"""

from __future__ import annotations

import datetime
import itertools
import math

import numpy as np

# GPQA-like: number -> a value that the right choice's number must be nearest to -------------------

C, H, ME, E = 299_792_458.0, 6.62607015e-34, 9.1093837e-31, 1.602176634e-19
R, FARADAY = 8.314462618, 96485.33212


def _middle_third():
    x = np.linspace(1 / 3, 2 / 3, 20001)
    return float(np.trapezoid(2 * np.sin(np.pi * x) ** 2, x))


def _adiabat():
    ln_v = np.linspace(0, math.log(8), 10001)
    return math.exp(-2 / 3 * (ln_v[-1] - ln_v[0]))  # dT/T = -(R/Cv) dV/V


def _spin():
    half = math.radians(30)
    up = np.array([math.cos(half), math.sin(half)])
    return float(np.dot(up, [1, 0]) ** 2)


def _lenses():
    def through(ray, f):
        return np.array([ray[0], ray[1] - ray[0] / f])

    ray = through(np.array([1.0, 0.0]), 10)
    ray = np.array([ray[0] + 5 * ray[1], ray[1]])
    ray = through(ray, -20)
    return float(-ray[0] / ray[1])


def _xylene_signals():
    bonds = {(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (0, 5), (0, 6), (3, 7)}
    orbits = {i: {i} for i in range(8)}
    for ring in itertools.permutations(range(6)):
        for ends in ((6, 7), (7, 6)):
            image = (*ring, *ends)
            if {tuple(sorted((image[a], image[b]))) for a, b in bonds} == bonds:
                for i in range(8):
                    orbits[i].add(image[i])
    return len({frozenset(orbit) for orbit in orbits.values()})


def _stereoisomers():
    # Mirror images differ; reading the chain backwards does not change a molecule.
    return len({min((a, b), (b, a)) for a in "RS" for b in "RS"})


def _two_of_three():
    hits = total = 0
    for gametes in itertools.product("Aa", repeat=6):
        dominant = sum("A" in gametes[i : i + 2] for i in (0, 2, 4))
        hits += dominant == 2
        total += 1
    return hits / total


CODE = dict(
    zip(
        ("".join(c) for c in itertools.product("TCAG", repeat=3)),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
    )
)


def _codings():
    sets = [[codon for codon, acid in CODE.items() if acid == one] for one in "MLWS"]
    return len(list(itertools.product(*sets)))


GPQA = {
    1: lambda: math.sqrt(1 - (1 / 3) ** 2),
    2: _middle_third,
    4: _adiabat,
    5: _spin,
    6: lambda: math.sqrt(1 - 1 / 3),
    7: _lenses,
    8: lambda: abs(30 + 1j * 200 * 0.10 + 1 / (1j * 200 * 50e-6)),
    9: lambda: (0.5**2 * 2**4) / (1**2 * 1**4),
    10: lambda: math.exp(-1) / (1 + math.exp(-1)),
    11: lambda: H / math.sqrt(2 * ME * E * 150) * 1e9,
    12: lambda: 10 * math.sqrt(1 - 1 / 100) * C * 2.197e-6 / 1e3,
    13: lambda: -math.log10(10**-4.76 * 0.20 / 0.050),
    14: lambda: 1.10 - R * 298.15 / (2 * FARADAY) * math.log(0.0010 / 1.0),
    15: lambda: 20 * math.exp(50_000 / R * (1 / 320 - 1 / 300)),
    16: _xylene_signals,
    17: lambda: 2 * math.sqrt(2.5 * 3.5),
    18: lambda: 10 - 14 / 2 + 2 / 2 + 1,
    19: lambda: np.roots([4, 0, 0, -3.2e-11]).real.max(),
    20: _stereoisomers,
    21: lambda: 0.5 * 30 * 60 / FARADAY * 107.87,
    22: lambda: 0.512 * 0.10 * (1 + 2),
    23: lambda: 2 * math.sqrt(1 / 2500) * (1 - math.sqrt(1 / 2500)),
    24: _two_of_three,
    25: _codings,
    26: lambda: 100 * math.prod([1.9] * 25),
    27: lambda: 1.0 / (1.0 * (1 + 2.0) + 1.0),
    28: lambda: 1e3 * R * 310.15 / FARADAY * math.log(5 / 140),
    29: lambda: len(list(itertools.product("mp", repeat=4))),
    30: lambda: math.log(0.30) / math.log(0.5) * 5730,
}


def gpqa_03(choice: str) -> bool:
    """Whether a transition of hydrogen has the wavelength of 4 to 2 in He+ (Z = 2)."""
    high, low = (int(part) for part in choice.replace("from n = ", "").split(" to n = "))
    return math.isclose(1 / low**2 - 1 / high**2, 4 * (1 / 4 - 1 / 16))


# SuperGPQA-like: number -> nearest value, or a predicate over the choice's text -------------------


def _tosses():
    # States: nothing, one head; E = 1 + P E, solved as a linear system.
    transient = np.array([[0.5, 0.5], [0.5, 0.0]])
    return float(np.linalg.solve(np.eye(2) - transient, np.ones(2))[0])


def _cournot():
    quantities = np.arange(0, 90.01, 0.5)
    best = {q: quantities[np.argmax((100 - q - quantities - 10) * quantities)] for q in quantities}
    fixed = [q for q in quantities if best[q] == q]
    assert len(fixed) == 1
    return 100 - 2 * fixed[0]


def _order_quantity():
    sizes = np.arange(1, 1000)
    return int(sizes[np.argmin(1200 / sizes * 50 + sizes / 2 * 3)])


def _project():
    length = {"A": 3, "B": 5, "C": 2, "D": 4, "E": 6}
    before = {"A": "", "B": "A", "C": "A", "D": "BC", "E": "C"}
    end: dict[str, int] = {}
    for task in "ABCDE":
        end[task] = length[task] + max((end[one] for one in before[task]), default=0)
    return max(end.values())


def _seats(choice):
    votes, seats = [340, 280, 160, 60], [0, 0, 0, 0]
    for _ in range(7):
        quotients = [vote / (seat + 1) for vote, seat in zip(votes, seats)]
        seats[quotients.index(max(quotients))] += 1
    return choice == ", ".join(map(str, seats))


def _gini():
    incomes = [1, 1, 2, 4]
    pairs = [abs(a - b) for a in incomes for b in incomes]
    return sum(pairs) / len(pairs) / (2 * sum(incomes) / len(incomes))


def _ppv():
    people = 100_000
    ill = people * 2 // 100
    true, false = ill * 90 / 100, (people - ill) * 5 / 100
    return 100 * true / (true + false)


def _tautology(choice):
    return all(_truth(choice, p, q) for p, q in itertools.product((False, True), repeat=2))


def _truth(text, p, q):
    """Value of a formula: 'a -> b' is 'a <= b' between brackets; innermost brackets first."""
    while "(" in text:
        start = text.rindex("(")
        end = text.index(")", start)
        text = f"{text[:start]}{_truth(text[start + 1 : end], p, q)}{text[end + 1 :]}"
    if "->" in text:
        left, right = text.split("->")
        return (not _truth(left, p, q)) or _truth(right, p, q)
    return bool(eval(text, {"__builtins__": {}}, {"p": p, "q": q}))


def _syllogism(choice):
    """Certain in every model: M, S and P are sets of the eight kinds of things."""
    quantity, subject, *rest, predicate = choice.split()
    negated = "not" in rest
    bit = {"S": 1, "M": 2, "P": 4}
    for present in range(1 << 8):
        kinds = [k for k in range(8) if present >> k & 1]
        if any(k & bit["M"] and not k & bit["P"] for k in kinds):
            continue
        if not any(k & bit["S"] and not k & bit["P"] for k in kinds):
            continue
        some = [bool(k & bit[predicate]) for k in kinds if k & bit[subject]]
        holds = {
            "All": all(some),
            "No": not any(some),
            "Some": any(not one if negated else one for one in some),
        }[quantity]
        if not holds:
            return False
    return True


def _roman():
    value = {"M": 1000, "D": 500, "C": 100, "L": 50, "X": 10, "V": 5, "I": 1}
    numbers = [value[one] for one in "MCDXLIV"]
    later = [*numbers[1:], 0]
    return sum(-a if a < b else a for a, b in zip(numbers, later))


def _rhyme(choice):
    scheme = "ABABCDCDEFEFGG"
    line = int(choice.removeprefix("line "))
    return line != 10 and scheme[line - 1] == scheme[9]


def _lanchester():
    a, b, step = 50.0, 40.0, 1e-4
    while b > 0:
        a, b = a - b * step, b - a * step
    return a


def _trees(n):
    return 1 if n == 0 else sum(_trees(i) * _trees(n - 1 - i) for i in range(n))


def _opposition():
    # Angle between Earth and planet grows until it has made a full turn.
    return 1 / (1 / 1.0 - 1 / 1.6)


SUPER = {
    1: lambda: max(10 / 2 * x - 10 * max(0.0, x - 2) for x in np.linspace(0, 4, 401)),
    2: lambda: int.from_bytes(bytes([0xB7]), "big", signed=True),
    3: lambda: 3 * math.log2(1 + 31),
    4: lambda: abs(np.roots([1, 2 * 0.6 * 5, 25]).imag).max(),
    5: lambda: _trees(5),
    6: _opposition,
    7: lambda: float(np.linalg.det(np.ones((4, 4)) + 2 * np.eye(4))),
    8: _tosses,
    9: _ppv,
    10: lambda: next(t for t in range(1, 100) if 1 - 0.5 ** (t / 6) >= 0.9375),
    11: lambda: 140 - (100 + 15),
    12: lambda: ((40 - 60) / ((40 + 60) / 2)) / ((12 - 8) / ((12 + 8) / 2)),
    13: _cournot,
    14: lambda: 100 * (math.prod([1 + 0.12 / 12] * 12) - 1),
    15: _order_quantity,
    16: _project,
    17: lambda: 2 * 100 * 100 / 0.75 / 0.20,
    18: lambda: 3 * 90 / 0.46,
    19: _seats,
    20: _gini,
    21: lambda: 7 / len(list(itertools.combinations(range(8), 2))),
    22: lambda: (82 - 70) / 8 * 10 + 50,
    23: lambda: _spearman_brown(),
    24: _tautology,
    25: _syllogism,
    26: lambda choice: choice == f"{datetime.date(1900, 1, 1):%A}",
    27: _roman,
    28: lambda: 440 * math.exp(7 * math.log(2) / 12),
    29: _rhyme,
    30: _lanchester,
}


def _spearman_brown():
    """Reliability of the sum of two parallel parts with true variance 0.6 and error 0.4 each."""
    true = np.array([[0.6, 0.6], [0.6, 0.6]])
    error = np.diag([0.4, 0.4])
    return true.sum() / (true + error).sum()
