"""The replay of a model's blocks gives what the model gives, or the model is refused.

It is compared with the model's own forward on a few tokens, dense and with a block skipped, and
several states in one call with each alone: blocks may exchange what cannot be seen of them. What
does not agree to the bit is decided in float32, or in float64 (see `widening`), and the rounding is
kept.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from depthprune.errors import ModelError
from depthprune.models.blocks.anatomy import Anatomy, MissingError, Proof, record_inputs
from depthprune.models.blocks.carried import (
    State,
    hidden,
)
from depthprune.models.blocks.recording import patched
from depthprune.models.blocks.replay import Inputs, largest, relative_difference
from depthprune.models.blocks.stacking_proof import StackingProof
from depthprune.models.widening import FLOAT32_LIMIT, settled


def prove(anatomy: Anatomy, tokens: Tensor, inputs: Inputs, reference: Tensor) -> Proof:
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
        recorded = record_inputs(anatomy.module, anatomy.blocks, near)
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
