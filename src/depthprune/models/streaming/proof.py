"""Proof that a streamed model has the weights that `from_pretrained` would give it.

A part at a time, another skeleton is filled by transformers' own loading and given the
initialisation that follows it, and every tensor must be the streamed one's to the bit: all that
stands outside the blocks, and one block of each form. So what a type does to its weights as they
load, and this package does not know of, refuses streaming and changes no loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.streaming.conversion import converts
from depthprune.models.streaming.slots import Slot, read_for
from depthprune.models.streaming.stream import Stream

_PART_BYTES = 256 << 20
"""Of the weights outside the blocks, held twice at a time."""


@torch.no_grad()
def prove_streamed(name: str, fresh: nn.Module, outside: Sequence[Slot], stream: Stream) -> None:
    """Compare what is streamed with what transformers loads.

    Args:
        name: The model, for messages.
        fresh: A skeleton of it besides the one that is streamed; its tensors are filled and let go.
        outside: What fills the tensors outside the blocks.
        stream: The blocks.

    Raises:
        ModelError: If a tensor differs.
    """
    if not converts():
        # Before transformers 5 tensors were only copied, by their names.
        return
    for part in _parts(outside):
        _compare(name, fresh, part)
    for block, slots in _forms(stream):
        with stream.holding(block):
            _compare(name, fresh, slots)


def _parts(slots: Sequence[Slot]) -> Iterator[list[Slot]]:
    part: list[Slot] = []
    # What one join makes, and what one module holds, belongs together.
    for slot in sorted(slots, key=lambda slot: (slot.name.rpartition(".")[0], slot.name)):
        together = part and (slot.owner is part[-1].owner or slot.join is not None)
        if not together and sum(each.nbytes for each in part) > _PART_BYTES:
            yield part
            part = []
        part.append(slot)
    if part:
        yield part


def _forms(stream: Stream) -> Iterator[tuple[int, Sequence[Slot]]]:
    """The first block of each form, by its tensors' names, shapes and dtypes."""
    seen = set()
    for block, slots in enumerate(stream.slots):
        prefix = f"{stream.path}.{block}."
        form = frozenset(
            (slot.name.removeprefix(prefix), slot.content.shape, slot.content.dtype)
            for slot in slots
        )
        if form not in seen:
            seen.add(form)
            yield block, slots


def _compare(name: str, fresh: Any, slots: Sequence[Slot]) -> None:
    owners = {slot.name: _owner(fresh, slot.name) for slot in slots}
    before = {slot.name: slot.of(owners[slot.name]) for slot in slots}
    _load(fresh, slots)
    initialise(fresh, set(owners.values()))
    for slot in slots:
        ours, theirs = slot.content, slot.of(owners[slot.name])
        if theirs.is_meta or not _same_bits(ours, theirs):
            raise ModelError(
                f"{name}: transformers changes {slot.name} after it has loaded it, so it cannot be "
                "streamed; load it whole without --stream"
            )
    for slot in slots:
        slot.put(owners[slot.name], before[slot.name])


def _owner(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name.rpartition(".")[0])


def _load(fresh: Any, slots: Sequence[Slot]) -> None:
    """Have transformers load what fills these slots, and nothing else."""
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    wanted = read_for(slots)
    files = {path: safe_open(path, framework="pt") for path, _ in wanted}
    state: Mapping[str, Any] = {
        stored.name: files[path].get_slice(stored.name)  # type: ignore[no-untyped-call]
        for path, stored in wanted
    }
    config = LoadStateDictConfig(
        dtype=slots[0].content.dtype, weight_mapping=get_model_conversion_mapping(fresh)
    )
    convert_and_load_state_dict_in_model(fresh, state, config)


def initialise(module: Any, filled: set[nn.Module]) -> None:
    """What `from_pretrained` does when all is loaded: initialise what is not marked as loaded.

    Types that write into a loaded tensor there, as into an embedding's row for padding, change it.

    Args:
        module: The model.
        filled: The modules whose own tensors have been loaded.
    """
    for each in module.modules():
        each._is_hf_initialized = each not in filled
    for each in filled:
        for tensor in (*each._parameters.values(), *each._buffers.values()):
            if tensor is not None and not tensor.is_meta:
                tensor._is_hf_initialized = True  # type: ignore[attr-defined]
    with torch.random.fork_rng(devices=[]):
        module.initialize_weights()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    raw = [each.detach().cpu().contiguous().view(-1).view(torch.uint8) for each in (a, b)]
    return torch.equal(*raw)
