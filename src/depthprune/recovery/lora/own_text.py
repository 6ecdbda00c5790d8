"""Text that the dense model writes itself, beside the calibration's, to be trained on.

Training towards the teacher on text of a few kinds harms others; what the model writes by itself is
of all the kinds that it knows, and no corpus is needed for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from depthprune.calibration import Calibration, calibrate
from depthprune.errors import CalibrationError
from depthprune.models.loading import Model
from depthprune.progress import Progress
from depthprune.recovery.methods import Trained

_FEWEST = 4
"""Windows of it: one in four chooses and is not trained on."""


@dataclass(frozen=True)
class _Writer:
    """A model that writes, and where that shows itself."""

    model: Model
    progress: Progress

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    def loaded(self) -> Model:
        return self.model


def with_own_text(
    model: Model, calibration: Calibration, settings: Trained, progress: Progress
) -> Calibration:
    """A calibration with a share of text that the dense model writes, in windows as long.

    Args:
        model: The dense original.
        calibration: The rest, whose sources keep their proportions.
        settings: Own, which is the share, and seed are read.
        progress: Where the writing shows itself.

    Raises:
        CalibrationError: If the model cannot begin a text.
    """
    own = settings.own
    if not own:
        return calibration
    length = max(len(window.tokens) for window in calibration.windows)
    wanted = calibration.tokens * own / (1 - own)
    windows = max(_FEWEST, math.ceil(wanted / length))
    spec = f"self,windows={windows},length={length},seed={settings.seed}"
    try:
        (written,) = calibrate(spec, _Writer(model, progress)).parts
    except CalibrationError as error:
        raise CalibrationError(f"--recover {settings.name}: {error}; or pass own=0") from error
    parts = [replace(part, share=part.share * (1 - own)) for part in calibration.parts]
    return Calibration((*parts, replace(written, share=own)))
