"""What a training did, in the words that page and card share."""

from __future__ import annotations

from collections.abc import Sequence

from depthprune.manifest import Manifest, TrainingPoint
from depthprune.report import numbers


def training_words(manifest: Manifest) -> str:
    """How a training went, in a sentence or two; empty without one."""
    training = manifest.recovery.training if manifest.recovery else None
    if training is None:
        return ""
    ended = f"{training.steps:,} steps" + (", ended early" if training.stopped else "")
    last = manifest.recovery is not None and manifest.recovery.method == "last"
    what = "The last blocks and the head" if last else "Adapters"
    words = (
        f"{what}, {training.parameters:,} numbers ({training.settings}), were trained towards "
        f"the whole model's next-token distributions for {ended}, on {training.tokens:,} tokens"
    )
    if not training.best:
        return (
            f"{words}. No step was better than none on windows that were not trained on, so "
            "nothing was gained and nothing was added."
        )
    first, kept = training.curve[0], kept_point(training.curve, training.best)
    went = "fell" if kept.held_out < first.held_out else "went"
    return (
        f"{words}. Step {training.best:,} was best on windows that were not trained on and was "
        f"{'kept' if last else 'merged into the weights'}; on held-out windows the loss {went} "
        f"from {numbers.fixed(first.held_out, 4)} to {numbers.fixed(kept.held_out, 4)} nats a "
        "token."
    )


def kept_point(curve: Sequence[TrainingPoint], best: int) -> TrainingPoint:
    """The point of the step that was kept."""
    return next(point for point in curve if point.step == best)
