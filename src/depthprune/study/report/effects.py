"""The tables of what factors move and what searches gain, with what each interval is of."""

from __future__ import annotations

from depthprune.study.report.table_model import (
    DASH,
    TableCell,
    TextTable,
    interval,
    number,
    p_value,
)
from depthprune.study.statistics.effects import (
    FACTORS,
    INTERACTIONS,
    Effect,
    StudyPart,
)
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.findings.verdicts import MEASURED, verdict
from depthprune.study.statistics.intervals import ALPHA


def effect_table(part: StudyPart) -> TextTable:
    """What each factor moves, its interval and joint test, and the difference asked for."""
    rows = []
    for measure in part.measures:
        scale, places = (100, 2) if measure == "accuracy" else (1, 3)
        unit = "points of accuracy" if measure == "accuracy" else "log-perplexity"
        named: list[
            tuple[str, IntervalEstimate | NotEstimable, float | NotEstimable | None, str]
        ] = [("draw", part.floors.get(measure, _NOTHING), None, "the noise floor")]
        for factor in FACTORS:
            effect = part.effects.get((factor, measure), _NOTHING)
            if isinstance(effect, NotEstimable):
                named.append((factor, effect, effect, f"cannot be said: {effect.reason}"))
            else:
                named.append((factor, effect.size, effect.p, _claim(effect)))
        more = part.more.get(measure, _NOTHING)
        if isinstance(more, NotEstimable):
            named.append(("calibration less search", more, more, f"cannot be said: {more.reason}"))
        else:
            told = _VERDICT_WORDS[verdict(part, measure)]
            named.append(("calibration less search", more.estimate, more.p, told))
        for name, size, p, claim in named:
            value = size if isinstance(size, NotEstimable) else size.value
            cells = (
                number(value, places, scale=scale),
                interval(size, scale),
                number(p) if p is None else p_value(p),
            )
            rows.append((TableCell(f"{name}, {unit}"), *cells, TableCell(claim)))
        for name in INTERACTIONS:
            p = part.interactions.get((name, measure), _NOTHING)
            claim = (
                "cannot be said" if isinstance(p, NotEstimable) else "yes" if p < ALPHA else "no"
            )
            rows.append((TableCell(f"{name}, {unit}"), DASH, DASH, p_value(p), TableCell(claim)))
    head = ("Changing the", "Moves by", "95% interval", "p, adjusted", "Called an effect")
    caption = "What changing one thing and the draw moves, all else equal"
    return TextTable(caption, head, tuple(rows))


_NOTHING = NotEstimable("it was not measured")
_VERDICT_WORDS = {
    "calibration": "calibration mattered more",
    "search": "search mattered more",
    "comparable": "alike within the margin",
    "not separable": "cannot be separated",
    "within noise": "within noise",
    "unsaid": "cannot be said",
}


def _claim(effect: Effect) -> str:
    if isinstance(effect.p, NotEstimable):
        return f"cannot be said: {effect.p.reason}"
    return "yes" if effect.claimed else "no"


def gain_table(part: StudyPart) -> TextTable:
    """What searches gain on the cheapest, and what each interval is of."""
    rows: list[tuple[TableCell, ...]] = []
    for measure in part.measures:
        scale, places = (100, 2) if measure == "accuracy" else (1, 3)
        for each in part.gains.get(measure, ()):
            found = {
                "further draws": each.draws,
                "further calibrations": each.calibrations,
                "further sources": each.sources,
                **{f"further draws, {name}": of for name, of in each.by_objective.items()},
            }
            if each.interaction is not None:
                first, second = each.by_objective
                found[f"further draws, {first} less {second}"] = each.interaction
            for name, of in found.items():
                label = f"{each.search} on {each.against}, {MEASURED[measure]}"
                cells = (number(of.value, places, scale=scale), interval(of, scale))
                rows.append((TableCell(label), TableCell(name), *cells, TableCell(str(of.n), of.n)))
    head = ("Gain of", "Interval for", "Gain", "95% interval", "Units")
    return TextTable("What a search gains on another, on the same draws", head, tuple(rows))
