"""Chosen on A, judged on B: what a calibration is worth on the texts it did not come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depthprune.study.statistics.core import Core
from depthprune.study.statistics.data import Floats, StudyData
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.gains import between_draws
from depthprune.study.statistics.intervals import item_parts


@dataclass(frozen=True)
class Transfer:
    """Mean log-perplexity or accuracy by calibration and evaluation.

    Attributes:
        calibrations: Names of the rows.
        evaluations: Names of the columns.
        mean: Over the other factors, shape (calibrations, evaluations).
        same: Where both are of one domain, same shape.
        cells: Cells behind each row.
    """

    calibrations: tuple[str, ...]
    evaluations: tuple[str, ...]
    mean: Floats
    same: NDArray[np.bool_]
    cells: tuple[int, ...]


@dataclass(frozen=True)
class HomeGain:
    """What it is worth to calibrate on the text that counts.

    Attributes:
        gain: Log-perplexity saved (or accuracy won) on the own domain, beyond what the calibration
            and the text give everywhere, with the interval for further draws.
        own: Mean of the cells of one domain, over the evaluations that have both kinds.
        other: The same of all other cells.
    """

    gain: IntervalEstimate
    own: float
    other: float


def transfer(data: StudyData, kind: str) -> Transfer | NotEstimable:
    """The matrix, over the combinations of other factors that every calibration was run with.

    Args:
        data: The cells.
        kind: `perplexity` or `accuracy`.
    """
    columns = data.columns(kind)
    if not len(columns):
        return NotEstimable(f"the cells share no evaluation of {kind}")
    calibration = data.codes["calibration"]
    levels = data.count("calibration")
    block = data.joint("model", "k", "objective", "search", "seed")
    there = np.zeros((levels, int(block.max()) + 1), dtype=np.bool_)
    there[calibration, block] = True
    usable = np.logical_and.reduce(there, axis=0)[block]
    if not usable.any():
        return NotEstimable("no search under one objective was run on every calibration")
    rows = []
    for level in range(levels):
        inside = usable & (calibration == level)
        # Blocks count alike, however many draws each has, so that rows are compared like with like.
        means = [
            data.values[inside & (block == each)][:, columns].mean(axis=0)
            for each in np.unique(block[inside])
        ]
        rows.append(np.mean(means, axis=0))
    cells = tuple(int((usable & (calibration == level)).sum()) for level in range(levels))
    names = tuple(data.responses[column].name for column in columns)
    source = {row.calibration.name: row.calibration.source for row in data.rows}
    sources = [source[name] for name in data.levels["calibration"]]
    same = _same_domain(data, sources, names, kind)
    return Transfer(data.levels["calibration"], names, np.stack(rows), same, cells)


def _same_domain(
    data: StudyData, sources: Sequence[str], names: Sequence[str], kind: str
) -> NDArray[np.bool_]:
    """Where a source of a calibration and an evaluation are of one domain."""
    domain = {e.name: e.source for row in data.rows for e in row.evaluations if e.kind == kind}
    return np.asarray([[domain[name] == source for name in names] for source in sources])


def home(of: Core, data: StudyData, *, lower_is_better: bool) -> HomeGain | NotEstimable:
    """The gain of the own domain, in an additive model of calibration, evaluation and `same`.

    A calibration that is good everywhere is good at home too, which is no advantage of being at
    home; so its mean is taken off, and that of each text. What is left is a weighted sum of the
    draws' means, so its interval is theirs.

    Args:
        of: A balanced core with the responses of one kind.
        data: The cells it was made of: they say of which domain each evaluation is.
        lower_is_better: Whether the responses are losses.
    """
    names = tuple(response.name for response in of.responses)
    kind = "perplexity" if lower_is_better else "accuracy"
    same = _same_domain(data, of.sources, names, kind)
    both = same.any(axis=0) & ~same.all(axis=0)
    if not both.any():
        return NotEstimable("no evaluation is of the domain of some calibrations and not of others")
    rows, columns = (index.ravel() for index in np.indices(same.shape))
    additive = np.hstack([np.eye(same.shape[0])[rows], np.eye(same.shape[1])[columns]])
    flat = same.ravel().astype(np.float64)
    # What of `same` the calibrations and the texts do not explain: the regressor itself.
    rest = flat - additive @ np.linalg.lstsq(additive, flat, rcond=None)[0]
    if rest @ rest < 1e-9:
        return NotEstimable("the own domain cannot be told from the calibrations themselves")
    weights = (rest / (rest @ rest)).reshape(same.shape) * (-1.0 if lower_is_better else 1.0)
    draws = of.values.mean(axis=(1, 2))
    each = len(same) * weights[of.calibration]
    sizes = of.draws[of.calibration][:, None]

    def by_response(values: Floats) -> Floats:
        beside = np.tile(each, values.shape[-1] // len(names))
        found: Floats = (beside * values.mean(axis=(1, 2)) / sizes).sum(axis=0)
        return found * len(names) / len(same)

    gain = between_draws((each * draws).sum(axis=1), of.calibration, item_parts(of, by_response))
    matrix = np.stack([draws[of.calibration == c].mean(axis=0) for c in range(len(same))])
    own = [matrix[same[:, c], c].mean() for c in np.flatnonzero(both)]
    other = [matrix[~same[:, c], c].mean() for c in np.flatnonzero(both)]
    return HomeGain(gain, float(np.mean(own)), float(np.mean(other)))
