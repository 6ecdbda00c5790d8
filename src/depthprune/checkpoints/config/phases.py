"""Periods with an offset, fitted anew to the kept blocks.

Jamba says by two numbers which blocks are of attention, and by two more which have experts; there
is no list to write out. Where the kept blocks stand at even distances after a cut, two numbers
still say it; where they do not, no config can, and the cut is refused.
"""

from __future__ import annotations

from depthprune.checkpoints.architectures.schema import Phase
from depthprune.checkpoints.config.actions import SectionCut
from depthprune.errors import CheckpointError, ModelError


def kinds(cut: SectionCut, phase: Phase) -> list[str]:
    """The kind of every block of the uncut model.

    Args:
        cut: The language model's section, not yet cut.
        phase: What of its kinds is asked.

    Raises:
        CheckpointError: If the period or the offset is no number that its class takes.
    """
    period, offset = _stated(cut, phase)
    return [
        phase.special if block % period == offset else phase.usual for block in range(cut.blocks)
    ]


def refit(cut: SectionCut, phase: Phase) -> None:
    """Write the period and the offset by which the kept blocks are of the kinds that they were.

    Args:
        cut: The language model's section, not yet cut; it is changed.
        phase: Its fields.

    Raises:
        CheckpointError: If the period or the offset is no number that its class takes.
        ModelError: If no period says it.
    """
    if phase.unless_1 and cut.section.get(phase.unless_1) == 1:
        return
    period, offset = _stated(cut, phase)
    special = [new for new, block in enumerate(cut.kept) if block % period == offset]
    blocks = len(cut.kept)
    if special == list(range(offset, blocks, period)):
        return
    first = special[0] if special else blocks
    between = special[1] - first if len(special) > 1 else blocks + 1
    if list(range(first, blocks, between)) != special or first >= between:
        raise ModelError(
            f"config.json: by {phase.period}, blocks {', '.join(map(str, special))} of those kept "
            f"would be of {phase.special}, which no period and offset say; remove blocks such that "
            "they stand at even distances, the first no later than one distance from the start"
        )
    cut.section[phase.period], cut.section[phase.offset] = between, first


def _stated(cut: SectionCut, phase: Phase) -> tuple[int, int]:
    stated = (cut.section.get(phase.period), cut.section.get(phase.offset))
    period, offset = (
        default if value is None else value
        for value, default in zip(stated, phase.default, strict=True)
    )
    fits = all(isinstance(value, int) for value in (period, offset)) and 0 <= offset < period
    if not fits:
        raise CheckpointError(
            f"config.json: {phase.period} is {period!r} and {phase.offset} is {offset!r}, expected "
            "whole numbers, the offset below the period; correct them"
        )
    return period, offset
