"""What `score` does: the loss of removing each block alone, on one draw or on several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from depthprune.bounds import whole
from depthprune.calibration import Calibration, check_files, parse_calibration
from depthprune.engine import Engine, as_engine
from depthprune.errors import UsageError
from depthprune.evaluator import Evaluator
from depthprune.evaluator.rounding import Rounding
from depthprune.manifest import BlockScore, Estimate
from depthprune.models.loading import Model
from depthprune.objectives import parse_objective
from depthprune.progress import SILENT, Progress, warn
from depthprune.pruning.draws import (
    BlockDraws,
    blocks_over_draws,
    check_draws,
    require_draws,
    scores_over_draws,
)
from depthprune.pruning.held_out import block_scores, estimate
from depthprune.pruning.session import (
    DEFAULT_CALIBRATION,
    Loading,
    mixture,
    open_memo,
    read_tokenizer,
)
from depthprune.pruning.workers import workers_for


@dataclass(frozen=True)
class ScoredBlocks:
    """What removing each block alone costs.

    Attributes:
        model: As it was named.
        dtype: In which it computed.
        calibration: The specs, mixed.
        fingerprint: Of the calibration's windows.
        objective: What was measured.
        dense: The model with all blocks.
        rounding: What rounding alone does to these losses; None where it is not measured.
        blocks: Every block.
        draws: How many draws were scored.
        k: Of how many lowest a block is counted over draws.
        over_draws: Every block over all draws; None of one draw.
    """

    model: str
    dtype: str
    calibration: tuple[str, ...]
    fingerprint: str
    objective: str
    dense: Estimate
    rounding: Rounding | None
    blocks: list[BlockScore]
    draws: int
    k: int
    over_draws: list[BlockDraws] | None

    def document(self) -> dict[str, Any]:
        """As `score --json` prints it."""
        several = None
        if self.over_draws is not None:
            blocks = [{**asdict(e), "mean": e.mean, "spread": e.spread} for e in self.over_draws]
            several = {"draws": self.draws, "k": self.k, "blocks": blocks}
        return {
            "schema": 1,
            "model": self.model,
            "dtype": self.dtype,
            "calibration": list(self.calibration),
            "fingerprint": self.fingerprint,
            "objective": self.objective,
            "dense": self.dense.model_dump(),
            "rounding": None if self.rounding is None else asdict(self.rounding),
            "blocks": [row.model_dump() for row in self.blocks],
            "draws": several,
        }


def score(
    model: str | Path,
    calibration: str | Sequence[str] = (),
    objective: str = "nll",
    *,
    draws: int = 1,
    k: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    stream: bool = False,
    memory: int | None = None,
    memo: str | Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    engine: str | Engine | None = None,
    progress: Progress = SILENT,
) -> ScoredBlocks:
    """Score the removal of each block alone.

    Args:
        model: A folder, a hub id, a `.gguf` file, or `demo`.
        calibration: Specs such as `text:wiki.txt,windows=64`; several are mixed. By default prose
            and code of the standard library.
        objective: Such as `nll` or `kl:top=64`.
        draws: On how many draws of the calibration.
        k: Of how many lowest a block is counted over draws; by default a fifth of the blocks.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda:1`, …
        device_map: How the model is divided among several devices.
        stream: Read blocks from disk while they run.
        memory: Bytes that hidden states may take.
        memo: Where losses are kept: a path, `off`, or by default the user's cache folder.
        revision: Of a hub id.
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        engine: `ray` or `ray://HOST:PORT` to have losses computed by workers of a cluster.
        progress: Where long work shows itself.

    Raises:
        DepthpruneError: If anything that was named cannot be read, or the dense loss is not finite.
    """
    k, draws = None if k is None else whole("-k", k), whole("--draws", draws)
    if k is not None and draws == 1:
        raise UsageError("-k: counts over draws; give --draws D of 2 or more, or drop -k")
    kind = parse_objective(objective)
    specs = parse_calibration(calibration or [DEFAULT_CALIBRATION])
    check_draws(specs, draws)
    check_files(specs)
    spread = as_engine(engine)
    loading = Loading(
        model, dtype, device, revision, trust_remote_code, allow_pickle, stream, device_map
    )
    source = loading.find()
    _check_lowest(k, source.blocks)
    reader = read_tokenizer(source, progress, loading)
    drawn = mixture(specs, reader, progress)
    kind.judged(drawn.windows)
    require_draws(drawn, draws, reader)
    loaded = loading.load(source, reader.tokenizer, progress)
    _check_lowest(k, loaded.blocks)
    lowest = k or max(1, loaded.blocks // 5)
    with open_memo(memo, source) as store, workers_for(spread, loading, loaded) as workers:
        shared: dict[str, Any] = {"memory": memory, "memo": store, "workers": workers}

        def evaluator_on(each: Calibration) -> Evaluator:
            return Evaluator(loaded, each, kind, progress=progress, **shared)

        evaluator = evaluator_on(drawn)
        rows = block_scores(evaluator, range(loaded.blocks))
        repeated = scores_over_draws(drawn, draws, evaluator_on) if draws > 1 else None
    dense = estimate(evaluator.dense.require_finite(), kind)
    _warn_infinite(loaded, rows)
    return ScoredBlocks(
        model=str(model),
        dtype=loaded.dtype,
        calibration=tuple(part.spec.line() for part in drawn.parts),
        fingerprint=drawn.fingerprint,
        objective=kind.name,
        dense=dense,
        rounding=evaluator.rounding,
        blocks=rows,
        draws=draws,
        k=lowest,
        over_draws=blocks_over_draws(repeated, lowest) if repeated else None,
    )


def _warn_infinite(model: Model, rows: Sequence[BlockScore]) -> None:
    for row in rows:
        if row.loss == float("inf"):
            why = model.refusal((row.block,))
            reason = f" ({why})" if why else ""
            warn(f"the loss without block {row.block} is NaN or infinite{reason}")


def _check_lowest(k: int | None, blocks: int) -> None:
    if k is not None and not 1 <= k < blocks:
        raise UsageError(f"-k: expected 1 to {blocks - 1} of the {blocks} blocks, got {k}")
