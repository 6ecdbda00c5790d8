"""What the measuring verbs do alike: check, read the calibration, then load the model.

Everything that needs no weights is refused before they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthprune.errors import ModelError, UsageError
from depthprune.progress import SILENT, Progress, note, warn

if TYPE_CHECKING:
    from depthprune.calibration import Calibration, CalibrationSpec
    from depthprune.evaluator.memo.store import Memo
    from depthprune.manifest import Manifest
    from depthprune.models.loading import Model
    from depthprune.models.source import ModelSource

DEFAULT_CALIBRATION = "default"


@dataclass(frozen=True)
class Loading:
    """How a model is to be found and loaded: the flags that all measuring verbs share."""

    name: str | Path
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    stream: bool = False
    device_map: str | None = None
    _loaded: list[Model] = field(default_factory=list, init=False, repr=False, compare=False)

    def find(self) -> ModelSource:
        """The model's files, checked."""
        from depthprune.checkpoints.purpose import require_language_model
        from depthprune.models.devices import check_placement
        from depthprune.models.dtype_names import check_dtype
        from depthprune.models.source import find_model
        from depthprune.models.streaming.skeleton import check_streamable

        check_dtype(self.dtype)
        check_placement(self.device_map, self.device, self.stream)
        source = find_model(
            self.name,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )
        require_language_model(source.name, source.checkpoint)
        if self.stream:
            check_streamable(source)
        return source

    def load(self, source: ModelSource, tokenizer: Any, progress: Progress) -> Model:
        """The loaded model; asked for again, the same."""
        from depthprune.models.loading import load

        for model in self._loaded:
            if model.source is source:
                return model
        with progress.step(f"loading {self.name}", None, ""):
            model = load(
                source,
                dtype=self.dtype,
                device=self.device,
                tokenizer=tokenizer,
                stream=self.stream,
                device_map=self.device_map,
            )
        if model.dtype_reason is not None:
            note(f"computing in {model.dtype}: {model.dtype_reason}")
        self._loaded[:] = [model]
        return model


def several(given: str | Sequence[str]) -> tuple[str, ...]:
    """What may be given as one text or as several."""
    return (given,) if isinstance(given, str) else tuple(given)


@dataclass(frozen=True)
class TextReader:
    """A tokenizer before its model is loaded, and a way to load it for text that it writes itself.

    Attributes:
        tokenizer: The model's tokenizer.
        context: Tokens of the longest sequence that the model reads, where its files say so.
        rows: Of its embedding, where its files say so.
        load: Loads the model.
        progress: Where the model's writing shows itself.
        rehearsed: Whether drawn tokens stand for text that the model would have to write first.
    """

    tokenizer: Any
    context: int | None = None
    rows: int | None = None
    load: Callable[[], Model] | None = None
    progress: Progress = SILENT
    rehearsed: bool = False

    def loaded(self) -> Model:
        """The model itself."""
        if self.load is None:
            raise UsageError("self: this verb reads no model's own text; name another source")
        return self.load()


def require_original(manifest: Manifest, pruned: Path, source: ModelSource) -> None:
    """Refuse a model that is not the one which a checkpoint was pruned from.

    Args:
        manifest: The checkpoint's.
        pruned: Its folder.
        source: What is given as its original.

    Raises:
        ModelError: If their fingerprints differ.
    """
    ours, theirs = source.fingerprint(), manifest.model.fingerprint
    if ours != theirs:
        raise ModelError(
            f"--original {source.name}: is not the model that {pruned} was pruned from "
            f"({manifest.model.name}): its fingerprint is {(ours or 'none')[:12]}, expected "
            f"{(theirs or 'none')[:12]}; name the original, unchanged"
        )


def read_tokenizer(
    source: ModelSource, progress: Progress, loading: Loading | None = None
) -> TextReader:
    """A model's tokenizer; one inside a GGUF takes a few seconds.

    Args:
        source: The model's files.
        progress: Where it shows itself.
        loading: How the model is loaded, if a calibration asks for text of its own.
    """
    from depthprune.checkpoints.config.sections import context_length

    with progress.step(f"reading the tokenizer of {source.name}", None, ""):
        tokenizer = source.tokenizer()
    config = source.checkpoint.config if source.checkpoint is not None else {}
    text = config.get("text_config")
    sizes = {**config, **(text if isinstance(text, dict) else {})}
    rows = sizes.get("vocab_size")
    rows = rows if isinstance(rows, int) and not isinstance(rows, bool) else None
    context = context_length(sizes)
    load = None if loading is None else partial(loading.load, source, tokenizer, progress)
    return TextReader(tokenizer, context, rows, load, progress)


@contextmanager
def open_memo(place: str | Path | None, source: ModelSource) -> Iterator[Memo | None]:
    """The memo that `--memo` names, with a word about what it cannot do and what it leaves aside.

    Args:
        place: A path, `off`, or None for the default place.
        source: The model whose losses are looked up.
    """
    with memo_at(place) as memo:
        weights = source.fingerprint() if memo is not None else None
        if memo is not None and weights is not None and memo.changed(source.identity, weights):
            note(f"the weights of {source.name} changed; losses in the memo are not reused")
        yield memo


@contextmanager
def memo_at(place: str | Path | None) -> Iterator[Memo | None]:
    """The memo that `--memo` names, for any model, with a word about what it cannot do.

    Args:
        place: A path, `off`, or None for the default place.
    """
    from depthprune.evaluator.memo.store import Memo

    if place == "off":
        yield None
        return
    with Memo.open(Path(place).expanduser() if place else None) as memo:
        _say(memo)
        try:
            yield memo
        finally:
            _say(memo)


def _say(memo: Memo) -> None:
    for line in memo.notes:
        warn(line)
    memo.notes.clear()


def reading(specs: Sequence[CalibrationSpec], progress: Progress) -> AbstractContextManager[object]:
    """A step that shows while text is read; none where the model writes some, which shows its own.

    Args:
        specs: What is read.
        progress: Where it shows itself.
    """
    from depthprune.calibration import is_generated

    if any(is_generated(spec.source) for spec in specs):
        return nullcontext()
    return progress.step("reading and tokenising the calibration text", None, "")


def mixture(
    specs: Sequence[CalibrationSpec], reader: TextReader, progress: Progress
) -> Calibration:
    """The calibration that `-c` flags name, mixed, with a word about one that is too small."""
    from depthprune.calibration import calibrate

    with reading(specs, progress):
        calibration = calibrate(list(specs), reader)
    for warning in calibration.warnings():
        warn(warning)
    return calibration
