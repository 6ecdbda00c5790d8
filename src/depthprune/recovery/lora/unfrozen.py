"""The last kept blocks and the head, trained themselves: in float32 copies of their parameters.

What is below them stays as it is, so no gradient goes there, and what it gives for a window is the
same in every round. A step of a few weights would be lost in bfloat16: copies are trained, and
stand in the parameters' places, rounded to their dtype, while a block is run for the student. The
teacher runs the same modules with what they hold. A head that shares its weights with the
embeddings stays as it is, since all blocks read those; the norm before it is trained.
Source: "Reassessing Layer Pruning in LLMs" (arXiv 2411.15558), which trains these alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from depthprune.errors import ModelError, UsageError
from depthprune.models.loading import Model
from depthprune.recovery.delta import Delta
from depthprune.recovery.linear.write_back import unwritten, unwritten_outside
from depthprune.recovery.methods import Last
from depthprune.recovery.parameters import frozen, holders


class Unfrozen:
    """Parameters that are trained, by their dotted names in the model.

    Args:
        model: Whose parameters; it keeps its own values.
        names: Of those that are trained.
        first: The lowest block that has any.
    """

    def __init__(self, model: Model, names: Sequence[str], first: int) -> None:
        self.first = first
        self._module = model.module
        self._path = model.anatomy.blocks.path
        self._values = {
            name: nn.Parameter(model.module.get_parameter(name).detach().float().clone())
            for name in names
        }

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, in a fixed order."""
        return list(self._values.values())

    @property
    def head(self) -> Mapping[str, Tensor]:
        """Those behind the last block."""
        inside = f"{self._path}."
        return {name: value for name, value in self._values.items() if not name.startswith(inside)}

    def in_place(self, block: int) -> AbstractContextManager[None]:
        """Inside the context a block has what is trained in place of its own parameters."""
        inside = f"{self._path}.{block}."
        return placed(
            self._module, {n: value for n, value in self._values.items() if n.startswith(inside)}
        )

    def off(self) -> AbstractContextManager[None]:
        """Inside the context the model computes as if nothing were trained, as it does outside."""
        return nullcontext()

    def changes(self) -> dict[str, Delta]:
        """What training added, by the names of the parameters in the model."""
        return {
            name: Delta((value.detach() - self._module.get_parameter(name).detach().float()).cpu())
            for name, value in self._values.items()
        }


@contextmanager
def placed(module: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside the context, tensors that a gradient goes through stand in parameters' places.

    Args:
        module: Whose parameters.
        values: By dotted name; each is rounded to its parameter's dtype.
    """
    own = {name: module.get_parameter(name) for name in values}
    try:
        for name, value in values.items():
            _put(module, name, value.to(own[name].dtype))
        yield
    finally:
        for name, parameter in own.items():
            _put(module, name, parameter)


def _put(module: nn.Module, name: str, value: Tensor) -> None:
    inner, _, leaf = name.rpartition(".")
    module.get_submodule(inner)._parameters[leaf] = value  # type: ignore[assignment]


def require_kept(settings: Last, kept: int) -> None:
    """Refuse more blocks than are kept.

    Raises:
        UsageError: With how many there are.
    """
    if settings.blocks > kept:
        raise UsageError(
            f"--recover last: blocks: expected at most the {kept} that are kept, got "
            f"{settings.blocks}"
        )


@contextmanager
def unfrozen(model: Model, kept: Sequence[int], settings: Last) -> Iterator[Unfrozen]:
    """The last kept blocks and the head, to be trained.

    Args:
        model: The model, which is left as it is.
        kept: Original block numbers.
        settings: How many blocks.

    Raises:
        ModelError: If there is nothing that can be trained and written.
        UsageError: If fewer blocks are kept.
    """
    require_kept(settings, len(kept))
    blocks = kept[-settings.blocks :]
    names = trained_names(model, blocks)
    with frozen(model.module):
        yield Unfrozen(model, names, blocks[0])


def trained_names(model: Model, blocks: Sequence[int]) -> list[str]:
    """The parameters that are trained: no other module has them, and a file can take them.

    Args:
        model: The model.
        blocks: Original block numbers.

    Raises:
        ModelError: If there are none in the blocks.
    """
    module, path = model.module, model.anatomy.blocks.path
    held = holders(module)

    def trainable(parameter: Tensor) -> bool:
        # One of zeros cannot be told from others in a file, such as a bias that is not used.
        alone = held[id(parameter)] == 1 and parameter.is_floating_point()
        return alone and bool(torch.count_nonzero(parameter))

    found: list[str] = []
    for block in blocks:
        inner = [
            name
            for name, parameter in model.anatomy.blocks.modules[block].named_parameters()
            if trainable(parameter)
        ]
        lost = unwritten(model, block, inner)
        found += [f"{path}.{block}.{name}" for name in inner if name not in lost]
    if not found:
        raise ModelError(
            f"{type(module).__name__}: --recover last: expected parameters in the last kept blocks "
            "that a checkpoint holds as they are, found none; take --recover linear"
        )
    of_head = {id(p) for link in model.anatomy.head.chain or () for p in link.parameters()}
    outer = [n for n, p in module.named_parameters() if id(p) in of_head and trainable(p)]
    lost = unwritten_outside(model, outer)
    return found + [name for name in outer if name not in lost]
