"""From a table to plain sentences, each with the numbers behind it.

A sentence calls something an effect only where `noise.claimed` allows it. Everything else is given
as a figure beside the noise floor, or as the reason why it cannot be said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depthprune.study import words
from depthprune.study.answers import Estimate, Unsaid
from depthprune.study.effects import Effect, Part, analyse
from depthprune.study.overlap import agreement
from depthprune.study.quality import additivity_gap, quality_against_cost
from depthprune.study.ranks import perplexity_ranks
from depthprune.study.table import Row
from depthprune.study.transfer import home, transfer
from depthprune.study.verdicts import MEASURED, Finding, Numbers, of_effect, of_estimate, verdict_of


def findings(rows: Sequence[Row]) -> list[Finding]:
    """All that a table says, the answer to the study's question first."""
    return findings_of(analyse(rows), rows)


def findings_of(parts: Sequence[Part], rows: Sequence[Row]) -> list[Finding]:
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
            found += _shares(part, measure, where)
            found += _objective(part, measure, where)
        found += _left_out(part, where)
        if not part.measures:
            found.append(Finding("missing", f"{where}The cells share no evaluation.", {}, "unsaid"))
        if not part.panel.rows:
            continue
        found += [
            each
            for make in (_blocks, _ranks, _transfer, _cost)
            if (each := make(part, where)) is not None
        ]
    found += _additivity(rows)
    if any(row.error is not None for row in rows):
        found.append(_missing("", rows))
    order = {"verdict": 0, "missing": 2}
    return sorted(found, key=lambda finding: order.get(finding.topic, 1))


def _where(part: Part, parts: Sequence[Part]) -> str:
    several = len({each.model for each in parts}) > 1, len({each.kind for each in parts}) > 1
    names = [part.model] * several[0] + [f"{part.kind} calibrations"] * several[1]
    return f"{', '.join(names)}: " if names else ""


def _any_claim(part: Part, measure: str) -> bool:
    return any(
        isinstance(effect, Effect) and effect.stands
        for (_, on), effect in part.effects.items()
        if on == measure
    )


def _shares(part: Part, measure: str, where: str) -> list[Finding]:
    """How the variance is shared out, where there is an effect to speak of."""
    decomposition = part.variance[measure]
    if isinstance(decomposition, Unsaid) or not _any_claim(part, measure):
        return []
    shares = {name: decomposition.share(name) for name in ("calibration", "search", "draw")}
    known = {name: value for name, value in shares.items() if isinstance(value, float)}
    if not known:
        return []
    told = [f"the {name} {words.percent(value)}" for name, value in known.items()]
    first, value = next(iter(known.items()))
    told[0] = f"the {first} explains {words.percent(value)}"
    sentence = (
        f"{where}Of the variance of {MEASURED[measure]} within a model and k, "
        f"{', '.join(told)} (η²)."
    )
    return [Finding("shares", sentence, {f"{k} η²": v for k, v in known.items()})]


def _objective(part: Part, measure: str, where: str) -> list[Finding]:
    effect = part.effects["objective", measure]
    if isinstance(effect, Unsaid) or not effect.stands:
        return []
    sentence = (
        f"{where}Changing the objective on the same draw moved {MEASURED[measure]} by "
        f"{words.sized(effect.size, measure)}."
    )
    return [Finding("objective", sentence, of_effect("objective", effect))]


def _blocks(part: Part, where: str) -> Finding | None:
    names = {
        "search": "two searches on the same draw",
        "draw": "two draws of the same calibration",
        "calibration": "two calibrations under the same search",
    }
    told, chance = [], math.nan
    numbers: Numbers = {}
    for name, pair in names.items():
        found = agreement(part.panel, name)
        if not isinstance(found, Unsaid):
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


def _ranks(part: Part, where: str) -> Finding | None:
    found = perplexity_ranks(part.panel)
    if isinstance(found, Unsaid):
        return None
    rho = found.spearman
    ends = rho.interval
    if isinstance(ends, Unsaid):
        return None
    if ends[0] <= 0 <= ends[1] or not all(_any_claim(part, each) for each in part.measures):
        # Ranks of cells that differ by noise alone say nothing, however well they agree.
        lead = "Whether a better perplexity goes with a better accuracy cannot be told"
    else:
        lead = f"A better perplexity went with a {'better' if ends[0] > 0 else 'worse'} accuracy"
    interval = f"ρ = {words.signed(rho.value)} ({words.signed(ends[0])} to {words.signed(ends[1])})"
    return Finding("ranks", f"{where}{lead}: {interval}.", of_estimate("ρ", rho))


def _transfer(part: Part, where: str) -> Finding | None:
    matrix = transfer(part.panel, "perplexity")
    away = matrix if isinstance(matrix, Unsaid) else home(matrix, lower_is_better=True)
    effect, floor = part.effects.get(("calibration", "perplexity")), part.floors.get("perplexity")
    if isinstance(away, Unsaid) or not isinstance(floor, Estimate):
        return None
    if not isinstance(effect, Effect) or not effect.stands or abs(away.gain) <= floor.value:
        lead = "Calibrating on a text's own domain made no difference that can be told from noise"
    else:
        lead = (
            f"Calibrating on a text's own domain made it {'better' if away.gain > 0 else 'worse'}"
        )
    sentence = (
        f"{where}{lead}: {words.signed(-away.gain)} in log-perplexity, beyond what the calibration "
        "does everywhere."
    )
    values = {"gain at home": away.gain, "own domain": away.own, "other domains": away.other}
    return Finding("transfer", sentence, dict(values))


def _cost(part: Part, where: str) -> Finding | None:
    measure = next(iter(part.measures), "")
    points = quality_against_cost(part.panel, measure) if measure else Unsaid("")
    effect = part.effects.get(("search", measure))
    if isinstance(points, Unsaid) or not isinstance(effect, Effect) or effect.untested:
        return None
    cheapest = min(points, key=lambda point: point.cost)
    if effect.stands:
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
                f"Removing the blocks together changed {objective} by {words.signed(mean)} beyond "
                f"the sum of removing each alone{over}."
            )
            found.append(Finding("additivity", sentence, {"mean gap": mean, "cells": len(gaps)}))
    return found


def _left_out(part: Part, where: str) -> list[Finding]:
    """What ran and is in no figure, so that a measure is never missing without a word."""
    found, of = [], part.panel
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
