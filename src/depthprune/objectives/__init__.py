"""Objectives: one file each, found by name.

Other packages add theirs through the entry-point group `depthprune.objectives`: a callable that
gives an `Objective`; the fields of a dataclass are its parameters. torch is imported when one
computes, not when they are listed.
"""

from __future__ import annotations

from collections.abc import Callable

from depthprune.objectives.acceptance import Acceptance
from depthprune.objectives.base import Objective, TokenObjective
from depthprune.objectives.choices import Accuracy, Margin, OptionCE
from depthprune.objectives.cosine import Cosine
from depthprune.objectives.kl import KL
from depthprune.objectives.mixture import Component, Mixture, mix
from depthprune.objectives.nll import NLL
from depthprune.registry import Registry, build

OBJECTIVES: Registry[Callable[..., Objective]] = Registry(
    "objective",
    "depthprune.objectives",
    {
        "nll": NLL,
        "kl": KL,
        "acceptance": Acceptance,
        "margin": Margin,
        "option-ce": OptionCE,
        "accuracy": Accuracy,
        "cosine": Cosine,
    },
)

_PARTS = (
    "name", "summary", "has_perplexity", "reads", "compares", "items_only", "bounds",
    "token_losses", "window_loss",
)  # fmt: skip

__all__ = [
    "KL",
    "NLL",
    "OBJECTIVES",
    "Acceptance",
    "Accuracy",
    "Component",
    "Cosine",
    "Margin",
    "Mixture",
    "Objective",
    "OptionCE",
    "TokenObjective",
    "parse_objective",
]


def parse_objective(text: str | Objective | Mixture) -> Mixture:
    """The objective that a text names: `nll`, `kl:top=64`, `nll:0.5+option-ce:by=byte:0.5`.

    Raises:
        UsageError: If an objective, a parameter or a weight is wrong.
    """
    if isinstance(text, Mixture):
        return text
    if not isinstance(text, str):
        return mix([Component(text, 1.0)])
    return mix([_component(part) for part in text.split("+")])


def _component(text: str) -> Component:
    """One part of a mixture; what follows the last colon is its weight if it is a number."""
    rest, colon, last = text.strip().rpartition(":")
    if colon and "=" not in last:
        try:
            return Component(build(OBJECTIVES, rest, _PARTS), float(last))
        except ValueError:
            pass
    return Component(build(OBJECTIVES, text, _PARTS), 1.0)
