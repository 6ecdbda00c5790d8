"""What is cut into shards for several workers is still the same work, and hardly more of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from items import calibration_of, random_item, random_text

import depthprune as dp
from depthprune.errors import EvaluationError
from depthprune.evaluator import Memo
from depthprune.evaluator.prefix_walk import RemovedSet, block_runs, in_order
from depthprune.evaluator.shard_losses import ShardLosses
from depthprune.evaluator.shards import Scored, Scoring, Shard, Work, cut, cut_sets
from depthprune.models.arithmetic import arithmetic_of

SETS = st.sets(st.lists(st.integers(0, 9), max_size=5, unique=True).map(lambda s: tuple(sorted(s))))


OBJECTIVE = "nll:1+option-ce:1"


class InProcess:
    """Workers that all live here, and answer in the wrong order."""

    def __init__(self, model: dp.Model, count: int) -> None:
        self.count = count
        self.rounds = arithmetic_of(model)
        self.shards: list[Shard] = []
        self._model = model
        self._losses: dict[str, ShardLosses] = {}

    def score(
        self, scoring: Scoring, shrunk: Sequence[tuple[int, ...]], shards: Sequence[Shard]
    ) -> Iterator[tuple[Shard, Scored]]:
        losses = self._losses.setdefault(scoring.key, ShardLosses(self._model, scoring))
        for shard in reversed(shards):
            self.shards.append(shard)
            yield shard, losses.score(shrunk, shard)


@given(SETS, st.integers(1, 12))
def test_parts_hold_every_set_once_and_in_order(sets: set[RemovedSet], parts: int) -> None:
    found = cut_sets(list(sets), 10, parts)
    assert list(itertools.chain(*found)) == in_order(sets, 10)
    assert 1 <= len(found) <= parts
    assert all(found) or not sets


@given(SETS.filter(bool), st.integers(1, 12))
def test_no_cut_into_as_many_parts_of_neighbours_has_a_dearest_part_below_it(
    sets: set[RemovedSet], parts: int
) -> None:
    ordered = in_order(sets, 10)
    found = max(block_runs(part, 10) for part in cut_sets(ordered, 10, parts))
    if len(ordered) > 8:
        return
    best = min(
        max(block_runs(ordered[a:b], 10) for a, b in itertools.pairwise([0, *cuts, len(ordered)]))
        for count in range(min(parts, len(ordered)))
        for cuts in itertools.combinations(range(1, len(ordered)), count)
    )
    assert found == best


def test_batches_are_cut_before_sets_since_that_costs_nothing() -> None:
    singles = [(block,) for block in range(32)]
    work = [Work(((place,),), 64, singles) for place in range(8)]
    shards = cut(work, 32, 4)
    assert len(shards) == 8
    assert sum(shard.cost for shard in shards) == 8 * 64 * block_runs(singles, 32)
    assert len(cut(work[:1], 32, 4)) == 4


def test_the_dearest_shard_comes_first_and_the_dense_model_counts_in_each() -> None:
    singles = [(block,) for block in range(8)]
    work = [Work(((place,),), 16 << place, singles) for place in range(3)]
    alone = [shard.cost for shard in cut(work, 8, 1)]
    assert alone == [tokens * block_runs(singles, 8) for tokens in (64, 32, 16)]
    beside = [shard.cost for shard in cut(work, 8, 1, compares=True)]
    assert beside == [tokens * block_runs([(), *singles], 8) for tokens in (64, 32, 16)]


@pytest.mark.parametrize("name", ["one-shot", "greedy", "beam"])
def test_eight_workers_run_at_most_a_third_more_than_one(name: str) -> None:
    first = [(block,) for block in range(32)]
    later = [tuple(sorted((3, 17, 22, block))) for block in range(32) if block not in (3, 17, 22)]
    beam = [tuple(sorted({a, b})) for a in (5, 11, 19, 28) for b in range(32) if a != b]
    sets = {"one-shot": first, "greedy": later, "beam": list(dict.fromkeys(beam))}[name]
    shards = cut([Work(((0,),), 1, sets)], 32, 8)
    assert sum(shard.cost for shard in shards) <= 1.2 * block_runs(sets, 32)


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> dp.Model:
    return dp.load(tiny_llama, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def calibration() -> dp.Calibration:
    rng = np.random.default_rng(0)
    return calibration_of(
        [random_text(rng, 20) for _ in range(7)], [random_item(rng) for _ in range(5)]
    )


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("objective", [OBJECTIVE, "kl"])
@pytest.mark.parametrize("search", ["greedy", "one-shot", "local-search"])
def test_a_search_by_workers_is_the_search_without(
    model: dp.Model, calibration: dp.Calibration, search: str, objective: str, workers: int
) -> None:
    if objective == "kl":
        calibration = dp.Calibration(calibration.parts[:1])
    alone = dp.Evaluator(model, calibration, objective)
    spread = dp.Evaluator(model, calibration, objective, workers=InProcess(model, workers))
    expected, found = (dp.search(search, each, k=3) for each in (alone, spread))
    assert found.removed == expected.removed
    assert found.score == expected.score
    assert [p.loss for p in found.trace] == [p.loss for p in expected.trace]
    assert spread.cost.asked_block_tokens == alone.cost.asked_block_tokens
    assert spread.cost.evaluations == alone.cost.evaluations
    assert spread.cost.block_tokens >= alone.cost.block_tokens


def test_what_the_memo_holds_is_asked_of_no_worker(
    model: dp.Model, calibration: dp.Calibration
) -> None:
    with Memo.temporary() as memo:
        dp.Evaluator(model, calibration, OBJECTIVE, memo=memo, racing=None).score([(1,), (2,)])
        workers = InProcess(model, 2)
        again = dp.Evaluator(model, calibration, OBJECTIVE, memo=memo, racing=None, workers=workers)
        again.score([(1,), (2,)])
        assert not workers.shards
        again.score([(1,), (3,)])
        assert {removed for shard in workers.shards for removed in shard.sets} == {(3,)}
        kept = dp.Evaluator(model, calibration, OBJECTIVE, memo=memo, racing=None)
        kept.score([(3,)])
        assert kept.cost.block_tokens == 0


def test_a_worker_that_runs_windows_in_another_shape_is_refused(
    model: dp.Model, calibration: dp.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = InProcess(model, 2)
    spread = dp.Evaluator(model, calibration, OBJECTIVE, workers=workers)
    monkeypatch.setattr(ShardLosses, "_shape", lambda self, place: "text 64×999")
    with pytest.raises(EvaluationError, match="a worker runs windows as text 64×999, not as"):
        spread.score([(1,)])


def test_a_call_that_is_too_large_for_a_worker_is_halved_everywhere(
    model: dp.Model, calibration: dp.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dp.Evaluator(model, calibration, OBJECTIVE).score([(1,), (2, 3)])
    true = ShardLosses.score

    def short(self: ShardLosses, shrunk: Sequence[tuple[int, ...]], shard: Shard) -> Scored:
        full = [call for call in shard.calls if len(call) > 1]
        return Scored(too_large=full[0]) if full else true(self, shrunk, shard)

    monkeypatch.setattr(ShardLosses, "score", short)
    spread = dp.Evaluator(model, calibration, OBJECTIVE, workers=InProcess(model, 2))
    for ours, theirs in zip(spread.score([(1,), (2, 3)]), expected, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, abs=1e-5)
