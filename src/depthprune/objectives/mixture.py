"""Weighted mixtures of objectives: `nll:0.5+option-ce:0.5`.

The losses of two objectives have no common unit, so each is divided by the dense model's value of
it before it is weighted: the mixture of the dense model is 1 (if the weights sum to 1, as they are
made to). What compares with the dense model is 0 for it but for rounding, and is refused. In a
mixture of text and items each objective judges what it can: those of items judge the items, and the
others the text, or all windows where no other objective takes the items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from depthprune.calibration import Window
from depthprune.errors import UsageError
from depthprune.objectives.base import Objective


@dataclass(frozen=True)
class Component:
    """One objective of a mixture and its weight."""

    objective: Objective
    weight: float


@dataclass(frozen=True)
class Mixture:
    """One or more objectives; a single one is not scaled.

    Attributes:
        components: Their weights sum to 1.
    """

    components: tuple[Component, ...]

    @property
    def name(self) -> str:
        """The components with their weights; a single objective's own name."""
        if len(self.components) == 1:
            return self.components[0].objective.name
        return "+".join(f"{c.objective.name}:{c.weight:g}" for c in self.components)

    @property
    def has_perplexity(self) -> bool:
        """Whether exp(loss) is a perplexity: of a single objective only."""
        return len(self.components) == 1 and self.components[0].objective.has_perplexity

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The range of a window's loss, where a single objective has one."""
        return self.components[0].objective.bounds if len(self.components) == 1 else None

    def of_source(self, windows: Sequence[Window], whole: Sequence[Window]) -> Mixture | None:
        """The components that judge one source of several, as `judged` has it for all of them.

        Args:
            windows: Of the source.
            whole: Of all sources.

        Returns:
            Their weights made to sum to 1; None where no component judges the source.
        """
        items = all(window.item is not None for window in windows)
        apart = any(c.objective.items_only for c in self.components) and not all(
            window.item is not None for window in whole
        )
        able = [
            component
            for component in self.components
            if (items if component.objective.items_only else not (items and apart))
        ]
        return mix(able) if able else None

    def judged(self, windows: Sequence[Window]) -> tuple[tuple[bool, ...], ...]:
        """Which windows each component judges.

        Raises:
            UsageError: If a window is judged by none, or a component judges none.
        """
        items = [window.item is not None for window in windows]
        taken = any(c.objective.items_only for c in self.components)
        rows = []
        for component in self.components:
            if component.objective.items_only:
                row = tuple(items)
            elif taken and not all(items):
                row = tuple(not item for item in items)
            else:
                row = (True,) * len(items)
            if not any(row):
                raise UsageError(
                    f"--objective {component.objective.name}: judges items of options, and the "
                    "calibration has none; take a choices: source"
                )
            rows.append(row)
        if not all(any(column) for column in zip(*rows, strict=True)):
            raise UsageError(
                f"--objective {self.name}: judges items of options, and the calibration has text "
                "too; add an objective for it, such as nll:0.5+" + self.name + ":0.5"
            )
        return tuple(rows)


def mix(components: Sequence[Component]) -> Mixture:
    """A mixture with its weights made to sum to 1.

    Raises:
        UsageError: If a weight is not above 0, an objective is named twice, or one of several
            compares with the dense model.
    """
    total = sum(component.weight for component in components)
    for component in components:
        if not 0 < component.weight < float("inf"):
            raise UsageError(
                f"--objective: expected weights above 0, got {component.weight:g} for "
                f"{component.objective.name}"
            )
    if total == float("inf"):
        raise UsageError("--objective: the weights sum to infinity; give smaller ones")
    names = [component.objective.name for component in components]
    if len(set(names)) < len(names):
        raise UsageError(f"--objective: expected each objective once, got {' and '.join(names)}")
    compares = [c.objective.name for c in components if c.objective.compares]
    if compares and len(components) > 1:
        raise UsageError(
            f"--objective: {compares[0]} compares with the dense model, for which it is 0, and a "
            "mixture divides by that; use it alone"
        )
    return Mixture(tuple(Component(c.objective, c.weight / total) for c in components))
