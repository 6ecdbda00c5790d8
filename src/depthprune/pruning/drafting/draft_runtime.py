"""What runs a model and its draft: llama.cpp for two GGUF files, transformers for all others.

A GGUF file is there for llama.cpp, so how fast it writes elsewhere tells its user little. What
cannot be run is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from depthprune.errors import UsageError
from depthprune.models.assisted import Pair, TransformersPair
from depthprune.models.llama_cpp import LlamaCppPair, require_llama_cpp
from depthprune.models.positions import require_room
from depthprune.models.source import ModelSource
from depthprune.progress import Progress
from depthprune.pruning.bench import load_alike

RUNTIMES = ("auto", "transformers", "llama.cpp")


def choose_runtime(name: str, sources: Sequence[ModelSource], dtype: str, device: str) -> str:
    """What will run a model and its draft.

    Args:
        name: As it was asked for.
        sources: Of the model and of its draft.
        dtype: As it was asked for.
        device: As it was asked for.

    Raises:
        UsageError: If the name is unknown, or llama.cpp cannot do what is asked for.
    """
    if name not in RUNTIMES:
        raise UsageError(f"--runtime: expected {' or '.join(RUNTIMES)}, got {name!r}")
    others = [source.name for source in sources if source.gguf is None]
    if name == "auto":
        name = "transformers" if others else "llama.cpp"
    if name == "transformers":
        return name
    remedy = "or pass --runtime transformers"
    if others:
        raise UsageError(
            f"--runtime llama.cpp: expected two .gguf files, and {others[0]} is none; name one, "
            f"{remedy}"
        )
    if dtype != "auto":
        raise UsageError(
            f"--dtype {dtype}: llama.cpp computes in what a GGUF file holds; drop it, {remedy}"
        )
    if device not in ("auto", "cpu"):
        raise UsageError(
            f"--device {device}: expected auto or cpu with llama.cpp, which takes the accelerator "
            f"that it was built for; drop it, {remedy}"
        )
    require_llama_cpp()
    return name


def open_pair(
    runtime: str,
    sources: Sequence[ModelSource],
    prompt_tokens: int,
    new_tokens: int,
    *,
    dtype: str,
    device: str,
    progress: Progress,
) -> Pair:
    """Load a model and its draft.

    Args:
        runtime: That `choose_runtime` chose.
        sources: Of the model and of its draft.
        prompt_tokens: Of the longest prompt.
        new_tokens: Of each continuation.
        dtype: In transformers.
        device: `auto`, `cpu`, …
        progress: Where loading shows itself.

    Raises:
        UsageError: If one of the two has no positions for so many tokens.
    """
    if runtime == "transformers":
        (model, draft), kind = load_alike(sources, dtype, device, progress)
        for module in (model, draft):
            require_room(module, prompt_tokens, new_tokens)
        return TransformersPair(model, draft, kind)
    files = [source.gguf for source in sources if source.gguf is not None]
    with progress.step(f"loading {sources[0].name} and {sources[1].name}", None, ""):
        return LlamaCppPair(
            files, prompt_tokens + new_tokens, device=device, threads=torch.get_num_threads()
        )
