"""A call that is written down is the call that was made, without what has its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
