"""The study's question in one sentence: did calibration or search matter more, on one measure?

One is said to matter more only if it can be told from noise and the interval of the difference
leaves out 0; with an effect but without that they are `comparable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from depthprune.study import words
from depthprune.study.answers import Estimate, Unsaid
from depthprune.study.effects import Effect, Part

Verdict: TypeAlias = Literal["calibration", "search", "comparable", "within noise", "unsaid"]
_VERDICTS: dict[Verdict, str] = {
    "calibration": "Calibration mattered more than search",
    "search": "Search mattered more than calibration",
    "comparable": "Calibration and search mattered comparably",
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
        topic: `verdict`, `shares`, `objective`, `blocks`, `ranks`, `transfer`, `cost`,
            `additivity`, or `missing` for what cannot be said.
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


def verdict(part: Part, measure: str) -> Verdict:
    """What a part says of calibration against search on one measure."""
    calibration, search = part.effects["calibration", measure], part.effects["search", measure]
    told = [isinstance(each, Effect) and each.untested is None for each in (calibration, search)]
    if not all(told) or isinstance(part.floors[measure], Unsaid):
        return "unsaid"
    claimed = [each.stands for each in (calibration, search) if isinstance(each, Effect)]
    if not any(claimed):
        return "within noise"
    more = part.more[measure]
    ends = more.interval if isinstance(more, Estimate) else more
    if isinstance(ends, Unsaid):
        return "comparable"
    if ends[0] > 0 and claimed[0]:
        return "calibration"
    return "search" if ends[1] < 0 and claimed[1] else "comparable"


def verdict_of(part: Part, measure: str, where: str) -> Finding:
    """The same as a sentence.

    Args:
        part: Of a table.
        measure: `perplexity` or `accuracy`.
        where: What the sentence begins with, where there are several parts.
    """
    told = verdict(part, measure)
    calibration, search = part.effects["calibration", measure], part.effects["search", measure]
    floor = part.floors[measure]
    moved = [
        f"changing the {name} {_moved(effect, measure, floor, first=first)}"
        for name, effect, first in (
            ("calibration", calibration, True),
            ("search", search, isinstance(calibration, Unsaid)),
        )
    ]
    draws = (
        f"what the draw alone does is not known ({floor.reason})"
        if isinstance(floor, Unsaid)
        else f"two draws of the same calibration differ by {words.sized(floor, measure)}"
    )
    lead = f"{where}{_lead(told, calibration, search, MEASURED[measure])}"
    numbers = {**of_effect("calibration", calibration), **of_effect("search", search)}
    if isinstance(floor, Estimate):
        numbers |= of_estimate("floor", floor)
    sentence = f"{lead}: {moved[0]}, {moved[1]}; {draws}."
    return Finding("verdict", sentence, numbers, told, lead)


def _lead(
    told: Verdict, calibration: Effect | Unsaid, search: Effect | Unsaid, measured: str
) -> str:
    """The answer in short. Two effects are comparable only where both can be told from noise."""
    if told == "comparable":
        pair = {"Calibration": calibration, "Search": search}
        name, *others = [n for n, e in pair.items() if isinstance(e, Effect) and e.stands]
        if not others:
            other = "search" if name == "Calibration" else "calibration"
            return f"{name} mattered for {measured}, but not measurably more than {other}"
    return f"{_VERDICTS[told]} for {measured}"


def _moved(effect: Effect | Unsaid, measure: str, floor: Estimate | Unsaid, *, first: bool) -> str:
    if isinstance(effect, Unsaid):
        return f"was not measured ({effect.reason})"
    what = f"moved {MEASURED[measure]} by " if first else "by "
    noise = "" if effect.stands or effect.untested else f", which {_noise(effect, floor)}"
    if effect.claimed and len(effect.claimed) < len(effect.p):
        on = ", ".join(effect.claimed)
        noise = f" (told from noise on {on} only)" if effect.stands else f"{noise} except on {on}"
    why = f", which is not tested ({effect.untested.reason})" if effect.untested else ""
    if effect.untested and effect.untested.reason.startswith("no configuration has two draws"):
        why = ""
    return f"{what}{words.sized(effect.size, measure)}{noise}{why}"


def _noise(effect: Effect, floor: Estimate | Unsaid) -> str:
    """Why an effect does not stand: it is no larger than the draw's, or the draws are too few."""
    if isinstance(floor, Unsaid) or effect.size.value <= floor.value or effect.claimed:
        return "is within noise"
    return f"so few draws cannot tell from noise (p = {min(effect.p.values()):.2f})"


def of_effect(name: str, effect: Effect | Unsaid) -> Numbers:
    """What a sentence on an effect rests on: its size, and p on every text."""
    if isinstance(effect, Unsaid):
        return {}
    found = of_estimate(name, effect.size)
    return found | {f"{name} p, {response}": p for response, p in effect.p.items()}


def of_estimate(name: str, value: Estimate) -> Numbers:
    """A value, how many it is the mean of, and its interval where there is one."""
    ends = value.interval
    more: Numbers = {name: value.value, f"{name} n": value.n}
    return more if isinstance(ends, Unsaid) else more | {f"{name} interval": ends}
