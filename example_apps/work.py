"""What the shops compute. Each function takes a known amount of CPU time, whatever the machine.

So what a profile says about a route can be compared with the truth.
"""

from __future__ import annotations

import math
import time
from typing import Final

__all__ = [
    "CONFIRM_CPU_S",
    "RECOMMEND_CPU_S",
    "REPORT_CPU_S",
    "SUPPLIER_WAIT_S",
    "confirm",
    "recommend",
    "report",
]

RECOMMEND_CPU_S: Final = 0.060
REPORT_CPU_S: Final = 0.040
CONFIRM_CPU_S: Final = 0.040
SUPPLIER_WAIT_S: Final = 0.050

_DIMENSIONS: Final = 64


def recommend(product: int, budget_s: float = RECOMMEND_CPU_S) -> list[int]:
    """Return the products most like ``product``, as good as the CPU budget allows."""
    deadline = time.thread_time() + budget_s
    best: list[tuple[float, int]] = []
    mine = _features(product)
    candidate = 0
    while time.thread_time() < deadline:
        candidate += 1
        theirs = _features(candidate)
        likeness = sum(a * b for a, b in zip(mine, theirs, strict=True))
        best = sorted([*best, (likeness, candidate)], reverse=True)[:5]
    return [number for _, number in best]


def _features(product: int) -> list[float]:
    return [math.sin(product * (dimension + 1)) for dimension in range(_DIMENSIONS)]


def report(year: int, budget_s: float = REPORT_CPU_S) -> dict[str, float]:
    """Return sums of made-up sales; allocates a lot of small objects."""
    deadline = time.thread_time() + budget_s
    sales: list[dict[str, object]] = []
    total = 0.0
    while time.thread_time() < deadline:
        day = len(sales)
        row: dict[str, object] = {"day": day, "name": f"{year}-{day}", "tags": [str(day)] * 20}
        sales.append(row)
        total += math.sqrt(day)
        if len(sales) >= 200:
            sales.clear()
    return {"year": year, "total": round(total, 2)}


def confirm(order: int, budget_s: float = CONFIRM_CPU_S) -> str:
    """Return the confirmation of an order, set in type with great care."""
    deadline = time.thread_time() + budget_s
    text = ""
    while time.thread_time() < deadline:
        words = f"Thank you for your order {order}. It will reach you soon.".split()
        text = "\n".join(" ".join(words[i : i + 4]).center(40) for i in range(0, len(words), 4))
    return text
