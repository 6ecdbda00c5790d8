"""Sentences of what goes with what: sets, measures, texts, cost, blocks and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from depthprune.study.statistics import formatting as fmt
from depthprune.study.statistics.effects import Effect, StudyPart
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.findings.effects import any_claim
from depthprune.study.statistics.findings.verdicts import MEASURED, Finding, Numbers, of_estimate
from depthprune.study.statistics.overlap import agreement
from depthprune.study.statistics.quality import additivity_gap, quality_against_cost
from depthprune.study.statistics.ranks import perplexity_ranks
from depthprune.study.statistics.transfer import home
from depthprune.study.table import Row


def relation_findings(part: StudyPart, where: str) -> list[Finding]:
    """What goes with what in a part of the study.

    Args:
        part: Of the study.
        where: Names the part at the beginning of a sentence.
    """
    found = (say(part, where) for say in (_blocks, _ranks, _transfer, _cost))
    return [each for each in found if each is not None]


def _blocks(part: StudyPart, where: str) -> Finding | None:
    names = {
        "search": ("searches", "two searches on the same draw"),
        "draw": ("draws", "two draws of the same calibration"),
        "calibration": ("calibrations", "two calibrations under the same search"),
    }
    of = part.compared
    told, chance = [], math.nan
    numbers: Numbers = {}
    for name, (several, pair) in names.items():
        found = agreement(of, name)
        if not isinstance(found, NotEstimable):
            told.append(f"{pair} {found.mean:.2f}")
            numbers[f"Jaccard between {several}"] = found.mean
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
    if ends[0] <= 0 <= ends[1] or not all(any_claim(part, each) for each in part.measures):
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
        judged = MEASURED[measure]
        sentence = f"For {judged} nothing here speaks for a dearer search than {cheapest.search}."
    numbers: Numbers = {f"{point.search} block-tokens": point.cost for point in points}
    return Finding("cost", where + sentence, numbers)


def additivity_findings(rows: Sequence[Row]) -> list[Finding]:
    """What a set loses beyond the sum of its blocks.

    One a model and objective, since losses of two objectives are not in one unit, nor do blocks of
    two models stand in for each other alike. Sets of one block have nothing beyond it.

    Args:
        rows: Of the table.
    """
    found = []
    several = len({row.model for row in rows}) > 1
    rows = [row for row in rows if len(row.removed) > 1]
    for model, objective in sorted({(row.model, row.objective) for row in rows}):
        own = [additivity_gap(r) for r in rows if (r.model, r.objective) == (model, objective)]
        where = f"{model}: " if several else ""
        gaps = [gap for gap in own if isinstance(gap, float)]
        if gaps:
            mean = float(np.mean(gaps))
            over = f", on average of {len(gaps)} cells" if len(gaps) > 1 else ", in one cell"
            sentence = (
                f"{where}Removing the blocks together changed {objective} by {fmt.signed(mean)} "
                f"beyond the sum of removing each alone{over}."
            )
            found.append(Finding("additivity", sentence, {"mean gap": mean, "cells": len(gaps)}))
    return found
