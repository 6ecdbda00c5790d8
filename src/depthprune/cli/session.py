"""What the measuring verbs do alike: check, read the calibration, then load the model.

Everything that needs no weights is refused before they are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthprune.cli.console import TerminalProgress, note

if TYPE_CHECKING:
    from depthprune.calibration import Calibration
    from depthprune.evaluator.memo import Memo
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
    stream: bool = False
    device_map: str | None = None

    def find(self) -> ModelSource:
        """The model's files, checked."""
        from depthprune.models.placement import check_placement
        from depthprune.models.skeleton import check_streamable
        from depthprune.models.source import find_model

        check_placement(self.device_map, self.device, self.stream)
        source = find_model(
            self.name,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )
        if self.stream:
            check_streamable(source)
        return source

    def load(self, source: ModelSource, tokenizer: Any, progress: TerminalProgress) -> Model:
        """The loaded model."""
        from depthprune.models.loading import load

        with progress.step(f"loading {self.name}", None, ""):
            return load(
                source,
                dtype=self.dtype,
                device=self.device,
                tokenizer=tokenizer,
                stream=self.stream,
                device_map=self.device_map,
            )


@dataclass(frozen=True)
class Reader:
    """A tokenizer before its model is loaded."""

    tokenizer: Any


def read_tokenizer(source: ModelSource, progress: TerminalProgress) -> Reader:
    """A model's tokenizer; one inside a GGUF takes a few seconds."""
    with progress.step(f"reading the tokenizer of {source.name}", None, ""):
        return Reader(source.tokenizer())


@contextmanager
def open_memo(place: str | None, source: ModelSource) -> Iterator[Memo | None]:
    """The memo that `--memo` names, with a word about what it cannot do and what it leaves aside.

    Args:
        place: A path, `off`, or None for the default place.
        source: The model whose losses are looked up.
    """
    from depthprune.evaluator.memo import Memo

    if place == "off":
        yield None
        return
    with Memo.open(Path(place).expanduser() if place else None) as memo:
        weights = source.fingerprint()
        if weights is not None and memo.changed(source.identity, weights):
            note(f"note: the weights of {source.name} changed; losses in the memo are not reused")
        _say(memo)
        try:
            yield memo
        finally:
            _say(memo)


def _say(memo: Memo) -> None:
    for line in memo.notes:
        note(f"warning: {line}")
    memo.notes.clear()


def mixture(specs: Sequence[str] | None, reader: Reader, progress: TerminalProgress) -> Calibration:
    """The calibration that `-c` flags name, mixed, with a word about one that is too small."""
    from depthprune.calibration import calibrate

    with progress.step("reading and tokenising the calibration text", None, ""):
        calibration = calibrate(list(specs or [DEFAULT_CALIBRATION]), reader)
    for warning in calibration.warnings():
        note(f"warning: {warning}")
    return calibration
