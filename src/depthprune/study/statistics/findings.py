"""From a table to plain sentences, each with the numbers behind it.

A sentence calls something an effect only where its joint test allows it (`effects`). Everything
else is given as a figure with its interval, or as the reason why it cannot be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from depthprune.study.plan import Margin
from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import (
    INTERACTIONS,
    Effect,
    StudyPart,
    analyse,
)
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.intervals import ALPHA
from depthprune.study.statistics.noise import Difference
from depthprune.study.statistics.overlap import agreement
from depthprune.study.statistics.quality import additivity_gap, quality_against_cost
from depthprune.study.statistics.ranks import perplexity_ranks
from depthprune.study.statistics.transfer import home
from depthprune.study.statistics.verdicts import (
    MEASURED,
    Finding,
    Numbers,
    of_effect,
    of_estimate,
    verdict,
    verdict_of,
)
from depthprune.study.table import Row


def findings(rows: Sequence[Row], margin: Margin | None = None) -> list[Finding]:
    """All that a table says, the answer to the study's question first.

    Args:
        rows: Of the table.
        margin: What counts as alike, as the plan states it.
    """
    return findings_of(analyse(rows, margin), rows)


def findings_of(parts: Sequence[StudyPart], rows: Sequence[Row]) -> list[Finding]:
    """The same, of parts that are analysed already.

    Args:
        parts: By `analyse`.
        rows: The table they are of.
    """
    if not parts:
        return [_missing("No cell of the table ran, so nothing can be said.", rows)]
    found: list[Finding] = []
    for part in parts:
        where = _where(part, parts)
        for measure in part.measures:
            found.append(verdict_of(part, measure, where))
            if isinstance(part.core, NotEstimable):
                continue
            for say in (_rests, _gains, _interactions, _objective, _shares):
                found += say(part, measure, where)
        found += _left_out(part, where)
        if not part.measures:
            found.append(Finding("missing", f"{where}The cells share no evaluation.", {}, "unsaid"))
        if not part.data.rows:
            continue
        found += [
            each
            for make in (_blocks, _ranks, _transfer, _cost)
            if (each := make(part, where)) is not None
        ]
    found += _additivity(rows)
    if any(row.error is not None for row in rows):
        found.append(_missing("", rows))
    # What an answer rests on stands beside it.
    order = {"verdict": 0, "rests": 0, "missing": 3}
    return sorted(
        found, key=lambda each: 1 if each.verdict == "unsaid" else order.get(each.topic, 2)
    )


def _where(part: StudyPart, parts: Sequence[StudyPart]) -> str:
    several = len({each.model for each in parts}) > 1, len({each.kind for each in parts}) > 1
    names = [part.model] * several[0] + [f"{part.kind} calibrations"] * several[1]
    return f"{', '.join(names)}: " if names else ""


def _any_claim(part: StudyPart, measure: str) -> bool:
    return any(
        isinstance(effect, Effect) and effect.claimed
        for (_, on), effect in part.effects.items()
        if on == measure
    )


def _rests(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """Which source carries the difference between calibration and search."""
    without = part.without.get(measure, {})
    if not without or verdict(part, measure) in ("within noise", "unsaid"):
        return []
    least = min(without, key=lambda name: without[name].value)
    most = max(without, key=lambda name: without[name].value)
    told = [f"{fmt.difference(without[name], measure)} without {name}" for name in (least, most)]
    more = part.more[measure]
    turned = isinstance(more, Difference) and any(
        each.value * more.estimate.value < 0 for each in without.values()
    )
    lead = "Single sources decide which is larger" if turned else "No single source decides it"
    sentence = (
        f"{where}{lead}: without any one source the difference in {MEASURED[measure]} between "
        f"changing the calibration and changing the search is from {told[0]} to {told[1]}."
    )
    numbers: Numbers = {f"without {name}": value.value for name, value in without.items()}
    return [Finding("rests", sentence, numbers)]


def _shares(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """How the variance is shared out, where there is an effect to speak of."""
    decomposition = part.variance[measure]
    if isinstance(decomposition, NotEstimable) or not _any_claim(part, measure):
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
            f"(p = {fmt.p_value(p)}), so an average over it says less than its parts."
        )
        found.append(Finding("interaction", sentence, {f"{name} p": p}))
    return found


def _gains(part: StudyPart, measure: str, where: str) -> list[Finding]:
    """Which searches are better or worse than the cheapest, and what the interval is of."""
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


def _blocks(part: StudyPart, where: str) -> Finding | None:
    names = {
        "search": "two searches on the same draw",
        "draw": "two draws of the same calibration",
        "calibration": "two calibrations under the same search",
    }
    of = part.compared
    told, chance = [], math.nan
    numbers: Numbers = {}
    for name, pair in names.items():
        found = agreement(of, name)
        if not isinstance(found, NotEstimable):
            told.append(f"{pair} {found.mean:.2f}")
            numbers[f"Jaccard between {name}s"] = found.mean
            chance = found.chance
    if not told:
        return None
    sentence = (
        f"{where}Removed sets agree by a Jaccard index of: {', '.join(told)}; by chance "
        f"{chance:.2f}."
    )
    return Finding("blocks", sentence, {**numbers, "Jaccard by chance": chance})


def _ranks(part: StudyPart, where: str) -> Finding | None:
    found = perplexity_ranks(part.data)
    if isinstance(found, NotEstimable):
        return None
    rho = found.spearman
    ends = rho.interval
    if isinstance(ends, NotEstimable):
        return None
    if ends[0] <= 0 <= ends[1] or not all(_any_claim(part, each) for each in part.measures):
        # Ranks of cells that differ by noise alone say nothing, however well they agree.
        lead = "Whether a better perplexity goes with a better accuracy cannot be told"
    else:
        lead = f"A better perplexity went with a {'better' if ends[0] > 0 else 'worse'} accuracy"
    interval = f"ρ = {fmt.signed(rho.value)} ({fmt.signed(ends[0])} to {fmt.signed(ends[1])})"
    return Finding("ranks", f"{where}{lead}: {interval}.", of_estimate("ρ", rho))


def _transfer(part: StudyPart, where: str) -> Finding | None:
    if isinstance(part.core, NotEstimable) or "perplexity" not in part.measures:
        return None
    found = home(part.core.of("perplexity"), part.data, lower_is_better=True)
    if isinstance(found, NotEstimable):
        return None
    ends = found.gain.interval
    size = fmt.difference(found.gain, "perplexity")
    if isinstance(ends, NotEstimable):
        lead = "What calibrating on a text's own domain saves has no interval"
    elif ends[0] <= 0 <= ends[1]:
        lead = "Calibrating on a text's own domain made no difference that can be told from noise"
    else:
        better = "better" if ends[0] > 0 else "worse"
        lead = f"Calibrating on a text's own domain made it {better}"
    sentence = (
        f"{where}{lead}: {size} in log-perplexity saved, beyond what the calibration does "
        "everywhere."
    )
    numbers = of_estimate("gain at home", found.gain)
    return Finding(
        "transfer", sentence, numbers | {"own domain": found.own, "other domains": found.other}
    )


def _cost(part: StudyPart, where: str) -> Finding | None:
    measure = next(iter(part.measures), "")
    points = quality_against_cost(part.data, measure) if measure else NotEstimable("")
    effect = part.effects.get(("search", measure))
    if (
        isinstance(points, NotEstimable)
        or not isinstance(effect, Effect)
        or isinstance(effect.p, NotEstimable)
    ):
        return None
    cheapest = min(points, key=lambda point: point.cost)
    if effect.claimed:
        front = sorted((point for point in points if point.front), key=lambda point: point.cost)
        names = " or ".join(point.search for point in front)
        sentence = f"No search is both cheaper and better in {MEASURED[measure]} than {names}."
    else:
        sentence = f"Nothing here speaks for a dearer search than {cheapest.search}."
    numbers: Numbers = {f"{point.search} block-tokens": point.cost for point in points}
    return Finding("cost", where + sentence, numbers)


def _additivity(rows: Sequence[Row]) -> list[Finding]:
    """One an objective, since losses of two objectives are not in one unit."""
    found = []
    for objective in sorted({row.objective for row in rows}):
        own = [additivity_gap(row) for row in rows if row.objective == objective]
        gaps = [gap for gap in own if isinstance(gap, float)]
        if gaps:
            mean = float(np.mean(gaps))
            over = f", on average of {len(gaps)} cells" if len(gaps) > 1 else ", in one cell"
            sentence = (
                f"Removing the blocks together changed {objective} by {fmt.signed(mean)} beyond "
                f"the sum of removing each alone{over}."
            )
            found.append(Finding("additivity", sentence, {"mean gap": mean, "cells": len(gaps)}))
    return found


def _left_out(part: StudyPart, where: str) -> list[Finding]:
    """What ran and is in no figure, so that a measure is never missing without a word."""
    found, of = [], part.data
    if not isinstance(part.core, NotEstimable) and part.core.left_out:
        left = "; ".join(f"{name} {', '.join(of)}" for name, of in part.core.left_out.items())
        sentence = (
            f"{where}Effects are compared on the {len(part.core.cells)} of {len(of.rows)} cells in "
            f"which every draw saw the same searches under the same objectives; not among them: "
            f"{left}."
        )
        found.append(Finding("missing", sentence, {"compared": len(part.core.cells)}))
    if of.left_out:
        cells = of.left_out + len(of.rows)
        sentence = (
            f"{where}{of.left_out} of {cells} cells that ran have an evaluation that is not finite "
            "and are left out of every figure."
        )
        numbers: Numbers = {"left out": of.left_out, "cells": cells}
        found.append(Finding("missing", sentence, numbers))
    if of.partial:
        names = ", ".join(f"{each.name} ({each.kind})" for each in of.partial)
        sentence = (
            f"{where}Not every cell was judged on {names}, so no comparison uses it; the table of "
            "cells has what there is."
        )
        found.append(Finding("missing", sentence, {}))
    return found


def _missing(lead: str, rows: Sequence[Row]) -> Finding:
    failed = sum(row.error is not None for row in rows)
    told = f"{failed} of {len(rows)} cells failed and are left out of every figure."
    return Finding("missing", f"{lead} {told}".strip(), {"failed": failed, "cells": len(rows)})
