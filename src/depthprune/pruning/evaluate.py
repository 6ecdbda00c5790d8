"""What `evaluate` does: a model's losses on named data, each source apart.

Nothing is chosen here, so consecutive windows run to the end of a text, and random ones are those
that `prune` draws for the same spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.calibration import calibrate, check_files, parse_calibration
from depthprune.errors import UsageError
from depthprune.evaluator import Evaluator, RemovedSet
from depthprune.manifest import Estimate
from depthprune.objectives import parse_objective
from depthprune.progress import SILENT, Progress
from depthprune.pruning.held_out import estimate
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    Loading,
    open_memo,
    read_tokenizer,
    reading,
)
from depthprune.removed_sets import check_removed, parse_blocks


@dataclass(frozen=True)
class EvaluatedSource:
    """A model's loss on one source.

    Attributes:
        calibration: The spec.
        objective: What was measured.
        estimate: The loss, with its standard error between windows.
    """

    calibration: str
    objective: str
    estimate: Estimate


@dataclass(frozen=True)
class EvaluatedModel:
    """A model's losses, each source apart.

    Attributes:
        dtype: In which it computed.
        removed: The blocks that were passed over.
        results: One for each source.
    """

    dtype: str
    removed: RemovedSet
    results: tuple[EvaluatedSource, ...]

    def document(self) -> dict[str, Any]:
        """As `evaluate --json` prints it."""
        rows = [
            {"calibration": e.calibration, "objective": e.objective, **e.estimate.model_dump()}
            for e in self.results
        ]
        return {"schema": 1, "dtype": self.dtype, "removed": list(self.removed), "results": rows}


def evaluate(
    model: str | Path,
    calibration: str | Sequence[str] = (),
    objective: str = "nll",
    *,
    remove: str | Sequence[int] = (),
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    stream: bool = False,
    memory: int | None = None,
    memo: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress = SILENT,
) -> EvaluatedModel:
    """Measure a model on each source apart, with standard errors between windows.

    Args:
        model: A folder, a hub id, a `.gguf` file, or `demo`.
        calibration: Specs such as `text:wiki.txt,windows=all,order=first`; never mixed.
        objective: Such as `nll` or `accuracy`.
        remove: Blocks that are passed over: `"4,12-14"` or numbers.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda:1`, …
        device_map: How the model is divided among several devices.
        stream: Read blocks from disk while they run.
        memory: Bytes that hidden states may take.
        memo: Where losses are kept: a path, `off`, or by default the user's cache folder.
        revision: Of a hub id.
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        progress: Where long work shows itself.

    Raises:
        DepthpruneError: If anything that was named cannot be read, or a loss is not finite.
    """
    removed = _blocks(remove)
    kind = parse_objective(objective)
    specs = parse_calibration(calibration or [DEFAULT_CALIBRATION])
    check_files(specs)
    loading = Loading(
        model, dtype, device, revision, trust_remote_code, allow_pickle, stream, device_map
    )
    source = loading.find()
    if removed:
        removed = check_removed(removed, source.blocks)
    reader = read_tokenizer(source, progress, loading)
    with reading(specs, progress):
        drawn = [calibrate(spec, reader, split="whole") for spec in specs]
    for spec, each in zip(specs, drawn, strict=True):
        try:
            kind.judged(each.windows)
        except UsageError as error:
            raise UsageError(f"-c {spec.short()}: {error}") from None
    loaded = loading.load(source, reader.tokenizer, progress)
    rows = []
    with open_memo(memo, source) as store:
        for spec, each in zip(specs, drawn, strict=True):
            evaluator = Evaluator(
                loaded, each, kind, memory=memory, memo=store, plain=True, progress=progress
            )
            score = evaluator.score([removed])[0].require_finite()
            rows.append(EvaluatedSource(spec.line(), kind.name, estimate(score, kind)))
    return EvaluatedModel(loaded.dtype, removed, tuple(rows))


def _blocks(remove: str | Sequence[int]) -> RemovedSet:
    if isinstance(remove, str):
        return parse_blocks(remove) if remove else ()
    return tuple(remove)
