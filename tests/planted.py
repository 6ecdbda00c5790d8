"""Calibrations whose losses are formulas, so that it is known which of them should win."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from depthprune.objectives import parse_objective
from depthprune.pruning.target.configurations import Configuration
from depthprune.pruning.target.portfolio import Row
from depthprune.pruning.target.scorers import RemainingBudget, TargetScorers
from depthprune.pruning.target.spend import Spending
from depthprune.pruning.target.trials import Rules, Spent
from depthprune.searches import Budget, make_search
from landscapes import Landscape

BLOCKS = 8
WINDOWS = 16
K = 2


def costs(*cheap: int, dear: float = 1.0) -> Callable[[tuple[int, ...]], float]:
    """Removing any block costs `dear`, but for some that cost next to nothing."""
    return lambda removed: 3.0 + sum(0.05 if b in cheap else dear for b in removed)


class Planted:
    """A bench of landscapes by name.

    Args:
        choose: What removing blocks costs the target.
        general: What it costs text in general.
        noise: Of the target's windows.
        **arms: What each calibration says it costs.
    """

    def __init__(
        self,
        choose: Callable[[tuple[int, ...]], float],
        general: Callable[[tuple[int, ...]], float],
        noise: float = 0.0,
        windows: int = 4 * WINDOWS,
        **arms: Callable[[tuple[int, ...]], float],
    ) -> None:
        self.scorers = {name: Landscape(BLOCKS, loss, WINDOWS) for name, loss in arms.items()}
        self.scorers["choose"] = Landscape(BLOCKS, choose, windows, noise)
        self.scorers["general"] = Landscape(BLOCKS, general, WINDOWS)
        self.configurations = [_configuration(name) for name in arms]
        default = SimpleNamespace(
            parts=[SimpleNamespace(share=1.0)], held_out=lambda: [_named("general")]
        )
        self.bench = TargetScorers(
            lambda calibration, objective: self.scorers[calibration.fingerprint],
            _named("choose"),
            parse_objective("nll"),
            default,  # type: ignore[arg-type]
        )

    def spend(
        self,
        budget: str | Budget = "1000 evaluations",
        first: int = WINDOWS,
        *,
        reserve: float = 0.15,
        sure: bool = False,
    ) -> Spent:
        """Spend a budget on it."""
        limits = parse(budget) if isinstance(budget, str) else budget
        remaining = RemainingBudget(limits, self.bench, reserve)
        rules = Rules(make_search("greedy"), K)
        foresee = self._foresee(rules)
        return Spending(
            self.bench, self.configurations, rules, remaining, first, foresee, sure=sure
        ).run()

    def _foresee(self, rules: Rules) -> Any:
        def foresee(configuration: Any, name: Any, share: float) -> Any:
            twin = Landscape(BLOCKS, costs(), WINDOWS)
            rules.run(name, twin)
            cost = twin.cost
            return type(cost)(
                evaluations=share * cost.evaluations,
                asked_block_tokens=round(share * cost.asked_block_tokens),
            )

        return foresee


def parse(budget: str) -> Budget:
    """A number of evaluations."""
    return Budget(evaluations=float(budget.split()[0]))


def found(spent: Spent) -> Sequence[tuple[int, ...]]:
    """Every set that was found."""
    return list(spent.first)


def _named(name: str) -> Any:
    return SimpleNamespace(fingerprint=name)


def _configuration(name: str) -> Configuration:
    kinds = {
        "default": {"calibration": ("default",), "objective": "nll"},
        "target": {"calibration": ("target",)},
    }
    row = Row(name=name, **kinds.get(name, {"calibration": (name,)}))  # type: ignore[arg-type]
    return Configuration(row, 0, _named(name), parse_objective("nll"))
