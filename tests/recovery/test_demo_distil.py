"""On a real model a short training gives back more than the closed form alone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from demo import run

pytestmark = pytest.mark.slow

pytest.importorskip("peft", reason="the extra heal is not installed")

CORPORA = Path(os.environ.get("DEPTHPRUNE_CORPORA", Path(__file__).parents[3] / "shared" / "data"))
LORA = "lora:steps=24,every=12,batch=4,judge=4,lr=0.001"


@pytest.mark.corpora
@pytest.mark.skipif(not CORPORA.is_dir(), reason="the public corpora are not beside the checkout")
def test_held_out_perplexity_falls_further_and_the_result_is_an_ordinary_checkpoint(
    tmp_path: Path,
) -> None:
    from transformers import AutoModelForCausalLM

    removed = "4,5,13,14,25,26"
    kept = ",".join(str(b) for b in range(30) if str(b) not in removed.split(","))
    common = (
        *("prune", "demo", "-k", "6", "--protect", kept, "--no-bench"),
        *("-c", f"text:{CORPORA}/wikitext-2/valid.txt,windows=24,length=256"),
        *("--also", f"text:{CORPORA}/wikitext-2/test.txt,windows=12,length=256"),
    )
    found = {}
    for name, way in (("linear", "linear:refit=none"), ("lora", LORA)):
        done = run(*common, "--recover", way, "-o", str(tmp_path / name), "--json")
        assert done.returncode == 0, done.stderr
        found[name] = json.loads(done.stdout)
    assert found["lora"]["removed"] == [4, 5, 13, 14, 25, 26]
    training = found["lora"]["recovery"]["training"]
    assert training["best"] > 0
    assert training["curve"][-1]["held_out"] < training["curve"][0]["held_out"]
    for where in (lambda m: m["held_out"][0], lambda m: m["recovery"]["further"][0]):
        linear, lora = (where(found[name])["recovered"]["loss"] for name in ("linear", "lora"))
        assert lora < linear - 0.05
    parity = found["lora"]["parity"]
    assert parity["bitwise"] or parity["float32_difference"] <= 1e-5
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lora", dtype=torch.float32)
    assert model.config.num_hidden_layers == 24
    assert not [name for name, _ in model.named_modules() if "lora" in name]
