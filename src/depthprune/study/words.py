"""How the findings write numbers: to the digits that their intervals support."""

from __future__ import annotations

import math

from depthprune.study.answers import Estimate, Unsaid


def sized(size: Estimate, measure: str) -> str:
    """A size with its interval: `0.43 (0.41–0.45)`, or in points of accuracy `3.1 points (…)`."""
    scale, unit = (100, " points") if measure == "accuracy" else (1, "")
    ends, own = size.interval, _places(scale * size.value, 3)
    if isinstance(ends, Unsaid):
        return f"{scale * size.value:.{own}f}{unit}"
    places = min(own, _places(scale * (ends[1] - ends[0]), 2))
    low, value, high = (f"{scale * x:.{places}f}" for x in (ends[0], size.value, ends[1]))
    return f"{value}{unit} ({low}–{high})"


def percent(share: float) -> str:
    """A share in percent, with one decimal, and two near the whole: `12.0%`, `99.97%`."""
    return f"{100 * max(0.0, share):.{1 if share < 0.995 else 2}f}%"


def signed(value: float) -> str:
    """Two decimals with a sign, a true minus where it is negative."""
    if not round(value, 2):
        return "0.00"
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _places(value: float, digits: int) -> int:
    if not math.isfinite(value) or value <= 0:
        return 2
    return max(0, min(6, digits - 1 - math.floor(math.log10(value))))
