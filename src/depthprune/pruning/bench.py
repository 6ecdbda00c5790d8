"""What `bench` does: the speed, memory and size of one model, or of two in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from depthprune.errors import UsageError
from depthprune.manifest import Spread
from depthprune.models.devices import DTYPES, choose_device
from depthprune.models.dtype_choice import choose_dtype
from depthprune.models.pretrained import load_module
from depthprune.models.source import ModelSource
from depthprune.models.speed import Rates, measure, memory_bytes, spread
from depthprune.progress import SILENT, Progress, note
from depthprune.pruning.session import Loading

MOST_TOKENS, MOST_REPEATS = 1_000_000, 1000


@dataclass(frozen=True)
class BenchedModel:
    """What one model takes and gives.

    Attributes:
        name: As it was named.
        parameters: Tied ones once.
        bytes: On disk.
        prefill: Tokens a second.
        decode: Tokens a second.
        memory: Bytes of its parameters and buffers, or None where they cannot be read.
    """

    name: str
    parameters: int
    bytes: int
    prefill: Spread
    decode: Spread
    memory: int | None


@dataclass(frozen=True)
class Benched:
    """One model, or two.

    Attributes:
        dtype: In which both computed.
        prompt_tokens: Length of the prompt.
        new_tokens: Tokens decoded after it.
        repeats: Of which medians are reported.
        models: What was measured.
    """

    dtype: str
    prompt_tokens: int
    new_tokens: int
    repeats: int
    models: tuple[BenchedModel, ...]

    def document(self) -> dict[str, Any]:
        """As `bench --json` prints it."""
        settings = {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "repeats": self.repeats,
        }
        results = [
            {
                "model": each.name,
                "parameters": each.parameters,
                "bytes": each.bytes,
                "memory_bytes": each.memory,
                "prefill_tokens_per_second": each.prefill.model_dump(),
                "decode_tokens_per_second": each.decode.model_dump(),
            }
            for each in self.models
        ]
        return {"schema": 1, "dtype": self.dtype, **settings, "results": results}


def bench(
    model: str | Path,
    model2: str | Path | None = None,
    *,
    prompt_tokens: int = 256,
    new_tokens: int = 32,
    repeats: int = 5,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    progress: Progress = SILENT,
) -> Benched:
    """Measure how fast one model, or two in turns, reads a prompt and writes an answer.

    Args:
        model: A folder, a hub id, a `.gguf` file, or `demo`.
        model2: A second one.
        prompt_tokens: Length of the prompt.
        new_tokens: Tokens decoded after it.
        repeats: Of which medians are reported.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; both compute in the first one's.
        device: `auto`, `cpu`, `cuda:1`, …
        trust_remote_code: Run code that the model's folder brings.
        allow_pickle: Read weights that are pickled.
        progress: Where long work shows itself.

    Raises:
        DepthpruneError: If a model cannot be found or loaded, or has no positions for so many
            tokens.
    """
    for flag, value, most in (
        ("--prompt-tokens", prompt_tokens, MOST_TOKENS),
        ("--new-tokens", new_tokens, MOST_TOKENS),
        ("--repeats", repeats, MOST_REPEATS),
    ):
        if not 1 <= value <= most:
            raise UsageError(f"{flag}: expected 1 to {most:,}, got {value:,}")
    names = [model] if model2 is None else [model, model2]
    loadings = [
        Loading(name, dtype, device, None, trust_remote_code, allow_pickle) for name in names
    ]
    sources = [loading.find() for loading in loadings]
    modules, kind = load_alike(sources, dtype, device, progress)
    rates = measure(
        modules,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        repeats=repeats,
        progress=progress,
    )
    rows = tuple(_row(*each) for each in zip(sources, modules, rates, strict=True))
    return Benched(kind, prompt_tokens, new_tokens, repeats, rows)


def load_alike(
    sources: Sequence[ModelSource], dtype: str, device: str, progress: Progress
) -> tuple[list[nn.Module], str]:
    """Models to be compared, all in one dtype: the first one's, where it is chosen.

    Args:
        sources: Their files.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        device: `auto`, `cpu`, `cuda:1`, …
        progress: Where loading shows itself.

    Returns:
        The models, and the name of the dtype.
    """
    place = choose_device(device)
    choice = choose_dtype(dtype, sources[0], place)
    if choice.why is not None:
        note(f"computing in {choice.name}: {choice.why}")
    modules = []
    for source in sources:
        with progress.step(f"loading {source.name}", None, ""):
            modules.append(load_module(source, DTYPES[choice.name], place))
    return modules, choice.name


def _row(source: ModelSource, module: nn.Module, found: Rates) -> BenchedModel:
    return BenchedModel(
        name=source.name,
        parameters=sum(p.numel() for p in module.parameters()),
        bytes=source.bytes_on_disk(),
        prefill=spread(found.prefill),
        decode=spread(found.decode),
        memory=memory_bytes(module),
    )
