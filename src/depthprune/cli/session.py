"""What the measuring verbs do alike: check, read the calibration, then load the model.

Everything that needs no weights is refused before they are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthprune.cli.console import TerminalProgress, note

if TYPE_CHECKING:
    from depthprune.calibration import Calibration
    from depthprune.models.loading import Model
    from depthprune.models.source import ModelSource

DEFAULT_CALIBRATION = "default"


@dataclass(frozen=True)
class Loading:
    """How a model is to be found and loaded: the flags that all measuring verbs share."""

    name: str
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def find(self) -> ModelSource:
        """The model's files, checked."""
        from depthprune.models.source import find_model

        return find_model(
            self.name,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )

    def load(self, source: ModelSource, tokenizer: Any, progress: TerminalProgress) -> Model:
        """The loaded model."""
        from depthprune.models.loading import load

        with progress.step(f"loading {self.name}", None, ""):
            return load(source, dtype=self.dtype, device=self.device, tokenizer=tokenizer)


@dataclass(frozen=True)
class Reader:
    """A tokenizer before its model is loaded."""

    tokenizer: Any


def read_tokenizer(source: ModelSource, progress: TerminalProgress) -> Reader:
    """A model's tokenizer; one inside a GGUF takes a few seconds."""
    with progress.step(f"reading the tokenizer of {source.name}", None, ""):
        return Reader(source.tokenizer())


def mixture(specs: Sequence[str] | None, reader: Reader, progress: TerminalProgress) -> Calibration:
    """The calibration that `-c` flags name, mixed, with a word about one that is too small."""
    from depthprune.calibration import calibrate

    with progress.step("reading and tokenising the calibration text", None, ""):
        calibration = calibrate(list(specs or [DEFAULT_CALIBRATION]), reader)
    for warning in calibration.warnings():
        note(f"warning: {warning}")
    return calibration
