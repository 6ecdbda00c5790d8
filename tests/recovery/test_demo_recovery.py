"""On a real model recovery gives back a good part, in every domain that it was fitted on."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

import depthprune as dp
from demo import run
from depthprune.pruning.recovering.held_out_recovered import judge_recovered

pytestmark = pytest.mark.slow

REMOVED = (4, 5, 13, 14, 25, 26)
CORPORA = Path(os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.corpora
@pytest.mark.skipif(not CORPORA.is_dir(), reason="the public corpora are not beside the checkout")
def test_perplexity_falls_by_more_than_15_percent_and_rises_in_no_domain_of_the_calibration() -> (
    None
):
    model = dp.load("demo", device="cpu")
    sources = (
        f"text:{CORPORA}/wikitext-2/valid.txt",
        f"jsonl:{CORPORA}/choices/arc-easy-train.jsonl,field=prompt",
        f"jsonl:{CORPORA}/gsm8k/train.jsonl,field=question",
        "stdlib-code",
    )
    calibration = dp.calibrate([f"{source},windows=16,length=512" for source in sources], model)
    test = f"text:{CORPORA}/wikitext-2/test.txt,windows=12,length=512"
    recovery = dp.recover(model, REMOVED, calibration)
    assert [run.into for run in recovery.runs] == [3, 12, 24]
    texts = [dp.calibrate(test, model), *calibration.held_out()]
    wikitext, *domains = judge_recovered(model, texts, "nll", recovery)
    assert math.exp(wikitext.recovered_change or 0.0) < 0.85
    for record in domains:
        assert (record.recovered_change or 0.0) < 0, record.calibration


def test_a_packed_model_is_recovered_into_an_ordinary_checkpoint(tmp_path: Path) -> None:
    done = run(
        *("prune", "demo", "-k", "1", "--protect", "0-3,5-29", "--recover", "linear"),
        *("-c", "stdlib-code,windows=16,length=128", "--no-bench"),
        *("-o", str(tmp_path / "out")),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "depthprune.json").read_text(encoding="utf-8"))
    assert manifest["removed"] == [4]
    assert manifest["recovery"]["runs"][0]["into"] == 3
    assert manifest["recovery"]["runs"][0]["strength"] > 0
    assert manifest["parity"]["bitwise"] or manifest["parity"]["float32_difference"] <= 1e-5
