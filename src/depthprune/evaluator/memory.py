"""How much memory is free, so that hidden states stay within it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from depthprune.calibration import Window
from depthprune.errors import UsageError
from depthprune.evaluator.timing import timed_call_tokens
from depthprune.models.free_memory import available_memory
from depthprune.models.loading import Model

_SHARE = 0.5
_CALL_TOKENS = {"cpu": 512}
_CALL_TOKENS_STREAMED = 16_384
_CHUNK = {"cpu": 256}
_CHUNK_ELSEWHERE = 2048
_TILED = {"cpu": 512}
_CHUNK_LEAST = 64
_LOGITS_BYTES = 512 << 20
_HEAD_COPIES = 3
_FLOAT = 4


@dataclass(frozen=True)
class MemoryBudget:
    """What hidden states may take.

    Attributes:
        bytes: In all.
        batch_tokens: Up to how many tokens are run together.
    """

    bytes: int
    batch_tokens: int


def state_budget(
    model: Model, windows: Sequence[Window], memory: int | None, call_tokens: int
) -> MemoryBudget:
    """What hidden states may take, and how much may be run at once within that.

    Args:
        model: The model.
        windows: What is to be run.
        memory: Bytes; None for half of what is free on the model's device, or, of several, on the
            one with the least, less what a chunk of the head takes.
        call_tokens: Tokens that fill a call on that device.

    Raises:
        UsageError: If `memory` is below two states of the longest window, and, for a model that is
            read block by block, one block.
    """
    longest = max(len(window.tokens) for window in windows)
    state = model.anatomy.state_bytes(longest)
    if memory is None:
        free = min(available_memory(device) for device in _devices(model))
        room = max(0, free - head_bytes(model))
        return MemoryBudget(int(room * _SHARE), max(longest, call_tokens))
    block = model.anatomy.largest_block_bytes if model.streamed else 0
    least = 2 * longest * state + block
    if memory < least:
        parts = f"two states of {longest} tokens" + (" and one block" if block else "")
        raise UsageError(
            f"--memory: expected at least {least} bytes ({parts}), got {memory}; raise it, or take "
            "a shorter length="
        )
    left = memory - block
    if model.stream is not None:
        # A second block is read ahead where both fit beside two states.
        if left - block < 2 * longest * state:
            model.stream.use_one_buffer()
        else:
            left -= block
    return MemoryBudget(left, max(longest, min(call_tokens, left // (2 * state))))


def call_tokens(model: Model) -> int:
    """About how many tokens of windows share a call on a model's device: see `timing`."""
    known = _CALL_TOKENS.get(torch.device(model.device).type)
    if known is not None:
        return known
    # Where blocks are read from disk, a call is as good as its block's reading is shared.
    return _CALL_TOKENS_STREAMED if model.streamed else timed_call_tokens(model)


def host_bytes(model: Model) -> int:
    """What states of a model on a GPU may take of the host's memory, besides what the GPU holds.

    None on MPS, whose memory is the host's.
    """
    if torch.device(model.device).type in ("cpu", "mps"):
        return 0
    return int(available_memory(torch.device("cpu")) * _SHARE)


def head_tokens(model: Model) -> int:
    """Tokens whose logits are made at once: a fixed number for a vocabulary and kind of device.

    Losses round by it, so it follows from nothing that changes between runs.
    """
    device = torch.device(model.device).type
    tokens = _CHUNK.get(device, _CHUNK_ELSEWHERE)
    while tokens > _CHUNK_LEAST and tokens * vocabulary(model) * _FLOAT > _LOGITS_BYTES:
        tokens //= 2
    return tokens


def tile_tokens(model: Model) -> int:
    """The same where logits are computed by tiles of the vocabulary, which bounds them itself."""
    return _TILED.get(torch.device(model.device).type, _CHUNK_ELSEWHERE)


def head_bytes(model: Model) -> int:
    """What a chunk of the head takes: its logits, widened, and their log-softmax."""
    return _HEAD_COPIES * head_tokens(model) * vocabulary(model) * _FLOAT


def vocabulary(model: Model) -> int:
    """Rows of the model's table of embeddings."""
    return int(model.module.get_input_embeddings().weight.shape[0])  # type: ignore[operator]


def _devices(model: Model) -> set[torch.device]:
    """Wherever hidden states come by: a model laid on several devices hands them from one on."""
    found = {p.device for block in model.anatomy.blocks.modules for p in block.parameters()}
    return {torch.device(model.anatomy.device), *(d for d in found if d.type != "meta")}
