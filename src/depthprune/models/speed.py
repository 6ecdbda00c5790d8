"""How fast a model reads a prompt and writes an answer, measured apart.

Reading (prefill) is bound by arithmetic and writing (decode) by memory, so one figure for both
would say nothing. Models are measured in turns, so that a machine that slows down slows them all;
what is reported is the median of the repeats with the lowest and highest beside it.
"""

from __future__ import annotations

import inspect
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.manifest import Spread
from depthprune.models.loading import quiet_transformers
from depthprune.models.turns import taking_turns
from depthprune.progress import SILENT, Progress

PROMPT_TOKENS = 256
NEW_TOKENS = 32
REPEATS = 5


@dataclass
class Rates:
    """Tokens a second of one model, one value a repeat."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


def spread(values: Sequence[float]) -> Spread:
    """Median, lowest and highest."""
    return Spread(median=statistics.median(values), low=min(values), high=max(values))


@torch.inference_mode()
def measure(
    modules: Sequence[nn.Module],
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    new_tokens: int = NEW_TOKENS,
    repeats: int = REPEATS,
    progress: Progress = SILENT,
) -> list[Rates]:
    """Measure models side by side, batch 1.

    Args:
        modules: Causal language models; measured in turns.
        prompt_tokens: Length of the prompt.
        new_tokens: How many tokens are then decoded, one at a time, greedily.
        repeats: How often; one unmeasured round goes before.
        progress: Where the work shows itself.

    Returns:
        Rates for each model.
    """
    rates = [Rates() for _ in modules]
    with progress.step("speed", (repeats + 1) * len(modules), "runs") as step, quiet_transformers():
        for repeat in range(repeats + 1):
            for module, found in zip(modules, rates, strict=True):
                with taking_turns(module, modules[0]):
                    prefill, decode = _run(module, prompt_tokens, new_tokens)
                if repeat:
                    found.prefill.append(prompt_tokens / prefill)
                    found.decode.append(new_tokens / decode)
                step.advance()
    return rates


def _run(module: Any, prompt_tokens: int, new_tokens: int) -> tuple[float, float]:
    """Seconds of one prefill and of decoding `new_tokens`."""
    device = next(module.parameters()).device
    vocabulary = module.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, vocabulary, (1, prompt_tokens), generator=generator).to(device)
    last = {}
    if "logits_to_keep" in inspect.signature(module.forward).parameters:
        last["logits_to_keep"] = 1
    _wait(device)
    began = time.perf_counter()
    output = module(input_ids=prompt, use_cache=True, **last)
    _wait(device)
    middle = time.perf_counter()
    for _ in range(new_tokens):
        token: Tensor = output.logits[:, -1:].argmax(-1)
        output = module(input_ids=token, use_cache=True, **_cache_of(output))
    _wait(device)
    return middle - began, time.perf_counter() - middle


def _cache_of(output: Any) -> dict[str, Any]:
    """What the next call must be given; its name depends on the type and on transformers."""
    for name in ("cache", "past_key_values", "cache_params"):
        if (found := output.get(name)) is not None:
            return {name: found}
    raise ModelError(
        f"{type(output).__name__}: hands on no cache, so the speed of decoding cannot be "
        "measured; pass --no-bench"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def memory_bytes(module: nn.Module) -> int:
    """Bytes of a model's parameters and buffers in memory, shared ones counted once."""
    tensors = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def continuation(
    module: Any, tokenizer: Any, prompt: str, *, seed: int, temperature: float, new_tokens: int
) -> str:
    """A sampled continuation of a prompt.

    Args:
        module: The model.
        tokenizer: Its tokenizer.
        prompt: What is continued.
        seed: Of the sampling; the process's own random state is left as it was.
        temperature: Of the sampling.
        new_tokens: At most how many tokens.
    """
    device = next(module.parameters()).device
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), quiet_transformers(), torch.inference_mode():
        torch.manual_seed(seed)
        written = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=temperature,
            max_new_tokens=new_tokens,
            pad_token_id=tokenizer.eos_token_id or 0,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
