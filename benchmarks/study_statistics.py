"""What a study's statistics promise, counted on simulated tables of the real designs.

    python benchmarks/study_statistics.py               # 2,000 tables a row: an hour of one core
    python benchmarks/study_statistics.py --tables 200  # six minutes

Coverage: how often a 95% interval holds what it is of, which is known by simulating far more tables
of the same levels. Claims: how often anything is claimed of calibration or search in a table in
which nothing is planted, and how often one is said to matter more. Power: how often a planted
effect is claimed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from depthprune.study.statistics import noise
from depthprune.study.statistics.core import Core
from depthprune.study.statistics.estimates import NotEstimable
from depthprune.study.statistics.intervals import ALPHA
from depthprune.study.statistics.joint import (
    FACTORS,
    holm,
    joint_tests,
)
from depthprune.study.statistics.simulation import Design

DESIGNS = {
    "balanced": Design(calibrations=5, draws=6, searches=3, sizes=2, objectives=2, responses=4),
    "paper": Design(calibrations=4, draws=3, searches=2, sizes=2, objectives=2, responses=4),
}
NOISE: dict[str, dict[str, object]] = {
    "pure noise": {},
    "one source spreads three times": {"spread": (3.0, 1.0, 1.0, 1.0, 1.0)},
    "one outlier draw": {"outlier": ("draw", 5.0)},
    "one outlier cell": {"outlier": ("cell", 5.0)},
}
EFFECTS: dict[str, dict[str, object]] = {
    "calibration 1.0": {"calibration": 1.0},
    "calibration 2.0": {"calibration": 2.0},
    "search 1.0": {"search": 1.0},
    "search 2.0": {"search": 2.0},
    "both 1.0": {"calibration": 1.0, "search": 1.0},
    "both 2.0": {"calibration": 2.0, "search": 2.0},
    "interaction only 1.0": {"together": 1.0},
}
SIZES = ("calibration", "search", "objective", "draw")


def planted(design: Design, changes: dict[str, object]) -> Design:
    """The design with something planted; a spread is cut to its calibrations."""
    spread = changes.get("spread")
    if isinstance(spread, tuple):
        changes = changes | {"spread": spread[: design.calibrations]}
    return replace(design, **changes)  # type: ignore[arg-type]


def truth(design: Design, means: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """What the figures are of: their means over many tables of the same levels."""
    found = dict.fromkeys(SIZES, 0.0)
    count = 400
    for _ in range(count):
        core = design.core(rng, means)
        for name in SIZES:
            moves = noise.moved(core, name)
            if not isinstance(moves, NotEstimable):
                found[name] += float(moves.mean.mean()) / count
    return found | {"difference": found["calibration"] - found["search"]}


def intervals(core: Core) -> Iterator[tuple[str, tuple[float, float]]]:
    """Every interval that is printed of a table."""
    for name in SIZES:
        moves = noise.moved(core, name)
        if not isinstance(moves, NotEstimable):
            ends = noise.interval(moves, np.arange(len(core.responses))).interval
            if not isinstance(ends, NotEstimable):
                yield name, ends
    more = noise.difference(core, resamples=199)
    if not isinstance(more, NotEstimable):
        ends = more.estimate.interval
        if not isinstance(ends, NotEstimable):
            yield "difference", ends


def coverage(design: Design, tables: int, levels: int, seed: int) -> dict[str, float]:
    """The share of intervals that hold the truth, over several draws of the levels."""
    rng = np.random.default_rng(seed)
    held = {name: [] for name in (*SIZES, "difference")}  # type: dict[str, list[bool]]
    for _ in range(levels):
        means = design.means(rng)
        known = truth(design, means, rng)
        for _ in range(tables // levels):
            for name, (low, high) in intervals(design.core(rng, means)):
                held[name].append(low <= known[name] <= high)
    return {name: float(np.mean(each)) for name, each in held.items() if each}


def claims(design: Design, tables: int, seed: int) -> dict[str, float]:
    """How often each factor is claimed, any of them, and one said to matter more."""
    rng = np.random.default_rng(seed)
    names = (*FACTORS, "any", "calibration more", "search more")
    found = dict.fromkeys(names, 0)
    for _ in range(tables):
        core = design.core(rng)
        tests = joint_tests(core, permutations=199)
        p = holm(
            np.asarray([p if not isinstance(p := tests[f], NotEstimable) else 1 for f in FACTORS])
        )
        made = dict(zip(FACTORS, p < ALPHA, strict=True))
        more = noise.difference(core, resamples=199)
        if (
            not isinstance(more, NotEstimable)
            and not isinstance(more.p, NotEstimable)
            and more.p < ALPHA
        ):
            larger = "calibration" if more.estimate.value > 0 else "search"
            found[f"{larger} more"] += bool(made[larger])
        for factor in FACTORS:
            found[factor] += bool(made[factor])
        found["any"] += any(made.values())
    return {name: count / tables for name, count in found.items()}


def table(head: list[str], rows: list[list[str]]) -> None:
    """Print a Markdown table."""
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=2000)
    parser.add_argument("--levels", type=int, default=10, help="draws of the levels, for coverage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--design", choices=DESIGNS, action="append")
    args = parser.parse_args()
    for name in args.design or DESIGNS:
        design = DESIGNS[name]
        print(f"\n{name}: {args.tables:,} tables a row, in units of the draw's own spread\n")
        rows = []
        for words, changes in {**NOISE, **EFFECTS}.items():
            found = coverage(planted(design, changes), args.tables, args.levels, args.seed)
            rows.append([words, *(f"{100 * share:.1f}" for share in found.values())])
        table(["% of 95% intervals that cover", *SIZES, "difference"], rows)
        rows = []
        for words, changes in {**NOISE, **EFFECTS}.items():
            found = claims(planted(design, changes), args.tables, args.seed)
            rows.append([words, *(f"{100 * share:.1f}" for share in found.values())])
        table(["% of tables that claim", *found], rows)


if __name__ == "__main__":
    main()
