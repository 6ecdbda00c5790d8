"""Calling an objective's own code, which may be another package's, and checking what it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from depthprune.calibration import Window
from depthprune.errors import DepthpruneError, EvaluationError, failure
from depthprune.models.free_memory import out_of_memory
from depthprune.objectives.base import Objective

T = TypeVar("T")


def token_losses(
    objective: Objective, outputs: Tensor, targets: Tensor, dense: Tensor | None
) -> Tensor:
    """An objective's losses of tokens, one each.

    Raises:
        EvaluationError: If it fails, or gives another number of them.
    """
    losses = _guarded(objective, lambda: objective.token_losses(outputs, targets, dense))
    if losses.shape != targets.shape:
        raise EvaluationError(
            f"objective {objective.name!r} gave losses of shape {tuple(losses.shape)} for "
            f"{len(targets)} tokens; expected one a token"
        )
    return losses


def window_loss(objective: Objective, losses: NDArray[np.float64], window: Window) -> float:
    """What an objective makes of a window's token losses.

    Raises:
        EvaluationError: If it fails.
    """
    return _guarded(objective, lambda: float(objective.window_loss(losses, window)))


def _guarded(objective: Objective, step: Callable[[], T]) -> T:
    """Run an objective's own code; what it raises is one line that names it."""
    try:
        return step()
    except DepthpruneError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        raise EvaluationError(failure(f"objective {objective.name!r}", error)) from error
