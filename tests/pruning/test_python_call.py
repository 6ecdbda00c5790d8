"""A call that is written down is the call that was made, without what has its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import depthprune as dp
from depthprune.outputs import as_target
from depthprune.pruning.options import prune_job


def _command(*arguments: Any, **settings: Any) -> str:
    return prune_job(*arguments, **settings).command


def test_what_has_its_default_is_left_out() -> None:
    assert _command("m", 2, out="o") == "dp.prune('m', 2, out='o')"
    assert _command(Path("m"), 2, out=Path("o"), seed=0, link=False) == "dp.prune('m', 2, out='o')"
    assert _command("m", 2, out=as_target("o")) == "dp.prune('m', 2, out='o')"


def test_everything_else_is_in_it() -> None:
    assert _command("m", out="o", max_increase=0.05, calibration=["text:a", "text:b"]) == (
        "dp.prune('m', out='o', calibration=['text:a', 'text:b'], max_increase=0.05)"
    )
    assert _command("m", 1, out="o", seed=5, protect=(0, 3), recover="linear", racing=None) == (
        "dp.prune('m', 1, out='o', seed=5, protect=(0, 3), racing=None, recover='linear')"
    )
    assert _command("m", 1, out="o", racing=dp.Racing(delta=0.5)) == (
        "dp.prune('m', 1, out='o', racing=dp.Racing(delta=0.5, tolerance=0.001))"
    )


def test_a_budget_and_an_engine_of_the_library_are_taken_and_written() -> None:
    job = prune_job("m", 1, out="o", budget=dp.Budget(seconds=60), engine=dp.Engine(workers=2))
    assert (job.budget, job.engine) == ("seconds=60", dp.Engine(workers=2))
    assert job.command == (
        "dp.prune('m', 1, out='o', "
        "budget=dp.Budget(evaluations=None, block_tokens=None, seconds=60), "
        "engine=dp.Engine(address=None, workers=2, gpus=None, cpus=None))"
    )


def test_numpys_numbers_are_written_as_pythons() -> None:
    blocks = np.array([3, 0])
    assert _command("m", np.int64(2), out="o", seed=np.int64(5), protect=list(blocks)) == (
        "dp.prune('m', 2, out='o', seed=5, protect=[3, 0])"
    )
    assert _command("m", 2, out="o", protect=blocks, draws=np.int64(2), memory=np.int64(9)) == (
        "dp.prune('m', 2, out='o', protect=[3, 0], draws=2, memory=9)"
    )


def test_one_text_is_one_spec_wherever_several_may_be_given() -> None:
    job = prune_job("m", 2, out="o", calibration="a", recover="linear", also="b", answers="c")
    assert (job.specs, job.also, job.answers) == (("a",), ("b",), ("c",))


@pytest.mark.parametrize("given", [{"k": 2.5}, {"k": "2"}, {"k": True}, {"seed": 1.5, "k": 2}])
def test_what_is_no_whole_number_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(dp.UsageError, match="expected a whole number, got"):
        prune_job("m", out="o", **given)
