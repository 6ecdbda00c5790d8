"""How the budget is spent: successive halving over calibrations, the dearest work for the best.

All calibrations are tried by a cheap search on few windows; those whose sets keep the target best
go on to the search that was asked for, on few windows, and of them the best on all. Where the
searches go is decided by the first windows of the part that chooses. Two are always searched on all
windows, since it is they that a choice has to beat: the default calibration and the task itself. In
the end the leader's single swaps are tried on the task.

Successive halving: Jamieson and Talwalkar, "Non-stochastic best arm identification and
hyperparameter optimization", AISTATS 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from depthprune.errors import EvaluationError, NoWorkersError, first_line
from depthprune.evaluator import Cost, RemovedSet
from depthprune.progress import warn
from depthprune.pruning.target.configurations import Configuration
from depthprune.pruning.target.scorers import (
    Consensus,
    RemainingBudget,
    TargetScorers,
    on_share,
)
from depthprune.pruning.target.trials import Arm, Round, Rules, Spent, Trial
from depthprune.searches import Search, make_space
from depthprune.searches.common.moves import swaps

CHEAP = "one-shot"
FEW = 0.25
"""Share of a calibration's windows in the first rounds."""

ROUNDS = (("some windows", 1 / 3, FEW), ("all windows", 1 / 6, 1.0))
"""After the first: a name, the share of the calibrations that go on, and of their windows."""

CONSENSUS = "consensus"
SWAPS = 4
"""Single swaps of the leader that enter the race at most."""

RACED = 0.6
"""What a raced search takes of its cost on every window, as a rule."""


class Spending:
    """Spends a budget on calibrations.

    Args:
        scorers: The evaluators.
        configurations: What is tried.
        rules: What is searched for.
        remaining: What may be spent.
        first: How many of the target's windows decide rounds.
        foresee: What the dear search costs on a scorer's calibration and so many of its windows.
        sure: Whether the two searches to beat are run whatever was spent before: the default
            budget is made to hold them.
    """

    def __init__(
        self,
        scorers: TargetScorers,
        configurations: Sequence[Configuration],
        rules: Rules,
        remaining: RemainingBudget,
        first: int,
        foresee: Callable[[Configuration | None, str | Search, float], Cost],
        *,
        sure: bool = False,
    ) -> None:
        self._scorers, self._rules, self._remaining = scorers, rules, remaining
        self._first, self._foresee, self._sure = first, foresee, sure
        self._arms = [Arm(c.name, scorers.scorer(c), c) for c in configurations]
        self.spent = Spent()

    def run(self) -> Spent:
        """Spend it.

        Raises:
            EvaluationError: If no calibration gave a set with a finite loss on the target.
        """
        self._round(f"{CHEAP}, some windows", CHEAP, FEW, self._arms)
        self._anchors()
        self._add_consensus()
        number = len(self._arms)
        for name, share, windows in ROUNDS:
            kept = sorted(self._arms, key=lambda arm: arm.best)[: math.ceil(share * number)]
            going = [arm for arm in kept if not arm.whole and math.isfinite(arm.best)]
            title = f"{self._rules.search.name}, {name}"
            self._round(title, self._rules.search, windows, going)
        self._swap()
        return self.spent

    def _anchors(self) -> None:
        for kind in ("default", "task"):
            arm = next(filter(lambda arm: _is(arm, kind), self._arms), None)
            if arm is None:
                continue
            before = len(self.spent.trials)
            title = f"{self._rules.search.name}, all windows"
            title = f"{title}: {arm.name}"
            self._round(title, self._rules.search, 1.0, [arm], sure=self._sure)
            if len(self.spent.trials) > before:
                setattr(self.spent, kind, self.spent.trials[-1].removed)

    def _round(
        self,
        title: str,
        name: str | Search,
        share: float,
        arms: Sequence[Arm],
        *,
        sure: bool = False,
    ) -> None:
        """Run one search on each of some calibrations, as long as it can be paid for."""
        found: list[tuple[Arm, RemovedSet]] = []
        for arm in arms:
            coming = self._foresee(arm.configuration, name, share)
            free = sure or name == CHEAP
            if not free and not self._remaining.affords(coming, RACED if share == 1 else 1.0):
                continue
            removed = self._search(arm, name, share)
            if removed is not None:
                found.append((arm, removed))
        self._look(removed for _, removed in found)
        for arm, removed in found:
            arm.best = min(arm.best, self.spent.first[removed].loss)
        if found:
            self._note(title, len(found))

    def _search(self, arm: Arm, name: str | Search, share: float) -> RemovedSet | None:
        scorer = on_share(arm.scorer, share)
        try:
            result = self._rules.run(name, scorer)
        except NoWorkersError:
            raise  # it says nothing of the calibration
        except EvaluationError as error:
            self.spent.left_out[arm.name] = first_line(error)
            warn(f"{arm.name} is left out: {first_line(error)}")
            return None
        arm.whole = arm.whole or share == 1
        self.spent.trials.append(Trial(result.removed, arm.name, result.search, share))
        return result.removed

    def _look(self, sets: Iterable[RemovedSet]) -> None:
        """Score sets on the target's first windows, those that were not."""
        new = [s for s in dict.fromkeys(sets) if s not in self.spent.first]
        if new:
            scores = self._scorers.choose.score(new, windows=self._first)
            self.spent.first.update(zip(new, scores, strict=True))

    def _note(self, title: str, tried: int) -> None:
        leader = self.spent.leader
        loss = self.spent.first[leader].loss
        self.spent.rounds.append(Round(title, tried, leader, loss, self._scorers.cost))

    def _add_consensus(self) -> None:
        """One more calibration: all of them, each on its own scale, by a draw of each."""
        members = [
            arm
            for arm in self._arms
            if arm.configuration and arm.configuration.draw == 0 and math.isfinite(arm.best)
        ]
        if len(members) < 2:
            return
        free = make_space(
            self._scorers.choose.blocks,
            self._rules.k,
            self._rules.protect,
            refusal=self._rules.refusal,
        ).free
        arm = Arm(CONSENSUS, Consensus([m.scorer for m in members], free, FEW), None)
        self._arms.append(arm)
        self._round(f"{CHEAP}, {CONSENSUS}", CHEAP, FEW, [arm])

    def _swap(self) -> None:
        """Try the leader's single swaps on the task, and look at those that are better there."""
        if not self.spent.first:
            raise EvaluationError(
                "--for: no calibration gave a set with a finite loss: "
                + "; ".join(f"{name}: {why}" for name, why in self.spent.left_out.items())
            )
        arm = next(filter(lambda arm: _is(arm, "task"), self._arms), None)
        if arm is None:
            return
        leader, blocks = self.spent.leader, self._scorers.choose.blocks
        rules = self._rules
        space = make_space(blocks, rules.k, rules.protect, refusal=rules.refusal)
        sets = [leader, *swaps(space, leader)]
        share = self._swap_share(arm, sets)
        if share is None or len(sets) == 1:
            return
        scorer = on_share(arm.scorer, share)
        scores = scorer.compare(sets, keep=min(SWAPS + 1, len(sets)))
        ranked = sorted(zip((s.loss for s in scores), sets, strict=True))
        better = [each for loss, each in ranked[:SWAPS] if loss < scores[0].loss]
        self.spent.trials += [Trial(each, arm.name, "swap", share) for each in better]
        self._look(better)
        self._note("swaps of the leader", 1)

    def _swap_share(self, arm: Arm, sets: Sequence[RemovedSet]) -> float | None:
        """On what share of the task's windows swaps can be paid for; None for on none."""
        greedy = self._foresee(arm.configuration, "greedy", 1.0)
        # Sets of size k walk on together for less than those of a greedy search do.
        asked = greedy.evaluations or 1.0
        each = len(sets) / asked
        whole = Cost(
            evaluations=each * greedy.evaluations,
            asked_block_tokens=round(each * greedy.asked_block_tokens),
        )
        if self._remaining.affords(whole, RACED):
            return 1.0
        return FEW if self._remaining.affords(whole, FEW) else None


def _is(arm: Arm, kind: str) -> bool:
    configuration = arm.configuration
    if configuration is None or configuration.draw:
        return False
    row = configuration.row
    return row.is_default if kind == "default" else row.is_target
