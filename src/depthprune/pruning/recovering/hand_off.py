"""What `recover --hand-off` writes: a pruned checkpoint and its original for another trainer.

Healing over many tokens and devices is what trainers are for. Written are configs that run as they
stand, of TRL's on-policy distillation and of axolotl's from a served teacher, their data drawn from
the calibration, and which block of the student was which of the teacher, for losses between states.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from depthprune.calibration import (
    SOURCES,
    Calibration,
    CalibrationSpec,
    check_files,
    parse_calibration,
)
from depthprune.claims import claimed
from depthprune.errors import UsageError
from depthprune.manifest import Manifest
from depthprune.models.devices import choose_device
from depthprune.models.source import ModelSource
from depthprune.outputs import MANIFEST_NAME, as_target, check_target
from depthprune.progress import SILENT, Progress
from depthprune.pruning.recovering.gguf_teacher import loading_options, write_teacher
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    Loading,
    mixture,
    read_tokenizer,
    require_original,
)
from depthprune.recovery import as_text
from depthprune.untrusted import read_untrusted

TRL, AXOLOTL, FACTS = "trl.yaml", "axolotl.yaml", "hand-off.json"
PROMPTS, TEXTS, TEACHER = "prompts.jsonl", "texts.jsonl", "teacher"
SERVED = "http://localhost:8000"
_BATCH, _ACCUMULATED = 4, 4
"""Windows at a time, and how many times for a step, where there are so many."""
_PROMPTED = 0.25
"""Of a window of running text: its beginning, which the student goes on from."""


@dataclass(frozen=True)
class HandOff:
    """What was written.

    Attributes:
        out: The folder.
        facts: Teacher, student and blocks: what `hand-off.json` holds.
        commands: That train, by the trainer's name.
    """

    out: Path
    facts: dict[str, Any]
    commands: dict[str, str]

    def document(self) -> dict[str, Any]:
        """As `recover --hand-off --json` prints it."""
        return {**self.facts, "out": str(self.out), "commands": self.commands}


def hand_off(
    checkpoint: str | Path,
    original: str | Path,
    *,
    out: str | Path,
    calibration: str | Sequence[str] = (),
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress = SILENT,
) -> HandOff:
    """Write what TRL and axolotl need to train a pruned checkpoint towards its original.

    Args:
        checkpoint: A folder that depthprune pruned; recovered or not.
        original: The model that it was pruned from: a folder, a hub id, a `.gguf` file, or `demo`.
        out: The folder that is written; it must be new or empty.
        calibration: Specs of the text that is trained on.
        revision: Of a hub id.
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        progress: Where long work shows itself.

    Raises:
        DepthpruneError: If the two do not belong together, or text cannot be read.
    """
    target, student = as_target(out), Path(checkpoint)
    specs = parse_calibration(calibration or [DEFAULT_CALIBRATION])
    if target.is_file:
        raise UsageError(f"-o {target}: --hand-off writes several files; give a folder")
    check_target(target, overwrite=False)
    check_files(specs)
    manifest = _manifest(student)
    loading = Loading(
        original,
        revision=revision,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    source = loading.find()
    require_original(manifest, student, source)
    drawn = mixture(
        [_asking(spec) for spec in specs], read_tokenizer(source, progress, loading), progress
    )
    place = target.folder.absolute()
    facts = _facts(manifest, student, source)
    texts = list(_texts(drawn))
    written = {
        TRL: _yaml(_trl(facts, place, len(texts), trust_remote_code)),
        AXOLOTL: _yaml(_axolotl(facts, place, drawn)),
        FACTS: json.dumps(facts, indent=2) + "\n",
        PROMPTS: _lines({"prompt": prompt} for prompt, _ in texts),
        TEXTS: _lines({"text": prompt + rest} for prompt, rest in texts),
    }
    with claimed(target) as claim:
        for name, text in written.items():
            (claim.place / name).write_text(text, encoding="utf-8")
        if source.gguf is not None:
            write_teacher(claim.place / TEACHER, source.gguf, _architectures(student))
        claim.publish()
    commands = {
        "trl": f"trl distillation --config {place / TRL}{_without_accelerator()}",
        "axolotl": f"axolotl train {place / AXOLOTL}",
    }
    return HandOff(target.folder, facts, commands)


def _asking(spec: CalibrationSpec) -> CalibrationSpec:
    """A spec with its answers marked, where it has any: what is before them is the prompt."""
    asks = spec.format != "raw" and SOURCES.get(spec.source).kind != "choices"
    return spec.model_copy(update={"mask": "answer"}) if asks else spec


def _manifest(student: Path) -> Manifest:
    file = student / MANIFEST_NAME
    if not file.is_file():
        raise UsageError(
            f"{student}: expected a checkpoint folder that depthprune pruned, found no "
            f"{MANIFEST_NAME}, which says which blocks went; prune the original"
        )
    return Manifest.read(file)


def _architectures(student: Path) -> list[str]:
    return list(read_untrusted(student / "config.json").get("architectures") or [])


def _facts(manifest: Manifest, student: Path, source: ModelSource) -> dict[str, Any]:
    teacher: dict[str, Any] = {"model": str(source.folder.absolute())}
    if source.kind == "hub":
        teacher = {"model": source.name, "revision": source.revision}
    if source.gguf is not None:
        teacher = {"model": str(source.gguf.parent.absolute()), "gguf_file": source.gguf.name}
    return {
        "schema": 1,
        "teacher": {**teacher, "blocks": source.blocks, "fingerprint": manifest.model.fingerprint},
        "student": {
            "model": str(student.absolute()),
            "blocks": len(manifest.kept),
            "dtype": manifest.dtype,
        },
        "removed": manifest.removed,
        "blocks": _blocks(manifest),
    }


def _blocks(manifest: Manifest) -> list[dict[str, int]]:
    """For each of the student's blocks which it was, and whose state its own stands for.

    What a block before a gap gives is what the block behind the gap is given, and in the teacher
    that is what the last removed block gives.
    """
    ends = [*manifest.kept[1:], manifest.model.blocks]
    return [
        {"student": place, "teacher": number, "state_of": end - 1}
        for place, (number, end) in enumerate(zip(manifest.kept, ends, strict=True))
    ]


def _without_accelerator() -> str:
    """TRL computes in bfloat16 unless it is told otherwise, and refuses to on a processor."""
    return " --bf16 false" if choose_device("auto").type == "cpu" else ""


def _trl(
    facts: dict[str, Any], place: Path, prompts: int, trust_remote_code: bool
) -> dict[str, Any]:
    teacher = facts["teacher"]
    config: dict[str, Any] = {
        "model_name_or_path": facts["student"]["model"],
        "teacher_model_name_or_path": teacher["model"],
    }
    if teacher.get("revision"):
        config["teacher_model_revision"] = teacher["revision"]
    if "gguf_file" in teacher:
        config["teacher_model_name_or_path"] = str(place / TEACHER)
        config["teacher_model_init_kwargs"] = loading_options(Path(teacher["gguf_file"]))
    if trust_remote_code:
        config["trust_remote_code"] = True
    # A step has whole batches alone: of fewer prompts than one takes, TRL would train on none.
    batch = min(_BATCH, max(1, prompts))
    return {
        **config,
        "datasets": [{"path": "json", "data_files": str(place / PROMPTS), "split": "train"}],
        "output_dir": str(place / "trl"),
        "learning_rate": 1e-5,
        "num_train_epochs": 1,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": max(1, min(_ACCUMULATED, prompts // batch)),
        "max_completion_length": 256,
        "report_to": "none",
    }


def _axolotl(facts: dict[str, Any], place: Path, drawn: Calibration) -> dict[str, Any]:
    return {
        "base_model": facts["student"]["model"],
        "plugins": ["axolotl.integrations.kd.KDPlugin"],
        "kd_trainer": True,
        "kd_alpha": 0.9,
        "kd_ce_alpha": 0.1,
        "kd_temperature": 1.0,
        "kd_online_server_base_url": SERVED,
        "kd_online_server": "vllm",
        "kd_online_topk": 64,
        "datasets": [
            {"path": str(place / TEXTS), "ds_type": "json", "type": "completion", "field": "text"}
        ],
        "sequence_len": max(len(window.tokens) for window in drawn.windows),
        "output_dir": str(place / "axolotl"),
        "learning_rate": 1e-5,
        "lr_scheduler": "cosine",
        "optimizer": "adamw_torch",
        "num_epochs": 1,
        "micro_batch_size": _BATCH,
        "gradient_accumulation_steps": _ACCUMULATED,
        "bf16": "auto",
    }


def _texts(drawn: Calibration) -> Iterator[tuple[str, str]]:
    """Each window's prompt, and what follows: an answer's question, else the text's beginning."""
    for part in drawn.parts:
        tokenizer = part.material.tokenizer
        for window in part.windows:
            first = int(np.argmax(window.scored))
            cut = first if first > 1 else max(2, int(len(window.tokens) * _PROMPTED))
            tokens = as_text(window).tolist()
            whole = tokenizer.decode(tokens, skip_special_tokens=True)
            prompt = tokenizer.decode(tokens[:cut], skip_special_tokens=True)
            if prompt.strip():
                yield prompt, whole[len(prompt) :] if whole.startswith(prompt) else ""


def _lines(rows: Iterator[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _yaml(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
