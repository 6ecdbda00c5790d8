"""Where a model's blocks are.

No architecture is named here. One real forward pass on a few tokens shows which `ModuleList` is
run member by member, each reading what the last one wrote: those are the blocks. Before an anatomy
is handed out its replay is proved; a model that cannot be replayed is refused here, and never
measured wrongly later.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.blocks.anatomy import Anatomy, record_inputs
from depthprune.models.blocks.anatomy_proof import prove
from depthprune.models.blocks.carried import (
    Carried,
    hidden,
)
from depthprune.models.blocks.exchange import (
    ObservedRun,
    learn,
)
from depthprune.models.blocks.head import find_head
from depthprune.models.blocks.recording import Blocks
from depthprune.models.blocks.replay import Call, Layout, batch_axes, hidden_of
from depthprune.models.blocks.stacking import (
    Stacking,
    StateLayout,
    learn_stacking,
)
from depthprune.models.devices import plain_products
from depthprune.models.free_memory import out_of_memory
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.streaming.stream import Stream
from depthprune.models.widening import cannot_run, is_narrow

_PROBE_LENGTH = 16
_LONGER = 20
"""Length of a second probe, where one shape of token ids does not tell; not 3/2 of the first."""


@torch.inference_mode()
def find_anatomy(module: nn.Module, stream: Stream | None = None) -> Anatomy:
    """Find a causal language model's blocks and head, and prove that replaying them is exact.

    Every block is run in two passes over the model, whatever is proved in them.

    Args:
        module: A model from transformers, in evaluation mode.
        stream: Where its blocks' weights come from, if they are not held.

    Raises:
        ModelError: If there is no list of blocks, or calling them one by one does not give what
            the model gives.
    """
    try:
        with plain_products():
            return _find(module, stream)
    except (
        RuntimeError,
        MemoryError,
        TypeError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise _not_found(module, error) from error


def _not_found(module: nn.Module, error: BaseException) -> ModelError:
    name = type(module).__name__
    held = next((each for each in module.parameters() if not each.is_meta), torch.empty(0))
    if out_of_memory(error):
        return ModelError(
            f"{name}: memory ran out on {held.device} while it was shown that its blocks can be "
            f"run one by one ({first_line(error)}); close other programs, or take --stream, "
            "--dtype bfloat16 or --device cpu"
        )
    for dtype in {each.dtype for each in module.parameters() if is_narrow(each.dtype)}:
        return ModelError(cannot_run(module, dtype, error))
    return ModelError(
        f"{name}: cannot be called block by block ({first_line(error)}); it "
        "cannot be searched with this version of transformers"
    )


def _find(module: nn.Module, stream: Stream | None) -> Anatomy:
    tokens = _probe(module, batch=2)
    reference, last, blocks = _find_blocks(module, tokens)
    if stream is not None and stream.path != blocks.path:
        raise ModelError(
            f"{type(module).__name__}: its files hold the blocks as {stream.path}, and it runs "
            f"{blocks.path}, so it cannot be streamed; load it whole without --stream"
        )
    inputs = record_inputs(module, blocks, tokens)
    wider = record_inputs(module, blocks, _probe(module, batch=3))
    axes = tuple(batch_axes(a, b) for a, b in zip(inputs.calls, wider.calls, strict=True))
    head = find_head(module, blocks, blocks.layout.usual(last), reference)
    stacking = Stacking.of_tensors(hidden(inputs.states))
    anatomy = Anatomy(module, blocks, head, axes, stacking, stream)
    if isinstance(inputs.states, Carried):
        anatomy = replace(anatomy, _stacking=_learn_stacking(anatomy, tokens))
    return replace(anatomy, proof=prove(anatomy, tokens, inputs, reference))


def _learn_stacking(anatomy: Anatomy, tokens: Tensor) -> Stacking:
    """Which axes of what is carried follow the windows and the tokens, from two runs beside."""
    longer = _probe(anatomy.module, 3, _LONGER)
    inputs = [record_inputs(anatomy.module, anatomy.blocks, each) for each in (tokens, longer)]
    states = [each.states for each in inputs]
    rooms = [(StateLayout.of(states[0], tokens), StateLayout.of(states[1], longer))]
    for block in range(len(anatomy.blocks)):
        with anatomy.holding(block):
            states = [anatomy.call(block, *pair) for pair in zip(states, inputs, strict=True)]
        rooms.append((StateLayout.of(states[0], tokens), StateLayout.of(states[1], longer)))
    return learn_stacking(rooms)


def _probe(module: nn.Module, batch: int, length: int = _PROBE_LENGTH) -> Tensor:
    device = next(module.get_input_embeddings().parameters()).device  # type: ignore[operator]
    return probe_tokens(module, (batch, length), seed=batch).to(device)


def _candidates(module: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) >= 2
    ]


class _Watch:
    """What lists of modules do in one run of their model: when, with what states, in what form.

    Attributes:
        seen: What each module was run with, where that may be hidden states.
        lengths: Of the tuple that each returned, 0 for a tensor, where it returned such states too.
    """

    def __init__(self, tokens: Tensor) -> None:
        self.seen: dict[nn.Module, ObservedRun] = {}
        self.lengths: dict[nn.Module, int] = {}
        self._tokens = tokens
        self._order: dict[nn.Module, list[int]] = {}
        self._clock = itertools.count()

    @contextmanager
    def watching(self, members: Iterable[nn.Module]) -> Iterator[None]:
        """Inside the context, run the model once."""
        handles = []
        for member in members:
            handles.append(member.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(member.register_forward_hook(self._leave, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def ran(self, group: nn.ModuleList) -> bool:
        """Whether the members were run once each, one after the other, on hidden states."""
        times = [self._order.get(member, []) for member in group]
        once = all(len(t) == 1 and m in self.lengths for t, m in zip(times, group, strict=True))
        return once and times == sorted(times)

    def _enter(self, member: nn.Module, args: Any, kwargs: Any) -> None:
        self._order.setdefault(member, []).append(next(self._clock))
        with suppress(ModelError):
            call, states = Call.of(args, kwargs)
            if _may_be_states(states, self._tokens):
                self.seen[member] = ObservedRun.before(call.tree, states)

    def _leave(self, member: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if member not in self.seen:
            return
        self.seen[member].behind(output)
        with suppress(TypeError, IndexError, KeyError, AttributeError):
            if hidden_of(output).shape == self.seen[member].states[0].shape:
                self.lengths[member] = 0 if isinstance(output, Tensor) else len(output)


def _find_blocks(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Blocks]:
    """The model's logits, the output of its last block, and its blocks."""
    lists = _candidates(module)
    watch = _Watch(tokens)
    with watch.watching({member for _, group in lists for member in group}):
        reference = module(input_ids=tokens, use_cache=False).logits
    found = [(name, group) for name, group in lists if watch.ran(group)]
    outer = [
        (name, group)
        for name, group in found
        if not any(name.startswith(other + ".") for other, _ in found if other != name)
    ]
    if not outer:
        raise ModelError(
            f"{type(module).__name__}: found no list of blocks (a ModuleList run member by member "
            "on hidden states); this model cannot be depth-pruned"
        )
    path, group = max(outer, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    forms = {member: watch.lengths[member] for member in group}
    exchange = learn(list(group), [watch.seen[member] for member in group])
    blocks = Blocks(path, tuple(group), forms, exchange=exchange)
    if watch.seen[group[0]].states[0].shape[:2] != tokens.shape:
        blocks = replace(blocks, layout=_layout(module, blocks))
    return reference, hidden_of(watch.seen[group[-1]].output), blocks


def _layout(module: nn.Module, blocks: Blocks) -> Layout:
    """Where hidden states have their batch and length, shown by two shapes of token ids."""
    shapes = [
        hidden(record_inputs(module, blocks, _probe(module, batch, length)).states).shape
        for batch, length in ((2, _PROBE_LENGTH), (3, _LONGER))
    ]
    pairs = list(zip(*shapes, strict=True))
    try:
        return Layout(pairs.index((2, 3)), pairs.index((_PROBE_LENGTH, _LONGER)))
    except ValueError as error:
        raise ModelError(
            f"{type(module).__name__}: its hidden states, of shape {tuple(shapes[0])} for 2 × "
            f"{_PROBE_LENGTH} tokens, have no axis of windows or none of tokens; it cannot be "
            "searched"
        ) from error


def _may_be_states(value: Tensor, tokens: Tensor) -> bool:
    """Whether there is an axis for the windows, one for the tokens, and one more."""
    batch, length = tokens.shape
    before = list(value.shape[:-1])
    return value.is_floating_point() and batch in before and length in before
