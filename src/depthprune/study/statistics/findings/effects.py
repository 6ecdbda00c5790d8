"""Sentences of effects: what changing one factor moves, and what that rests on.

None calls something an effect that its joint test does not allow (`any_claim`).
"""

from __future__ import annotations

from dataclasses import replace

from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import INTERACTIONS, Effect, StudyPart
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.findings.verdicts import (
    MEASURED,
    Finding,
    Numbers,
    margin_of,
    of_effect,
    of_estimate,
    separated,
    verdict,
)
from depthprune.study.statistics.intervals import ALPHA
from depthprune.study.statistics.noise import Difference
from depthprune.study.statistics.standings import Standing


def any_claim(part: StudyPart, measure: str) -> bool:
    """Whether a joint test allows an effect of any factor on a measure."""
    return any(
        isinstance(effect, Effect) and effect.claimed
        for (_, on), effect in part.effects.items()
        if on == measure
    )


def effect_findings(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """What there is to say of the effects on one measure, besides the verdict.

    Args:
        part: Of the study, with a balanced core.
        measure: `perplexity` or `accuracy`.
        where: Names the part at the beginning of a sentence.
    """
    says = (_rests, _standings, _gains, _interactions, _objective, _shares)
    return [each for say in says for each in say(part, measure, where)]


def _rests(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """Whether the answer hangs on a source: what its interval alone says, without each in turn."""
    without = part.without.get(measure, {})
    if not without or verdict(part, measure) in ("within noise", "unsaid"):
        return []
    more, margin = part.more[measure], margin_of(part, measure)
    whole = separated(more.estimate, margin) if isinstance(more, Difference) else None
    others = [name for name, each in without.items() if separated(each, margin) != whole]
    ordered = sorted(others or without, key=lambda name: without[name].value)
    told = [f"{fmt.difference(without[name], measure)} without {name}" for name in ordered]
    if others:
        lead, range_ = f"another without {' or without '.join(others)}", ", ".join(told)
    else:
        lead, range_ = "the same without any one source", f"from {told[0]} to {told[-1]}"
    sentence = (
        f"{where}The answer would be {lead}: the difference in {MEASURED[measure]} between "
        f"changing the calibration and changing the search is then {range_}."
    )
    numbers: Numbers = {f"without {name}": value.value for name, value in without.items()}
    return [Finding("rests", sentence, numbers)]


def _standings(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """Which calibrations may be the best, and how far the others are behind."""
    found = part.standings.get(measure, NotEstimable(""))
    effect = part.effects[("calibration", measure)]
    if isinstance(found, NotEstimable) or isinstance(effect, NotEstimable) or not effect.claimed:
        return []
    others = [each for each in found if not each.may_be_best and each.behind is not None]
    if not others:
        return []
    may = [each.calibration for each in found if each.may_be_best]
    among = f"is among {', '.join(may)}" if len(may) > 1 else f"is {may[0]}"
    told = [f"{each.calibration} {_behind(each, measure)}" for each in others]
    sentence = (
        f"{where}The best calibration for {MEASURED[measure]} on all that was judged {among} (95%, "
        f"for further draws); behind the best: {', '.join(told)}."
    )
    numbers = {f"{each.calibration} behind": each.behind.value for each in others if each.behind}
    return [Finding("standings", sentence, {**numbers, "may be the best": len(may)})]


def _behind(each: Standing, measure: str) -> str:
    return "" if each.behind is None else fmt.difference(each.behind, measure)


def _shares(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """How the variance is shared out, where there is an effect to speak of."""
    decomposition = part.variance[measure]
    if isinstance(decomposition, NotEstimable) or not any_claim(part, measure):
        return []
    shares = {name: decomposition.share(name) for name in ("calibration", "search", "draw")}
    known = {name: value for name, value in shares.items() if isinstance(value, float)}
    if not known:
        return []
    told = [f"the {name} {fmt.percent(value)}" for name, value in known.items()]
    first, value = next(iter(known.items()))
    told[0] = f"the {first} explains {fmt.percent(value)}"
    sentence = (
        f"{where}Of the variance of {MEASURED[measure]} within a model and k, "
        f"{', '.join(told)} (η²)."
    )
    return [Finding("shares", sentence, {f"{k} η²": v for k, v in known.items()})]


def _objective(part: StudyPart, measure: str, where: str) -> list[Finding]:
    effect = part.effects[("objective", measure)]
    if isinstance(effect, NotEstimable) or not effect.claimed:
        return []
    sentence = (
        f"{where}Changing the objective moved {MEASURED[measure]} by "
        f"{fmt.sized(effect.size, measure)}."
    )
    return [Finding("objective", sentence, of_effect("objective", effect))]


def _interactions(part: StudyPart, measure: str, where: str) -> list[Finding]:
    found = []
    for name in INTERACTIONS:
        p = part.interactions.get((name, measure), NotEstimable(""))
        if isinstance(p, NotEstimable) or not p < ALPHA:
            continue
        one, other = name.split(" × ")
        sentence = (
            f"{where}What the {other} does to {MEASURED[measure]} depends on the {one} "
            f"({fmt.p_value(p)}), so an average over it says less than its parts."
        )
        found.append(Finding("interaction", sentence, {f"{name} p": p}))
    return found


def _gains(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """Which searches are better or worse than the cheapest, and what the interval is of.

    Nothing where the search is within noise: of many intervals some leave out 0 by chance.
    """
    effect = part.effects[("search", measure)]
    if isinstance(effect, NotEstimable) or not effect.claimed:
        return []
    found = []
    for each in part.gains.get(measure, ()):
        ends = each.draws.interval
        if isinstance(ends, NotEstimable) or ends[0] <= 0 <= ends[1]:
            continue
        worse = ends[1] < 0
        spans = [f"{fmt.difference(_shown(each.draws, worse), measure)} for further draws"]
        for name, of in (("calibrations", each.calibrations), ("sources", each.sources)):
            alike = name == "sources" and each.sources.n == each.calibrations.n
            if not isinstance(of.interval, NotEstimable) and not alike:
                low, high = fmt.ends(_shown(of, worse), measure)
                spans.append(f"{low} to {high} for further {name}")
        sentence = (
            f"{where}{each.search} is {'worse' if worse else 'better'} than {each.against} "
            f"in {MEASURED[measure]} on the same draws, by {', '.join(spans)} (95% intervals)."
        )
        numbers = of_estimate("gain", each.draws)
        if each.interaction is not None:
            by = [
                f"{fmt.difference(_shown(of, worse), measure)} under {name}"
                for name, of in each.by_objective.items()
            ]
            sentence = f"{sentence[:-1]}; {', '.join(by)}."
            numbers |= of_estimate("gain's difference between objectives", each.interaction)
        found.append(Finding("gain", sentence, numbers))
    return found


def _shown(value: IntervalEstimate, turned: bool) -> IntervalEstimate:
    """An estimate, with the other sign if wanted."""
    ends = value.interval
    if not turned:
        return value
    if isinstance(ends, NotEstimable):
        return replace(value, value=-value.value)
    return replace(value, value=-value.value, low=-ends[1], high=-ends[0])
