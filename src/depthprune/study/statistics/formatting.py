"""How the findings write numbers: to the digits that their intervals support."""

from __future__ import annotations

import math

from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable


def sized(size: IntervalEstimate, measure: str) -> str:
    """A size with its interval: `0.43 (0.41–0.45)`, or in points of accuracy `3.1 points (…)`."""
    scale, unit = (100, " points") if measure == "accuracy" else (1, "")
    ends, own = size.interval, _places(scale * size.value, 3)
    if isinstance(ends, NotEstimable):
        return f"{scale * size.value:.{own}f}{unit}"
    width = scale * (ends[1] - ends[0])
    places = min(own, _places(width, 2)) if width > 0 else own
    low, value, high = (f"{scale * x:.{places}f}" for x in (ends[0], size.value, ends[1]))
    return f"{value}{unit} ({low}–{high})"


def difference(value: IntervalEstimate, measure: str) -> str:
    """A signed difference with its interval: `0.010 (−0.015 to 0.027)`, or in points."""
    scale, unit = (100, " points") if measure == "accuracy" else (1, "")
    ends = value.interval
    if isinstance(ends, NotEstimable):
        return f"{_minus(scale * value.value, _places(abs(scale * value.value), 2))}{unit}"
    places = _span_places(scale * ends[0], scale * ends[1])
    low, middle, high = (_minus(scale * x, places) for x in (ends[0], value.value, ends[1]))
    return f"{middle}{unit} ({low} to {high})"


def ends(value: IntervalEstimate, measure: str) -> tuple[str, str]:
    """Both ends of a signed interval, as `difference` writes them; of one that has ends."""
    scale = 100 if measure == "accuracy" else 1
    interval = value.interval
    if isinstance(interval, NotEstimable):
        raise ValueError(interval.reason)
    places = _span_places(scale * interval[0], scale * interval[1])
    return _minus(scale * interval[0], places), _minus(scale * interval[1], places)


def margin(value: float, measure: str) -> str:
    """A margin of equivalence: `0.02 in log-perplexity`, `1 point of accuracy`."""
    if measure == "perplexity":
        return f"{value:g} in log-perplexity"
    points = 100 * value
    return f"{points:g} point{'' if points == 1 else 's'} of accuracy"


def p_value(p: float) -> str:
    """`p = 0.21`, three digits below a tenth: `p = 0.021`; `p < 0.001` below those."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _minus(value: float, places: int) -> str:
    words = f"{value:.{places}f}"
    if not float(words):
        words = words.lstrip("-")
    return words.replace("-", "\N{MINUS SIGN}")


def percent(share: float) -> str:
    """A share in percent, with one decimal, and two near the whole: `12.0%`, `99.97%`."""
    return f"{100 * max(0.0, share):.{1 if share < 0.995 else 2}f}%"


def signed(value: float) -> str:
    """Two decimals with a sign, a true minus where it is negative."""
    if not round(value, 2):
        return "0.00"
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _span_places(low: float, high: float) -> int:
    """As many places as the width supports, and enough for the sign of both ends to be seen."""
    places = _places(high - low if high - low > 1e-9 else 0.0, 2)
    while places < 6 and any(end and not round(end, places) for end in (low, high)):
        places += 1
    return places


def _places(value: float, digits: int) -> int:
    if not math.isfinite(value) or value <= 0:
        return 2
    return max(0, min(6, digits - 1 - math.floor(math.log10(value))))
