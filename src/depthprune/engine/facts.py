"""What a worker is, and that all of them are alike.

Workers that compute otherwise than the first, in arithmetic, versions or weights, are refused:
losses of two kinds in one search would be compared with each other.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

import torch
import transformers

from depthprune.errors import UsageError
from depthprune.manifest import versions
from depthprune.models.arithmetic import arithmetic_of
from depthprune.models.loading import Model


@dataclass(frozen=True)
class Facts:
    """What a worker is.

    Attributes:
        host: Its machine.
        versions: Of the libraries that losses depend on.
        weights: Fingerprint of the model's weights.
        dtype: In which it computes.
        device: Kind of device on which it computes.
        rounds: Fingerprint of its arithmetic.
    """

    host: str
    versions: str
    weights: str | None
    dtype: str
    device: str
    rounds: str

    @classmethod
    def of(cls, model: Model) -> Facts:
        """Those of this process."""
        return cls(
            socket.gethostname(),
            f"depthprune {versions().depthprune}, torch {torch.__version__}, "
            f"transformers {transformers.__version__}",
            model.fingerprint,
            model.dtype,
            torch.device(model.device).type,
            arithmetic_of(model),
        )


class Alike:
    """Refuses workers that do not compute what the others do.

    Args:
        mine: What this process is.

    Attributes:
        first: What the first worker is, once there is one.
    """

    def __init__(self, mine: Facts) -> None:
        self.first: Facts | None = None
        self._mine = mine

    def __call__(self, facts: Facts) -> None:
        """Take a worker, or refuse it.

        Raises:
            UsageError: Naming its machine and what is other there.
        """
        for name in ("versions", "weights", "dtype", "device"):
            theirs, mine = getattr(facts, name), getattr(self._mine, name)
            if theirs != mine:
                raise UsageError(
                    f"--engine: the worker on {facts.host} has other {name} ({theirs}) than this "
                    f"process ({mine}); let every machine have the same"
                )
        first = self.first = self.first or facts
        if facts.rounds != first.rounds:
            raise UsageError(
                f"--engine: the worker on {facts.host} rounds otherwise than the one on "
                f"{first.host} ({facts.rounds} and {first.rounds}); take machines of one kind, "
                "or ONEDNN_MAX_CPU_ISA such that they are"
            )
