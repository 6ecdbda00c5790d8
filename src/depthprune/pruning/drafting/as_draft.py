"""Which size makes the best draft of the original: `prune --as-draft`.

The path of a search that grows its sets has a candidate at every size. The smaller a draft is, the
less its tokens cost and the fewer of them are accepted; where the product of both is best is
computed from the acceptance on held-out windows and from the cost of decoding, which is timed on
the model itself with all of its blocks and with half of them, and is a straight line between.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

from depthprune.errors import UsageError
from depthprune.evaluator import RemovedSet
from depthprune.manifest import DraftPoint, DraftRecord
from depthprune.models.assisted import best_length, predicted_speedup
from depthprune.models.loading import Model
from depthprune.models.speed import measure
from depthprune.objectives import Mixture
from depthprune.objectives.acceptance import Acceptance
from depthprune.progress import Progress
from depthprune.pruning.drafting.draft_job import DraftJob
from depthprune.pruning.held_out import HeldOutScorer

LARGEST_SHARE = 0.75
"""Of the blocks; a draft of fewer than a quarter hardly ever agrees."""
_OF_ITEMS = ("option-ce", "accuracy", "margin")


def check_draft(objective: Mixture, *, sized: bool, grows: bool, search: str) -> None:
    """Refuse what no draft can be chosen by.

    Args:
        objective: Of the search.
        sized: Whether `-k` says the size.
        grows: Whether the search's sets grow block by block.
        search: As it was asked for.

    Raises:
        UsageError: If the objective is of items, or the search gives no path.
    """
    for component in objective.components:
        name = component.objective.name
        if name.partition(":")[0] in _OF_ITEMS:
            raise UsageError(
                f"--as-draft: {name} is of items with options, and a draft writes text; take "
                "acceptance, kl or nll"
            )
    if not sized and not grows:
        raise UsageError(
            f"--search {search}: its sets do not grow one by one, and --as-draft chooses among "
            "sizes; take greedy or one-shot, or give -k"
        )


def temperature_of(objective: Mixture) -> float:
    """Of the sampling that acceptance is measured for: the objective's own, else 1."""
    found = [c.objective for c in objective.components if isinstance(c.objective, Acceptance)]
    return found[0].temperature if found else 1.0


def decoding_cost(model: Model, job: DraftJob, progress: Progress) -> Callable[[int], float]:
    """What a draft's token costs, in tokens of the model, by how many blocks it lacks.

    Args:
        model: The model.
        job: What was asked for.
        progress: Where the timing shows itself.

    Raises:
        UsageError: If decoding would have to be timed on a streamed model.
    """
    if job.cost_ratio is not None:
        ratio = job.cost_ratio
        return lambda lacks: 1.0 - ratio * lacks / model.blocks
    if model.streamed:
        raise UsageError(
            "--as-draft: the decoding of a streamed model is not timed; pass --cost-ratio, such as "
            "1.0 where a model's blocks are all that decoding takes"
        )
    half = model.blocks // 2
    # The last ones: a model looks at its first block for how much its cache holds.
    with model.anatomy.masked(range(model.blocks - half, model.blocks)) as masked:
        fewer = measure([masked], prompt_tokens=32, new_tokens=16, repeats=3, progress=progress)
    whole = measure([model.module], prompt_tokens=32, new_tokens=16, repeats=3, progress=progress)
    ratio = statistics.median(whole[0].decode) / statistics.median(fewer[0].decode)
    return lambda lacks: max(0.0, 1.0 - (1.0 - ratio) * lacks / half)


def choose_size(
    path: Sequence[RemovedSet],
    scorer: HeldOutScorer,
    cost: Callable[[int], float],
    *,
    temperature: float,
    measured: bool,
) -> DraftRecord:
    """The acceptance, the cost and the speed-up of each set, and the best of them.

    Args:
        path: Sets.
        scorer: Scores them by `acceptance` on held-out windows.
        cost: Of a token of a draft, by how many blocks it lacks.
        temperature: Of the sampling.
        measured: Whether decoding was timed.
    """
    # Acceptance has a unit, so a mixture of sources has a loss.
    losses = scorer.mixed(list(path)) or []
    points = []
    for removed, (loss, _) in zip(path, losses, strict=True):
        acceptance, each = math.exp(-loss), cost(len(removed))
        length = best_length(acceptance, each)
        points.append(
            DraftPoint(
                k=len(removed),
                removed=list(removed),
                acceptance=acceptance,
                cost=each,
                length=length,
                speedup=predicted_speedup(acceptance, length, each),
            )
        )
    best = max(points, key=lambda point: point.speedup)
    return DraftRecord(temperature=temperature, measured=measured, chosen=best.k, points=points)


def require_gain(record: DraftRecord) -> None:
    """Refuse a draft that would make its model slower; nothing is written then.

    Raises:
        UsageError: Saying how near the best size comes.
    """
    best = record.best
    if best.speedup <= 1.0:
        raise UsageError(
            f"--as-draft: no size pays here: the best, {best.k} blocks removed, has "
            f"{best.acceptance:.0%} of its tokens accepted at {best.cost:.2f} of the model's cost, "
            f"which makes × {best.speedup:.2f}; nothing was written; give -k to write one anyway, "
            "or --cost-ratio of the machine that it is for"
        )
