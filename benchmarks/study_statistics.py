"""What a study's statistics promise, counted on simulated tables of the real designs.

    python benchmarks/study_statistics.py               # 2,000 tables a row: hours of one core
    python benchmarks/study_statistics.py --tables 200 --design paper --planted "pure noise"

Coverage: how often a 95% interval holds what it is of, which is known by simulating far more tables
of the same levels, or was planted. Claims: how often anything is claimed of calibration or search
in a table in which nothing is planted, and how often one is said to matter more. Power: how often
a planted effect is claimed; effects are in units of the noise floor.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from depthprune.study.statistics import noise
from depthprune.study.statistics.core import Core
from depthprune.study.statistics.estimates import IntervalEstimate, NotEstimable
from depthprune.study.statistics.gains import gain
from depthprune.study.statistics.intervals import ALPHA
from depthprune.study.statistics.joint import FACTORS, INTERACTIONS, holm, joint_tests
from depthprune.study.statistics.simulation import Design
from depthprune.study.statistics.transfer import home

BALANCED = Design(calibrations=5, draws=6, searches=3, sizes=2, objectives=2, responses=4)
DESIGNS = {
    "balanced": BALANCED,
    "balanced, by item": replace(BALANCED, items=100, item=0.0, item_own=3.0),
    "paper": Design(calibrations=4, draws=3, searches=2, sizes=2, objectives=2, responses=4),
    "four by four": Design(calibrations=4, draws=4, searches=4, sizes=1, objectives=1, responses=2),
}
FAULTS: dict[str, dict[str, object]] = {
    "pure noise": {},
    "one source spreads three times": {"spread": (3.0, 1.0, 1.0, 1.0, 1.0)},
    "one outlier draw": {"outlier": ("draw", 5.0)},
    "one outlier cell": {"outlier": ("cell", 5.0)},
    "interaction only, 1 floor": {"together": 1.0},
}
FLOORS = (1.0, 1.3, 2.0)
EFFECTS: dict[str, dict[str, object]] = {
    f"{name}, {size:g} floor{'s' * (size > 1)}": dict.fromkeys(factors, size)
    for name, factors in (
        ("calibration", ("calibration",)),
        ("search", ("search",)),
        ("both", ("calibration", "search")),
    )
    for size in FLOORS
}
SIZES = ("calibration", "search", "objective", "draw")
_TRUTH = 400
"""Tables that the truth of a draw of the levels is the mean of."""


def planted(design: Design, changes: dict[str, object]) -> Design:
    """The design with something planted, effects in floors; a spread is cut to its calibrations.

    Two normal levels differ on average as two draws do where their spreads are alike.
    """
    floor = math.hypot(design.luck, design.own, design.texts)
    made: dict[str, Any] = dict(changes)
    for name in ("calibration", "search", "together"):
        if name in made:
            made[name] *= floor
    if design.items and {"calibration", "search", "together"} & made.keys():
        # What differs, differs by item: what two levels gain or lose is not the same on all.
        made["item"] = 2.0
    if "spread" in made:
        made["spread"] = made["spread"][: design.calibrations]
    return replace(design, **made)


def truth(design: Design, means: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """What the figures are of: their means over many tables of the same levels."""
    cores = [design.core(rng, means) for _ in range(_TRUTH)]
    values = np.concatenate([each.values for each in cores], axis=-1)
    every = replace(cores[0], values=values, without_items=None)
    found = {}
    for name in SIZES:
        moves = noise.moved(every, name)
        if not isinstance(moves, NotEstimable):
            found[name] = moves.value
    found["difference"] = found["calibration"] - found["search"]
    gained = 0.05 * float(np.mean(means[:, 0] - means[:, 1]))
    return found | {"gain": gained, "interaction": 0.0, "home": 0.0}


def intervals(core: Core, more: noise.Difference) -> Iterator[tuple[str, IntervalEstimate]]:
    """Every interval that is printed of a table."""
    for name in SIZES:
        moves = noise.moved(core, name)
        if not isinstance(moves, NotEstimable):
            yield name, moves
    yield "difference", more.estimate
    found = gain(core, "search 1", "search 0", lower_is_better=True)
    yield "gain", found.draws
    if found.interaction is not None:
        yield "interaction", found.interaction
    domains = [
        SimpleNamespace(name=response.name, kind=response.kind, source=source)
        for response, source in zip(core.responses, core.sources, strict=False)
    ]
    cells: Any = SimpleNamespace(rows=[SimpleNamespace(evaluations=domains)])
    at_home = home(core, cells, lower_is_better=True)
    if not isinstance(at_home, NotEstimable):
        yield "home", at_home.gain


def population(design: Design, tables: int, rng: np.random.Generator) -> float:
    """The share of a gain's intervals for further calibrations that hold what is true of all."""
    held = 0
    for _ in range(tables):
        level = design.search * rng.standard_normal(design.searches)
        shape = (design.calibrations, design.searches)
        means = level + design.together * rng.standard_normal(shape)
        found = gain(design.core(rng, means), "search 1", "search 0", lower_is_better=True)
        low, high = found.calibrations.interval  # type: ignore[misc]
        held += bool(low <= 0.05 * (level[0] - level[1]) <= high)
    return held / tables


@dataclass
class Counts:
    """What was counted on the tables of one row.

    Attributes:
        held: By interval, whether it held the truth, a value a table.
        claimed: By claim, in how many tables it was made.
        tables: How many there were.
    """

    held: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    claimed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    tables: int = 0

    def add(self, core: Core, known: dict[str, float]) -> None:
        """Count one table."""
        self.tables += 1
        more = noise.difference(core, resamples=199)
        assert not isinstance(more, NotEstimable)
        for name, estimate in intervals(core, more):
            if not isinstance(ends := estimate.interval, NotEstimable):
                self.held[name].append(ends[0] <= known[name] <= ends[1])
        tests = joint_tests(core, permutations=199)
        made = _claims(tests, FACTORS, 0.0)
        for factor, p in made.items():
            self.claimed[factor] += p < ALPHA
        smallest = min(made.values())
        self.claimed["any"] += smallest < ALPHA
        together = _claims(tests, INTERACTIONS, smallest)
        self.claimed["interaction"] += min(together.values()) < ALPHA
        if not isinstance(more.p, NotEstimable) and more.p < ALPHA:
            larger = "calibration" if more.estimate.value > 0 else "search"
            self.claimed[f"{larger} more"] += made[larger] < ALPHA

    def cells(self) -> tuple[list[str], list[str]]:
        """Shares in percent: of intervals that covered, and of tables that claimed."""
        covered = [100 * float(np.mean(self.held[n])) if self.held[n] else None for n in INTERVALS]
        claimed = [100 * self.claimed[name] / self.tables for name in CLAIMS]
        return _words(covered), _words(claimed)


INTERVALS = (*SIZES, "difference", "gain", "interaction", "home")
CLAIMS = (*FACTORS, "any", "interaction", "calibration more", "search more")


def _claims(
    tests: dict[str, float | NotEstimable], names: Sequence[str], gate: float
) -> dict[str, float]:
    """Adjusted p; of what cannot be tested 1."""
    known = {n: p for n in names if not isinstance(p := tests[n], NotEstimable)}
    values = holm(np.asarray(list(known.values())))
    adjusted = dict(zip(known, np.maximum(values, gate).tolist(), strict=True))
    return {name: adjusted.get(name, 1.0) for name in names}


def _words(shares: Sequence[float | None]) -> list[str]:
    return ["-" if share is None else f"{share:.1f}" for share in shares]


def count(design: Design, tables: int, levels: int, seed: int) -> Counts:
    """Simulate tables over several draws of the levels."""
    rng = np.random.default_rng(seed)
    found = Counts()
    for _ in range(levels):
        means = design.means(rng)
        known = truth(design, means, rng)
        for _ in range(tables // levels):
            found.add(design.core(rng, means), known)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--levels", type=int, default=20, help="draws of the levels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--design", choices=DESIGNS, action="append")
    parser.add_argument("--planted", choices={**FAULTS, **EFFECTS}, action="append")
    args = parser.parse_args()
    rows = {**FAULTS, **EFFECTS}
    for name in args.design or DESIGNS:
        design, claimed = DESIGNS[name], []
        print(f"\n{name}: {args.tables:,} tables a row; % of 95% intervals that cover\n")
        print(f"| planted | {' | '.join(INTERVALS)} |\n|{'---|' * (1 + len(INTERVALS))}")
        for words in args.planted or rows:
            changes = rows[words]
            found = count(planted(design, changes), args.tables, args.levels, args.seed)
            covered, claims = found.cells()
            print(f"| {words} | {' | '.join(covered)} |", flush=True)
            claimed.append(f"| {words} | {' | '.join(claims)} |")
        print(f"\n{name}: % of tables that claim\n")
        print(f"| planted | {' | '.join(CLAIMS)} |\n|{'---|' * (1 + len(CLAIMS))}")
        print("\n".join(claimed), flush=True)
        both = planted(design, {"search": 1.0, "together": 1.0})
        share = population(both, args.tables, np.random.default_rng(args.seed))
        print(
            f"\nA gain's interval for further calibrations covers in {100 * share:.1f}%.",
            flush=True,
        )


if __name__ == "__main__":
    main()
