"""Refusing a GGUF that llama.cpp would misread after a cut, by the table in `architectures`."""

from __future__ import annotations

from collections.abc import Iterator

from depthprune.checkpoints.gguf.architectures import (
    GGUF_ARCHITECTURES,
    LEADING,
    TIED,
    GgufArchitecture,
    LayerPattern,
)
from depthprune.checkpoints.gguf.file import GgufFile
from depthprune.errors import ModelError
from depthprune.removed_sets import name_blocks


def check_architecture(file: GgufFile, *, known: bool = True) -> None:
    """Refuse an architecture that cannot be cut, or whose code in llama.cpp nobody has read.

    Args:
        file: The original.
        known: Refuse what the table does not have; False where logits will be compared.

    Raises:
        ModelError: If it is refused.
    """
    row = GGUF_ARCHITECTURES.get(file.architecture)
    if row is not None and row.refused:
        raise ModelError(
            f"{file.path}: the architecture {row.name} cannot be depth-pruned in a GGUF; "
            f"{row.refused}"
        )
    if row is None and known:
        raise ModelError(
            f"{file.path}: the architecture {file.architecture} is not among the GGUF ones whose "
            "rules are known; pass --verify to compare the result with the original, which loads "
            "both"
        )


def check_searchable(file: GgufFile, left: int | None) -> None:
    """Refuse, before a search, what hardly any removed set could be cut from.

    Args:
        file: The original.
        left: How many blocks the search will leave, where that is known.

    Raises:
        ModelError: If it is refused.
    """
    check_architecture(file)
    _check_depth(file, file.blocks - 1 if left is None else left)
    check_ties(file)
    for rhythm, period in _rhythms(file, _row(file)):
        raise ModelError(
            f"{file.path}: in {file.architecture} every {period}th block has {rhythm.what} by its "
            "number, which a search would not keep; give a folder as -o, or take whole periods "
            "out with depthprune apply"
        )


def check_rules(file: GgufFile, gone: tuple[int, ...], kept: tuple[int, ...]) -> None:
    """Refuse a cut after which llama.cpp would take a block for another kind than it is.

    Args:
        file: The original.
        gone: Original numbers of the removed blocks, sorted.
        kept: Those of the kept blocks.

    Raises:
        ModelError: If it is refused.
    """
    check_architecture(file, known=False)
    _check_rhythms(file, gone, kept)
    _check_depth(file, len(kept))
    check_ties(file, gone)


def _row(file: GgufFile) -> GgufArchitecture:
    return GGUF_ARCHITECTURES.get(file.architecture, GgufArchitecture(file.architecture))


def _rhythms(file: GgufFile, row: GgufArchitecture) -> Iterator[tuple[LayerPattern, int]]:
    """The rhythms that hold for this file, with their periods; what is spelled out is none."""
    prefix = file.architecture
    for rhythm in row.rhythms:
        stated = file.get(f"{prefix}.{rhythm.key}") if rhythm.key else None
        listed = file.get(f"{prefix}.{rhythm.listed}") if rhythm.listed else None
        if isinstance(stated, list) or isinstance(listed, list):
            continue
        if rhythm.when and not file.get(f"{prefix}.{rhythm.when}"):
            continue
        period = stated if isinstance(stated, int) else rhythm.period
        if period > 1:
            yield rhythm, int(period)


def _check_rhythms(file: GgufFile, gone: tuple[int, ...], kept: tuple[int, ...]) -> None:
    for rhythm, period in _rhythms(file, _row(file)):
        place = 0 if rhythm.first else period - 1
        odd = [block % period == place for block in kept]
        if odd != [new % period == place for new in range(len(kept))]:
            raise ModelError(
                f"{file.path}: in {file.architecture} every {period}th block has {rhythm.what} by "
                f"its number, and without {name_blocks(gone)} other blocks would be counted so; "
                f"remove {period} neighbouring blocks at a time"
            )


def _check_depth(file: GgufFile, left: int) -> None:
    row, name = _row(file), file.architecture
    for depths in row.depths:
        if (file.blocks in depths) != (left in depths):
            which = file.blocks if file.blocks in depths else left
            raise ModelError(
                f"{file.path}: llama.cpp computes {name} of {which} blocks otherwise than of any "
                f"other depth, so {file.blocks} blocks cannot become {left}"
            )
    if row.needs and file.get(f"{name}.{row.needs}") is None:
        raise ModelError(
            f"{file.path}: expected {name}.{row.needs}, found none, and llama.cpp would derive it "
            "from the new depth; convert the model again with a newer llama.cpp"
        )


def check_ties(file: GgufFile, gone: tuple[int, ...] = ()) -> None:
    """Refuse a model whose blocks are tied to their places, or the removal of those that are.

    Args:
        file: The original.
        gone: Original numbers of the removed blocks, sorted.

    Raises:
        ModelError: If it is refused.
    """
    name = file.architecture
    for key, allowed in TIED.items():
        value = file.get(f"{name}.{key}")
        if isinstance(value, int) and value > allowed:
            raise ModelError(
                f"{file.path}: {name}.{key} is {value}, which ties blocks to their places; this "
                "model cannot be depth-pruned in a GGUF"
            )
    for key in LEADING:
        value = file.get(f"{name}.{key}")
        if isinstance(value, int) and gone and gone[0] < value:
            raise ModelError(
                f"{file.path}: {name}.{key} is {value}: the first {value} blocks must stay, for "
                "llama.cpp feeds them by number"
            )
