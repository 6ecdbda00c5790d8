"""How long a block takes on this machine, and how many tokens a call should have there.

A processor's calls are filled by a number of tokens that is known to do. An accelerator's are not
known: a large model fills one with a thousand tokens, a small one with many times that, and what
more stands in a call makes races coarser and workers idle. So a block is timed on calls of several
sizes, and the smallest that runs nearly as fast as any is taken. Losses round by it, so the answer
is kept for later runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from depthprune.checkpoints.config.sections import context_length
from depthprune.models.arithmetic import arithmetic_of
from depthprune.models.blocks.anatomy import MissingError
from depthprune.models.blocks.replay import Inputs
from depthprune.models.devices import plain_products, synchronize
from depthprune.models.free_memory import out_of_memory
from depthprune.models.loading import Model
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.timed_choices import remembered_choice

CALL_SIZES = (1024, 2048, 4096, 8192, 16_384)
_NEARLY = 0.9
_LENGTH = 256
_REPEATS = 5

_CHOSEN: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def timed_call_tokens(model: Model) -> int:
    """The fewest tokens a call that run a block at nine tenths of the best rate.

    Args:
        model: In memory.

    Returns:
        One of `CALL_SIZES`: the same in every run on one machine, whatever else it does.
    """
    if model.module not in _CHOSEN:
        block = model.anatomy.blocks.modules[model.blocks // 2]
        shapes = [(name, *p.shape) for name, p in block.named_parameters()]
        question = f"tokens a call: {shapes}, {model.dtype}, {arithmetic_of(model)}"
        answers = [str(size) for size in CALL_SIZES]
        found = remembered_choice(question, answers, lambda: str(_fewest(_rates(model))))
        _CHOSEN[model.module] = int(found)
    return _CHOSEN[model.module]


def _fewest(rates: dict[int, float]) -> int:
    best = max(rates.values(), default=0.0)
    return min((s for s, r in rates.items() if r >= _NEARLY * best), default=CALL_SIZES[0])


@torch.inference_mode()
def _rates(model: Model) -> dict[int, float]:
    """Tokens a second of a block in the middle, by the size of the call; until memory runs out."""
    config = model.module.config.get_text_config()  # type: ignore[operator, union-attr]
    length = min(_LENGTH, context_length(config) or _LENGTH)
    rates: dict[int, float] = {}
    for size in CALL_SIZES:
        tokens = probe_tokens(model.module, (max(1, size // length), length), seed=0, first=0)
        try:
            inputs = model.anatomy.record(tokens)
            rates[size] = tokens.numel() / block_seconds(model, model.blocks // 2, inputs)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            break
    return rates


def block_seconds(model: Model, block: int, inputs: Inputs) -> float:
    """Of a block on the states before the first, whose values change no time."""
    with model.anatomy.holding(block), plain_products():
        try:
            return median_seconds(lambda: model.anatomy.call(block, inputs.states, inputs), model)
        except MissingError:  # it reads what blocks before it write
            state = inputs.states
            for each in range(block):
                with model.anatomy.holding(each):
                    state = model.anatomy.call(each, state, inputs)
            return median_seconds(lambda: model.anatomy.call(block, state, inputs), model)


def median_seconds(work: Callable[[], object], model: Model) -> float:
    """The median of a few runs on a model's device."""
    times = []
    for _ in range(_REPEATS + 1):
        synchronize(model.device)
        began = time.perf_counter()
        work()
        synchronize(model.device)
        times.append(time.perf_counter() - began)
    # The first run pays for what later ones find ready.
    return statistics.median(times[1:])
