"""`recover --hand-off`: configs of other trainers that name what was pruned from what."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from transformers import AutoConfig

import depthprune as dp
from command import Command
from gguf_tiny import tiny_gguf
from tiny import save_tiny


@pytest.fixture
def pruned(tiny_llama: Path, tmp_path: Path) -> Path:
    dp.apply(tiny_llama, [1, 2, 5], tmp_path / "pruned")
    return tmp_path / "pruned"


def test_configs_name_both_models_and_the_data_drawn(
    depthprune: Command, tiny_llama: Path, pruned: Path, text: Path, tmp_path: Path
) -> None:
    spec = f"text:{text},windows=6,length=32"
    out = tmp_path / "healing"
    asked = ("recover", pruned, "--original", tiny_llama, "-c", spec, "--hand-off", "-o", out)
    told = depthprune(*asked, "--json").document
    assert told["commands"]["trl"].startswith(f"trl distillation --config {out / 'trl.yaml'}")
    facts = json.loads((out / "hand-off.json").read_text())
    assert facts["removed"] == [1, 2, 5]
    assert facts["blocks"] == [
        {"student": 0, "teacher": 0, "state_of": 2},
        {"student": 1, "teacher": 3, "state_of": 3},
        {"student": 2, "teacher": 4, "state_of": 5},
    ]
    assert facts["teacher"]["fingerprint"] == dp.load(tiny_llama).source.fingerprint()
    trl = yaml.safe_load((out / "trl.yaml").read_text())
    axolotl = yaml.safe_load((out / "axolotl.yaml").read_text())
    assert trl["model_name_or_path"] == axolotl["base_model"] == str(pruned)
    assert trl["teacher_model_name_or_path"] == str(tiny_llama)
    prompts = _rows(Path(trl["datasets"][0]["data_files"]))
    texts = _rows(Path(axolotl["datasets"][0]["path"]))
    assert len(prompts) == len(texts) == 6
    for prompt, whole in zip(prompts, texts, strict=True):
        assert whole["text"].startswith(prompt["prompt"])
        assert 0 < len(prompt["prompt"]) < len(whole["text"])
        assert whole["text"].strip() in " ".join(text.read_text().split(" "))
    assert axolotl["sequence_len"] == 32
    # Four windows at a time: whole batches of more than once that there are not.
    assert (trl["per_device_train_batch_size"], trl["gradient_accumulation_steps"]) == (4, 1)


def test_an_answers_question_is_the_prompt(
    depthprune: Command, tiny_llama: Path, pruned: Path, tmp_path: Path
) -> None:
    rows = [{"prompt": f"How high is river {n}?", "answer": f"{n} feet."} for n in range(12)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = f"jsonl:{file},windows=4,prompt=prompt,answer=answer,format=zero-shot"
    out = tmp_path / "healing"
    asked = ("recover", pruned, "--original", tiny_llama, "-c", spec, "--hand-off", "-o", out)
    assert depthprune(*asked).status == 0
    for row in _rows(out / "prompts.jsonl"):
        assert "How high is river" in row["prompt"]
        assert "feet" not in row["prompt"]


def test_a_gguf_has_a_config_beside_it(depthprune: Command, text: Path, tmp_path: Path) -> None:
    file, spec = (
        tiny_gguf(tmp_path / "tiny.gguf", tokenizer=True),
        f"text:{text},windows=6,length=32",
    )
    pruned, out = tmp_path / "pruned", tmp_path / "healing"
    dp.prune(file, 2, out=pruned, calibration=spec, search="one-shot", bench=False)
    asked = ("recover", pruned, "--original", file, "-c", spec, "--hand-off", "-o", out)
    assert depthprune(*asked).status == 0
    trl = yaml.safe_load((out / "trl.yaml").read_text())
    place = trl["teacher_model_name_or_path"]
    assert place == str(out / "teacher")
    # As TRL does it: the class by the config, the weights by what it is told.
    kind = getattr(transformers, AutoConfig.from_pretrained(place).architectures[0])
    teacher = kind.from_pretrained(place, **trl["teacher_model_init_kwargs"], dtype=torch.bfloat16)
    whole = dp.load(file, dtype="bfloat16", device="cpu").module
    tokens = torch.arange(5)[None]
    torch.testing.assert_close(teacher(tokens).logits, whole(tokens).logits)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="no trl (extra trl; Python 3.11 or newer)")
def test_trl_trains_by_the_command_that_is_told(
    depthprune: Command, tiny_llama: Path, pruned: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healing"
    asked = ("recover", pruned, "--original", tiny_llama, "--hand-off", "-o", out)
    told = depthprune(*asked, "-c", f"text:{text},windows=6,length=32", "--json").document
    program, *words = shlex.split(told["commands"]["trl"])
    assert program == "trl"
    words += ["--max_steps=2", "--max_completion_length=4", "--learning_rate=0.01"]
    ran = [sys.executable, "-c", "from trl.cli import main; main()", *words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(ran, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    before, after = (dp.load(place).module.state_dict() for place in (pruned, out / "trl"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_of_items_with_options_the_right_one_alone_is_trained_on(
    depthprune: Command, tiny_llama: Path, pruned: Path, tmp_path: Path
) -> None:
    items, out = tmp_path / "items.jsonl", tmp_path / "healing"
    rows = [{"prompt": f"The river is {n} feet", "options": [" high", " low"], "answer": n % 2}
            for n in range(80)]  # fmt: skip
    items.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = ("recover", pruned, "--original", tiny_llama, "-c", f"choices:{items},windows=4")
    assert depthprune(*asked, "--hand-off", "-o", out).status == 0
    for row in _rows(out / "texts.jsonl"):
        number = int(row["text"].split()[3])
        assert row["text"].split()[4:] == ["feet", "low" if number % 2 else "high"]


def test_what_does_not_belong_together_is_refused_and_nothing_is_written(
    depthprune: Command, tiny_llama: Path, pruned: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "healing"
    spec = f"text:{text},windows=6,length=32"
    other = save_tiny(tmp_path / "other", "llama", seed=7)
    plain = ("-c", spec, "--hand-off", "-o", out)
    refused = depthprune("recover", pruned, "--original", other, *plain)
    assert "is not the model that" in refused.error
    refused = depthprune("recover", tiny_llama, "--original", tiny_llama, *plain)
    assert "which says which blocks went; prune the original" in refused.error
    asked = ("recover", pruned, "--original", tiny_llama, *plain)
    assert "--recover: means nothing with --hand-off" in depthprune(*asked, "--recover=lora").error
    assert "--overwrite: means nothing" in depthprune(*asked, "--overwrite").error
    gguf = ("recover", pruned, "--original", tiny_llama, "--hand-off", "-o", tmp_path / "x.gguf")
    assert "--hand-off writes several files; give a folder" in depthprune(*gguf).error
    assert not out.exists()


def _rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
