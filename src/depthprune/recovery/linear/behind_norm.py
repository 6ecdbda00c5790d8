"""A writer with an RMS norm behind it, refitted together with the norm's own weight.

Such a norm keeps the direction of what it is given and no length, and what it multiplies each
channel by, its gain, bounds what the writer can add. So the gain is refitted too: first it is set
to the size of what is wanted in each channel, which makes every channel as hard to reach as any
other, one that the model had switched off among them. Then the writer is fitted to the wanted
directions, each of length one, the ridge towards what it gives now; and last the gain, channel by
channel, to what is wanted of the directions that the writer now gives. All of it is kept only if,
on windows that were not fitted, it adds what is wanted more nearly, of every source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depthprune.recovery.linear.fit import Fit, fit
from depthprune.recovery.linear.normal_equations import Sums

_LEAST = 1e-6
"""Of the mean size of what is wanted: where less is, a channel is not switched on."""


@dataclass(frozen=True)
class NormedRows:
    """Some tokens of one source, at a writer with a norm behind it, all float64.

    Attributes:
        part: Which source.
        chooses: Whether their windows choose.
        weight: What one of them counts where it is fitted.
        given: What the writer is given.
        output: What it gives.
        present: What the norm makes of that.
        wanted: What the norm should give.
        apart: What the writer is given for tokens that are treated apart.
    """

    part: int
    chooses: bool
    weight: float
    given: Tensor
    output: Tensor
    present: Tensor
    wanted: Tensor
    apart: Tensor


@dataclass(frozen=True)
class Normed:
    """What is to replace a writer and the gain behind it.

    Attributes:
        fit: Of the directions.
        turn: What each of the writer's outputs is multiplied by before the fit's change is added.
        gain: Of the norm.
        kept: Whether it adds what is wanted more nearly.
        tokens: How many were fitted.
    """

    fit: Fit
    turn: Tensor
    gain: Tensor
    kept: bool
    tokens: int


AllRows = Callable[[], Iterator[NormedRows]]
"""All tokens at the writer, a batch at a time, from the first again at each call."""


def fit_normed(rows: AllRows, inputs: int, shares: Sequence[float], gain: Tensor) -> Normed:
    """Fit a writer and the gain behind it.

    Args:
        rows: At the writer.
        inputs: How many it has.
        shares: Weight of each source.
        gain: What the norm multiplies each channel by now, shape (width,), float64.
    """
    size, turn = _sizes(rows, gain)
    found = _directions(rows, inputs, shares, size, turn)
    return _gained(rows, len(shares), found, turn)


def _sizes(rows: AllRows, gain: Tensor) -> tuple[Tensor, Tensor]:
    """How large what is wanted is in each channel, and by what present outputs are turned so."""
    squares, products, given = (torch.zeros_like(gain) for _ in range(3))
    for row in rows():
        if not row.chooses:
            squares += row.weight * row.wanted.pow(2).sum(0)
            products += row.weight * (row.output * row.wanted).sum(0)
            given += row.weight * row.output.pow(2).sum(0)
    size = squares.sqrt()
    size = size.clamp(min=_LEAST * size.mean().item()) * torch.where(gain < 0, -1.0, 1.0)
    turn = gain / size
    # Of the turned outputs, what comes nearest to directions of length one.
    tiny = torch.finfo(given.dtype).tiny
    near = (turn / size * products).sum() / (turn.pow(2) * given).sum().clamp(min=tiny)
    return size, turn * near.clamp(min=0.0)


def _directions(
    rows: AllRows, inputs: int, shares: Sequence[float], size: Tensor, turn: Tensor
) -> Fit:
    made = [[Sums.empty(inputs, size.device, len(size)) for _ in shares] for _ in (0, 1)]
    for row in rows():
        lacking = _unit(row.wanted / size) - turn * row.output
        made[row.chooses][row.part].add(row.given, lacking, 1.0 if row.chooses else row.weight)
        if not row.chooses:
            made[0][row.part].hold(row.apart, row.weight)
    return fit(made[0], made[1], shares)


def _gained(rows: AllRows, sources: int, found: Fit, turn: Tensor) -> Normed:
    products, squares, tokens = torch.zeros_like(turn), torch.zeros_like(turn), 0
    # Of each source: Σ wanted², what the present output lacks, Σ unit · wanted and Σ unit².
    sums = [turn.new_zeros(4, len(turn)) for _ in range(sources)]
    for row in rows():
        unit = _unit(turn * row.output + row.given @ found.change.T)
        if row.chooses:
            terms = (row.wanted.pow(2), (row.wanted - row.present).pow(2), unit * row.wanted)
            for place, term in enumerate((*terms, unit.pow(2))):
                sums[row.part][place] += term.sum(0)
        else:
            tokens += len(unit)
            products += row.weight * (unit * row.wanted).sum(0)
            squares += row.weight * unit.pow(2).sum(0)
    gain = products / squares.clamp(min=torch.finfo(squares.dtype).tiny)
    errors = [(s[0] - 2 * gain * s[2] + gain.pow(2) * s[3]).sum().item() for s in sums]
    before = [s[1].sum().item() for s in sums]
    kept = all(new <= old for new, old in zip(errors, before, strict=True))
    return Normed(found, turn, gain, kept and sum(errors) < sum(before), tokens)


def _unit(values: Tensor) -> Tensor:
    length = values.pow(2).mean(-1, keepdim=True).sqrt()
    return values / length.clamp(min=torch.finfo(values.dtype).tiny)
