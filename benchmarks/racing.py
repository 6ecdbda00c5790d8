"""Racing: what it costs and what it chooses, beside exact scores of the same windows.

    python benchmarks/racing.py --text wiki.valid.txt --memo racing.sqlite [--draws 20]

For each draw of calibration windows, greedy (k = 6) is run exactly on the demo model, its losses
kept in a memo of the benchmark's own, so that it can be stopped and go on. Then racing is replayed
over those losses, on `--orders` orders of the windows: at each of the six decisions, and end to
end, where each decision starts from what the last one chose (which may need losses that the exact
run did not compute; those are computed too). A decision is worse than a tie if the exact loss of
what was chosen is beyond the tolerance above the best. Regret is the raced search's exact loss
against the exact search's.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

import depthprune as dp
from depthprune.evaluator.memo.store import Memo
from depthprune.evaluator.racing.race import Race
from depthprune.evaluator.racing.settings import Racing


def decisions(
    evaluator: dp.Evaluator, exact: dp.Result, orders: int, settings: Racing
) -> list[tuple[float, float]]:
    """For each decision of the exact path and each order: how much worse than the best it chose.

    The second figure is the share of the losses that were looked at.
    """
    answers = []
    rng = np.random.default_rng(0)
    removed: tuple[int, ...] = ()
    count = len(evaluator.calibration.windows)
    least = max(1, evaluator._runner.calls.rows // 2)
    drawn = [rng.permutation(count).tolist() for _ in range(orders)]
    earlier: list[list[dp.Score]] = [[] for _ in drawn]
    for chosen in exact.path:
        sets = [
            tuple(sorted((*removed, block)))
            for block in range(evaluator.blocks)
            if block not in removed
        ]
        scores = {score.removed: score for score in evaluator.score(sets)}
        best = min(score.loss for score in scores.values())
        for which, order in enumerate(drawn):
            race = Race(sets, 1, settings, evaluator._combination, order, least, earlier[which])
            looked = 0
            for places, contenders in race:
                looked += len(places) * len(contenders)
                race.tell({s: scores[s].window_losses[None] for s in contenders})
            earlier[which] = race.scores()
            winner = min(earlier[which], key=lambda s: s.loss).removed
            worse = (scores[winner].loss - best) / best
            answers.append((worse, looked / (count * len(sets))))
        removed = chosen
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--memo", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--orders", type=int, default=1)
    parser.add_argument("-k", type=int, default=6)
    options = parser.parse_args()
    settings = Racing()
    model = dp.load(options.model)
    print(f"{'draw':>4}{'exact':>22}{'cost':>7}{'worse':>7}{'regret':>9}")
    every: list[tuple[float, float]] = []
    regrets = []
    for draw in range(options.draws):
        spec = f"text:{options.text},windows={options.windows},length={options.length},seed={draw}"
        calibration = dp.calibrate(spec, model)
        with Memo.open(options.memo) as memo:
            shared: Any = {"memo": memo, "plain": True}
            evaluator = dp.Evaluator(model, calibration, racing=None, **shared)
            exact = dp.search("greedy", evaluator, k=options.k)
            raced = dp.search(
                "greedy", dp.Evaluator(model, calibration, racing=settings, **shared), k=options.k
            )
            found = decisions(evaluator, exact, options.orders, settings)
        every += found
        regrets.append(raced.score.loss / exact.score.loss - 1)
        worse = sum(each > settings.tolerance for each, _ in found)
        cost = statistics.mean(share for _, share in found)
        name = ",".join(map(str, exact.removed))
        print(f"{draw:>4}{name:>22}{cost:>7.2f}{worse:>7}{regrets[-1]:>9.2%}", flush=True)
    worse = sum(each > settings.tolerance for each, _ in every)
    cost = statistics.mean(share for _, share in every)
    print(
        f"{len(every)} decisions: {worse} worse than a tie ({settings.tolerance:.1%}), "
        f"the worst by {max(each for each, _ in every):.2%}; "
        f"{cost:.2f} of the losses were looked at"
    )
    print(
        f"end to end: regret {statistics.mean(regrets):.2%} in the mean, {max(regrets):.2%} at most"
    )


if __name__ == "__main__":
    main()
