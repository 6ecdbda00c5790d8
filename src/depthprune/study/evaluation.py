"""What a removed set is worth on data that no search saw: perplexities and accuracies.

Each set is judged once for a model, however many cells chose it: the evaluators are kept, and they
and the memo remember. Losses are computed as transformers computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from depthprune.calibration import Calibration, calibrate
from depthprune.calibration.windows import Split
from depthprune.evaluator import Evaluator, Memo, RemovedSet
from depthprune.models.loading import Model
from depthprune.study.grid import Specs
from depthprune.study.table import Evaluation


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

    def judge(self, removed: RemovedSet) -> tuple[Evaluation, ...]:
        """Every perplexity and accuracy of the model without a set.

        Raises:
            EvaluationError: If a loss is NaN or infinite.
        """
        rows = []
        for name, evaluator in self.texts.items():
            score = evaluator.score([removed])[0].require_finite()
            value = math.exp(min(score.loss, 700.0))
            rows.append(self._row(name, "perplexity", value, value * score.stderr, score.windows))
        for name, evaluator in self.items.items():
            score = evaluator.score([removed])[0].require_finite()
            rows.append(self._row(name, "accuracy", 1 - score.loss, score.stderr, score.windows))
        return tuple(rows)

    def _row(self, name: str, kind: Any, value: float, stderr: float, n: int) -> Evaluation:
        return Evaluation(
            name=name,
            kind=kind,
            value=value,
            stderr=None if math.isnan(stderr) else stderr,
            n=n,
            source=self.homes.get(name),
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
    """Draw what is judged on.

    Args:
        model: Whose sets are judged.
        texts: Specs by name.
        choices: Specs of items by name.
        by: How likelihoods of options are compared: `sum`, `token`, `char` or `byte`.
        homes: For each name the calibration of its domain.
        memo: Store of losses.
        split_of: What part of a source is drawn from.

    Raises:
        CalibrationError: If a text or file cannot be read.
    """

    def evaluator(specs: Specs, objective: str) -> Evaluator:
        drawn: Calibration = calibrate(list(specs), model, split=split_of(specs))
        return Evaluator(model, drawn, objective, memo=memo, racing=None, plain=True)

    accuracy = "accuracy" if by == "sum" else f"accuracy:by={by}"
    return EvaluationSuite(
        {name: evaluator(specs, "nll") for name, specs in texts.items()},
        {name: evaluator(specs, accuracy) for name, specs in choices.items()},
        dict(homes),
    )
