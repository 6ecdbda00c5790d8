"""What a pruned copy is worth as a draft, in the words and the figure that page and card share."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from depthprune.manifest import DraftRecord, Manifest
from depthprune.report.export import INK, KEPT, MUTED, REMOVED, svg
from depthprune.report.figures import own_style


def draft_sentence(record: DraftRecord) -> str:
    """What the chosen size is expected to gain."""
    best = record.best
    way = "greedily" if not record.temperature else f"at temperature {record.temperature:g}"
    timed = "as timed here" if record.measured else "as --cost-ratio says"
    gain = f"× {best.speedup:.2f}"
    tokens = f"{best.length} token{'s' if best.length > 1 else ''}"
    return (
        f"As a draft of the original, with {best.k} blocks removed, {best.acceptance:.0%} of its "
        f"tokens are expected to be accepted {way}, each at {best.cost:.2f} of the original's cost "
        f"({timed}): decoding {gain} with drafts of {tokens}."
    )


@own_style
def draft_curve(record: DraftRecord) -> Figure:
    """Acceptance, cost and expected speed-up against the number of blocks removed."""
    figure = Figure((7.2, 2.9), layout="constrained")
    shares, speed = figure.subplots(1, 2)
    sizes = [point.k for point in record.points]
    accepted = [point.acceptance for point in record.points]
    cost = [point.cost for point in record.points]
    shares.plot(sizes, accepted, "o-", color=KEPT, ms=4, label="chance of being accepted")
    shares.plot(sizes, cost, "s--", color=MUTED, ms=4, label="cost, in the original's tokens")
    shares.legend(loc="lower left", fontsize=8, frameon=False)
    shares.set(xlabel="blocks removed", ylim=(0, 1.05), title="a drafted token")
    speed.axhline(1.0, color=MUTED, lw=1)
    speed.plot(sizes, [p.speedup for p in record.points], "o-", color=KEPT, ms=4)
    best = record.best
    speed.plot([best.k], [best.speedup], "o", mfc="none", mec=REMOVED, ms=11, mew=2)
    speed.annotate(
        f"k = {best.k}, × {best.speedup:.2f}", (best.k, best.speedup), (0, 10),
        textcoords="offset points", ha="center", fontsize=8, color=INK,
    )  # fmt: skip
    speed.set(xlabel="blocks removed", title="expected speed of decoding, ×")
    for axes in (shares, speed):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    speed.margins(y=0.2)
    return figure


def draft_svg(manifest: Manifest) -> str | None:
    """The figure where there are several sizes to compare."""
    record = manifest.draft
    if record is None or len(record.points) < 2:
        return None
    best = record.best
    words = f"the best, {best.k} blocks removed, is expected to make decoding × {best.speedup:.2f}"
    return svg(draft_curve(record), "What each size is worth as a draft", words)
