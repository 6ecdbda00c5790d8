"""The same question of the calibration's own perplexity: what the search itself could see.

The paper's third version claims that the calibration moves this one far more than the search does,
while it moves accuracy comparably, so both are told. It is the perplexity of the pruned model over
the whole model's on the very draw that was calibrated on. Perplexities as such would be told apart
by the text alone: code is easier to foresee than verse, whatever is removed.

Only cells under `nll` have one; losses of other objectives are no perplexities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from depthprune.study.statistics.effects import StudyPart, only_tested
from depthprune.study.statistics.findings.verdicts import Finding, verdict_of
from depthprune.study.table import LARGEST_LOSS, Evaluation, Row

_OBJECTIVE = "nll"
OWN = "the rise of log-perplexity on the calibrated data itself"


def own_finding(part: StudyPart, where: str) -> list[Finding]:
    """What changing calibration and search moves of it; none where that cannot be said.

    Args:
        part: Of the study; its tests are not touched, these are a family of their own.
        where: Names the part at the beginning of a sentence.
    """
    rows = own_rows(part.data.rows)
    if not rows:
        return []
    own = only_tested(rows, part.margin)
    told = verdict_of(own, "perplexity", where, called=OWN)
    return [] if told.verdict == "unsaid" else [replace(told, topic="own", lead="")]


def own_rows(rows: Sequence[Row]) -> list[Row]:
    """The cells judged on what they were calibrated on, and on nothing else.

    Args:
        rows: Of one model and one kind of calibration.
    """
    found = []
    for row in rows:
        if row.objective != _OBJECTIVE or row.loss is None or row.dense_loss is None:
            continue
        rise = row.loss - row.dense_loss
        if not math.isfinite(rise):
            continue
        ratio = math.exp(min(rise, LARGEST_LOSS))
        own = Evaluation(name="own", kind="perplexity", value=ratio, n=row.calibration.windows)
        found.append(row.model_copy(update={"evaluations": (own,)}))
    return found
