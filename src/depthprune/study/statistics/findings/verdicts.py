"""The study's question in one sentence: did calibration or search matter more, on one measure?

One mattered more where it can be told from noise and the interval of the difference leaves out 0
(and its p, adjusted for the part's measures, agrees). They mattered comparably where the whole
interval lies within the margin that the plan states, which is two one-sided tests (Schuirmann
1987) at 2.5% each; a difference can be told from 0 and still lie within it, and is then said to be
alike. Where neither holds they cannot be separated, or told from noise at all. Difference and
interval are always given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import Effect, StudyPart
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import ALPHA
from depthprune.study.statistics.noise import Difference

Verdict: TypeAlias = Literal[
    "calibration", "search", "comparable", "not separable", "within noise", "unsaid"
]
_VERDICTS: dict[Verdict, str] = {
    "calibration": "Calibration mattered more than search",
    "search": "Search mattered more than calibration",
    "comparable": "Calibration and search mattered comparably",
    "not separable": "Calibration and search cannot be separated",
    "within noise": "Neither calibration nor search can be told from noise",
    "unsaid": "Whether calibration or search matters more cannot be said",
}
MEASURED = {"perplexity": "log-perplexity", "accuracy": "accuracy"}
"""What each measure is called in a sentence."""

Numbers: TypeAlias = dict[str, float | tuple[float, float]]


@dataclass(frozen=True)
class Finding:
    """A sentence for a page.

    Attributes:
        topic: `verdict`, `rests`, `own`, `standings`, `shares`, `objective`, `interaction`, `gain`,
            `blocks`, `ranks`, `transfer`, `cost`, `additivity`, or `missing` for what cannot be
            said.
        sentence: Plain text with a full stop.
        numbers: What it rests on, by name; an interval is two values.
        verdict: On calibration against search, where the sentence is about that.
        lead: How the sentence begins, where that is the answer in short; empty otherwise.
    """

    topic: str
    sentence: str
    numbers: Numbers
    verdict: Verdict | None = None
    lead: str = ""


def verdict(part: StudyPart, measure: str) -> Verdict:
    """What a part says of calibration against search on one measure."""
    more = part.more.get(measure, NotEstimable(""))
    if isinstance(more, NotEstimable) or isinstance(more.p, NotEstimable):
        return "unsaid"
    ends = more.estimate.interval
    if isinstance(ends, NotEstimable):
        return "unsaid"
    if not _anything(part, measure):
        return "within noise"
    told = separated(more.estimate, margin_of(part, measure))
    if told not in ("calibration", "search"):
        return told
    effect = part.effects.get((told, measure))
    claimed = isinstance(effect, Effect) and effect.claimed
    return told if more.p < ALPHA and claimed else "not separable"


def separated(more: IntervalEstimate, margin: float) -> Verdict:
    """What an interval alone says.

    Args:
        more: How much more the calibration moves than the search.
        margin: What counts as alike.
    """
    ends = more.interval
    if isinstance(ends, NotEstimable):
        return "unsaid"
    if -margin < ends[0] <= ends[1] < margin:
        return "comparable"
    if ends[0] <= 0 <= ends[1]:
        return "not separable"
    return "calibration" if ends[0] > 0 else "search"


def margin_of(part: StudyPart, measure: str) -> float:
    """The largest difference in a measure that counts as alike."""
    return part.margin.accuracy if measure == "accuracy" else part.margin.perplexity


def _anything(part: StudyPart, measure: str) -> bool:
    """Whether calibration, search or what they do together can be told from noise."""
    effects = [part.effects.get((factor, measure)) for factor in ("calibration", "search")]
    together = part.interactions.get(("calibration × search", measure), NotEstimable(""))
    return any(isinstance(each, Effect) and each.claimed for each in effects) or (
        not isinstance(together, NotEstimable) and together < ALPHA
    )


def verdict_of(part: StudyPart, measure: str, where: str, *, called: str = "") -> Finding:
    """The same as a sentence.

    Args:
        part: Of a table.
        measure: `perplexity` or `accuracy`.
        where: What the sentence begins with, where there are several parts.
        called: What is measured, where that is not what the measure is called.
    """
    told = verdict(part, measure)
    lead = f"{where}{_VERDICTS[told]} for {called or MEASURED[measure]}"
    numbers: Numbers = {}
    said: list[str] = []
    for name in ("calibration", "search"):
        effect = part.effects.get((name, measure), NotEstimable("no cell was judged on it"))
        subject = "" if numbers else "it" if called else MEASURED[measure]
        said.append(_moved(name, effect, measure, subject))
        numbers |= of_effect(name, effect)
    more, floor = part.more.get(measure), part.floors.get(measure)
    if isinstance(more, Difference):
        said.append(f"a difference of {fmt.difference(more.estimate, measure)}")
        numbers |= of_estimate("difference", more.estimate)
        if not isinstance(more.p, NotEstimable):
            numbers["difference p"] = more.p
    if isinstance(floor, IntervalEstimate):
        draws = f"two draws of one configuration differ by {fmt.sized(floor, measure)}"
        numbers |= of_estimate("floor", floor)
    else:
        reason = floor.reason if isinstance(floor, NotEstimable) else "no cell was judged on it"
        draws = f"what the draw alone does is not known ({reason})"
    if told == "comparable":
        margin = margin_of(part, measure)
        draws += f"; alike means within {fmt.margin(margin, measure)}"
        numbers["margin"] = margin
    return Finding("verdict", f"{lead}: {', '.join(said)}; {draws}.", numbers, told, lead)


def _moved(name: str, effect: Effect | NotEstimable, measure: str, what_moved: str) -> str:
    what = f"changing the {name} "
    if isinstance(effect, NotEstimable):
        return f"{what}was not measured ({effect.reason})"
    size = fmt.sized(effect.size, measure)
    moved = f"moved {what_moved} by {size}" if what_moved else f"by {size}"
    if isinstance(effect.p, NotEstimable):
        return f"{what}{moved}, which is not tested ({effect.p.reason})"
    noise = "" if effect.claimed else f", which is within noise ({fmt.p_value(effect.p)})"
    return f"{what}{moved}{noise}"


def of_effect(name: str, effect: Effect | NotEstimable) -> Numbers:
    """What a sentence on an effect rests on: its size and its adjusted p."""
    if isinstance(effect, NotEstimable):
        return {}
    more: Numbers = {} if isinstance(effect.p, NotEstimable) else {f"{name} p": effect.p}
    return of_estimate(name, effect.size) | more


def of_estimate(name: str, value: IntervalEstimate) -> Numbers:
    """A value, how many it is the mean of, and its interval where there is one."""
    ends = value.interval
    more: Numbers = {name: value.value, f"{name} n": value.n}
    return more if isinstance(ends, NotEstimable) else more | {f"{name} interval": ends}
