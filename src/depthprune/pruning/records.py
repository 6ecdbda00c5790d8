"""What was measured, in the form that the manifest has it."""

from __future__ import annotations

from collections import Counter

from depthprune.calibration import Part
from depthprune.checkpoints.surgery import Surgery
from depthprune.evaluator import Racing, RemovedSet, Rounding
from depthprune.manifest import (
    CalibrationRecord,
    CostRecord,
    RacingRecord,
    RoundingRecord,
    SearchRecord,
    Size,
    SourceModel,
    Step,
    WindowRecord,
)
from depthprune.models.auto_class import needs_code
from depthprune.models.loading import Model
from depthprune.pruning.lineage import cut_from
from depthprune.searches import Result


def source_model(model: Model, removed: RemovedSet) -> SourceModel:
    """A model's source as the manifest has it, of which some blocks are removed."""
    source = model.source
    return SourceModel(
        name=source.name,
        kind=source.kind,
        model_type=source.model_type,
        blocks=model.blocks,
        revision=source.revision,
        fingerprint=model.fingerprint,
        code=source.checkpoint is not None and needs_code(source.checkpoint.config),
        cut_from=cut_from(source.gguf or source.folder, model.blocks, removed),
    )


def calibration_record(part: Part) -> CalibrationRecord:
    """One source of a calibration as the manifest has it."""
    return CalibrationRecord(
        spec=part.spec.line(),
        fingerprint=part.fingerprint,
        weight=part.share,
        tokens=part.tokens,
        bos=part.begun,
        windows=[
            WindowRecord(document=w.document, start=w.start, length=len(w.tokens))
            for w in part.windows
        ],
        dimensions=part.spec.model_dump(mode="json"),
        reduction=part.reduction,
        domains=dict(Counter(part.domains)),
        repeats=part.material.repeats,
        overlap=part.overlap.share if part.overlap is not None else None,
        notes=list(part.notes),
    )


def search_record(
    result: Result, max_increase: float | None, racing: Racing | None, rounding: Rounding | None
) -> SearchRecord:
    """A search's result as the manifest has it."""
    return SearchRecord(
        name=result.search,
        seed=result.seed,
        k=result.k,
        protect=list(result.protect),
        max_increase=max_increase,
        budget=None if result.budget is None else str(result.budget),
        racing=None if racing is None else RacingRecord.model_validate(racing),
        rounding=None if rounding is None else RoundingRecord.model_validate(rounding),
        trace=[
            Step(
                evaluations=point.cost.evaluations,
                block_tokens=point.cost.block_tokens,
                removed=list(point.removed),
                loss=point.loss,
            )
            for point in result.trace
        ],
        cost=CostRecord.model_validate(result.cost),
        not_finite=[list(removed) for removed in result.not_finite],
    )


def size_record(model: Model, surgery: Surgery) -> Size:
    """Parameters and bytes before and after as the manifest has them."""
    gguf = model.source.gguf
    return Size(
        parameters_before=surgery.parameters_before,
        parameters_after=surgery.parameters_after,
        bytes_before=surgery.bytes_before,
        bytes_after=surgery.bytes_after,
        bytes_source=gguf.stat().st_size if gguf else None,
    )
