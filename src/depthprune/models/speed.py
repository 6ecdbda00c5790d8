"""How fast a model reads a prompt and writes an answer, measured apart.

Reading (prefill) is bound by arithmetic and writing (decode) by memory, so one figure for both
would say nothing. Models are measured in turns, so that a machine that slows down slows them all;
what is reported is the median of the repeats with the lowest and highest beside it.
"""

from __future__ import annotations

import inspect
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import EvaluationError, ModelError
from depthprune.manifest import Spread
from depthprune.models.devices import synchronize
from depthprune.models.plain_generation import plain_generation
from depthprune.models.positions import require_room
from depthprune.models.pretrained import quiet_transformers
from depthprune.models.turns import taking_turns
from depthprune.progress import SILENT, Progress

PROMPT_TOKENS = 256
NEW_TOKENS = 32
REPEATS = 5


@dataclass
class Rates:
    """Tokens a second of one model, one value a repeat.

    Attributes:
        prefill: Of the prompt.
        decode: Of what was then written.
        new_tokens: How many tokens were written at least, in each repeat.
    """

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    new_tokens: int = 0


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
    seconds: float = math.inf,
    progress: Progress = SILENT,
) -> list[Rates]:
    """Measure models side by side, batch 1.

    Args:
        modules: Causal language models; measured in turns.
        prompt_tokens: Length of the prompt.
        new_tokens: How many tokens are then decoded, one at a time, greedily.
        repeats: How often; one unmeasured round goes before.
        seconds: Stop when another round would end later than that; where there is time for one
            only, it is the measured one, with as many new tokens as fit. A prompt is never cut.
        progress: Where the work shows itself.

    Returns:
        Rates for each model.

    Raises:
        EvaluationError: If the time is over before each model has run.
        UsageError: If a model has no positions for so many tokens.
    """
    for module in modules:
        require_room(module, prompt_tokens, new_tokens)
    rates = [Rates() for _ in modules]
    began = time.perf_counter()
    with progress.step("speed", (repeats + 1) * len(modules), "runs") as step, quiet_transformers():
        for repeat in range(repeats + 1):
            round_began = time.perf_counter()
            runs = []
            for place, module in enumerate(modules):
                if not repeat and time.perf_counter() > began + seconds:
                    raise EvaluationError(
                        f"{seconds:g} seconds are too few to run each model once; allow more"
                    )
                # In the first round each model has its share of the time.
                share = began + seconds * (place + 1) / len(modules) if not repeat else math.inf
                with taking_turns(module, modules[0]):
                    runs.append(_run(module, prompt_tokens, new_tokens, share))
                step.advance()
            now = time.perf_counter()
            last = now - began + (now - round_began) > seconds
            if repeat or last:
                _note(rates, runs, prompt_tokens)
            if last:
                break
    return rates


def _note(rates: list[Rates], runs: list[tuple[float, float, int]], prompt_tokens: int) -> None:
    for found, (prefill, decode, tokens) in zip(rates, runs, strict=True):
        found.prefill.append(prompt_tokens / prefill)
        found.decode.append(tokens / decode)
        found.new_tokens = min(tokens, found.new_tokens or tokens)


def _run(
    module: Any, prompt_tokens: int, new_tokens: int, until: float
) -> tuple[float, float, int]:
    """Seconds of one prefill and of decoding, and how many tokens were decoded until then."""
    device = next(module.parameters()).device
    vocabulary = module.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(0, vocabulary, (1, prompt_tokens), generator=generator).to(device)
    last = {}
    if "logits_to_keep" in inspect.signature(module.forward).parameters:
        last["logits_to_keep"] = 1
    synchronize(device)
    began = time.perf_counter()
    output = module(input_ids=prompt, use_cache=True, **last)
    synchronize(device)
    middle = time.perf_counter()
    tokens = 0
    while tokens < new_tokens and (tokens == 0 or time.perf_counter() < until):
        token: Tensor = output.logits[:, -1:].argmax(-1)
        output = module(input_ids=token, use_cache=True, **_cache_of(output))
        tokens += 1
    synchronize(device)
    return middle - began, time.perf_counter() - middle, tokens


def _cache_of(output: Any) -> dict[str, Any]:
    """What the next call must be given; its name depends on the type and on transformers."""
    for name in ("cache", "past_key_values", "cache_params"):
        if (found := output.get(name)) is not None:
            return {name: found}
    raise ModelError(
        f"{type(output).__name__}: hands on no cache, so the speed of decoding cannot be "
        "measured; pass --no-bench"
    )


def memory_bytes(module: nn.Module) -> int:
    """Bytes of a model's parameters and buffers in memory, shared ones counted once."""
    tensors = {t.data_ptr(): t for t in (*module.parameters(), *module.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def continuation(
    module: Any,
    tokenizer: Any,
    prompt: str,
    *,
    seed: int,
    temperature: float,
    new_tokens: int,
    seconds: float | None = None,
) -> str:
    """A sampled continuation of a prompt.

    Args:
        module: The model.
        tokenizer: Its tokenizer.
        prompt: What is continued.
        seed: Of the sampling; the process's own random state is left as it was.
        temperature: Of the sampling.
        new_tokens: At most how many tokens.
        seconds: What it may take; where that is too little, the continuation ends early.
    """
    device = next(module.parameters()).device
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(device)
    devices = [device] if device.type == "cuda" else []
    own = getattr(module, "generation_config", None)
    ends = getattr(own, "eos_token_id", None)
    plain = plain_generation(module, ends=tokenizer.eos_token_id if ends is None else ends)
    with torch.random.fork_rng(devices), quiet_transformers(), plain, torch.inference_mode():
        torch.manual_seed(seed)
        written = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=temperature,
            max_new_tokens=new_tokens,
            max_time=seconds,
        )
    return str(tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True))
