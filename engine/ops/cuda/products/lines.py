"""Lines that blocks of several formats have in common; see `blocks`."""

from __future__ import annotations

Lines = list[str]


def zero(nt: int, sums: str = "c") -> Lines:
    return [f"{sums}{j}_{i} = i32(0)" for j in range(nt) for i in range(4)]


def scaled(nt: int, low: str, high: str, sums: str = "c", sign: str = "") -> Lines:
    """s += c * (row factor * activation scale)."""
    lines = []
    for j in range(nt):
        lines += [f"x{i} = ld_nc_f32(da{j}_{i} + kd)" for i in range(2)]
        for i in range(4):
            factor = low if i < 2 else high
            product = f"mul_rn({factor}, x{i & 1})"
            lines.append(f"s{j}_{i} = fma_rn(i2f({sums}{j}_{i}), {sign}{product}, s{j}_{i})")
    return lines


def half(target: str, address: str) -> str:
    return f"{target} = h2f(ld_nc_u16({address}))"
