"""How numbers are written, in one place, so that terminal, page and card agree to the digit.

A measured value is rounded to what its standard error supports (two digits of the error), since
more digits claim a precision that was not measured. Sizes are decimal (1 MB = 10⁶ bytes), as disks
and the hub count them. A negative number carries a true minus sign.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from depthprune.manifest import DrawRecord, Estimate, Spread

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"
_STEPS = ("", "k", "M", "B", "T")
_BYTE_STEPS = ("bytes", "kB", "MB", "GB", "TB", "PB")
_LARGEST_PLAIN = 1e15


def format_count(count: int) -> str:
    """A count in four significant digits: `134.5M`, `6.74B`, `512`."""
    scaled, step = _scale(count, len(_STEPS))
    return f"{scaled:.4g}{_STEPS[step]}"


def format_bytes(count: int) -> str:
    """A number of bytes in decimal units: `226.6 MB`, `15.01 GB`, `12 bytes`."""
    scaled, step = _scale(count, len(_BYTE_STEPS))
    return f"{scaled:.4g} {_BYTE_STEPS[step]}"


def _scale(count: int, steps: int) -> tuple[float, int]:
    scaled, step = float(count), 0
    # 999.95 would be printed as 1000 by the four digits, so the step is taken a little early.
    while abs(scaled) >= 999.95 and step < steps - 1:
        scaled, step = scaled / 1000, step + 1
    return scaled, step


def decimals_of(stderr: float) -> int:
    """Decimal places that show two significant digits of a standard error, at least 0."""
    if not math.isfinite(stderr) or stderr <= 0:
        return 3
    places = 1 - math.floor(math.log10(stderr))
    # Rounding can carry into the next decade (0.0996 is 0.10), where one place fewer is enough.
    if round(stderr, places) >= 10.0 ** (2 - places):
        places -= 1
    return max(0, min(places, 9))


def fixed(value: float, places: int, *, sign: bool = False) -> str:
    """A number with fixed decimal places; NaN and infinities are words a reader knows.

    Args:
        value: Any float.
        places: Decimal places.
        sign: Also write a plus sign.
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) >= _LARGEST_PLAIN:
        return f"{value:.3g}".replace("-", MINUS)
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def with_error(value: float, stderr: float, *, sign: bool = False) -> str:
    """A value and its standard error, both to two digits of the error: `24.66 ± 0.61`.

    Where the error is not known (NaN, infinite, or 0 as for a single window), or the value is not
    finite, the value stands alone.
    """
    if not math.isfinite(value) or not math.isfinite(stderr) or stderr <= 0:
        return fixed(value, 3, sign=sign)
    places = decimals_of(stderr)
    return f"{fixed(value, places, sign=sign)} ± {fixed(stderr, places)}"


def rounded(value: float, stderr: float) -> str:
    """A value alone, to the places that its standard error supports."""
    return with_error(value, stderr).partition(" ± ")[0]


def evaluations(count: float) -> str:
    """How many removed sets were scored; one on some of the windows counts for that share."""
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"


def draws_words(draws: Sequence[DrawRecord], first: Estimate | None) -> str:
    """What the same search chose on further draws of the calibration, and what the draw decides.

    Args:
        draws: At least one.
        first: The checkpoint's set on the first draw.
    """
    same = sum(draw.jaccard == 1 for draw in draws)
    mean = sum(draw.jaccard for draw in draws) / len(draws)
    words = (
        f"{same} of {len(draws)} further draws chose the same blocks; mean overlap (Jaccard) "
        f"{mean:.2f}"
    )
    losses = [] if first is None else [first.loss, *(draw.loss_of_first for draw in draws)]
    if not losses or not all(map(math.isfinite, losses)):
        return words
    spread = with_error(statistics.fmean(losses), statistics.stdev(losses))
    return (
        f"{words}; loss without the removed blocks {spread} (standard deviation between "
        f"{len(losses)} draws)"
    )


def perplexity(estimate: Estimate) -> tuple[float, float] | None:
    """Perplexity and its standard error, exp(loss) × stderr by the delta method.

    Returns:
        None where the objective has no perplexity.
    """
    if estimate.perplexity is None:
        return None
    return estimate.perplexity, estimate.perplexity * estimate.stderr


def perplexity_ratio(increase: float, stderr: float) -> tuple[float, float]:
    """The factor by which perplexity grew, and its standard error, from a paired increase in loss.

    Args:
        increase: Increase in loss, nats a token.
        stderr: Its paired standard error, nats a token.
    """
    try:
        ratio = math.exp(increase)
    except OverflowError:
        ratio = math.inf
    return ratio, ratio * stderr


def change(before: float, after: float) -> str:
    """A relative change in percent: `−16%`, `+22%`, `−0.4%`; empty where there is no base."""
    if not before or not math.isfinite(before) or not math.isfinite(after):
        return ""
    percent = 100 * (after - before) / before
    return f"{fixed(percent, 0 if abs(percent) >= 9.5 else 1, sign=True)}%"


def times(before: float, after: float) -> str:
    """A ratio in a sentence: `1.22×`; empty where there is no base."""
    return f"{fixed(after / before, 2)}×" if before else ""


def factor(before: float, after: float) -> str:
    """A ratio as a change in a table: `× 1.22`; empty where there is no base."""
    return f"× {fixed(after / before, 2)}" if before else ""


def rate(tokens_a_second: float) -> str:
    """Tokens a second in three digits or whole numbers: `18.4`, `1,204`."""
    if not math.isfinite(tokens_a_second):
        return fixed(tokens_a_second, 0)
    return f"{tokens_a_second:,.{0 if tokens_a_second >= 99.95 else 1}f}"


def spread(value: Spread) -> str:
    """A median with its lowest and highest repeat: `1,204 (1,190–1,221)`."""
    return f"{rate(value.median)} ({rate(value.low)}{DASH}{rate(value.high)})"


def duration(seconds: float) -> str:
    """A length of time: `0.8 s`, `84 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Sorted block numbers as runs of neighbours, each its first and last."""
    found: list[tuple[int, int]] = []
    for block in sorted(blocks):
        if found and block == found[-1][1] + 1:
            found[-1] = (found[-1][0], block)
        else:
            found.append((block, block))
    return found


def block_list(blocks: Sequence[int]) -> str:
    """Block numbers for a reader: `3, 4, 12–14, 26`; `none` where there are none."""
    parts = []
    for first, last in runs(blocks):
        if last - first == 1:
            parts += [str(first), str(last)]
        else:
            parts.append(str(first) if first == last else f"{first}{DASH}{last}")
    return ", ".join(parts) or "none"


def axis_cap(values: Iterable[float]) -> float | None:
    """Where an axis should end so that a few huge values do not flatten the rest.

    A first block often costs a hundred times what the others do. Values above five times the upper
    quartile are cut off, if they are at most a fifth of all.

    Args:
        values: Increases in loss; those not finite are passed over.

    Returns:
        The largest value that is still drawn whole, or None where all of them can be.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    if len(finite) < 4:
        return None
    quartile = finite[(3 * (len(finite) - 1)) // 4]
    inside = [value for value in finite if value <= 5 * quartile]
    outside = len(finite) - len(inside)
    if quartile <= 0 or outside == 0 or outside > max(2, len(finite) // 5):
        return None
    return inside[-1]
