"""Answers of the practice suite computed afresh: brute force, numerics, enumeration.

Independent of the derivations in the data files' field `check`: nothing here uses their formulas
where counting or integrating does as well.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

# AIME-like: number -> answer ---------------------------------------------------------------------


def divisors(n: int) -> int:
    return sum(n % d == 0 for d in range(1, n + 1))


def aime_01():
    return sum(7200 % a == 0 and (7200 // a) % a == 0 for a in range(1, 7201))


def aime_02():
    squares = {x * x - y * y for x in range(1100) for y in range(x + 1)}
    return sum(n in squares for n in range(6, 2001, 6))


def aime_03():
    ways = {(0, 0): 1}
    for x, y in itertools.product(range(6), range(5)):
        if (x, y) == (0, 0):
            continue
        before = ((x - 1, y), (x, y - 1), (x - 1, y - 1))
        ways[x, y] = 0 if (x, y) == (2, 2) else sum(ways.get(place, 0) for place in before)
    return ways[5, 4]


def aime_04():
    return sum(map(int, str(10**61 - 61)))


def aime_05():
    return sum(k * math.factorial(k) for k in range(1, 50)) % 53


def aime_06():
    # B at the origin, C at (21, 0), A where the circles about them meet.
    foot = (13**2 - 20**2 + 21**2) / (2 * 21)
    return round(foot * (21 - foot) + (13**2 - foot**2))


def aime_07():
    def mean(red, blue):
        if red == 0:
            return Fraction(0)
        total = red + blue
        rest = Fraction(red, total) * mean(red - 1, blue)
        return 1 + rest + (Fraction(blue, total) * mean(red, blue - 1) if blue else 0)

    value = mean(5, 7)
    return value.numerator + value.denominator


def aime_08():
    return sum(not mask & (mask >> 3) for mask in range(1 << 12))


def aime_09():
    maps = itertools.product(range(5), repeat=5)
    return sum(all(f[f[x]] == f[x] for x in range(5)) for f in maps)


def aime_10():
    return sum(n for n in range(1, 1000) if math.isqrt(n * n + 45) ** 2 == n * n + 45)


def aime_11():
    matrix = np.linalg.matrix_power(np.array([[4, -1], [1, 0]], dtype=object), 30)
    return int(matrix[1, 0]) % 1000


def aime_12():
    def fill(done, mask):
        """Ways to fill ten columns, `mask` marking cells of column `done` already covered."""
        if done == 10:
            return int(mask == 0)
        if mask == 3:
            return fill(done + 1, 0)
        if mask:
            return fill(done + 1, 3 - mask)
        both = fill(done + 1, 3) * 2  # two lying dominoes, or a square
        return fill(done + 1, 0) + both

    return fill(0, 0)


def aime_13():
    power = {0: (1, 0), 1: (0, 1), 2: (-1, 0), 3: (0, -1)}
    pairs = itertools.product(range(1, 32), repeat=2)
    return sum(all(p + q == 0 for p, q in zip(power[a % 4], power[b % 4])) for a, b in pairs)


def aime_14():
    return next(
        x
        for x in range(2, 1000)
        if abs(math.log2(x) + math.log(x, 4) + math.log(x, 16) - 14) < 1e-9
    )


def aime_15():
    def is_isosceles(triple):
        sides = [min((p - q) % 12, (q - p) % 12) for p, q in itertools.combinations(triple, 2)]
        return len(set(sides)) < 3

    return sum(map(is_isosceles, itertools.combinations(range(12), 3)))


def aime_16():
    return 7**2025 % 1000


def aime_17():
    return sum(math.prod(roll) % 12 == 0 for roll in itertools.product(range(1, 7), repeat=4))


def aime_18():
    x = (13**2 - 20**2 + 21**2) / (2 * 21)  # foot of the height over the difference of the bases
    corners = [(0, 0), (31, 0), (10 + x, math.sqrt(169 - x * x)), (x, math.sqrt(169 - x * x))]
    assert math.isclose(math.dist(corners[1], corners[2]), 20)
    twice = sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(corners, corners[1:] + corners[:1]))
    return round(twice / 2)


def aime_19():
    return sum(divisors(n) == 6 for n in range(1, 501))


def aime_20():
    roots = np.roots([1, -6, 5, -7])
    value = np.sum(roots**3)
    assert abs(value.imag) < 1e-9
    return round(value.real)


def aime_21():
    orders = itertools.permutations(range(1, 7))
    return sum(p[0] != 2 and all(p[i] != i + 1 for i in range(6)) for p in orders)


def aime_22():
    return sum("111" not in format(n, "010b") for n in range(1 << 10))


def aime_23():
    return next(n for n in range(1, 2000) if (n % 7, n % 11, n % 13) == (3, 5, 8))


def aime_24():
    return sum(3 * x + 4 * y < 120 for x in range(1, 40) for y in range(1, 30))


def aime_25():
    return sum(x + 2 * y + 3 * z == 40 for x in range(41) for y in range(21) for z in range(14))


def aime_26():
    def apart(order):
        return all(a // 2 != b // 2 for a, b in itertools.pairwise(order))

    return sum(map(apart, itertools.permutations(range(8)))) % 1000


def aime_27():
    return sum(bin(n).count("1") for n in range(128))


def aime_28():
    span = range(-12, 13)
    return sum(abs(x) + 2 * abs(y) <= 12 for x in span for y in span)


def aime_29():
    a = 2
    for _ in range(7):
        a = a * a - a + 1
    return a % 1000


def aime_30():
    # The centre on the axis is as far from the base as from the slant side.
    low, high = 0.0, 20.0
    for _ in range(100):
        h = (low + high) / 2
        if h < (20 - h) * 15 / 25:
            low = h
        else:
            high = h
    ratio = Fraction((4 * low**3) / (15**2 * 20)).limit_denominator(100)
    return ratio.numerator + ratio.denominator


AIME = [globals()[f"aime_{n:02d}"] for n in range(1, 31)]
