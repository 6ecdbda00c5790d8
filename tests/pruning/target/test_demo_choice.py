"""The real demo model and real questions: what is chosen is no worse than what it had to beat."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

import depthprune as dp
from depthprune.evaluator import Memo, Racing, increase
from depthprune.progress import SILENT
from depthprune.pruning.session import Loading, read_tokenizer
from depthprune.pruning.target.auto import Chosen, Resources, choose
from depthprune.pruning.target.options import TargetJob
from depthprune.pruning.target.task import parse_target, read_target
from depthprune.pruning.target.trials import Rules
from depthprune.searches import make_search

_CORPORA = Path(os.environ.get("DEPTHPRUNE_CORPORA", "../shared/data"))
_ITEMS = _CORPORA / "choices" / "arc-easy-train.jsonl"


@pytest.mark.slow
@pytest.mark.corpora
@pytest.mark.skipif(not _ITEMS.exists(), reason=f"no corpora in {_CORPORA}")
def test_on_real_questions_the_choice_is_no_worse_than_the_default_or_the_task(
    tmp_path: Path,
) -> None:
    table = tmp_path / "portfolio.yaml"
    table.write_text(
        "- {name: default, calibration: default, objective: nll}\n"
        "- {name: target, calibration: target}\n"
        "- {name: target-nll, calibration: target, objective: nll}\n",
        encoding="utf-8",
    )
    items = tmp_path / "items.jsonl"
    with _ITEMS.open(encoding="utf-8") as lines:
        items.write_text("".join(itertools.islice(lines, 192)), encoding="utf-8")
    loading = Loading("demo")
    source = loading.find()
    reader = read_tokenizer(source, SILENT, loading)
    job = TargetJob((f"choices:{items}",), portfolio=str(table), tokens=256)
    task = read_target(parse_target(job, (), "nll"), reader, 0, generates=False)
    model: dp.Model = loading.load(source, reader.tokenizer, SILENT)
    rules = Rules(make_search("one-shot"), 3)

    def once(memo: Memo) -> Chosen:
        return choose(task, rules, None, Resources(model, Racing(), memo=memo))

    with Memo.open(tmp_path / "memo.db") as memo:
        first, again = once(memo), once(memo)
    assert again.result.removed == first.result.removed
    assert again.result.cost.block_tokens == 0
    assert first.spent.default is not None
    assert first.spent.task is not None
    leader = first.raced.tied[0]
    scores = first.raced.scores
    for beaten in (first.spent.default, first.spent.task):
        # On the windows that both saw, as one may have dropped out early.
        assert increase(scores[beaten], scores[leader])[0] >= 0
    grown, stderr = increase(scores[first.result.removed], scores[leader])
    assert first.result.removed == leader or grown <= 5 * stderr
    assert first.result.cost.asked_block_tokens <= 1.5 * (first.budget.block_tokens or 0)
