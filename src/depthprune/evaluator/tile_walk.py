"""Logits of several sets by tiles of the vocabulary, seen by all objectives, in one walk over it.

A product is made for all rows of a chunk, since matrix units want many, and taken to float32 and
summed a few rows at a time, since that is what stays in cache. A tile of the dense model is
computed once for all sets that are compared with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from depthprune.models.blocks.projection import ProjectedRows, Projection
from depthprune.objectives.nll import NLL
from depthprune.objectives.tiles import (
    DenseTiles,
    OwnLogits,
    Tiled,
    TileLosses,
    row_blocks,
    tiles,
)

Key = TypeVar("Key", bound=Hashable)


def passes_of(objectives: Sequence[Tiled]) -> int:
    """How often the vocabulary is walked over."""
    return max((objective.passes for objective in objectives), default=0)


@dataclass(frozen=True)
class _Block:
    """Some rows: which, and what each objective keeps of the dense model's."""

    rows: slice
    dense: list[DenseTiles | None]


def losses_by_tiles(
    objectives: Sequence[Tiled],
    projections: Mapping[Key, Projection],
    states: Mapping[Key, Tensor],
    targets: Tensor,
    dense: Key,
) -> dict[Key, list[Tensor]]:
    """Losses of some tokens, by set, one tensor of shape (n,) an objective.

    Args:
        objectives: What is asked.
        projections: The head of each set, all of one shape.
        states: Of each set, those that predict the tokens, shape (n, width).
        targets: The tokens, shape (n,).
        dense: The dense model's key; it is among the states if an objective compares with it.
    """
    first = next(iter(projections.values()))
    device = first.linear.weight.device.type
    ours = {key: projections[key].rows(each, targets) for key, each in states.items()}
    blocks = [
        _Block(rows, [objective.dense_tiles() for objective in objectives])
        for rows in row_blocks(len(targets), device)
    ]
    seeing = {key: [_of_set(objectives, block) for block in blocks] for key in ours}
    for turn in range(passes_of(objectives)):
        taking = [place for place, each in enumerate(objectives) if each.passes > turn]
        comparing = any(blocks and blocks[0].dense[place] is not None for place in taking)
        for tile in tiles(first.vocabulary, device):
            shared = ours[dense].product(tile.start, tile.stop) if comparing else None
            if shared is not None:
                _show(ours[dense], shared, blocks, [block.dense for block in blocks], taking)
            for key, each in ours.items():
                known = shared if key == dense else None
                product = each.product(tile.start, tile.stop) if known is None else known
                _show(each, product, blocks, seeing[key], taking)
        _turn([block.dense for block in blocks], taking)
        for some in seeing.values():
            _turn(some, taking)
    return {key: _together(ours[key], blocks, some) for key, some in seeing.items()}


def _of_set(objectives: Sequence[Tiled], block: _Block) -> list[TileLosses]:
    return [
        objective.tile_losses(beside)
        for objective, beside in zip(objectives, block.dense, strict=True)
    ]


def _show(
    rows: ProjectedRows,
    product: Tensor,
    blocks: Iterable[_Block],
    seeing: Iterable[Sequence[DenseTiles | TileLosses | None]],
    taking: Sequence[int],
) -> None:
    """Show a product, block by block, to those that take this pass; each has logits of its own."""
    for block, those in zip(blocks, seeing, strict=True):
        for place in taking:
            if (one := those[place]) is not None:
                one.see(rows.logits(product[block.rows]))


def _turn(
    everyone: Iterable[Sequence[DenseTiles | TileLosses | None]], taking: Sequence[int]
) -> None:
    for those in everyone:
        for place in taking:
            if (one := those[place]) is not None:
                one.turn()


def _together(
    rows: ProjectedRows, blocks: Sequence[_Block], seeing: Sequence[Sequence[TileLosses]]
) -> list[Tensor]:
    """All rows' losses, by objective."""
    seen = rows.seen
    own = [OwnLogits(seen[block.rows], rows.exact[block.rows]) for block in blocks]
    return [
        torch.cat([one.losses(each) for one, each in zip(those, own, strict=True)])
        for those in zip(*seeing, strict=True)
    ]


_TRIED: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], bool]] = WeakKeyDictionary()


def rows_round_apart(projection: Projection, rows: int) -> bool:
    """Whether a row's loss is the same to the bit beside other rows, and in another place.

    It is tried once for each number of rows, on drawn states: two walks over the vocabulary.

    Args:
        projection: The head.
        rows: Of a chunk.
    """
    weight = projection.linear.weight
    known = _TRIED.setdefault(projection.linear, {})
    key = (rows, weight.dtype, weight.device, torch.get_num_threads())
    if key not in known:
        known[key] = _tried(projection, rows)
    return known[key]


@torch.inference_mode()
def _tried(projection: Projection, rows: int) -> bool:
    weight, count = projection.linear.weight, rows + rows // 2
    generator = torch.Generator().manual_seed(rows)
    given = projection.given or weight.shape[1:]
    drawn = torch.randn(count, *given, generator=generator).to(weight)
    targets = torch.randint(len(weight), (count,), generator=generator).to(weight.device)
    kept = rows - rows // 2
    # The first rows again, in the last places, behind rows that were not there.
    order = [*range(rows, count), *range(kept)]

    def losses(chosen: Sequence[int]) -> Tensor:
        places = torch.tensor(chosen, device=weight.device)
        states = {"": drawn[places]}
        return losses_by_tiles([NLL()], {"": projection}, states, targets[places], "")[""][0]

    return torch.equal(losses(range(rows))[:kept], losses(order)[rows // 2 :])
