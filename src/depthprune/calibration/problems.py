"""Questions whose answers are known, as a source that asks them and scores the answers alone."""

from __future__ import annotations

from depthprune.calibration.sources import SOURCES
from depthprune.calibration.spec import CalibrationSpec
from depthprune.errors import UsageError

ANSWER_TOKENS = 256
"""That an answer may have, unless told otherwise."""

ANSWER_STOPS = ("Question:",)
"""What ends an answer besides the model's own end: the beginning of a further question."""


def as_problems(spec: CalibrationSpec) -> CalibrationSpec:
    """A spec of questions with answers, the answers scored.

    Args:
        spec: As it was given.

    Raises:
        UsageError: If it does not ask for answers.
    """
    if spec.format == "raw" or SOURCES.get(spec.source).kind == "choices":
        raise UsageError(
            "expected one source of questions and answers with format=zero-shot, few-shot or "
            f"chat; got {spec.line()}"
        )
    return spec.model_copy(update={"mask": "answer"})
