"""Manifests made by hand: one as `prune` writes it for SmolLM2-135M, and one as `apply` does."""

from __future__ import annotations

import math
from typing import Any

from depthprune.manifest import (
    AnswerRecord,
    AnswerShare,
    BlockScore,
    CalibrationRecord,
    CostRecord,
    Estimate,
    HeldOut,
    Manifest,
    ParityRecord,
    PathPoint,
    RecoveredRun,
    RecoveryRecord,
    Sample,
    SearchRecord,
    Size,
    SourceModel,
    Speed,
    Spread,
    Step,
    Versions,
    WindowRecord,
)

REMOVED = [3, 4, 12, 13, 14, 26]
KEPT = [block for block in range(30) if block not in REMOVED]

# Increase in loss of removing each block alone; the first is dear, as in every model we know.
INCREASES = [
    9.871, 0.412, 0.171, 0.084, 0.088, 0.121, 0.133, 0.118, 0.126, 0.139,
    0.104, 0.111, 0.079, 0.068, 0.073, 0.109, 0.114, 0.128, 0.142, 0.137,
    0.151, 0.119, 0.113, 0.124, 0.106, 0.099, 0.081, 0.132, 0.204, 1.318,
]  # fmt: skip


def estimate(loss: float, stderr: float, windows: int = 16, length: int = 512) -> Estimate:
    return Estimate(
        loss=loss,
        stderr=stderr,
        windows=windows,
        tokens=windows * (length - 1),
        perplexity=math.exp(loss),
    )


def block_scores(dense: float = 3.106) -> list[BlockScore]:
    return [
        BlockScore(
            block=block,
            loss=dense + increase,
            stderr=0.052,
            increase=increase,
            increase_stderr=0.004 + 0.06 * increase,
        )
        for block, increase in enumerate(INCREASES)
    ]


def path() -> list[PathPoint]:
    order = [13, 14, 12, 26, 3, 4, 25, 10]
    losses = [3.106, 3.174, 3.262, 3.371, 3.498, 3.612, 3.741, 3.922, 4.148]
    return [
        PathPoint(
            k=k,
            removed=sorted(order[:k]),
            loss=loss,
            held_out=loss + 0.097 + 0.006 * k,
            held_out_stderr=0.024 + 0.004 * k,
        )
        for k, loss in enumerate(losses)
    ]


def calibration(source: str, seed: int) -> CalibrationRecord:
    return CalibrationRecord(
        spec=f"{source},windows=8,length=512,order=random,seed={seed},weight=0.5,bos=false",
        fingerprint=f"b3:{seed:02x}8f1c0a7e94d265",
        weight=0.5,
        tokens=4096,
        windows=[
            WindowRecord(document=f"{source}/all", start=9176 * i + 311, length=512)
            for i in range(8)
        ],
    )


def versions() -> Versions:
    return Versions(
        depthprune="0.1.0",
        python="3.11.7",
        platform="Linux-6.1.0-x86_64-with-glibc2.36",
        packages={"torch": "2.13.0", "transformers": "5.23.0", "safetensors": "0.8.0"},
    )


def search() -> SearchRecord:
    return SearchRecord(
        name="greedy",
        seed=0,
        k=6,
        protect=[0, 29],
        trace=[
            Step(evaluations=28, block_tokens=3_440_640, removed=[13], loss=3.174),
            Step(evaluations=55, block_tokens=6_328_320, removed=[13, 14], loss=3.262),
            Step(evaluations=153, block_tokens=15_851_520, removed=REMOVED, loss=3.741),
        ],
        cost=CostRecord(
            evaluations=153,
            block_tokens=15_851_520,
            head_tokens=1_261_568,
            plain_block_tokens=33_216_512,
            seconds=251.4,
        ),
        not_finite=[],
    )


def sample() -> Sample:
    return Sample(
        prompt="The module provides a function that",
        before=" returns the number of bytes read from the file. If the end of the file has been"
        " reached, the function returns an empty string.\n\nThe second argument is optional.",
        after=" can be used in the same way as the function. The function is called by the user,"
        " and the function that is used in the function is a list of the names.",
        seed=0,
        temperature=0.8,
    )


def answers(spec: str = "jsonl:sums.jsonl,prompt=question,answer=answer") -> AnswerRecord:
    return AnswerRecord(
        calibration=spec,
        problems=40,
        new_tokens=64,
        dense=AnswerShare(right=0.45, stderr=0.0797, unanswered=1),
        pruned=AnswerShare(right=0.05, stderr=0.0349, unanswered=7),
        change=-0.4,
        change_stderr=0.0858,
        collapsed=True,
    )


def full(**changes: Any) -> Manifest:
    """A manifest with every optional field, as `prune` writes it."""
    fields: dict[str, Any] = {
        "created": "2026-03-14T09:26:53Z",
        "command": "depthprune prune demo -k 6 -c stdlib-prose,windows=8,length=512,seed=0"
        " -c stdlib-code,windows=8,length=512,seed=0 --search greedy --protect 0,29 -o out/demo",
        "model": SourceModel(
            name="demo", kind="gguf", model_type="llama", blocks=30, fingerprint="b3:77f0a1"
        ),
        "removed": REMOVED,
        "kept": KEPT,
        "dtype": "bfloat16",
        "measured_dtype": "bfloat16",
        "device": "cpu",
        "calibration": [calibration("stdlib-prose", 0), calibration("stdlib-code", 0)],
        "objective": "nll",
        "search": search(),
        "dense": estimate(3.106, 0.052),
        "pruned": estimate(3.741, 0.049),
        "blocks": block_scores(),
        "path": path(),
        "held_out": [
            HeldOut(
                calibration="stdlib-prose,windows=16,length=512,order=random,seed=0,bos=false",
                dense=estimate(3.2051, 0.0412),
                pruned=estimate(3.8478, 0.0395),
                increase=0.6427,
                increase_stderr=0.0181,
            ),
            HeldOut(
                calibration="stdlib-code,windows=16,length=512,order=random,seed=0,bos=false",
                dense=estimate(1.4127, 0.0713),
                pruned=estimate(2.2018, 0.0822),
                increase=0.7891,
                increase_stderr=0.0326,
            ),
        ],
        "size": Size(
            parameters_before=134_515_008,
            parameters_after=113_278_464,
            bytes_before=269_060_552,
            bytes_after=226_584_320,
            bytes_source=144_811_360,
        ),
        "speed": Speed(
            prefill_before=Spread(median=1204.2, low=1171.0, high=1219.8),
            prefill_after=Spread(median=1469.1, low=1422.7, high=1488.3),
            decode_before=Spread(median=18.42, low=17.9, high=18.7),
            decode_after=Spread(median=22.71, low=22.2, high=23.0),
            prompt_tokens=512,
            new_tokens=64,
            repeats=5,
        ),
        "parity": ParityRecord(
            dtype="bfloat16",
            tokens=256,
            logits_scale=31.25,
            logits_difference=0.0,
            bitwise=True,
            generated_tokens=32,
        ),
        "sample": sample(),
        "answers": [answers()],
        "versions": versions(),
        "files": ["config.json", "model.safetensors", "README.md", "report.html"],
    }
    return Manifest(**{**fields, **changes})


def recovered(**changes: Any) -> Manifest:
    """As `full`, recovered: prose for the better, code for the worse."""
    held_out = [
        record.model_copy(
            update={
                "recovered": estimate(record.pruned.loss + change, 0.0401),
                "recovered_increase": record.increase + change,
                "recovered_increase_stderr": 0.0157,
                "recovered_change": change,
                "recovered_change_stderr": 0.0112,
            }
        )
        for record, change in zip(full().held_out or [], (-0.2231, 0.0953), strict=True)
    ]
    plain = {"ridge": 0.1, "strength": 0.93, "tokens": 6144, "apart": 12}
    record = RecoveryRecord(
        method="linear",
        calibration=full().calibration or [],
        runs=[
            RecoveredRun(blocks=[3, 4], into=2, before=1.5, after=1.2, **plain),
            RecoveredRun(blocks=[12, 13, 14], into=11, before=2.4, after=2.1, **plain),
            RecoveredRun(
                blocks=[26], into=25, why_not="no change <helped>", strength=0, tokens=0, apart=0
            ),
        ],
        further=[held_out[0].model_copy(update={"calibration": "text:plays.txt,windows=4"})],
        warnings=["recovery made the model worse on stdlib-code"],
    )
    return full(**{"held_out": held_out, "recovery": record, **changes})


def minimal(**changes: Any) -> Manifest:
    """A manifest with only the fields that every verb knows, as `apply` writes it."""
    fields: dict[str, Any] = {
        "created": "2026-03-14T09:26:53Z",
        "model": SourceModel(name="./smol", kind="folder", model_type="llama", blocks=30),
        "removed": REMOVED,
        "kept": KEPT,
        "dtype": "bfloat16",
        "versions": versions(),
        "files": ["config.json", "model.safetensors"],
    }
    return Manifest(**{**fields, **changes})
