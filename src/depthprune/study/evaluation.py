"""What a removed set is worth on data that no search saw: perplexities and accuracies.

Each set is judged once for a model, however many cells chose it: the evaluators are kept, and they
and the memo remember. Losses are computed as transformers computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from depthprune.calibration import Calibration, calibrate
from depthprune.calibration.windows import Split
from depthprune.evaluator import Evaluator, Memo, RemovedSet, Score
from depthprune.evaluator.shards import LossWorkers
from depthprune.models.loading import Model
from depthprune.study.items import pack
from depthprune.study.plan_reader import Specs
from depthprune.study.table import LARGEST_LOSS, Evaluation

Kind: TypeAlias = Literal["perplexity", "accuracy"]
Part: TypeAlias = tuple[Kind, str]
"""A text or a set of items, by name."""


def parts_of(texts: Iterable[str], items: Iterable[str]) -> tuple[Part, ...]:
    """What a set is judged on, in the order of a row: texts, then items, each by name."""
    named: list[Part] = [("perplexity", name) for name in texts]
    return (*named, *(("accuracy", name) for name in items))


@dataclass(frozen=True)
class EvaluationSuite:
    """Judges sets of one model on every text and choices file of a study.

    Attributes:
        texts: Evaluators by name.
        items: Evaluators by name.
        homes: For each name the calibration of its domain, if there is one.
    """

    texts: Mapping[str, Evaluator]
    items: Mapping[str, Evaluator]
    homes: Mapping[str, str]

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that a set is judged on, in the order of a row."""
        return parts_of(self.texts, self.items)

    def judge(self, removed: RemovedSet) -> tuple[Evaluation, ...]:
        """Every perplexity and accuracy of the model without a set.

        Raises:
            EvaluationError: If a loss is NaN or infinite.
        """
        return tuple(self.judge_on(part, removed) for part in self.parts)

    def judge_ahead(self, sets: Sequence[RemovedSet], parts: Sequence[Part] | None = None) -> None:
        """Compute together what `judge` will ask for: sets that begin alike share their way.

        Args:
            sets: Distinct ones.
            parts: On which texts and items; None for all.
        """
        for part in self.parts if parts is None else parts:
            self._evaluator(part).score(sets)

    def judge_on(self, part: Part, removed: RemovedSet) -> Evaluation:
        """One perplexity or accuracy of the model without a set.

        Raises:
            EvaluationError: If a loss is NaN or infinite.
        """
        kind, name = part
        score = self._evaluator(part).score([removed])[0].require_finite()
        if kind == "accuracy":
            return self._row(name, kind, score, 1 - score.loss, score.stderr)
        value = math.exp(min(score.loss, LARGEST_LOSS))
        return self._row(name, kind, score, value, value * score.stderr)

    def _evaluator(self, part: Part) -> Evaluator:
        kind, name = part
        return (self.texts if kind == "perplexity" else self.items)[name]

    def _row(self, name: str, kind: Kind, score: Score, value: float, stderr: float) -> Evaluation:
        losses = score.window_losses
        # The loss of the worst domain is no mean of all windows, and a cut one is no mean at all.
        mean = not score.weighting.worst and score.loss < LARGEST_LOSS
        return Evaluation(
            name=name,
            kind=kind,
            value=value,
            stderr=None if math.isnan(stderr) else stderr,
            n=score.windows,
            source=self.homes.get(name),
            items=pack(1 - losses if kind == "accuracy" else losses) if mean else None,
            weights=_weights(score) if mean else None,
        )


def _weights(score: Score) -> tuple[float, ...] | None:
    """What each window counts for, or None where all count alike."""
    shares = score.weighting.weights()
    if np.allclose(shares, shares[0], rtol=1e-12):
        return None
    one = len(set(score.weighting.groups.tolist())) == 1
    return tuple((score.weighting.counts() if one else shares).tolist())


def evaluators(
    model: Model,
    texts: Mapping[str, Calibration],
    items: Mapping[str, Calibration],
    by: str,
    homes: Mapping[str, str],
    memo: Memo | None,
    workers: LossWorkers | None = None,
) -> EvaluationSuite:
    """What judges the sets of one model.

    Args:
        model: Whose sets are judged.
        texts: Drawn texts by name.
        items: Drawn items by name.
        by: How likelihoods of options are compared: `sum`, `token`, `char` or `byte`.
        homes: For each name the calibration of its domain.
        memo: Store of losses.
        workers: Who computes losses in this process's place.
    """

    def evaluator(drawn: Calibration, objective: str) -> Evaluator:
        return Evaluator(
            model, drawn, objective, memo=memo, racing=None, plain=True, workers=workers
        )

    accuracy = "accuracy" if by == "sum" else f"accuracy:by={by}"
    return EvaluationSuite(
        {name: evaluator(drawn, "nll") for name, drawn in texts.items()},
        {name: evaluator(drawn, accuracy) for name, drawn in items.items()},
        dict(homes),
    )


def make_suite(
    model: Model,
    texts: Mapping[str, Specs],
    choices: Mapping[str, Specs],
    by: str,
    homes: Mapping[str, str],
    memo: Memo | None,
    split_of: Callable[[Specs], Split],
) -> EvaluationSuite:
    """Draw what is judged on, by `split_of` from a part of its sources; see `evaluators`.

    Raises:
        CalibrationError: If a text or file cannot be read.
    """
    drawn, items = (
        {name: calibrate(list(specs), model, split=split_of(specs)) for name, specs in each.items()}
        for each in (texts, choices)
    )
    return evaluators(model, drawn, items, by, homes, memo)
