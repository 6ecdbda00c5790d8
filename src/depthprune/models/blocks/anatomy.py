"""Where a model's blocks are, and how to call one exactly as the model itself would.

No architecture is named here. One real forward pass on a few tokens shows which `ModuleList` is
run member by member, each reading what the last one wrote: those are the blocks. What the model
passes to each of them (masks, position embeddings, arguments of its layer type) is recorded and
replayed, so a rule that transformers knows and this package does not is followed all the same.
Before an anatomy is handed out, the replay is compared with the model's own forward on those
tokens, dense and with a block skipped, and several states in one call with each alone; a model
whose blocks exchange what cannot be seen of them is refused here, and never measured wrongly later.
What does not agree to the bit is decided in float32, or in float64 (see `widening`), and the
rounding is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, first_line
from depthprune.models.blocks.carried import (
    Carried,
    State,
    changed,
    hidden,
)
from depthprune.models.blocks.exchange import (
    ObservedRun,
    Tree,
    learn,
)
from depthprune.models.blocks.head import Head, find_head
from depthprune.models.blocks.replay import (
    Blocks,
    Call,
    Inputs,
    Layout,
    Recorder,
    batch_axes,
    hidden_of,
    largest,
    patched,
    relative_difference,
    stacked_call,
)
from depthprune.models.blocks.stacking import (
    Stacking,
    StateLayout,
    learn_stacking,
)
from depthprune.models.blocks.stacking_proof import StackingProof
from depthprune.models.devices import plain_products
from depthprune.models.free_memory import out_of_memory
from depthprune.models.probe_tokens import probe_tokens
from depthprune.models.streaming.stream import Stream
from depthprune.models.widening import FLOAT32_LIMIT, cannot_run, is_narrow, settled

_PROBE_LENGTH = 16
_LONGER = 20
"""Length of a second probe, where one shape of token ids does not tell; not 3/2 of the first."""


@dataclass(frozen=True)
class Proof:
    """How the replay of a model was proven, each figure relative to the scale of its values.

    Attributes:
        replay: How far the replayed logits are from the model's own, in shapes that are the same;
            0 is equal to the bit.
        widened: The same in float32 or float64, where that was not 0 and one had to decide.
        rounding: How far a block's output for states that share a call is from what it is for
            each alone, at most: what the device rounds by the number of rows.
    """

    replay: float
    widened: float | None
    rounding: float


@dataclass(frozen=True)
class Anatomy:
    """The blocks and the head of one loaded model.

    Attributes:
        module: The whole causal language model, in evaluation mode.
        blocks: The blocks, in order, and the dotted name of their list.
        head: What turns the last block's output into logits.
        stream: Where the blocks' weights come from, if they are not held.
        proof: How it was shown that calling the blocks is what the model does.
    """

    module: nn.Module
    blocks: Blocks
    head: Head
    _axes: tuple[dict[str, int], ...] = field(repr=False)
    _stacking: Stacking = field(repr=False)
    stream: Stream | None = field(default=None, repr=False)
    proof: Proof | None = None

    @property
    def device(self) -> torch.device:
        """Where token ids are put: the device of the input embeddings."""
        embeddings = self.module.get_input_embeddings()  # type: ignore[operator]
        return next(embeddings.parameters()).device  # type: ignore[no-any-return]

    def state_bytes(self, length: int) -> int:
        """Bytes of one token's state in windows of a length, where it is largest."""
        return self._stacking.state_bytes(length)

    @property
    def largest_block_bytes(self) -> int:
        """Bytes of the weights of the largest block."""
        return max(
            sum(p.numel() * p.element_size() for p in block.parameters())
            for block in self.blocks.modules
        )

    @torch.inference_mode()
    def record(self, tokens: Tensor, arguments: Mapping[str, Tensor] | None = None) -> Inputs:
        """What the model passes to each block for these tokens; no block is computed.

        Args:
            tokens: Token ids, shape (batch, length), int64, without padding.
            arguments: Further arguments of the model: an attention mask, positions.

        Returns:
            The hidden states before block 0 and every block's call.
        """
        more = {name: value.to(self.device) for name, value in (arguments or {}).items()}
        return _record(self.module, self.blocks, tokens.to(self.device), more)

    def holding(self, block: int) -> AbstractContextManager[None]:
        """Inside the context the block's weights are in memory, however often it is called.

        A streamed model reads them on entering and lets them go afterwards; a call outside such
        a context reads them for itself. For a model that is loaded whole there is nothing to do.

        Args:
            block: Original block number.
        """
        return nullcontext() if self.stream is None else self.stream.holding(block)

    @torch.inference_mode()
    def call(self, block: int, state: State, inputs: Inputs) -> State:
        """Run one block.

        Args:
            block: Original block number.
            state: A state of the recorded batch, or several of them stacked: hidden states of
                shape (n × batch, length, width), one after the other, and what is carried with
                them.
            inputs: What `record` gave for that batch.

        Returns:
            The state behind the block, of the same shape, on the block's device.

        Raises:
            MissingError: If the block reads what a block that was passed over would have written.
            ModelError: If it cannot be run in its dtype of few bits.
        """
        try:
            return self.with_gradient(block, state, inputs)
        except RuntimeError as error:
            dtype = hidden(state).dtype
            if out_of_memory(error) or not is_narrow(dtype):
                raise
            # Some types run short texts in a dtype of few bits, and no longer ones.
            raise ModelError(cannot_run(self.module, dtype, error)) from error

    @torch.inference_mode()
    def call_each(self, block: int, states: Sequence[State], inputs: Inputs) -> list[State]:
        """`call` for several states at once, if they can share one; see `call`."""
        stacked = self._stacking.stack(states) if len(states) > 1 else None
        if stacked is None:
            return [self.call(block, state, inputs) for state in states]
        return self._stacking.split(self.call(block, stacked, inputs), len(states))

    def with_gradient(self, block: int, state: State, inputs: Inputs) -> State:
        """`call` where gradients are taken: outside of inference mode, as its `inputs` must be."""
        module = self.blocks.modules[block]
        call, (args, kwargs) = self.arguments(block, state, inputs)
        if not isinstance(state, Carried):
            return self.blocks.layout.usual(hidden_of(module(*args, **kwargs)))
        try:
            output = module(*args, **kwargs)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            lacking = self._stacking.lacking(block, state)
            if not lacking or isinstance(error, torch.OutOfMemoryError):
                raise
            raise MissingError(
                f"block {block} reads what a block before it writes, and that one is removed "
                f"({first_line(error)}); remove both or neither"
            ) from error
        exchange = self.blocks.exchange
        assert exchange is not None
        rest = exchange.take(module, call.tree, output, state.rest)
        return Carried(self.blocks.layout.usual(hidden_of(output)), rest)

    def arguments(self, block: int, state: State, inputs: Inputs) -> tuple[Call, Tree]:
        """What a block is called with for a state: the call, and all of its arguments.

        Args:
            block: Original block number.
            state: As `call` takes it.
            inputs: What `record` gave for that batch.
        """
        device = self._device_of(block)
        states = hidden(state).to(device)
        call = stacked_call(inputs, block, states, self._axes[block])
        native = self.blocks.layout.native(states)
        exchange = self.blocks.exchange
        if exchange is not None:
            if isinstance(state, Carried):
                rest = changed(state, lambda tensor: tensor.to(device)).rest
                args, kwargs = exchange.give(self.blocks.modules[block], call.tree, rest)
                call = Call(args, kwargs, call.slot)
            native = native.clone() if exchange.overwrites else native
        return call, call.on(native)

    def _device_of(self, block: int) -> torch.device:
        first = next(self.blocks.modules[block].parameters(), None)
        return self.device if first is None or first.is_meta else first.device

    @contextmanager
    def masked(self, removed: Sequence[int]) -> Iterator[nn.Module]:
        """The masked model: inside the context, removed blocks pass on what they are given.

        Only the instances' `forward` is replaced, so attributes that a model reads off its blocks
        (layer types, indices) stay what they were.
        """
        skipped = [self.blocks.modules[index] for index in removed]
        with patched(dict.fromkeys(skipped, self.blocks.pass_on)):
            yield self.module


class MissingError(ModelError):
    """A block cannot run, since one that is removed would have written what it reads."""


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
    inputs = _record(module, blocks, tokens)
    wider = _record(module, blocks, _probe(module, batch=3))
    axes = tuple(batch_axes(a, b) for a, b in zip(inputs.calls, wider.calls, strict=True))
    head = find_head(module, blocks, blocks.layout.usual(last), reference)
    stacking = Stacking.of_tensors(hidden(inputs.states))
    anatomy = Anatomy(module, blocks, head, axes, stacking, stream)
    if isinstance(inputs.states, Carried):
        anatomy = replace(anatomy, _stacking=_learn_stacking(anatomy, tokens))
    return replace(anatomy, proof=_prove(anatomy, tokens, inputs, reference))


def _learn_stacking(anatomy: Anatomy, tokens: Tensor) -> Stacking:
    """Which axes of what is carried follow the windows and the tokens, from two runs beside."""
    longer = _probe(anatomy.module, 3, _LONGER)
    inputs = [_record(anatomy.module, anatomy.blocks, each) for each in (tokens, longer)]
    states = [each.states for each in inputs]
    rooms = [(StateLayout.of(states[0], tokens), StateLayout.of(states[1], longer))]
    for block in range(len(anatomy.blocks)):
        with anatomy.holding(block):
            states = [anatomy.call(block, *pair) for pair in zip(states, inputs, strict=True)]
        rooms.append((StateLayout.of(states[0], tokens), StateLayout.of(states[1], longer)))
    return learn_stacking(rooms)


def _probe(module: nn.Module, batch: int, length: int = _PROBE_LENGTH) -> Tensor:
    device = next(module.get_input_embeddings().parameters()).device  # type: ignore[operator]
    return probe_tokens(module, (batch, length), seed=batch, first=3).to(device)


def _candidates(module: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    return [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, nn.ModuleList) and len(child) >= 2
    ]


def _find_blocks(module: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor, Blocks]:
    """The model's logits, the output of its last block, and its blocks."""
    order: dict[nn.Module, list[int]] = {}
    lengths: dict[nn.Module, int] = {}
    seen: dict[nn.Module, ObservedRun] = {}
    clock = iter(range(1 << 30))

    def enter(member: nn.Module, args: Any, kwargs: Any) -> None:
        order.setdefault(member, []).append(next(clock))
        with suppress(ModelError):
            call, states = Call.of(args, kwargs)
            if _may_be_states(states, tokens):
                seen[member] = ObservedRun.before(call.tree, states)

    def leave(member: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if member not in seen:
            return
        seen[member].behind(output)
        with suppress(TypeError, IndexError, KeyError, AttributeError):
            if hidden_of(output).shape == seen[member].states[0].shape:
                lengths[member] = 0 if isinstance(output, Tensor) else len(output)

    lists = _candidates(module)
    members = {member for _, group in lists for member in group}
    handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in members]
    handles += [m.register_forward_hook(leave, with_kwargs=True) for m in members]
    try:
        reference = module(input_ids=tokens, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()

    def runs(group: nn.ModuleList) -> bool:
        times = [order.get(member, []) for member in group]
        once = all(len(t) == 1 and m in lengths for t, m in zip(times, group, strict=True))
        return once and times == sorted(times)

    found = [(name, group) for name, group in lists if runs(group)]
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
    forms = {member: lengths[member] for member in group}
    exchange = learn(list(group), [seen[member] for member in group])
    blocks = Blocks(path, tuple(group), forms, exchange=exchange)
    if seen[group[0]].states[0].shape[:2] != tokens.shape:
        blocks = replace(blocks, layout=_layout(module, blocks))
    return reference, hidden_of(seen[group[-1]].output), blocks


def _layout(module: nn.Module, blocks: Blocks) -> Layout:
    """Where hidden states have their batch and length, shown by two shapes of token ids."""
    shapes = [
        hidden(_record(module, blocks, _probe(module, batch, length)).states).shape
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


def _record(
    module: nn.Module, blocks: Blocks, tokens: Tensor, more: Mapping[str, Tensor] | None = None
) -> Inputs:
    recorder = Recorder(blocks)
    with recorder.recording():
        module(input_ids=tokens, use_cache=False, **(more or {}))
    return recorder.inputs()


def _prove(anatomy: Anatomy, tokens: Tensor, inputs: Inputs, reference: Tensor) -> Proof:
    """Compare the replay with the model's own forward, dense, skipped, and stacked.

    Skipped is the middle block. Where blocks pass on more than hidden states, one that others read
    from is skipped too; without some, the model itself cannot run.
    """
    blocks, middle = anatomy.blocks, len(anatomy.blocks) // 2
    nearest = sorted(range(len(blocks)), key=lambda block: abs(block - middle))
    if blocks.exchange is None or not blocks.exchange.carries:
        nearest = nearest[:1]
    writers = blocks.exchange.writers if blocks.exchange is not None else ()
    lenders = [block for block in nearest if blocks.modules[block] in writers]
    stacking = StackingProof(anatomy)
    proven: dict[int, tuple[float, float | None]] = {}
    for among in (nearest, lenders):
        for skip in among:
            if skip not in proven:
                found = _prove_without(skip, anatomy, tokens, inputs, reference, stacking)
                if found is None:
                    continue
                proven[skip] = found
            break
    if not proven:
        raise ModelError(f"{type(anatomy.module).__name__}: runs without none of its blocks")
    decided = [wide for _, wide in proven.values() if wide is not None]
    return Proof(
        replay=largest(apart for apart, _ in proven.values()),
        widened=largest(decided) if decided else None,
        rounding=stacking.rounding,
    )


def _prove_without(
    skip: int,
    anatomy: Anatomy,
    tokens: Tensor,
    inputs: Inputs,
    reference: Tensor,
    stacking: StackingProof,
) -> tuple[float, float | None] | None:
    """Compare for one skipped block, in the model's own dtype and, if need be, in float32.

    Returns:
        How far the logits were apart in each; None where neither the model nor the replay runs so.
    """
    found = _apart(skip, anatomy, tokens, inputs, reference, stacking)
    if found is None or not any(found.values()):
        return None if found is None else (0.0, None)
    wide: dict[str, float] | None = {}

    def again() -> float:
        nonlocal wide
        near = tokens.to(anatomy.device)
        own = anatomy.module(input_ids=near, use_cache=False).logits
        recorded = _record(anatomy.module, anatomy.blocks, near)
        wide = _apart(skip, anatomy, near, recorded, own, stacking)
        return 0.0 if wide is None else largest(wide.values())

    difference, dtype = settled(anatomy.module, anatomy.blocks.modules, again)
    if wide is None:
        return None
    if not difference <= FLOAT32_LIMIT:
        what = next(name for name, each in wide.items() if not each <= FLOAT32_LIMIT)
        raise ModelError(
            f"{type(anatomy.module).__name__}: replaying {anatomy.blocks.path} block by block "
            f"differs from {what} by {wide[what]:.1e} of the logits' scale in {dtype} (limit "
            f"{FLOAT32_LIMIT:.0e}); its blocks exchange what no call of them shows, so it "
            "cannot be searched"
        )
    return largest(found.values()), difference


def _apart(
    skip: int,
    anatomy: Anatomy,
    tokens: Tensor,
    inputs: Inputs,
    reference: Tensor,
    stacking: StackingProof,
) -> dict[str, float] | None:
    """How far the replay is from the model itself, dense and skipped, in shapes that are equal."""
    found = _replay_beside(anatomy, tokens, inputs, skip, stacking)
    if found is None:
        return None
    masked, states, skipped = found
    pairs = {
        "the dense model": (states, reference),
        f"the model without block {skip}": (skipped, masked),
    }
    return {
        what: relative_difference(anatomy.head(hidden(ours)), theirs)
        for what, (ours, theirs) in pairs.items()
    }


def _replay_beside(
    anatomy: Anatomy, tokens: Tensor, inputs: Inputs, skip: int, stacking: StackingProof
) -> tuple[Tensor, State, State] | None:
    """Run the model without a block, and replay each block as the model comes to it.

    So a streamed model reads its blocks once for all that is proven of them.

    Returns:
        The model's own logits without the block, and the replayed states behind the last block,
        dense and without the block; None if a block lacks what the skipped one would have
        written, and the model fails there as well.
    """
    blocks = anatomy.blocks
    own = {block: block.forward for block in blocks.modules}
    numbers = {block: index for index, block in enumerate(blocks.modules)}
    reached: set[int] = set()
    states, skipped = inputs.states, inputs.states
    missing: MissingError | None = None

    def run(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal states, skipped, missing
        index = numbers[block]
        if index in reached:  # the replay below, calling the block in its turn
            return own[block](*args, **kwargs)
        reached.add(index)
        with anatomy.holding(index):
            try:
                together = [states] if skipped is states else [states, skipped]
                behind = stacking.call_each(index, together, inputs)
            except MissingError as error:
                missing = error
                behind = [states, skipped]
            states, before = behind[0], skipped
            skipped = before if index == skip else behind[-1]
            if index == skip:
                return blocks.pass_on(block, args, kwargs)
            return own[block](*args, **kwargs)

    try:
        with patched(dict.fromkeys(blocks.modules, run)):
            masked = anatomy.module(input_ids=tokens, use_cache=False).logits
    except Exception:
        if missing is None:
            raise
        return None
    if missing is not None:
        raise missing
    return masked, states, skipped
