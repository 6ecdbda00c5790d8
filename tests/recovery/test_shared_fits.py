"""Sets recovered together are recovered as each alone is, for less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import depthprune as dp
from depthprune.models.blocks.anatomy import Anatomy
from depthprune.recovery import RecoveringScorer
from depthprune.recovery.result import block_runs
from depthprune.recovery.shared_fits import GAPS, recover_each, shared_block_runs
from mended import drawn, loaded

SETS = [(0,), (0, 1), (0, 3), (1,), (1, 2), (1, 2, 4), (1, 3), (1, 3, 5), (2, 4), (5,)]


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_sets_recovered_together_have_the_weights_that_each_has_alone(
    model_type: str, tmp_path: Path
) -> None:
    model = loaded(model_type)
    calibration = drawn(tmp_path, model)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    met = []
    for recovery in recover_each(model, SETS, calibration):
        met.append(recovery.removed)
        alone = dp.recover(model, recovery.removed, calibration, GAPS)
        assert recovery.runs == alone.runs
        assert recovery.weights.keys() == alone.weights.keys()
        for name, weight in alone.weights.items():
            assert torch.equal(recovery.weights[name], weight)
    assert sorted(met) == sorted(SETS)
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name])


def test_blocks_are_run_as_often_as_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    tokens: list[int] = []
    plain = Anatomy.call

    def counted(anatomy: Anatomy, block: int, states: torch.Tensor, inputs: Any) -> torch.Tensor:
        tokens.append(states.shape[0] * states.shape[1])
        return plain(anatomy, block, states, inputs)

    monkeypatch.setattr(Anatomy, "call", counted)
    assert len(list(recover_each(model, SETS, calibration))) == len(SETS)
    assert sum(tokens) == calibration.tokens * shared_block_runs(SETS)


def test_a_set_alone_costs_what_recovering_it_costs() -> None:
    for removed in SETS:
        assert shared_block_runs([removed]) == block_runs(removed)
    assert shared_block_runs([]) == 0


def test_a_step_of_greedy_costs_a_fraction_of_its_sets_alone() -> None:
    step = [tuple(sorted((4, 13, 14, b))) for b in range(30) if b not in (4, 13, 14)]
    assert shared_block_runs(step) < 0.2 * sum(map(block_runs, step))


def test_scores_do_not_depend_on_which_sets_are_asked_for_together(tmp_path: Path) -> None:
    model = loaded()
    calibration = drawn(tmp_path, model)
    together = RecoveringScorer(model, calibration).score(SETS)
    for removed, score in zip(SETS, together, strict=True):
        (alone,) = RecoveringScorer(model, calibration).score([removed])
        assert (alone.removed, alone.loss) == (score.removed, score.loss)
