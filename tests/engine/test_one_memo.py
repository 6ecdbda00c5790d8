"""A memo that is lost costs what it held, and not the run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from depthprune.engine import Cluster
from depthprune.engine.memo import memo_on
from depthprune.evaluator import Memo


class RayError(Exception):
    pass


def _dead() -> Any:
    """A cluster on which the memo's process has died before it is asked for its notes."""

    def get(_: Any) -> Any:
        raise RayError("The actor died unexpectedly")

    actor = SimpleNamespace(notes=SimpleNamespace(remote=lambda: None))
    made = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _: actor))
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None)
    return SimpleNamespace(
        remote=lambda _: made,
        util=SimpleNamespace(scheduling_strategies=strategies),
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"),
        get=get,
        kill=lambda _: None,
        exceptions=SimpleNamespace(RayError=RayError),
    )


def test_a_memo_whose_process_died_ends_no_study() -> None:
    memo = cast("Memo", SimpleNamespace(path=None, notes=[]))
    with memo_on(cast("Cluster", SimpleNamespace(ray=_dead())), memo) as actor:
        assert actor is not None
    assert memo.notes == [
        "memo: its process died (The actor died unexpectedly); losses were not all kept"
    ]
