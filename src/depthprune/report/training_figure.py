"""The curve of a training: what adapters were worth on windows that they were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from depthprune.manifest import Manifest, TrainingPoint
from depthprune.report import numbers
from depthprune.report.export import KEPT, MUTED, RULE, svg
from depthprune.report.figures import own_style
from depthprune.report.training import kept_point


@own_style
def training_curve(curve: Sequence[TrainingPoint], best: int) -> Figure:
    """Loss against training steps.

    Args:
        curve: From step 0.
        best: The step that was kept, marked by a band.
    """
    figure = Figure((7.2, 2.7), layout="constrained")
    axes = figure.add_subplot()
    steps = [point.step for point in curve]
    trained = [(point.step, point.trained) for point in curve if point.trained is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), "^:", color=MUTED, ms=4.5, label="trained on")
    axes.plot(
        steps, [p.choosing for p in curve], "s--", color=MUTED, ms=4.5, label="choosing the step"
    )
    axes.plot(steps, [p.held_out for p in curve], "o-", color=KEPT, ms=4.5, label="held out")
    axes.axvline(best, color=RULE, lw=9, zorder=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes.set(xlabel="steps", ylabel="loss, nats a token")
    axes.grid(axis="y", color=RULE, lw=0.6)
    axes.legend(loc="upper right", frameon=False)
    return figure


def training_svg(manifest: Manifest) -> str | None:
    """The figure for the page; None without a training."""
    training = manifest.recovery.training if manifest.recovery else None
    if training is None:
        return None
    first, kept = training.curve[0], kept_point(training.curve, training.best)
    return svg(
        training_curve(training.curve, training.best),
        "Loss against steps of training",
        f"On held-out windows {numbers.fixed(first.held_out, 4)} nats a token before training and "
        f"{numbers.fixed(kept.held_out, 4)} at step {training.best}, which was kept.",
    )
